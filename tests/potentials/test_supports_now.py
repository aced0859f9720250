"""Supports are those of the moment, and models may be odd."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import init_to_median, init_to_value

from pyro_ebm import MALA, MCMC, ModelPotential
from pyro_ebm.core.checks import ModelError


def bounded():
    high = pyro.param("high", torch.tensor(3.0), constraint=constraints.positive)
    pyro.sample("a", dist.Uniform(0.0, high))


@pytest.fixture(autouse=True)
def _own_parameters():
    with pyro.get_param_store().scope():
        yield


def widened(high=10.0):
    pyro.get_param_store()["high"] = torch.tensor(high)


def test_draws_follow_a_parameter_of_the_support():
    potential, middle = ModelPotential(bounded), torch.zeros(1, 1)
    assert potential.constrain(middle)["a"].item() == pytest.approx(1.5)
    widened()
    assert potential.constrain(middle)["a"].item() == pytest.approx(5.0)
    assert potential.transforms()["a"](middle[0]).item() == pytest.approx(5.0)
    there_and_back = potential.constrain(potential.unconstrain({"a": torch.tensor([5.0])}))
    assert there_and_back["a"].item() == pytest.approx(5.0)


def test_draws_of_a_run_are_those_of_its_parameters():
    potential = ModelPotential(bounded)
    widened()
    mcmc = MCMC(MALA(potential), 50, 50, num_chains=8, disable_progbar=True)
    mcmc.run()
    widened(1e-3)
    draws = mcmc.get_samples()["a"]
    assert draws.min() > 0.0
    assert 3.0 < draws.max() < 10.0


def regression(x):
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(level + x @ slopes, 1.0).to_event(1), obs=torch.zeros(len(x)))


@pytest.mark.parametrize("strategy", [None, init_to_median])
def test_a_site_may_have_no_numbers(strategy):
    kernel = MALA(regression)
    mcmc = MCMC(kernel, 5, 5, num_chains=3, disable_progbar=True, init_strategy=strategy)
    mcmc.run(torch.zeros(5, 0))
    assert mcmc.get_samples()["slopes"].shape == (15, 0)


def test_all_sites_without_numbers_are_refused():
    def model():
        pyro.sample("slopes", dist.Normal(torch.zeros(0), 1.0).to_event(1))

    with pytest.raises(ModelError, match="all of size zero"):
        ModelPotential(model)


def test_starts_from_parameters_carry_no_graph():
    loc = torch.nn.Parameter(torch.zeros(()))

    def model():
        pyro.sample("loc", dist.Normal(0.0, 1.0))

    strategy = init_to_value(values={"loc": loc})
    mcmc = MCMC(MALA(model), 5, 5, num_chains=3, disable_progbar=True, init_strategy=strategy)
    mcmc.run()
    assert not mcmc.chains.positions.requires_grad


def test_a_law_may_be_infeasible_at_the_first_point():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("z", dist.Normal(0.0, 1.0 + 0.9 * a))

    for seed in range(20):
        pyro.set_rng_seed(seed)
        assert ModelPotential(model).dim == 2


@pytest.mark.parametrize("kind", [dist.LogNormal, lambda *args: dist.Normal(*args).to_event(1)])
def test_its_type_is_known_all_the_same(kind):
    def model():
        a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=torch.float32), 1.0))
        pyro.sample("z", kind(torch.zeros(3, dtype=torch.float32), 1.0 + 0.9 * a))

    for seed in range(20):
        pyro.set_rng_seed(seed)
        assert ModelPotential(model).dtype == torch.float32


def test_a_model_may_be_impossible_at_zero():
    def model(y):
        matrix = pyro.sample("matrix", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
        mean = torch.linalg.solve(matrix, torch.ones(2))
        pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)

    mcmc = MCMC(MALA(model), 5, 5, num_chains=3, disable_progbar=True)
    mcmc.run(torch.zeros(2))
    assert mcmc.get_samples()["matrix"].shape == (15, 2, 2)


def test_imputation_by_hand_may_be_scaled():
    def model(y):
        law = dist.Normal(pyro.sample("loc", dist.Normal(0.0, 1.0)), 1.0)
        with poutine.scale(scale=2.0):
            pyro.sample("y_observed", law, obs=y)
            pyro.sample("y_unobserved", law)

    value = ModelPotential(model, torch.zeros(()))(torch.zeros(1, 2))
    assert value.item() == pytest.approx(5 * 0.9189385332)


def test_plates_need_not_tell_their_size():
    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", dim=-1):
            pyro.sample("y", dist.Normal(loc, 1.0).expand([3]), obs=torch.zeros(3))

    assert ModelPotential(model)(torch.zeros(1, 1)).item() == pytest.approx(4 * 0.9189385332)
