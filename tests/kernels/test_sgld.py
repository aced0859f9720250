"""SGLD: the update with its clips, the temperature, and the laws that it settles at."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.distributions import Normal

from pyro_ebm import MCMC, EnergyDistribution
from pyro_ebm.core.checks import StepSizeError
from pyro_ebm.energies import GaussianEnergy, MLPEnergy, TemperedEnergy
from pyro_ebm.kernels import MALA, SGLD, Langevin
from pyro_ebm.objectives import ContrastiveDivergence
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.transitions import advance, move, stationary_covariance
from tests.statistics import Rejected, assert_mean
from tests.targets import AsymmetricEnergy

COLD = {"step_size": 0.1, "noise_scale": 0.05}
PRECISION = torch.linalg.inv(torch.tensor([[2.0, 1.2], [1.2, 1.0]]))
SCALES = {
    "unscaled": None,
    "scaled": torch.tensor([1.3, 0.4]),
    "dense": torch.tensor([[1.3, 0.0], [0.5, 0.4]]),
}
every_scale = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
STANDARD = GaussianEnergy.standard(1)


def _curved(x):
    return (0.25 * x.pow(4) + torch.sin(3 * x)).sum(-1)


@every_scale
def test_step_is_the_formula(scale):
    kernel = SGLD(grad_clip=0.8, position_bounds=(-1.0, 1.2), scale=scale, **COLD)
    potential = EnergyPotential(_curved, (2,))
    state = kernel.init(potential, torch.rand(500, 2) * 2 - 1)
    normal = 5 * torch.randn(500, 2)
    moved, info = move(kernel, potential, state, normal)
    x = state.position
    grad = x**3 + 3 * torch.cos(3 * x)
    factor = torch.eye(2) if scale is None else scale.diag() if scale.ndim == 1 else scale
    drift = 0.05 * grad.clamp(-0.8, 0.8) @ (factor @ factor.T)
    free = x - drift + 0.05 * normal @ factor.T
    expected = free.clamp(-1.0, 1.2)
    torch.testing.assert_close(moved.position, expected, rtol=0, atol=1e-14)
    assert bool((grad.abs() > 0.8).any() & (free != expected).any())
    on_boundary = (free != expected).any(dim=1)
    assert torch.equal(info.acceptance_rate == 0, on_boundary)


def test_step_sizes_are_squares_of_those_of_langevin():
    potential = EnergyPotential(_curved, (2,))
    position, normal = torch.randn(2, 100, 2)
    results = []
    for kernel in (SGLD(step_size=0.09), Langevin(step_size=0.3)):
        moved, info = move(kernel, potential, kernel.init(potential, position), normal)
        results.append((moved.position, moved.grad, info.acceptance_rate))
    torch.testing.assert_close(*results, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("step_size", "noise_scale", "temperature"),
    [(20.0, 0.005, 1.25e-6), (2.0, 0.01, 5e-5), (200.0, 0.001, 5e-9), (0.1, 0.05, 0.025)],
)
def test_temperatures_of_the_recipes_in_use(step_size, noise_scale, temperature):
    kernel = SGLD(step_size=step_size, noise_scale=noise_scale)
    assert kernel.effective_temperature == pytest.approx(temperature, rel=1e-12)
    assert f"effective_temperature={kernel.effective_temperature}" in repr(kernel)
    same = SGLD(step_size=step_size, temperature=kernel.effective_temperature)
    potential, position = EnergyPotential(STANDARD), torch.zeros(1, 1)
    ends = [
        move(k, potential, k.init(potential, position), torch.ones(1, 1)) for k in (kernel, same)
    ]
    torch.testing.assert_close(ends[0][0].position, ends[1][0].position, rtol=1e-14, atol=0)
    assert ends[0][1].temperature.item() == kernel.effective_temperature


def test_a_replaced_step_size_changes_the_temperature_of_a_given_noise():
    kernel = dataclasses.replace(SGLD(**COLD), step_size=0.2)
    assert kernel.effective_temperature == pytest.approx(0.0125)
    assert dataclasses.replace(SGLD(temperature=2.0), step_size=0.2).effective_temperature == 2.0


@pytest.mark.parametrize("precision", [1.0, 4.0])
def test_stationary_variance_of_a_gaussian(precision):
    covariance = stationary_covariance(SGLD(**COLD), torch.tensor([[precision]])).item()
    closed_form = 0.05**2 / (0.1 * precision * (1 - 0.1 * precision / 4))
    assert covariance == pytest.approx(closed_form, rel=1e-12)
    if precision == 1.0:
        assert covariance == pytest.approx(0.0256410256, abs=1e-10)


@every_scale
def test_stationary_covariance_in_scaled_coordinates(scale):
    covariance = stationary_covariance(SGLD(scale=scale, **COLD), PRECISION)
    factor = torch.eye(2) if scale is None else scale.diag() if scale.ndim == 1 else scale
    scaled = factor.T @ PRECISION @ factor
    in_own = 0.025 * torch.linalg.inv(scaled @ (torch.eye(2) - 0.1 / 4 * scaled))
    torch.testing.assert_close(covariance, factor @ in_own @ factor.T, rtol=1e-10, atol=0)


def test_would_be_acceptance_is_that_of_mala_at_that_temperature():
    energy = AsymmetricEnergy()
    kernel = SGLD(step_size=0.4, temperature=0.3)
    adjusted = MALA(step_size=math.sqrt(0.4 * 0.3))
    position, normal = torch.randn(2, 500, 1)
    results = []
    for k, target in ((kernel, energy), (adjusted, TemperedEnergy(energy, 1 / 0.3))):
        potential = EnergyPotential(target)
        state = k.init(potential, position)
        results.append(move(k, potential, state, normal)[1].acceptance_rate)
    assert float((results[0] < 0.9).double().mean()) > 0.1
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-13)


def test_energy_errors_do_not_grow_as_it_gets_cold():
    potential = EnergyPotential(GaussianEnergy.standard(100))
    kernel = SGLD(step_size=1.0, noise_scale=1e-4)
    state = kernel.init(potential, torch.randn(50, 100))
    moved, info = kernel.step(potential, state, kernel.noise(state, None))
    assert not bool(info.diverging.any())
    assert bool((moved.position != state.position).all())


def _stationary_variance(kernel, spacing=0.125, reach=40.0):
    """Of a one-dimensional kernel with unit temperature, by a linear solve on a grid."""
    points = torch.arange(-reach, reach + spacing / 2, spacing).unsqueeze(-1)
    potential = EnergyPotential(STANDARD)
    state = kernel.init(potential, points)
    drifted, _ = move(kernel, potential, state, torch.zeros_like(points))
    matrix = Normal(drifted.position, math.sqrt(kernel.step_size)).log_prob(points.T).softmax(dim=1)
    ones = torch.ones(len(points))
    law = torch.linalg.solve(torch.eye(len(points)) - matrix.T + torch.ones_like(matrix), ones)
    return float(law @ points.squeeze().square() / law.sum())


def _huber_variance(clip):
    x = torch.linspace(-100.0, 100.0, 400_001)
    inside = x.abs() < clip
    potential = torch.where(inside, 0.5 * x.square(), clip * x.abs() - 0.5 * clip**2)
    return float(torch.softmax(-potential, dim=0) @ x.square())


def test_clipped_gradients_target_a_huberised_potential():
    """As the step goes to zero; the grid is off by 0.002."""
    assert _huber_variance(0.5) == pytest.approx(8.075954, abs=1e-5)
    coarse, fine = (_stationary_variance(SGLD(step_size=s, grad_clip=0.5)) for s in (0.1, 0.05))
    assert 2 * fine - coarse == pytest.approx(_huber_variance(0.5), abs=0.005)


def test_a_clip_of_the_whole_move_targets_something_else():
    class ClipsHalf(SGLD):
        def clipped(self, state):
            return super().clipped(state)._replace(grad=state.grad.clamp(-1.0, 1.0))

    coarse, fine = (
        _stationary_variance(ClipsHalf(step_size=s, grad_clip=0.5)) for s in (0.1, 0.05)
    )
    assert abs(2 * fine - coarse - _huber_variance(0.5)) > 1


def test_clips_are_element_wise():
    potential = EnergyPotential(lambda x: (x * torch.tensor([3.0, 0.2])).sum(-1), (2,))
    kernel = SGLD(step_size=1.0, grad_clip=0.5)
    state = kernel.init(potential, torch.zeros(1, 2))
    moved, _ = move(kernel, potential, state, torch.zeros(1, 2))
    torch.testing.assert_close(moved.position, torch.tensor([[-0.25, -0.1]]))
    assert state.grad.tolist() == [[3.0, 0.2]]


SLOPE, BOUNDED = 2.0, {"step_size": 0.1, "position_bounds": (0.0, 1.0)}


def _slope(x):
    return SLOPE * x.sum(-1)


def _law_between_bounds(num_points=400):
    """Mass on either bound and mean of the projected chain, by quadrature of its transitions."""
    alpha, bounds = BOUNDED["step_size"], torch.tensor([0.0, 1.0])
    inner = (torch.arange(num_points) + 0.5) / num_points
    points = torch.cat([bounds, inner])
    step = Normal((points - 0.5 * alpha * SLOPE).unsqueeze(-1), math.sqrt(alpha))
    lower, upper = step.cdf(bounds).unbind(dim=1)
    density = step.log_prob(inner).exp() / num_points
    matrix = torch.cat([torch.stack([lower, 1 - upper], dim=1), density], dim=1)
    for _ in range(10):
        matrix = matrix @ matrix
        matrix = matrix / matrix.sum(dim=1, keepdim=True)
    law = matrix[0]
    return torch.stack([law[0], law[1], law @ points])


def _bounded_features(kernel):
    potential = EnergyPotential(_slope, (1,))
    state = advance(kernel, potential, kernel.init(potential, torch.rand(50_000, 1)), 60)
    x = state.position.squeeze(-1)
    return torch.stack([(x == 0).double(), (x == 1).double(), x], dim=1)


def test_mass_piles_up_on_the_bounds():
    expected = _law_between_bounds()
    assert float(expected[0]) > 0.3
    assert_mean(_bounded_features(SGLD(**BOUNDED)), expected)


def test_reflection_in_place_of_projection_is_rejected():
    class Reflects(SGLD):
        def projected(self, position):
            return super().projected(1 - (1 - position.abs()).abs())

    with pytest.raises(Rejected):
        assert_mean(_bounded_features(Reflects(**BOUNDED)), _law_between_bounds())


def test_a_start_outside_of_the_bounds_is_put_inside():
    potential = EnergyPotential(_slope, (1,))
    kernel = SGLD(**BOUNDED)
    state = kernel.init(potential, torch.tensor([[-3.0], [7.0]]))
    moved, info = move(kernel, potential, state, torch.zeros(2, 1))
    assert moved.position.tolist() == [[0.0], [1.0]]
    assert info.acceptance_rate.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"noise_scale": 0.1, "temperature": 1.0}, "both given.*give one of them"),
        ({"noise_scale": 0.0}, "noise_scale=0.0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"grad_clip": math.nan}, "grad_clip=nan"),
        ({"position_bounds": (1.0, 0.0)}, "the lower one first"),
        ({"position_bounds": (0.0, math.inf)}, "two finite numbers"),
        ({"position_bounds": 1.0}, "two finite numbers"),
    ],
)
def test_wrong_numbers_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        SGLD(step_size=0.1, **arguments)


@pytest.mark.parametrize(
    "arguments", [{"noise_scale": 0.1}, {"grad_clip": 0.1}, {"position_bounds": (0.0, 1.0)}]
)
def test_a_step_size_that_cannot_be_tuned_must_be_given(arguments):
    with pytest.raises(StepSizeError, match="give step_size"):
        SGLD(**arguments)


def test_warm_up_tunes_the_step_size_at_the_temperature():
    """The scale takes the temperature up, so the acceptance and the bias are those at 1."""
    kernel = SGLD(GaussianEnergy.standard(8), temperature=0.01, scale=0.1 * torch.ones(8))
    mcmc = MCMC(kernel, 50, warmup_steps=200, num_chains=500, disable_progbar=True)
    mcmc.run()
    draws, step_size = mcmc.get_samples(group_by_chain=True)["x"], mcmc.kernel.step_size
    in_own = step_size * 0.01
    assert_mean(
        draws[:, -1].square(), torch.full((8,), 0.01 / (1 - in_own / 4), dtype=torch.float64)
    )
    assert bool((mcmc.chains.stats["temperature"] == 0.01).all())


def test_the_classical_recipe_fits_energies_and_samples_distributions():
    recipe = SGLD(step_size=2.0, noise_scale=0.01, grad_clip=0.03, position_bounds=(-1.0, 1.0))
    energy = MLPEnergy(2, hidden=(8,))
    data = torch.rand(64, 2) * 2 - 1
    loss = ContrastiveDivergence(recipe, num_steps=10)(energy, data)
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in energy.parameters())
    law = EnergyDistribution(energy.requires_grad_(False), kernel=recipe, num_steps=10)
    draws = law.sample((50,))
    assert draws.shape == (50, 2)
    assert float(draws.abs().max()) <= 1.0
