"""Accept or reject, chain by chain: the part that all Langevin kernels share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.positions import choose, dot64
from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._metric import Metric

DIVERGENCE_THRESHOLD = 1000.0
"""Energy error above which a move counts as divergent, as in Stan and Pyro."""


class LangevinState(NamedTuple):
    """State of a kernel without momentum."""

    position: Tensor
    """Positions ``(C, dim)``."""
    potential_energy: Tensor
    """Potential ``(C,)`` at the positions."""
    grad: Tensor
    """Gradients ``(C, dim)`` at the positions."""


class LangevinInfo(NamedTuple):
    """Report of one step; all fields are ``(C,)`` and but for the first two ArviZ's statistics."""

    finished: Tensor
    step_acceptance: Tensor
    lp: Tensor
    acceptance_rate: Tensor
    step_size: Tensor
    diverging: Tensor


def langevin_init(potential: Potential, position: Tensor) -> LangevinState:
    """State at ``position``: one gradient."""
    return LangevinState(position, *potential.value_and_grad(position))


def langevin_proposal(
    potential: Potential,
    state: LangevinState,
    normal: Tensor,
    step_size: float,
    metric: Metric,
) -> LangevinState:
    r"""Euler-Maruyama step :math:`x' = x - \frac{\epsilon^2}{2} C \nabla U + \epsilon L \xi`."""
    velocity = normal - (0.5 * step_size) * metric.to_momentum(state.grad)
    position = state.position + step_size * metric.to_position(velocity)
    return LangevinState(position, *potential.value_and_grad(position))


def langevin_log_ratio(
    old: LangevinState, new: LangevinState, step_size: float | Tensor, metric: Metric
) -> Tensor:
    r"""Log Metropolis ratio of the proposal, ``(C,)`` in float64.

    With :math:`d = x' - x`, :math:`g = \nabla U(x)`, :math:`g' = \nabla U(x')` and
    :math:`C = L L^\top`,

    .. math:: U - U' + \tfrac12 d^\top (g + g') + \tfrac{\epsilon^2}{8}(g^\top C g - g'^\top C g'),

    which equals :math:`U - U' + \log q(x|x') - \log q(x'|x)` without the inverse of ``C``.
    The large terms cancel, so they are summed in float64; the gradient terms share a factor
    :math:`g + g'`, so one inner product serves both.
    """
    difference = metric.to_momentum(old.grad - new.grad)
    drift = (0.25 * step_size**2) * metric.to_position(difference)
    displacement = new.position - old.position
    work = 0.5 * dot64(new.grad + old.grad, displacement + drift)
    return old.potential_energy.double() - new.potential_energy.double() + work


def finite_chains(potential_energy: Tensor, grad: Tensor) -> Tensor:
    """Chains whose energy and gradient are finite, ``(C,)``."""
    # NaN and infinity survive a sum, so one number for each chain tells.
    return torch.isfinite(potential_energy + grad.sum(dim=-1))


def acceptance_probability(log_ratio: Tensor, finite: Tensor) -> Tensor:
    """``min(1, exp(log_ratio))``, and zero where the new point is not finite or the ratio NaN."""
    possible = finite & ~torch.isnan(log_ratio)
    return choose(possible, log_ratio, torch.full_like(log_ratio, -torch.inf)).clamp(max=0.0).exp()


def is_divergent(log_ratio: Tensor, finite: Tensor) -> Tensor:
    """Moves to a non-finite point, or with an energy error that is NaN or above the threshold."""
    return ~finite | torch.isnan(log_ratio) | (log_ratio < -DIVERGENCE_THRESHOLD)


def langevin_info(
    state: LangevinState, step_size: float, acceptance: Tensor, diverging: Tensor
) -> LangevinInfo:
    """Report of a step that completes a draw in every chain."""
    return LangevinInfo(
        finished=torch.ones_like(diverging),
        step_acceptance=acceptance,
        lp=-state.potential_energy,
        acceptance_rate=acceptance,
        step_size=torch.zeros_like(acceptance) + step_size,
        diverging=diverging,
    )
