import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, MCMC, NUTS

from pyro_ebm.potentials import as_potential, as_potential_fn
from pyro_ebm.sampling import RecordingHMC, RecordingNUTS
from tests.targets import gaussian_target

NUTS_STATISTICS = {
    "lp",
    "energy",
    "acceptance_rate",
    "step_size",
    "n_steps",
    "tree_depth",
    "reached_max_treedepth",
    "diverging",
}
HMC_STATISTICS = NUTS_STATISTICS - {"tree_depth", "reached_max_treedepth"}


def model():
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("data", 3):
        pyro.sample("y", dist.Normal(0.0, scale), obs=torch.tensor([0.3, -1.0, 2.0]))


class Bowl:
    """Standard normal in ``dim`` coordinates as Pyro's potential; counts its calls."""

    def __init__(self, width=1.0):
        self.width, self.calls = width, 0

    def __call__(self, params):
        self.calls += 1
        return (params["x"] / self.width).square().sum() / 2


class SpyHMC(RecordingHMC):
    """Notes position and momentum at the start of each trajectory."""

    def sample(self, params):
        self.momenta = []
        self.starts = [*getattr(self, "starts", []), params["x"].clone()]
        moved = super().sample(params)
        self.first = [*getattr(self, "first", []), self.momenta[0]]
        self.calls = [*getattr(self, "calls", []), self.potential_fn.calls]
        return moved

    def _sample_r(self, name):
        r, unscaled = super()._sample_r(name)
        if hasattr(self, "momenta"):
            self.momenta.append(unscaled[("x",)].clone())
        return r, unscaled


class SpyNUTS(RecordingNUTS, SpyHMC):
    """The same for NUTS."""


def run(kernel, num_samples=20, warmup_steps=10, **kwargs):
    mcmc = MCMC(kernel, num_samples, warmup_steps, disable_progbar=True, **kwargs)
    mcmc.run()
    return mcmc


def record(mcmc, chain=0):
    return mcmc.diagnostics()["record"][f"chain {chain}"]


@pytest.mark.parametrize(
    ("plain", "recording", "names"),
    [(NUTS, RecordingNUTS, NUTS_STATISTICS), (HMC, RecordingHMC, HMC_STATISTICS)],
)
def test_draws_are_pyros_own_and_statistics_are_complete(plain, recording, names):
    options = {"step_size": 0.3} | ({"num_steps": 3} if plain is HMC else {})
    pyro.set_rng_seed(1)
    expected = run(plain(model, **options)).get_samples()["scale"]
    pyro.set_rng_seed(1)
    mcmc = run(recording(model, **options))
    assert torch.equal(mcmc.get_samples()["scale"], expected)
    stats = record(mcmc).stats
    assert set(stats) == names
    assert all(value.shape == (20,) for value in stats.values())
    assert stats["diverging"].dtype == bool
    assert stats["n_steps"].dtype == np.int64


def test_lp_is_the_log_density_of_the_draw():
    mcmc = run(RecordingNUTS(model))
    potential = as_potential(model)
    position = potential.unconstrain(mcmc.get_samples())
    torch.testing.assert_close(torch.from_numpy(record(mcmc).stats["lp"]), -potential(position))


@pytest.mark.parametrize("spy", [SpyHMC, SpyNUTS])
def test_energies_equal_recomputed_ones(spy):
    kernel = spy(potential_fn=Bowl(), step_size=0.4)
    mcmc = run(kernel, initial_params={"x": torch.tensor([1.0, -0.5])})
    starts, momenta = torch.stack(kernel.starts[10:]), torch.stack(kernel.first[10:])
    energy = (starts.square() + momenta.square()).sum(dim=-1) / 2
    torch.testing.assert_close(torch.from_numpy(record(mcmc).stats["energy"]), energy)


def test_acceptance_of_hmc_equals_the_recomputed_one():
    kernel = SpyHMC(
        potential_fn=Bowl(),
        step_size=1.3,
        num_steps=1,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    )
    mcmc = run(kernel, warmup_steps=3, initial_params={"x": torch.tensor([1.0, -0.5])})
    x, r = torch.stack(kernel.starts[3:]), torch.stack(kernel.first[3:])
    half = r - 0.65 * x
    new = x + 1.3 * half
    last = half - 0.65 * new
    error = (new.square() + last.square() - x.square() - r.square()).sum(dim=-1) / 2
    stats = record(mcmc).stats
    truth = (-error).exp().clamp(max=1.0)
    torch.testing.assert_close(torch.from_numpy(stats["acceptance_rate"]), truth)
    assert stats["n_steps"].tolist() == [1] * 20
    assert stats["step_size"].tolist() == [1.3] * 20


def test_nuts_counts_its_leapfrog_steps():
    kernel = SpyNUTS(potential_fn=Bowl(), step_size=0.4, adapt_step_size=False)
    mcmc = run(kernel, warmup_steps=0, initial_params={"x": torch.zeros(2)})
    stats = record(mcmc).stats
    assert stats["n_steps"][1:].tolist() == np.diff(kernel.calls).tolist()
    assert (stats["n_steps"] >= 2 ** stats["tree_depth"] - 1).all()
    assert (stats["n_steps"] <= 2 ** (stats["tree_depth"] + 1) - 1).all()
    assert ((stats["acceptance_rate"] > 0) & (stats["acceptance_rate"] <= 1)).all()


def test_nuts_that_reaches_its_largest_tree_says_so():
    options = {"step_size": 1e-3, "adapt_step_size": False, "max_tree_depth": 2}
    kernel = RecordingNUTS(potential_fn=Bowl(), **options)
    stats = record(run(kernel, initial_params={"x": torch.ones(2)})).stats
    assert stats["tree_depth"].tolist() == [2] * 20
    assert stats["n_steps"].tolist() == [3] * 20
    assert stats["reached_max_treedepth"].all()


@pytest.mark.parametrize("recording", [RecordingHMC, RecordingNUTS])
def test_divergences_are_those_that_pyro_counts(recording):
    options = {"step_size": 1.9, "adapt_step_size": False, "adapt_mass_matrix": False}
    kernel = recording(potential_fn=lambda p: p["x"].pow(4).sum(), **options)
    mcmc = run(kernel, 50, initial_params={"x": torch.ones(2)})
    indices = mcmc.diagnostics()["divergences"]["chain 0"]
    assert indices
    assert np.flatnonzero(record(mcmc).stats["diverging"]).tolist() == indices


def test_warmup_is_kept_apart_on_request():
    mcmc = run(RecordingNUTS(model, save_warmup=True))
    kept = record(mcmc)
    assert set(kept.warmup_stats) == NUTS_STATISTICS
    assert kept.warmup_params["scale"].shape == (10,)
    potential = as_potential(model)
    lp = -potential(torch.from_numpy(kept.warmup_params["scale"]).unsqueeze(-1))
    torch.testing.assert_close(torch.from_numpy(kept.warmup_stats["lp"]), lp)
    assert len(set(kept.warmup_stats["step_size"])) > 1
    assert len(set(kept.stats["step_size"])) == 1
    assert record(run(RecordingNUTS(model))).warmup_stats is None


def test_hmc_says_nothing_of_divergences_in_warmup():
    kept = record(run(RecordingHMC(model, step_size=0.3, num_steps=3, save_warmup=True)))
    assert set(kept.warmup_stats) == HMC_STATISTICS - {"diverging"}


@pytest.mark.filterwarnings("ignore:num_chains=2 is more than available_cpu")
def test_chains_one_after_another_have_a_record_each(capsys):
    mcmc = run(RecordingNUTS(model), num_chains=2)
    assert record(mcmc, 0).stats["lp"].shape == record(mcmc, 1).stats["lp"].shape == (20,)
    assert not np.array_equal(record(mcmc, 0).stats["lp"], record(mcmc, 1).stats["lp"])
    mcmc.summary()
    assert "Number of divergences" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_records_cross_processes(monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 8)
    target = as_potential_fn(gaussian_target().energy, num_chains=2)
    kernel = RecordingNUTS(potential_fn=target.potential_fn)
    options = {"initial_params": target.initial_params, "mp_context": "fork"}
    mcmc = run(kernel, 10, 5, num_chains=2, **options)
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    for chain in (0, 1):
        lp = torch.from_numpy(record(mcmc, chain).stats["lp"])
        torch.testing.assert_close(lp, -gaussian_target().energy(draws[chain]))


def test_model_without_latent_sites():
    def nothing():
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    stats = MCMC(RecordingNUTS(nothing), 3, 0, disable_progbar=True)
    stats.run()
    lp = stats._diagnostics[0]["record"].stats["lp"]
    assert lp == pytest.approx([-0.5 - 0.5 * math.log(2 * math.pi)] * 3)
