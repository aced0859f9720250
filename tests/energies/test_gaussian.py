"""Gaussian energies: values, gradients, moments and log Z against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_ebm.core.checks import NonFiniteError, ShapeError
from pyro_ebm.energies import GaussianEnergy

LOC = (1.0, -2.0)
COVARIANCE = ((2.0, 1.2), (1.2, 1.0))


@pytest.fixture
def loc():
    return torch.tensor(LOC)


@pytest.fixture
def covariance():
    return torch.tensor(COVARIANCE)


def test_normalised_energy_is_minus_the_log_density(loc, covariance):
    energy = GaussianEnergy(loc, covariance)
    x = torch.randn(7, 2)
    expected = -MultivariateNormal(loc, covariance).log_prob(x)
    torch.testing.assert_close(energy(x) + energy.log_partition, expected)


def test_gradient_is_linear(loc, covariance):
    x = torch.randn(7, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(GaussianEnergy(loc, covariance)(x).sum(), x)
    torch.testing.assert_close(grad, torch.linalg.solve(covariance, (x - loc).T).T)


def test_moments(loc, covariance):
    energy = GaussianEnergy(loc, covariance)
    torch.testing.assert_close(energy.mean, loc)
    torch.testing.assert_close(energy.variance, torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(energy(loc), torch.tensor(0.0))


def test_all_spellings_agree(loc):
    variances = torch.tensor([4.0, 0.25])
    spellings = [
        GaussianEnergy(loc, variances),
        GaussianEnergy(loc, variances.diag()),
        GaussianEnergy(loc, scale=variances.sqrt()),
        GaussianEnergy(loc, precision=1 / variances),
        GaussianEnergy(loc, precision=(1 / variances).diag()),
    ]
    x = torch.randn(7, 2)
    for energy in spellings:
        torch.testing.assert_close(energy(x), spellings[0](x))
        torch.testing.assert_close(energy.variance, variances)
        torch.testing.assert_close(energy.log_partition, torch.tensor(math.log(2 * math.pi)))


@pytest.mark.parametrize("event_shape", [(), (1,), (1, 1), (3,), (2, 3)])
def test_one_number_is_the_same_for_every_coordinate(event_shape):
    energy = GaussianEnergy(torch.zeros(event_shape), scale=torch.tensor(2.0))
    x = torch.randn(5, *event_shape)
    torch.testing.assert_close(energy(x), x.reshape(5, -1).square().sum(-1) / 8)
    torch.testing.assert_close(energy.variance, torch.full(event_shape, 4.0))
    size = math.prod(event_shape)
    expected = size * (math.log(2) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(energy.log_partition, torch.tensor(expected))


def test_standard_image():
    energy = GaussianEnergy.standard((8, 8))
    x = torch.randn(3, 8, 8)
    torch.testing.assert_close(energy(x), 0.5 * x.square().sum((1, 2)))


def test_products_of_gaussians_are_gaussian(loc, covariance):
    product = GaussianEnergy(loc, covariance) + 3.0 * GaussianEnergy.standard(2)
    precision = covariance.inverse() + 3 * torch.eye(2)
    mean = torch.linalg.solve(precision, torch.linalg.solve(covariance, loc))
    expected = GaussianEnergy(mean, precision=precision)
    x = torch.randn(7, 2)
    torch.testing.assert_close(product(x) - product(mean), expected(x))


@pytest.mark.parametrize("precision", [torch.eye(2).double() * 3, torch.ones(2).double() * 3])
def test_parameters_are_trained_and_tensors_are_not(loc, precision):
    trained = GaussianEnergy(nn.Parameter(loc), precision=nn.Parameter(precision))
    assert [name for name, _ in trained.named_parameters()] == ["loc", "precision"]
    assert not list(GaussianEnergy(loc, precision=precision).parameters())
    x = torch.randn(7, 2)
    (trained(x).mean() + trained.log_partition).backward()
    torch.testing.assert_close(trained.loc.grad, -3 * (x - loc).mean(0))
    scatter = (x - loc).T @ (x - loc) / 7 - torch.eye(2) / 3
    expected = 0.5 * (scatter if precision.ndim == 2 else scatter.diagonal())
    torch.testing.assert_close(trained.precision.grad, expected)


def test_precision_as_parameter_of_a_scalar():
    energy = GaussianEnergy(torch.zeros(1), precision=nn.Parameter(torch.tensor([2.0])))
    energy(torch.tensor([[1.0], [3.0]])).mean().backward()
    torch.testing.assert_close(energy.precision.grad, torch.tensor([2.5]))


def test_owns_its_buffers(loc, covariance):
    energy = GaussianEnergy(loc, covariance)
    energy.load_state_dict(GaussianEnergy(loc + 1, covariance).state_dict())
    torch.testing.assert_close(loc, torch.tensor(LOC))


@pytest.mark.parametrize("stored", [torch.float32, torch.float64])
def test_dtypes_are_promoted(stored):
    energy = GaussianEnergy(torch.tensor(LOC), torch.tensor(COVARIANCE)).to(stored)
    assert energy(torch.zeros(3, 2, dtype=torch.float64)).dtype == torch.float64
    assert energy(torch.zeros(3, 2, dtype=torch.float32)).dtype == stored


def test_needs_exactly_one_spread(loc, covariance):
    with pytest.raises(ValueError, match="got none of"):
        GaussianEnergy(loc)
    with pytest.raises(ValueError, match="got covariance, precision of"):
        GaussianEnergy(loc, covariance, precision=covariance)


@pytest.mark.parametrize("name", ["covariance", "scale"])
def test_only_the_precision_is_trained(loc, name):
    with pytest.raises(ValueError, match=f"{name} requires grad"):
        GaussianEnergy(loc, **{name: nn.Parameter(torch.ones(2))})


@pytest.mark.parametrize(
    "bad",
    [torch.tensor([1.0, 0.0]), torch.tensor([[1, 2], [2, 1.0]]), torch.tensor([[1, 0], [1, 1.0]])],
)
def test_not_positive_definite_is_named(loc, bad):
    with pytest.raises(ValueError, match="precision is not positive definite"):
        GaussianEnergy(loc, precision=bad.double())


def test_wrong_shapes_and_dtypes_are_named(loc, covariance):
    with pytest.raises(ShapeError, match=r"covariance has shape \(3,\)"):
        GaussianEnergy(loc, torch.ones(3))
    with pytest.raises(ShapeError, match="scale has shape"):
        GaussianEnergy(loc, scale=covariance)
    with pytest.raises(ShapeError, match="covariance has dtype"):
        GaussianEnergy(loc, covariance.float())
    with pytest.raises(ShapeError, match="loc has dtype"):
        GaussianEnergy(loc.long(), covariance)


def test_numbers_must_be_finite(loc, covariance):
    with pytest.raises(NonFiniteError, match="loc"):
        GaussianEnergy(loc * math.inf, covariance)
    with pytest.raises(NonFiniteError, match="covariance"):
        GaussianEnergy(loc, covariance * math.nan)
