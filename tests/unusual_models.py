"""Pyro models that are not what tutorials show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints, transforms

from tests.pyro_model import PyroModel

_LOC_SCALE = {"effects": LocScaleReparam(0.3)}


def unusual_models() -> list[PyroModel]:
    """Handlers, modules, odd supports, and ways to write a model down."""
    x, y = torch.linspace(-1.5, 1.5, 6), torch.tensor([-1.0, -0.5, 0.2, 0.1, 0.8, 1.3])
    return [
        PyroModel("factor", factor),
        PyroModel("scaled", scaled, (y,)),
        PyroModel("masked", masked, (y,)),
        PyroModel("masked_prior", masked_prior),
        PyroModel("ordered", ordered, (y,)),
        PyroModel("param", with_param, (y,)),
        PyroModel("module", RegressionModule(), (x.unsqueeze(-1), y)),
        PyroModel("closed_over_network", closing_over(linear()), (x.unsqueeze(-1), y)),
        PyroModel("bayesian_network", BayesianNetwork(), (x.unsqueeze(-1), y)),
        PyroModel("deterministic", with_deterministic, (y,)),
        PyroModel("reparameterised", poutine.reparam(centred, config=_LOC_SCALE), (y,)),
        PyroModel("conditioned", pyro.condition(centred, data={"scale": torch.tensor(0.7)}), (y,)),
        PyroModel("intervened", pyro.do(centred, data={"loc": torch.tensor(0.4)}), (y,)),
        PyroModel("callable_instance", CallableModel(3.0), (y,)),
        PyroModel("bound_method", CallableModel(3.0).regress, (y,)),
        PyroModel("student_t", student_t, (x, y)),
        PyroModel("partial", partial(student_t, y=y), (x,)),
        PyroModel("keywords", with_keywords, (), {"data": {"y": y}, "width": 2.0}),
        PyroModel("nested_functions", nested_functions, (y,)),
        PyroModel("bounded", bounded),
    ]


def factor() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.factor("ring", -4.0 * (z.norm() - 2.0).square())
    with pyro.plate("points", 3):
        pyro.factor("each", -z.square().sum() * torch.arange(3.0))


def scaled(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with poutine.scale(scale=2.5), pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def masked(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)), poutine.mask(mask=y > 0):
        local = pyro.sample("local", dist.Normal(loc, 1.0))
        pyro.sample("y", dist.Normal(local, 1.0), obs=y)


def masked_prior() -> None:
    """The mask is a constraint: an improper flat prior under a factor."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(False))
    pyro.factor("energy", -z.pow(4))


def ordered(y: Tensor) -> None:
    base = dist.Normal(torch.zeros(3), 2.0).to_event(1)
    to_ordered = dist.transforms.OrderedTransform()
    cuts = pyro.sample("cuts", dist.TransformedDistribution(base, to_ordered))
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    labels = (y > 0).long() + (y > 1).long()
    with pyro.plate("data", len(y)):
        pyro.sample("labels", dist.OrderedLogistic(loc, cuts), obs=labels)


def with_param(y: Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(0.8), constraint=constraints.positive)
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(loc, scale).expand([len(y)]).to_event(1), obs=y)


class RegressionModule(PyroModule):
    """A PyroModule with a constrained parameter and a plain layer in it."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)
        self.linear = linear()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        mean = self.linear(x).squeeze(-1) + bias
        with pyro.plate("data", len(y)):
            return pyro.sample("y", dist.Normal(mean, self.noise), obs=y)


class BayesianNetwork(PyroModule):
    """Weights are sample sites (``PyroSample``)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = PyroModule[nn.Linear](1, 3)
        self.hidden.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 1]).to_event(2))
        self.hidden.bias = PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        self.out = PyroModule[nn.Linear](3, 1)
        self.out.weight = PyroSample(lambda out: dist.Normal(0.0, out.spread).expand([1, 3]))
        self.out.spread = PyroSample(dist.HalfNormal(1.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean = self.out(torch.tanh(self.hidden(x))).squeeze(-1)
        with pyro.plate("data", len(y)):
            return pyro.sample("y", dist.Normal(mean, 0.3), obs=y)


def linear() -> nn.Linear:
    """A layer of fixed weights."""
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 0.7)
    nn.init.constant_(layer.bias, -0.2)
    return layer


def closing_over(network: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """A model whose network is known to its closure only."""

    def model(x: Tensor, y: Tensor) -> None:
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(network(x).squeeze(-1), scale), obs=y)

    return model


def with_deterministic(y: Tensor) -> Tensor:
    log_scale = pyro.sample("log_scale", dist.Normal(0.0, 1.0))
    scale = pyro.deterministic("scale", log_scale.exp())
    with pyro.plate("data", len(y)):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.deterministic("shifted", loc + scale)
        pyro.sample("y", dist.Normal(loc, scale), obs=y)
    return scale


def centred(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        effects = pyro.sample("effects", dist.Normal(loc, scale))
        pyro.sample("y", dist.Normal(effects, 0.5), obs=y)


class CallableModel:
    """Not a function."""

    def __init__(self, width: float) -> None:
        self.width = width

    def __call__(self, y: Tensor) -> None:
        self.regress(y)

    def regress(self, y: Tensor) -> None:
        loc = pyro.sample("loc", dist.Cauchy(0.0, self.width))
        pyro.sample("y", dist.Normal(loc, 1.0).expand([len(y)]).to_event(1), obs=y)


def student_t(x: Tensor, y: Tensor) -> None:
    freedom = pyro.sample("freedom", dist.Gamma(2.0, 0.1))
    slope = pyro.sample("slope", dist.StudentT(3.0, 0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.StudentT(freedom, slope * x, 0.5), obs=y)


def with_keywords(*, data: dict[str, Tensor], width: float = 1.0, unused: str = "") -> dict:
    del unused
    loc = pyro.sample("loc", dist.Normal(0.0, width))
    with pyro.plate("data", len(data["y"])):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=data["y"])
    return {"loc": loc, "count": len(data["y"])}


def nested_functions(y: Tensor) -> None:
    def prior(name: str) -> Tensor:
        return pyro.sample(name, dist.Normal(0.0, 1.0))

    @scope(prefix="inner")
    def child() -> Tensor:
        return prior("a") * prior("b")

    loc = child() + prior("a")
    pyro.sample("y", dist.Normal(loc, 1.0).expand([len(y)]).to_event(1), obs=y)


def bounded() -> None:
    """Supports bounded from below and on both sides, and one of a transformed distribution."""
    pyro.sample("below", dist.Pareto(1.5, 2.0))
    negated = dist.TransformedDistribution(dist.Normal(0.0, 1.0), transforms.AffineTransform(1, -2))
    pyro.sample("real", negated)
    pyro.sample("correlation", dist.LKJ(3, 1.5))
    pyro.sample("between", dist.Kumaraswamy(2.0, 3.0))
    pyro.sample("angles", dist.VonMises(torch.zeros(2, 3), 2.0).to_event(2))
