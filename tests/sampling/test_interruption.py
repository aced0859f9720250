"""Runs that are cut short keep their draws and say so."""

from __future__ import annotations

import warnings

import pytest
import torch

from pyro_ebm.kernels import MALA, Langevin
from tests.sampling.runs import STANDARD, cut_short, driver


class Failing:
    """A standard normal whose ``n``-th evaluation raises."""

    event_shape = torch.Size([])

    def __init__(self, error, evaluation):
        self.error, self.left = error, evaluation

    def __call__(self, x):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return 0.5 * x.square()


def failing(error, step, num_samples=30):
    """Fails at a step of sampling; two evaluations are for the starts and the first state."""
    kernel = MALA(Failing(error, step + 2), step_size=0.5, scale=torch.ones(1))
    return driver(kernel, num_samples, 0, num_chains=4)


@pytest.mark.parametrize("step", [2, 11, 30])
def test_interrupt_keeps_the_draws(step):
    mcmc = failing(KeyboardInterrupt(), step)
    error, warned = cut_short(mcmc)
    assert error is None
    kept = f"the run was cut short: kept {step - 1} of 30 draws of each of the 4 chains."
    assert warned == [kept]
    assert mcmc.get_samples(group_by_chain=True)["x"].shape == (4, step - 1)
    assert f"drawn={step - 1}" in repr(mcmc)


def test_an_error_inside_the_energy_keeps_the_draws_and_is_raised():
    original = ZeroDivisionError("of the user")
    mcmc = failing(original, 9)
    error, warned = cut_short(mcmc)
    assert error is original
    assert warned == ["the run was cut short: kept 8 of 30 draws of each of the 4 chains."]
    assert mcmc.get_samples()["x"].shape == (32,)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()], ids=repr)
def test_before_the_first_draw_there_is_nothing_to_keep(error):
    raised, warned = cut_short(failing(error, 1))
    assert raised is error
    assert warned == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()], ids=repr)
def test_during_warm_up_it_is_raised(error):
    mcmc = driver(MALA(Failing(error, 20)), 10, 40, num_chains=4, save_warmup=True)
    raised, warned = cut_short(mcmc)
    assert raised is error
    assert warned == []
    assert mcmc.chains is None
    assert 1 <= mcmc.warmup_chains.positions.shape[1] < 20


def test_interrupted_run_can_be_repeated():
    mcmc = failing(KeyboardInterrupt(), 9)
    cut_short(mcmc)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mcmc.run()
    assert mcmc.get_samples(group_by_chain=True)["x"].shape == (4, 30)


def test_interrupted_thinned_run_counts_kept_draws():
    kernel = MALA(Failing(KeyboardInterrupt(), 13), step_size=0.5, scale=torch.ones(1))
    mcmc = driver(kernel, 30, 0, num_chains=2, thinning=3)
    _, warned = cut_short(mcmc)
    assert "kept 3 of 30 draws" in warned[0]


def test_an_error_in_the_hook_keeps_the_draws():
    def hook(kernel, params, stage, i):
        if stage == "Sample" and i == 5:
            raise StopIteration

    mcmc = driver(Langevin(STANDARD), 10, 20, hook_fn=hook)
    error, warned = cut_short(mcmc)
    assert isinstance(error, StopIteration)
    assert "kept 6 of 10 draws" in warned[0]
