"""Pyro models with discrete sites that are summed out, small enough for brute force."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.ops.indexing import Vindex

PARALLEL = {"enumerate": "parallel"}
Y = torch.tensor([-1.3, 0.2, 2.0, 0.4])
TABLE = torch.tensor([[0.3, -1.0, 0.8], [2.0, 1.0, -0.4]])


def mixture(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("components", 3):
        locs = pyro.sample("locs", dist.Normal(0.0, 3.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(weights), infer=PARALLEL)
        pyro.sample("y", dist.Normal(locs[k], scale), obs=y)


def hmm(y):
    transition = pyro.sample("transition", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    locs = pyro.sample("locs", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    x = 0
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(Vindex(transition)[x]), infer=PARALLEL)
        pyro.sample(f"y_{t}", dist.Normal(Vindex(locs)[x], 0.7), obs=y[t])


def many_hmms(y):
    transition = pyro.sample("transition", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("series", len(y)):
        x = 0
        for t in pyro.markov(range(y.shape[1])):
            x = pyro.sample(f"x_{t}", dist.Categorical(Vindex(transition)[x]), infer=PARALLEL)
            pyro.sample(f"y_{t}", dist.Normal(loc * x, 0.7), obs=y[:, t])


def switch(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    rough = pyro.sample("rough", dist.Bernoulli(0.3), infer=PARALLEL)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 0.5 + rough), obs=y)


def nested(y):
    chance = pyro.sample("chance", dist.Beta(2.0, 2.0))
    locs = pyro.sample("locs", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with pyro.plate("groups", len(y), dim=-2):
        group = pyro.sample("group", dist.Bernoulli(chance), infer=PARALLEL)
        with pyro.plate("units", y.shape[1], dim=-1):
            k = pyro.sample("k", dist.Bernoulli(0.2 + 0.5 * group), infer=PARALLEL)
            pyro.sample("y", dist.Normal(Vindex(locs)[k.long()] + group, 1.0), obs=y)


def switch_and_assignments(y):
    locs = pyro.sample("locs", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    regime = pyro.sample("regime", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])), infer=PARALLEL)
    weights = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(Vindex(weights)[regime]), infer=PARALLEL)
        pyro.sample("y", dist.Normal(Vindex(locs)[k], 1.0), obs=y)


def two_plates(x, y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    shared = pyro.sample("shared", dist.Bernoulli(0.4), infer=PARALLEL)
    for name, data in (("x", x), ("y", y)):
        with pyro.plate(f"plate_{name}", len(data)):
            k = pyro.sample(f"k_{name}", dist.Bernoulli(0.2 + 0.6 * shared), infer=PARALLEL)
            pyro.sample(name, dist.Normal(loc * k, 1.0), obs=data)


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        n = pyro.sample("n", dist.Binomial(3, 0.4), infer=PARALLEL)
        pyro.sample("y", dist.Normal(rate * n, 1.0), obs=y)


def one_hot(y):
    locs = pyro.sample("locs", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.OneHotCategorical(torch.ones(3)), infer=PARALLEL)
        pyro.sample("y", dist.Normal((k * locs).sum(-1), 1.0), obs=y)


def with_factor(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)), poutine.mask(mask=y > 0):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
        pyro.factor("f", -(y - k * z).square())


@config_enumerate
def configured(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    k = pyro.sample("k", dist.Categorical(torch.ones(3)))
    pyro.sample("y", dist.Normal(loc + k.unsqueeze(-1), 1.0).expand_by([]).to_event(1), obs=y[:1])


EQUAL_TO_PYRO = [
    (mixture, (Y[:3],)),
    (hmm, (Y,)),
    (many_hmms, (TABLE,)),
    (switch, (Y,)),
    (nested, (TABLE,)),
    (switch_and_assignments, (Y,)),
    (two_plates, (Y[:2], Y[2:])),
    (counts, (Y[:3],)),
    (one_hot, (Y,)),
    (with_factor, (Y,)),
    (configured, (Y,)),
]


def latent_given_switch(y):
    """Pyro's potential gives ``z`` one value for each value of ``k``: another model."""
    k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
    z = pyro.sample("z", dist.Normal(3.0 * k, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y[0])


def latent_given_assignment(y):
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
        z = pyro.sample("z", dist.LogNormal(k, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def batch_outside_plates(y):
    """As Pyro's documentation writes regressions; its own evaluator refuses it."""
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0))
    k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
    pyro.sample("y", dist.Normal(loc.sum() + k, 1.0).expand_by([]), obs=y)


BRUTE_FORCE_ONLY = [
    (latent_given_switch, (Y,)),
    (latent_given_assignment, (Y,)),
    (batch_outside_plates, (Y,)),
]
