import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError, StepSizeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import HMC, MALA, NUTS, Langevin, UnderdampedLangevin
from pyro_ebm.potentials import EnergyPotential, ProximalPotential, as_potential
from pyro_ebm.sampling import as_pyro_kernel
from tests.statistics import Rejected, assert_chain_means
from tests.targets import gaussian_target

pytestmark = pytest.mark.filterwarnings("ignore:num_chains=.* is more than available_cpu")

DATA = torch.tensor([1.0, 2.0, 0.5, 3.0])


def conjugate(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def posterior_moments():
    precision = 1 / 4 + len(DATA) / 2.25
    return (DATA.sum() / 2.25 / precision).item(), 1 / precision


def constrained_model():
    pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.sample("shares", dist.Dirichlet(torch.ones(3)))


def run(kernel, *args, num_samples=30, **kwargs):
    mcmc = MCMC(kernel, num_samples, disable_progbar=True, **kwargs)
    mcmc.run(*args)
    return mcmc


def records(mcmc):
    return [chain["record"] for chain in mcmc._diagnostics]


def centred_moments(kernel, **options):
    """The draws and their squares about the true mean, and what these should be."""
    mean, variance = posterior_moments()
    mcmc = run(as_pyro_kernel(kernel), num_chains=16, **options)
    draws = mcmc.get_samples(group_by_chain=True)["mu"] - mean
    return torch.stack([draws, draws.square()], dim=-1), torch.tensor([0.0, variance])


def test_mala_reproduces_the_closed_form_posterior():
    kernel = MALA(as_potential(conjugate, DATA))
    assert_chain_means(*centred_moments(kernel, num_samples=50, warmup_steps=40))


def test_the_check_rejects_the_bias_of_unadjusted_steps():
    scale = torch.tensor([posterior_moments()[1]]).sqrt()
    kernel = Langevin(as_potential(conjugate, DATA), step_size=1.7, scale=scale)
    moments, truth = centred_moments(kernel, num_samples=60, warmup_steps=0)
    with pytest.raises(Rejected):
        assert_chain_means(moments[:, 5:], truth)


def test_draws_are_constrained():
    samples = run(as_pyro_kernel(MALA(constrained_model))).get_samples()
    assert (samples["scale"] > 0).all()
    torch.testing.assert_close(samples["shares"].sum(-1), torch.ones(30))
    assert samples["shares"].shape == (30, 3)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "target",
    [constrained_model, EnergyPotential(lambda x: x.sum(-1), 1, dist.constraints.positive)],
)
def test_draws_are_constrained_in_processes_too(target, monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 8)
    options = {"num_samples": 5, "num_chains": 2, "mp_context": "fork"}
    samples = run(as_pyro_kernel(MALA(target)), **options).get_samples(group_by_chain=True)
    first = next(iter(samples.values()))
    assert first.shape[:2] == (2, 5)
    assert (first > 0).all()


@pytest.mark.parametrize("kernel", [MALA, Langevin, UnderdampedLangevin])
@pytest.mark.parametrize("num_chains", [1, 2])
def test_every_kernel_runs_and_pyro_can_summarise(kernel, num_chains, capsys):
    energy = GaussianEnergy(torch.zeros(2), torch.eye(2))
    mcmc = run(as_pyro_kernel(kernel(energy)), num_chains=num_chains)
    assert mcmc.get_samples(group_by_chain=True)["x"].shape == (num_chains, 30, 2)
    mcmc.summary()
    assert "Number of divergences" in capsys.readouterr().out
    diagnostics = mcmc.diagnostics()
    assert set(diagnostics["acceptance rate"]) == {f"chain {c}" for c in range(num_chains)}
    assert all(isinstance(d, list) for d in diagnostics["divergences"].values())


def test_sum_of_potentials_and_several_sites():
    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("z", dist.Normal(loc, torch.ones(3)).to_event(1))

    target = as_potential(model) + ProximalPotential(torch.zeros(4), scale=1.0)
    samples = run(as_pyro_kernel(MALA(target))).get_samples()
    assert {name: value.shape for name, value in samples.items()} == {"loc": (30,), "z": (30, 3)}


def test_step_size_is_tuned_in_warmup_and_frozen_after():
    kernel = as_pyro_kernel(MALA(conjugate), save_warmup=True)
    for record in records(run(kernel, DATA, num_chains=2, warmup_steps=60)):
        assert len(set(record.warmup_stats["step_size"])) > 20
        assert len(set(record.stats["step_size"])) == 1
        assert record.stats["lp"].shape == (30,)
        assert record.warmup_params["mu"].shape == (60,)


def test_given_step_size_is_kept_without_warmup():
    mcmc = run(as_pyro_kernel(MALA(conjugate, step_size=0.25)), DATA, warmup_steps=0)
    assert set(records(mcmc)[0].stats["step_size"]) == {0.25}


def test_lp_and_divergences_belong_to_the_draws():
    kernel = as_pyro_kernel(MALA(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), step_size=80.0))
    mcmc = run(kernel, warmup_steps=0)
    record = records(mcmc)[0]
    potential = as_potential(kernel.model)
    position = potential.unconstrain(mcmc.get_samples())
    torch.testing.assert_close(torch.from_numpy(record.stats["lp"]), -potential(position))
    assert (
        mcmc.diagnostics()["divergences"]["chain 0"]
        == record.stats["diverging"].nonzero()[0].tolist()
    )
    assert record.stats["diverging"].any()


def test_each_chain_starts_afresh():
    kernel = as_pyro_kernel(MALA(conjugate, step_size=1e-6))
    draws = run(kernel, DATA, warmup_steps=0, num_chains=3).get_samples(group_by_chain=True)["mu"]
    assert draws.std(dim=1).max() < 1e-4
    assert draws[:, 0].unique().numel() == 3
    assert draws[:, 0].std() > 1e-3


@pytest.mark.parametrize("num_chains", [1, 3])
def test_chains_start_at_initial_params(num_chains):
    starts = torch.arange(1.0, 1.0 + num_chains)
    options = {"initial_params": {"mu": starts if num_chains > 1 else starts[0]}}
    kernel = as_pyro_kernel(MALA(conjugate, step_size=1e-6))
    mcmc = run(kernel, DATA, warmup_steps=0, num_chains=num_chains, **options)
    draws = mcmc.get_samples(group_by_chain=True)["mu"]
    torch.testing.assert_close(draws[:, 0], starts, atol=1e-4, rtol=0.0)


def test_same_seed_same_draws():
    draws = []
    for _ in range(2):
        pyro.set_rng_seed(3)
        draws.append(run(as_pyro_kernel(MALA(conjugate)), DATA).get_samples()["mu"])
    assert torch.equal(*draws)


def test_a_second_run_takes_the_new_arguments():
    kernel = as_pyro_kernel(MALA(conjugate))
    first = run(kernel, DATA, num_samples=100).get_samples()["mu"].mean()
    second = run(kernel, DATA + 50.0, num_samples=100).get_samples()["mu"].mean()
    assert second > first + 20.0


def test_kernel_goes_on_from_the_values_it_is_handed():
    kernel = as_pyro_kernel(MALA(conjugate, step_size=1e-6))
    kernel.setup(0, DATA)
    kernel.sample(kernel.initial_params)
    moved = kernel.sample({"mu": torch.tensor(50.0)})
    assert moved["mu"].item() == pytest.approx(50.0, abs=1e-3)


def test_logging_is_json_and_cleanup_may_come_twice():
    kernel = as_pyro_kernel(MALA(conjugate))
    kernel.setup(2, DATA)
    kernel.sample(kernel.initial_params)
    assert set(json.loads(json.dumps(kernel.logging()))) == {"step size", "acc. prob"}
    kernel.cleanup()
    kernel.cleanup()
    kernel.setup(2, DATA)
    kernel.sample(kernel.initial_params)


def test_hooks_see_both_phases():
    seen = []
    run(
        as_pyro_kernel(MALA(conjugate)),
        DATA,
        num_samples=2,
        warmup_steps=3,
        hook_fn=lambda kernel, params, stage, i: seen.append((stage, i, params["mu"].shape)),
    )
    stages = [(stage, i) for stage, i, _ in seen]
    assert stages == [("Warmup", 0), ("Warmup", 1), ("Warmup", 2), ("Sample", 0), ("Sample", 1)]


def test_bad_starts_are_named():
    nan = {"mu": torch.tensor(float("nan"))}
    with pytest.raises(NonFiniteError, match="not finite"):
        run(as_pyro_kernel(MALA(conjugate)), DATA, initial_params=nan)
    with pytest.raises(ShapeError, match="one leading axis of num_chains"):
        run(as_pyro_kernel(MALA(conjugate)), DATA, initial_params={"mu": torch.zeros(2)})


def test_bad_kernels_are_named():
    with pytest.raises(ModelError, match="recipe without a target"):
        as_pyro_kernel(MALA())
    with pytest.raises(StepSizeError, match="no step size"):
        run(as_pyro_kernel(MALA(conjugate)), DATA, warmup_steps=0)


def test_support_that_depends_on_a_latent_value_is_refused():
    def model():
        a = pyro.sample("a", dist.Uniform(1.0, 2.0))
        pyro.sample("b", dist.Uniform(0.0, a))

    with pytest.raises(ModelError, match="support"):
        run(as_pyro_kernel(MALA(model)))


@pytest.mark.parametrize("kernel", [HMC, NUTS])
def test_kernels_of_which_a_step_is_no_draw(kernel):
    """One call of Pyro's is one draw, in warm-up too; the trajectories are tuned."""
    target = gaussian_target()
    bridge = as_pyro_kernel(kernel(target.energy), save_warmup=True)
    mcmc = run(bridge, num_samples=300, warmup_steps=200)
    record = mcmc.diagnostics()["record"]["chain 0"]
    assert len(record.stats["n_steps"]) == 300
    assert len(record.warmup_stats["n_steps"]) == 200
    assert 0.6 < record.stats["acceptance_rate"].mean() < 0.97
    assert record.stats["n_steps"].min() >= 1
    x = mcmc.get_samples()["x"]
    sd = (target.second_moment - target.mean.square()).sqrt()
    assert bool(((x.mean(0) - target.mean).abs() < sd).all())
