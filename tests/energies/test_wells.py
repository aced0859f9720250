"""Quartic and double-well energies: published constants, quadrature, closed-form gradients."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_ebm.energies import DoubleWellEnergy, QuarticEnergy
from pyro_ebm.energies.quadrature import tabulate


def test_quartic_constants():
    energy = QuarticEnergy()
    assert float(energy.variance) == pytest.approx(0.6759782401, abs=1e-10)
    assert float(energy.log_partition.exp()) == pytest.approx(2.5636933520, abs=1e-10)


def test_quartic_constants_by_quadrature():
    density = tabulate(QuarticEnergy(), -5.0, 5.0)
    assert math.exp(density.log_partition) == pytest.approx(2.5636933520, abs=1e-10)
    assert density.expectation(torch.square) == pytest.approx(0.6759782401, abs=1e-10)
    assert density.expectation(lambda x: x**4) == pytest.approx(1, abs=1e-10)


def test_double_well_constants():
    energy = DoubleWellEnergy()
    assert float(energy.variance) == pytest.approx(3.4085446087, abs=1e-10)
    assert float(energy.log_partition.exp()) == pytest.approx(2.8218294064, abs=1e-10)


@pytest.mark.parametrize(("location", "barrier"), [(2.0, 2.0), (0.1, 0.5), (3.0, 40.0)])
def test_double_well_constants_on_another_grid(location, barrier):
    energy = DoubleWellEnergy(location=location, barrier=barrier)
    reach = location * (1 + (100 / barrier) ** 0.25)
    density = tabulate(energy, -reach, 1.1 * reach)
    assert density.log_partition == pytest.approx(float(energy.log_partition), abs=1e-10)
    assert density.expectation(torch.square) == pytest.approx(float(energy.variance), rel=1e-10)


def test_double_well_has_the_stated_shape():
    x = torch.linspace(-5, 5, 11)
    torch.testing.assert_close(DoubleWellEnergy()(x), (x**2 - 4) ** 2 / 8)
    tall = DoubleWellEnergy(location=3.0, barrier=5.0)
    values = tall(torch.tensor([-3.0, 0.0, 3.0]))
    torch.testing.assert_close(values, torch.tensor([0.0, 5.0, 0.0]))


def test_gradients():
    x = torch.linspace(-3, 3, 7, requires_grad=True)
    (quartic,) = torch.autograd.grad(QuarticEnergy()(x).sum(), x)
    torch.testing.assert_close(quartic, x**3)
    (wells,) = torch.autograd.grad(DoubleWellEnergy()(x).sum(), x)
    torch.testing.assert_close(wells, x * (x**2 - 4) / 2)


@pytest.mark.parametrize("family", [QuarticEnergy, DoubleWellEnergy])
def test_coordinates_are_independent(family):
    one, many = family(), family((2, 3))
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(many(x), one(x).sum((1, 2)))
    torch.testing.assert_close(many.log_partition, 6 * one.log_partition)
    torch.testing.assert_close(many.variance, one.variance.expand(2, 3))


@pytest.mark.parametrize("name", ["location", "barrier"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        DoubleWellEnergy(**{name: value})
