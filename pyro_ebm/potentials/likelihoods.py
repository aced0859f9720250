"""Log likelihoods written with fewer operations than torch writes them with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.overrides import TorchFunctionMode

_THRESHOLD = 40.0
"""Above, softplus is its argument: exp(-40) is less than the last bit of a double."""

_PLAIN = {"reduction": "none"}


class BernoulliBySoftplus(TorchFunctionMode):
    r"""Write minus the log likelihood of logits as one operation and its slope as another.

    .. math:: -\log p(y \mid x) = \log(1 + e^{s x}) + r x, \qquad
              s, r = \begin{cases} -1,\, 1 - y & y \ge 1/2 \\ 1,\, -y & \text{else} \end{cases}

    Torch makes some thirty of them, two exponentials and a logarithm among them, where one of
    the exponentials is always 1. For outcomes 0 and 1, :math:`r = 0`, and nothing cancels.

    >>> logits, outcomes = torch.tensor([2.0, -30.0]), torch.tensor([1.0, 0.0])
    >>> with BernoulliBySoftplus():
    ...     loss = torch.distributions.Bernoulli(logits=logits).log_prob(outcomes)
    >>> loss
    tensor([-1.2693e-01, -9.3576e-14])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is binary_cross_entropy_with_logits and _is_plain(args, kwargs):
            return _cross_entropy(*args)
        return func(*args, **kwargs)


def _is_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given = {name: value for name, value in kwargs.items() if value is not None}
    return len(args) == 2 and given == _PLAIN and args[0].shape == args[1].shape


def _cross_entropy(logits: Tensor, outcome: Tensor) -> Tensor:
    is_success = outcome >= 0.5
    sign = torch.where(is_success, -1.0, 1.0).to(logits.dtype)
    rest = torch.where(is_success, 1.0 - outcome, -outcome)
    return softplus(sign * logits, threshold=_THRESHOLD) + rest * logits
