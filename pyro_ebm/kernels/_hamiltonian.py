"""Points and energies of chains that are each at a stage of their own trajectory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.positions import dot64
from pyro_ebm.kernels._metropolis import DIVERGENCE_THRESHOLD


class Point(NamedTuple):
    """Positions with what is known there."""

    position: Tensor
    """Positions ``(C, dim)``."""
    potential_energy: Tensor
    """Potential ``(C,)``."""
    grad: Tensor
    """Gradients ``(C, dim)``."""


class Phase(NamedTuple):
    """Points of phase space."""

    position: Tensor
    """Positions ``(C, dim)``."""
    momentum: Tensor
    """Momenta ``(C, dim)``, in coordinates of unit mass."""
    grad: Tensor
    """Gradients ``(C, dim)``."""


class TrajectoryInfo(NamedTuple):
    """Report of one step; the statistics are those of the trajectory that it ends."""

    finished: Tensor
    step_acceptance: Tensor
    lp: Tensor
    acceptance_rate: Tensor
    step_size: Tensor
    diverging: Tensor
    energy: Tensor
    """Potential plus kinetic energy that the trajectory began with."""
    n_steps: Tensor
    """Steps of the trajectory, each ``Integrator.num_gradients`` gradients."""


def total_energy(potential_energy: Tensor, momentum: Tensor) -> Tensor:
    """``U + |p|^2 / 2`` in float64."""
    return torch.add(potential_energy, dot64(momentum, momentum), alpha=0.5)


def is_off(log_ratio: Tensor) -> Tensor:
    """Energy errors that are NaN, infinite or above the threshold.

    A position, gradient or energy that is not finite makes the energy error NaN or infinite.
    """
    return ~((log_ratio > -DIVERGENCE_THRESHOLD) & (log_ratio < torch.inf))


def point_acceptance(log_ratio: Tensor, diverging: Tensor) -> Tensor:
    """``min(1, exp(log_ratio))``, zero at divergent points."""
    return log_ratio.clamp(max=0.0).exp().masked_fill(diverging, 0.0)
