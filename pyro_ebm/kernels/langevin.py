"""Unadjusted Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.noise import NormalNoise, normal_of, normal_or_seed
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


class LangevinNoise(NamedTuple):
    """Randomness of one step."""

    normal: NormalNoise


@dataclass(frozen=True, eq=False, kw_only=True)
class Langevin(Recipe[LangevinState]):
    r"""Unadjusted Langevin algorithm (ULA): biased, with a bias of order ``step_size ** 2``.

    .. math:: x' = x - \frac{\epsilon^2}{2} s^2 \nabla U(x) + \epsilon s \xi,
              \qquad \xi \sim N(0, I)

    The step size :math:`\epsilon` is the standard deviation of the noise, the drift factor is
    :math:`\epsilon^2 / 2`. The law :math:`e^{-U}` is *not* left invariant: on a Gaussian of
    precision :math:`\Lambda` the chains settle at variance
    :math:`1 / (\Lambda (1 - \epsilon^2 \Lambda / 4))`, and they are stable only for
    :math:`\epsilon^2 \Lambda < 4`. Energies that grow faster than quadratically make chains
    explode; a move to a non-finite energy is not made and is flagged as diverging.

    Warm-up tunes the probability with which a Metropolis test *would* accept the move to
    ``target_accept_prob``. No move is rejected, so that probability (reported as
    ``acceptance_rate``) measures the bias only: at the default of 0.98 the variance of a
    standard Gaussian comes out about 11 % too large in 1 dimension, 4.5 % in 8, 2 % in 64; what
    warm-up comes to with 64 chains scatters between 10 and 12 %, 4.1 and 4.9 %, 2.0 and 2.4 %.
    It is a safe thing to tune because it falls to zero before the chains become unstable, and
    because warm-up does make the test, so that no chain flies off while the step is too large.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`\epsilon`; None to have warm-up tune it.
        scale: :math:`s`, one standard deviation for each coordinate, or a Cholesky factor of
            :math:`C`; None to have warm-up estimate standard deviations.
        target_accept_prob: Would-be acceptance that warm-up tunes to.

    References:
        Roberts and Tweedie (1996), Exponential convergence of Langevin distributions and their
        discrete approximations; the update is seed 003, equation 14.

    >>> Langevin(step_size=0.1)
    Langevin(target=None, step_size=0.1, scale=None, target_accept_prob=0.98)
    """

    is_adjusted: ClassVar[bool] = False

    target_accept_prob: float = 0.98

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> LangevinState:
        del generator
        return langevin_init(potential, position)

    def noise(self, state: LangevinState, generator: torch.Generator | None) -> LangevinNoise:
        return LangevinNoise(normal_or_seed(state.position, generator))

    def step(
        self, potential: Potential, state: LangevinState, noise: LangevinNoise
    ) -> tuple[LangevinState, LangevinInfo]:
        step_size, metric = step_and_metric(self, state.position)
        normal = normal_of(noise.normal, state.position)
        proposal = langevin_proposal(potential, state, normal, step_size, metric)
        finite = finite_chains(proposal.potential_energy, proposal.grad)
        log_ratio = langevin_log_ratio(state, proposal, step_size, metric)
        state = select(finite, proposal, state)
        return state, langevin_info(
            state,
            step_size,
            acceptance_probability(log_ratio, finite),
            is_divergent(log_ratio, finite),
        )
