"""Let points outside a distribution's support have a non-finite density instead of raising."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_ebm.potentials.replacing import Replacing


def chainwise_cholesky(A: Tensor, upper: bool = False) -> Tensor:  # noqa: FBT001, FBT002  # torch's
    """Make a matrix that is not positive definite non-finite, instead of raising for all chains.

    A failed factor is filled with NaN, so that its chain's energy is NaN: a rejected, flagged
    move of that chain alone.

    >>> chainwise_cholesky(torch.tensor([[[4.0]], [[-4.0]]])).flatten().tolist()
    [2.0, nan]
    """
    factor, info = torch.linalg.cholesky_ex(A)
    failed = (info != 0).reshape((*info.shape, 1, 1))
    factor = torch.where(failed, torch.full_like(factor, torch.nan), factor)
    return factor.mH if upper else factor


_CHOLESKY = (torch.linalg.cholesky, torch.cholesky, Tensor.cholesky)
CHAINWISE_CHOLESKY = dict.fromkeys(_CHOLESKY, chainwise_cholesky)
"""What makes all factors so, for ``Replacing``."""


@contextmanager
def unvalidated() -> Iterator[None]:
    """Let an infeasible point give a non-finite density instead of raising."""
    with pyro.validation_enabled(is_validate=False), Replacing(CHAINWISE_CHOLESKY):
        yield


def without_validation(distribution: Any) -> Any:
    """Return the distribution, or a copy without validation.

    Distributions that were made outside the model keep the validation that they were made with,
    which would raise for all chains where one has left the support.
    """
    parts = {k: v for k, v in vars(distribution).items() if isinstance(v, Distribution)}
    twins = {name: without_validation(part) for name, part in parts.items()}
    is_clean = not vars(distribution).get("_validate_args", False)
    if is_clean and all(twins[name] is parts[name] for name in parts):
        return distribution
    twin = copy.copy(distribution)
    vars(twin).update(twins, _validate_args=False)
    return twin
