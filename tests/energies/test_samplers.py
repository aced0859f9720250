"""Exact samplers and the moments that go with them: every energy that has them."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

import pyro_ebm.energies
from pyro_ebm.energies import (
    DoubleWellEnergy,
    FunnelEnergy,
    GaussianEnergy,
    MixtureEnergy,
    QuarticEnergy,
)
from tests.statistics import Rejected, assert_mean, assert_moments
from tests.targets import all_targets, asymmetric_target, gaussian_target, mixture_target

NUM_DRAWS = 200_000
COVARIANCE = ((2.0, 1.2), (1.2, 1.0))
FACTORIES = {
    GaussianEnergy: lambda: GaussianEnergy(torch.tensor([1.0, -2.0]), torch.tensor(COVARIANCE)),
    MixtureEnergy: lambda: MixtureEnergy(
        torch.tensor([0.3, 0.7]), torch.randn(2, 2, 2), torch.rand(2, 2, 2) + 0.5
    ),
    QuarticEnergy: lambda: QuarticEnergy((2,)),
    DoubleWellEnergy: lambda: DoubleWellEnergy((2,), location=1.0, barrier=3.0),
    FunnelEnergy: lambda: FunnelEnergy(3, scale=1.0),
}
every_sampler = pytest.mark.parametrize(
    "factory", FACTORIES.values(), ids=[cls.__name__ for cls in FACTORIES]
)
every_target = pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)


def _check_law(energy, draws, mean, second_moment):
    """Check moments, and integration by parts: ``E[dE/dx] = 0`` and ``E[x dE/dx] = 1``."""
    draws = draws.detach().requires_grad_()
    (grad,) = torch.autograd.grad(energy(draws).sum(), draws)
    ones = torch.ones_like(mean)
    features = torch.stack([draws, draws.square(), grad, draws * grad], dim=1)
    assert_mean(features, torch.stack([mean, second_moment, 0 * ones, ones]))


def test_every_energy_with_a_sampler_has_a_row():
    classes = [cls for _, cls in inspect.getmembers(pyro_ebm.energies, inspect.isclass)]
    assert {cls for cls in classes if hasattr(cls, "sample")} == set(FACTORIES)


@every_sampler
def test_draws_follow_the_energy(factory):
    energy = factory()
    draws = energy.sample((NUM_DRAWS,))
    _check_law(energy, draws, energy.mean, energy.variance + energy.mean.square())


@every_sampler
@pytest.mark.parametrize("mutate", [lambda x: 1.05 * x, lambda x: x + 0.05], ids=["wide", "moved"])
def test_wrong_draws_are_rejected(factory, mutate):
    energy = factory()
    draws = mutate(energy.sample((NUM_DRAWS,)))
    with pytest.raises(Rejected):
        _check_law(energy, draws, energy.mean, energy.variance + energy.mean.square())


@every_sampler
def test_facts_have_the_event_shape_and_no_batch(factory):
    energy = factory()
    assert energy.mean.shape == energy.variance.shape == energy.event_shape
    assert energy.log_partition.shape == ()


@every_sampler
@pytest.mark.parametrize("sample_shape", [(), (4,), (3, 2), (0,)])
def test_shapes_of_draws(factory, sample_shape):
    energy = factory()
    assert energy.sample(sample_shape).shape == (*sample_shape, *energy.event_shape)


@every_sampler
def test_the_generator_decides_and_the_global_one_is_left_alone(factory):
    energy = factory()
    state = torch.get_rng_state()
    first, second = (
        energy.sample((5,), generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@every_sampler
def test_the_global_seed_decides_without_a_generator(factory):
    energy = factory()
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(energy.sample((5,)))
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], energy.sample((5,)))


def test_draws_have_the_dtype_of_the_buffers():
    assert FACTORIES[GaussianEnergy]().float().sample((2,)).dtype == torch.float32
    assert FACTORIES[MixtureEnergy]().float().sample((2,)).dtype == torch.float32


def test_draws_are_detached():
    trained = GaussianEnergy(
        torch.nn.Parameter(torch.zeros(2)), precision=torch.nn.Parameter(torch.eye(2))
    )
    assert not trained.sample((2,)).requires_grad


def test_gaussian_draws_have_the_covariance():
    energy = FACTORIES[GaussianEnergy]()
    assert_moments(energy.sample((NUM_DRAWS,)), energy.mean, torch.tensor(COVARIANCE))


def test_gaussian_draws_through_the_wrong_triangle_are_rejected():
    energy = FACTORIES[GaussianEnergy]()
    factor = torch.linalg.cholesky(energy.precision)
    wrong = torch.linalg.solve_triangular(factor, torch.randn(2, NUM_DRAWS), upper=False)
    with pytest.raises(Rejected):
        assert_moments(energy.mean + wrong.T, energy.mean, torch.tensor(COVARIANCE))


@every_target
def test_targets_are_what_they_say(target):
    draws = target.sample(NUM_DRAWS, torch.Generator().manual_seed(torch.initial_seed()))
    assert draws.dtype == target.mean.dtype == target.second_moment.dtype == torch.float64
    _check_law(target.energy, draws, target.mean, target.second_moment)


@every_target
def test_mirrored_draws_are_rejected_unless_the_target_is_symmetric(target):
    draws = -target.sample(NUM_DRAWS, None)
    if bool((target.mean == 0).all()) and target.name != "funnel":
        _check_law(target.energy, draws, target.mean, target.second_moment)
        return
    with pytest.raises(Rejected):
        _check_law(target.energy, draws, target.mean, target.second_moment)


def test_mixture_target_has_the_stated_left_mass():
    weights, edges = (0.3, 0.7), (4.0, -2.0)
    exact = sum(
        w * 0.5 * (1 + math.erf(z / math.sqrt(2))) for w, z in zip(weights, edges, strict=True)
    )
    assert exact == pytest.approx(0.3159155910, abs=1e-10)
    assert_mean((mixture_target().sample(NUM_DRAWS, None) < 0).double(), exact)


def test_constants_of_the_asymmetric_target():
    target = asymmetric_target()
    density = target.energy.density()
    assert density.expectation(lambda x: x) == pytest.approx(float(target.mean), abs=1e-10)
    second_moment = density.expectation(torch.square)
    assert second_moment == pytest.approx(float(target.second_moment), abs=1e-10)


def test_constants_of_the_gaussian_target():
    target = gaussian_target()
    torch.testing.assert_close(target.energy.mean, target.mean)
    torch.testing.assert_close(target.energy.variance + target.mean.square(), target.second_moment)
