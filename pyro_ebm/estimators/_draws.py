"""Draws as constants, and as leaves that show what was computed from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_ebm.estimators._sites import Site, is_draw, is_point_mass, log_density, sample_sites
from pyro_ebm.estimators.wrappers import is_normalized


class ConstantDraws(Messenger):
    """Cut the path from every draw back to the parameters it was drawn with.

    The detached tensor is a new object, so that transforms do not find it in their cache and
    compute its density through their inverse, with its dependence on the parameters.
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_draw(msg):
            msg["value"] = msg["value"].detach()


class LeafDraws(Messenger):
    """Make every continuous draw a leaf, to see later what was computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves: list[Tensor] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_draw(msg) and msg["value"].is_floating_point():
            msg["value"] = msg["value"].detach().requires_grad_()
            self.leaves.append(msg["value"])


def needs_grad(site: Site) -> bool:
    """Whether the value at ``site`` was computed from something that is differentiated."""
    return bool(site["value"].requires_grad)


def moved_draws(rerun: Callable[[Messenger], Any]) -> set[str]:
    """Names of the ``Delta`` sites whose values are computed from continuous draws."""
    draws = LeafDraws()
    trace = rerun(draws)
    names = set()
    for site in sample_sites(trace):
        if draws.leaves and is_point_mass(site) and needs_grad(site):
            slopes = torch.autograd.grad(
                site["value"].sum(), draws.leaves, allow_unused=True, retain_graph=True
            )
            if any(slope is not None for slope in slopes):
                names.add(site["name"])
    return names


def unnormalised_sites(trace: Any) -> tuple[str, ...]:
    """Names of the sites whose density lacks its constant."""
    return tuple(site["name"] for site in sample_sites(trace) if not is_normalized(site["fn"]))


def check_constants(rerun: Callable[[Messenger], Any]) -> None:
    """Let unnormalised densities see which draws they depend on, so that they can refuse."""
    with torch.enable_grad():
        for site in sample_sites(rerun(LeafDraws())):
            if not is_normalized(site["fn"]):
                log_density(site)
