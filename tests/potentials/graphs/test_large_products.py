"""Large products are made by oneDNN, and are as good as those of BLAS."""

from __future__ import annotations

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_ebm.energies import MLPEnergy
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.potentials.graphs import large_products
from pyro_ebm.potentials.graphs.large_products import straighten_weights, use_onednn
from pyro_ebm.potentials.graphs.recording import OperationRecorder
from pyro_ebm.potentials.graphs.tracing import flat_graph, trace
from pyro_ebm.sampling.compiler import Compiler

PRODUCT = torch.ops.pyro_ebm.product.default


def _randn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float32, generator=generator)


WEIGHT, BIAS, CHAINS = _randn(130, 140, seed=0), _randn(130, seed=1), _randn(140, 128, seed=2)

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN here")


def _rewritten(function, x):
    with OperationRecorder(x) as recorder:
        result = function(x)
    recording = recorder.recording((result,))
    use_onednn(recording.graph, recording.tensors)
    return recording.graph_module()


def _num_products(module):
    return sum(node.target is PRODUCT for node in module.graph.nodes)


TAKEN = {
    "weights on the left": (lambda x: WEIGHT @ x, CHAINS),
    "weights on the right": (lambda x: x @ WEIGHT.mT, CHAINS.mT.contiguous()),
    "chains transposed": (lambda x: WEIGHT @ x.mT, CHAINS.mT.contiguous()),
    "both transposed": (lambda x: WEIGHT.mT @ x.mT, CHAINS.mT[:, :130]),
    "part of a matrix": (lambda x: WEIGHT[:, :132] @ x[:132], CHAINS),
    "bias": (lambda x: torch.addmm(BIAS, x, WEIGHT.mT), CHAINS.mT.contiguous()),
    "exactly large": (lambda x: WEIGHT[:128, :128] @ x[:128], CHAINS),
}
LEFT = {
    "small": (lambda x: WEIGHT[:128, :127] @ x[:127], CHAINS),
    "one row": (lambda x: WEIGHT[:1] @ x, CHAINS.repeat(1, 200)),
    "one chain": (lambda x: WEIGHT.repeat(200, 1) @ x, CHAINS[:, :1]),
    "in float64": (lambda x: WEIGHT.double() @ x, CHAINS.double()),
    "every other column": (lambda x: WEIGHT[:, ::2] @ x[:70], CHAINS.repeat(1, 2)),
    "repeated": (lambda x: WEIGHT @ x[:, :1].expand(140, 128), CHAINS),
    "bias for each chain": (lambda x: torch.addmm(x[:128, :1], x[:128].mT, x[:128]), CHAINS),
    "weighted bias": (lambda x: torch.addmm(BIAS[:128], x.mT, x, beta=0.5), CHAINS),
    "sparse": (lambda x: WEIGHT.to_sparse() @ x, CHAINS),
}


@pytest.mark.parametrize("case", TAKEN)
def test_large_products_are_taken(case):
    function, x = TAKEN[case]
    module = _rewritten(function, x)
    assert _num_products(module) == 1
    torch.testing.assert_close(module(x)[0], function(x))


@pytest.mark.parametrize("case", LEFT)
def test_other_products_stay(case):
    function, x = LEFT[case]
    module = _rewritten(function, x)
    assert _num_products(module) == 0
    assert torch.equal(module(x)[0], function(x))


def test_products_lose_no_more_than_a_loop_may():
    exact = WEIGHT.double() @ CHAINS.double()
    eps = torch.finfo(torch.float32).eps
    bound = len(CHAINS) * eps * (WEIGHT.abs().double() @ CHAINS.abs().double())
    error = (_rewritten(lambda x: WEIGHT @ x, CHAINS)(CHAINS)[0] - exact).abs()
    assert (error <= bound).all()
    # Half of the digits, which torch may be told to be content with, are not enough for that.
    halved = WEIGHT.bfloat16().double() @ CHAINS.bfloat16().double()
    assert ((halved - exact).abs() > bound).any()


@pytest.fixture
def less_precise():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("less_precise")
def test_who_wants_less_precision_gets_that_of_torch():
    assert _num_products(_rewritten(lambda x: WEIGHT @ x, CHAINS)) == 0


def test_without_onednn_products_stay(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert _num_products(_rewritten(lambda x: WEIGHT @ x, CHAINS)) == 0


@pytest.mark.parametrize("off", [math.nan, math.inf])
def test_a_chain_that_is_off_leaves_the_others_alone(off):
    x = CHAINS.clone()
    x[7, 2] = off
    result = _rewritten(lambda x: WEIGHT @ x, x)(x)[0]
    assert result.isfinite().all(dim=0).tolist() == [chain != 2 for chain in range(x.shape[1])]


def test_the_same_product_has_the_same_bits():
    module = _rewritten(lambda x: WEIGHT @ x, CHAINS)
    first = module(CHAINS)[0]
    assert all(torch.equal(module(CHAINS.clone())[0], first) for _ in range(5))


def test_weights_are_turned_once_and_not_if_they_are_too_large(monkeypatch):
    def function(x):
        return torch.ops.pyro_ebm.product(WEIGHT.mT, torch.ops.pyro_ebm.product(WEIGHT, x))

    module = make_fx(function)(CHAINS)
    straighten_weights(module)
    assert {name for name, _ in module.named_buffers()} > {"_straight__tensor_constant0"}
    products = [node for node in module.graph.nodes if node.target is PRODUCT]
    assert [node.args[0].op for node in products] == ["get_attr"] * 2
    torch.testing.assert_close(module(CHAINS), WEIGHT.mT @ (WEIGHT @ CHAINS))
    monkeypatch.setattr(large_products, "_LARGEST_COPY", WEIGHT.numel() - 1)
    module = make_fx(function)(CHAINS)
    straighten_weights(module)
    assert len(dict(module.named_buffers())) == 1


def test_recorded_models_use_them():
    def value_and_grad(x):
        return (x @ WEIGHT.mT).sum(-1), x

    run = trace(value_and_grad, CHAINS.mT).function
    assert _num_products(run.changing) == 1
    torch.testing.assert_close(run(CHAINS.mT), value_and_grad(CHAINS.mT))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of Inductor
def test_compiled_functions_use_them():
    torch.manual_seed(0)
    potential = EnergyPotential(MLPEnergy(6, hidden=(128, 128)).float())
    x = _randn(128, 6, seed=3)
    graph = flat_graph(potential.value_and_grad, x)
    compiled = Compiler()(lambda x: [*graph(x)], [x])
    with torch.profiler.profile() as profile:
        value, grad = compiled(x)
    count = {event.key: event.count for event in profile.key_averages()}
    assert count["mkldnn::_linear_pointwise"] == 2
    torch.testing.assert_close((value, grad), potential.value_and_grad(x))
