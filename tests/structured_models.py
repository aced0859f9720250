"""Pyro models with plates, loops and time series."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from tests.pyro_model import PyroModel


def structured_models() -> list[PyroModel]:
    """Plates, loops and time series."""
    y = torch.tensor([-1.0, -0.5, 0.2, 0.1, 0.8, 1.3])
    series = torch.linspace(0.0, 6.0, 20).sin()
    grid = torch.arange(24.0).reshape(2, 3, 4).cos()
    return [
        PyroModel("random_walk", random_walk, (series,)),
        PyroModel("markov", markov, (series[:8],)),
        PyroModel("sequential_plate", sequential_plate, (y,)),
        PyroModel("nested_plates", nested_plates, (grid,)),
        PyroModel("plate_of_size_one", plate_of_size_one, (y,)),
        PyroModel("discrete_hmm", discrete_hmm, (torch.tensor([0, 1, 1, 0, 1]),)),
        PyroModel("gaussian_hmm", gaussian_hmm, (series[:6].unsqueeze(-1),)),
        PyroModel("autoregressive_car", autoregressive_car, (y,)),
        PyroModel("fixed_subsample", fixed_subsample, (y, torch.tensor([0, 2, 5]))),
        PyroModel("observed_event", observed_event, (grid,)),
    ]


def random_walk(series: Tensor) -> None:
    """A plain loop with indices over 20 steps."""
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    level = pyro.sample("level_0", dist.Normal(0.0, 1.0))
    for t in range(1, len(series)):
        level = pyro.sample(f"level_{t}", dist.Normal(0.9 * level, scale))
        pyro.sample(f"y_{t}", dist.Normal(level, 0.3), obs=series[t])


def markov(series: Tensor) -> None:
    level = 0.0
    for t in pyro.markov(range(len(series))):
        level = pyro.sample(f"level_{t}", dist.Normal(level, 1.0))
        pyro.sample(f"y_{t}", dist.Normal(level, 0.3), obs=series[t])


def sequential_plate(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    for i in pyro.plate("data", len(y)):
        effect = pyro.sample(f"effect_{i}", dist.Laplace(loc, 1.0))
        pyro.sample(f"y_{i}", dist.Normal(effect, 0.5), obs=y[i])


def nested_plates(y: Tensor) -> None:
    """Plates at dims -3, -2 and -1, one of them entered alone."""
    outer = pyro.plate("outer", y.shape[0], dim=-3)
    middle = pyro.plate("middle", y.shape[1], dim=-2)
    inner = pyro.plate("inner", y.shape[2], dim=-1)
    with middle:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with outer, inner:
        b = pyro.sample("b", dist.HalfNormal(1.0))
    with outer, middle, inner:
        c = pyro.sample("c", dist.Gamma(2.0, b + 0.1))
        pyro.sample("y", dist.Normal(a * c, b + 0.2), obs=y)


def plate_of_size_one(y: Tensor) -> None:
    with pyro.plate("single", 1):
        a = pyro.sample("a", dist.Normal(torch.zeros(1), 1.0))
    b = pyro.sample("b", dist.Normal(torch.zeros(1, 1), 1.0).to_event(2))
    pyro.sample("y", dist.Normal(a.sum() + b.sum(), 1.0).expand([len(y)]).to_event(1), obs=y)


def discrete_hmm(series: Tensor) -> None:
    """Its states are summed out by the distribution."""
    transition = pyro.sample("transition", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    emission = pyro.sample("emission", dist.Beta(torch.ones(2), torch.ones(2)).to_event(1))
    states = dist.DiscreteHMM(torch.zeros(2), transition.log(), dist.Bernoulli(emission))
    pyro.sample("series", states, obs=series.to(emission.dtype))


def gaussian_hmm(series: Tensor) -> None:
    decay, scale = pyro.sample("decay", dist.Uniform(0, 1)), pyro.sample("s", dist.HalfNormal(1.0))
    start = dist.Normal(torch.zeros(1), torch.ones(1)).to_event(1)
    move = dist.Normal(torch.zeros(1), scale.unsqueeze(-1) + 0.1).to_event(1)
    look = dist.Normal(torch.zeros(1), 0.5 * torch.ones(1)).to_event(1)
    hmm = dist.GaussianHMM(start, decay.reshape(1, 1), move, torch.eye(1), look, duration=6)
    pyro.sample("series", hmm, obs=series)


def autoregressive_car(y: Tensor) -> None:
    """A conditional autoregression on a ring: a prior by its log density."""
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("places", len(y)), poutine.mask(mask=False):
        phi = pyro.sample("phi", dist.Normal(0.0, 1.0))
    neighbours = torch.eye(len(y)).roll(1, 0) + torch.eye(len(y)).roll(-1, 0)
    precision = tau * (2.1 * torch.eye(len(y)) - neighbours)
    pyro.factor("car", 0.5 * (torch.logdet(precision) - phi @ precision @ phi))
    pyro.sample("y", dist.Normal(phi, 1.0).to_event(1), obs=y)


def fixed_subsample(y: Tensor, rows: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y), subsample=rows) as index:
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y[index])


def observed_event(images: Tensor) -> None:
    with pyro.plate("data", len(images)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = torch.einsum("nk,kij->nij", z, torch.ones(2, *images.shape[1:]))
        pyro.sample("image", dist.Normal(mean, 0.5).to_event(2), obs=images)
