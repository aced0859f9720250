"""Chains far from all others are told from those that are merely in the tails."""

from __future__ import annotations

import pytest
import torch

from pyro_ebm.kernels import HMC, MALA, ChEESHMC
from pyro_ebm.kernels._metropolis import LangevinState
from pyro_ebm.sampling import warmup
from pyro_ebm.sampling.outliers import is_high, within_reach
from tests.sampling.runs import PlainEnergy, run


def test_a_chain_on_its_way_hardly_changes_the_scale():
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    far = position.clone()
    far[5, 1] = 1e4
    assert torch.equal(within_reach(position), position)
    assert far.std(dim=0)[1] > 1000
    assert within_reach(far).std(dim=0)[1] < 1.5
    assert torch.equal(within_reach(far)[:, [0, 2]], position[:, [0, 2]])


@pytest.mark.parametrize("num_chains", [255, 256, 1000, 4096])
def test_of_many_chains_some_tell_who_is_far(num_chains):
    """Whether these are among the far ones or not."""
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(num_chains, 3, generator=generator)
    assert torch.equal(within_reach(position), position)
    far = torch.arange(num_chains) % 50 == 7
    moved = within_reach(position.masked_fill(far.unsqueeze(-1), 1e4))
    assert torch.equal(moved[~far], position[~far])
    # A median deviation is 0.67 standard deviations; of 128 numbers it scatters by a tenth.
    assert (moved[far] > 10 * 0.67 * 0.6).all()
    assert (moved[far] < 10 * 0.67 * 1.5).all()


@pytest.mark.parametrize("num_modes", [4, 5, 8])
def test_modes_by_turns_are_all_within_reach(num_modes):
    generator = torch.Generator().manual_seed(0)
    mode = torch.arange(1000) % num_modes
    position = (100.0 * mode + torch.randn(1000, generator=generator)).unsqueeze(-1)
    assert torch.equal(within_reach(position), position)


def test_few_chains_and_chains_at_one_place_stay_where_they_are():
    few = torch.tensor([[0.0], [0.1], [0.2], [1e4]])
    assert torch.equal(within_reach(few), few)
    alike = torch.zeros(64, 1).index_fill(0, torch.tensor([7]), 3.0)
    assert torch.equal(within_reach(alike), alike)


def test_high_is_who_has_no_part_in_the_law_of_energies():
    generator = torch.Generator().manual_seed(0)
    dim_of_a_neck = torch.randn(4096, 54, generator=generator).square().sum(dim=-1) / 2
    long_tail = torch.empty(4096).exponential_(generator=generator)
    for energy in (dim_of_a_neck, long_tail):
        assert not is_high(energy).any()
        for off in (1000.0, torch.inf):
            energy[3] = off
            assert is_high(energy).nonzero().tolist() == [[3]]


@pytest.mark.parametrize(("num_high", "is_told"), [(4, True), (5, False), (24, False)])
def test_many_chains_so_high_may_have_found_a_wide_mode(num_high, is_told):
    generator = torch.Generator().manual_seed(0)
    energy = torch.randn(64, generator=generator)
    energy[:num_high] += 1000.0
    assert int(is_high(energy).sum()) == (num_high if is_told else 0)


def test_frozen_chains_do_not_say_who_is_high():
    """Half of them frozen at one energy: those that move are not all lost."""
    warm_up = warmup.WarmUp(MALA(step_size=1.0), None, torch.Generator())
    warm_up._num_steps, warm_up._accepted = 100, torch.arange(40.0) // 20
    energy = torch.cat([torch.linspace(0, 0.01, 20), torch.linspace(50, 60, 20)])
    assert warm_up._lost(energy).tolist() == 20 * [True] + 20 * [False]


def test_ranks_judge_by_the_chains_of_all():
    warm_up = warmup.WarmUp(MALA(step_size=1.0), None, torch.Generator(), ranks=SecondOfTwo())
    warm_up._num_steps, warm_up._accepted = 100, torch.ones(8)
    energy = torch.linspace(0, 1, 8).index_fill(0, torch.tensor([5]), 1000.0)
    assert warm_up._lost(energy).nonzero().tolist() == [[8 + 5]]


class SecondOfTwo:
    """A rank whose fellow has no chain that is high; each alone has too few to tell."""

    rank, size = 1, 2

    def gather(self, part):
        return torch.cat([part.clamp(max=1.0), part])


class BesideOneThatMoves:
    """A rank with one chain, as the other has, which is at 7 and moves well."""

    rank, size = 0, 2

    def gather(self, part):
        if part.shape[-1] == 2:  # energy, and whether it hardly moved
            return torch.cat([part, part * torch.tensor([1.0, 0.0])])
        return torch.cat([part, torch.full_like(part, 7.0)])


def test_a_chain_that_is_lost_on_its_own_goes_to_another_rank():
    ranks = BesideOneThatMoves()
    warm_up = warmup.WarmUp(MALA(step_size=1.0), None, torch.Generator(), ranks=ranks)
    warm_up._num_steps, warm_up._accepted = 100, torch.zeros(1)
    warm_up.num_restarted = 0
    state = LangevinState(torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 3))
    state = warm_up._restart_lost_chains(state)
    assert all((field == 7.0).all() for field in state)
    assert warm_up.num_restarted == 1


def test_nobody_is_high_among_few_or_equal_chains():
    assert not is_high(torch.tensor([0.0, 0.1, 0.2, 1e4])).any()
    assert not is_high(torch.zeros(64).index_fill(0, torch.tensor([7]), 3.0)).any()
    assert not is_high(-1000.0 * torch.ones(64).index_fill(0, torch.tensor([7]), 3.0)).any()


PLATEAU = PlainEnergy(lambda x: 50.0 * torch.log1p(x.square()))
"""A bulk of standard deviation 0.1; a thousand away all moves are taken, and slopes are 0.1."""


def _farthest(kernel):
    starts = torch.linspace(-0.2, 0.2, 32)
    starts[4] = 1000.0
    mcmc = run(kernel(PLATEAU), 20, 150, num_chains=32, initial_params={"x": starts})
    return float(mcmc.chains.positions.abs().max()), mcmc.num_restarted


@pytest.mark.parametrize("kernel", [MALA, HMC, ChEESHMC])
def test_a_chain_on_a_high_plateau_is_put_where_others_are(kernel, monkeypatch):
    farthest, num_restarted = _farthest(kernel)
    assert farthest < 2.0
    assert num_restarted >= 1
    monkeypatch.setattr(warmup, "is_high", lambda energy: torch.zeros_like(energy) > 0)
    farthest, _ = _farthest(kernel)
    assert farthest > 100.0
