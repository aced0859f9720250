"""Chains that leave for infinity: stopped by name, with the draws kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pyro_ebm.core.checks import NonFiniteError
from pyro_ebm.energies import GaussianEnergy, QuarticEnergy
from pyro_ebm.kernels import MALA, Langevin, UnderdampedLangevin
from pyro_ebm.sampling.watch import EscapeWatch
from tests.sampling.runs import KERNELS, PlainEnergy, cut_short, driver, run

UNADJUSTED = [Langevin, UnderdampedLangevin]
STEEP_SLOPE = PlainEnergy(lambda x: -1e6 * x)
HALF_A_SLOPE = PlainEnergy(lambda x: torch.where(x > 0, -1e9 * x, 50 * (x + 1).square()))
UNBOUNDED = {
    "square": PlainEnergy(lambda x: -0.5 * x.square()),
    "quartic": PlainEnergy(lambda x: -x.pow(4)),
    "cube": PlainEnergy(lambda x: x.pow(3)),
    "half": PlainEnergy(lambda x: torch.where(x > 0, -x.pow(4), x.square())),
}


def assert_stopped(mcmc):
    """Stopped by name, with as many draws as steps."""
    error, warnings = cut_short(mcmc)
    assert isinstance(error, NonFiniteError)
    assert "chains have left for infinity" in str(error)
    assert "unbounded below or the posterior improper: add a prior" in str(error)
    kept = mcmc.chains.positions.shape[1]
    assert f"stopped after {kept} steps" in str(error)
    assert kept < mcmc.num_samples
    expected = f"kept {kept} of {mcmc.num_samples} draws of each of the {mcmc.num_chains} chains"
    assert [w for w in warnings if expected in w] == warnings
    assert mcmc.get_samples(group_by_chain=True)["x"].shape[:2] == (mcmc.num_chains, kept)


@pytest.mark.parametrize("energy", UNBOUNDED.values(), ids=UNBOUNDED)
@pytest.mark.parametrize("kernel", UNADJUSTED)
def test_unadjusted_chains_on_unbounded_energies(kernel, energy):
    assert_stopped(
        driver(kernel(energy, step_size=0.3, scale=torch.ones(1)), 1500, 0, num_chains=64)
    )


@pytest.mark.parametrize("energy", UNBOUNDED.values(), ids=UNBOUNDED)
def test_in_float32_chains_get_stuck_before_they_are_far(energy):
    torch.set_default_dtype(torch.float32)
    try:
        recipe = Langevin(energy, step_size=0.3, scale=torch.ones(1))
        assert_stopped(driver(recipe, 600, 0, num_chains=64))
    finally:
        torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_chains_down_a_slope(kernel):
    recipe = kernel(STEEP_SLOPE, step_size=0.3, scale=torch.ones(1))
    assert_stopped(driver(recipe, 600, 0, num_chains=64))


@pytest.mark.parametrize("num_leaving", [7, 8])
@pytest.mark.parametrize("kernel", KERNELS)
def test_half_of_the_chains(kernel, num_leaving):
    """Eight of sixteen are half, seven are not."""
    recipe = kernel(HALF_A_SLOPE, step_size=0.01, scale=torch.ones(1))
    start = torch.where(torch.arange(16) < num_leaving, 1.0, -1.0)
    mcmc = driver(recipe, 150, 0, num_chains=16, initial_params={"x": start})
    if num_leaving == 8:
        assert_stopped(mcmc)
    else:
        mcmc.run()
        assert mcmc.chains.positions[:, -1].abs().amax(dim=-1).gt(1e6).sum() == num_leaving


def test_warm_up_is_watched_too():
    error, warnings = cut_short(driver(MALA(STEEP_SLOPE, step_size=0.3), 10, 500, num_chains=8))
    assert isinstance(error, NonFiniteError)
    assert not warnings


def test_steps_that_all_diverge_are_named():
    mcmc = driver(MALA(QuarticEnergy(), step_size=1e8, scale=torch.ones(1)), 200, 0, num_chains=8)
    error, _ = cut_short(mcmc)
    assert "8 of 8 chains" in str(error)
    assert "use a smaller step_size" in str(error)
    assert mcmc.chains.positions.shape[1] == 50


def test_heavy_tails_are_data():
    cauchy = PlainEnergy(lambda x: torch.log1p(x.square()))
    for kernel in KERNELS:
        run(kernel(cauchy), 150, 60, num_chains=32)


def test_a_hard_wall_is_no_escape():
    """Two thirds of these moves go to infinite energy."""
    box = PlainEnergy(lambda x: torch.where(x.abs() < 1, 0.5 * x.square(), torch.inf))
    mcmc = run(
        MALA(box, step_size=2.0, scale=torch.ones(1)),
        400,
        0,
        num_chains=16,
        initial_params={"x": torch.zeros(16)},
    )
    assert mcmc.chains.stats["diverging"].double().mean() > 0.5
    assert mcmc.chains.positions.abs().max() < 1


def look(position, diverging, start):
    watch = EscapeWatch.of_sampling(start, start)
    for _ in range(50):
        watch.step(SimpleNamespace(position=position), SimpleNamespace(diverging=diverging))


@pytest.mark.parametrize("far", [4e6, torch.nan, -torch.inf])
def test_bound_is_a_million_times_the_starts(far):
    start, still = torch.tensor([[2.0], [1.0]]), torch.tensor([False, False])
    look(torch.tensor([[2.9e6], [2.9e6]]), still, start)
    with pytest.raises(NonFiniteError, match=r"1 of 2 chains .*beyond 3e\+06"):
        look(torch.tensor([[far], [0.0]]), still, start)


def test_a_density_far_from_the_starts_is_no_escape():
    """Prices in millions: warm-up may go there, and draws are bounded from where it has led."""
    energy = GaussianEnergy(torch.full((1,), 5e6), scale=torch.full((1,), 1e6))
    mcmc = driver(MALA(energy), 200, 1000, num_chains=8)
    mcmc.run()
    assert (mcmc.get_samples()["x"].mean() - 5e6).abs() < 1e6


def test_a_chain_is_stuck_when_it_diverges_and_does_not_move():
    start, all_diverge = torch.tensor([[2.0], [1.0]]), torch.tensor([True, True])
    look(start + 1, all_diverge, start)
    look(start, ~all_diverge, start)
    with pytest.raises(NonFiniteError, match=r"2 of 2 chains .*every move diverges"):
        look(start, all_diverge, start)


def test_looking_does_not_cost_the_chains_their_randomness():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    look(torch.zeros(3, 1), torch.zeros(3, dtype=torch.bool), torch.zeros(3, 1))
    assert torch.equal(torch.get_rng_state(), before)
