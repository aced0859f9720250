"""Pyro models with continuous latent sites and fixed supports, with data to run them on.

On each of them ``pyro.infer.mcmc.util.initialize_model`` gives the truth, so every part of the
library that takes a model can be tested on all.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import transforms

from tests.pyro_model import PyroModel
from tests.structured_models import structured_models
from tests.unusual_models import unusual_models

_SCHOOLS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_SCHOOL_ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def all_models() -> list[PyroModel]:
    """Every model, for ``pytest.mark.parametrize(..., ids=lambda row: row.name)``."""
    return [*classic_models(), *structured_models(), *unusual_models()]


def classic_models() -> list[PyroModel]:
    """The textbook."""
    x, y = torch.linspace(-1.5, 1.5, 6), torch.tensor([-1.0, -0.5, 0.2, 0.1, 0.8, 1.3])
    design = torch.stack([x, x.cos(), x.sin().square()], dim=-1)
    counts, labels = torch.tensor([3.0, 0.0, 5.0, 2.0, 1.0, 4.0]), (y > 0).to(y.dtype)
    return [
        PyroModel("eight_schools", eight_schools, (_SCHOOLS, _SCHOOL_ERRORS)),
        PyroModel("hierarchical", hierarchical, (y.reshape(3, 2),)),
        PyroModel("logistic", logistic, (design, labels)),
        PyroModel("simplex", simplex, (torch.tensor([0, 2, 2, 1, 0, 2]),)),
        PyroModel("lkj", lkj, (torch.stack([x, y, x * y], dim=-1),)),
        PyroModel("gaussian_process", gaussian_process, (x, y)),
        PyroModel("gamma_poisson", gamma_poisson, (counts,)),
        PyroModel("uniform_beta", uniform_beta, (labels,)),
        PyroModel("von_mises", von_mises, (y,)),
        PyroModel("multivariate_precision", multivariate_precision, (design,)),
        PyroModel("mixture", mixture, (y,)),
        PyroModel("categorical", categorical, (design, torch.tensor([0, 1, 2, 3, 1, 0]))),
        PyroModel("zero_inflated", zero_inflated, (counts,)),
        PyroModel("transformed", transformed, (y,)),
    ]


def eight_schools(y: Tensor, errors: Tensor) -> None:
    """Non-centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, errors), obs=y)


def hierarchical(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.HalfCauchy(torch.ones(2)).to_event(1))
    with pyro.plate("groups", y.shape[0]):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), scale).to_event(1))
        pyro.sample("y", dist.Normal(loc, 0.5).to_event(1), obs=y)


def logistic(x: Tensor, labels: Tensor) -> None:
    """As Pyro's documentation writes it: batch axes outside any plate."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(x.shape[-1]), torch.ones(3)))
    pyro.sample("labels", dist.Bernoulli(logits=(weights * x).sum(-1)), obs=labels)


def simplex(draws: Tensor) -> None:
    shares = pyro.sample("shares", dist.Dirichlet(torch.tensor([0.5, 1.0, 3.0])))
    with pyro.plate("draws", len(draws)):
        pyro.sample("draw", dist.Categorical(shares), obs=draws)


def lkj(y: Tensor) -> None:
    scales = pyro.sample("scales", dist.HalfNormal(torch.ones(3)).to_event(1))
    correlation = pyro.sample("correlation", dist.LKJCholesky(3, 2.0))
    factor = scales.unsqueeze(-1) * correlation
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), scale_tril=factor), obs=y)


def gaussian_process(x: Tensor, y: Tensor) -> None:
    length, amplitude = (pyro.sample(name, dist.LogNormal(0.0, 1.0)) for name in ("l", "a"))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    kernel = amplitude * torch.exp(-0.5 * ((x.unsqueeze(-1) - x) / length).square())
    covariance = kernel + (noise.square() + 1e-6) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)


def gamma_poisson(counts: Tensor) -> None:
    shape, rate = pyro.sample("shape", dist.Exponential(1.0)), pyro.sample("r", dist.Gamma(2, 1))
    with pyro.plate("units", len(counts)):
        intensity = pyro.sample("intensity", dist.Gamma(shape, rate))
        pyro.sample("count", dist.Poisson(intensity), obs=counts)


def uniform_beta(labels: Tensor) -> None:
    centre = pyro.sample("centre", dist.Uniform(torch.tensor([-2.0, 1.0]), 4.0))
    chance = pyro.sample("chance", dist.Beta(2.0, centre.square().sum() + 0.5))
    pyro.sample("labels", dist.Bernoulli(chance).expand([len(labels)]).to_event(1), obs=labels)


def von_mises(y: Tensor) -> None:
    angle = pyro.sample("angle", dist.VonMises(0.3, 2.0))
    concentration = pyro.sample("concentration", dist.Gamma(3.0, 1.0))
    pyro.sample("y", dist.VonMises(angle, concentration).expand([len(y)]).to_event(1), obs=y)


def multivariate_precision(y: Tensor) -> None:
    precision = torch.eye(3) + 0.4
    mean = pyro.sample("mean", dist.MultivariateNormal(torch.ones(3), precision_matrix=precision))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MultivariateNormal(mean, precision_matrix=rate * precision), obs=y)


def mixture(y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    locs = pyro.sample("locs", dist.Normal(torch.tensor([-1.0, 0.0, 1.0]), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    components = dist.Normal(locs, scale.unsqueeze(-1).expand(3))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=y)


def categorical(x: Tensor, labels: Tensor) -> None:
    weights = pyro.sample("weights", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2))
    with pyro.plate("data", len(labels)):
        pyro.sample("labels", dist.Categorical(logits=x @ weights), obs=labels)


def zero_inflated(counts: Tensor) -> None:
    gate, rate = pyro.sample("gate", dist.Beta(2, 2)), pyro.sample("rate", dist.Gamma(2, 1))
    with pyro.plate("data", len(counts)):
        pyro.sample("counts", dist.ZeroInflatedPoisson(rate, gate=gate), obs=counts)


def transformed(y: Tensor) -> None:
    """Priors made of transforms, one of them onto a half line and one by a flow layer."""
    exponential = [transforms.AffineTransform(0.5, 2.0), transforms.ExpTransform()]
    scale = pyro.sample("scale", dist.TransformedDistribution(dist.Normal(0.0, 0.3), exponential))
    flow = dist.transforms.LowerCholeskyAffine(torch.ones(2), torch.eye(2) + 0.3)
    base = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    loc = pyro.sample("loc", dist.TransformedDistribution(base, [flow.inv]))
    pyro.sample("y", dist.Normal(loc.sum(), scale).expand([len(y)]).to_event(1), obs=y)
