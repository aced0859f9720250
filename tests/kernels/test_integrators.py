"""Integrators: reversible, of second order, and as stable as they say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pyro_ebm.kernels import HMC, LEAPFROG, MCLACHLAN, NUTS, ROTATIONS, ChEESHMC, Integrator
from pyro_ebm.kernels._hamiltonian import Phase, total_energy
from pyro_ebm.kernels._metric import DiagonalMetric, UnitMetric
from pyro_ebm.kernels._motion import FreeMotion, Rotation
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.sampling.step_size import StepSizeSearch
from pyro_ebm.sampling.steps import eager_steps
from tests.kernels.transitions import (
    CountingPotential,
    acceptance_of_linear_step,
    assert_invariant,
    gaussian_potential,
)
from tests.statistics import Rejected
from tests.targets import all_targets, asymmetric_target, gaussian_target

B, A = 0.11888010966548, 0.29619504261126
THREE_STAGE = Integrator(drifts=(A, 1 - 2 * A, A), kicks=(B, 0.5 - B, 0.5 - B, B))
"""Blanes, Casas and Sanz-Serna (2014)."""

ROTATING_MCLACHLAN = replace(MCLACHLAN, rotates=True)

every_integrator = pytest.mark.parametrize(
    "integrator",
    [LEAPFROG, MCLACHLAN, THREE_STAGE, ROTATIONS, ROTATING_MCLACHLAN],
    ids=["leapfrog", "McLachlan", "three gradients", "rotations", "rotating McLachlan"],
)


def _step(integrator, potential, position, momentum, step_size, metric=UnitMetric()):  # noqa: B008
    """The end ``(position, momentum)`` of a step of every chain, and the potential there."""
    start = Phase(position, momentum, potential.value_and_grad(position)[1])
    stride = torch.full((len(position), 1), step_size)
    center = torch.linspace(-0.4, 0.3, potential.dim)
    motion = Rotation(metric, center) if integrator.rotates else FreeMotion(metric)
    end, potential_energy = integrator.step(potential, start, stride, motion)
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


def test_two_leapfrogs_are_a_step_of_another():
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


@pytest.mark.parametrize("integrator", [LEAPFROG, MCLACHLAN], ids=["leapfrog", "McLachlan"])
def test_stability_on_a_gaussian(integrator):
    is_leapfrog = integrator is LEAPFROG
    limit = 2.0 if is_leapfrog else 2.0 / math.sqrt(1 - 2 * integrator.kicks[0])
    inside, outside = (_oscillator(integrator, limit + d) for d in (-1e-4, 1e-4))
    assert float(torch.linalg.eigvals(inside).abs().max()) == pytest.approx(1.0, abs=1e-6)
    assert float(torch.linalg.eigvals(outside).abs().max()) > 1.01


def test_half_a_turn_is_accepted():
    """Half the trace is the cosine of the angle: why 0.9 is recommended with it."""
    reversing, recommended = (_oscillator(MCLACHLAN, h) for h in (2.5, 2.25))
    assert float(reversing.trace()) / 2 < -0.95
    assert acceptance_of_linear_step(reversing) > 0.83
    assert float(recommended.trace()) / 2 > -0.8
    assert acceptance_of_linear_step(recommended) == pytest.approx(0.9, abs=0.01)
    assert float(_oscillator(LEAPFROG, 1.38).trace()) / 2 > 0.0
    assert acceptance_of_linear_step(_oscillator(LEAPFROG, 1.38)) == pytest.approx(0.8, abs=0.01)


def test_mclachlan_on_a_gaussian():
    r"""Half the trace is :math:`1 - h^2 / 2 + b (1 - 2 b) h^4 / 4`."""
    b, h = MCLACHLAN.kicks[0], 1.3
    expected = 1 - h**2 / 2 + b * (1 - 2 * b) * h**4 / 4
    assert float(_oscillator(MCLACHLAN, h).trace()) / 2 == pytest.approx(expected, rel=1e-14)


def _two_stage(b):
    return Integrator(drifts=(0.5, 0.5), kicks=(b, 1 - 2 * b, b))


def _error_terms(b):
    """Factors of ``h^2 p^T U'' p`` and ``h^2 |U'|^2`` in the energy that steps keep instead."""
    return (6 * b - 1) / 24, (1 - 6 * b + 6 * b**2) / 12


@pytest.mark.parametrize("b", [0.15, MCLACHLAN.kicks[0], 0.25, 0.3])
def test_energies_change_as_the_error_terms_say(b):
    """In one step, up to its fifth power: ``U = x^4 / 4``."""
    potential = EnergyPotential(lambda x: 0.25 * x.pow(4).sum(-1), (1,))
    x, p, h = torch.tensor([[0.8]]), torch.tensor([[0.5]]), 1e-3
    y, q, potential_energy = _step(_two_stage(b), potential, x, p, h)

    def error(x, p):
        first, second = _error_terms(b)
        return h**2 * (first * 3 * x**2 * p**2 + second * x**6)

    before = total_energy(potential.value_and_grad(x)[0], p)
    change = total_energy(potential_energy, q) - before
    expected = (error(x, p) - error(y, q)).squeeze(-1)
    torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-15)


def test_mclachlan_has_the_least_error():
    """0.37 times that of two leapfrogs, as the norm of the two terms."""
    b, r = MCLACHLAN.kicks[0], (2 * math.sqrt(326) + 36) ** (1 / 3)
    assert b == pytest.approx(0.5 - r / 12 + 1 / (6 * r), rel=1e-15)
    least, *others = (math.hypot(*_error_terms(c)) for c in (b, b - 1e-3, b + 1e-3))
    assert least < min(others)
    assert least / math.hypot(*_error_terms(0.25)) == pytest.approx(0.37, abs=0.005)


def _mean_energy_error(step):
    """Largest over the number of steps, on ``x^2 / 2``; equation 4.5 of Blanes et al."""
    (a, b), (c, _) = step.tolist()
    return (b + c) ** 2 / (2 * (1 - a**2))


@pytest.mark.parametrize("step_size", [0.2, 0.5, 1.0])
def test_energies_on_a_gaussian_are_kept_better_than_by_two_leapfrogs(step_size):
    two_leapfrogs = torch.linalg.matrix_power(_oscillator(LEAPFROG, step_size / 2), 2)
    one_step = _oscillator(MCLACHLAN, step_size)
    assert _mean_energy_error(one_step) < _mean_energy_error(two_leapfrogs) / 250


def _known_gaussian(integrator, dim):
    """What integrators that rotate go round."""
    return {"center": torch.zeros(dim), "scale": torch.ones(dim)} if integrator.rotates else {}


class Brittle(EnergyPotential):
    """A bowl that raises where it is not finite, and whose slope is no number right of 1."""

    slope = math.nan

    def value_and_grad(self, q):
        assert bool(q.isfinite().all())
        return 0.5 * q.square().sum(-1), torch.where(q > 1.0, self.slope, q)


@every_integrator
@pytest.mark.parametrize("slope", [math.nan, math.inf])
def test_slopes_that_are_no_numbers_diverge_and_lead_nowhere(integrator, slope):
    potential = Brittle(lambda x: x.square().sum(-1), (1,))
    potential.slope = slope
    known = _known_gaussian(integrator, 1)
    kernel = HMC(step_size=0.8, trajectory_length=1.0, jitter=0.0, integrator=integrator, **known)
    state = kernel.init(potential, torch.tensor([[0.9], [0.9]]))
    state.front.momentum.copy_(torch.tensor([[2.0], [-0.5]]))
    state = state._replace(energy=total_energy(state.potential_energy, state.front.momentum))
    moved, info = kernel.step(potential, state, kernel.noise(state, None))
    assert info.diverging.tolist() == [True, False]
    assert torch.equal(moved.position[0], state.position[0])
    assert bool(moved.front.position.isfinite().all())


@every_integrator
def test_a_step_takes_as_many_gradients_as_it_says(integrator):
    potential = CountingPotential(gaussian_target().energy)
    known = _known_gaussian(integrator, potential.dim)
    kernel = HMC(step_size=0.1, integrator=integrator, **known)
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
def test_kernels_with_mclachlan_leave_the_law_as_it_is(name, target):
    assert_invariant(KERNELS[name](MCLACHLAN), target, num_chains=10_000, num_draws=5)


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
        ((), (1.0,), "sum to 0,"),
        ((0.5, 0.4), (0.25, 0.5, 0.25), r"drifts=\(0.5, 0.4\) sum to 0.9"),
        ((0.5, 0.5), (0.3, 0.5, 0.2), r"kicks=.* forwards and backwards"),
        ((0.4, 0.6), (0.25, 0.5, 0.25), r"drifts=.* forwards and backwards"),
        ((math.nan,), (0.5, 0.5), "sum to nan"),
        ((1.0,), (math.inf, -math.inf), "kicks=.* sum to nan"),
    ],
)
def test_what_is_no_integrator_is_refused(drifts, kicks, message):
    with pytest.raises(ValueError, match=message):
        Integrator(drifts=drifts, kicks=kicks)


def test_coefficients_of_all_kinds_make_the_same_integrator():
    """So that checkpoints and compiled graphs are found again."""
    same = Integrator(drifts=[1], kicks=torch.tensor([0.5, 0.5]))
    assert same == LEAPFROG
    assert hash(same) == hash(LEAPFROG)
    assert repr(same) == repr(LEAPFROG)


@pytest.mark.parametrize(("stages", "steps"), [(1, 4), (2, 2), (3, 1), (5, 1)])
def test_calls_of_chees_take_four_gradients(stages, steps):
    """Of leapfrogs of which each is a part of a step."""
    inner = 1.0 / stages
    kicks = (inner / 2, *[inner] * (stages - 1), inner / 2)
    kernel = ChEESHMC(integrator=Integrator(drifts=[inner] * stages, kicks=kicks))
    assert kernel.steps_per_call == steps


@pytest.mark.parametrize(("target", "low", "high"), [(0.9, 2.1, 2.4), (0.8, 2.5531, 2.8)])
def test_at_the_usual_acceptance_steps_are_unstable_in_one_dimension(target, low, high):
    """Warm-up begins with them; 0.9 is what the docstring recommends."""
    potential = gaussian_potential(torch.ones(1, 1))
    kernel = HMC(integrator=MCLACHLAN, target_accept_prob=target)
    generator = torch.Generator().manual_seed(torch.initial_seed())
    search = StepSizeSearch(eager_steps(potential), generator)
    step_size = search.find(kernel, kernel.init(potential, torch.randn(200_000, 1), generator))
    assert low < step_size < high


@pytest.mark.parametrize("kernel", [HMC, NUTS, ChEESHMC])
@pytest.mark.parametrize("wrong", ["leapfrog", None, Integrator])
def test_what_is_given_for_an_integrator_is_named(kernel, wrong):
    with pytest.raises(TypeError, match="LEAPFROG, MCLACHLAN or another Integrator"):
        kernel(integrator=wrong)
