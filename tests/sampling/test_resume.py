"""A run that was stopped and loaded is, to the bit, the one that was never stopped."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_ebm.core.positions import WIDE
from pyro_ebm.energies import MLPEnergy
from pyro_ebm.kernels import (
    HMC,
    MALA,
    NUTS,
    ROTATIONS,
    SGLD,
    AnnealedLangevin,
    ChEESHMC,
    Langevin,
    PreconditionedMALA,
    ReplicaExchange,
    UnderdampedLangevin,
)
from pyro_ebm.potentials.graphs.onednn import is_onednn_faster
from pyro_ebm.sampling import MCMC
from pyro_ebm.sampling.chains import ChainRun
from pyro_ebm.sampling.storage import DrawStorage
from pyro_ebm.sampling.warmup import WarmUp
from pyro_ebm.sampling.watch import EscapeWatch
from tests.models import eight_schools
from tests.operations import OperationLog
from tests.sampling.runs import PlainEnergy, cut_short, driver

SCHOOLS = (
    torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
)

KERNELS = {
    "mala": MALA,
    "preconditioned_mala": PreconditionedMALA,
    "langevin": Langevin,
    "sgld": SGLD,
    "annealed": lambda target: AnnealedLangevin(
        target, step_size=0.1, noise_levels=(3.0, 1.0), steps_per_level=3
    ),
    "underdamped": UnderdampedLangevin,
    "hmc": HMC,
    "nuts": lambda target: NUTS(target, max_tree_depth=3),
    "nuts_dense": lambda target: NUTS(target, max_tree_depth=3, full_mass=True),
    "nuts_rotations": lambda target: NUTS(target, max_tree_depth=3, integrator=ROTATIONS),
    "chees": ChEESHMC,
    "chees_rotations": lambda target: ChEESHMC(target, integrator=ROTATIONS, full_mass=True),
    "replicas": lambda target: ReplicaExchange(MALA(target), num_replicas=3),
    "replicas_hmc": lambda target: ReplicaExchange(HMC(target), num_replicas=3, smallest_beta=0.3),
}


def correlated(x: Tensor) -> Tensor:
    """A Gaussian with unlike scales, which a mass matrix is of use to."""
    scale = torch.tensor([1.0, 3.0, 0.3], dtype=x.dtype).repeat(11)[: x.shape[-1]]
    y = (x - x.roll(1, -1) / 3) / scale
    return 0.5 * y.square().sum(-1)


class InType(PlainEnergy):
    """An energy of a type of its own."""

    def __init__(self, dtype, dim=3):
        super().__init__(correlated, dim)
        self.weight = torch.ones((), dtype=dtype)

    def parameters(self):
        return iter([self.weight])


class Recorder:
    """A hook that keeps what it is called with, and does something at some of the calls."""

    def __init__(self, act=lambda number: None):
        self.act, self.calls = act, []

    def __call__(self, kernel, params, stage, i):
        self.calls.append((stage, i, {name: value.clone() for name, value in params.items()}))
        self.act(len(self.calls))


def start(kernel, hook, **settings):
    generator = torch.Generator().manual_seed(7)
    defaults = {"num_chains": 8, "save_warmup": True, "thinning": 2, "generator": generator}
    return driver(kernel, 4, 32, **(defaults | settings), hook_fn=hook)


def assert_same_run(first: MCMC, second: MCMC) -> None:
    for a, b in ((first.chains, second.chains), (first.warmup_chains, second.warmup_chains)):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.equal(a.positions, b.positions)
            assert a.stats.keys() == b.stats.keys()
            for name, values in a.stats.items():
                assert values.dtype == b.stats[name].dtype
                assert torch.equal(values, b.stats[name]), name
    assert_same_content(first._run.state_dict(), second._run.state_dict())
    assert first.num_restarted == second.num_restarted
    assert first.kernel.step_size == second.kernel.step_size


def assert_same_content(first, second, path=""):
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype, path
        assert first.stride() == second.stride(), path
        assert torch.equal(first.nan_to_num(), second.nan_to_num()), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for name in first:
            assert_same_content(first[name], second[name], f"{path}.{name}")
    elif isinstance(first, list):
        assert len(first) == len(second), path
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same_content(a, b, f"{path}[{index}]")
    else:
        assert repr(first) == repr(second), path


def same_calls(first, second):
    assert [call[:2] for call in first] == [call[:2] for call in second]
    for a, b in zip(first, second, strict=True):
        assert_same_content(a[2], b[2])


def continued(kernel, path, args=(), **settings):
    hook = Recorder()
    mcmc = MCMC.load(path, kernel, hook_fn=hook, disable_progbar=True, **settings)
    torch.manual_seed(12345)
    mcmc.run(*args)
    return mcmc, hook.calls


def as_loaded(kernel, path, args):
    """What a run that goes on from a file would save before its first step."""
    mcmc = MCMC.load(path, kernel, disable_progbar=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChainRun, "run", lambda run, progress: None)
        mcmc.run(*args)
    return mcmc._run.state_dict()


def moments(calls):
    """In the first window, in slow ones, at the end of one, in the last, and in sampling."""
    warm = sum(call[0] == "Warmup" for call in calls)
    shares = (1 / warm, 0.5, 0.93, 1.0)
    points = {max(1, round(share * warm)) for share in shares}
    return sorted(points | {(warm + len(calls)) // 2, len(calls)})


def saved_on_the_way(folder, kernel, args=(), **settings):
    """A run, the calls of its hook, and a file for each moment."""
    hook = Recorder()
    first = start(kernel, hook, **settings)
    first.run(*args)
    files = {number: folder / f"{number}.pt" for number in moments(hook.calls)}
    save = Recorder(lambda number: number in files and whole.save(files[number]))
    whole = start(kernel, save, **settings)
    whole.run(*args)
    assert_same_run(first, whole)
    return whole, hook.calls, files


def check_all_moments(folder, kernel, args=(), **settings):
    whole, calls, files = saved_on_the_way(folder, kernel, args, **settings)
    for number, path in files.items():
        assert_same_content(as_loaded(kernel, path, args), torch.load(path)["run"])
        resumed, rest = continued(kernel, path, args)
        assert_same_run(whole, resumed)
        same_calls(calls[number:], rest)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_resumed_is_uninterrupted_on_an_energy(tmp_path, name, dtype):
    check_all_moments(tmp_path, KERNELS[name](InType(dtype)))


@pytest.mark.filterwarnings("ignore:only .* of the swaps")  # of three replicas: not asked for here
@pytest.mark.parametrize("name", ["underdamped", "nuts", "replicas"])
def test_resumed_is_uninterrupted_on_wide_points(tmp_path, name):
    check_all_moments(tmp_path, KERNELS[name](InType(torch.float32, WIDE)))


@pytest.mark.parametrize("name", ["underdamped", "nuts", "nuts_dense"])
def test_resumed_is_uninterrupted_on_a_model(tmp_path, name):
    check_all_moments(tmp_path, KERNELS[name](eight_schools), SCHOOLS)


def large_products(weight):
    """128 chains are enough for the products of oneDNN."""
    z = pyro.sample("z", dist.Normal(weight.new_zeros(128), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(z @ weight, 10.0).to_event(1), obs=weight.new_zeros(128))


@pytest.mark.usefixtures("either_product")
def test_resumed_is_uninterrupted_with_large_products(tmp_path):
    weight = torch.randn(128, 128, dtype=torch.float32)
    with OperationLog() as log:
        check_all_moments(tmp_path, MALA(large_products), (weight,), num_chains=128)
    assert is_onednn_faster() == ("product" in log.names)


@pytest.mark.usefixtures("either_product")
def test_resumed_is_uninterrupted_on_a_network(tmp_path):
    """Recorded, its last bits are others than those of the energy as it is written."""
    network = MLPEnergy(3, hidden=(128, 128)).float()
    with OperationLog() as log:
        check_all_moments(tmp_path, MALA(network), num_chains=128)
    assert is_onednn_faster() == ("product" in log.names)


class Interrupting(InType):
    """The energy, which presses Ctrl-C in the middle of its ``left``-th evaluation."""

    def __init__(self, left):
        super().__init__(torch.float64)
        self.left = left

    def __call__(self, x):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().__call__(x)


@pytest.mark.parametrize("name", ["underdamped", "nuts"])
def test_an_interrupt_in_the_middle_of_a_step_loses_that_step_only(tmp_path, name):
    path, counts = tmp_path / "run.pt", Interrupting(0)
    whole = start(KERNELS[name](counts), None)
    whole.run()
    total = -counts.left
    for evaluation in (3, 4, 12, total // 3, total // 2, total - 4):
        interrupted = start(KERNELS[name](Interrupting(evaluation)), None)
        cut_short(interrupted)
        interrupted.save(path)
        resumed, _ = continued(KERNELS[name](Interrupting(0)), path)
        assert_same_run(whole, resumed)


def test_a_run_can_be_stopped_many_times(tmp_path):
    kernel, path = NUTS(InType(torch.float64), max_tree_depth=3), tmp_path / "run.pt"
    hook = Recorder()
    whole = start(kernel, hook, num_chains=2)
    whole.run()
    calls = []

    def stop_at_the_tenth(number):
        if number == 10:
            raise KeyboardInterrupt

    mcmc = start(kernel, Recorder(stop_at_the_tenth), num_chains=2)
    for _ in range(3):
        cut_short(mcmc)
        calls += mcmc.hook_fn.calls
        mcmc.save(path)
        mcmc = MCMC.load(path, kernel, hook_fn=Recorder(stop_at_the_tenth), disable_progbar=True)
    resumed, rest = continued(kernel, path)
    assert_same_run(whole, resumed)
    same_calls(hook.calls, calls + rest)


def test_a_finished_run_gives_its_draws_without_sampling(tmp_path):
    path, kernel = tmp_path / "run.pt", MALA(InType(torch.float64))
    whole = start(kernel, None)
    whole.run()
    whole.save(path)
    resumed, calls = continued(kernel, path)
    assert calls == []
    assert_same_run(whole, resumed)
    samples = whole.get_samples(), resumed.get_samples()
    assert torch.equal(samples[0]["x"], samples[1]["x"])


@pytest.mark.parametrize("thinning", [1, 2])
def test_more_draws_of_lockstep_chains_are_those_of_the_longer_run(tmp_path, thinning):
    path, kernel = tmp_path / "run.pt", MALA(InType(torch.float64))
    short = start(kernel, None, thinning=thinning)
    short.run()
    short.save(path)
    longer, calls = continued(kernel, path, num_samples=10)
    whole = MCMC(
        kernel,
        10,
        short.warmup_steps,
        num_chains=8,
        thinning=thinning,
        generator=torch.Generator().manual_seed(7),
        disable_progbar=True,
    )
    whole.run()
    assert torch.equal(longer.chains.positions, whole.chains.positions)
    assert len(calls) == 6 * thinning


def test_more_draws_of_nuts_come_after_the_old_ones(tmp_path):
    path, kernel = tmp_path / "run.pt", NUTS(InType(torch.float64), max_tree_depth=3)
    short = start(kernel, None)
    short.run()
    short.save(path)
    longer, _ = continued(kernel, path, num_samples=9)
    positions = longer.chains.positions
    assert positions.shape == (8, 9, 3)
    assert torch.equal(positions[:, :4], short.chains.positions)
    # Nothing is left out and nothing twice: neighbours differ wherever a draw was accepted.
    assert (positions.diff(dim=1) != 0).any(-1).double().mean() > 0.8


def equality_sees(tmp_path, kernel):
    try:
        check_all_moments(tmp_path, kernel)
    except AssertionError:
        return True
    return False


def forget(monkeypatch, cls, key):
    """Let a class start with a fresh one of the things in its file."""
    original = cls.load_state_dict

    def load(self, state):
        fresh = {name: value for name, value in self.state_dict().items() if name == key}
        original(self, {name: value for name, value in state.items() if name != key} | fresh)

    monkeypatch.setattr(cls, "load_state_dict", load)


def stale(monkeypatch, key):
    """Let warm-up go on with one of the things in the first of the files."""
    original, first = WarmUp.load_state_dict, {}

    def load(self, state):
        first.setdefault(key, state[key])
        original(self, state | first)

    monkeypatch.setattr(WarmUp, "load_state_dict", load)


def lose(monkeypatch, key, value):
    """Let a run start with something else than what is in its file."""
    original = ChainRun.resume

    def resume(self, kernel, state, warmup_steps):
        original(self, kernel, state | {key: value(self)}, warmup_steps)

    monkeypatch.setattr(ChainRun, "resume", resume)


def one_too_many(monkeypatch):
    original = DrawStorage.load_state_dict

    def load(self, state_dict):
        original(self, state_dict)
        if self._count is not None:
            self._count = self._count + 1

    monkeypatch.setattr(DrawStorage, "load_state_dict", load)


MUTANTS = {
    "generator": lambda patch: lose(patch, "generator", lambda run: run.generator.get_state()),
    "step": lambda patch: lose(patch, "steps", lambda run: 0),
    "phase": lambda patch: lose(patch, "warm_up", lambda run: None),
    "watch": lambda patch: forget(patch, EscapeWatch, "_steps"),
    "step size": lambda patch: stale(patch, "_tuner"),
    "scale": lambda patch: stale(patch, "_pooled"),
    "progress": lambda patch: stale(patch, "_progress"),
    "frozen chains": lambda patch: stale(patch, "_num_steps"),
    "windows": lambda patch: stale(patch, "_windows"),
    "count": one_too_many,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_comparison_sees_what_is_forgotten(tmp_path, monkeypatch, name):
    MUTANTS[name](monkeypatch)
    assert equality_sees(tmp_path, MALA(InType(torch.float64)))


def test_the_comparison_sees_a_length_that_is_forgotten(tmp_path, monkeypatch):
    stale(monkeypatch, "_adaptation")
    assert equality_sees(tmp_path, ChEESHMC(InType(torch.float64)))
