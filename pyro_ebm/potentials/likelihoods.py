"""Log likelihoods written with fewer operations than torch writes them with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

_THRESHOLD = 40.0
"""Above, softplus is its argument: exp(-40) is less than the last bit of a double."""

_PLAIN = {"reduction": "none"}


def cross_entropy_by_softplus(*args: Any, **kwargs: Any) -> Tensor:
    r"""Minus the log likelihood of logits as one operation, and its slope as another.

    .. math:: -\log p(y \mid x) = \log(1 + e^{s x}) + r x, \qquad
              s, r = \begin{cases} -1,\, 1 - y & y \ge 1/2 \\ 1,\, -y & \text{else} \end{cases}

    Torch makes some thirty of them, two exponentials and a logarithm among them, where one of
    the exponentials is always 1. For outcomes 0 and 1, :math:`r = 0`, and nothing cancels.
    Means and weighted losses are left to torch.

    >>> logits, outcomes = torch.tensor([2.0, -30.0]), torch.tensor([1.0, 0.0])
    >>> cross_entropy_by_softplus(logits, outcomes, reduction="none")
    tensor([1.2693e-01, 9.3576e-14])
    """
    is_plain = _is_plain(args, kwargs)
    return (_by_softplus if is_plain else binary_cross_entropy_with_logits)(*args, **kwargs)


BERNOULLI_BY_SOFTPLUS = {binary_cross_entropy_with_logits: cross_entropy_by_softplus}
"""What makes Bernoulli distributions of torch and Pyro compute it so, for ``Replacing``."""


def _is_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given = {name: value for name, value in kwargs.items() if value is not None}
    return len(args) == 2 and given == _PLAIN and args[0].shape == args[1].shape


def _by_softplus(logits: Tensor, outcome: Tensor, **_: Any) -> Tensor:
    is_success = outcome >= 0.5
    sign = torch.where(is_success, -1.0, 1.0).to(logits.dtype)
    rest = torch.where(is_success, 1.0 - outcome, -outcome)
    return softplus(sign * logits, threshold=_THRESHOLD) + rest * logits
