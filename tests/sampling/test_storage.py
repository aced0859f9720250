"""Storage of draws: chains that finish at different steps, thinning, types."""

from __future__ import annotations

import pytest
import torch

from pyro_ebm.kernels import MALA
from pyro_ebm.sampling.storage import DrawStorage
from tests.sampling.asynchronous import CountingKernel
from tests.sampling.runs import STANDARD, run

PERIODS = (1, 3, 2, 7, 1)


def counted(num_draws, thinning, periods=PERIODS, dim=2):
    """Storage filled by the asynchronous kernel, and the number of steps it took."""
    kernel = CountingKernel(periods=periods)
    storage, steps = DrawStorage(num_draws, thinning), 0
    state = kernel.init(None, torch.zeros(len(periods), dim))
    while (left := storage.steps_left()) > 0:
        for _ in range(left):
            state, info = kernel.step(None, state, None)
            storage.record(state, info)
            steps += 1
    return storage, steps


@pytest.mark.parametrize("thinning", [1, 2, 5])
def test_every_chain_gets_its_draws_in_order(thinning):
    storage, steps = counted(6, thinning)
    positions = storage.chains().positions
    expected = thinning * torch.arange(1.0, 7.0)
    torch.testing.assert_close(positions, expected.reshape(1, 6, 1).expand(5, 6, 2))
    assert steps == 6 * thinning * max(PERIODS)


def test_statistics_belong_to_their_draw_and_keep_their_type():
    stats = counted(4, 2)[0].chains().stats
    finished_at = 2 * torch.arange(1, 5) * torch.tensor(PERIODS).unsqueeze(-1)
    assert set(stats) == {"lp", "acceptance_rate", "step_size", "diverging", "n_steps", "level"}
    assert stats["diverging"].dtype == torch.bool
    assert torch.equal(stats["diverging"], finished_at % 2 == 0)
    assert stats["n_steps"].dtype == torch.int64
    assert torch.equal(stats["n_steps"], torch.tensor(PERIODS).unsqueeze(-1).expand(5, 4))
    assert stats["level"].dtype == torch.int32
    assert torch.equal(stats["level"], finished_at.int())
    assert stats["lp"].dtype == torch.float64
    torch.testing.assert_close(stats["lp"], -2.0 * torch.arange(1.0, 5.0).expand(5, 4))


def test_a_cut_run_has_the_draws_that_every_chain_has():
    kernel = CountingKernel(periods=PERIODS)
    storage = DrawStorage(10)
    assert storage.chains() is None
    assert storage.steps_left() == 10
    state = kernel.init(None, torch.zeros(5, 1))
    for steps in range(1, 23):
        state, info = kernel.step(None, state, None)
        storage.record(state, info)
        chains = storage.chains()
        assert (0 if chains is None else chains.positions.shape[1]) == steps // max(PERIODS)
        assert storage.steps_left() == 10 - steps // max(PERIODS)
    torch.testing.assert_close(chains.positions[..., 0], torch.arange(1.0, 4.0).expand(5, 3))


def test_an_interrupted_record_counts_nothing(monkeypatch):
    kernel, storage = CountingKernel(), DrawStorage(3)
    state, info = kernel.step(None, kernel.init(None, torch.zeros(1, 1)), None)
    storage.record(state, info)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "stack", interrupt)
        with pytest.raises(KeyboardInterrupt):
            storage.record(*kernel.step(None, state, None))
    assert storage.steps_left() == 2
    assert storage.chains().positions.shape == (1, 1, 1)


@pytest.mark.parametrize("thinning", [1, 3])
def test_driver_stores_exactly_the_finished_chains(thinning):
    kernel = CountingKernel(STANDARD, periods=PERIODS)
    stages = []
    settings = {"num_chains": 5, "thinning": thinning, "save_warmup": True}
    mcmc = run(kernel, 4, 14, hook_fn=lambda *args: stages.append(args[2]), **settings)
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    first = stages.count("Warmup") // torch.tensor(PERIODS)
    # 14 transitions of warm-up are those of the median chains of its windows, 6 + 1 + 19 steps.
    assert stages.count("Warmup") == 26
    assert mcmc.warmup_chains.positions.shape == (5, int(first.min()), 1)
    # Draws go on where warm-up stopped, and nothing between two draws is stored.
    torch.testing.assert_close(
        draws, first.unsqueeze(-1) + thinning * torch.arange(1.0, 5.0), rtol=0, atol=0
    )


def test_thinning_takes_every_kth_of_the_unthinned_run():
    runs = []
    for num_samples, thinning in ((12, 1), (4, 3)):
        generator = torch.Generator().manual_seed(1)
        kernel = MALA(STANDARD)
        runs.append(
            run(kernel, num_samples, num_chains=3, thinning=thinning, generator=generator).chains
        )
    assert torch.equal(runs[1].positions, runs[0].positions[:, 2::3])
    for name, values in runs[1].stats.items():
        assert torch.equal(values, runs[0].stats[name][:, 2::3])
