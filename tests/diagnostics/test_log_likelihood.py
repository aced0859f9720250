import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_ebm.core.checks import ModelError
from pyro_ebm.diagnostics import inference_data, model_sites, to_arviz
from pyro_ebm.diagnostics.container import group
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA
from pyro_ebm.potentials import ProximalPotential, as_potential
from pyro_ebm.sampling import MCMC
from pyro_ebm.sampling.summary import HAS_DATATREE
from tests.diagnostics.schools import (
    COUNTS,
    ERRORS,
    GRID,
    MASK,
    SCALE,
    Y,
    scaled_and_masked,
    schools,
)


def run(target, num_samples=8, num_chains=2):
    mcmc = MCMC(MALA(target), num_samples, 8, num_chains=num_chains, disable_progbar=True)
    mcmc.run()
    return mcmc


def left_out(target, **options):
    data = to_arviz(run(target), **options)
    assert group(data, "log_likelihood") is None
    return data.attrs.get("log_likelihood_left_out")


def test_plates_against_the_formula():
    mcmc = run(schools)
    theta = mcmc.get_samples(group_by_chain=True)["theta"]
    truth = -0.5 * ((Y - theta) / ERRORS).square() - ERRORS.log() - 0.5 * np.log(2 * np.pi)
    values = group(to_arviz(mcmc), "log_likelihood").y
    np.testing.assert_allclose(values, truth.numpy())


def test_scale_mask_and_events_against_the_formula():
    mcmc = run(scaled_and_masked)
    loc = mcmc.get_samples(group_by_chain=True)["loc"]
    grid = loc[:, :, None, None, :]
    cells = (-0.5 * ((GRID - grid) / 3).square() - np.log(3) - 0.5 * np.log(2 * np.pi)).sum(-1)
    rate = loc.sum(-1, keepdim=True)
    counts = COUNTS * rate - rate.exp() - torch.lgamma(COUNTS + 1.0)
    total = -0.5 * (0.5 - loc[..., 0]).square() - 0.5 * np.log(2 * np.pi)
    values = group(to_arviz(mcmc), "log_likelihood")
    assert values["x"].dims == ("chain", "draw", "row", "column")
    assert values["count"].dims == ("chain", "draw", "column")
    assert values["total"].dims == ("chain", "draw")
    np.testing.assert_allclose(values["x"], (SCALE * cells * MASK).numpy())
    np.testing.assert_allclose(values["count"], counts.numpy())
    np.testing.assert_allclose(values["total"], total.numpy())
    observed = group(to_arviz(mcmc), "observed_data")
    assert observed["x"].dims == ("row", "column", "x_dim_2")
    assert observed["count"].dtype == np.int64


def test_chunks_change_nothing(monkeypatch):
    mcmc = run(scaled_and_masked)
    whole = group(to_arviz(mcmc), "log_likelihood")
    monkeypatch.setattr("pyro_ebm.potentials.model._CHUNK_NUMBERS", 40)
    for name, values in group(to_arviz(mcmc), "log_likelihood").data_vars.items():
        np.testing.assert_allclose(values, whole[name])


def test_only_small_groups_come_unasked(monkeypatch):
    monkeypatch.setattr(inference_data, "_MOST_NUMBERS", 2 * 8 * 4 - 1)
    assert "log_likelihood=True" in left_out(schools)
    assert group(to_arviz(run(schools), log_likelihood=True), "log_likelihood") is not None


def test_none_if_it_is_not_wanted():
    assert left_out(schools, log_likelihood=False) is None


class Unnormalised(dist.TorchDistribution):
    """A density known up to a constant, as energies are."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real
    is_normalized = False

    def __init__(self, loc):
        self.loc = loc
        super().__init__(loc.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Unnormalised(self.loc.expand(batch_shape))

    def sample(self, sample_shape=()):
        return self.loc.expand(torch.Size(sample_shape) + self.loc.shape)

    def log_prob(self, x):
        return -((x - self.loc) ** 2)


def wrapped_in_event(z):
    pyro.sample("y", Unnormalised(z.expand(3)).to_event(1), obs=torch.zeros(3))


def in_a_plate(z):
    with pyro.plate("data", 3):
        pyro.sample("y", Unnormalised(z), obs=torch.zeros(3))


def masked(z):
    with pyro.plate("data", 3):
        pyro.sample(
            "y", Unnormalised(z).mask(torch.tensor([True, False, True])), obs=torch.zeros(3)
        )


@pytest.mark.parametrize("observe", [wrapped_in_event, in_a_plate, masked])
def test_unnormalised_likelihoods_are_left_out(observe):
    def model():
        observe(pyro.sample("z", dist.Normal(0.0, 1.0)))

    assert "['y'] is not normalised" in left_out(model)


def test_an_unnormalised_prior_leaves_the_likelihood_alone():
    def model():
        z = pyro.sample("z", Unnormalised(torch.tensor(0.0)))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    assert group(to_arviz(run(model)), "log_likelihood") is not None


def test_a_posterior_plus_a_term_has_none():
    target = as_potential(schools) + ProximalPotential(torch.zeros(6), scale=1.0)
    assert "plus another term" in left_out(target)
    data = to_arviz(run(target))
    assert "spread" in group(data, "posterior")
    assert "y" in group(data, "observed_data")


def test_asking_for_what_cannot_be_warns():
    energy = GaussianEnergy(torch.zeros(2), torch.eye(2))
    with pytest.warns(UserWarning, match="the target is not a Pyro model"):
        left_out(energy, log_likelihood=True)
    with pytest.warns(UserWarning, match="plus another term"):
        left_out(
            as_potential(schools) + ProximalPotential(torch.zeros(6), scale=1.0),
            log_likelihood=True,
        )


def sometimes_observed():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    for name in ("y", "more") if z > 0 else ("y",):
        pyro.sample(name, dist.Normal(z, 0.1), obs=torch.tensor(0.0))


@pytest.mark.filterwarnings("ignore:.*cannot be batched over chains")
def test_sites_that_only_some_draws_observe():
    potential = as_potential(sometimes_observed)
    for positions in ([[[-1.0], [1.0]]], [[[1.0], [-1.0]]]):
        with pytest.raises(ModelError, match=r"\['more'\] are observed in some draws only"):
            model_sites.pointwise_log_likelihood(potential, torch.tensor(positions))


@pytest.mark.filterwarnings("ignore:.*cannot be batched over chains")
def test_a_run_of_a_model_that_observes_sometimes():
    mcmc = run(sometimes_observed, num_samples=100)
    signs = mcmc.get_samples()["z"] > 0
    assert signs.any()
    assert not signs.all()
    data = to_arviz(mcmc)
    assert group(data, "log_likelihood") is None
    assert "observed in some draws only" in data.attrs["log_likelihood_left_out"]
    with pytest.warns(UserWarning, match="left out: the sites"):
        to_arviz(mcmc, log_likelihood=True)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution")
def test_loo_runs_on_a_model_with_plates():
    mcmc = MCMC(MALA(schools), 100, 100, num_chains=8, disable_progbar=True)
    mcmc.run()
    data = to_arviz(mcmc)
    result = az.loo(data, pointwise=True)
    values = np.asarray(group(data, "log_likelihood").y).reshape(-1, 4)
    naive = np.log(np.exp(values).mean(axis=0)).sum()
    assert (result.elpd if HAS_DATATREE else result.elpd_loo) < naive


def test_why_not_of_nothing():
    assert model_sites.why_no_likelihood(None) == "the target is not a Pyro model"
