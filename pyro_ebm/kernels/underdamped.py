"""Underdamped Langevin dynamics with the BAOAB splitting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.checks import check_positive
from pyro_ebm.core.noise import NormalNoise, normal_noise, normal_of, normal_or_seed
from pyro_ebm.core.positions import dot64, select
from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._metropolis import (
    acceptance_probability,
    finite_chains,
    is_divergent,
)
from pyro_ebm.kernels._recipe import Recipe, step_and_metric


class UnderdampedState(NamedTuple):
    """State of underdamped dynamics; velocities are in units of ``scale``."""

    position: Tensor
    potential_energy: Tensor
    grad: Tensor
    velocity: Tensor
    """Velocities ``(C, dim)``, standard normal in equilibrium."""


class UnderdampedNoise(NamedTuple):
    """Standard normal noise ``(C, dim)`` of the O step."""

    normal: NormalNoise


class UnderdampedInfo(NamedTuple):
    """Report of one step; ``energy`` is potential plus kinetic."""

    finished: Tensor
    step_acceptance: Tensor
    lp: Tensor
    acceptance_rate: Tensor
    step_size: Tensor
    diverging: Tensor
    energy: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class UnderdampedLangevin(Recipe[UnderdampedState]):
    r"""Underdamped Langevin dynamics, BAOAB splitting: biased, but exact on Gaussians.

    One step of size :math:`h` with friction :math:`\gamma`, one gradient:

    .. math::
        v \leftarrow v - \tfrac h2 s \nabla U; \quad
        x \leftarrow x + \tfrac h2 s v; \quad
        v \leftarrow c v + \sqrt{1 - c^2}\, \xi; \quad
        x \leftarrow x + \tfrac h2 s v; \quad
        v \leftarrow v - \tfrac h2 s \nabla U,

    :math:`c = e^{-\gamma h}`. The position marginal misses :math:`e^{-U}` by
    :math:`O(h^2)` in general and by nothing on a Gaussian, for every stable
    :math:`h < 2 / \sqrt{\Lambda}`. The velocity variance is :math:`1 - h^2 \Lambda / 4`
    there, so the kinetic temperature is no check of the sampling.

    Warm-up tunes the probability with which a Metropolis test *would* accept the energy
    error of the deterministic parts to ``target_accept_prob``; no move is rejected but those
    to a non-finite energy, which keep the old position, reverse the velocity and are flagged.
    It is a safe thing to tune because it falls to zero before the chains become unstable, and
    because warm-up does make the test, so that no chain flies off while the step is too large.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`h`; None to have warm-up tune it.
        scale: :math:`s`, one standard deviation for each coordinate, or a Cholesky factor of
            :math:`C`; None to have warm-up estimate standard deviations.
        target_accept_prob: Would-be acceptance that warm-up tunes to.
        friction: :math:`\gamma`, inverse relaxation time of the velocity in scaled
            coordinates; 1 suits coordinates of unit scale.

    References:
        Leimkuhler and Matthews (2013), Rational construction of stochastic numerical methods
        for molecular sampling.

    >>> UnderdampedLangevin(step_size=0.2).friction
    1.0
    """

    is_adjusted: ClassVar[bool] = False
    keeps_momentum: ClassVar[bool] = True

    target_accept_prob: float = 0.9
    friction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("friction", self.friction)

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> UnderdampedState:
        velocity = normal_noise(position, generator)
        return UnderdampedState(position, *potential.value_and_grad(position), velocity)

    def noise(self, state: UnderdampedState, generator: torch.Generator | None) -> UnderdampedNoise:
        return UnderdampedNoise(normal_or_seed(state.position, generator))

    def step(
        self, potential: Potential, state: UnderdampedState, noise: UnderdampedNoise
    ) -> tuple[UnderdampedState, UnderdampedInfo]:
        step_size, metric = step_and_metric(self, state.position)
        half = 0.5 * step_size
        kept, noise_scale = _ornstein_uhlenbeck(self.friction * step_size)
        before = state.velocity - half * metric.to_momentum(state.grad)
        after = kept * before + noise_scale * normal_of(noise.normal, before)
        position = state.position + half * metric.to_position(before + after)
        potential_energy, grad = potential.value_and_grad(position)
        velocity = after - half * metric.to_momentum(grad)
        proposal = UnderdampedState(position, potential_energy, grad, velocity)
        heat = _kinetic(after) - _kinetic(before)
        log_ratio = _total_energy(state) - _total_energy(proposal) + heat
        finite = finite_chains(potential_energy, grad)
        state = select(finite, proposal, self.rejected(state))
        return state, _info(state, log_ratio, finite, step_size)

    def rejected(self, state: UnderdampedState) -> UnderdampedState:
        return state._replace(velocity=-state.velocity)


def _ornstein_uhlenbeck(time: float | Tensor) -> tuple[Any, Any]:
    """Factors of the velocity and of the noise; tensors where compiled code makes the time one."""
    if isinstance(time, Tensor):
        return (-time).exp(), (1.0 - (-2.0 * time).exp()).sqrt()
    return math.exp(-time), math.sqrt(1.0 - math.exp(-2.0 * time))


def _kinetic(velocity: Tensor) -> Tensor:
    return 0.5 * dot64(velocity, velocity)


def _total_energy(state: UnderdampedState) -> Tensor:
    return state.potential_energy.double() + _kinetic(state.velocity)


def _info(
    state: UnderdampedState, log_ratio: Tensor, finite: Tensor, step_size: float
) -> UnderdampedInfo:
    acceptance = acceptance_probability(log_ratio, finite)
    return UnderdampedInfo(
        finished=torch.ones_like(finite),
        step_acceptance=acceptance,
        lp=-state.potential_energy,
        acceptance_rate=acceptance,
        step_size=torch.zeros_like(log_ratio) + step_size,
        diverging=is_divergent(log_ratio, finite),
        energy=_total_energy(state),
    )
