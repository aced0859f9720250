"""Simulation-based calibration (Talts et al. 2018): the truth ranks uniformly among the draws.

Parameters are drawn from the prior, data from the model, draws from the posterior; the rank of
the parameter among independent draws is then uniform, whatever the model. All data sets are
sampled as one product of posteriors, and the last draws of independent chains are the draws.
"""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats

from pyro_ebm.kernels import HMC, NUTS, ROTATIONS, ChEESHMC
from pyro_ebm.sampling import MCMC
from tests.statistics import TEST_FAILURE_RATE, Rejected

NUM_COPIES, NUM_CHAINS, NUM_BINS = 300, 63, 8
DESIGN = torch.stack([torch.ones(10), torch.linspace(-2.0, 2.0, 10)], dim=-1)


def location_and_scale(y=None):
    """A Gaussian with both parameters unknown, five numbers each."""
    with pyro.plate("copies", NUM_COPIES):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        law = dist.Normal(loc.unsqueeze(-1), scale.unsqueeze(-1)).expand([NUM_COPIES, 5])
        pyro.sample("y", law.to_event(1), obs=y)


def logistic(y=None):
    """Two coefficients, ten coins."""
    with pyro.plate("copies", NUM_COPIES):
        beta = pyro.sample("beta", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Bernoulli(logits=beta @ DESIGN.mT).to_event(1), obs=y)


def groups(y=None):
    """Three group means, non-centred, with their mean and spread."""
    with pyro.plate("copies", NUM_COPIES):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0)).unsqueeze(-1)
        spread = pyro.sample("spread", dist.HalfNormal(1.0)).unsqueeze(-1)
        unit = pyro.sample("unit", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(mean + spread * unit, 0.7).to_event(1), obs=y)


MODELS = (location_and_scale, logistic, groups)


def assert_calibrated(model, kernel, likelihood_scale=1.0):
    """Check that ranks of all parameters are uniform.

    Args:
        model: With the argument ``y``.
        kernel: Made of a model.
        likelihood_scale: Power of the likelihood in what is sampled.

    Raises:
        Rejected: If they are not.
    """
    truth = poutine.trace(model).get_trace()
    y = truth.nodes["y"]["value"]

    def sampled(y):
        with poutine.scale(scale=likelihood_scale):
            poutine.block(poutine.condition(model, {"y": y}), hide=[])()

    target = model if likelihood_scale == 1.0 else sampled
    mcmc = MCMC(kernel(target), 20, 100, num_chains=NUM_CHAINS, disable_progbar=True)
    mcmc.run(y)
    tests = []
    for name, draws in mcmc.get_samples(group_by_chain=True).items():
        below = draws[:, -1] < truth.nodes[name]["value"]
        ranks = below.sum(dim=0).reshape(NUM_COPIES, -1)
        tests += [(name, _p_value(column)) for column in ranks.unbind(dim=-1)]
    name, smallest = min(tests, key=lambda test: test[1])
    if smallest < TEST_FAILURE_RATE / len(tests):
        raise Rejected(f"ranks of {name} are not uniform: p = {smallest:.2g}")


def _p_value(ranks):
    counts = torch.histc(ranks.double(), NUM_BINS, min=-0.5, max=NUM_CHAINS + 0.5)
    return stats.chisquare(counts.numpy()).pvalue


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [NUTS, HMC, ChEESHMC, partial(NUTS, integrator=ROTATIONS)])
@pytest.mark.parametrize("model", MODELS)
def test_posteriors_are_calibrated(model, kernel):
    assert_calibrated(model, kernel)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_posterior_that_trusts_its_data_too_little_is_caught(model):
    with pytest.raises(Rejected, match="not uniform"):
        assert_calibrated(model, NUTS, likelihood_scale=0.3)
