"""The step of the Metropolis-adjusted Langevin kernels, which differ in how warm-up tunes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.noise import NormalNoise, normal_of, normal_or_seed, uniform_noise
from pyro_ebm.core.positions import select
from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._metropolis import (
    LangevinInfo,
    LangevinState,
    acceptance_probability,
    finite_chains,
    is_divergent,
    langevin_info,
    langevin_init,
    langevin_log_ratio,
    langevin_proposal,
)
from pyro_ebm.kernels._recipe import Recipe, step_and_metric


class AdjustedNoise(NamedTuple):
    """Randomness of one step."""

    normal: NormalNoise
    """Standard normal ``(C, dim)``."""
    uniform: Tensor
    """Uniform on [0, 1), one for each chain, ``(C,)`` in float64."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AdjustedLangevin(Recipe[LangevinState]):
    """Propose a Langevin step, and accept it chain by chain; one gradient a step."""

    target_accept_prob: float = 0.574

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> LangevinState:
        del generator
        return langevin_init(potential, position)

    def noise(self, state: LangevinState, generator: torch.Generator | None) -> AdjustedNoise:
        x = state.position
        return AdjustedNoise(normal_or_seed(x, generator), *uniform_noise(x, 1, generator))

    def step(
        self, potential: Potential, state: LangevinState, noise: AdjustedNoise
    ) -> tuple[LangevinState, LangevinInfo]:
        step_size, metric = step_and_metric(self, state.position)
        normal = normal_of(noise.normal, state.position)
        proposal = langevin_proposal(potential, state, normal, step_size, metric)
        finite = finite_chains(proposal.potential_energy, proposal.grad)
        log_ratio = langevin_log_ratio(state, proposal, step_size, metric)
        acceptance = acceptance_probability(log_ratio, finite)
        state = select(noise.uniform < acceptance, proposal, state)
        return state, langevin_info(state, step_size, acceptance, is_divergent(log_ratio, finite))
