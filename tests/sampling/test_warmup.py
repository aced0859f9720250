"""Warm-up: the schedule, what is tuned and what is kept, and that it ends."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch

from pyro_ebm.core.checks import StepSizeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import HMC, MALA, NUTS, Langevin, UnderdampedLangevin
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.sampling.adaptation import PooledVariance
from pyro_ebm.sampling.ranks import OneProcess
from pyro_ebm.sampling.walk import tuned_walk, walk
from pyro_ebm.sampling.warmup import WarmUp, _Progress, windows
from tests.sampling.runs import KERNELS, STANDARD, PlainEnergy, cut_short, driver, run

SCALES = torch.tensor([0.1, 1.0, 10.0])


def generator():
    return torch.Generator().manual_seed(0)


def test_windows_add_up():
    for num_steps in [*range(1, 130), 500, 1_000, 2_001, 100_000]:
        schedule = windows(num_steps)
        assert sum(window.num_transitions for window in schedule) == num_steps
        assert min(window.num_transitions for window in schedule) >= 1
        # Scale is estimated in the middle, and the step size tuned once more after it.
        assert not schedule[0].estimates_moments
        assert not schedule[-1].estimates_moments
        assert all(window.estimates_moments for window in schedule[1:-1])
        assert schedule[-1].num_transitions >= min(num_steps, 10)
        slow = [window.num_transitions for window in schedule[1:-1]]
        assert all(later == 2 * earlier for earlier, later in pairwise(slow[:-1]))
        assert all(slow[-1] >= size for size in slow)


def test_windows_of_the_usual_length():
    assert [tuple(window) for window in windows(1_000)] == [
        (150, False),
        (125, True),
        (250, True),
        (375, True),
        (100, False),
    ]
    assert windows(0) == []


@pytest.mark.parametrize("num_steps", [100, 250, 1_000])
def test_the_scale_that_is_kept_is_estimated_late(num_steps):
    """Chains that are on their way to the target would make it too large."""
    schedule = windows(num_steps)
    assert sum(window.num_transitions for window in schedule[:-2]) > 0.45 * num_steps


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_given_is_kept_and_what_is_open_is_tuned(kernel):
    energy, scale = (
        GaussianEnergy(torch.zeros(3), SCALES.square().diag()),
        torch.tensor([1.0, 2, 3]),
    )
    settings = {"num_samples": 1, "warmup_steps": 60, "num_chains": 8}
    given = run(kernel(energy, step_size=0.07, scale=scale), **settings).kernel
    assert given.step_size == 0.07
    assert torch.equal(given.scale, scale)
    tunes_scale = run(kernel(energy, step_size=0.07), **settings).kernel
    assert tunes_scale.step_size == 0.07
    assert tunes_scale.scale.shape == (3,)
    tunes_step = run(kernel(energy, scale=scale), **settings).kernel
    assert tunes_step.step_size > 0
    assert torch.equal(tunes_step.scale, scale)


@pytest.mark.parametrize(
    "kernel", [MALA(), MALA(target_accept_prob=0.8), Langevin(), UnderdampedLangevin()], ids=repr
)
def test_pooled_acceptance_comes_to_its_target(kernel):
    """On 512 chains the remaining error is that of dual averaging, a few per cent of the step."""
    potential = EnergyPotential(GaussianEnergy.standard((4,)))
    position = torch.randn(512, 4)
    state = kernel.init(potential, position)
    warm_up = WarmUp(kernel, potential, generator())
    tuned, state = warm_up.run(state, 400, lambda state, info: None)
    _, info = tuned.step(potential, state, tuned.noise(state, generator()))
    rejected, wanted = 1 - info.acceptance_rate.mean(), 1 - kernel.target_accept_prob
    assert 0.4 * wanted < rejected < 1.6 * wanted


@pytest.mark.parametrize("num_steps", [1, 2, 5, 9, 10, 15, 20, 50])
@pytest.mark.parametrize("num_chains", [8, 256])
def test_short_warm_ups_leave_chains_that_move(num_steps, num_chains):
    mcmc = run(
        MALA(GaussianEnergy.standard((3,)), scale=torch.ones(3)),
        40,
        num_steps,
        num_chains=num_chains,
    )
    assert mcmc.chains.stats["acceptance_rate"].mean() > 0.15


def test_scale_is_the_pooled_variance_of_the_last_slow_window(monkeypatch):
    updates = []
    original = PooledVariance.update

    def record(self, positions):
        updates.append(positions)
        original(self, positions)

    monkeypatch.setattr(PooledVariance, "update", record)
    mcmc = run(MALA(GaussianEnergy.standard((2,))), 1, 100, num_chains=6)
    slow = [window.num_transitions for window in windows(100) if window.estimates_moments]
    assert len(updates) == sum(slow)
    expected = PooledVariance(2)
    for positions in updates[-slow[-1] :]:
        original(expected, positions)
    assert torch.equal(mcmc.kernel.scale, expected.scale(torch.float64))


def test_scale_comes_to_the_standard_deviations():
    energy = GaussianEnergy(torch.zeros(3), SCALES.square().diag())
    mcmc = run(MALA(energy), 1, 500, num_chains=64)
    torch.testing.assert_close(mcmc.kernel.scale, SCALES, rtol=0.25, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_adaptation_has_ended_when_draws_are_kept(kernel):
    kernels = {"Warmup": [], "Sample": []}
    mcmc = driver(
        kernel(STANDARD),
        20,
        40,
        num_chains=4,
        hook_fn=lambda kernel, params, stage, i: kernels[stage].append(kernel),
    )
    mcmc.run()
    assert {id(used) for used in kernels["Sample"]} == {id(mcmc.kernel)}
    assert bool((mcmc.chains.stats["step_size"] == mcmc.kernel.step_size).all())


def test_the_check_sees_a_kernel_that_adapts_while_draws_are_kept():
    class Adapting(MALA):
        def step(self, potential, state, noise):
            object.__setattr__(self, "step_size", 0.99 * self.step_size)
            return super().step(potential, state, noise)

    mcmc = run(Adapting(STANDARD, step_size=0.5), 20, 0, num_chains=4)
    assert not bool((mcmc.chains.stats["step_size"] == mcmc.kernel.step_size).all())


@pytest.mark.parametrize("kernel", [Langevin, UnderdampedLangevin])
def test_unadjusted_chains_cannot_fly_off_in_warm_up(kernel):
    """From far starts on a quartic every unadjusted step of size 1 would explode."""
    potential = EnergyPotential(PlainEnergy(lambda x: x.pow(4).sum(-1), 1))
    position = torch.linspace(-30, 30, 64).unsqueeze(-1)
    furthest = []
    recipe = kernel()
    WarmUp(recipe, potential, generator()).run(
        recipe.init(potential, position, generator()),
        200,
        lambda state, info: furthest.append(float(state.position.abs().max())),
    )
    assert max(furthest) < 100


class WithoutReversal(UnderdampedLangevin):
    """A rejected chain runs into the same wall again."""

    def rejected(self, state):
        return state


@pytest.mark.parametrize(
    ("kernel", "finds_a_step"), [(UnderdampedLangevin, True), (WithoutReversal, False)]
)
def test_chains_with_momentum_turn_round_at_a_wall(kernel, finds_a_step):
    box = PlainEnergy(lambda x: torch.where(x.abs() < 1, 0.5 * x.square(), torch.inf))
    mcmc = driver(kernel(box), 1, 300, num_chains=32, initial_params={"x": torch.zeros(32)})
    error, warned = cut_short(mcmc)
    settles = error is None and not warned and mcmc.kernel.step_size > 1e-2
    assert settles == finds_a_step


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("energy", "reason"),
    [
        (PlainEnergy(lambda x: 0 * x), "stays above .* flat or improper"),
        (PlainEnergy(lambda x: -1e-3 * x), "stays above .* flat or improper"),
        (
            PlainEnergy(lambda x: 0.5 * x**2 + 1e5 * torch.sin(1e14 * x).detach()),
            "stays below .* jumps",
        ),
    ],
    ids=["flat", "sloping", "jumping"],
)
def test_no_step_size_is_a_named_error(kernel, energy, reason):
    name = kernel.__name__
    with pytest.raises(StepSizeError, match=f"{name} finds no step size between 1e-10 .*{reason}"):
        run(kernel(energy), num_chains=64)


def test_walk_is_the_steps_of_the_kernel():
    potential, kernel = EnergyPotential(STANDARD), MALA(step_size=0.5)
    start = torch.randn(5, 1, requires_grad=True)
    moved = walk(kernel, potential, start, 7, generator())
    source = generator()
    state = kernel.init(potential, start.detach(), source)
    for _ in range(7):
        state, _ = kernel.step(potential, state, kernel.noise(state, source))
    assert torch.equal(moved, state.position)
    assert not moved.requires_grad


def test_walk_tunes_only_when_asked():
    potential, start = EnergyPotential(STANDARD), torch.randn(5, 1)
    with pytest.raises(StepSizeError, match="no step size"):
        walk(MALA(), potential, start, 7, generator())
    assert tuned_walk(MALA(), potential, start, 30, generator()).shape == (5, 1)


def test_frozen_chains_are_put_where_others_are():
    """Two of sixteen chains start where the shared step is hopeless: a wall 1e6 times as steep."""
    energy = PlainEnergy(lambda x: 0.5 * x.square() * torch.where(x < -50, 1e6, 1.0))
    starts = torch.linspace(-1.0, 1.0, 16)
    starts[:2] = torch.tensor([-60.0, -70.0])
    mcmc = run(MALA(energy), 50, 600, num_chains=16, initial_params={"x": starts})
    assert mcmc.num_restarted == 2
    assert mcmc.chains.positions.abs().max() < 10
    assert (mcmc.chains.stats["acceptance_rate"].mean(dim=1) > 0.1).all()


def _moved(kernel, num_steps, num_chains=16):
    """Chains that are at different stages of their trajectories."""
    potential = EnergyPotential(GaussianEnergy.standard((3,)))
    state = kernel.init(potential, torch.randn(num_chains, 3))
    for _ in range(num_steps):
        state, info = kernel.step(potential, state, kernel.noise(state, None))
    return potential, state, info


@pytest.mark.parametrize("kernel", [NUTS(), HMC()], ids=repr)
def test_all_chains_begin_anew_after_warm_up(kernel):
    potential, state, _ = _moved(dataclasses.replace(kernel, step_size=0.3), 5)
    warm_up = WarmUp(kernel, potential, generator())
    tuned, after = warm_up.run(state, 60, lambda *_: None)
    assert not after.num_steps.any()
    assert bool((after.stride.abs() == tuned.step_size).all())


@pytest.mark.parametrize("cls", [NUTS, HMC])
def test_a_new_step_size_waits_for_the_next_trajectory(cls):
    potential, state, _ = _moved(cls(step_size=0.1), 5)
    under_way = state.num_steps > 0
    assert under_way.any()
    later = cls(step_size=0.2)
    for _ in range(100):
        state, info = later.step(potential, state, later.noise(state, None))
        assert bool((info.step_size[under_way] == 0.1).all())
        under_way &= ~info.finished
    assert not under_way.any()
    assert bool((info.step_size == 0.2).all())


def test_scales_pool_all_chains_and_not_those_that_have_just_finished(monkeypatch):
    pooled, unfinished = [], []
    update = PooledVariance.update
    monkeypatch.setattr(
        PooledVariance, "update", lambda self, x: pooled.append(len(x)) or update(self, x)
    )
    potential, state, _ = _moved(NUTS(step_size=0.3), 5)
    warm_up = WarmUp(NUTS(step_size=0.3), potential, generator())
    warm_up.run(state, 60, lambda _, info: unfinished.append(int((~info.finished).sum())))
    assert set(pooled) == {16}
    assert max(unfinished) > 8


class Report(NamedTuple):
    """What warm-up reads of a kernel's report."""

    finished: torch.Tensor
    step_acceptance: torch.Tensor


@pytest.mark.parametrize("num_chains", [4, 5])
def test_chains_that_diverge_at_every_step_do_not_count_for_the_others(num_chains):
    """One of four ends a trajectory at each step, the others at each tenth."""
    progress = _Progress(torch.zeros(num_chains, dtype=torch.float64))
    for step in range(1, 31):
        finished = torch.tensor([True] + (num_chains - 1) * [step % 10 == 0])
        progress.add(Report(finished, torch.ones(num_chains)), OneProcess())
    assert progress.num_transitions == 3  # the mean is 9 or more


@pytest.mark.parametrize("kernel", [MALA, Langevin, UnderdampedLangevin, NUTS])
def test_densities_of_saved_warm_up_are_those_of_its_positions(kernel):
    """Also where warm-up has put a chain back, or elsewhere."""
    quartic = PlainEnergy(lambda x: 0.25 * x**4)
    far = {"x": torch.tensor([0.0, 0.1, 0.2, 30.0])}
    settings = {"num_chains": 4, "initial_params": far, "save_warmup": True}
    mcmc = run(kernel(quartic), 5, 300, **settings)
    assert mcmc.num_restarted > 0 or kernel is not MALA
    saved = mcmc.warmup_chains
    torch.testing.assert_close(saved.stats["lp"], -quartic(saved.positions).squeeze(-1))
