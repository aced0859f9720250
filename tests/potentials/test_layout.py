"""Graphs for compiled steps: the same numbers, with chains innermost."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ebm.potentials.columns import lay_out_columns
from pyro_ebm.potentials.model import ModelPotential
from pyro_ebm.potentials.orientation import oriented
from pyro_ebm.potentials.recording import OperationRecorder
from pyro_ebm.potentials.rows import share_rows
from pyro_ebm.potentials.tracing import flat_graph

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


def test_the_flat_graph_of_a_model_computes_what_the_model_does():
    potential = ModelPotential(regression)
    value, grad = potential.value_and_grad(CHAINS)
    graph = flat_graph(potential.value_and_grad, CHAINS)
    other, slope = graph(CHAINS)
    torch.testing.assert_close(value, other)
    torch.testing.assert_close(grad, slope)


def test_no_matrix_of_all_data_and_chains_is_transposed():
    potential = ModelPotential(regression)
    potential.value_and_grad(CHAINS)
    graph = flat_graph(potential.value_and_grad, CHAINS).graph
    turned = [n for n in graph.nodes if n.op == "call_function" and "permute" in n.name]
    assert all(40 not in n.args[0].meta["val"].shape for n in turned if "expand" not in str(n.args))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (X @ x.mT).mT.exp().sum(dim=1),
        lambda x: (X @ x.mT).mT.exp().sum(dim=0),
        lambda x: (X @ x.mT).mT.sum(dim=1, keepdim=True) * x,
        lambda x: ((X @ x.mT).mT * Y + 1.0).log1p().mT,
        lambda x: (X @ x.mT).mT.mul_(2.0).clamp_(min=0.0) @ X,
        lambda x: torch.where((X @ x.mT).mT > 0, Y, (X @ x.mT).mT).sum(dim=-1),
        lambda x: torch.softmax((X @ x.mT).mT, dim=1),
        lambda x: (X @ x.mT).mT.unsqueeze(1) + x.unsqueeze(2),
    ],
)
def test_orientation_changes_no_number(function):
    x = CHAINS.abs()
    torch.testing.assert_close(oriented(function, x)(x), function(x), equal_nan=True)


def test_rows_are_shared_only_where_they_are_equal():
    same, other = torch.ones(6, 3), torch.arange(18.0).reshape(6, 3)
    x = CHAINS.float()
    recording = _recording(lambda x: x * same + other, x)
    share_rows(recording, num_chains=6)
    names = [node.name for node in recording.graph.nodes if "expand" in node.name]
    assert len(names) == 1
    torch.testing.assert_close(recording.graph_module()(x)[0], x + other)


def test_rows_stay_where_more_than_arithmetic_looks_at_them():
    same, x = torch.ones(6, 3), CHAINS.float()
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
