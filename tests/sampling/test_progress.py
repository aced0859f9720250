"""The progress bar: what it shows, and that it pays for itself."""

from __future__ import annotations

import math
from itertools import pairwise
from time import process_time
from types import SimpleNamespace

import pytest
import torch
from pyro.ops.stats import split_gelman_rubin

from pyro_ebm.core.types import Chains
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA
from pyro_ebm.sampling import MCMC, progress
from pyro_ebm.sampling.progress import Progress, running_r_hat
from tests.sampling.runs import STANDARD, cut_short, run


def test_bar_shows_acceptance_divergences_and_r_hat(capsys):
    mcmc = MCMC(MALA(STANDARD), 50, 30, num_chains=4)
    mcmc.run()
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "Sample: 100%" in shown
    assert "80/80" in shown
    r_hat = running_r_hat(mcmc.chains)
    rate = float(mcmc.chains.stats["acceptance_rate"][:, -1].mean())
    assert f"step={mcmc.kernel.step_size:.2e}" in shown
    assert f"accept={rate:.2f}" in shown
    assert "divergent=0" in shown
    assert f"r_hat={r_hat:.3f}" in shown


def test_no_bar_prints_nothing(capsys):
    run(MALA(STANDARD))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_bar_is_closed_when_the_run_is_cut(capsys):
    def interrupt(kernel, params, stage, i):
        if stage == "Sample" and i == 9:
            raise KeyboardInterrupt

    mcmc = MCMC(MALA(STANDARD), 50, 30, num_chains=4, hook_fn=interrupt)
    error, _ = cut_short(mcmc)
    assert error is None
    assert "40/80" in capsys.readouterr().err.split("\r")[-1]


def test_r_hat_is_that_of_all_draws_when_they_are_few():
    positions = torch.randn(4, 90, 3).cumsum(dim=1)
    expected = split_gelman_rubin(positions, chain_dim=0, sample_dim=1).max()
    assert running_r_hat(Chains(positions, {})) == pytest.approx(float(expected), rel=1e-12)


def test_r_hat_of_many_draws_is_that_of_a_sample_of_them():
    positions = torch.randn(300, 1_050, 50)
    expected = split_gelman_rubin(positions[:64, ::10, :32], chain_dim=0, sample_dim=1).max()
    assert running_r_hat(Chains(positions, {})) == pytest.approx(float(expected), rel=1e-12)


def test_r_hat_of_too_few_draws_is_no_number():
    assert math.isnan(running_r_hat(Chains(torch.randn(4, 3, 2), {})))


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize("seconds_of_a_refresh", [1e-4, 0.03, 0.5])
def test_refreshes_take_less_than_a_hundredth(monkeypatch, seconds_of_a_refresh):
    clock, spent, times = Clock(), [], []
    monkeypatch.setattr(progress, "time", clock)

    def summary(info, storage):
        clock.now += seconds_of_a_refresh
        spent.append(seconds_of_a_refresh)
        times.append(clock.now)
        return {}

    monkeypatch.setattr(progress, "_summary", summary)
    with Progress(400_000, disable=False) as bar:
        for _ in range(400_000):
            clock.now += 1e-3
            bar.step(SimpleNamespace())
    # The first and the last are made whatever they cost.
    assert sum(spent[1:-1]) < 0.01 * clock.now
    assert len(spent) > 2
    assert min(b - a for a, b in pairwise(times[:-1])) >= 0.1


def test_refreshes_of_a_real_run_take_less_than_a_fiftieth(monkeypatch):
    """Counted in its own seconds, of processor time, so that a busy machine does not matter."""
    spent = []
    original = Progress.refresh

    def timed(self, info, storage=None):
        started = process_time()
        original(self, info, storage)
        spent.append(process_time() - started)

    monkeypatch.setattr(Progress, "refresh", timed)
    mcmc = MCMC(MALA(GaussianEnergy.standard((10,))), 200, 150, num_chains=1_024)
    started = process_time()
    mcmc.run()
    total = process_time() - started
    assert len(spent) >= 3
    assert sum(spent[1:-1]) < 0.02 * total
