"""Sums and multiples of energies, of ours and of users' callables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pyro_ebm.core.checks import ShapeError
from pyro_ebm.energies import (
    GaussianEnergy,
    MLPEnergy,
    QuarticEnergy,
    SumEnergy,
    TemperedEnergy,
)


class UserEnergy:
    """A user's energy that is no module."""

    def __init__(self, event_shape, function):
        self.event_shape = event_shape
        self.function = function

    def __call__(self, x):
        return self.function(x)

    def __repr__(self):
        return "UserEnergy()"


@pytest.fixture
def user():
    return UserEnergy((2,), lambda x: x.abs().sum(-1))


@pytest.fixture
def x():
    return torch.randn(5, 2)


def test_sum_is_the_sum(user, x):
    gaussian, network = GaussianEnergy.standard(2), MLPEnergy(2)
    expected = gaussian(x) + network(x) + user(x)
    for energy in (SumEnergy(gaussian, network, user), gaussian + network + user):
        torch.testing.assert_close(energy(x), expected)


def test_sum_works_from_both_sides(user, x):
    quartic = QuarticEnergy(2)
    torch.testing.assert_close((user + quartic)(x), (quartic + user)(x))
    assert (user + quartic).energies == (user, quartic)


def test_algebra_is_distributive(x):
    first, second = GaussianEnergy.standard(2), QuarticEnergy(2)
    torch.testing.assert_close((0.5 * (first + second))(x), (0.5 * first + 0.5 * second)(x))
    torch.testing.assert_close((2 * (3 * first))(x), (6.0 * first)(x))


@pytest.mark.parametrize("beta", [2, 2.0, np.float64(2), np.int64(2)])
def test_any_real_number_tempers_from_both_sides(beta, x):
    quartic = QuarticEnergy(2)
    for energy in (beta * quartic, quartic * beta):
        assert type(energy) is TemperedEnergy
        torch.testing.assert_close(energy(x), 2 * quartic(x))


def test_tempering_a_gaussian_scales_its_precision(x):
    tempered = 4.0 * GaussianEnergy.standard(2)
    torch.testing.assert_close(
        tempered(x), GaussianEnergy(torch.zeros(2), scale=torch.tensor(0.5))(x)
    )


def test_parameters_are_registered_once(user):
    network = MLPEnergy(2, hidden=(3,))
    energy = 0.5 * (network + user + network)
    assert set(energy.parameters()) == set(network.parameters())
    assert len(list(energy.parameters())) == len(list(network.parameters()))


def test_gradients_reach_the_parts(x):
    network = MLPEnergy(2, hidden=(3,))
    (0.5 * (GaussianEnergy.standard(2) + network))(x).sum().backward()
    combined = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    network(x).sum().backward()
    for came, parameter in zip(combined, network.parameters(), strict=True):
        torch.testing.assert_close(came, 0.5 * parameter.grad)


def test_plain_callables_are_shown(user):
    assert "UserEnergy()" in repr(user + QuarticEnergy(2))
    assert "UserEnergy()" in repr(TemperedEnergy(user, 2.0))


@pytest.mark.parametrize(
    "beta", [0, -1.0, math.nan, math.inf, torch.tensor(2.0), True + 1j, "2", None]
)
def test_beta_must_be_a_positive_number(beta):
    with pytest.raises(ValueError, match="beta="):
        TemperedEnergy(QuarticEnergy(), beta)


def test_other_operands_are_type_errors():
    quartic = QuarticEnergy()
    with pytest.raises(TypeError, match="unsupported operand"):
        quartic + 1
    with pytest.raises(TypeError, match="unsupported operand"):
        1 + quartic
    with pytest.raises(TypeError, match="unsupported operand"):
        quartic * quartic


def test_event_shapes_must_agree(user):
    with pytest.raises(ShapeError, match=r"event shapes \(2,\) and \(3,\)"):
        user + QuarticEnergy(3)
    with pytest.raises(ShapeError, match=r"event shapes \(\) and \(2,\)"):
        QuarticEnergy() + user


@pytest.mark.parametrize("build", [SumEnergy, lambda f: QuarticEnergy() + f])
def test_bare_functions_are_named(build):
    def bare(x):
        return x

    with pytest.raises(ShapeError, match="bare has no event_shape"):
        build(bare)
    with pytest.raises(ShapeError, match="Linear has no event_shape"):
        TemperedEnergy(nn.Linear(2, 1), 2.0)


def test_empty_sum_is_an_error():
    with pytest.raises(ValueError, match="no terms"):
        SumEnergy()


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (lambda x: x.sum(-1, keepdim=True), "squeeze"),
        (lambda x: x.sum(), "not over the batch"),
        (lambda x: x, "Sum over the event axes"),
    ],
)
def test_terms_that_would_broadcast_are_named(function, advice, x):
    energy = GaussianEnergy.standard(2) + UserEnergy((2,), function)
    with pytest.raises(ShapeError, match=advice):
        energy(x)
