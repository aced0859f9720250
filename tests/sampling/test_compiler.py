"""Compiled code is taken from the cache where it is the same, and only there."""

from __future__ import annotations

import re
import time

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

from pyro_ebm.sampling.compiler import Compiler

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of Inductor
X, ROOM = torch.linspace(0, 1, 6).reshape(3, 2), torch.zeros(4, 3)


def _scaled(number, *constants):
    """A function that holds tensors and a number, and writes to one that it is given."""

    def function(x, room):
        value = number * x.exp()
        for constant in constants:
            value = value @ constant if constant.ndim else value + constant
        total = value.sum(-1)
        room.index_copy_(0, torch.ones(1, dtype=torch.int64), total[None])
        return [value, total]

    return function


def _assert_compiles(function):
    room, compiled_room = ROOM.clone(), ROOM.clone()
    compiled = Compiler()(function, [X, compiled_room.clone()])
    torch.testing.assert_close(compiled(X, compiled_room), function(X, room))
    torch.testing.assert_close(compiled_room, room)


def _hits():
    """How often the cache was of use."""
    return counters["inductor"]["fxgraph_cache_hit"]


def test_what_a_function_holds_is_told_apart():
    matrix, shift = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor(5.0)
    before, new = _hits(), time.time()  # nobody compiled this number before
    _assert_compiles(_scaled(new, matrix, shift))
    assert _hits() == before
    _assert_compiles(_scaled(new, matrix.clone(), shift.clone()))
    assert _hits() == before + 1
    _assert_compiles(_scaled(new, matrix + 1, shift))
    _assert_compiles(_scaled(new, matrix, shift + 1))
    assert _hits() == before + 3  # and yet they are others
    _assert_compiles(_scaled(new + 1, matrix, shift))
    assert _hits() == before + 3


def test_shapes_are_numbers_in_the_code():
    """Loops of unknown length are slower; to look for cached graphs makes lengths symbols."""
    function, now = _scaled(time.time(), torch.tensor(5.0)), [X, ROOM.clone()]
    _, codes = run_and_get_code(Compiler(), function, now)
    assert "cpp_fused" in codes[0]
    assert not re.search(r"\bks\d|_size\[", codes[0])


def test_threads_are_told_apart():
    number, x, before = time.time(), torch.ones(2**16, 1), torch.get_num_threads()

    def hits_with(threads):
        torch.set_num_threads(threads)
        started = _hits()
        Compiler()(lambda x: [x.exp() * number], [x])
        return _hits() - started

    try:
        assert [hits_with(threads) for threads in (1, 2, 1)] == [0, 0, 1]
    finally:
        torch.set_num_threads(before)
