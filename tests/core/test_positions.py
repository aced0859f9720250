"""Arithmetic on flat positions."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from pyro_ebm.core.positions import (
    chains_innermost,
    choose,
    dot64,
    empty_rows,
    layout_of,
    lies_in_rows,
    normal_noise,
    select,
)


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


ROWS = torch.zeros(5, 3)
LAYOUTS = pytest.mark.parametrize(
    "x", [ROWS, chains_innermost(ROWS), torch.zeros(1, 3), torch.zeros(5, 1)]
)


@LAYOUTS
def test_what_is_made_for_positions_lies_as_they_do(x):
    for made in (x, normal_noise(x, None), empty_rows(4, x)[2]):
        assert layout_of(x)(made).data_ptr() == made.data_ptr()


@LAYOUTS
def test_what_lies_otherwise_is_turned(x):
    for other in (torch.arange(15.0).reshape(5, 3), torch.arange(15.0).reshape(3, 5).mT):
        turned = layout_of(x)(other)
        assert torch.equal(turned, other)
        assert turned.is_contiguous() == lies_in_rows(x)


def test_one_chain_and_one_coordinate_lie_both_ways():
    assert lies_in_rows(ROWS)
    assert not any(map(lies_in_rows, (ROWS[:1], ROWS[:, :1].contiguous(), chains_innermost(ROWS))))


def test_noise_is_standard_normal_either_way():
    """Every number once, in the order in which they lie."""
    noises = [
        normal_noise(x, torch.Generator().manual_seed(0)) for x in (ROWS, chains_innermost(ROWS))
    ]
    flat = torch.randn(15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noises[0].flatten(), flat)
    assert torch.equal(noises[1].mT.flatten(), flat)
