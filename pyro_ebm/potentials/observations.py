"""Observations that a mask takes out of the density."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials.sites import is_data
from pyro_ebm.potentials.supports import bijection_to


def fill_masked(trace: Trace) -> None:
    """Put feasible values where a mask takes observations out of the density.

    Missing data are NaN, and the gradient of a masked NaN would still be NaN. Nothing of the
    density changes, and the model itself has seen the data as they are. Where nothing is known to
    be feasible (on a sphere, say) data stay as they are.
    """
    for site in trace.nodes.values():
        mask = _mask_of_values(site) if is_data(site) else None
        if mask is not None and site["value"].is_floating_point():
            site["value"] = torch.where(mask, site["value"], _feasible(site))


def mask_of(site: dict[str, Any]) -> Tensor | None:
    """Which observations of a site are in the density; None if all are."""
    masks = [site["mask"]]
    if isinstance(site["fn"], MaskedDistribution):
        masks.append(site["fn"]._mask)
    return _all_of(masks)


def _mask_of_values(site: dict[str, Any]) -> Tensor | None:
    """The same for each number of an observation, of which ``to_event`` may mask some."""
    law = site["fn"]
    masks = [_over_events(site["mask"], law)]
    while isinstance(law, (Independent, MaskedDistribution)):
        if isinstance(law, MaskedDistribution):
            masks.append(_over_events(law._mask, law))
        law = law.base_dist
    return _all_of(masks)


def _over_events(mask: Any, law: Any) -> Any:
    if not isinstance(mask, Tensor):
        return mask
    return mask.reshape(mask.shape + (1,) * len(law.event_shape))


def _all_of(masks: list[Any]) -> Tensor | None:
    tensors = [mask for mask in masks if isinstance(mask, Tensor)]
    return reduce(torch.logical_and, tensors) if tensors else None


def _feasible(site: dict[str, Any]) -> Tensor:
    value: Tensor = site["value"]
    support = _support(site["fn"])
    if support is None:
        return value
    if support.is_discrete:
        return torch.zeros_like(value)
    try:
        transform = bijection_to(support)
    except ModelError:
        return value
    feasible: Tensor = transform(value.new_zeros(transform.inverse_shape(value.shape)))
    return feasible


def _support(law: Any) -> Any:
    """Of each number: of events that are independent, or of mixtures, it is that of the parts."""
    try:
        support = law.support
    except NotImplementedError:
        return None
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support
