"""Arithmetic on flat positions."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from pyro_ebm.core.positions import WIDE, choose, dot64, laid_out, room_for, select


class State(NamedTuple):
    position: torch.Tensor
    potential_energy: torch.Tensor


def test_dot_is_the_inner_product_of_each_chain():
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert dot64(a, b).tolist() == [17.0, 53.0]


def test_dot_of_single_precision_is_summed_in_double():
    """2^24 + 1 is no float32."""
    a = torch.tensor([[2.0**24, 1.0]], dtype=torch.float32)
    product = dot64(a, torch.ones_like(a))
    assert product.dtype == torch.float64
    assert product.tolist() == [2.0**24 + 1]


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4)])
def test_choose_takes_whole_chains(shape):
    new, old = torch.randn(shape), torch.randn(shape)
    chosen = choose(torch.tensor([True, False, True]), new, old)
    assert torch.equal(chosen[0], new[0])
    assert torch.equal(chosen[1], old[1])
    assert torch.equal(chosen[2], new[2])


def test_what_is_not_chosen_may_be_nan():
    new, old = torch.full((2, 2), torch.nan), torch.ones(2, 2)
    assert torch.equal(choose(torch.zeros(2, dtype=torch.bool), new, old), old)


def test_select_keeps_the_fields_of_a_chain_together():
    new, old = State(torch.ones(2, 3), torch.ones(2)), State(torch.zeros(2, 3), torch.zeros(2))
    chosen = select(torch.tensor([True, False]), new, old)
    assert type(chosen) is State
    assert chosen.position.tolist() == [[1.0] * 3, [0.0] * 3]
    assert chosen.potential_energy.tolist() == [1.0, 0.0]


def test_select_refuses_states_of_different_length():
    with pytest.raises(ValueError, match="zip"):
        select(torch.ones(2, dtype=torch.bool), (torch.ones(2),), (torch.ones(2), torch.ones(2)))


@pytest.mark.parametrize("dim", [2, WIDE - 1, WIDE])
def test_room_for_positions_lies_as_they_do(dim):
    x = laid_out(torch.zeros(5, dim))
    assert room_for(4, x)[2].stride() == x.stride()


@pytest.mark.parametrize("shape", [(0, 3), (0, WIDE), (1, 3), (5, 1)])
def test_no_chain_one_chain_and_one_coordinate_have_room(shape):
    x = laid_out(torch.zeros(shape))
    assert room_for(4, x).shape == (4, *shape)


def test_few_numbers_of_many_chains_lie_chain_by_chain():
    assert laid_out(torch.zeros(5, WIDE - 1)).stride() == (1, 5)
    assert laid_out(torch.zeros(5, 2, WIDE - 1)).stride() == (1, 5 * (WIDE - 1), 5)


def test_many_numbers_of_a_chain_lie_in_a_row():
    assert laid_out(torch.zeros(WIDE, 5).mT).stride() == (WIDE, 1)
    assert laid_out(torch.zeros(WIDE, 5, 2).permute(1, 2, 0)).stride() == (2 * WIDE, WIDE, 1)
