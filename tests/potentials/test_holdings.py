"""Parameters and modules: changed in place they are followed, replaced they make graphs anew."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import constraints

from pyro_ebm.potentials import ModelPotential

X = torch.tensor([[1.0], [2.0]])


def model_of(network):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("f", -(network(X) * z).square().sum())


def registered(network):
    pyro.module("network", network)
    model_of(network)


def closure(network):
    return lambda: model_of(network)


def calling(function):
    return lambda: (function(), None)[1]


class Holder:
    def __init__(self, network):
        self.network = network

    def __call__(self):
        model_of(self.network)

    def method(self):
        model_of(self.network)


class Module(PyroModule):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self):
        model_of(self.network)

    def method(self):
        model_of(self.network)


HOLDERS = {
    "argument": lambda net: ModelPotential(model_of, net),
    "keyword": lambda net: ModelPotential(model_of, network=net),
    "closure": lambda net: ModelPotential(closure(net)),
    "nested_closure": lambda net: ModelPotential(calling(closure(net))),
    "partial": lambda net: ModelPotential(partial(model_of, net)),
    "instance": lambda net: ModelPotential(Holder(net)),
    "method": lambda net: ModelPotential(Holder(net).method),
    "module": lambda net: ModelPotential(Module(net)),
    "module_method": lambda net: ModelPotential(Module(net).method),
    "list": lambda net: ModelPotential(lambda nets: model_of(nets[0]), [net]),
    "dict": lambda net: ModelPotential(lambda nets: model_of(nets["a"][0]), {"a": (net,)}),
    "handler": lambda net: ModelPotential(poutine.scale(closure(net), scale=2.0)),
    "condition": lambda net: ModelPotential(pyro.condition(closure(net), data={})),
    "pyro_module": lambda net: ModelPotential(registered, net),
}


def assert_fresh(potential, q):
    """The graph, made before, against the model as it is now."""
    values = torch.stack([potential.at(row).potential_energy() for row in q])
    torch.testing.assert_close(potential.value_and_grad(q)[0], values.detach())
    assert potential._batcher.is_batchable
    return values.sum().item()


@pytest.mark.parametrize("name", HOLDERS)
def test_networks_are_followed(name):
    network = nn.Sequential(nn.Linear(1, 1))
    potential = HOLDERS[name](network)
    q = potential.initial(3)
    seen = [assert_fresh(potential, q)]
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(X).sum().backward()
    optimizer.step()
    seen.append(assert_fresh(potential, q))
    if name != "pyro_module":  # Pyro's store would put its own tensor back
        network[0].weight = nn.Parameter(torch.full((1, 1), 7.0))
        seen.append(assert_fresh(potential, q))
    with torch.no_grad():
        network[0].bias.add_(1.0)
    seen.append(assert_fresh(potential, q))
    network.load_state_dict({k: v + 0.5 for k, v in network.state_dict().items()})
    seen.append(assert_fresh(potential, q))
    if name != "pyro_module":
        network[0] = nn.Linear(1, 1)
        seen.append(assert_fresh(potential, q))
        network[0].weight = nn.Parameter(torch.full((1, 1), 3.0))
        seen.append(assert_fresh(potential, q))
    assert len(set(seen)) == len(seen)


def scaled():
    scale = pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive)
    pyro.sample("z", dist.Normal(0.0, scale))


def gradient(potential):
    return potential.value_and_grad(torch.ones(2, 1))[1][0, 0].item()


def test_stored_parameters_are_followed():
    potential = ModelPotential(scaled)
    assert gradient(potential) == pytest.approx(1 / 4)
    optimizer = pyro.optim.SGD({"lr": 0.1})
    leaf = pyro.get_param_store().get_state()["params"]["scale"]
    leaf.grad = torch.ones(())
    optimizer([leaf])
    scale = pyro.param("scale").item()
    assert scale != 2.0
    assert gradient(potential) == pytest.approx(scale**-2)
    pyro.get_param_store()["scale"] = torch.tensor(0.5)
    assert gradient(potential) == pytest.approx(4.0)


@pytest.mark.parametrize("first", ["value_and_grad", "__call__", "constrain"])
def test_emptied_store_starts_anew(first):
    potential = ModelPotential(scaled)
    pyro.get_param_store()["scale"] = torch.tensor(0.5)
    assert gradient(potential) == pytest.approx(4.0)
    pyro.clear_param_store()
    getattr(potential, first)(torch.ones(2, 1))
    assert gradient(potential) == pytest.approx(1 / 4)
    assert pyro.param("scale").item() == pytest.approx(2.0)
    assert pyro.param("scale").unconstrained().is_leaf
    assert potential._batcher.is_batchable


def test_restored_store_is_used():
    potential = ModelPotential(scaled)
    gradient(potential)
    state = pyro.get_param_store().get_state()
    pyro.get_param_store()["scale"] = torch.tensor(0.5)
    pyro.get_param_store().set_state(state)
    assert gradient(potential) == pytest.approx(1 / 4)


def test_plain_tensors_are_followed_too():
    table = {"loc": torch.tensor(1.0)}
    loc = torch.tensor(1.0)

    def from_table():
        pyro.sample("z", dist.Normal(table["loc"], 1.0))

    def from_cell():
        pyro.sample("z", dist.Normal(loc, 1.0))

    potentials = [ModelPotential(from_table), ModelPotential(from_cell)]
    assert [gradient(potential) for potential in potentials] == [0.0, 0.0]
    table["loc"] = loc = torch.tensor(3.0)
    assert [gradient(potential) for potential in potentials] == [-2.0, -2.0]
    loc.fill_(5.0)
    assert [gradient(potential) for potential in potentials] == [-4.0, -4.0]


def test_long_lists_are_data():
    def model(numbers):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(sum(numbers)))

    potential = ModelPotential(model, [1.0] * 100_000)
    assert gradient(potential) == pytest.approx(1.0 + 1.0 - 100_000.0)


SIGMA, OFFSET = 1.0, torch.tensor(0.0)


def reads_a_global():
    pyro.sample("z", dist.Normal(OFFSET, SIGMA))


def reads_it_inside():
    def prior():
        return dist.Normal(OFFSET, SIGMA)

    pyro.sample("z", prior())


class ReadsIt(nn.Module):
    def forward(self):
        self.prior()

    def prior(self):
        pyro.sample("z", dist.Normal(OFFSET, SIGMA))


@pytest.mark.parametrize("model", [reads_a_global, reads_it_inside, ReadsIt()])
def test_globals_are_followed(model, monkeypatch):
    potential = ModelPotential(model)
    assert gradient(potential) == 1.0
    monkeypatch.setitem(globals(), "SIGMA", 10.0)
    assert gradient(potential) == pytest.approx(0.01)
    monkeypatch.setitem(globals(), "OFFSET", torch.tensor(3.0))
    assert gradient(potential) == pytest.approx(-0.02)


def test_defaults_are_followed():
    def model(table={"loc": 0.0}, *, pair=[1.0]):  # noqa: B006 (the state is the point)
        pyro.sample("z", dist.Normal(table["loc"], pair[0]))

    potential = ModelPotential(model)
    assert gradient(potential) == 1.0
    model.__defaults__[0]["loc"] = 3.0
    assert gradient(potential) == -2.0
    model.__kwdefaults__["pair"][0] = 2.0
    assert gradient(potential) == -0.5
    model.__defaults__ = ({"loc": torch.tensor(5.0)},)
    assert gradient(potential) == -1.0


def test_numbers_in_closures_attributes_and_replaced_containers_are_followed():
    scale = 1.0

    class Model:
        width = 1.0

        def __init__(self):
            self.table = {"loc": 0.0}

        def __call__(self):
            pyro.sample("z", dist.Normal(self.table["loc"], scale * self.width))

    model = Model()
    potential = ModelPotential(model)
    assert gradient(potential) == 1.0
    model.table = {"loc": 3.0}
    assert gradient(potential) == -2.0
    scale = 2.0
    assert gradient(potential) == -0.5
    Model.width = 0.5
    assert gradient(potential) == -2.0


def test_equal_numbers_keep_the_graph():
    settings = {"scale": 1000.5}

    def model():
        pyro.sample("z", dist.Normal(0.0, settings["scale"]))

    potential = ModelPotential(model)
    gradient(potential)
    graphs = dict(potential._batcher._graphs._graphs)
    settings["scale"] = float("1000.5")
    gradient(potential)
    assert potential._batcher._graphs._graphs == graphs
    settings["scale"] = 1
    gradient(potential)
    assert potential._batcher._graphs._graphs != graphs
