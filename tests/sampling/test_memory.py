"""The memory of a run is what docs/long-runs.md says."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from pyro_ebm.core.positions import tensors_of
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import HMC, MALA, NUTS, Langevin, UnderdampedLangevin
from tests.sampling.runs import driver

DIM, CHAINS, DRAWS = 50, 1000, 100
KIND = {"dtype": torch.float64}  # in a process of its own, too
ENERGY = GaussianEnergy(torch.zeros(DIM, **KIND), torch.eye(DIM, **KIND))

NUMBERS = {
    Langevin: 2 * DIM + 1,
    MALA: 2 * DIM + 1,
    UnderdampedLangevin: 3 * DIM + 1,
    HMC: 5 * DIM + 5,
    NUTS: (2 * 6 + 8) * DIM + 10,
}


def made(cls, num_draws):
    depth = {"max_tree_depth": 6} if cls is NUTS else {}
    kernel = cls(ENERGY, step_size=0.4, scale=torch.ones(DIM, **KIND), **depth)
    mcmc = driver(kernel, num_draws, 0, num_chains=CHAINS)
    mcmc.run()
    return mcmc


def state_bytes(mcmc):
    storages = (tensor.untyped_storage() for tensor in tensors_of(mcmc._run.mark.state))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("cls", NUMBERS, ids=lambda cls: cls.__name__)
def test_state_has_as_many_numbers_as_documented(cls):
    assert state_bytes(made(cls, 2)) == pytest.approx(8 * CHAINS * NUMBERS[cls], rel=0.02)


STATUS = Path("/proc/self/status")


def peak():
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def measure(queue):
    torch.set_num_threads(1)
    made(MALA, 2)
    before = peak()
    mcmc = made(MALA, DRAWS)
    run = peak() - before
    mcmc.get_samples()
    queue.put((run, peak() - before))


@pytest.mark.skipif(not STATUS.exists(), reason="there is no /proc")
def test_peak_is_draws_and_a_few_states():
    # A process that nothing has been freed in, which could be used again.
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=measure, args=(queue,))
    process.start()
    run, with_samples = queue.get()
    process.join()
    num_stats = len(made(MALA, 2).chains.stats)
    draws = DRAWS * CHAINS * (8 * DIM + 8 * num_stats)
    expected = draws + 3 * 8 * CHAINS * NUMBERS[MALA]
    assert run == pytest.approx(expected, rel=0.2)
    assert with_samples == pytest.approx(expected + DRAWS * CHAINS * 8 * DIM, rel=0.2)
