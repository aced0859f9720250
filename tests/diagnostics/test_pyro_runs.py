import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, MCMC, NUTS
from pyro.infer.mcmc import RandomWalkKernel
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel

from pyro_ebm.diagnostics import to_arviz
from pyro_ebm.diagnostics.container import group
from pyro_ebm.kernels import MALA, UnderdampedLangevin
from pyro_ebm.potentials import as_potential, as_potential_fn
from pyro_ebm.sampling import RecordingHMC, RecordingNUTS, as_pyro_kernel
from tests.diagnostics.schools import ERRORS, Y, schools
from tests.targets import gaussian_target

pytestmark = pytest.mark.filterwarnings("ignore:num_chains=.* is more than available_cpu")


def run(kernel, *args, num_samples=8, warmup_steps=5, **options):
    mcmc = MCMC(kernel, num_samples, warmup_steps, disable_progbar=True, **options)
    mcmc.run(*args)
    return mcmc


def nuts():
    """Short trees: these tests are about what is kept, not about the draws."""
    return NUTS(schools, max_tree_depth=2)


def names(data, name):
    dataset = group(data, name)
    return None if dataset is None else set(dataset.data_vars)


@pytest.mark.parametrize("num_chains", [1, 2])
def test_nuts_without_records(num_chains):
    mcmc = run(nuts(), Y, ERRORS, num_chains=num_chains)
    data = to_arviz(mcmc)
    posterior, samples = group(data, "posterior"), mcmc.get_samples(group_by_chain=True)
    assert names(data, "posterior") == {"mu", "tau", "theta", "is_good", "spread"}
    assert posterior.theta.dims == ("chain", "draw", "school")
    assert posterior.theta.shape == (num_chains, 8, 4)
    for name, value in samples.items():
        assert np.array_equal(posterior[name], value.numpy())
    np.testing.assert_allclose(posterior.spread, posterior.tau**2)
    assert np.array_equal(posterior.is_good == 1, posterior.theta > 5.0)
    assert names(data, "sample_stats") == {"diverging"}
    assert names(data, "observed_data") == {"y"}
    assert data.attrs["inference_library"] == "pyro"
    assert data.attrs["kernel"] == "NUTS"


def test_likelihood_uses_the_arguments_of_the_run():
    mcmc = MCMC(nuts(), 8, 5, disable_progbar=True)
    mcmc.run(Y + 1.0, errors=2.0 * ERRORS)
    theta = mcmc.get_samples(group_by_chain=True)["theta"]
    truth = dist.Normal(theta, 2.0 * ERRORS).log_prob(Y + 1.0)
    data = to_arviz(mcmc)
    np.testing.assert_allclose(group(data, "log_likelihood").y, truth.numpy())
    assert np.array_equal(group(data, "observed_data").y, (Y + 1.0).numpy())


@pytest.mark.parametrize(
    ("kernel", "extra"),
    [
        (RecordingNUTS(schools, max_tree_depth=3, save_warmup=True), {"tree_depth"}),
        (RecordingHMC(schools, step_size=0.5, num_steps=2, save_warmup=True), {"n_steps"}),
    ],
)
def test_recorded_statistics(kernel, extra):
    mcmc = run(kernel, num_chains=2)
    data = to_arviz(mcmc, warmup=True)
    assert {"lp", "energy", "acceptance_rate", "step_size", "diverging"} | extra <= names(
        data, "sample_stats"
    )
    stats = group(data, "sample_stats")
    assert all(stats[name].shape == (2, 8) for name in stats.data_vars)
    potential = as_potential(schools)
    position = potential.unconstrain(mcmc.get_samples(group_by_chain=True))
    np.testing.assert_allclose(stats.lp, -potential(position).numpy())
    assert names(data, "warmup_posterior") == names(data, "posterior")
    warmup = group(data, "warmup_posterior")
    assert warmup.theta.shape == (2, 5, 4)
    assert (warmup.tau > 0).all()
    np.testing.assert_allclose(warmup.spread, warmup.tau**2)


def test_our_kernel_in_pyros_driver():
    mcmc = run(as_pyro_kernel(UnderdampedLangevin(schools), save_warmup=True), num_chains=2)
    data = to_arviz(mcmc, warmup=True)
    assert names(data, "posterior") == {"mu", "tau", "theta", "is_good", "spread"}
    assert names(data, "sample_stats") == {
        "lp",
        "energy",
        "acceptance_rate",
        "step_size",
        "diverging",
    }
    assert group(data, "warmup_posterior").theta.dims == ("chain", "draw", "school")
    assert group(data, "log_likelihood").y.shape == (2, 8, 4)
    assert data.attrs["inference_library"] == "pyro_ebm"
    assert data.attrs["kernel"].startswith("UnderdampedLangevin(")
    last = group(data, "sample_stats").step_size.values[:, -1]
    assert np.array_equal(np.broadcast_to(data.attrs["step_size"], (2,)), last)


def test_nuts_on_one_of_our_targets():
    start = as_potential_fn(schools, 2)
    options = {"transforms": start.transforms, "max_tree_depth": 2}
    kernel = NUTS(potential_fn=start.potential_fn, **options)
    data = to_arviz(run(kernel, initial_params=start.initial_params, num_chains=2))
    assert {"spread", "is_good"} < names(data, "posterior")
    assert names(data, "observed_data") == {"y"}


def test_nuts_on_an_energy_or_a_bare_function():
    start = as_potential_fn(gaussian_target().energy, 1)
    kernel = RecordingNUTS(potential_fn=start.potential_fn)
    data = to_arviz(run(kernel, initial_params=start.initial_params))
    assert names(data, "posterior") == {"x"}
    assert names(data, "observed_data") is None
    bare = RecordingNUTS(potential_fn=lambda p: p["x"].square().sum() / 2)
    data = to_arviz(run(bare, initial_params={"x": torch.zeros(2)}))
    assert names(data, "posterior") == {"x"}


class Scripted(MCMCKernel):
    """Twelve chains whose divergences are known: ``c`` of them in chain ``c``."""

    model, transforms = None, {}
    chain = -1

    def setup(self, warmup_steps, *args, **kwargs):
        self.chain += 1

    initial_params = property(lambda self: {"x": torch.zeros(2)}, lambda self, params: None)

    def sample(self, params):
        return {"x": torch.full((2,), float(self.chain))}

    def diagnostics(self):
        return {"divergences": list(range(self.chain))}


def test_divergences_of_twelve_chains_stay_with_their_chains():
    data = to_arviz(run(Scripted(), num_samples=15, warmup_steps=0, num_chains=12))
    assert group(data, "posterior").x.values[:, 0, 0].tolist() == list(range(12))
    diverging = group(data, "sample_stats").diverging
    assert diverging.dtype == np.bool_
    assert diverging.sum("draw").values.tolist() == list(range(12))
    assert diverging.values[11].nonzero()[0].tolist() == list(range(11))


def test_kernels_that_note_no_divergences():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    data = to_arviz(run(RandomWalkKernel(model)))
    assert names(data, "sample_stats") is None
    assert names(data, "posterior") == {"z"}


def test_models_that_only_pyro_can_run_keep_their_draws():
    def mixture(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("y", dist.Normal(loc + k, 1.0), obs=y)

    mcmc = run(NUTS(mixture, jit_compile=False), Y, num_samples=4, warmup_steps=0)
    data = to_arviz(mcmc)
    assert names(data, "posterior") == {"loc"}
    assert names(data, "log_likelihood") is None
    assert "'k'" in data.attrs["model_sites_left_out"]
    assert data.attrs["log_likelihood_left_out"] == data.attrs["model_sites_left_out"]
    with pytest.warns(UserWarning, match="discrete"):
        to_arviz(mcmc, log_likelihood=True)


def test_draws_that_pyro_transforms_wrongly_are_said_to_be_wrong():
    def model():
        a = pyro.sample("a", dist.Uniform(1.0, 2.0))
        pyro.sample("b", dist.Uniform(0.0, a))

    mcmc = run(HMC(model, step_size=0.1, num_steps=2), num_samples=4)
    with pytest.warns(UserWarning, match="Pyro's draws of this model are wrong"):
        data = to_arviz(mcmc)
    assert names(data, "posterior") == {"a", "b"}


def test_a_subset_of_the_sites():
    mcmc = run(nuts(), save_params=["mu", "tau"])
    data = to_arviz(mcmc)
    assert names(data, "posterior") == {"mu", "tau"}
    assert "missing ['theta']" in data.attrs["model_sites_left_out"]


def test_fewer_than_four_draws_and_none():
    assert group(to_arviz(run(nuts(), num_samples=2)), "posterior").sizes["draw"] == 2
    with pytest.raises(RuntimeError, match="no draws yet"):
        to_arviz(MCMC(nuts(), 10))
    with pytest.raises(ValueError, match="save_warmup=True"):
        to_arviz(run(RecordingNUTS(schools, max_tree_depth=2), num_samples=2), warmup=True)


# A site that is constant in a chain has no R-hat, and ArviZ divides by zero on the way.
@pytest.mark.filterwarnings("ignore::RuntimeWarning:arviz")
def test_summary_of_pyros_mcmc():
    table = az.summary(to_arviz(run(as_pyro_kernel(MALA(schools)), num_chains=2)))
    assert {"mu", "tau", "theta[0]", "spread"} <= set(table.index)
