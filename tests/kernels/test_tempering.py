"""Replica exchange: the product law, the states of inner kernels, and the ladder."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from pyro_ebm import MCMC, to_arviz
from pyro_ebm.core.checks import ModelError
from pyro_ebm.energies import MixtureEnergy
from pyro_ebm.energies.quadrature import tabulate
from pyro_ebm.kernels import (
    HMC,
    MALA,
    NUTS,
    ChEESHMC,
    Langevin,
    PreconditionedMALA,
    ReplicaExchange,
    tempering,
)
from pyro_ebm.kernels._hamiltonian import Point
from pyro_ebm.kernels._replicas import TemperedPotential, points_of, put_at, tempered
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.transitions import CountingPotential, advance, gaussian_potential
from tests.statistics import Rejected, assert_chain_means, assert_mean
from tests.targets import AsymmetricEnergy, double_well_target, mixture_target

BETAS = torch.tensor([1.0, 0.5, 0.2])
INNER = [
    MALA(step_size=0.8),
    PreconditionedMALA(step_size=0.8, scale=torch.tensor([[1.3]])),
    HMC(step_size=0.7, jitter=0.8),
    NUTS(step_size=0.7),
]
every_inner = pytest.mark.parametrize("inner", INNER, ids=lambda kernel: type(kernel).__name__)


def _placed(kernel, potential, x):
    """State with the replicas ``(C, R, dim)`` at those places."""
    state = kernel.init(potential, x[:, 0])
    points = Point(x, *(value.unflatten(0, x.shape[:2]) for value in _at(potential, x)))
    everyone = torch.ones_like(state.waiting)
    inner = put_at(state.inner, everyone, tempered(points, state.beta, state.stretch))
    return state._replace(inner=inner)


def _at(potential, x):
    return potential.value_and_grad(x.flatten(0, 1))


# The product law, exactly.


def _flipped(beta, potential_energy):
    """The ratio with the opposite sign."""
    return (-beta.diff(dim=-1) * potential_energy.diff(dim=-1)).clamp(max=0.0).exp()


def _after_swaps(points):
    """Joint law of two replicas on the points before and after a swap, by all pairs at once.

    The inner kernel rejects everything, so that nothing but the swap happens.
    """
    num_points = len(points)
    kernel = ReplicaExchange(MALA(step_size=0.5), betas=torch.tensor([1.0, 0.3]))
    potential = EnergyPotential(AsymmetricEnergy())
    pairs = torch.cartesian_prod(points, points).unsqueeze(-1)
    state = _placed(kernel, potential, pairs)
    laws = [torch.softmax(-b * AsymmetricEnergy()(points), dim=0) for b in (1.0, 0.3)]
    law = torch.outer(*laws)
    noise = kernel.noise(state, None)
    noise = noise._replace(inner=noise.inner._replace(uniform=2.0 + noise.inner.uniform))
    moved, _ = kernel.step(potential, state, noise._replace(swap=0.0 * noise.swap))
    places = points_of(moved).position.squeeze(-1)
    torch.testing.assert_close(places, pairs.squeeze(-1).flip(1), rtol=0, atol=1e-14)
    stayed, _ = kernel.step(potential, state, noise._replace(swap=0.0 * noise.swap + 1.0))
    assert torch.equal(stayed.position, state.position)
    rate = moved.swap_acceptance.reshape(num_points, num_points)
    return law, law * (1 - rate) + (law * rate).T


def test_swaps_preserve_the_product_law(monkeypatch):
    points = torch.linspace(-3.0, 3.0, 41)
    law, after = _after_swaps(points)
    assert float((after - law).abs().max()) < 1e-16
    monkeypatch.setattr(tempering, "swap_acceptance", _flipped)
    law, after = _after_swaps(points)
    assert float((after - law).abs().sum()) > 1e-2


def test_a_swap_is_made_where_the_uniform_is_below_the_acceptance():
    kernel = ReplicaExchange(MALA(step_size=0.5), betas=BETAS)
    potential = EnergyPotential(AsymmetricEnergy())
    state = _placed(kernel, potential, 2 * torch.randn(2_000, 3, 1))
    for parity in (0, 1, 0):
        before = points_of(state).position.squeeze(-1)
        noise = kernel.noise(state, None)
        noise = noise._replace(inner=noise.inner._replace(uniform=2.0 + noise.inner.uniform))
        assert set(state.parity.tolist()) == {parity}
        state, info = kernel.step(potential, state, noise)
        swaps = noise.swap[:, parity] < state.swap_acceptance[:, parity]
        assert 0.2 < float(swaps.double().mean()) < 0.9
        expected = before.clone()
        pair = [parity, parity + 1]
        expected[:, pair] = torch.where(swaps.unsqueeze(-1), before[:, pair[::-1]], before[:, pair])
        torch.testing.assert_close(points_of(state).position.squeeze(-1), expected)
        assert torch.equal(info.replica, state.replica[:, 0])
        assert torch.equal(state.replica.sort(dim=1).values, torch.arange(3).expand(2_000, -1))


def test_round_trips():
    """With every swap made a replica goes down and up in turn, one place a draw."""
    kernel = ReplicaExchange(MALA(step_size=0.5), betas=BETAS)
    potential = gaussian_potential(torch.eye(1))
    state, came_back, coldest = kernel.init(potential, torch.randn(1, 1)), [], []
    for _ in range(12):
        noise = kernel.noise(state, None)
        state, info = kernel.step(potential, state, noise._replace(swap=0.0 * noise.swap))
        came_back.append(bool(info.round_trip))
        coldest.append(int(info.replica))
    assert coldest == [1, 1, 2, 2, 0, 0] * 2
    assert came_back == [False, False, True, False, True, False] + [True, False] * 3


# States of inner kernels.


@every_inner
def test_a_state_that_is_put_elsewhere_is_the_one_that_begins_there(inner):
    potential = EnergyPotential(AsymmetricEnergy())
    first, second = torch.randn(2, 20, 1)
    states = [inner.init(potential, x, torch.Generator().manual_seed(0)) for x in (first, second)]
    where = torch.arange(20) < 10
    points = Point(second, *potential.value_and_grad(second))
    moved = put_at(states[0], where, points)
    noise = inner.noise(moved, None)
    for _ in range(5):
        assert torch.equal(moved.position[:10], states[1].position[:10])
        assert torch.equal(moved.position[10:], states[0].position[10:])
        results = [inner.step(potential, state, noise) for state in (moved, *states)]
        (moved, info), *others = results
        states = [state for state, _ in others]
        for half, (_, report) in zip((slice(10, None), slice(10)), others, strict=True):
            torch.testing.assert_close(info.lp[half], report.lp[half])
            torch.testing.assert_close(info.step_acceptance[half], report.step_acceptance[half])


def test_tempered_potential_is_that_of_stretched_coordinates():
    potential = gaussian_potential(torch.tensor([[2.0, 0.6], [0.6, 1.0]]))
    beta, stretch = torch.rand(5) + 0.1, torch.rand(5) + 0.5
    y = torch.randn(5, 2, requires_grad=True)
    expected = beta * potential(stretch.unsqueeze(-1) * y)
    (slope,) = torch.autograd.grad(expected.sum(), y)
    value, grad = TemperedPotential(potential, beta, stretch).value_and_grad(y.detach())
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, slope)


def test_on_a_gaussian_all_replicas_have_the_same_potential():
    potential = gaussian_potential(torch.tensor([[2.0, 0.6], [0.6, 1.0]]))
    kernel = ReplicaExchange(MALA())
    y = torch.randn(1, 2).expand(8, 2)
    value, grad = TemperedPotential(potential, kernel.ladder, kernel.units).value_and_grad(y)
    torch.testing.assert_close(value, value[:1].expand(8))
    torch.testing.assert_close(grad, grad[:1].expand(8, 2))


@every_inner
def test_every_replica_makes_one_transition_for_a_draw(inner):
    """A replica that has ended its transition stays until all of its chain have."""
    kernel = ReplicaExchange(inner, betas=BETAS)
    potential = CountingPotential(AsymmetricEnergy())
    state = kernel.init(potential, torch.randn(200, 1))
    potential.num_gradients = 0
    ended = torch.zeros(200, 3, dtype=torch.int64)
    counts, num_waiting = [], 0
    for _ in range(60):
        before, noise = state, kernel.noise(state, None)
        state, info = kernel.step(potential, state, noise._replace(swap=0.0 * noise.swap + 1.0))
        num_waiting += int(before.waiting.sum())
        held, places = before.waiting, [points_of(s).position for s in (before, state)]
        assert torch.equal(places[0][held], places[1][held])
        ended += (state.waiting | info.finished.unsqueeze(-1)) & ~before.waiting
        counts.append(int(info.finished.sum()))
        assert torch.equal((ended * info.finished.unsqueeze(-1)).sum(1), 3 * info.finished)
        ended[info.finished] = 0
    assert potential.num_gradients == 60
    assert sum(counts) > 500
    assert (num_waiting > 0) == isinstance(inner, (HMC, NUTS))


# All replicas have their laws.


def _densities():
    return [tabulate(lambda x, b=b: b * AsymmetricEnergy()(x), -9.0, 9.0) for b in BETAS.tolist()]


def _features(x):
    return torch.stack([x, x.square(), (2 * x).tanh()], dim=-1)


def _assert_product_law(inner, num_chains=20_000, num_draws=6):
    """From exact starts; features of each replica, and products of neighbours."""
    densities = _densities()
    exact = torch.stack([d.sample((num_chains,)) for d in densities], dim=1).unsqueeze(-1)
    kernel, potential = ReplicaExchange(inner, betas=BETAS), EnergyPotential(AsymmetricEnergy())
    state = advance(kernel, potential, _placed(kernel, potential, exact), num_draws)
    x = points_of(state).position.squeeze(-1)
    truth = torch.stack([d.masses @ _features(d.points) for d in densities])
    features = _features(x)
    assert_mean(features, truth)
    centred = features - truth
    assert_mean(centred[:, 1:] * centred[:, :-1], 0.0)


@every_inner
def test_the_product_law_is_left_as_it_is(inner):
    _assert_product_law(inner)


def _always(beta, potential_energy):
    return torch.ones_like(beta.diff(dim=-1) * potential_energy.diff(dim=-1))


def _stale(inner, where, points):
    """Everything but the gradient goes along."""
    return put_at(inner, where, points._replace(grad=inner.grad))


def _same_units(points, beta, stretch):
    del stretch
    return tempered(points, beta, torch.ones_like(beta))


def _never_held(waiting, before, after):
    del waiting, before
    return after


@pytest.mark.parametrize(
    ("name", "mutant", "inner"),
    [
        ("swap_acceptance", _flipped, INNER[0]),
        ("swap_acceptance", _always, INNER[0]),
        ("put_at", _stale, INNER[0]),
        ("tempered", _same_units, INNER[0]),
        ("held", _never_held, INNER[3]),
    ],
)
def test_planted_mistakes_are_rejected(name, mutant, inner, monkeypatch):
    monkeypatch.setattr(tempering, name, mutant)
    with pytest.raises(Rejected):
        _assert_product_law(inner)


# Runs, from starts far from the law.


def _run(kernel, num_chains=100, num_draws=100, warmup_steps=100):
    mcmc = MCMC(kernel, num_draws, warmup_steps, num_chains=num_chains, disable_progbar=True)
    mcmc.run()
    return mcmc


@pytest.mark.parametrize("inner", [MALA, HMC])
def test_moments_of_a_mixture(inner):
    mcmc = _run(ReplicaExchange(inner(mixture_target().energy), num_replicas=4), num_draws=60)
    x = mcmc.get_samples(group_by_chain=True)["x"]
    features = torch.stack([x, (x - 0.8).square(), (x < 0).double()], dim=-1)
    assert_chain_means(features, torch.tensor([0.8, 4.135, 0.3159155910]))


def test_moments_of_a_double_well():
    mcmc = _run(ReplicaExchange(MALA(double_well_target().energy), num_replicas=4))
    x = mcmc.get_samples(group_by_chain=True)["x"]
    assert_chain_means(torch.stack([x, x.square()], dim=-1), torch.tensor([0.0, 3.4085446087]))


def _separated():
    """Modes 24 standard deviations apart, of weights 0.8 and 0.2."""
    locs = torch.tensor([[-6.0, 0.0], [6.0, 0.0]])
    return MixtureEnergy(torch.tensor([0.8, 0.2]), locs, torch.full((2, 2), 0.5))


def _assert_modes(kernel):
    """The share of the left one, and the variance across."""
    x = _run(kernel).get_samples(group_by_chain=True)["x"]
    features = torch.stack([(x[..., 0] < 0).double(), x[..., 1].square()], dim=-1)
    assert_chain_means(features, torch.tensor([0.8, 0.25]))


def test_modes_far_apart(monkeypatch):
    inner = MALA(_separated(), scale=torch.ones(2))
    kernel = ReplicaExchange(inner, num_replicas=8, smallest_beta=0.01)
    _assert_modes(kernel)
    with pytest.raises(Rejected):
        _assert_modes(inner)
    monkeypatch.setattr(tempering, "swap_acceptance", _flipped)
    with pytest.raises(Rejected):
        _assert_modes(kernel)


def test_statistics_reach_arviz_and_the_ladder_is_kept():
    mcmc = _run(ReplicaExchange(HMC(mixture_target().energy), num_replicas=4), 16, 20, 100)
    stats = to_arviz(mcmc)["sample_stats"]
    assert {"swap_rate", "replica", "round_trip", "n_steps"} <= set(stats)
    assert set(stats["replica"].values.ravel()) <= {0, 1, 2, 3}
    assert int(stats["n_steps"].min()) >= 4
    kernel = mcmc.kernel
    assert kernel.betas[0] == kernel.stretches[0] == 1
    assert float(kernel.betas[-1]) == 0.05
    assert float(kernel.barrier) == pytest.approx(float((1 - kernel.swap_rates).sum()))
    assert kernel.kernel.step_size is None
    assert kernel.step_size > 0


def test_a_ladder_that_is_given_is_kept():
    kernel = ReplicaExchange(MALA(mixture_target().energy), betas=BETAS, stretches=BETAS.rsqrt())
    tuned = _run(kernel, 16, 5, 50).kernel
    assert torch.equal(tuned.betas, BETAS)
    assert torch.equal(tuned.stretches, BETAS.rsqrt())
    assert tuned.swap_rates.shape == (2,)


def test_float32_and_one_chain():
    potential = EnergyPotential(lambda x: 0.5 * x.square().sum(-1) + 1e4, (2,))
    kernel = ReplicaExchange(HMC(step_size=0.5), betas=BETAS)
    state = kernel.init(potential, torch.randn(1, 2, dtype=torch.float32))
    for _ in range(20):
        state, info = kernel.step(potential, state, kernel.noise(state, None))
    assert state.position.dtype == state.beta.dtype == torch.float32
    assert state.swap_acceptance.dtype == info.swap_rate.dtype == torch.float64
    torch.testing.assert_close(state.potential_energy, potential(state.position), rtol=1e-6, atol=0)


@pytest.mark.parametrize("inner", [Langevin(), ChEESHMC(), ReplicaExchange(MALA()), math.sin])
def test_kernels_that_cannot_be_inside_are_named(inner):
    with pytest.raises(ModelError, match="MALA"):
        ReplicaExchange(inner)


def test_hyperparameters_come_from_the_inner_kernel_unless_they_are_given():
    scale = torch.tensor([2.0])
    inner = HMC(step_size=0.3, scale=scale, target_accept_prob=0.7, full_mass=True)
    kernel = ReplicaExchange(inner)
    assert (kernel.step_size, kernel.target_accept_prob, kernel.full_mass) == (0.3, 0.7, True)
    assert kernel.scale is scale
    assert dataclasses.replace(kernel, target=math.sin).kernel.target is math.sin
    assert dataclasses.replace(ReplicaExchange(HMC(math.sin)), target=None).target is None
    assert ReplicaExchange(inner, step_size=0.1).step_size == 0.1
