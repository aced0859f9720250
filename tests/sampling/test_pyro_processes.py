"""Chains of ``pyro.infer.MCMC`` in processes: the draws of one process, or a named error."""

from __future__ import annotations

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC

from pyro_ebm.core.checks import ModelError
from pyro_ebm.diagnostics import to_arviz
from pyro_ebm.energies import QuarticEnergy
from pyro_ebm.kernels import MALA, UnderdampedLangevin
from pyro_ebm.potentials import EnergyPotential, ModelPotential
from pyro_ebm.sampling import as_pyro_kernel
from pyro_ebm.sampling.pyro_processes import LostKernel, pack, unpack

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.usefixtures("_many_cores"),
]

DATA = torch.tensor([1.0, 2.0, 0.5])
SEED = 7


@pytest.fixture
def _many_cores(monkeypatch):
    """Pyro runs chains one after another where it sees too few cores."""
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 64)


def conjugate(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.5), obs=y)


def constrained(y):
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    pyro.sample("y", dist.Normal(0.0, scale).expand([len(y)]).to_event(1), obs=y)


def with_parameter():
    loc = pyro.param("loc", torch.tensor(0.0))
    pyro.sample("z", dist.Normal(loc, 1.0))


def summed_out(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(loc + k, 1.0), obs=y)


def steep(x):
    return 50.0 * x.square().sum(-1)


TARGETS = {
    "model": (conjugate, (DATA,)),
    "constrained": (constrained, (DATA,)),
    "energy": (QuarticEnergy(2), ()),
    "potential": (ModelPotential(summed_out, DATA), ()),
    "energy_potential": (EnergyPotential(steep, 2), ()),
}


def run(kernel, *args, num_samples=10, **options):
    mcmc = MCMC(kernel, num_samples, warmup_steps=20, disable_progbar=True, **options)
    mcmc.run(*args)
    return mcmc


def assert_same_as_in_one_process(kernel, args, mp_context):
    """Pyro seeds chain ``c`` with ``seed + c``, so every draw and statistic is known."""
    pyro.set_rng_seed(SEED)
    mcmc = run(as_pyro_kernel(kernel), *args, num_chains=2, mp_context=mp_context)
    draws = mcmc.get_samples(group_by_chain=True)
    data = to_arviz(mcmc, log_likelihood=False)
    for chain in range(2):
        pyro.set_rng_seed(SEED + chain)
        alone = run(as_pyro_kernel(kernel), *args)
        for name, values in alone.get_samples().items():
            torch.testing.assert_close(draws[name][chain], values, rtol=1e-14, atol=0.0)
        stats = to_arviz(alone, log_likelihood=False)["sample_stats"]
        assert set(stats.data_vars) == set(data["sample_stats"].data_vars) > {"lp", "diverging"}
        for name, values in stats.data_vars.items():
            assert (data["sample_stats"][name][chain] == values[0]).all()
    first = next(iter(draws.values()))
    assert not torch.isclose(first[0], first[1]).all(dim=-1).any()


@pytest.mark.parametrize("name", TARGETS)
def test_forked_chains_are_those_of_one_process(name):
    target, args = TARGETS[name]
    assert_same_as_in_one_process(MALA(target), args, "fork")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "energy", "potential"])
def test_spawned_chains_are_those_of_one_process(name):
    target, args = TARGETS[name]
    assert_same_as_in_one_process(UnderdampedLangevin(target), args, "spawn")


def assert_starts(kernel, starts, mp_context):
    """Pyro's own kernels all begin where the last chain should."""
    options = {"num_chains": 3, "mp_context": mp_context, "initial_params": {"loc": starts}}
    mcmc = run(kernel, DATA, **options)
    draws = mcmc.get_samples(group_by_chain=True)["loc"]
    torch.testing.assert_close(draws[:, 0], starts, atol=1e-3, rtol=0.0)
    assert to_arviz(mcmc, warmup=True)["warmup_posterior"]["loc"].shape == (3, 20)


def test_forked_chains_begin_at_initial_params():
    kernel = as_pyro_kernel(MALA(conjugate, step_size=1e-6), save_warmup=True)
    assert_starts(kernel, torch.tensor([1.0, 5.0, -2.0]), "fork")
    assert_starts(kernel, torch.tensor([4.0, 3.0]).repeat(2)[:3], "fork")
    assert_starts(kernel, torch.tensor(2.0).expand(3), "fork")


@pytest.mark.slow
def test_spawned_chains_begin_at_initial_params():
    kernel = as_pyro_kernel(MALA(conjugate, step_size=1e-6), save_warmup=True)
    assert_starts(kernel, torch.tensor([1.0, 5.0, -2.0]), "spawn")


def counting_threads(x):
    return 0.5 * x.square().sum(-1) + torch.get_num_threads()


def test_forked_chains_take_one_thread():
    """A second one can hang after a fork, where the main process has used several."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        kernel = as_pyro_kernel(MALA(EnergyPotential(counting_threads, 1)))
        mcmc = run(kernel, num_chains=2, mp_context="fork")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(num_threads)
    for chain, draws in zip(
        mcmc._diagnostics, mcmc.get_samples(group_by_chain=True)["x"], strict=True
    ):
        lp = torch.from_numpy(chain["record"].stats["lp"])
        torch.testing.assert_close(-lp - 0.5 * draws.square().sum(-1), torch.ones(10))


def test_what_does_not_pickle_is_named_before_a_process_starts():
    scale = torch.tensor(2.0)

    def closure(y):
        pyro.sample("loc", dist.Normal(0.0, scale))
        del y

    for target in (closure, lambda y: conjugate(y + scale)):
        with pytest.raises(ModelError, match=r"closure|<lambda>") as raised:
            run(as_pyro_kernel(MALA(target)), DATA, num_chains=2, mp_context="spawn")
        assert "top level of a module" in str(raised.value)
        assert 'mp_context="fork"' in str(raised.value)
        assert raised.value.__cause__ is None
    mcmc = run(as_pyro_kernel(MALA(closure)), DATA, num_chains=2, mp_context="fork")
    assert mcmc.get_samples()["loc"].shape == (20,)


def test_what_does_not_unpickle_says_so_when_set_up():
    _, (content, name) = pack(as_pyro_kernel(MALA(conjugate)))
    kernel = unpack(content.replace(b"conjugate", b"elsewhere"), name)
    assert isinstance(kernel, LostKernel)
    for use in (lambda: kernel.setup(0), lambda: kernel.sample({})):
        with pytest.raises(ModelError, match=r"conjugate.*AttributeError.*top level of a module"):
            use()


@pytest.mark.slow
def test_what_does_not_unpickle_ends_the_run(monkeypatch):
    """As a function under ``if __name__ == "__main__"``, or of a notebook."""

    def late(y):
        conjugate(y)

    late.__qualname__ = "late"
    monkeypatch.setattr(sys.modules[__name__], "late", late, raising=False)
    with pytest.raises(ModelError, match=r"late.*AttributeError"):
        run(as_pyro_kernel(MALA(late)), DATA, num_chains=2, mp_context="spawn")


def test_parameters_come_along():
    kernel = as_pyro_kernel(MALA(with_parameter))
    pyro.param("loc", torch.tensor(100.0))
    _, arguments = pack(kernel)
    pyro.clear_param_store()
    copy = unpack(*arguments)
    assert pyro.param("loc").item() == 100.0
    copy.setup(5)
    assert repr(copy) == repr(kernel)


@pytest.mark.slow
def test_spawned_chains_have_the_parameters():
    pyro.param("loc", torch.tensor(100.0))
    mcmc = run(as_pyro_kernel(MALA(with_parameter)), num_chains=2, mp_context="spawn")
    assert (mcmc.get_samples()["z"] - 100.0).abs().max() < 10.0
