import arviz as az
import matplotlib.pyplot as plt
import pyro
import pytest
import torch
from pyro.infer import MCMC as PYRO_MCMC

from pyro_ebm.diagnostics import mixing_report, to_arviz
from pyro_ebm.kernels import MALA, Langevin, UnderdampedLangevin
from pyro_ebm.sampling import MCMC, RecordingHMC, RecordingNUTS, as_pyro_kernel
from tests.diagnostics.schools import schools

pytestmark = [
    pytest.mark.filterwarnings("ignore:num_chains=.* is more than available_cpu"),
    # A site that is constant in a chain has no R-hat, and ArviZ divides by zero on the way.
    pytest.mark.filterwarnings("ignore::RuntimeWarning:arviz"),
    # Runs are so short that a chain may reject every move; the plots say so.
    pytest.mark.filterwarnings("ignore:Your data appears to have a single value"),
    # Warnings of the plotting libraries about each other are not ours to fail on.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]


def ours(kernel):
    mcmc = MCMC(kernel(schools), 20, 20, num_chains=4, disable_progbar=True)
    mcmc.run()
    return mcmc


def pyros(kernel):
    mcmc = PYRO_MCMC(kernel, 12, 8, num_chains=2, disable_progbar=True)
    mcmc.run()
    return mcmc


RESULTS = {
    "MALA": (lambda: ours(MALA), False),
    "Langevin": (lambda: ours(Langevin), False),
    "UnderdampedLangevin": (lambda: ours(UnderdampedLangevin), True),
    "NUTS": (lambda: pyros(pyro.infer.NUTS(schools, max_tree_depth=2)), False),
    "RecordingNUTS": (lambda: pyros(RecordingNUTS(schools, max_tree_depth=2)), True),
    "RecordingHMC": (lambda: pyros(RecordingHMC(schools, step_size=0.5, num_steps=2)), True),
    "as_pyro_kernel": (lambda: pyros(as_pyro_kernel(Langevin(schools))), False),
    "arrays": (lambda: {"theta": torch.randn(4, 20, 4), "mu": torch.randn(4, 20)}, False),
}


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(("result", "has_momentum"), RESULTS.values(), ids=RESULTS)
def test_arviz_takes_every_result(result, has_momentum):
    x = result()
    data = to_arviz(x)
    assert {"mu", "theta[0]"} <= set(az.summary(data).index)
    az.plot_trace(data, var_names=["mu", "theta"])
    az.plot_rank(data, var_names=["mu"])
    if has_momentum:
        az.plot_energy(data)
    report = mixing_report(x)
    assert ("E-BFMI" in [check.name for check in report.checks]) == has_momentum
