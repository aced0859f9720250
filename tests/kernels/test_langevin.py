"""Unadjusted Langevin: the update, and the exact law it settles at on a Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from pyro_ebm.core.noise import normal_of
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, Langevin
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.transitions import (
    affine_map,
    line_matrix,
    move,
    stationary_covariance,
    stationary_moments,
)
from tests.statistics import assert_mean
from tests.targets import AsymmetricEnergy

PRECISION = torch.linalg.inv(torch.tensor([[2.0, 1.2], [1.2, 1.0]]))
SCALE = torch.tensor([1.3, 0.4])


@pytest.mark.parametrize("scale", [None, torch.tensor([1.5])])
def test_step_is_the_formula(scale):
    potential = EnergyPotential(AsymmetricEnergy())
    kernel = Langevin(step_size=0.3, scale=scale)
    state = kernel.init(potential, torch.randn(50, 1))
    normal = torch.randn(50, 1)
    moved, info = move(kernel, potential, state, normal)
    x = state.position
    grad = x**3 + 1.5 * torch.cos(3 * x) + 0.2
    s = 1.0 if scale is None else scale
    torch.testing.assert_close(
        moved.position, x - 0.3**2 / 2 * s**2 * grad + 0.3 * s * normal, rtol=0, atol=1e-14
    )
    assert bool((info.step_size == 0.3).all())


@pytest.mark.parametrize(
    ("precision", "step_size", "variance"),
    [(1.0, 0.5, 1.0666666667), (4.0, 0.5, 0.3333333333), (4.0, 0.9, 1.3157894737)],
)
def test_stationary_variance_of_a_gaussian(precision, step_size, variance):
    covariance = stationary_covariance(Langevin(step_size=step_size), torch.tensor([[precision]]))
    assert covariance.item() == pytest.approx(variance, abs=1e-10)
    closed_form = 1 / (precision * (1 - step_size**2 * precision / 4))
    assert covariance.item() == pytest.approx(closed_form, abs=1e-13)


def test_stationary_covariance_in_scaled_coordinates():
    step_size, scale = 0.5, torch.diag(SCALE)
    scaled = scale @ PRECISION @ scale
    expected = torch.linalg.inv(scaled @ (torch.eye(2) - step_size**2 / 4 * scaled))
    covariance = stationary_covariance(Langevin(step_size=step_size, scale=SCALE), PRECISION)
    torch.testing.assert_close(covariance, scale @ expected @ scale, rtol=0, atol=1e-12)


def test_stability_limit():
    for step_size, stable in ((1.999, True), (2.001, False)):
        state_map, _ = affine_map(Langevin(step_size=step_size), torch.tensor([[1.0]]))
        assert bool((state_map.abs() < 1).all()) == stable


def test_a_drift_of_twice_the_size_misses_the_variance():
    class WholeStepDrift(Langevin):
        def init(self, potential, position, generator=None):
            state = super().init(potential, position, generator)
            return state._replace(grad=2 * state.grad)

    covariance = stationary_covariance(WholeStepDrift(step_size=0.5), torch.tensor([[1.0]]))
    assert abs(covariance.item() - 1.0666666667) > 0.3


def test_bias_on_the_line():
    points = torch.linspace(-3.5, 3.5, 281)
    matrix = line_matrix(Langevin(step_size=0.4), EnergyPotential(AsymmetricEnergy()), points)
    assert stationary_moments(matrix, points) == pytest.approx([-0.1662, 0.6720], abs=5e-5)


def test_would_be_acceptance_is_that_of_mala():
    potential = EnergyPotential(AsymmetricEnergy())
    normal, position = torch.randn(2, 50, 1)
    infos = []
    for kernel in (Langevin(step_size=0.8), MALA(step_size=0.8)):
        _, info = move(kernel, potential, kernel.init(potential, position), normal)
        infos.append(info)
    torch.testing.assert_close(infos[0].acceptance_rate, infos[1].acceptance_rate, rtol=0, atol=0)


@pytest.mark.parametrize(("dim", "percent"), [(1, 11), (8, 4.5), (64, 2)])
def test_documented_bias_at_the_default_acceptance(dim, percent):
    """The step that accepts 98 % of the moves from a standard Gaussian, by bisection."""
    potential = EnergyPotential(GaussianEnergy.standard((dim,)))
    position, normal = torch.randn(2, 200_000 // dim, dim)
    lower, upper = 0.05, 1.5
    for _ in range(12):
        step_size = math.sqrt(lower * upper)
        kernel = Langevin(step_size=step_size)
        _, info = move(kernel, potential, kernel.init(potential, position), normal)
        too_large = float(info.acceptance_rate.mean()) < kernel.target_accept_prob
        lower, upper = (lower, step_size) if too_large else (step_size, upper)
    assert 100 * (1 / (1 - lower**2 / 4) - 1) == pytest.approx(percent, abs=0.5)


def test_noise_is_standard_normal_of_the_positions_shape():
    kernel = Langevin(step_size=0.1)
    state = kernel.init(EnergyPotential(AsymmetricEnergy()), torch.zeros(100_000, 1))
    normal = normal_of(kernel.noise(state, None).normal, state.position)
    assert normal.shape == (100_000, 1)
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    assert_mean((normal < Normal(0.0, 1.0).icdf(quantiles)).double(), quantiles)
