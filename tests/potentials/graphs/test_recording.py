"""Recorded graphs compute what the function did."""

from __future__ import annotations

import pytest
import torch

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials.graphs.recording import OperationRecorder


def in_place_on_fresh(x):
    return torch.tensor([1.0, 2.0]).mul_(3.0).add_(1.0) * x


def into_a_buffer(x):
    buffer = torch.zeros(2, 2)
    buffer[0] = x
    buffer[1] = buffer[0] * 2
    return buffer


def in_place_on_a_view(x):
    y = x.clone()
    y[0].add_(10.0)
    return y


def several_results(x):
    values, indices = torch.stack([x, -x]).sort(dim=0)
    return values[indices[0]]


def lists(x):
    return torch.cat([x, torch.ones(2)], dim=0).split([1, 3])[1]


def aliases(x):
    return x.detach().view(2, 1).detach()


def shape_in_place(x):
    y = x.unsqueeze(0)
    z = y.detach()
    z.squeeze_(0)
    return y.sum(0) + z


def constants(x):
    return x * WEIGHT + WEIGHT.sum()


def identity(x):
    return x


def unused(x):
    x.exp()
    return torch.arange(2.0)


WEIGHT = torch.tensor([2.0, 5.0])


def record(function, x):
    with OperationRecorder(x) as recorder:
        result = function(x)
    return recorder, recorder.recording((result,)).graph_module(), result


@pytest.mark.parametrize(
    "function",
    [
        in_place_on_fresh,
        into_a_buffer,
        in_place_on_a_view,
        several_results,
        lists,
        aliases,
        shape_in_place,
        constants,
        identity,
        unused,
    ],
)
def test_graph_is_the_function(function):
    recorder, graph, result = record(function, torch.tensor([0.3, -1.0]))
    torch.testing.assert_close(result, function(torch.tensor([0.3, -1.0])))
    for x in (torch.tensor([0.3, -1.0]), torch.tensor([-2.0, 4.0]), torch.tensor([7.0, 0.0])):
        torch.testing.assert_close(graph(x.clone())[0], function(x.clone()))
    assert not recorder.reads_numbers


def test_constants_are_held_by_reference():
    weight = torch.tensor([1.0])
    _, graph, _ = record(lambda x: x * weight, torch.ones(1))
    weight.fill_(5.0)
    assert graph(torch.ones(1))[0].item() == 5.0


def test_numbers_from_constants_are_noted_and_from_the_input_refused():
    recorder, graph, _ = record(lambda x: x * int(WEIGHT.max()), torch.ones(1))
    assert recorder.reads_numbers
    assert graph(torch.ones(1))[0].item() == 5.0
    for read in (torch.Tensor.item, bool, lambda x: int(x.exp().sum())):
        with pytest.raises(ModelError, match="depends on a latent value"):
            record(read, torch.ones(1))


def test_dead_code_is_left_out():
    _, graph, _ = record(unused, torch.ones(2))
    assert not [node for node in graph.graph.nodes if "exp" in str(node.target)]
