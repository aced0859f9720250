"""Energies that are learned or inferred inside a model are refused, and why."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.func import grad, vmap

from pyro_ebm import MALA, MCMC, EnergyDistribution, MLPEnergy, ModelPotential
from pyro_ebm.core.checks import ModelError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.estimators import ReparameterizedELBO, ScoreFunctionELBO

EXPLANATION = "log Z has a gradient too.*minus infinity"
"""Pyro wraps the errors of ``log_prob`` in its own; what counts is that the words arrive."""


class Shifted:
    event_shape = torch.Size([2])

    def __init__(self, loc):
        self.loc = loc

    def __call__(self, x):
        return 0.5 * (x - self.loc).square().sum(-1)


WEIGHT = torch.zeros(2, requires_grad=True)


def with_leaf():
    pyro.sample("z", EnergyDistribution(Shifted(WEIGHT), num_steps=2))


def with_stored_parameter():
    pyro.sample("z", EnergyDistribution(Shifted(pyro.param("loc", torch.zeros(2))), num_steps=2))


def with_latent():
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("z", EnergyDistribution(Shifted(loc), num_steps=2))


def _svi(model, elbo):
    SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), loss=elbo).step()


PATHS = {
    "ModelPotential": ModelPotential,
    "MCMC": lambda model: MCMC(MALA(model), 2, num_chains=3, disable_progbar=True).run(),
    "NUTS": lambda model: pyro.infer.MCMC(NUTS(model), 2, 2, disable_progbar=True).run(),
    "Trace_ELBO": lambda model: _svi(model, Trace_ELBO()),
    "ReparameterizedELBO": lambda model: _svi(model, ReparameterizedELBO()),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("model", [with_leaf, with_stored_parameter, with_latent])
def test_the_explanation_reaches_the_user(path, model):
    with pytest.raises(ValueError, match=f"(?s){EXPLANATION}"):
        path(model)


@pytest.mark.parametrize("model", [with_leaf, with_stored_parameter])
def test_score_functions_refuse_parameters(model):
    with pytest.raises(ModelError, match=EXPLANATION):
        _svi(model, ScoreFunctionELBO())


def test_refused_under_function_transforms():
    def log_density(q):
        return EnergyDistribution(Shifted(q[0])).log_prob(q[1])

    with pytest.raises(ModelError, match=EXPLANATION):
        vmap(grad(log_density))(torch.randn(3, 2, 2))


@pytest.mark.parametrize(
    "split", [lambda q: q.unbind(0), lambda q: q.split(1), lambda q: (q[0], q[1])]
)
def test_values_from_one_tensor_are_told_apart(split):
    loc, z = split(torch.randn(2, 2, requires_grad=True))
    with pytest.raises(ModelError, match=EXPLANATION):
        EnergyDistribution(Shifted(loc)).log_prob(z)
    assert EnergyDistribution(Shifted(loc.detach())).log_prob(z).requires_grad


@pytest.mark.parametrize("requires_grad", [True, False])
def test_refused_whether_or_not_the_value_has_a_gradient(requires_grad):
    x = torch.zeros(2, requires_grad=requires_grad)
    with pytest.raises(ModelError, match=EXPLANATION):
        EnergyDistribution(Shifted(WEIGHT)).log_prob(x)


def test_nothing_is_seen_where_gradients_are_off():
    """As documented: such a density cannot train or move anything."""
    with torch.no_grad():
        assert EnergyDistribution(Shifted(WEIGHT)).log_prob(torch.zeros(2)) == 0
        poutine.trace(with_latent).get_trace().log_prob_sum()


@pytest.mark.parametrize(
    "energy",
    [
        MLPEnergy(2),
        GaussianEnergy(nn.Parameter(torch.zeros(2)), precision=torch.ones(2)),
        GaussianEnergy.standard(2) + MLPEnergy(2),
        0.5 * MLPEnergy(2),
    ],
    ids=["network", "parameter", "sum", "tempered"],
)
def test_constructor_refuses_trainable_energies_until_they_are_frozen(energy):
    with pytest.raises(ModelError, match=f"{EXPLANATION}.*requires_grad_"):
        EnergyDistribution(energy)
    law = EnergyDistribution(energy.requires_grad_(False))
    assert law.log_prob(torch.zeros(3, 2, requires_grad=True)).requires_grad


def test_energies_thawed_later_are_refused():
    energy = MLPEnergy(2).requires_grad_(False)
    law = EnergyDistribution(energy)
    energy.requires_grad_(True)
    with pytest.raises(ModelError, match=EXPLANATION):
        law.log_prob(torch.zeros(3, 2))


class Unguarded(EnergyDistribution):
    def log_prob(self, value):
        return -self.energy(value)


class Offset(nn.Module):
    """All that the offset does is cancelled by log Z, which is not there."""

    event_shape = torch.Size([2])

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x):
        return 0.5 * x.square().sum(-1) + self.offset


@pytest.mark.parametrize("obs", [None, torch.ones(2)], ids=["latent", "observed"])
def test_without_the_guard_an_elbo_goes_to_minus_infinity(obs):
    """Why it is there: with the noise fixed, every step takes the loss down by the rate."""

    def model(law):
        pyro.sample("y", dist.Normal(0.0, 1.0))
        pyro.sample("z", law, obs=obs)

    def losses(law):
        guide = AutoNormal(model)
        guide(law)
        law.energy.requires_grad_(True)
        optimizer = torch.optim.SGD(law.energy.parameters(), lr=10.0)
        for _ in range(30):
            pyro.set_rng_seed(0)
            loss = Trace_ELBO().differentiable_loss(model, guide, law)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    values = torch.tensor(list(losses(Unguarded(Offset(), num_steps=2))))
    torch.testing.assert_close(values.diff(), torch.full((29,), -10.0))
    with pytest.raises(ValueError, match=f"(?s){EXPLANATION}"):
        list(losses(EnergyDistribution(Offset(), num_steps=2)))
