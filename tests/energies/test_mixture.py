"""Gaussian mixtures against torch's distributions, closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pyro_ebm.core.checks import NonFiniteError, ShapeError
from pyro_ebm.energies import MixtureEnergy
from pyro_ebm.energies.quadrature import tabulate


def _two_modes():
    weights, locs = torch.tensor([0.3, 0.7]), torch.tensor([-2.0, 2.0])
    return MixtureEnergy(weights, locs, torch.tensor([0.5, 1.0]))


def test_is_minus_the_log_density():
    weights = torch.tensor([0.2, 0.3, 0.5])
    locs, scales = torch.randn(3, 2, 4), torch.rand(3, 2, 4) + 0.5
    components = Independent(Normal(locs, scales), 2)
    x = torch.randn(6, 2, 4)
    expected = -MixtureSameFamily(Categorical(weights), components).log_prob(x)
    torch.testing.assert_close(MixtureEnergy(weights, locs, scales)(x), expected)


def test_moments_of_two_modes():
    energy = _two_modes()
    torch.testing.assert_close(energy.mean, torch.tensor(0.8))
    torch.testing.assert_close(energy.variance, torch.tensor(4.135))


def test_quadrature_agrees():
    density = tabulate(_two_modes(), -12.0, 12.0)
    assert density.log_partition == pytest.approx(0, abs=1e-10)
    assert density.expectation(lambda x: x) == pytest.approx(0.8, abs=1e-10)
    assert density.expectation(torch.square) == pytest.approx(4.135 + 0.64, abs=1e-10)


def test_gradient_is_the_responsibility_weighted_one():
    energy = _two_modes()
    x = torch.linspace(-4, 4, 9, requires_grad=True)
    (grad,) = torch.autograd.grad(energy(x).sum(), x)
    joint = energy.weights * Normal(energy.locs, energy.scales).log_prob(x[:, None]).exp()
    responsibility = joint / joint.sum(-1, keepdim=True)
    slopes = (x[:, None] - energy.locs) / energy.scales**2
    torch.testing.assert_close(grad, (responsibility * slopes).sum(-1))


def test_is_finite_far_from_every_mode():
    x = torch.tensor([-1e3, 1e3], requires_grad=True)
    energies = _two_modes()(x)
    (grad,) = torch.autograd.grad(energies.sum(), x)
    assert bool(torch.isfinite(energies).all() and torch.isfinite(grad).all())


def test_locs_and_scales_can_be_trained():
    locs, scales = nn.Parameter(torch.tensor([-2.0, 2.0])), nn.Parameter(torch.ones(2))
    energy = MixtureEnergy(torch.tensor([0.5, 0.5]), locs, scales)
    assert [name for name, _ in energy.named_parameters()] == ["locs", "scales"]
    energy(torch.randn(5)).mean().backward()
    assert locs.grad is not None
    assert scales.grad is not None


def test_bad_arguments_are_named():
    weights, locs, scales = torch.tensor([0.3, 0.7]), torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(ShapeError, match=r"\(K, \*event\)"):
        MixtureEnergy(weights, locs, torch.ones(2))
    with pytest.raises(ShapeError, match=r"\(K, \*event\)"):
        MixtureEnergy(weights[:1], locs, scales)
    with pytest.raises(ValueError, match="divide them by their sum"):
        MixtureEnergy(2 * weights, locs, scales)
    with pytest.raises(ValueError, match="above zero"):
        MixtureEnergy(torch.tensor([0.0, 1.0]), locs, scales)
    with pytest.raises(ValueError, match="scales"):
        MixtureEnergy(weights, locs, -scales)
    with pytest.raises(NonFiniteError, match="locs"):
        MixtureEnergy(weights, locs * math.nan, scales)
    with pytest.raises(ShapeError, match="locs has dtype"):
        MixtureEnergy(weights, locs.long(), scales)
