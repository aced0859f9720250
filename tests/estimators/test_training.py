"""SVI with both estimators reaches closed-form posteriors."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.optim import ClippedAdam

from pyro_ebm.estimators import LeaveOneOut, ReparameterizedELBO, ScoreFunctionELBO

NUM_STEPS = 250
DATA = torch.tensor([1.2, 0.4, 2.0, 0.9])
POSTERIOR_MEAN = float(DATA.sum() / (1 + len(DATA)))
POSTERIOR_SCALE = (1 + len(DATA)) ** -0.5


def conjugate():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(DATA)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=DATA)


def optimiser():
    """The step shrinks a hundredfold."""
    return ClippedAdam({"lr": 0.2, "lrd": 0.01 ** (1 / NUM_STEPS)})


def train(guide, elbo):
    svi = SVI(conjugate, guide, optimiser(), loss=elbo)
    for _ in range(NUM_STEPS):
        svi.step()


@pytest.mark.parametrize(
    "elbo", [ReparameterizedELBO(64), ScoreFunctionELBO(LeaveOneOut(), 64)], ids=repr
)
@pytest.mark.parametrize("build", [AutoNormal, AutoMultivariateNormal])
def test_conjugate_posterior(elbo, build):
    guide = build(conjugate)
    train(guide, elbo)
    low, median, high = guide.quantiles([0.1586553, 0.5, 0.8413447])["z"]
    assert median.item() == pytest.approx(POSTERIOR_MEAN, abs=0.05)
    assert (high - low).item() / 2 == pytest.approx(POSTERIOR_SCALE, abs=0.05)


def expectation_maximisation(data, mean):
    """Fixed point of EM for the components N(0, 1) and N(mean, 1) with equal weights."""
    for _ in range(1000):
        odds = torch.sigmoid(data * mean - mean**2 / 2)
        mean = (odds * data).sum() / odds.sum()
    return mean, odds


def test_discrete_posterior_and_model_parameter():
    data = torch.tensor([0.1, -0.6, 1.9, 2.6])

    def model():
        mean = pyro.param("mean", torch.tensor(1.0))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(mean * z, 1.0), obs=data)

    def guide():
        odds = pyro.param("odds", 0.5 * torch.ones(4), constraint=constraints.unit_interval)
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Bernoulli(odds))

    svi = SVI(model, guide, optimiser(), loss=ScoreFunctionELBO(LeaveOneOut(), 64))
    for _ in range(NUM_STEPS):
        svi.step()
    mean, odds = expectation_maximisation(data, torch.tensor(1.0))
    store = pyro.get_param_store()
    torch.testing.assert_close(store["mean"].detach(), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(store["odds"].detach(), odds, atol=0.05, rtol=0)
