"""ChEES-HMC: the criterion against closed forms, lockstep, and what the tuned kernel samples."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import optimize

from pyro_ebm import MCMC
from pyro_ebm.core.checks import ModelError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import ChEESHMC, _trajectory_length, chees
from pyro_ebm.kernels._trajectory_length import (
    UNIT_LENGTH,
    centred,
    criterion_gradient,
    relative_gradient,
    spread,
)
from pyro_ebm.kernels.chees import next_halton
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.transitions import (
    CountingPotential,
    assert_invariant,
    draws_of,
    gaussian_potential,
)
from tests.statistics import Rejected, assert_chain_means
from tests.targets import asymmetric_target, gaussian_target

SCALES = torch.linspace(0.1, 1.0, 10)


def _van_der_corput(n):
    return sum(int(bit) / 2.0 ** (k + 1) for k, bit in enumerate(reversed(f"{n:b}")))


def test_shares_are_the_halton_sequence():
    point, points = torch.tensor([0.5]), []
    for _ in range(1_000):
        points.append(point.item())
        point = next_halton(point)
    assert points == [_van_der_corput(n) for n in range(1, 1_001)]


def _exact_flow(time):
    """Nodes and weights with which averages over ``x, p ~ N(0, I_2)`` are exact, moved in time."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(6))
    grid = torch.cartesian_prod(nodes, nodes, nodes, nodes)
    weight = torch.cartesian_prod(weights, weights, weights, weights).prod(dim=1)
    x, p = grid[:, :2], grid[:, 2:]
    c, s = math.cos(time), math.sin(time)
    return x, c * x + s * p, c * p - s * x, weight


@pytest.mark.parametrize("time", [0.3, 1.0, 2.0, 4.0])
def test_criterion_gradient_on_the_exact_flow(time):
    """The criterion is ``d sin^2 t`` on a standard normal."""
    start, end, velocity, weight = _exact_flow(time)
    gradient = criterion_gradient(centred(start, weight), centred(end, weight), velocity)
    assert gradient.item() == pytest.approx(2 * math.sin(2 * time), abs=1e-12)


def test_criterion_gradient_is_the_same_wherever_the_centre_is():
    start, end, velocity, weight = _exact_flow(0.7)
    chains = centred(start + 3.0, weight), centred(end - 2.0, weight)
    gradient = criterion_gradient(*chains, velocity)
    assert gradient.item() == pytest.approx(2 * math.sin(1.4), abs=1e-10)


def test_spread_is_that_of_starts_and_ends_that_know_nothing_of_each_other():
    start = torch.tensor([[0.0], [0.0], [3.0]])
    end = torch.tensor([[-1.0], [5.0], [100.0]])
    weight = torch.tensor([1.0, 0.5, 0.0])
    # Squares 1, 1, 4 about the mean 1; squares 4 (twice) and 16 about the mean 1.
    pairs = [(before, after) for before in (1.0, 1.0, 4.0) for after in (4.0, 4.0, 16.0)]
    wanted = sum((after - before) ** 2 for before, after in pairs) / 9
    chains = centred(start, torch.ones(3)), centred(end, weight)
    assert spread(*chains).item() == pytest.approx(wanted)


def _trajectory(start, end, weight):
    """Three chains after four steps, ``start`` and ``end`` in units of a half."""
    momentum = torch.tensor([[1.0], [-2.0], [0.5]])
    phase = SimpleNamespace(position=2.0 * torch.tensor(end), momentum=momentum)
    state = SimpleNamespace(start=2.0 * torch.tensor(start), end=phase)
    return state, SimpleNamespace(
        acceptance_rate=torch.tensor(weight), n_steps=torch.tensor([4] * 3)
    )


def test_starts_count_alike_and_ends_as_they_are_accepted():
    trajectory = _trajectory([[0.0], [0.0], [3.0]], [[-1.0], [5.0], [100.0]], [1.0, 0.5, 0.0])
    # Distances of the first two ends -2 and 4 with squares 4 and 16, of their starts 1 and 1.
    slope = (2 / 3) * (4 - 1) * (-2 * 1.0) + (1 / 3) * (16 - 1) * (4 * -2.0)
    unit = 2 + 32 + (8 - 2) ** 2  # variances of 1, 1, 4 and of 4, 4, 16, and means 2 and 8
    gradient = relative_gradient(torch.tensor([2.0]), *trajectory, step_size=0.1)
    assert gradient == pytest.approx(0.4 * slope / unit)


@pytest.mark.parametrize("weight", [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
def test_chains_that_are_all_rejected_or_at_one_distance_tell_nothing(weight):
    trajectory = _trajectory([[1.0], [1.0], [1.0]], [[1.0], [1.0], [1.0]], weight)
    assert relative_gradient(None, *trajectory, step_size=0.1) is None


def test_unit_length_is_the_best_for_a_standard_normal():
    """Where the gradient, averaged over the shares of the sequence, vanishes."""
    point, total = torch.tensor([0.5]), 0.0
    for _ in range(1_023):
        time = point.item() * UNIT_LENGTH
        total += time * math.sin(2 * time)
        point = next_halton(point)
    assert total / 1_023 == pytest.approx(0.0, abs=2e-3)
    slope = math.cos(2 * UNIT_LENGTH) * 2 * UNIT_LENGTH - math.sin(2 * UNIT_LENGTH)
    assert slope == pytest.approx(0.0, abs=1e-5)


class Bowl:
    """``N(0, I)``, with the gradient by hand because there are many steps."""

    def value_and_grad(self, q):
        return 0.5 * q.square().sum(-1), q


def _tuned_log_lengths(kernel, potential, start, num_trajectories):
    tuner, logs = kernel.adaptation(), []
    state = kernel.init(potential, start)
    while len(logs) < num_trajectories:
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        kernel = tuner.update(kernel, state, info)
        if bool(info.finished.all()):
            logs.append(math.log(kernel.trajectory_length))
    return logs, tuner.finish(kernel)


def _best_length(step_size):
    """Where the mean gradient vanishes if lengths are rounded up to whole steps."""
    shares = (torch.arange(4_000) + 0.5) / 4_000

    def gradient(length):
        time = (shares * length / step_size).ceil() * step_size
        return float((time * (2 * time).sin()).mean())

    return optimize.brentq(gradient, 1.5, 2.5)


def test_tuning_climbs_to_the_best_length():
    best = _best_length(0.1)
    assert best == pytest.approx(2.19, abs=0.01)
    start = torch.randn(256, 10)
    logs, kernel = _tuned_log_lengths(ChEESHMC(step_size=0.1), Bowl(), start, 200)
    assert logs[0] == pytest.approx(math.log(0.9), abs=0.05)
    assert math.exp(sum(logs[100:]) / 100) == pytest.approx(best, abs=0.1)
    assert kernel.trajectory_length == pytest.approx(best, abs=0.2)


def test_far_out_starts_are_forgotten(monkeypatch):
    """Their gradients are 10^8 times as large; Adam would take small ones for nothing."""
    start = 100.0 * torch.randn(256, 10)
    logs, _ = _tuned_log_lengths(ChEESHMC(step_size=0.1), Bowl(), start, 150)
    assert math.exp(sum(logs[100:]) / 50) == pytest.approx(_best_length(0.1), abs=0.1)
    monkeypatch.setattr(_trajectory_length, "spread", lambda *_: torch.tensor(1.0))
    logs, _ = _tuned_log_lengths(ChEESHMC(step_size=0.1), Bowl(), start, 150)
    assert math.exp(sum(logs[100:]) / 50) < 1.7


def test_warm_up_begins_with_short_trajectories():
    kernel, tuner, lengths = ChEESHMC(step_size=0.01), ChEESHMC().adaptation(), []
    state = kernel.init(Bowl(), torch.randn(64, 2))
    while len(lengths) < 4:
        state, info = kernel.step(Bowl(), state, kernel.noise(state, None))
        kernel = tuner.update(kernel, state, info)
        lengths += info.n_steps[:1][info.finished[:1]].tolist()
    assert lengths[:2] == [5, 3]
    assert max(lengths) < 10


def _wide(dense, factor):
    """Standard deviations that are 1 but for one; or a factor of a covariance with such."""
    if not dense:
        return torch.ones(3).index_fill(0, torch.tensor([1]), factor)
    rows = [[1.0, 0.0, 0.0], [0.8 * factor, 0.6 * factor, 0.0], [0.0, 0.0, 1.0]]
    return torch.tensor(rows)


@pytest.mark.parametrize("dense", [False, True])
def test_a_length_in_other_units_is_forgotten_at_once(dense):
    kernel = ChEESHMC(step_size=0.1, scale=_wide(dense, 1.0))
    tuner, state = kernel.adaptation(), kernel.init(Bowl(), torch.randn(64, 3))
    lengths = []
    for factor in (1.0, 1.9, 3.9, 2.0, 0.9):
        kernel = dataclasses.replace(kernel, scale=_wide(dense, factor))
        state, info = kernel.step(Bowl(), kernel.restart(state, None), kernel.noise(state, None))
        assert not info.finished.any()
        kernel = tuner.update(kernel, state, info)
        lengths.append(kernel.trajectory_length)
        kernel = dataclasses.replace(kernel, trajectory_length=5.0)
        tuner._log_length = math.log(5.0)
    assert lengths == pytest.approx([UNIT_LENGTH, 5.0, UNIT_LENGTH, 5.0, UNIT_LENGTH])


@pytest.mark.parametrize("scale", [torch.full((10,), 0.01), 0.01 * torch.eye(10)])
def test_lengths_are_in_units_of_the_scale(scale):
    """A kernel that measures in the units of the scale tunes alike, whatever they are."""
    start = torch.randn(64, 10)
    potential = gaussian_potential(1e4 * torch.eye(10))
    torch.manual_seed(0)
    unit = ChEESHMC(step_size=0.3, scale=torch.ones(10))
    expected, _ = _tuned_log_lengths(unit, Bowl(), start, 10)
    torch.manual_seed(0)
    logs, _ = _tuned_log_lengths(ChEESHMC(step_size=0.3, scale=scale), potential, 0.01 * start, 10)
    assert logs == pytest.approx(expected, abs=1e-9)


def test_chains_are_in_lockstep():
    kernel, potential = ChEESHMC(step_size=0.3), CountingPotential(GaussianEnergy.standard(3))
    state, lengths, count = kernel.init(potential, torch.randn(50, 3)), [], 0
    for _ in range(200):
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        assert len(info.finished.unique()) == 1
        count += 1
        if bool(info.finished.all()):
            assert set(info.n_steps.tolist()) == {count}
            lengths.append(count)
            count = 0
    assert potential.num_gradients == 201
    shares = [_van_der_corput(n + 1) for n in range(len(lengths))]
    assert lengths == [math.ceil(share * UNIT_LENGTH / 0.3) for share in shares]


def test_a_new_step_size_takes_effect_at_once():
    potential = gaussian_potential(torch.eye(3))
    state = ChEESHMC().init(potential, torch.randn(5, 3))
    kernel = ChEESHMC(step_size=0.3)
    _, info = kernel.step(potential, state, kernel.noise(state, None))
    assert set(info.step_size.tolist()) == {0.3}


def test_a_chain_that_diverges_waits_and_is_rejected():
    def energy(x):
        return (0.5 * x.square() + torch.where(x > 5, torch.nan, 0.0)).sum(-1)

    potential = EnergyPotential(energy, (1,))
    kernel = ChEESHMC(step_size=0.2, trajectory_length=4.0)
    state = kernel.init(potential, torch.tensor([[4.9], [0.0]]))
    state.front.momentum[:, 0] = 2.0
    state = state._replace(energy=state.potential_energy + 2.0)
    start = state.position.clone()
    for step in range(10):
        assert torch.isfinite(state.front.position).all()
        noise = kernel.noise(state, None)
        state, info = kernel.step(potential, state, noise._replace(accept=0.0 * noise.accept))
        assert info.finished.tolist() == [step == 9] * 2
        assert info.diverging.tolist() == [True, False]
    assert info.acceptance_rate[0] == 0
    assert torch.equal(state.position[0], start[0])
    assert not torch.equal(state.position[1], start[1])


@pytest.mark.parametrize("scale", [None, torch.tensor([[1.4, 0.0], [0.8, 0.5]])])
def test_leaves_the_law_as_it_is(scale):
    assert_invariant(ChEESHMC(step_size=0.5, scale=scale), gaussian_target())


def _accepts_all(log_ratio, diverging):
    del diverging
    return torch.ones_like(log_ratio)


def _forgets_kinetic_energy(potential_energy, momentum):
    del momentum
    return potential_energy.double()


@pytest.mark.parametrize(
    ("name", "mutant"),
    [("point_acceptance", _accepts_all), ("total_energy", _forgets_kinetic_energy)],
)
def test_planted_mistakes_are_rejected(name, mutant, monkeypatch):
    monkeypatch.setattr(chees, name, mutant)
    with pytest.raises(Rejected):
        assert_invariant(ChEESHMC(step_size=0.6), asymmetric_target())


def _spread_of_squares(kernel):
    """Variance of the chains' means of ``x^2``: 1 if draws are independent, 32 if all are one."""
    potential = Bowl()
    state = kernel.init(potential, torch.randn(500, 2))
    squares = draws_of(kernel, potential, state, 32).square()
    return float(squares.mean(dim=1).var(dim=0).max() * 32 / 2)


def test_shares_avoid_resonance(monkeypatch):
    """After half a period ``x`` has become ``-x``, whose square is the same."""
    kernel = ChEESHMC(step_size=math.pi / 8, trajectory_length=2 * math.pi)
    assert _spread_of_squares(kernel) < 6
    monkeypatch.setattr(chees, "next_halton", lambda point: point)
    assert _spread_of_squares(kernel) > 20


def test_tuned_run_on_unequal_scales():
    energy = GaussianEnergy(torch.zeros(10), precision=torch.diag(SCALES**-2))
    mcmc = MCMC(ChEESHMC(energy), 100, warmup_steps=150, num_chains=64, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    features = torch.cat([draws, draws.square()], dim=-1)
    assert_chain_means(features, torch.cat([torch.zeros(10), SCALES**2]))
    assert 1.0 < mcmc.kernel.trajectory_length < 3.0
    assert mcmc.chains.stats["acceptance_rate"].mean() > 0.6
    # 1 if draws were independent.
    squares = draws.square().mean(dim=1).var(dim=0) * 100 / (2 * SCALES**4)
    assert float(squares.max()) < 8


def test_a_length_that_is_given_is_kept():
    kernel = ChEESHMC(GaussianEnergy.standard(2), trajectory_length=1.25)
    mcmc = MCMC(kernel, 5, warmup_steps=20, num_chains=1, disable_progbar=True)
    mcmc.run()
    assert mcmc.kernel.trajectory_length == 1.25


def test_few_chains_cannot_tune_a_length():
    kernel = ChEESHMC(GaussianEnergy.standard(2))
    with pytest.raises(ModelError, match=r"7 chains: .* average over chains"):
        MCMC(kernel, 5, warmup_steps=20, num_chains=7, disable_progbar=True).run()


@pytest.mark.parametrize("wrong", [{"trajectory_length": 0.0}, {"max_num_steps": 0}])
def test_wrong_hyperparameters_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ChEESHMC(**wrong)
