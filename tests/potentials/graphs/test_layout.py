"""Graphs for compiled steps: the same numbers, written for the way in which chains lie."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import fx

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.positions import WIDE
from pyro_ebm.energies import MLPEnergy
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.potentials.graphs.columns import lay_out_columns
from pyro_ebm.potentials.graphs.orientation import in_rows, oriented
from pyro_ebm.potentials.graphs.recording import OperationRecorder
from pyro_ebm.potentials.graphs.rows import share_rows
from pyro_ebm.potentials.graphs.tracing import flat_graph
from pyro_ebm.potentials.model import ModelPotential

X = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X.sum(dim=1) > 0).double()
CHAINS = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def regression():
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
    with pyro.plate("data", 40):
        pyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=Y)


def _recording(function, *inputs):
    with OperationRecorder(inputs[0]) as recorder:
        results = function(*inputs)
    return recorder.recording(results if isinstance(results, tuple) else (results,))


def wide_regression():
    weights = dist.Normal(torch.zeros(WIDE, dtype=torch.float64), 1.0).to_event(1)
    beta = pyro.sample("beta", weights)
    with pyro.plate("data", 40):
        pyro.sample("y", dist.Bernoulli(logits=X @ beta[:3] + beta[-1]), obs=Y)


@pytest.mark.parametrize(("model", "dim"), [(regression, 3), (wide_regression, WIDE)])
def test_the_flat_graph_of_a_model_computes_what_the_model_does(model, dim):
    potential = ModelPotential(model)
    chains = CHAINS.repeat(1, 11)[:, :dim]
    value, grad = potential.value_and_grad(chains)
    graph = flat_graph(potential.value_and_grad, chains)
    other, slope = graph(chains)
    torch.testing.assert_close(value, other)
    torch.testing.assert_close(grad, slope)


def test_arithmetic_on_the_data_needs_no_transpose():
    """The products lie ``(data, chains)``, as do all numbers between the two of them."""
    potential = ModelPotential(regression)
    potential.value_and_grad(CHAINS)
    graph = flat_graph(potential.value_and_grad, CHAINS)
    shapes = _ShapesOfTransposes(graph)
    shapes.run(CHAINS)
    assert not any(set(shape) == {len(X), len(CHAINS)} for shape in shapes.seen)


def test_the_layers_of_a_network_need_no_transpose():
    torch.manual_seed(0)
    energy = MLPEnergy(3, hidden=(40, 7)).double()
    potential = EnergyPotential(energy)
    graph = flat_graph(potential.value_and_grad, CHAINS)
    torch.testing.assert_close(graph(CHAINS), potential.value_and_grad(CHAINS))
    shapes = _ShapesOfTransposes(graph)
    shapes.run(CHAINS)
    # That of the second layer is the product of a column with a row, which costs nothing.
    assert not any(set(shape) == {len(CHAINS), 40} for shape in shapes.seen)
    targets = [node.target for node in graph.graph.nodes]
    assert targets.count(torch.ops.aten.mm.default) == 4
    assert torch.ops.aten.addmm.default not in targets


def test_the_layers_of_a_network_stay_as_they_are_for_wide_points():
    """But for the last, which is a sum, and its gradient, a product of a column with a row."""
    torch.manual_seed(0)
    potential = EnergyPotential(MLPEnergy(WIDE, hidden=(40, 7)).double())
    chains = CHAINS.repeat(1, 11)[:, :WIDE]
    graph = flat_graph(potential.value_and_grad, chains)
    torch.testing.assert_close(graph(chains), potential.value_and_grad(chains))
    assert graph(chains)[1].is_contiguous()
    targets = [node.target for node in graph.graph.nodes]
    products = [torch.ops.aten.addmm.default, torch.ops.aten.mm.default]
    assert [targets.count(product) for product in products] == [2, 2]


class _ShapesOfTransposes(fx.Interpreter):
    def __init__(self, graph):
        super().__init__(graph)
        self.seen = []

    def run_node(self, n):
        value = super().run_node(n)
        is_turned = n.target in (torch.ops.aten.permute.default, torch.ops.aten.t.default)
        if is_turned and 0 not in value.stride():  # what is expanded is read, not moved
            self.seen.append(tuple(value.shape))
        return value


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (X @ x.mT).mT.exp().sum(dim=1),
        lambda x: (X @ x.mT).mT.exp().sum(dim=0),
        lambda x: (X @ x.mT).mT.exp().sum(dim=-2),
        lambda x: (X @ x.mT).mT.exp().sum(dim=(0, 1)),
        lambda x: (X @ x.mT).mT.sum(dim=1, dtype=torch.float32),
        lambda x: (X @ x.mT).mT.sum(dim=1, keepdim=True) * x,
        lambda x: ((X @ x.mT).mT * Y + 1.0).log1p().mT,
        lambda x: (X @ x.mT).mT.mul_(2.0).clamp_(min=0.0) @ X,
        lambda x: torch.where((X @ x.mT).mT > 0, Y, (X @ x.mT).mT).sum(dim=-1),
        lambda x: torch.softmax((X @ x.mT).mT, dim=1),
        lambda x: (X @ x.mT).mT.unsqueeze(1) + x.unsqueeze(2),
        lambda x: torch.addmm(Y, x, X.mT).exp(),
        lambda x: torch.addmm(Y, x, X.mT, beta=2.0, alpha=0.5).exp(),
        lambda x: torch.addmm(Y[0], x, X.mT).tanh() @ X,
        lambda x: (x @ X.mT).exp().view(-1).view(2, 120),
        lambda x: torch.as_strided((x @ X.mT).exp(), (3, 2), (40, 1)),
        lambda x: x @ x.mT @ x,
        lambda x: (X.mT.to_sparse() @ (X @ x.mT)).mT,
        lambda x: torch.view_as_complex((x @ X.mT).view(6, 20, 2)).abs(),
        lambda x: (x @ X.mT).view(torch.int64).view(torch.float64),
        lambda x: torch.nn.functional.scaled_dot_product_attention(*[(x @ X.mT).view(6, 5, 8)] * 3),
        lambda x: x[:, :1] @ X[:, :1].mT,
        lambda x: x[:, :0] @ X[:, :0].mT,
        lambda x: x[:, :2] @ X[:, :2].mT,
        lambda x: torch.ones(6, 1, dtype=torch.float64) @ X[:1] * x,
        lambda x: x @ X[:1].mT,
        lambda x: torch.addmm(Y[:1], x, X[:1].mT),
        lambda x: x.mT @ x[:, :1],
    ],
)
@pytest.mark.parametrize("write", [oriented, in_rows])
def test_writing_products_otherwise_changes_no_number(function, write):
    x = CHAINS.abs()
    torch.testing.assert_close(write(function, x)(x), function(x), equal_nan=True)


WEIGHT = X[:5, :1]  # a column of five


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ WEIGHT,
        lambda x: torch.addmm(Y[:1], x, WEIGHT),
        lambda x: torch.addmm(Y[0], x, WEIGHT),
        lambda x: torch.addmm(Y[:6, None], x, WEIGHT),
        lambda x: x[:0] @ WEIGHT,
    ],
)
def test_products_with_one_column_are_sums_in_rows(function):
    x = CHAINS.repeat(1, 2)[:, :5].contiguous()
    graph = in_rows(function, x)
    torch.testing.assert_close(graph(x), function(x))
    targets = {node.target for node in graph.graph.nodes}
    assert torch.ops.aten.sum.dim_IntList in targets
    assert targets.isdisjoint({torch.ops.aten.mm.default, torch.ops.aten.addmm.default})


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.addmm(Y[:1], x, WEIGHT, beta=2.0, alpha=0.5),
        lambda x: x.half() @ WEIGHT.half(),  # summed in another type
        lambda x: torch.addmm(Y[:1].half(), x[:, :1].half(), WEIGHT[:1].half()),
        lambda x: x.mT.contiguous().mT @ WEIGHT,  # a sum of numbers far from each other
        lambda x: x @ X[:5, :2],
    ],
)
def test_other_products_stay_in_rows(function):
    x = CHAINS.repeat(1, 2)[:, :5].contiguous()
    graph = in_rows(function, x)
    torch.testing.assert_close(graph(x), function(x))
    targets = {node.target for node in graph.graph.nodes}
    assert not targets.isdisjoint({torch.ops.aten.mm.default, torch.ops.aten.addmm.default})


class _SquareByNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(0.5 * (x.detach().numpy() ** 2).sum(-1))

    @staticmethod
    def backward(ctx, slope):
        return slope[:, None] * ctx.saved_tensors[0]


def test_an_energy_that_leaves_torch_is_refused_not_frozen():
    potential = EnergyPotential(_SquareByNumpy.apply, event_shape=(3,))
    with pytest.raises(ModelError, match=r"cannot be compiled.*without compile=True"):
        flat_graph(potential.value_and_grad, CHAINS)


def test_rows_are_shared_only_where_they_are_equal():
    same, other = torch.ones(6, 3), torch.arange(18.0).reshape(6, 3)
    x = CHAINS
    recording = _recording(lambda x: x * same + other, x)
    share_rows(recording, num_chains=6)
    names = [node.name for node in recording.graph.nodes if "expand" in node.name]
    assert len(names) == 1
    torch.testing.assert_close(recording.graph_module()(x)[0], x + other)


def test_rows_stay_where_more_than_arithmetic_looks_at_them():
    same, x = torch.ones(6, 3), CHAINS
    recording = _recording(lambda x: x @ same.mT, x)
    share_rows(recording, num_chains=6)
    assert not any("expand" in node.name for node in recording.graph.nodes)


def test_only_results_are_laid_out_by_columns():
    x = CHAINS[:, :1]
    recording = _recording(lambda x: (torch.cat([x, x], 1), torch.cat([x, x], 1).view(-1)), x)
    lay_out_columns(recording)
    matrix, flat = recording.graph_module()(x)
    assert matrix.stride() == (1, 6)
    assert torch.equal(matrix.reshape(-1), flat)
