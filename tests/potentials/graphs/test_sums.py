"""Sums over numbers that lie far apart become products, and stay as good as sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_ebm.potentials.graphs import sums
from pyro_ebm.potentials.graphs.sums import multiply_by_ones
from pyro_ebm.sampling.compiler import Compiler

CHAINS, TERMS = 5, 60


def _rows(dtype=torch.float64):
    """Numbers ``(terms, chains)`` of both signs."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(TERMS, CHAINS, dtype=dtype, generator=generator) * 1e3


def _rewritten(function, x):
    module = make_fx(function)(x)
    multiply_by_ones(module)
    return module


def _num_products(module):
    return sum(node.target is torch.ops.aten.mm.default for node in module.graph.nodes)


FAR = {
    "first": (lambda x: (2.0 * x).sum(0), _rows()),
    "last, chains innermost": (lambda x: x.square().sum(-1), _rows().mT),
    "from behind": (lambda x: x.square().sum(-2), _rows()),
    "single precision": (lambda x: x.square().sum(0), _rows(torch.float32)),
}
NEAR = {
    "in order": (lambda x: x.square().sum(-1), _rows().mT.contiguous()),
    "few terms": (lambda x: x.square().sum(0), _rows()[:31]),
    "both dimensions": (lambda x: x.square().sum((0, 1)), _rows()),
    "kept dimension": (lambda x: x.square().sum(0, keepdim=True), _rows()),
    "of integers": (lambda x: x.square().sum(0), _rows().long()),
    "to another type": (lambda x: x.square().sum(0, dtype=torch.float64), _rows(torch.float32)),
    "three dimensions": (lambda x: x.square().sum(0), _rows()[..., None]),
    "of every other number": (lambda x: x.sum(0), _rows()[:, ::2]),
    "of no named dimension": (lambda x: x.sum(dim=None), _rows()),
}


@pytest.mark.parametrize("case", FAR)
def test_far_sums_become_products(case):
    function, x = FAR[case]
    module = _rewritten(function, x)
    assert _num_products(module) == 1
    torch.testing.assert_close(module(x), function(x))


@pytest.mark.parametrize("case", NEAR)
def test_other_sums_stay(case):
    function, x = NEAR[case]
    module = _rewritten(function, x)
    assert _num_products(module) == 0
    assert torch.equal(module(x), function(x))


@pytest.mark.usefixtures("less_precise")
def test_products_of_less_precision_are_not_used():
    assert _num_products(_rewritten(lambda x: x.sum(0), _rows(torch.float32))) == 0
    assert _num_products(_rewritten(lambda x: x.sum(0), _rows())) == 1


def test_large_matrices_need_not_lie_in_memory(monkeypatch):
    monkeypatch.setattr(sums, "_LARGEST", TERMS * CHAINS)
    assert _num_products(_rewritten(lambda x: x.sum(0), _rows())) == 1
    monkeypatch.setattr(sums, "_LARGEST", TERMS * CHAINS - 1)
    assert _num_products(_rewritten(lambda x: x.sum(0), _rows())) == 0


def test_several_sums_of_one_length_share_their_ones():
    def function(x):
        return x.exp().sum(0) + x.sum(0) + x[:40].sum(0) + x.double().sum(0)

    module = _rewritten(function, _rows(torch.float32) / 1e3)
    assert _num_products(module) == 4
    assert len(dict(module.named_buffers())) == 3
    torch.testing.assert_close(module(_rows(torch.float32)), function(_rows(torch.float32)))


@pytest.mark.parametrize("off", [math.nan, math.inf, -math.inf])
def test_a_chain_that_is_off_leaves_the_others_alone(off):
    x = _rows()
    x[7, 2] = off
    total = _rewritten(lambda x: x.sum(0), x)(x)
    torch.testing.assert_close(total, x.sum(0), equal_nan=True)
    assert total.isfinite().tolist() == [chain != 2 for chain in range(CHAINS)]


def test_single_precision_loses_no_more_than_in_a_loop():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(5000, 64, dtype=torch.float32, generator=generator)
    looped = torch.zeros(64, dtype=torch.float32)
    for row in x:
        looped += row
    total = _rewritten(lambda x: x.sum(0), x)(x)
    assert 0 < _error(total, x) <= _error(looped, x)


def _error(total, x):
    exact = torch.tensor([math.fsum(column) for column in x.double().mT.tolist()])
    return (total.double() - exact).abs().max()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of Inductor
def test_compiled_functions_use_them():
    x = _rows()
    compiled = Compiler()(lambda x: [x.square().sum(0)], [x])
    with torch.profiler.profile() as profile:
        (total,) = compiled(x)
    assert "aten::mm" in {event.key for event in profile.key_averages()}
    torch.testing.assert_close(total, x.square().sum(0))
