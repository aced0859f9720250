"""Observations that a mask takes out of the density."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_ebm.potentials.sites import is_data
from pyro_ebm.potentials.supports import bijection_to


def fill_masked(trace: Trace) -> None:
    """Put feasible values where a mask takes observations out of the density.

    Missing data are NaN, and the gradient of a masked NaN would still be NaN. Nothing of the
    density changes, and the model itself has seen the data as they are.
    """
    for site in trace.nodes.values():
        mask = mask_of(site) if is_data(site) else None
        if mask is not None and site["value"].is_floating_point():
            mask = mask.reshape(mask.shape + (1,) * site["fn"].event_dim)
            site["value"] = torch.where(mask, site["value"], _feasible(site))


def mask_of(site: dict[str, Any]) -> Tensor | None:
    """Which observations of a site are in the density; None if all are."""
    masks = [site["mask"]]
    if isinstance(site["fn"], MaskedDistribution):
        masks.append(site["fn"]._mask)
    tensors = [mask for mask in masks if isinstance(mask, Tensor)]
    return torch.stack(torch.broadcast_tensors(*tensors)).all(dim=0) if tensors else None


def _feasible(site: dict[str, Any]) -> Tensor:
    value, support = site["value"], site["fn"].support
    if support.is_discrete:
        return torch.zeros_like(value)
    transform = bijection_to(support)
    feasible: Tensor = transform(value.new_zeros(transform.inverse_shape(value.shape)))
    return feasible
