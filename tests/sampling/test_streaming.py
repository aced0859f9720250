"""Draws streamed to disk: the same as in memory, in a store that xarray and ArviZ read."""

from __future__ import annotations

import random
import sys
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.positions import WIDE
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, NUTS
from pyro_ebm.sampling import MCMC, checkpoint
from pyro_ebm.sampling.storage import DrawStorage
from pyro_ebm.sampling.streaming import DrawStore, StreamedStorage
from tests.sampling.asynchronous import CountingKernel
from tests.sampling.forks import forked
from tests.sampling.runs import STANDARD, cut_short, driver, regression, regression_data

pytest.importorskip("zarr")
DATA = regression_data()


def opened(path):
    return xr.open_datatree(path, engine="zarr", consolidated=False)


def seeded(kernel, num_samples=16, **settings):
    generator = torch.Generator().manual_seed(3)
    return driver(kernel, num_samples, 20, num_chains=3, generator=generator, **settings)


def assert_same_draws(store, mcmc):
    with opened(store) as tree:
        for name, value in mcmc.get_samples(group_by_chain=True).items():
            # Transforms of blocks of other sizes may differ in the last bit.
            stored = torch.as_tensor(tree["posterior"][name].values)
            torch.testing.assert_close(stored, value, rtol=1e-14, atol=1e-14)
        for name, value in mcmc.chains.stats.items():
            stored = torch.as_tensor(tree["sample_stats"][name].values)
            assert stored.dtype == value.dtype
            assert torch.equal(stored, value), name
        assert tree["posterior"]["draw"].values.tolist() == list(range(len(value[0])))
        assert tree["posterior"].sizes["chain"] == len(value)


def test_streamed_draws_of_wide_points_are_those_in_memory(tmp_path):
    kernel, path = MALA(GaussianEnergy.standard((WIDE,))), tmp_path / "draws.zarr"
    in_memory, streamed = seeded(kernel), seeded(kernel, stream=path, stream_memory=20_000)
    in_memory.run()
    streamed.run()
    assert_same_draws(path, in_memory)


@pytest.mark.parametrize("memory", [3_000, 2**28])
@pytest.mark.parametrize("name", ["mala", "nuts"])
def test_streamed_draws_are_those_in_memory(tmp_path, name, memory):
    kernel = MALA(regression) if name == "mala" else NUTS(regression, max_tree_depth=3)
    ring = memory if name == "mala" else max(memory, 5_000)
    in_memory = seeded(kernel, thinning=2)
    in_memory.run(*DATA)
    path = tmp_path / "draws.zarr"
    streamed = seeded(kernel, thinning=2, stream=path, stream_memory=ring)
    streamed.run(*DATA)
    assert_same_draws(path, in_memory)
    assert "drawn=16" in repr(streamed)
    for access in (streamed.get_samples, streamed.summary, streamed.diagnostics):
        with pytest.raises(RuntimeError, match=r"in the store .*draws\.zarr: open it with xarray"):
            access()


PERIODS = (1, 3, 2, 7, 1)


class Collected(DrawStore):
    """A store in memory."""

    def __init__(self):
        self.path, self.blocks = None, []

    def make(self, block, num_draws, chunk):
        self.blocks, self.chunk = [], chunk

    def write(self, first, block):
        assert first == sum(part.positions.shape[1] for part in self.blocks)
        self.blocks.append(block)

    def resize(self, num_draws):
        self.num_draws = num_draws


def counted(num_draws, thinning, memory):
    """A ring filled by a kernel of which every draw is known, with chains that wait."""
    kernel, store, waited = CountingKernel(periods=PERIODS), Collected(), 0
    storage = StreamedStorage(num_draws, thinning, store, memory)
    state = kernel.init(None, torch.zeros(5, 2))
    while (left := storage.steps_left()) > 0:
        for _ in range(left):
            moved, info = kernel.step(None, state, None)
            if (waiting := storage.waiting) is not None:
                waited += int(waiting.sum())
                clock = torch.where(waiting, state.clock, moved.clock)
                moved = moved._replace(clock=clock)
                info = info._replace(finished=info.finished & ~waiting)
            state = moved
            storage.record(state, info)
    return storage, store, waited


@pytest.mark.parametrize("thinning", [1, 2, 5])
@pytest.mark.parametrize("num_draws", [1, 3, 10, 41])
@pytest.mark.parametrize("memory", [1, 5_000, 2**20])
def test_every_chain_gets_its_draws_in_order_though_it_waits(num_draws, thinning, memory):
    storage, store, waited = counted(num_draws, thinning, memory)
    positions = torch.cat([block.positions for block in store.blocks], dim=1)
    expected = thinning * torch.arange(1.0, num_draws + 1)
    expected = expected.reshape(1, -1, 1).expand(5, -1, 2)
    torch.testing.assert_close(positions, expected, rtol=0, atol=0)
    lp = torch.cat([block.stats["lp"] for block in store.blocks], dim=1)
    torch.testing.assert_close(lp, -expected[..., 0], rtol=0, atol=0)
    assert storage.num_rows <= max(4, num_draws)
    assert storage._positions.shape[0] == storage.num_rows + 1
    # The slowest chain needs 7 steps a draw; with room for all draws nobody waits for it.
    assert (waited > 0) == (storage.num_rows < num_draws)


def test_waiting_chains_move_later_as_if_nothing_had_been(tmp_path):
    """Nobody waits for long: chains are stationary, and none is lost or repeated."""
    path = tmp_path / "draws.zarr"
    kernel = NUTS(STANDARD, step_size=0.3, scale=torch.ones(1), max_tree_depth=5)
    mcmc = driver(kernel, 40, 0, num_chains=16, stream=path, stream_memory=1)
    mcmc.run()
    with opened(path) as tree:
        x = torch.as_tensor(tree["posterior"]["x"].values)
        lp = torch.as_tensor(tree["sample_stats"]["lp"].values)
    torch.testing.assert_close(lp, -0.5 * x.square(), rtol=1e-12, atol=1e-12)
    assert (x[:, 1:] != x[:, :-1]).double().mean() > 0.8


class Stop:
    """A hook that presses Ctrl-C at a step."""

    def __init__(self, step, stage="Sample"):
        self.place = stage, step

    def __call__(self, kernel, params, stage, i):
        if (stage, i) == self.place:
            raise KeyboardInterrupt


@pytest.mark.parametrize("memory", [1, 3_500])
@pytest.mark.parametrize("step", [0, 30])
def test_an_interrupted_stream_is_cut_off_and_can_go_on(tmp_path, memory, step):
    kernel = NUTS(regression, max_tree_depth=3)
    whole, path, file = (tmp_path / name for name in ("whole.zarr", "draws.zarr", "run.pt"))
    seeded(kernel, stream=whole, stream_memory=memory).run(*DATA)
    settings = {"checkpoint": file, "stream": path, "stream_memory": memory}
    mcmc = seeded(kernel, hook_fn=Stop(step), **settings)
    cut_short(mcmc, *DATA)
    num_drawn = mcmc._run.storage.num_complete
    if num_drawn:
        with opened(path) as tree, opened(whole) as expected:
            assert tree["posterior"].sizes["draw"] == num_drawn < 16
            xr.testing.assert_equal(
                tree["sample_stats"].to_dataset(),
                expected["sample_stats"].to_dataset().isel(draw=slice(num_drawn)),
            )
    resumed = MCMC.load(file, kernel, disable_progbar=True)
    resumed.run(*DATA)
    with opened(path) as tree, opened(whole) as expected:
        for group in ("posterior", "sample_stats"):
            xr.testing.assert_equal(tree[group].to_dataset(), expected[group].to_dataset())


def test_more_draws_go_into_the_same_store(tmp_path):
    path, file, kernel = tmp_path / "draws.zarr", tmp_path / "run.pt", MALA(STANDARD)
    mcmc = seeded(kernel, 20, stream=path, stream_memory=500)
    mcmc.run()
    mcmc.save(file)
    longer = MCMC.load(file, kernel, num_samples=33, disable_progbar=True)
    longer.run()
    whole = MCMC(
        kernel, 33, 20, num_chains=3, generator=torch.Generator().manual_seed(3),
        disable_progbar=True,
    )  # fmt: skip
    whole.run()
    assert_same_draws(path, whole)


def test_a_moved_store_is_named(tmp_path):
    path, file, kernel = tmp_path / "draws.zarr", tmp_path / "run.pt", MALA(STANDARD)
    mcmc = seeded(kernel, 20, stream=path)
    mcmc.run()
    mcmc.save(file)
    elsewhere = path.rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(FileNotFoundError, match=r"no such store now: .*stream=\.\.\."):
        MCMC.load(file, kernel, disable_progbar=True).run()
    MCMC.load(file, kernel, stream=elsewhere, disable_progbar=True).run()


def test_a_run_that_was_not_streamed_has_no_store(tmp_path):
    file, kernel = tmp_path / "run.pt", MALA(STANDARD)
    mcmc = seeded(kernel)
    mcmc.run()
    mcmc.save(file)
    with pytest.raises(ValueError, match="keeps its draws in memory: leave stream out"):
        MCMC.load(file, kernel, stream=tmp_path / "draws.zarr")


def test_a_folder_that_is_no_store_is_never_overwritten(tmp_path):
    """Saved in warm-up, so that the store is still to be made."""
    path, file, kernel = tmp_path / "draws.zarr", tmp_path / "run.pt", MALA(STANDARD)
    cut_short(seeded(kernel, stream=path, checkpoint=file, hook_fn=Stop(5, "Warmup")))
    precious = tmp_path / "results" / "precious.txt"
    precious.parent.mkdir()
    precious.touch()
    with pytest.raises(FileExistsError, match="is there already"):
        MCMC.load(file, kernel, stream=precious.parent, disable_progbar=True).run()
    assert precious.exists()
    assert not path.exists()
    MCMC.load(file, kernel, disable_progbar=True).run()
    with opened(path) as tree:
        assert tree["posterior"].sizes["draw"] == 16


def test_refuses_paths_before_sampling(tmp_path):
    path, kernel = tmp_path / "draws.zarr", MALA(STANDARD)
    with pytest.raises(FileNotFoundError, match=r"folder .*missing does not exist"):
        driver(kernel, stream=tmp_path / "missing" / "x.zarr")
    mcmc = driver(kernel, stream=path)
    mcmc.run()
    for action in (mcmc.run, lambda: driver(kernel, stream=path)):
        with pytest.raises(FileExistsError, match="would be overwritten: give another path"):
            action()


def test_names_of_folders_are_refused_before_sampling(tmp_path):
    def model():
        pyro.sample("a/x", dist.Normal(0.0, 1.0))
        pyro.deterministic("a/y", torch.zeros(()))

    mcmc = driver(MALA(model), stream=tmp_path / "draws.zarr")
    with pytest.raises(ModelError, match=r"sites \['a/x', 'a/y'\] cannot be streamed"):
        mcmc.run()
    assert not (tmp_path / "draws.zarr").exists()


def test_says_that_zarr_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install zarr xarray"):
        driver(MALA(STANDARD), stream=tmp_path / "draws.zarr")


def test_memory_of_the_ring_is_as_given(tmp_path):
    kernel = MALA(STANDARD)
    mcmc = driver(kernel, 1_000, 5, num_chains=10, stream=tmp_path / "x.zarr", stream_memory=10**5)
    mcmc.run()
    storage = mcmc._run.storage
    held = storage._positions.nbytes + storage._stats.nbytes
    assert 0.9e5 < held < 1.1e5
    in_memory = DrawStorage(10)
    assert in_memory.waiting is None


def stream_and_save(path, file):
    """Begin the run or go on with it, saving after each step; for a process of its own."""
    checkpoint._LARGEST_SHARE = 1e9
    kernel = MALA(STANDARD)
    if file.exists():
        mcmc = MCMC.load(file, kernel, disable_progbar=True)
    else:
        settings = {"stream": path, "stream_memory": 1, "checkpoint_every": 1e-9}
        mcmc = seeded(kernel, 40, checkpoint=file, **settings)
    mcmc.run()


def test_a_killed_stream_goes_on_and_ends_the_same(tmp_path):
    whole, path, file = (tmp_path / name for name in ("whole.zarr", "draws.zarr", "run.pt"))
    before = time.perf_counter()
    process = forked(stream_and_save, whole, tmp_path / "whole.pt")
    process.join()
    seconds = time.perf_counter() - before
    pause = random.Random(2)
    for _ in range(5):
        process = forked(stream_and_save, path, file)
        time.sleep(pause.uniform(0.1, 0.3) * seconds)
        process.kill()
        process.join()
    process = forked(stream_and_save, path, file)
    process.join()
    assert process.exitcode == 0
    with opened(path) as tree, opened(whole) as expected:
        for group in ("posterior", "sample_stats"):
            xr.testing.assert_equal(tree[group].to_dataset(), expected[group].to_dataset())
