"""Posteriors that are known in closed form or by quadrature, from the model to the draws."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, Langevin, UnderdampedLangevin
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.potentials.model import ModelPotential
from pyro_ebm.sampling.storage import DrawStorage
from tests.sampling.runs import driver, run
from tests.statistics import Rejected, assert_chain_means, assert_independent_chains

DATA = torch.tensor([1.2, 0.4, 2.1, 1.7, 0.9])
COUNTS = torch.tensor([3.0, 0.0, 5.0, 2.0])


def normal_model(y):
    loc = pyro.sample("loc", dist.Normal(1.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 0.8), obs=y)


def normal_posterior():
    precision = 1 / 2.0**2 + len(DATA) / 0.8**2
    return {"loc": ((1.0 / 2.0**2 + DATA.sum() / 0.8**2) / precision, 1 / precision)}


DESIGN = torch.tensor([[1.0, 0.9, 0.1], [1.0, 1.1, -0.3], [1.0, 0.8, 0.2], [0.9, 1.0, 0.5]])
RESPONSE = torch.tensor([2.0, 1.5, 1.0, 2.5])
PRIOR_FACTOR = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.9, 0.0], [-0.3, 0.4, 1.2]])


def linear_model(x, y):
    prior = dist.MultivariateNormal(torch.zeros(3), scale_tril=PRIOR_FACTOR)
    weights = pyro.sample("weights", prior)
    pyro.sample("y", dist.Normal(x @ weights, 0.5).to_event(1), obs=y)


def linear_posterior():
    precision = torch.linalg.inv(PRIOR_FACTOR @ PRIOR_FACTOR.T) + DESIGN.T @ DESIGN / 0.25
    covariance = torch.linalg.inv(precision)
    return {"weights": (covariance @ DESIGN.T @ RESPONSE / 0.25, covariance)}


def beta_model(labels):
    chance = pyro.sample("chance", dist.Beta(2.0, 1.5))
    with pyro.plate("data", len(labels)):
        pyro.sample("labels", dist.Bernoulli(chance), obs=labels)


def gamma_model(counts):
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.7))
    with pyro.plate("data", len(counts)):
        pyro.sample("counts", dist.Poisson(rate), obs=counts)


def dirichlet_model(labels):
    shares = pyro.sample("shares", dist.Dirichlet(torch.tensor([1.5, 2.0, 3.0])))
    with pyro.plate("data", len(labels)):
        pyro.sample("labels", dist.Categorical(shares), obs=labels)


def moments(posterior):
    return posterior.mean, posterior.variance


def dynamic_model(y):
    """The support of ``b`` ends where ``a`` says."""
    a = pyro.sample("a", dist.Gamma(3.0, 1.0))
    b = pyro.sample("b", dist.Uniform(0.0, a))
    pyro.sample("y", dist.Normal(b, 0.7), obs=y)


def dynamic_posterior():
    """Means and variances on a grid over ``a`` and the fraction ``b / a``."""
    a = torch.linspace(1e-4, 40.0, 4_001)
    fraction = (torch.arange(800.0) + 0.5) / 800
    b = a.unsqueeze(-1) * fraction
    prior = dist.Gamma(3.0, 1.0).log_prob(a).unsqueeze(-1)
    weights = (prior + dist.Normal(b, 0.7).log_prob(torch.tensor(1.5))).exp()
    weights = weights / weights.sum()

    def mean_and_variance(values):
        mean = (weights * values).sum()
        return mean, (weights * (values - mean).square()).sum()

    return {"a": mean_and_variance(a.unsqueeze(-1).expand_as(b)), "b": mean_and_variance(b)}


POSTERIORS = {
    "normal": (normal_model, (DATA,), normal_posterior()),
    "linear": (linear_model, (DESIGN, RESPONSE), linear_posterior()),
    "beta": (beta_model, (torch.tensor([1.0, 1, 0, 1]),), {"chance": moments(dist.Beta(5.0, 2.5))}),
    "gamma": (gamma_model, (COUNTS,), {"rate": moments(dist.Gamma(12.0, 4.7))}),
    "dirichlet": (
        dirichlet_model,
        (torch.tensor([0, 0, 2, 0, 2, 0]),),
        {"shares": moments(dist.Dirichlet(torch.tensor([5.5, 2.0, 5.0])))},
    ),
    "dynamic": (dynamic_model, (torch.tensor(1.5),), dynamic_posterior()),
}


def assert_posterior(mcmc, truth):
    """Mean and second moments about the true mean of every site."""
    samples = mcmc.get_samples(group_by_chain=True)
    for name, (mean, spread) in truth.items():
        centred = samples[name] - mean
        assert_chain_means(centred, 0.0)
        if torch.as_tensor(spread).ndim == 2:
            products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
            assert_chain_means(products, spread)
        else:
            assert_chain_means(centred.square(), spread)


def sampled(model, args, kernel=MALA, **settings):
    mcmc = driver(kernel(model), 120, 150, num_chains=200, **settings)
    mcmc.run(*args)
    return mcmc


@pytest.mark.parametrize("name", POSTERIORS)
def test_mala_draws_from_the_posterior(name):
    model, args, truth = POSTERIORS[name]
    mcmc = sampled(model, args)
    assert_posterior(mcmc, truth)
    assert_independent_chains(mcmc.chains.positions)


@pytest.mark.parametrize("name", ["normal", "linear"])
def test_underdamped_is_exact_on_gaussians(name):
    model, args, truth = POSTERIORS[name]
    assert_posterior(sampled(model, args, UnderdampedLangevin), truth)


def test_unadjusted_langevin_has_its_exact_biased_variance():
    """``s^2 / (1 - eps^2 s^2 / 4)`` in units of the posterior, whatever warm-up chose."""
    model, args, truth = POSTERIORS["normal"]
    mcmc = sampled(model, args, partial(Langevin, target_accept_prob=0.9), thinning=3)
    mean, variance = truth["loc"]
    precision = mcmc.kernel.scale.item() ** 2 / variance
    biased = variance / (1 - mcmc.kernel.step_size**2 * precision / 4)
    assert_posterior(mcmc, {"loc": (mean, biased)})
    with pytest.raises(Rejected):
        assert_posterior(mcmc, truth)


@pytest.mark.parametrize(("dim", "lowest", "highest"), [(1, 9, 15), (8, 3, 6), (64, 1.5, 3)])
def test_documented_bias_is_what_warm_up_comes_to(dim, lowest, highest):
    energy = GaussianEnergy.standard((dim,))
    kernel = run(Langevin(energy), 1, 400, num_chains=128).kernel
    scaled = kernel.step_size * kernel.scale.mean().item()
    assert lowest < 100 * (1 / (1 - scaled**2 / 4) - 1) < highest


def test_supports_of_energies():
    """The energy of a Beta on its interval, Jacobian included."""
    beta = dist.Beta(3.0, 1.5)
    energy = EnergyPotential(lambda x: -beta.log_prob(x), (), constraints.unit_interval)
    assert_posterior(run(MALA(energy), 150, 200, num_chains=200), {"x": moments(beta)})


def test_a_missing_jacobian_is_rejected():
    class WithoutJacobian(ModelPotential):
        def _scalar(self, q):
            return -self.at(q).trace.log_prob_sum()

    model, args, truth = POSTERIORS["gamma"]
    mcmc = run(MALA(WithoutJacobian(model, *args)), 150, 200, num_chains=200)
    with pytest.raises(Rejected):
        assert_posterior(mcmc, truth)


def test_a_frozen_support_is_rejected():
    """``b`` on the interval that ends at the mean of ``a``, as one trace would leave it."""

    def frozen_model(y):
        pyro.sample("a", dist.Gamma(3.0, 1.0))
        b = pyro.sample("b", dist.Uniform(0.0, 3.0))
        pyro.sample("y", dist.Normal(b, 0.7), obs=y)

    _, args, truth = POSTERIORS["dynamic"]
    with pytest.raises(Rejected):
        assert_posterior(sampled(frozen_model, args), truth)


def test_draws_stored_again_are_rejected(monkeypatch):
    """Four chains hold the draws of each: every mean is right, the error bar is not."""
    original = DrawStorage.record

    def record(self, state, info):
        again = torch.arange(len(state.position) // 4).repeat(4)
        original(self, state._replace(position=state.position[again]), info)

    monkeypatch.setattr(DrawStorage, "record", record)
    model, args, _ = POSTERIORS["normal"]
    with pytest.raises(Rejected, match="not independent"):
        assert_independent_chains(sampled(model, args).chains.positions)
