"""The driver: Pyro's surface, reproducibility, types, and what it runs inside of."""

from __future__ import annotations

import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.autoguide import init_to_sample

from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, NUTS, UnderdampedLangevin
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.potentials.model import ModelPotential
from tests.sampling.runs import (
    KERNELS,
    STANDARD,
    PlainEnergy,
    cut_short,
    driver,
    regression,
    regression_data,
    run,
)

SITES = {"scale": (), "weights": (2,), "effect": (6,), "ratio": (2,), "mean": (6,)}


def fitted(num_samples=12, num_chains=3, kernel=MALA, **settings):
    mcmc = driver(kernel(regression), num_samples, 20, num_chains=num_chains, **settings)
    mcmc.run(*regression_data())
    return mcmc


def two_sites():
    """A model that is traced quickly."""
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.sample("z", dist.Normal(0.0, scale))


def assert_same_draws(first, second):
    for name, values in first.get_samples(group_by_chain=True).items():
        assert torch.equal(values, second.get_samples(group_by_chain=True)[name])


def test_samples_have_the_sites_and_shapes():
    mcmc = fitted()
    grouped, flat = mcmc.get_samples(group_by_chain=True), mcmc.get_samples()
    assert {name: tuple(v.shape) for name, v in grouped.items()} == {
        name: (3, 12, *shape) for name, shape in SITES.items()
    }
    for name, values in flat.items():
        assert torch.equal(values, grouped[name].reshape(36, *SITES[name]))
    assert bool((flat["scale"] > 0).all())


def test_samples_drawn_again_are_draws():
    mcmc = fitted()
    flat, grouped = mcmc.get_samples(50), mcmc.get_samples(50, group_by_chain=True)
    assert flat["weights"].shape == (50, 2)
    assert grouped["weights"].shape == (3, 50, 2)
    rows = (flat["mean"].unsqueeze(1) == mcmc.get_samples()["mean"]).all(-1)
    assert bool(rows.any(dim=1).all())
    index = rows.double().argmax(dim=1)
    assert len(index.unique()) > 10
    for name, values in mcmc.get_samples().items():
        assert torch.equal(flat[name], values[index])
    own = mcmc.get_samples(group_by_chain=True)["mean"]
    for chain in range(3):
        found = (grouped["mean"][chain].unsqueeze(1) == own[chain]).all(-1)
        assert bool(found.any(dim=1).all())


def test_deterministic_sites_are_those_of_their_draw():
    samples = fitted().get_samples(group_by_chain=True)
    x, _ = regression_data()
    ratio = samples["weights"] / samples["scale"].unsqueeze(-1)
    torch.testing.assert_close(samples["ratio"], ratio, rtol=1e-13, atol=0)
    mean = samples["weights"] @ x.T + samples["effect"]
    torch.testing.assert_close(samples["mean"], mean, rtol=1e-12, atol=1e-13)


def test_statistics_of_draws():
    mcmc = fitted()
    stats = mcmc.chains.stats
    assert set(stats) == {"lp", "acceptance_rate", "step_size", "diverging"}
    assert all(values.shape == (3, 12) for values in stats.values())
    potential = ModelPotential(regression, *regression_data())
    torch.testing.assert_close(stats["lp"], -potential(mcmc.chains.positions))
    assert set(fitted(kernel=UnderdampedLangevin).chains.stats) == {*stats, "energy"}


def test_predictive_takes_the_samples():
    mcmc = fitted()
    x, _ = regression_data()
    predictions = Predictive(regression, mcmc.get_samples())(x)
    assert set(predictions) == {"y"}
    assert ((predictions["y"] - mcmc.get_samples()["mean"]).abs() < 0.5 * 7).all()


def test_predictive_at_other_arguments_takes_the_latent_samples():
    """It holds whatever it is given, so deterministic sites of the old arguments must stay out."""
    samples = fitted().get_samples()
    latent = {name: samples[name] for name in ("scale", "weights")}
    predictions = Predictive(regression, latent)(torch.full((2, 2), 100.0))
    mean = 100 * samples["weights"].sum(-1, keepdim=True)
    torch.testing.assert_close(predictions["mean"], mean + predictions["effect"])


def test_keyword_arguments_go_to_the_model():
    x, y = regression_data()
    mcmc = driver(MALA(regression, step_size=0.1), 3, 0)
    mcmc.run(x, y=y, width=0.001)
    assert mcmc.get_samples()["scale"].max() < 10
    truth = ModelPotential(regression, x, y, width=0.001)
    torch.testing.assert_close(mcmc.chains.stats["lp"], -truth(mcmc.chains.positions))


def test_summary_prints_arviz_columns(capsys):
    mcmc = fitted()
    mcmc.summary(prob=0.8)
    table, last = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    header, *rows = table.splitlines()
    assert {"mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"} <= set(header.split())
    assert len(header.split()) == 9
    names = [row.split()[0] for row in rows]
    assert names[0] in {"scale", "weights[0]", "effect[0]"}
    assert len(names) == 1 + 2 + 6 + 2 + 6
    assert last == f"Number of divergences: {int(mcmc.chains.stats['diverging'].sum())}"


def test_diagnostics_have_pyros_keys():
    diagnostics = fitted().diagnostics()
    chains = {"chain 0", "chain 1", "chain 2"}
    assert set(diagnostics) == {*SITES, "divergences", "acceptance rate"}
    assert set(diagnostics["divergences"]) == set(diagnostics["acceptance rate"]) == chains
    assert diagnostics["weights"]["r_hat"].shape == (2,)
    assert diagnostics["scale"]["n_eff"].shape == ()
    assert all(0 < rate <= 1 for rate in diagnostics["acceptance rate"].values())


def test_diagnostics_list_the_divergent_draws():
    box = PlainEnergy(lambda x: torch.where(x.abs() < 1, 0.5 * x.square(), torch.inf))
    mcmc = run(MALA(box), 40, num_chains=2)
    expected = {
        f"chain {c}": [i for i in range(40) if mcmc.chains.stats["diverging"][c, i]] for c in (0, 1)
    }
    assert mcmc.diagnostics()["divergences"] == expected
    assert any(expected.values())


@pytest.mark.parametrize("kernel", KERNELS)
def test_pyros_seed_reproduces_a_run(kernel):
    runs = []
    for seed in (1, 1, 2):
        pyro.set_rng_seed(seed)
        runs.append(run(kernel(STANDARD), num_chains=3))
    assert_same_draws(runs[0], runs[1])
    assert not torch.equal(runs[0].chains.positions, runs[2].chains.positions)


def test_one_number_of_the_global_generator_is_taken():
    torch.manual_seed(3)
    torch.randint(2**63 - 1, ())
    expected = torch.rand(4)
    torch.manual_seed(3)
    fitted()
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("init_strategy", [None, init_to_sample])
def test_with_a_generator_the_global_one_is_untouched(kernel, init_strategy):
    before, runs = torch.get_rng_state(), []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        target = STANDARD if init_strategy is None else two_sites
        settings = {"init_strategy": init_strategy, "generator": generator, "num_chains": 3}
        runs.append(run(kernel(target), **settings))
    again = [mcmc.get_samples(7) for mcmc in runs]
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_draws(*runs)
    assert all(torch.equal(values, again[1][name]) for name, values in again[0].items())


def test_second_run_tunes_anew_and_replaces_the_draws():
    """The second data set is a thousand times wider."""

    def model(width):
        pyro.sample("x", dist.Normal(0.0, width))

    mcmc = driver(MALA(model), 20, 150, num_chains=64)
    found = []
    for width in (1e-3, 1.0):
        mcmc.run(width)
        found.append(mcmc.kernel.step_size * float(mcmc.kernel.scale))
        assert 0.5 < mcmc.get_samples()["x"].std() / width < 1.5
    assert 300 < found[1] / found[0] < 3_000


def test_second_run_with_the_same_seed_is_the_first():
    mcmc, draws = driver(MALA(STANDARD), num_chains=4), []
    for _ in range(2):
        pyro.set_rng_seed(0)
        mcmc.run()
        draws.append(mcmc.get_samples()["x"])
    assert torch.equal(*draws)


def test_a_failed_second_run_leaves_no_old_draws():
    mcmc = run(MALA(STANDARD))
    mcmc.initial_params = {"x": torch.full((1,), torch.nan)}
    error, _ = cut_short(mcmc)
    assert error is not None
    with pytest.raises(RuntimeError, match="no draws yet"):
        mcmc.get_samples()


def test_warm_up_is_saved_when_asked():
    mcmc = run(MALA(STANDARD), 5, 30, num_chains=2, save_warmup=True)
    assert mcmc.warmup_chains.positions.shape == (2, 30, 1)
    assert mcmc.warmup_chains.stats["step_size"].unique().numel() > 5
    assert run(MALA(STANDARD)).warmup_chains is None


def test_hook_sees_every_step_in_unconstrained_space():
    calls = []
    mcmc = fitted(
        thinning=2,
        hook_fn=lambda kernel, params, stage, i: calls.append((stage, i, params)),
    )
    assert [call[:2] for call in calls] == [
        *(("Warmup", i) for i in range(20)),
        *(("Sample", i) for i in range(24)),
    ]
    assert {name: tuple(v.shape) for name, v in calls[0][2].items()} == {
        "scale": (3,),
        "weights": (3, 2),
        "effect": (3, 6),
    }
    kept = torch.stack([params["scale"] for _, _, params in calls[21::2]], dim=1)
    torch.testing.assert_close(mcmc.get_samples(group_by_chain=True)["scale"], kept.exp())


@pytest.mark.parametrize(
    ("kernel", "num_chains", "length"),
    [(MALA, 1, 5000), (MALA, 64, 250), (NUTS, 1, 1000), (NUTS, 16, 125), (NUTS, 64, 50)],
)
def test_warm_up_is_the_shorter_the_more_chains_learn_together(kernel, num_chains, length):
    assert driver(kernel(STANDARD), 7, None, num_chains=num_chains).warmup_steps == length


def test_repr_says_what_it_is():
    mcmc = driver(MALA(STANDARD, step_size=0.5), 6, 0, num_chains=2)
    assert repr(mcmc).endswith("num_samples=6, warmup_steps=0, num_chains=2, drawn=0)")
    mcmc.run()
    assert repr(mcmc).startswith("MCMC(MALA(target=")
    assert repr(mcmc).endswith("drawn=6)")


def test_draws_before_a_run_are_a_named_error():
    mcmc = driver(MALA(STANDARD))
    for call in (mcmc.get_samples, mcmc.summary, mcmc.diagnostics):
        with pytest.raises(RuntimeError, match=r"no draws yet: call run\(...\) first"):
            call()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_type_is_that_of_the_target(kernel, dtype):
    energy = GaussianEnergy.standard((2, 3)).to(dtype)
    draws = run(kernel(energy), num_chains=2).get_samples()["x"]
    assert draws.dtype == dtype
    assert draws.shape == (20, 2, 3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision_runs(kernel):
    energy = GaussianEnergy.standard((3,)).to(torch.bfloat16)
    mcmc = run(kernel(energy), 40, 40, num_chains=8)
    assert mcmc.get_samples()["x"].dtype == torch.bfloat16
    assert mcmc.chains.stats["acceptance_rate"].mean() > 0.3
    assert mcmc.diagnostics()["x"]["n_eff"].shape == (3,)


def test_sites_of_different_types_come_back_as_they_were():
    def model():
        a = pyro.sample("a", dist.Normal(torch.zeros(2, dtype=torch.float32), 1.0).to_event(1))
        b = pyro.sample("b", dist.HalfNormal(torch.ones(3, dtype=torch.float64)).to_event(1))
        pyro.deterministic("is_large", b.sum() > 2)
        pyro.factor("bound", -a.square().sum() * b.sum())

    mcmc = driver(MALA(model), 10, 20, num_chains=2)
    mcmc.run()
    types = {name: value.dtype for name, value in mcmc.get_samples().items()}
    assert types == {"a": torch.float32, "b": torch.float64, "is_large": torch.bool}


def test_one_sample_of_one_chain():
    mcmc = run(MALA(STANDARD), 1, 1)
    assert mcmc.get_samples()["x"].shape == (1,)
    assert mcmc.get_samples(group_by_chain=True)["x"].shape == (1, 1)


def test_four_thousand_chains():
    mcmc = run(MALA(GaussianEnergy.standard((3,))), 5, 30, num_chains=4_096)
    assert mcmc.get_samples(group_by_chain=True)["x"].shape == (4_096, 5, 3)


def test_image_shaped_bare_function():
    potential = EnergyPotential(lambda x: x.square().sum((-3, -2, -1)), (2, 4, 4), name="image")
    assert run(MALA(potential), num_chains=2).get_samples()["image"].shape == (20, 2, 4, 4)


def test_a_chain_at_the_edge_of_a_region_of_nan_stays_out_of_it():
    half = PlainEnergy(lambda x: torch.where(x > 0.5, torch.nan, 0.5 * x.square()))
    mcmc = run(MALA(half), 100, 50, num_chains=16)
    assert mcmc.chains.positions.max() <= 0.5
    assert bool(mcmc.chains.stats["diverging"].any())
    assert bool(torch.isfinite(mcmc.chains.stats["lp"]).all())


def handlers():
    return {
        "trace": poutine.trace(),
        "seed": poutine.seed(rng_seed=1),
        "plate": pyro.plate("outer", 4, dim=-3),
        "condition": poutine.condition(data={"scale": torch.tensor(5.0)}),
        "mask": poutine.mask(mask=torch.tensor(False)),
        "block": poutine.block(),
        "no_grad": torch.no_grad(),
        "enable_grad": torch.enable_grad(),
    }


@pytest.mark.parametrize("target", [STANDARD, two_sites], ids=["energy", "model"])
def test_run_is_the_same_whatever_it_runs_inside(target):
    def draws():
        return run(MALA(target), generator=torch.Generator().manual_seed(0)).chains.positions

    expected = draws()
    for name, handler in handlers().items():
        with handler:
            found = draws()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, msg=name)


def test_run_in_a_thread():
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    expected = run(MALA(STANDARD), generator=generators[0]).chains.positions
    found = []
    thread = threading.Thread(
        target=lambda: found.append(run(MALA(STANDARD), generator=generators[1]).chains.positions)
    )
    thread.start()
    thread.join()
    assert torch.equal(found[0], expected)


def test_parameters_of_the_store_are_followed():
    def model():
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("x", dist.Normal(loc, 0.01))

    mcmc = driver(MALA(model), 20, 100, num_chains=8)
    mcmc.run()
    assert mcmc.get_samples()["x"].mean().abs() < 0.1
    pyro.get_param_store()["loc"] = torch.tensor(7.0)
    mcmc.run()
    assert (mcmc.get_samples()["x"].mean() - 7).abs() < 0.1


def test_predictive_on_new_arguments_takes_latent_sites_only():
    """Pyro conditions on whatever it is given, deterministic values at the old arguments too."""

    def line(x, y=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
        mean = pyro.deterministic("mean", slope * x)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.1), obs=y)

    x = torch.linspace(-1.0, 1.0, 5)
    mcmc = driver(MALA(line), 100, 100, num_chains=8)
    mcmc.run(x, 3.0 * x)
    latent = mcmc.get_samples(deterministic=False)
    assert set(latent) == {"slope"}
    assert set(mcmc.get_samples()) == {"slope", "mean"}
    predicted = Predictive(line, latent)(torch.tensor([10.0]))["y"]
    assert (predicted.mean() - 30.0).abs() < 1.0
