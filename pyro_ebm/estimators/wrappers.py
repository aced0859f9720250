"""What is under the wrappers of a distribution: ``to_event``, ``mask``, ``expand``, transforms."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from pyro.distributions.torch_distribution import MaskedDistribution


def innermost(distribution: Any) -> Any:
    """The distribution under all wrappers.

    >>> innermost(dist.Normal(0.0, 1.0).mask(False))
    Normal(loc: 0.0, scale: 1.0)
    """
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def is_normalized(distribution: Any) -> bool:
    """Whether the density integrates to one; one that does not says so on its class.

    >>> is_normalized(dist.Normal(0.0, 1.0))
    True
    """
    if not getattr(distribution, "is_normalized", True):
        return False
    return not hasattr(distribution, "base_dist") or is_normalized(distribution.base_dist)


def unmasked(distribution: Any) -> Any:
    """Strip ``.mask``, which hides a draw from the ELBO but does not change its law."""
    if isinstance(distribution, MaskedDistribution):
        return unmasked(distribution.base_dist)
    if isinstance(distribution, dist.Independent):
        base = unmasked(distribution.base_dist)
        return dist.Independent(base, distribution.reinterpreted_batch_ndims)
    return distribution


def is_masked(distribution: Any) -> bool:
    """Whether ``.mask`` occurs anywhere in ``distribution``."""
    if isinstance(distribution, MaskedDistribution):
        return True
    return hasattr(distribution, "base_dist") and is_masked(distribution.base_dist)
