"""NUTS: leaf by leaf against a plain implementation, its law, and that no chain waits."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from torch import Tensor

from pyro_ebm.core.checks import NonFiniteError
from pyro_ebm.core.positions import map_fields, select
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import NUTS, _checkpoints, nuts
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.sampling import MCMC, RecordingNUTS
from pyro_ebm.sampling.recording import RECORD
from tests.kernels.reference_nuts import Leaf as ReferenceLeaf
from tests.kernels.reference_nuts import some_subtree_turns, transition
from tests.kernels.transitions import (
    CountingPotential,
    advance,
    assert_invariant,
    assert_law,
    exact_start,
    gaussian_potential,
    noise_like,
)
from tests.statistics import Rejected, assert_same_mean
from tests.targets import asymmetric_target, funnel_target, gaussian_target

PRECISION = torch.tensor([[1.0, 0.6, 0.0], [0.6, 2.0, 0.3], [0.0, 0.3, 40.0]])


def _finished(kernel, potential, state, num_draws):
    """For each draw, in the order of the steps: the number of draws before and its report."""
    reports, count = [], torch.zeros(len(state.position), dtype=torch.int64)
    while int(count.min()) < num_draws:
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        keeps = info.finished & (count < num_draws)
        reports.append([statistic[keeps] for statistic in info])
        count = count + info.finished
    return dict(zip(info._fields, map(torch.cat, zip(*reports, strict=True)), strict=True))


@pytest.mark.parametrize("step_size", [0.05, 0.2, 0.3, 3.0])
def test_draws_are_those_of_the_plain_implementation(step_size):
    """With the same momenta and uniforms; what is left to chance is nothing."""
    kernel, potential = NUTS(step_size=step_size), gaussian_potential(PRECISION)
    state = kernel.init(potential, torch.randn(3, 3))
    for chain in range(3):
        position, momentum = state.position[chain], state.front.momentum[chain]
        steps = [kernel.noise(state, None) for _ in range(600)]
        uniforms = torch.stack(
            [torch.stack([n.leaf[chain], n.subtree[chain], n.direction[chain]]) for n in steps]
        )
        expected = transition(potential, position, momentum, step_size, uniforms)
        moving = state
        for noise in steps:
            moving, info = kernel.step(potential, moving, noise)
            if info.finished[chain]:
                break
        torch.testing.assert_close(moving.position[chain], expected.position)
        assert int(info.n_steps[chain]) == expected.num_steps
        assert int(info.tree_depth[chain]) == expected.depth
        assert float(info.acceptance_rate[chain]) == pytest.approx(expected.acceptance_rate)
        assert bool(info.diverging[chain]) == expected.diverging
        assert expected.diverging == (step_size > 1.0)


def test_the_plain_implementation_sees_long_and_broken_trajectories():
    kernel, potential = NUTS(step_size=0.1), gaussian_potential(PRECISION)
    report = _finished(kernel, potential, kernel.init(potential, torch.randn(50, 3)), 5)
    assert int(report["tree_depth"].max()) >= 4
    # A trajectory that a sub-tree has ended is no complete tree.
    assert bool((report["n_steps"] + 1 != 2 ** report["tree_depth"]).any())


@pytest.mark.parametrize("few_numbers", [0, 10**9], ids=["used slots", "all slots"])
def test_every_balanced_subtree_is_looked_at_and_no_other(few_numbers, monkeypatch):
    """Random momenta, leaf by leaf, against all sub-trees of all leaves so far."""
    monkeypatch.setattr(_checkpoints, "_FEW_NUMBERS", few_numbers)
    num_chains, depth = 40, 6
    momenta = torch.randn(2**depth, num_chains, 2) + 0.5
    checkpoints = _checkpoints.empty_checkpoints(momenta[0], depth + 1)
    total = torch.zeros(num_chains, 2)
    depths = torch.full((num_chains,), depth)
    outcomes = set()
    for number, momentum in enumerate(momenta):
        total = total + momentum
        leaf = torch.full((num_chains,), number)
        turned = _checkpoints.subtree_has_turned(checkpoints, leaf, depths, momentum, total)
        if number % 2 == 1:
            turned |= _checkpoints.pair_has_turned(momenta[number - 1], momentum)
        for chain in range(num_chains):
            leaves = [
                ReferenceLeaf(p[chain], p[chain], p[chain], 0.0) for p in momenta[: number + 1]
            ]
            assert bool(turned[chain]) == some_subtree_turns(leaves)
            outcomes.add((number % 8, bool(turned[chain])))
    assert {(7, True), (7, False), (3, True), (3, False)} <= outcomes


@pytest.mark.parametrize("step_size", [0.3, 0.9])
def test_leaves_the_law_of_a_gaussian_as_it_is(step_size):
    assert_invariant(NUTS(step_size=step_size), gaussian_target(), num_chains=10_000, num_draws=3)


@pytest.mark.parametrize("target", [asymmetric_target(), funnel_target()], ids=lambda t: t.name)
def test_leaves_other_laws_as_they_are(target):
    assert_invariant(NUTS(step_size=0.4), target, num_chains=5_000, num_draws=3)


def _looks_at_no_subtree(checkpoints, leaf, depth, momentum, momentum_sum):
    del checkpoints, depth, momentum, momentum_sum
    return torch.zeros_like(leaf, dtype=torch.bool)


def _looks_at_no_pair(left, right):
    del right
    return torch.zeros(len(left), dtype=torch.bool)


def _takes_every_leaf(subtree, leaf, momentum, log_ratio, uniform):
    return nuts_grown(subtree, leaf, momentum, log_ratio, torch.zeros_like(uniform))


def _takes_every_subtree(tree, subtree, merges, uniform):
    return nuts_merged(tree, subtree, merges, torch.zeros_like(uniform))


nuts_grown, nuts_merged = nuts._grown, nuts._merged
MUTANTS = {
    "no sub-trees": {
        "subtree_has_turned": _looks_at_no_subtree,
        "pair_has_turned": _looks_at_no_pair,
    },
    "no sub-trees of two": {"pair_has_turned": _looks_at_no_pair},
    "no sub-trees of four": {"subtree_has_turned": _looks_at_no_subtree},
    "every leaf": {"_grown": _takes_every_leaf},
    "every sub-tree": {"_merged": _takes_every_subtree},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mistakes_are_rejected(mutant, monkeypatch):
    for name, function in MUTANTS[mutant].items():
        monkeypatch.setattr(nuts, name, function)
    with pytest.raises(Rejected):
        assert_invariant(NUTS(step_size=0.9), gaussian_target(), num_chains=10_000, num_draws=8)


def test_who_stops_at_a_time_keeps_too_many_from_short_trajectories():
    """Each chain's first draw has the law of the start; those finished by some step do not."""
    kernel, target = NUTS(step_size=0.3), funnel_target()
    potential = EnergyPotential(target.energy)
    state = exact_start(kernel, target, 5_000, potential)
    assert_law(advance(kernel, potential, state, 1), target)
    draw, has_draw = state, torch.zeros(5_000, dtype=torch.bool)
    for _ in range(7):
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        draw = select(info.finished & ~has_draw, state, draw)
        has_draw |= info.finished
    assert 0.2 < float(has_draw.double().mean()) < 0.8
    with pytest.raises(Rejected):
        assert_law(map_fields(lambda field: field[has_draw], draw), target)


def test_one_gradient_for_each_step():
    potential = CountingPotential(gaussian_target().energy)
    kernel = NUTS(step_size=0.3)
    state = kernel.init(potential, torch.randn(20, potential.dim))
    assert potential.num_gradients == 1
    for _ in range(50):
        state, _ = kernel.step(potential, state, kernel.noise(state, None))
    assert potential.num_gradients == 51


def test_no_chain_waits_for_another():
    """As many steps as the chain with most leapfrogs, not the sum of the longest trajectories."""
    potential = gaussian_potential(torch.diag(torch.tensor([1.0, 30.0])))
    steps = []
    mcmc = MCMC(
        NUTS(potential, step_size=0.2),
        20,
        0,
        num_chains=50,
        hook_fn=lambda *args: steps.append(args[3]),
        disable_progbar=True,
    )
    mcmc.run()
    n_steps = mcmc.chains.stats["n_steps"]
    assert len(steps) == int(n_steps.sum(dim=1).max())
    assert len(steps) < 0.8 * int(n_steps.max(dim=0).values.sum())


def test_statistics_of_a_trajectory_add_up():
    potential = gaussian_potential(PRECISION)
    kernel = NUTS(step_size=0.3, max_tree_depth=3)
    report = _finished(kernel, potential, kernel.init(potential, torch.randn(200, 3)), 20)
    depth, n_steps = report["tree_depth"], report["n_steps"]
    # A tree of depth d took 2^d - 1 leapfrogs, and up to 2^d more that came to nothing.
    assert bool((n_steps >= 2**depth - 1).all() & (n_steps <= 2 ** (depth + 1) - 1).all())
    full = report["reached_max_treedepth"]
    assert bool(full.any() & (~full).any())
    assert bool((depth[full] == 3).all() & (n_steps[full] == 7).all())
    assert bool((report["step_size"] == 0.3).all())


def test_a_trajectory_turns_after_half_a_period():
    """Of a harmonic oscillator: it is doubled until it is longer."""
    for frequency, step_size in [(1.0, 0.03), (1.0, 0.04), (5.0, 0.006)]:
        potential = gaussian_potential(frequency**2 * torch.eye(200))
        kernel, start = NUTS(step_size=step_size), torch.randn(20, 200) / frequency
        report = _finished(kernel, potential, kernel.init(potential, start), 1)
        num_doublings = math.ceil(math.log2(math.pi / (frequency * step_size)))
        assert bool((report["tree_depth"] == num_doublings).all())
        assert bool((report["n_steps"] == 2**num_doublings - 1).all())


def test_trees_are_as_large_as_those_of_pyro():
    """At the same step size; both begin with draws of the target, so that each is stationary."""
    potential, step_size = gaussian_potential(PRECISION), 0.1
    start = torch.linalg.cholesky(PRECISION.inverse()) @ torch.randn(3, 2000)
    kernel = NUTS(step_size=step_size)
    ours = _finished(kernel, potential, kernel.init(potential, start.T), 1)
    theirs = RecordingNUTS(
        potential_fn=lambda sites: potential(sites["x"]),
        step_size=step_size,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    )
    mcmc = pyro.infer.MCMC(theirs, 300, 0, initial_params={"x": start[:, 0]}, disable_progbar=True)
    mcmc.run()
    stats = mcmc.diagnostics()[RECORD]["chain 0"].stats
    for name in ("n_steps", "acceptance_rate"):
        # Every third: successive trajectories share their energies.
        draws = torch.as_tensor(stats[name])[::3].double().reshape(-1, 1)
        assert_same_mean(ours[name].double().reshape(-1, 1), draws)


def test_moves_from_a_start_of_no_finite_energy_are_refused():
    potential = EnergyPotential(lambda x: torch.full_like(x[..., 0], torch.nan) * x[..., 0], (2,))
    with pytest.raises(NonFiniteError):
        MCMC(NUTS(potential), 5, 5, num_chains=2, disable_progbar=True).run()


def test_dense_scale_is_a_change_of_coordinates():
    """Moving ``x = L z`` with the factor ``L`` is moving ``z`` with none."""
    factor = torch.linalg.cholesky(torch.tensor([[2.0, 0.5], [0.5, 0.3]]))
    covariance = factor @ torch.tensor([[1.0, 0.2], [0.2, 0.5]]) @ factor.T
    plain = EnergyPotential(GaussianEnergy(torch.zeros(2), torch.tensor([[1.0, 0.2], [0.2, 0.5]])))
    mapped = EnergyPotential(GaussianEnergy(torch.zeros(2), covariance))
    start = torch.randn(30, 2)
    kernels = NUTS(step_size=0.4), NUTS(step_size=0.4, scale=factor)
    states = [
        kernel.init(potential, position, torch.Generator().manual_seed(3))
        for kernel, potential, position in zip(
            kernels, (plain, mapped), (start, start @ factor.T), strict=True
        )
    ]
    for _ in range(30):
        noise = noise_like(kernels[0], states[0])
        steps = zip(kernels, (plain, mapped), states, strict=True)
        states = [kernel.step(potential, state, noise)[0] for kernel, potential, state in steps]
        torch.testing.assert_close(states[0].position @ factor.T, states[1].position)
        assert torch.equal(states[0].num_steps, states[1].num_steps)


@pytest.mark.parametrize(("num_chains", "num_draws"), [(1, 250), (7, 50), (4096, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_does_not_depend_on_the_number_of_chains_or_the_type(
    num_chains, num_draws, dtype
):
    target = gaussian_target()
    kernel, potential = NUTS(step_size=0.5), EnergyPotential(target.energy.to(dtype))
    state = kernel.init(potential, target.sample(num_chains, None).to(dtype))
    report = _finished(kernel, potential, state, num_draws)
    truth = _finished(
        kernel,
        EnergyPotential(target.energy.to(torch.float64)),
        exact_start(kernel, target, 1000),
        1,
    )
    # Successive trajectories of one chain share their energies, so that only every fifth counts.
    for name in ("acceptance_rate", "n_steps"):
        draws = report[name].double().reshape(-1, 1)
        thinned: Tensor = draws if num_chains == 4096 else draws[::5]
        assert_same_mean(thinned, truth[name].double().reshape(-1, 1))
