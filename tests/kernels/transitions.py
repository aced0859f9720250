"""Transitions made visible: chosen moves, affine maps, matrices, draws from exact starts.

Everything here asks the kernel's own ``step``; no formula of a kernel is written a second time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy import linalg
from torch import Tensor

from pyro_ebm.core.positions import select
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.potentials.energy import EnergyPotential
from tests.statistics import assert_mean, assert_same_mean
from tests.targets import Target


class CountingPotential(EnergyPotential):
    """Counts evaluations; ``num_energies`` includes those made for a gradient."""

    num_energies = num_gradients = 0

    def __call__(self, q):
        self.num_energies += 1
        return super().__call__(q)

    def value_and_grad(self, q):
        self.num_gradients += 1
        return super().value_and_grad(q)


def gaussian_potential(precision: Tensor) -> EnergyPotential:
    """``N(0, precision^-1)`` on vectors."""
    return EnergyPotential(GaussianEnergy(torch.zeros(len(precision)), precision=precision))


def acceptance_of_linear_step(step: Tensor) -> float:
    """In a standard normal, of a map of area one: what two centred Gaussians have in common.

    With singular values s, 1 / s, the states it leads to have the variances s^2, s^-2, and the
    share in common is 4 / pi arctan(1 / s).
    """
    return 4 / math.pi * math.atan(1 / float(torch.linalg.svdvals(step).max()))


def noise_like(kernel: Any, state: Any, **chosen: Tensor) -> Any:
    """Noise of the kernel with some of its fields chosen."""
    return kernel.noise(state, None)._replace(**chosen)


def noise_between(kernel: Any, state: Any, target: Tensor) -> Tensor:
    """Normal noise with which a Langevin proposal goes from the state to ``target``."""
    scale = 1.0 if kernel.scale is None else kernel.scale
    drift = -0.5 * kernel.step_size**2 * scale**2 * state.grad
    return (target - state.position - drift) / (kernel.step_size * scale)


def move(kernel: Any, potential: Any, state: Any, normal: Tensor) -> Any:
    """Where the kernel goes with that noise, and the report."""
    return kernel.step(potential, state, noise_like(kernel, state, normal=normal))


def affine_map(kernel: Any, precision: Tensor) -> tuple[Tensor, Tensor]:
    """``A, B`` of ``z' = A z + B noise`` on a centred Gaussian, read off one step.

    ``z`` is the position, followed by the velocity where the state has one.
    """
    potential, dim = gaussian_potential(precision), len(precision)
    fields = ("position", "velocity") if hasattr(kernel, "friction") else ("position",)
    num_inputs = dim * len(fields)
    basis = torch.eye(num_inputs + dim)
    state = kernel.init(potential, basis[:, :dim])
    if len(fields) == 2:
        state = state._replace(velocity=basis[:, dim:num_inputs])
    moved, _ = move(kernel, potential, state, basis[:, num_inputs:])
    image = torch.cat([getattr(moved, name) for name in fields], dim=1).T
    return image[:, :num_inputs], image[:, num_inputs:]


def stationary_covariance(kernel: Any, precision: Tensor) -> Tensor:
    """Covariance that solves ``S = A S A' + B B'``."""
    state_map, noise_map = affine_map(kernel, precision)
    covariance = linalg.solve_discrete_lyapunov(state_map, noise_map @ noise_map.T)
    return torch.from_numpy(covariance)


def line_matrix(kernel: Any, potential: Any, points: Tensor) -> Tensor:
    """Transition matrix ``(n, n)`` of a one-dimensional Langevin kernel between grid points.

    Proposals land on the grid with the probability that their noise has; what a Metropolis
    kernel rejects stays. An unadjusted kernel moves always.
    """
    num_points = len(points)
    start, end = (grid.reshape(-1, 1) for grid in torch.meshgrid(points, points, indexing="ij"))
    state = kernel.init(potential, start)
    normal = noise_between(kernel, state, end)
    _, info = move(kernel, potential, state, normal)
    density = (-0.5 * normal.square()).exp() / (kernel.step_size * math.sqrt(2 * math.pi))
    matrix = density.reshape(num_points, num_points) * (points[1] - points[0])
    if not kernel.is_adjusted:
        return matrix / matrix.sum(dim=1, keepdim=True)
    matrix = matrix * info.acceptance_rate.reshape(num_points, num_points)
    return matrix + torch.diag(1 - matrix.sum(dim=1))


def stationary_moments(matrix: Tensor, points: Tensor, num_squarings: int = 16) -> list[float]:
    """First and second moment after ``2 ** num_squarings`` transitions from a uniform start."""
    for _ in range(num_squarings):
        matrix = matrix @ matrix
        matrix = matrix / matrix.sum(dim=1, keepdim=True)
    law = matrix.mean(dim=0)
    return [float(law @ points), float(law @ points.square())]


def exact_start(kernel: Any, target: Target, num_chains: int, potential: Any = None) -> Any:
    """State of independent chains that already have the target's law."""
    draws = target.sample(num_chains, None)
    potential = potential or EnergyPotential(target.energy)
    return kernel.init(potential, draws.reshape(num_chains, -1))


def advance(kernel: Any, potential: Any, state: Any, num_draws: int) -> Any:
    """State of each chain when it has finished so many draws, at a step of its own."""
    kept, count = state, torch.zeros(len(state.position), dtype=torch.int64)
    while int(count.min()) < num_draws:
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        count = count + info.finished
        kept = select(info.finished & (count == num_draws), state, kept)
    return kept


def draws_of(kernel: Any, potential: Any, state: Any, num_draws: int) -> Tensor:
    """Positions ``(chain, draw, dim)`` of successive steps."""
    draws = []
    for _ in range(num_draws):
        state = advance(kernel, potential, state, 1)
        draws.append(state.position)
    return torch.stack(draws, dim=1)


def assert_law(state: Any, target: Target) -> None:
    """Check moments, integration by parts, and bounded functions against fresh exact draws.

    The chains must be independent. ``E[dU/dx] = 0`` and ``E[x dU/dx] = 1`` use the gradients
    that the kernel carries. One chain that exploded inflates the error bar of every moment
    until nothing is rejected; the bounded functions are for that.
    """
    x, grad = state.position, state.grad
    mean, second_moment = target.mean.reshape(-1), target.second_moment.reshape(-1)
    zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
    features = torch.stack([x, x.square(), grad, x * grad], dim=1)
    assert_mean(features, torch.stack([mean, second_moment, zeros, ones]))
    fresh = target.sample(len(x), None).reshape(x.shape)
    scale = (second_moment - mean.square()).sqrt()
    first, second = (_bounded((draws - mean) / scale) for draws in (x, fresh))
    assert_same_mean(first, second)


def _bounded(z: Tensor) -> Tensor:
    return torch.stack([z.tanh(), (-0.5 * z.square()).exp()], dim=1)


def assert_invariant(
    kernel: Any, target: Target, *, num_chains: int = 50_000, num_draws: int = 10
) -> None:
    """Check that some draws from exact starts leave the target's law as it is."""
    potential = EnergyPotential(target.energy)
    state = exact_start(kernel, target, num_chains, potential)
    assert_law(advance(kernel, potential, state, num_draws), target)
