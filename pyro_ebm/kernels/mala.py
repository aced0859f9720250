"""Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.positions import select
from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._metropolis import (
    LangevinInfo,
    LangevinState,
    acceptance_probability,
    check_hyperparameters,
    finite_chains,
    is_divergent,
    langevin_info,
    langevin_init,
    langevin_log_ratio,
    langevin_proposal,
    metric,
)


class MALANoise(NamedTuple):
    """Randomness of one MALA step."""

    normal: Tensor
    """Standard normal ``(C, dim)``."""
    uniform: Tensor
    """Uniform on [0, 1), one for each chain, ``(C,)`` in float64."""


@dataclass(frozen=True, eq=False)
class MALA:
    r"""Metropolis-adjusted Langevin algorithm: leaves :math:`e^{-U}` invariant exactly.

    The proposal is a :class:`Langevin` step; each chain accepts its own with probability

    .. math:: \min\Bigl(1, \exp\bigl\{U - U' + \tfrac12 d^\top(g + g')
              + \tfrac{\epsilon^2}{8}(g^\top C g - g'^\top C g')\bigr\}\Bigr),

    :math:`d = x' - x`, :math:`g = \nabla U(x)`, :math:`C = \mathrm{diag}(s^2)`. One gradient a
    step: the energy and gradient of a rejected chain are kept. The ratio is computed in
    float64, so that float32 positions are accepted correctly as long as the potential itself
    is good to well below 1 in float32 (values up to about :math:`10^5`).

    Where the density has lighter tails than a Gaussian a chain can be stuck at a far point
    whose drift overshoots; smaller steps cure it, and ``mixing_report`` names such chains.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`\epsilon`, standard deviation of the noise; None to have warm-up
            tune it.
        scale: :math:`s`, one standard deviation for each coordinate; None to have warm-up
            estimate it.
        target_accept_prob: Acceptance that warm-up tunes to; 0.574 is optimal in high
            dimension.

    References:
        Roberts and Rosenthal (1998), Optimal scaling of discrete approximations to Langevin
        diffusions (the 0.574).

    >>> MALA(step_size=0.5, scale=torch.ones(2)).target_accept_prob
    0.574
    """

    is_adjusted: ClassVar[bool] = True
    keeps_momentum: ClassVar[bool] = False

    target: object | None = None
    _: KW_ONLY
    step_size: float | None = None
    scale: Tensor | None = None
    target_accept_prob: float = 0.574

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> LangevinState:
        del generator
        return langevin_init(potential, position)

    def noise(self, state: LangevinState, generator: torch.Generator | None) -> MALANoise:
        x = state.position
        return MALANoise(
            normal=torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device),
            uniform=torch.rand(
                x.shape[:-1], generator=generator, dtype=torch.float64, device=x.device
            ),
        )

    def step(
        self, potential: Potential, state: LangevinState, noise: MALANoise
    ) -> tuple[LangevinState, LangevinInfo]:
        step_size, scale = metric(self, state.position)
        proposal = langevin_proposal(potential, state, noise.normal, step_size, scale)
        finite = finite_chains(proposal.potential_energy, proposal.grad)
        log_ratio = langevin_log_ratio(state, proposal, step_size, scale)
        acceptance = acceptance_probability(log_ratio, finite)
        state = select(noise.uniform < acceptance, proposal, state)
        return state, langevin_info(state, step_size, acceptance, is_divergent(log_ratio, finite))

    def rejected(self, state: LangevinState) -> LangevinState:
        return state
