"""An energy as a site of Pyro models: prior, likelihood, plates, MCMC and SVI."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, init_to_value
from pyro.infer.mcmc.util import initialize_model

from pyro_ebm import MALA, MCMC, EnergyDistribution, MLPEnergy, ModelPotential
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.estimators import LeaveOneOut, ReparameterizedELBO, ScoreFunctionELBO
from tests.statistics import Rejected, assert_chain_means, assert_mean

LOC = torch.tensor([1.0, -2.0])
PRIOR = torch.tensor([[2.0, -0.8], [-0.8, 1.0]])
"""Precision of the prior."""
NOISE = 0.8
DATA = torch.tensor([[0.5, 0.0], [1.5, -1.0], [0.0, 0.5]])


def model(data, prior):
    """A Gaussian energy as the prior of a mean: the posterior is known."""
    z = pyro.sample("z", EnergyDistribution(prior, num_steps=10))
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=data)


def _posterior(precision):
    posterior = precision + len(DATA) / NOISE**2 * torch.eye(2)
    mean = torch.linalg.solve(posterior, precision @ LOC + DATA.sum(0) / NOISE**2)
    return mean, torch.linalg.inv(posterior)


def _moments(draws, mean):
    """Columns whose means are zero and the covariance."""
    centred = draws - mean
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    return torch.cat([centred, products.flatten(-2)], dim=-1)


def _truth(covariance):
    return torch.cat([torch.zeros(2), covariance.flatten()])


def test_potential_is_the_closed_form_posterior():
    mean, covariance = _posterior(PRIOR)
    q = torch.randn(6, 2)
    value, grad = ModelPotential(model, DATA, GaussianEnergy(LOC, precision=PRIOR)).value_and_grad(
        q
    )
    truth = -dist.MultivariateNormal(mean, covariance).log_prob(q)
    torch.testing.assert_close(value - value[0], truth - truth[0])
    torch.testing.assert_close(grad, (q - mean) @ torch.linalg.inv(covariance))


def test_pyros_potential_is_the_same():
    args = (DATA, GaussianEnergy(LOC, precision=PRIOR))
    _, potential_fn, transforms, _ = initialize_model(model, args)
    q = torch.randn(6, 2)
    pyros = torch.stack([potential_fn({"z": row}) for row in q])
    torch.testing.assert_close(ModelPotential(model, *args)(q), pyros)
    assert torch.equal(transforms["z"](q), q)


def test_posterior_by_many_chains():
    mean, covariance = _posterior(PRIOR)
    mcmc = MCMC(MALA(model), 100, num_chains=200, disable_progbar=True)
    mcmc.run(DATA, GaussianEnergy(LOC, precision=PRIOR))
    draws = mcmc.get_samples(group_by_chain=True)["z"]
    assert_chain_means(_moments(draws, mean), _truth(covariance))
    with pytest.raises(Rejected):  # the posterior without the energy
        assert_chain_means(draws, DATA.mean(0))


def test_posterior_by_pyros_nuts():
    mean, covariance = _posterior(PRIOR)
    mcmc = pyro.infer.MCMC(NUTS(model), 160, warmup_steps=60, disable_progbar=True)
    mcmc.run(DATA, GaussianEnergy(LOC, precision=PRIOR))
    blocks = mcmc.get_samples()["z"].reshape(10, 16, 2)
    assert_chain_means(_moments(blocks, mean), _truth(covariance))


ELBOS = [
    Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1),
    ReparameterizedELBO(8),
    ScoreFunctionELBO(LeaveOneOut(), 8),
]


def _gradients(elbo, loc, scale, num_draws=80):
    """Gradients of the loss for an isotropic posterior, at a normal guide."""
    pyro.clear_param_store()
    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"z": loc}), init_scale=scale)
    args = (DATA, GaussianEnergy(LOC, scale=torch.tensor(1.0)))
    guide(*args)
    parameters = list(guide.parameters())
    rows = []
    for _ in range(num_draws):
        loss = elbo.differentiable_loss(model, guide, *args)
        rows.append(torch.cat(torch.autograd.grad(loss, parameters)))
    return torch.stack(rows)


def _assert_mean_zero(gradients):
    """Differences of signals that are all the same, as at the posterior, leave rounding only."""
    if float(gradients.abs().max()) > 1e-12:
        assert_mean(gradients, 0.0)


@pytest.mark.parametrize("elbo", ELBOS, ids=lambda elbo: type(elbo).__name__)
def test_elbo_is_stationary_at_the_posterior_and_only_there(elbo):
    mean, covariance = _posterior(torch.eye(2))
    scale = float(covariance[0, 0].sqrt())
    _assert_mean_zero(_gradients(elbo, mean, scale))
    with pytest.raises(Rejected):
        _assert_mean_zero(_gradients(elbo, LOC, scale))


@pytest.mark.parametrize("elbo", ELBOS, ids=lambda elbo: type(elbo).__name__)
@pytest.mark.parametrize("autoguide", [AutoNormal, AutoMultivariateNormal])
def test_svi_with_starts_from_draws_of_the_energy(elbo, autoguide):
    args = (DATA, GaussianEnergy(LOC, precision=PRIOR))
    svi = SVI(model, autoguide(model), pyro.optim.Adam({"lr": 0.05}), loss=elbo)
    losses = [svi.step(*args) for _ in range(40)]
    assert sum(losses[-10:]) < sum(losses[:10])


def plated(energy, size=3):
    with pyro.plate("plate", size):
        return pyro.sample("z", EnergyDistribution(energy, num_steps=5))


def test_plates():
    energy = GaussianEnergy(LOC, precision=PRIOR)
    trace = poutine.trace(plated).get_trace(energy)
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["value"].shape == (3, 2)
    torch.testing.assert_close(site["log_prob"], -energy(site["value"]))
    assert ModelPotential(plated, energy).dim == 6


def test_vectorised_particles():
    energy = GaussianEnergy(LOC, precision=PRIOR)
    with pyro.plate("particles", 5, dim=-2):
        trace = poutine.trace(plated).get_trace(energy)
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (5, 3, 2)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], -energy(trace.nodes["z"]["value"]))


def test_condition_scale_and_mask():
    energy, value = GaussianEnergy(LOC, precision=PRIOR), torch.randn(3, 2)
    conditioned = poutine.condition(plated, data={"z": value})
    mask = torch.tensor([True, False, True])

    def log_density(program):
        return poutine.trace(program).get_trace(energy).log_prob_sum()

    torch.testing.assert_close(log_density(conditioned), -energy(value).sum())
    torch.testing.assert_close(
        log_density(poutine.scale(conditioned, scale=2.5)), -2.5 * energy(value).sum()
    )
    torch.testing.assert_close(
        log_density(poutine.mask(conditioned, mask=mask)), -energy(value)[mask].sum()
    )


def test_as_a_likelihood_of_data():
    energy = MLPEnergy(2).requires_grad_(False)

    def tilted():
        shift = pyro.sample("shift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(DATA)):
            pyro.sample("x", EnergyDistribution(energy), obs=DATA - shift)

    q = torch.randn(4, 2)
    value, grad = ModelPotential(tilted).value_and_grad(q)
    leaf = q.clone().requires_grad_()
    truth = energy(DATA - leaf.unsqueeze(1)).sum(1) + 0.5 * leaf.square().sum(-1)
    torch.testing.assert_close(value - value[0], (truth - truth[0]).detach())
    torch.testing.assert_close(grad, torch.autograd.grad(truth.sum(), leaf)[0])


def test_predictive_draws_the_site_or_takes_it():
    args = (DATA, GaussianEnergy(LOC, precision=PRIOR))
    assert Predictive(model, num_samples=4)(*args)["z"].shape == (4, 1, 2)
    given = {"z": torch.randn(4, 2)}
    assert Predictive(model, posterior_samples=given)(*args)["x"].shape == (4, 3, 2)
