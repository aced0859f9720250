"""BAOAB: the exact law on Gaussians, reversibility, and what happens at a wall."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_ebm.core.noise import normal_of
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import UnderdampedLangevin
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.transitions import affine_map, gaussian_potential, move, stationary_covariance
from tests.statistics import assert_moments

PRECISION = torch.linalg.inv(torch.tensor([[2.0, 1.2], [1.2, 1.0]]))
SCALES = [None, torch.tensor([1.3, 0.4])]
every_scale = pytest.mark.parametrize("scale", SCALES, ids=["unscaled", "scaled"])
every_friction = pytest.mark.parametrize("friction", [0.05, 1.0, 20.0])


def _state(kernel, num_chains=200):
    """States of a correlated, asymmetric potential of bounded curvature."""
    correlated = GaussianEnergy(torch.ones(2), precision=PRECISION)
    potential = EnergyPotential(
        lambda x: correlated(x) + 0.5 * torch.sin(3 * x).sum(-1), event_shape=(2,)
    )
    return potential, kernel.init(potential, torch.randn(num_chains, 2))


def _scale(kernel):
    return torch.ones(2) if kernel.scale is None else kernel.scale


@every_scale
def test_step_is_the_splitting(scale):
    """B, A, O, A and B one after the other, as the formula is written."""
    h, friction = 0.4, 0.7
    kernel = UnderdampedLangevin(step_size=h, friction=friction, scale=scale)
    potential, state = _state(kernel)
    normal, s = torch.randn(200, 2), _scale(kernel)
    moved, info = move(kernel, potential, state, normal)
    x, v, c = state.position, state.velocity, math.exp(-friction * h)
    v = v - h / 2 * s * potential.value_and_grad(x)[1]
    x = x + h / 2 * s * v
    v = c * v + math.sqrt(1 - c**2) * normal
    x = x + h / 2 * s * v
    v = v - h / 2 * s * potential.value_and_grad(x)[1]
    torch.testing.assert_close(moved.position, x, rtol=0, atol=1e-13)
    torch.testing.assert_close(moved.velocity, v, rtol=0, atol=1e-12)
    total = potential(x) + 0.5 * v.square().sum(-1)
    torch.testing.assert_close(info.energy, total, rtol=1e-12, atol=1e-12)


@every_friction
@pytest.mark.parametrize(("precision", "step_size"), [(1.0, 0.5), (1.0, 1.9), (4.0, 0.8)])
def test_position_variance_is_exact_and_that_of_the_velocity_is_not(precision, step_size, friction):
    kernel = UnderdampedLangevin(step_size=step_size, friction=friction)
    covariance = stationary_covariance(kernel, torch.tensor([[precision]]))
    expected = torch.diag(torch.tensor([1 / precision, 1 - step_size**2 * precision / 4]))
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-11)


@every_friction
@every_scale
def test_covariance_is_exact_for_correlated_coordinates(scale, friction):
    kernel = UnderdampedLangevin(step_size=0.7, friction=friction, scale=scale)
    covariance = stationary_covariance(kernel, PRECISION)
    s = torch.diag(_scale(kernel))
    velocity = torch.eye(2) - 0.7**2 / 4 * s @ PRECISION @ s
    expected = torch.block_diag(torch.linalg.inv(PRECISION), velocity)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-11)


def test_stability_limit():
    for step_size, stable in ((1.99, True), (2.01, False)):
        state_map, _ = affine_map(UnderdampedLangevin(step_size=step_size), torch.eye(1))
        assert bool((torch.linalg.eigvals(state_map).abs() < 1).all()) == stable


def test_another_splitting_misses_the_variance():
    """OBABO, whose variance is ``1 / (1 - h^2 / 4)``, in place of BAOAB."""

    class OBABO(UnderdampedLangevin):
        def step(self, potential, state, noise):
            c = math.exp(-self.friction * self.step_size)
            kicked = c * state.velocity + math.sqrt(1 - c**2) * normal_of(
                noise.normal, state.position
            )
            # BAOAB whose O step does nothing is BAB.
            before = kicked - 0.5 * self.step_size * state.grad
            still = noise._replace(normal=before * math.sqrt((1 - c) / (1 + c)))
            return super().step(potential, state._replace(velocity=kicked), still)

    covariance = stationary_covariance(OBABO(step_size=0.8), torch.eye(1))
    assert float(covariance[0, 0]) == pytest.approx(1 / (1 - 0.8**2 / 4), abs=1e-11)


@every_scale
def test_deterministic_part_is_reversible(scale):
    """With noise that makes the O step do nothing, going back is reversing the velocity."""
    kernel = UnderdampedLangevin(step_size=0.3, scale=scale)
    potential, start = _state(kernel)
    c, state = math.exp(-0.3), start
    for _ in range(2):
        for _ in range(5):
            before = state.velocity - 0.15 * _scale(kernel) * state.grad
            state, _ = move(kernel, potential, state, before * math.sqrt((1 - c) / (1 + c)))
        state = state._replace(velocity=-state.velocity)
    torch.testing.assert_close(state.position, start.position, rtol=0, atol=1e-11)
    torch.testing.assert_close(state.velocity, start.velocity, rtol=0, atol=1e-11)
    torch.testing.assert_close(state.grad, start.grad, rtol=0, atol=1e-10)


@every_scale
def test_would_be_acceptance_balances_a_move_and_its_way_back(scale):
    kernel = UnderdampedLangevin(step_size=0.9, friction=0.7, scale=scale)
    potential, start = _state(kernel)
    normal, half, c = torch.randn(200, 2), 0.45 * _scale(kernel), math.exp(-0.7 * 0.9)
    end, there = move(kernel, potential, start, normal)
    before, after = start.velocity - half * start.grad, end.velocity + half * end.grad
    back_normal = (c * after - before) / math.sqrt(1 - c**2)
    back, again = move(kernel, potential, end._replace(velocity=-end.velocity), back_normal)
    torch.testing.assert_close(back.position, start.position, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.velocity, -start.velocity, rtol=0, atol=1e-12)
    assert 0.1 < float((there.acceptance_rate < 1).double().mean()) < 1

    def log_flow(state, noise, info):
        kinetic = 0.5 * (state.velocity.square() + noise.square()).sum(-1)
        return info.acceptance_rate.log() - state.potential_energy - kinetic

    torch.testing.assert_close(
        log_flow(start, normal, there), log_flow(end, back_normal, again), rtol=1e-12, atol=1e-12
    )


def test_energy_error_is_that_of_the_deterministic_parts():
    kernel = UnderdampedLangevin(step_size=0.9, friction=0.7)
    potential, start = _state(kernel)
    end, info = move(kernel, potential, start, torch.randn(200, 2))

    def total(state, velocity):
        return potential(state.position) + 0.5 * velocity.square().sum(-1)

    before, after = start.velocity - 0.45 * start.grad, end.velocity + 0.45 * end.grad
    heat = 0.5 * (after.square() - before.square()).sum(-1)
    error = total(end, end.velocity) - total(start, start.velocity) - heat
    torch.testing.assert_close(info.acceptance_rate, (-error).exp().clamp(max=1))


def test_velocity_is_reversed_at_a_wall():
    potential = EnergyPotential(
        lambda x: torch.where(x > 1, torch.full_like(x, torch.inf), x.square()).sum(-1), (1,)
    )
    kernel = UnderdampedLangevin(step_size=0.5)
    state = kernel.init(potential, torch.tensor([[0.9], [0.0]]))
    state = state._replace(velocity=torch.tensor([[5.0], [0.1]]))
    moved, info = move(kernel, potential, state, torch.zeros(2, 1))
    assert info.diverging.tolist() == [True, False]
    assert moved.position[0] == 0.9
    assert moved.velocity[0] == -5.0
    assert moved.position[1] != 0.0
    assert info.energy[0] == pytest.approx(0.81 + 12.5)


def test_initial_velocities_are_standard_normal_in_scaled_units():
    kernel = UnderdampedLangevin(step_size=0.5, scale=torch.tensor([3.0, 0.1]))
    generator = torch.Generator().manual_seed(torch.initial_seed())
    state = kernel.init(gaussian_potential(PRECISION), torch.zeros(50_000, 2), generator)
    assert_moments(state.velocity, torch.zeros(2), torch.eye(2))


@pytest.mark.parametrize("friction", [0.0, -1.0, math.nan, math.inf, None, "1"])
def test_wrong_friction_is_named(friction):
    with pytest.raises(ValueError, match=r"friction=.* must be a finite number above zero"):
        UnderdampedLangevin(step_size=0.1, friction=friction)
