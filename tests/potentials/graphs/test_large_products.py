"""Large products are made by oneDNN, and are as good as those of BLAS."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import linear

from pyro_ebm.core.positions import WIDE, laid_out
from pyro_ebm.energies import MLPEnergy
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.potentials.graphs import large_products, onednn
from pyro_ebm.potentials.graphs.large_products import straighten_weights, use_onednn
from pyro_ebm.potentials.graphs.onednn import BIASED_PRODUCT, PRODUCT, is_onednn_there
from pyro_ebm.potentials.graphs.recording import OperationRecorder
from pyro_ebm.potentials.graphs.tracing import flat_graph, trace
from pyro_ebm.potentials.model import ModelPotential
from pyro_ebm.sampling.compiler import Compiler


def _randn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float32, generator=generator)


WEIGHT, CHAINS = _randn(130, 140, seed=0), _randn(140, 128, seed=2)
BIAS = _randn(130, seed=9)

pytestmark = [
    pytest.mark.skipif(not is_onednn_there(), reason="no oneDNN here"),
    pytest.mark.usefixtures("onednn_is_faster"),
]


def _rewritten(function, x):
    with OperationRecorder(x) as recorder:
        result = function(x)
    recording = recorder.recording((result,))
    use_onednn(recording.graph, recording.tensors)
    return recording.graph_module()


def _num_products(module):
    return sum(node.target in {PRODUCT, BIASED_PRODUCT} for node in module.graph.nodes)


TAKEN = {
    "weights on the left": (lambda x: WEIGHT @ x, CHAINS),
    "weights on the right": (lambda x: x @ WEIGHT.mT, CHAINS.mT.contiguous()),
    "chains transposed": (lambda x: WEIGHT @ x.mT, CHAINS.mT.contiguous()),
    "both transposed": (lambda x: WEIGHT.mT @ x.mT, _randn(128, 130, seed=3)),
    "part of the left matrix": (lambda x: WEIGHT[:, :132] @ x[:132], CHAINS),
    "every other column": (lambda x: WEIGHT[:, ::2] @ x[:70], CHAINS.repeat(1, 2)),
    "exactly large": (lambda x: WEIGHT[:128, :128] @ x[:128], CHAINS),
    "few chains": (lambda x: x @ WEIGHT.repeat(1, 70), _randn(2, 130, seed=4)),
    "bias": (lambda x: linear(x, WEIGHT, BIAS), CHAINS.mT.contiguous()),
    "bias with gaps": (lambda x: linear(x, WEIGHT, BIAS.repeat_interleave(2)[::2]), CHAINS.mT),
    "bias of chains": (lambda x: torch.addmm(x[0], WEIGHT, x), CHAINS),
}
LEFT = {
    "small": (lambda x: WEIGHT[:128, :127] @ x[:127], CHAINS),
    "one row": (lambda x: WEIGHT[:1] @ x, CHAINS.repeat(1, 200)),
    "one chain": (lambda x: WEIGHT.repeat(200, 1) @ x, CHAINS[:, :1]),
    "in float64": (lambda x: WEIGHT.double() @ x, CHAINS.double()),
    "every other chain": (lambda x: WEIGHT @ x[:, ::2], CHAINS.repeat(1, 2)),
    "repeated": (lambda x: WEIGHT @ x[:, :1].expand(140, 128), CHAINS),
    "part of the right matrix": (lambda x: WEIGHT[:, :132] @ x[:132, :127], CHAINS),
    "few chains and a copy": (lambda x: WEIGHT.repeat(1, 20).mT @ x, _randn(130, 60, seed=5)),
    "sparse": (lambda x: WEIGHT.to_sparse() @ x, CHAINS),
    "matrix of biases": (lambda x: torch.addmm(x[:130], WEIGHT, x), CHAINS),
    "one bias": (lambda x: torch.addmm(BIAS[:1], WEIGHT, x), CHAINS),
    "part of a bias": (lambda x: torch.addmm(BIAS, x.mT, WEIGHT.mT, beta=0.5), CHAINS),
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


@pytest.mark.usefixtures("less_precise")
def test_who_wants_less_precision_gets_that_of_torch():
    assert _num_products(_rewritten(lambda x: WEIGHT @ x, CHAINS)) == 0


@pytest.mark.parametrize("module", [torch.backends.mkldnn, torch.backends.mkl])
def test_without_these_libraries_products_stay(module, monkeypatch):
    monkeypatch.setattr(module, "is_available", lambda: False)
    assert _num_products(_rewritten(lambda x: WEIGHT @ x, CHAINS)) == 0


def test_where_onednn_is_not_faster_products_stay(monkeypatch):
    monkeypatch.setattr(onednn, "has_avx512", lambda: False)
    assert _num_products(_rewritten(lambda x: WEIGHT @ x, CHAINS)) == 0


@pytest.fixture
def switched_off():
    # As torch.backends.mkldnn.flags does, which also warns of GPUs.
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    yield
    torch._C._set_mkldnn_enabled(before)


@pytest.mark.usefixtures("switched_off")
def test_who_switches_onednn_off_does_not_get_it():
    assert _num_products(_rewritten(lambda x: WEIGHT @ x, CHAINS)) == 0


@pytest.mark.parametrize("off", [math.nan, math.inf])
def test_a_chain_that_is_off_leaves_the_others_alone(off):
    weight = _randn(131, 139, seed=6)
    chains = _randn(133, 139, seed=7)
    chains[2, 7] = off
    others = [chain != 2 for chain in range(len(chains))]
    rows = _rewritten(lambda x: x @ weight.mT, chains)(chains)[0]
    assert rows.isfinite().all(dim=1).tolist() == others
    columns = _rewritten(lambda x: weight @ x, chains.mT.contiguous())(chains.mT.contiguous())[0]
    assert columns.isfinite().all(dim=0).tolist() == others


def test_the_same_product_has_the_same_bits():
    module = _rewritten(lambda x: WEIGHT @ x, CHAINS)
    first = module(CHAINS)[0]
    assert all(torch.equal(module(CHAINS.clone())[0], first) for _ in range(5))


def test_weights_are_turned_once_and_then_do_not_change():
    weight = _randn(140, 140, seed=8)

    def function(x):
        turned = torch.ops.pyro_ebm.product(weight.mT, torch.ops.pyro_ebm.product(weight, x))
        return torch.ops.pyro_ebm.product(weight.mT, turned)

    module = make_fx(function)(CHAINS)
    straighten_weights(module)
    assert len(dict(module.named_buffers())) == 2
    products = [node for node in module.graph.nodes if node.target is PRODUCT]
    assert [node.args[0].op for node in products] == ["get_attr"] * 3
    wanted = weight.mT @ (weight.mT @ (weight @ CHAINS))
    torch.testing.assert_close(module(CHAINS), wanted)
    weight.zero_()
    torch.testing.assert_close(module(CHAINS), wanted)


@pytest.mark.parametrize("swap", [lambda w: w.permute(0, 1), lambda w: w.transpose(0, 0)])
def test_what_is_not_turned_stays(swap):
    weight = _randn(140, 140, seed=8)
    module = make_fx(lambda x: torch.ops.pyro_ebm.product(swap(weight), x))(CHAINS)
    straighten_weights(module)
    torch.testing.assert_close(module(CHAINS), weight @ CHAINS)


def test_large_weights_are_not_copied(monkeypatch):
    monkeypatch.setattr(large_products, "_LARGEST_COPY", WEIGHT.numel() - 1)
    module = make_fx(lambda x: torch.ops.pyro_ebm.product(WEIGHT.mT, x))(CHAINS[:130])
    straighten_weights(module)
    assert not any("straight" in node.name for node in module.graph.nodes)


@pytest.mark.parametrize("kind", [torch.clone, torch.nn.Parameter])
def test_recorded_functions_use_them_with_the_weights_of_the_moment(kind):
    weight = kind(WEIGHT.clone())

    def value_and_grad(x):
        return (x @ weight.mT).sum(-1), x

    run = trace(value_and_grad, CHAINS.mT, held=(weight,)).function
    assert _num_products(run.changing) == 1
    for _ in range(2):
        torch.testing.assert_close(run(CHAINS.mT), value_and_grad(CHAINS.mT))
        with torch.no_grad():
            weight.mul_(2.0)


def regression():
    beta = pyro.sample("beta", dist.Normal(torch.zeros(140, dtype=torch.float32), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(WEIGHT @ beta, 1.0).to_event(1), obs=WEIGHT[:, 0])


def test_models_that_have_run_are_still_laid_out_for_chains():
    """Their recorded graphs contain the operation, which knows nothing of chains innermost."""
    potential, x = ModelPotential(regression), CHAINS.mT.contiguous()
    wanted = potential.value_and_grad(x)
    graph = flat_graph(potential.value_and_grad, x)
    targets = [node.target for node in graph.graph.nodes]
    assert PRODUCT not in targets
    products = [node for node in graph.graph.nodes if node.target is torch.ops.aten.mm.default]
    shapes = [tuple(node.meta["val"].shape) for node in products]
    assert shapes == [(130, 128), (140, 128)]  # (features, chains)
    torch.testing.assert_close(graph(x), wanted)


def _products_in(call):
    """What a compiled function returns, and how many products of oneDNN it takes."""
    with torch.profiler.profile() as profile:
        results = call()
    counts = {event.key: event.count for event in profile.key_averages()}
    return results, counts.get("mkldnn::_linear_pointwise", 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of torch.compile
def test_models_compiled_by_torch_use_them():
    potential, x = ModelPotential(regression), CHAINS.mT.contiguous()
    compiled = potential.compiled()
    compiled.value_and_grad(x)
    results, num_products = _products_in(lambda: compiled.value_and_grad(x))
    assert num_products == 2
    torch.testing.assert_close(results, potential.value_and_grad(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of Inductor
@pytest.mark.parametrize(("dim", "num_large"), [(6, 2), (WIDE, 4)])
def test_compiled_functions_use_them(dim, num_large):
    torch.manual_seed(0)
    potential = EnergyPotential(MLPEnergy(dim, hidden=(512, 512)).float())
    x = laid_out(_randn(512, dim, seed=3))
    graph = flat_graph(potential.value_and_grad, x)
    compiled = Compiler()(lambda x: [*graph(x)], [x])
    (value, grad), num_products = _products_in(lambda: compiled(x))
    assert num_products == num_large
    torch.testing.assert_close((value, grad), potential.value_and_grad(x))
