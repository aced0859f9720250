"""Integrators: reversible, of second order, and as stable as they say."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_ebm.kernels import HMC, LEAPFROG, NUTS, TWO_STAGE, ChEESHMC, Integrator
from pyro_ebm.kernels._hamiltonian import Phase, total_energy
from pyro_ebm.kernels._metric import DiagonalMetric, UnitMetric
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.transitions import (
    CountingPotential,
    assert_invariant,
    gaussian_potential,
)
from tests.statistics import Rejected
from tests.targets import all_targets, asymmetric_target, gaussian_target

B, A = 0.11888010966548, 0.29619504261126
THREE_STAGE = Integrator(drifts=(A, 1 - 2 * A, A), kicks=(B, 0.5 - B, 0.5 - B, B))
"""Blanes, Casas and Sanz-Serna (2014)."""

every_integrator = pytest.mark.parametrize(
    "integrator",
    [LEAPFROG, TWO_STAGE, THREE_STAGE],
    ids=lambda integrator: f"{integrator.num_gradients} gradients",
)


def _step(integrator, potential, position, momentum, step_size, metric=UnitMetric()):  # noqa: B008
    """The end ``(position, momentum)`` of a step of every chain, and the potential there."""
    start = Phase(position, momentum, potential.value_and_grad(position)[1])
    stride = torch.full((len(position), 1), step_size)
    end, potential_energy = integrator.step(potential, start, stride, metric)
    return end.position, end.momentum, potential_energy


@every_integrator
def test_a_step_is_reversible_and_keeps_volume(integrator):
    potential = EnergyPotential(asymmetric_target().energy)
    dim, metric = potential.dim, DiagonalMetric(torch.linspace(0.7, 1.2, potential.dim))

    def leap(both, step_size):
        x, p = both[:dim].unsqueeze(0), both[dim:].unsqueeze(0)
        x, p, _ = _step(integrator, potential, x, p, step_size, metric)
        return torch.cat([x[0], p[0]])

    both = torch.randn(2 * dim)
    torch.testing.assert_close(leap(leap(both, 0.3), -0.3), both, rtol=1e-13, atol=1e-13)
    small = 1e-6
    columns = [
        (leap(both + small * e, 0.3) - leap(both - small * e, 0.3)) / (2 * small)
        for e in torch.eye(2 * dim)
    ]
    assert float(torch.linalg.det(torch.stack(columns))) == pytest.approx(1.0, abs=1e-8)


def _end(integrator, potential, position, momentum, num_steps):
    """Where a trajectory of unit time ends."""
    for _ in range(num_steps):
        position, momentum, _ = _step(integrator, potential, position, momentum, 1.0 / num_steps)
    return torch.cat([position, momentum], dim=1)


@every_integrator
def test_half_the_step_is_a_quarter_of_the_error(integrator):
    potential = EnergyPotential(asymmetric_target().energy)
    start = torch.randn(20, potential.dim), torch.randn(20, potential.dim)
    exact = _end(THREE_STAGE, potential, *start, 2000)
    coarse, fine = ((_end(integrator, potential, *start, n) - exact).norm() for n in (40, 80))
    assert float((coarse / fine).log2()) == pytest.approx(2.0, abs=0.05)


def test_four_equal_kicks_are_two_leapfrogs():
    potential = EnergyPotential(asymmetric_target().energy)
    x, p = torch.randn(2, 5, potential.dim)
    twice = Integrator(drifts=(0.5, 0.5), kicks=(0.25, 0.5, 0.25))
    expected = _step(LEAPFROG, potential, *_step(LEAPFROG, potential, x, p, 0.35)[:2], 0.35)
    for found, value in zip(_step(twice, potential, x, p, 0.7), expected, strict=True):
        torch.testing.assert_close(found, value)


def _oscillator(integrator, step_size):
    """The matrix of one step on ``x^2 / 2``."""
    x, p = torch.eye(2).unsqueeze(-1)
    x, p, _ = _step(integrator, gaussian_potential(torch.ones(1, 1)), x, p, step_size)
    return torch.cat([x, p], dim=1).T


@pytest.mark.parametrize(("integrator", "limit"), [(LEAPFROG, 2.0), (TWO_STAGE, 2.5531525)])
def test_stability_on_a_gaussian(integrator, limit):
    inside, outside = (_oscillator(integrator, limit + d) for d in (-1e-4, 1e-4))
    assert float(torch.linalg.eigvals(inside).abs().max()) == pytest.approx(1.0, abs=1e-6)
    assert float(torch.linalg.eigvals(outside).abs().max()) > 1.01


def test_two_stages_on_a_gaussian():
    r"""Half the trace is :math:`1 - h^2 / 2 + b (1 - 2 b) h^4 / 4`."""
    b, h = TWO_STAGE.kicks[0], 1.3
    expected = 1 - h**2 / 2 + b * (1 - 2 * b) * h**4 / 4
    assert float(_oscillator(TWO_STAGE, h).trace()) / 2 == pytest.approx(expected, rel=1e-14)


def test_two_stages_have_the_least_error():
    """Of the two terms of second order, (1 - 6 b + 6 b^2) / 12 and (1 - 6 b) / 24."""
    b = TWO_STAGE.kicks[0]
    r = (2 * math.sqrt(326) + 36) ** (1 / 3)
    assert b == pytest.approx(0.5 - r / 12 + 1 / (6 * r), rel=1e-15)
    slope = (1 - 6 * b + 6 * b**2) / 12 * (b - 0.5) - (1 - 6 * b) / 24 / 4
    assert slope == pytest.approx(0.0, abs=1e-16)


def _energy_error(integrator, step_size):
    """Root of the mean square over the law, of a time of about one."""
    potential = EnergyPotential(asymmetric_target().energy)
    x = asymmetric_target().sample(5000, None).reshape(5000, -1)
    p = torch.randn_like(x)
    before = total_energy(potential.value_and_grad(x)[0], p)
    for _ in range(round(1 / step_size)):
        x, p, potential_energy = _step(integrator, potential, x, p, step_size)
    return float((total_energy(potential_energy, p) - before).square().mean().sqrt())


def test_two_stages_keep_the_energy_better_than_two_leapfrogs():
    assert _energy_error(TWO_STAGE, 0.25) < 0.4 * _energy_error(LEAPFROG, 0.125)


@every_integrator
def test_a_step_takes_as_many_gradients_as_it_says(integrator):
    potential = CountingPotential(gaussian_target().energy)
    kernel = HMC(step_size=0.1, integrator=integrator)
    state = kernel.init(potential, torch.randn(3, potential.dim))
    for _ in range(4):
        state, _ = kernel.step(potential, state, kernel.noise(state, None))
    assert potential.num_gradients == 1 + 4 * integrator.num_gradients


KERNELS = {
    "HMC": lambda integrator: HMC(step_size=1.1, integrator=integrator),
    "NUTS": lambda integrator: NUTS(step_size=1.1, integrator=integrator),
    "ChEES": lambda integrator: ChEESHMC(step_size=1.1, integrator=integrator),
}


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_with_two_stages_leave_the_law_as_it_is(name, target):
    assert_invariant(KERNELS[name](TWO_STAGE), target, num_chains=10_000, num_draws=5)


class Unchecked(Integrator):
    """Any coefficients."""

    def __post_init__(self):
        pass


@pytest.mark.parametrize("name", KERNELS)
def test_steps_that_are_not_reversible_are_rejected(name):
    """Symplectic Euler: all of the kick before the drift."""
    euler = Unchecked(drifts=(1.0,), kicks=(1.0, 0.0))
    with pytest.raises(Rejected):
        assert_invariant(KERNELS[name](euler), asymmetric_target(), num_chains=10_000, num_draws=5)


@pytest.mark.parametrize(
    ("drifts", "kicks", "message"),
    [
        ((1.0,), (1.0,), "one kick more than drifts"),
        ((), (1.0,), "sum to 0.0"),
        ((0.5, 0.4), (0.25, 0.5, 0.25), r"drifts=\(0.5, 0.4\) sum to 0.9"),
        ((0.5, 0.5), (0.3, 0.5, 0.2), r"kicks=.* forwards and backwards"),
        ((0.4, 0.6), (0.25, 0.5, 0.25), r"drifts=.* forwards and backwards"),
        ((math.nan,), (0.5, 0.5), "sum to nan"),
    ],
)
def test_what_is_no_integrator_is_refused(drifts, kicks, message):
    with pytest.raises(ValueError, match=message):
        Integrator(drifts=drifts, kicks=kicks)
