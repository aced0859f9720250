"""What does not depend on the input is computed once, and again when it has changed."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Distribution

from pyro_ebm.potentials import ModelPotential
from pyro_ebm.potentials.graphs.tracing import batched, trace

X = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7]])


def folded(function, *held):
    return trace(function, X, held).function


def num_moving(function):
    return sum(node.op.startswith("call") for node in function.changing.graph.nodes)


def assert_follows(function, traced):
    for ours, truth in zip(traced(X), function(X), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-15, atol=0.0)


def test_held_tensors_are_followed():
    weight = torch.tensor([1.0, 2.0, 3.0])

    def function(x):
        return ((weight.exp().log1p() * 2.0).cumsum(0) * x,)

    traced = folded(function, weight)
    assert num_moving(traced) == 1
    assert_follows(function, traced)
    prepared = traced._rest
    assert_follows(function, traced)
    assert traced._rest is prepared
    for change in (weight.neg_, lambda: weight[1:].add_(1.0), lambda: weight.copy_(X[0])):
        change()
        assert_follows(function, traced)
        assert traced._rest is not prepared
        prepared = traced._rest
    weight.data = torch.tensor([5.0, 6.0, 7.0])
    assert_follows(function, traced)


@pytest.mark.parametrize(
    "weight",
    [
        nn.Parameter(torch.ones(3)),
        nn.Parameter(torch.ones(3), requires_grad=False),
        torch.ones(3, requires_grad=True),
    ],
)
def test_parameters_are_followed_however_they_are_changed(weight):
    def function(x):
        return ((weight.exp() * weight.view(1, 3)[0]).detach() * x,)

    traced = folded(function, weight)
    for change in (
        lambda: weight.data.add_(1.0),
        lambda: weight.data.clamp_(max=0.5),
        lambda: setattr(weight, "data", torch.tensor([1.0, 2.0, 4.0])),
    ):
        change()
        assert_follows(function, traced)


def test_memory_of_parameters_and_tensors_from_elsewhere_are_followed():
    weight = nn.Parameter(torch.ones(3))
    same_memory = weight.data
    elsewhere = [torch.ones(3)]

    def function(x):
        return (same_memory.exp() * x, elsewhere[0].exp() * x, weight.data.exp() * x)

    traced = folded(function, weight, same_memory)
    weight.data.add_(1.0)
    elsewhere[0].data.add_(1.0)
    assert_follows(function, traced)


def test_views_of_parameters_are_made_once():
    weight = nn.Parameter(torch.rand(3, 3))
    traced = folded(lambda x: (x @ weight.t(),), weight)
    assert num_moving(traced) == 1
    before = traced(X)[0]
    weight.data.mul_(2.0)
    assert torch.equal(traced(X)[0], 2.0 * before)


def written_constants(x):
    """Written before it is read, between reads, and only by what depends on the input."""
    first, second, third = torch.zeros(3), torch.zeros(3), torch.zeros(2, 3)
    first[0] = 2.0
    early = second * x
    second[1] = 3.0
    third.copy_(x)
    third.add_(second)
    shape = torch.ones(1, 3).exp_()
    shape.squeeze_(0)
    return first.exp() * x, early, second.exp() * x, third.exp(), shape * x


def test_constants_that_are_written_to_are_right_in_every_call():
    traced = folded(written_constants)
    for x in (X, 2.0 * X, X):
        for ours, truth in zip(traced(x), written_constants(x), strict=True):
            assert torch.equal(ours, truth)


def test_a_buffer_that_the_function_writes_to_counts_on():
    def function(x):
        counter.add_(1.0)
        return ((counter * 2.0).exp() * x,)

    counter = torch.zeros(3)
    traced = folded(function, counter)
    assert num_moving(traced) == 4
    values = [traced(X)[0] for _ in range(3)]
    counter.zero_()
    folded(function, counter)
    for value in values:
        assert torch.equal(value, function(X)[0])


def test_memory_that_is_shared_unannounced_is_left_alone():
    """Nothing says that the parts of an unsafe split are views."""

    def function(x):
        y = x.exp()
        parts = torch.unsafe_split(y * 1.0, 1)
        y.add_(torch.ones(3).exp())
        return parts[0] * 1.0, y * 1.0

    traced = folded(function)
    assert all(node.op in ("get_attr", "output") for node in traced.rest.graph.nodes)
    assert_follows(function, traced)


@pytest.mark.parametrize("optimizer", [pyro.optim.ClippedAdam, pyro.optim.Adam, pyro.optim.SGD])
def test_optimisers_of_pyro_are_followed(optimizer):
    """Some of them change ``.data``, which PyTorch does not count."""

    def model():
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z.sum(), scale), obs=torch.tensor(1.0))

    potential = ModelPotential(model)
    q = potential.initial(3)
    step = optimizer({"lr": 0.1})
    for _ in range(3):
        truth = torch.stack([potential.at(row).potential_energy() for row in q]).detach()
        torch.testing.assert_close(potential.value_and_grad(q)[0], truth, rtol=1e-14, atol=0.0)
        leaf = pyro.param("scale").unconstrained()
        leaf.grad = torch.ones(())
        step([leaf])


def test_data_are_followed():
    def model(y, rows):
        with pyro.plate("groups", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Poisson(z[rows].exp()), obs=y)

    y, rows = torch.arange(4.0), torch.tensor([0, 1, 2, 0])
    potential = ModelPotential(model, y, rows)
    q = potential.initial(3)
    for change in (y.zero_, lambda: y.add_(3.0), lambda: rows.fill_(1), lambda: rows.fill_(-1)):
        change()
        value, grad = potential.value_and_grad(q)
        row = q[1].clone().requires_grad_()
        truth = potential.at(row).potential_energy()
        torch.testing.assert_close(value[1], truth.detach(), rtol=1e-14, atol=0.0)
        torch.testing.assert_close(grad[1], torch.autograd.grad(truth, row)[0])
    assert potential._batcher.is_batchable


def test_modules_may_change_type_or_place():
    linear = nn.Linear(2, 1)

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.factor("f", -linear(z).square().sum())

    potential = ModelPotential(model)
    q = potential.initial(3)
    potential.value_and_grad(q)
    for change in (
        lambda: linear.float().double(),
        lambda: setattr(linear.weight, "data", torch.ones(2, 1).T),
        lambda: linear.load_state_dict({k: v + 1.0 for k, v in linear.state_dict().items()}),
    ):
        change()
        truth = torch.stack([potential.at(row).potential_energy() for row in q]).detach()
        torch.testing.assert_close(potential.value_and_grad(q)[0], truth)


def test_positions_may_lie_anyhow_in_memory():
    def model():
        with pyro.plate("plate", 4):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    potential = ModelPotential(model)
    q = torch.randn(5, 8)
    expected = potential.value_and_grad(q)
    wide = torch.randn(5, 20)
    wide[:, 3:11] = q
    for other in (q.T.contiguous().T, wide[:, 3:11], q[:1].expand(5, 8)):
        for ours, truth in zip(potential.value_and_grad(other), expected, strict=True):
            if other.stride(0) != 0:
                torch.testing.assert_close(ours, truth)
            else:
                torch.testing.assert_close(ours[4], truth[0])


@pytest.mark.parametrize("inference", [True, False])
def test_graphs_are_used_in_and_out_of_inference_mode(inference):
    weight = torch.ones(3)

    def function(q):
        return (q * weight.exp() * torch.tensor(2.0)).square().sum()

    with torch.inference_mode(mode=inference):
        traced = trace(batched(function), X, (weight,)).function
        truth = traced(X)[1].clone()
    with torch.inference_mode(mode=not inference):
        assert torch.equal(traced(X)[1], truth)
    weight.add_(1.0)
    grads = []
    for mode in (inference, not inference):
        with torch.inference_mode(mode=mode):
            grads.append(traced(X)[1].clone())
    torch.testing.assert_close(grads[0], 8.0 * weight.exp().square() * X)
    assert torch.equal(grads[0], grads[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of torch.compile
@pytest.mark.parametrize("is_validating", [True, False])
def test_compiling_leaves_validation_as_it_was(is_validating):
    """``torch.compile`` switches it off, once in the life of a process."""

    def model():
        pyro.sample("z", dist.Normal(1.0, 2.0))

    torch._dynamo.eval_frame.TorchPatcher.patch.cache_clear()
    with pyro.validation_enabled(is_validating):
        value, grad = ModelPotential(model).compiled().value_and_grad(torch.ones(3, 1))
        assert Distribution._validate_args is is_validating
    assert torch.equal(grad, torch.zeros(3, 1))
    assert not torch.equal(value, torch.zeros(3))
