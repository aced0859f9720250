import dataclasses

import arviz as az
import numpy as np
import pyro
import pytest
import torch
from pyro.ops.stats import split_gelman_rubin
from scipy import stats

from pyro_ebm.core.checks import ShapeError
from pyro_ebm.diagnostics import mixing_report, to_arviz
from pyro_ebm.diagnostics.container import as_dataset, container, group
from pyro_ebm.energies import GaussianEnergy, MixtureEnergy
from pyro_ebm.kernels import MALA, UnderdampedLangevin
from pyro_ebm.sampling import MCMC
from tests.diagnostics.schools import schools
from tests.statistics import TEST_FAILURE_RATE


def failed(report):
    return {check.name for check in report.checks if not check.passed}


def with_stats(draws, **statistics):
    posterior = as_dataset({"z": draws.numpy()}, {}, {})
    stats_group = as_dataset({k: v.numpy() for k, v in statistics.items()}, {}, {})
    return container({"posterior": posterior, "sample_stats": stats_group}, {})


def run(target, kernel, num_samples, num_chains, **options):
    mcmc = MCMC(kernel, num_samples, num_chains=num_chains, disable_progbar=True, **options)
    mcmc.run()
    return mcmc


def test_independent_draws_pass_with_the_values_of_arviz():
    draws = torch.randn(4, 1000, 3)
    report = mixing_report({"z": draws})
    assert report.passed
    assert (report.num_chains, report.num_draws) == (4, 1000)
    data = as_dataset({"z": draws.numpy()}, {}, {})
    assert report["R-hat"].value == az.rhat(data).z.values.max()
    assert report["bulk ESS"].value == az.ess(data, method="bulk").z.values.min()
    assert report["tail ESS"].value == az.ess(data, method="tail").z.values.min()
    relative = az.mcse(data).z.values / draws.reshape(-1, 3).numpy().std(axis=0)
    assert report["MCSE / sd"].value == pytest.approx(relative.max())


def test_false_alarms_are_rarer_than_declared():
    """On independent draws; two failures among 30 reports would contradict the rate."""
    failures = sum(not mixing_report({"z": torch.randn(4, 1000)}).passed for _ in range(30))
    assert stats.binom(30, TEST_FAILURE_RATE).sf(failures - 1) > TEST_FAILURE_RATE


def test_many_short_chains_pass():
    assert mixing_report({"z": torch.randn(512, 20, 2)}).passed


def test_unmixed_chains():
    draws = torch.randn(4, 1000)
    draws[0] += 1.0
    report = mixing_report({"z": draws})
    assert failed(report) >= {"R-hat"}
    assert not report["stuck chains"].value


def test_scales_that_pyros_r_hat_does_not_see():
    """One of four Cauchy chains is ten times wider: the split R-hat of Pyro is 1.00."""
    draws = torch.from_numpy(stats.cauchy.rvs(size=(4, 1000), random_state=0))
    draws[0] *= 10.0
    assert split_gelman_rubin(draws, chain_dim=0, sample_dim=1) < 1.01
    report = mixing_report({"z": draws})
    assert "R-hat" in failed(report)
    assert report["R-hat"].value > 1.1
    assert report.stuck_chains == ()


def test_a_chain_that_accepts_nothing_is_stuck():
    draws = torch.randn(4, 500, 2)
    draws[2] = draws[2, 0]
    draws[2, 250:] += 0.1
    report = mixing_report({"z": draws})
    assert "stuck chains" in failed(report)
    assert report.stuck_chains == (2,)
    assert "chain 2 moves in 0.2% of its draws" in report["stuck chains"].explanation


@pytest.mark.parametrize("num_chains", [4, 64])
@pytest.mark.parametrize("centre", [0.0, 8.0])
def test_a_chain_in_a_narrow_mode_is_stuck(num_chains, centre):
    draws = torch.randn(num_chains, 500, 2)
    draws[1, :, 1] = centre + 0.01 * draws[1, :, 1]
    report = mixing_report({"z": draws})
    assert report.stuck_chains == (1,)
    assert "chain 1 spreads over 0.0" in report["stuck chains"].explanation


def test_chains_that_all_sit_in_modes_of_their_own_are_stuck():
    draws = torch.arange(8.0).unsqueeze(-1) + 0.01 * torch.randn(8, 500)
    assert mixing_report({"z": draws}).stuck_chains == tuple(range(8))


def test_a_chain_that_starts_in_a_narrow_mode_accepts_nothing():
    weights, locs = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 30.0])
    energy = MixtureEnergy(weights, locs, torch.tensor([2.0, 0.002]))
    kernel = MALA(energy, step_size=2.0, scale=torch.ones(1))
    starts = {"x": torch.tensor([0.0, 0.5, -0.5, 30.0])}
    mcmc = run(energy, kernel, 300, 4, warmup_steps=0, initial_params=starts)
    assert mixing_report(mcmc).stuck_chains == (3,)


def test_divergences_and_their_chain():
    diverging = torch.zeros(4, 1000, dtype=torch.bool)
    diverging[3, :5] = True
    data = with_stats(torch.randn(4, 1000), diverging=diverging)
    report = mixing_report(data)
    assert failed(report) == {"divergences"}
    assert report["divergences"].value == 5
    assert "chain 3 (5)" in report["divergences"].explanation
    assert mixing_report(data, divergences=5).passed


def test_low_e_bfmi():
    energy = torch.randn(4, 1000)
    energy[1] = 0.2 * torch.randn(1000).cumsum(0)
    report = mixing_report(with_stats(torch.randn(4, 1000), energy=energy))
    assert failed(report) == {"E-BFMI"}
    expected = energy[1].diff().square().mean() / energy[1].var(correction=0)
    assert report["E-BFMI"].value == pytest.approx(expected.item(), rel=0.01)
    assert "chain 1" in report["E-BFMI"].explanation


def test_kept_momentum_is_judged_by_the_ess_of_the_energy():
    energy = GaussianEnergy(torch.zeros(2), torch.eye(2))
    kernel = UnderdampedLangevin(energy, step_size=0.1, scale=torch.ones(2))
    long = mixing_report(run(energy, kernel, 300, 64, warmup_steps=50))
    assert long["E-BFMI"].value < 0.3
    assert long["E-BFMI"].passed


def test_kept_momentum_is_no_excuse_for_energies_that_are_not_explored():
    data = with_stats(torch.randn(4, 1000), energy=torch.randn(4, 1000).cumsum(dim=1))
    group(data, "sample_stats").energy.attrs["keeps_momentum"] = 1
    report = mixing_report(data)
    assert failed(report) == {"E-BFMI"}
    assert "ESS of the energy is too small" in report["E-BFMI"].explanation


def test_too_few_effective_draws():
    draws = torch.randn(4, 1000)
    for t in range(1, 1000):
        draws[:, t] = 0.95 * draws[:, t - 1] + 0.31 * draws[:, t]
    assert failed(mixing_report({"z": draws})) >= {"bulk ESS", "MCSE / sd"}


def test_thresholds_are_arguments():
    draws = {"z": torch.randn(4, 1000)}
    for name, option in {
        "R-hat": {"r_hat": 0.9},
        "bulk ESS": {"ess": 1e6},
        "MCSE / sd": {"mcse": 1e-3},
        "stuck chains": {"spread": 5.0, "moves": 1.1},
    }.items():
        report = mixing_report(draws, **option)
        assert name in failed(report)


def test_constant_parameters_are_named_and_left_out():
    cholesky = torch.eye(2).expand(4, 1000, 2, 2).clone()
    cholesky[..., 1, 0] = torch.randn(4, 1000)
    report = mixing_report({"L": cholesky, "z": torch.randn(4, 1000)})
    assert report.passed
    assert report.constant_parameters == ("L[0, 0]", "L[0, 1]", "L[1, 1]")
    assert "L[0, 0], L[0, 1], L[1, 1]" in str(report)


def test_chains_that_are_constant_apart_fail():
    draws = torch.arange(4.0).unsqueeze(-1).expand(4, 100)
    report = mixing_report({"z": draws})
    assert failed(report) >= {"R-hat", "stuck chains"}
    assert report["R-hat"].value > 1e6
    assert mixing_report({"z": torch.zeros(4, 100)}).stuck_chains == (0, 1, 2, 3)


def test_values_that_are_not_finite_fail_and_hide_nothing_else():
    draws = torch.randn(4, 1000, 2)
    draws[1, 3, 0] = torch.nan
    report = mixing_report({"z": draws})
    assert failed(report) == {"non-finite"}
    assert report["non-finite"].value == 1
    assert "z[0]" in report["non-finite"].explanation


def test_one_chain_is_compared_with_itself():
    report = mixing_report({"z": torch.randn(1, 2000)})
    assert report.passed
    assert "its two halves" in report["R-hat"].explanation
    drift = torch.randn(1, 2000) + torch.linspace(0.0, 2.0, 2000)
    assert "R-hat" in failed(mixing_report({"z": drift}))


def test_runs_and_containers_give_the_same_report():
    mcmc = run(schools, MALA(schools), 50, 8)
    report = mixing_report(mcmc)
    assert report == mixing_report(to_arviz(mcmc))
    assert {check.name for check in report.checks} == {
        "non-finite",
        "R-hat",
        "bulk ESS",
        "tail ESS",
        "MCSE / sd",
        "divergences",
        "stuck chains",
    }


def test_pyros_runs():
    mcmc = pyro.infer.MCMC(pyro.infer.NUTS(schools, max_tree_depth=2), 10, 5, disable_progbar=True)
    mcmc.run()
    assert not mixing_report(mcmc).passed


def test_report_is_readable_and_frozen():
    draws = torch.randn(4, 1000)
    draws[2] = 0.0
    report = mixing_report({"z": draws})
    text = str(report)
    assert text.startswith("Mixing of 4 chains of 1000 draws: ")
    assert text == repr(report)
    assert "FAIL stuck chains" in text
    table = report.to_dataframe()
    assert list(table.columns) == ["value", "threshold", "passed", "explanation"]
    assert list(table.index) == [check.name for check in report.checks]
    assert not table.loc["stuck chains", "passed"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.num_chains = 3
    with pytest.raises(KeyError, match="E-BFMI"):
        report["E-BFMI"]


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="there are 3 draws in each chain"):
        mixing_report({"z": torch.randn(4, 3)})
    mixing_report({"z": torch.randn(4, 4)})


def test_a_container_without_draws_is_refused():
    data = container({"observed_data": as_dataset({"y": np.zeros(3)}, {}, {}, ())}, {})
    with pytest.raises(ShapeError, match="no posterior group"):
        mixing_report(data)


def test_thousands_of_chains_are_quick():
    report = mixing_report({"z": torch.randn(2048, 100, 2)})
    assert report.passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_finite_is_a_report_and_no_crash(value):
    report = mixing_report({"z": np.full((4, 100, 2), value)})
    assert failed(report) == {"non-finite"}
    assert report["non-finite"].value == 800
    assert "z[0], z[1]" in report["non-finite"].explanation


def test_sites_without_values():
    empty = np.zeros((4, 100, 0))
    assert failed(mixing_report({"z": empty})) == {"non-finite"}
    draws = {"z": empty, "x": torch.randn(4, 100)}
    assert {check.name for check in mixing_report(draws).checks} >= {"R-hat", "stuck chains"}


@pytest.mark.parametrize("dtype", [np.complex128, "datetime64[s]"])
def test_what_is_no_real_number_is_refused_by_name(dtype):
    posterior = as_dataset({"amplitude": np.zeros((4, 100), dtype=dtype)}, {}, {})
    with pytest.raises(ShapeError, match="amplitude has dtype"):
        mixing_report(container({"posterior": posterior}, {}))
