"""Chains in two processes: one tuned kernel, all draws everywhere, the right law."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyro_ebm.kernels import MALA
from pyro_ebm.sampling import MCMC
from pyro_ebm.sampling.ranks import gather_together, total
from tests.sampling.distributed_run import COVARIANCE, ENERGY, KERNELS, LOC, NUM_DRAWS
from tests.statistics import Rejected, assert_chain_means, assert_independent_chains

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ranks(tmp_path_factory):
    """What both ranks have saved."""
    folder = tmp_path_factory.mktemp("ranks")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = ["-m", "tests.sampling.distributed_run", str(folder)]
    command = [sys.executable, "-W", "ignore", "-m", *launcher, *program]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"rank_{rank}.pt") for rank in range(2)]


def test_two_ranks_tune_one_kernel_and_draw_from_one_law(ranks):
    """One test, since each process of a test run would start the ranks anew."""
    for name in KERNELS:
        check_all_ranks_tune_the_same_kernel_and_have_all_draws(ranks, name)
        check_the_ranks_draw_from_the_law_and_not_the_same_numbers(ranks, name)
        check_what_is_tuned_is_what_one_process_would_tune(ranks, name)


def check_all_ranks_tune_the_same_kernel_and_have_all_draws(ranks, name):
    first, second = (rank[name] for rank in ranks)
    assert first["step_size"] == second["step_size"] is not None
    assert first["length"] == second["length"]
    assert torch.equal(first["scale"], second["scale"])
    if name == "rotations":
        assert torch.equal(first["center"], second["center"])
        assert bool(((first["center"] - LOC).abs() < 0.3 * COVARIANCE.diagonal().sqrt()).all())
    assert first["draws"].shape == (64, NUM_DRAWS, 2)
    assert torch.equal(first["draws"], second["draws"])
    assert first["diverging"].dtype == torch.bool
    assert first["diverging"].shape == (64, NUM_DRAWS)


def check_the_ranks_draw_from_the_law_and_not_the_same_numbers(ranks, name):
    draws = ranks[0][name]["draws"]
    centred = draws - ENERGY.loc
    assert_chain_means(draws, ENERGY.loc)
    assert_chain_means(centred[..., 0] * centred[..., 1], COVARIANCE[0, 1])
    assert_chain_means(centred.square(), COVARIANCE.diagonal())
    assert_independent_chains(draws)
    with pytest.raises(Rejected):  # as it would be if both ranks had one seed
        assert_independent_chains(torch.cat([draws[:32], draws[:32]]))


def check_what_is_tuned_is_what_one_process_would_tune(ranks, name):
    torch.manual_seed(1)
    mcmc = MCMC(KERNELS[name], 2, num_chains=64, disable_progbar=True)
    mcmc.run()
    tuned = ranks[0][name]
    assert tuned["step_size"] == pytest.approx(mcmc.kernel.step_size, rel=0.5)
    torch.testing.assert_close(tuned["scale"], mcmc.kernel.scale, rtol=0.3, atol=0.0)


def test_there_must_be_a_group():
    with pytest.raises(RuntimeError, match=r"init_process_group.*torchrun"):
        MCMC(MALA(ENERGY), 2, distributed=True)


class TwoAlike:
    """Ranks that send the same, one message each time."""

    rank, size, num_messages = 0, 2, 0

    def gather(self, part):
        self.num_messages += 1
        return torch.cat([part, part])


def test_what_ranks_count_is_added_up():
    assert total(TwoAlike(), 3, torch.device("cpu")) == 6


def test_one_message_holds_parts_of_every_shape_and_type():
    ranks, generator = TwoAlike(), torch.Generator().manual_seed(0)
    parts = [
        torch.randn(3, 2, 4, generator=generator).movedim(0, -1).contiguous().movedim(-1, 0),
        torch.randn(3, generator=generator, dtype=torch.float64),
        torch.tensor([True, False, True]),
        torch.tensor([2**40 + 1, -7, 0]),
        torch.empty(3, 2, 0, 5),
    ]
    found = gather_together(ranks, parts)
    assert ranks.num_messages == 1
    for one, part in zip(found, parts, strict=True):
        assert one.dtype == part.dtype
        assert torch.equal(one, torch.cat([part, part]))
