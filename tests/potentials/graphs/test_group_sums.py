"""Additions at constant indices: as products or as groups, with the same sums."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_ebm.potentials.graphs import group_sums
from pyro_ebm.potentials.graphs.group_sums import sum_by_group
from pyro_ebm.sampling.compiler import Compiler

CHAINS = 3
_aten = torch.ops.aten

EVEN = torch.tensor([2, 0, 1, 1, 2, 0])
UNEVEN = torch.tensor([3, 0, 3, 1])  # nobody in 2
LOPSIDED = torch.tensor([0, 0, 0, 0, 0, 1])


def _added(index, num_groups, axis=1, *, shape=None, dtype=torch.float64):
    """A function that adds at indices to what is there already, and what to call it with."""
    shape = shape or [CHAINS, len(index)]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=dtype, generator=generator)
    there = torch.randn(
        [*shape[:axis], num_groups, *shape[axis + 1 :]], dtype=dtype, generator=generator
    )
    return lambda x: there.index_add(axis, index, x * 2.0), x


def _rewritten(function, x):
    module = make_fx(function)(x)
    sum_by_group(module)
    return module, {node.target for node in module.graph.nodes}


CASES = {
    "groups of one size": _added(EVEN, 3),
    "groups of several sizes, one empty": _added(UNEVEN, 4),
    "one group": _added(torch.zeros(5, dtype=torch.int64), 1),
    "the last groups empty": _added(EVEN, 4),
    "single precision": _added(EVEN, 3, dtype=torch.float32),
}
OTHER_AXES = {
    "first axis": _added(EVEN, 3, 0, shape=[6, CHAINS]),
    "middle of three": _added(UNEVEN, 4, 1, shape=[CHAINS, 4, 2]),
    "a vector": _added(EVEN, 3, 0, shape=[6]),
}


@pytest.mark.parametrize("case", CASES)
def test_few_groups_become_a_product(case):
    function, x = CASES[case]
    module, targets = _rewritten(function, x)
    assert _aten.mm.default in targets
    assert _aten.index_add.default not in targets
    torch.testing.assert_close(module(x), function(x))


@pytest.mark.parametrize("case", CASES | OTHER_AXES)
def test_many_groups_fetch_their_members(case, monkeypatch):
    monkeypatch.setattr(group_sums, "_FEW", 0)
    function, x = (CASES | OTHER_AXES)[case]
    module, targets = _rewritten(function, x)
    assert _aten.index_select.default in targets
    assert not targets & {_aten.index_add.default, _aten.mm.default}
    torch.testing.assert_close(module(x), function(x))


@pytest.mark.parametrize("few", [100, 0])
@pytest.mark.parametrize("case", CASES)
def test_chains_may_lie_innermost(case, few, monkeypatch):
    monkeypatch.setattr(group_sums, "_FEW", few)
    function, x = CASES[case]
    x = x.mT.contiguous().mT
    torch.testing.assert_close(_rewritten(function, x)[0](x), function(x))


def test_products_are_for_few_groups_and_numbers(monkeypatch):
    function, x = _added(EVEN, 3)
    for name, enough in (("_FEW", 3), ("_LARGEST", 3 * len(EVEN))):
        with monkeypatch.context() as patch:
            patch.setattr(group_sums, name, enough)
            assert _aten.mm.default in _rewritten(function, x)[1]
            patch.setattr(group_sums, name, enough - 1)
            assert _aten.mm.default not in _rewritten(function, x)[1]


def test_steps_of_one_graph_share_what_is_made_of_an_index(monkeypatch):
    zeros = torch.zeros(CHAINS, 4)

    def steps(x):
        return zeros.index_add(1, UNEVEN, x) + zeros.index_add(1, UNEVEN.clone(), x.exp())

    for few, num_constants in ((100, 1), (0, 2)):
        monkeypatch.setattr(group_sums, "_FEW", few)
        x = torch.rand(CHAINS, 4)
        module, _ = _rewritten(steps, x)
        made = [name for name, _ in module.named_buffers() if name.startswith("_group_sums")]
        assert len(made) == num_constants
        torch.testing.assert_close(module(x), steps(x))


def test_indices_made_of_constants_are_constants():
    zeros, index = torch.zeros(CHAINS, 3), EVEN - 3

    def function(x):
        return zeros.index_add(1, torch.where(index < 0, index + 3, index), x)

    x = torch.rand(CHAINS, 6)
    module, targets = _rewritten(function, x)
    assert _aten.index_add.default not in targets
    torch.testing.assert_close(module(x), function(x))


@pytest.mark.parametrize("few", [100, 0])
def test_what_needs_no_sums_is_left_alone(few, monkeypatch):
    monkeypatch.setattr(group_sums, "_FEW", few)
    one, none = torch.tensor(1), torch.empty(0, dtype=torch.int64)
    zeros = torch.zeros(CHAINS, 3)
    for function, x in (
        (lambda x: zeros.index_add(1, one, x), torch.rand(CHAINS, 1)),
        (lambda x: zeros.index_add(1, none, x), torch.rand(CHAINS, 0)),
        (lambda x: zeros.int().index_add(1, EVEN, x), torch.ones(CHAINS, 6, dtype=torch.int32)),
    ):
        module, targets = _rewritten(function, x)
        assert _aten.index_add.default in targets
        torch.testing.assert_close(module(x), function(x))


def test_a_large_group_among_many_takes_no_memory():
    index = torch.cat([torch.zeros(10**6, dtype=torch.int64), torch.arange(10**6)])
    zeros = torch.zeros(1, 10**6, dtype=torch.float32)
    x = torch.ones(1, 2 * 10**6, dtype=torch.float32)
    assert _aten.index_add.default in _rewritten(lambda x: zeros.index_add(1, index, x), x)[1]


@pytest.mark.parametrize("case", OTHER_AXES)
def test_products_are_for_matrices(case):
    function, x = OTHER_AXES[case]
    assert _aten.mm.default not in _rewritten(function, x)[1]


def test_what_is_infinite_stays_in_its_group_if_groups_fetch(monkeypatch):
    monkeypatch.setattr(group_sums, "_FEW", 0)
    function, x = _added(UNEVEN, 4)
    x[0, 0] = torch.inf  # which is what empty places hold until they are emptied
    module, _ = _rewritten(function, x)
    torch.testing.assert_close(module(x), function(x))


def test_what_is_infinite_stays_in_its_chain_in_a_product():
    function, x = CASES["groups of one size"]
    x = x.clone()
    x[0, 1] = torch.inf
    sums = _rewritten(function, x)[0](x)
    assert not bool(sums[0].isfinite().any())
    torch.testing.assert_close(sums[1:], function(x)[1:])


def test_very_unequal_groups_are_left_alone(monkeypatch):
    monkeypatch.setattr(group_sums, "_FEW", 0)
    function, x = _added(LOPSIDED, 5)
    assert _aten.index_add.default in _rewritten(function, x)[1]


def test_indices_that_vary_are_left_alone():
    zeros = torch.zeros(CHAINS, 6)
    _, targets = _rewritten(lambda x: zeros.index_add(1, x[0].long(), x), torch.rand(CHAINS, 6))
    assert _aten.index_add.default in targets


def test_weighted_additions_are_left_alone():
    zeros = torch.zeros(CHAINS, 3)
    _, targets = _rewritten(lambda x: zeros.index_add(1, EVEN, x, alpha=2.0), torch.rand(CHAINS, 6))
    assert _aten.index_add.default in targets


@pytest.mark.usefixtures("less_precise")
def test_products_of_less_precision_are_not_used():
    for case, is_product in (("single precision", False), ("groups of one size", True)):
        assert (_aten.mm.default in _rewritten(*CASES[case])[1]) is is_product


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of Inductor
@pytest.mark.parametrize(("few", "is_product"), [(100, True), (0, False)])
def test_compiled_code_sums_the_same(few, is_product, monkeypatch):
    monkeypatch.setattr(group_sums, "_FEW", few)
    function, x = _added(UNEVEN.repeat(40), 4)
    compiled = Compiler()(lambda x: [function(x)], [x])
    with torch.profiler.profile() as profile:
        (sums,) = compiled(x)
    made = {event.key for event in profile.key_averages()}
    assert ("aten::mm" in made) is is_product
    torch.testing.assert_close(sums, function(x))
