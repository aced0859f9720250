"""Runs whose calls make several steps and store the draws themselves."""

from __future__ import annotations

import signal

import pytest
import torch

from pyro_ebm.core.checks import ModelError, NonFiniteError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, MCLACHLAN, NUTS, ROTATIONS, AnnealedLangevin, ChEESHMC, Langevin
from pyro_ebm.potentials.noise_conditional import NoiseConditionalPotential
from pyro_ebm.sampling import MCMC
from pyro_ebm.sampling.steps import CompiledSteps
from tests.sampling.runs import PlainEnergy, cut_short, driver

ENERGY = GaussianEnergy(torch.zeros(2), covariance=torch.tensor([[1.0, 0.5], [0.5, 2.0]]))
KERNELS = {
    "MALA": MALA,
    "ChEES": ChEESHMC,
    "ChEES, McLachlan": lambda target: ChEESHMC(
        target, integrator=MCLACHLAN, target_accept_prob=0.9
    ),
    "ChEES, rotations": lambda target: ChEESHMC(target, integrator=ROTATIONS),
    "NUTS": lambda target: NUTS(target, max_tree_depth=5),
    "NUTS, dense rotations": lambda target: NUTS(
        target, max_tree_depth=5, integrator=ROTATIONS, full_mass=True
    ),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)

pytestmark = pytest.mark.usefixtures("interpreted")


def _driver(kernel, num_samples=13, **settings):
    torch.manual_seed(0)
    return driver(kernel, num_samples, 40, num_chains=8, **({"compile": True} | settings))


def _run(kernel, *args, **settings):
    mcmc = _driver(kernel, *args, **settings)
    mcmc.run()
    return mcmc


def _assert_same_draws(one, other, **tolerance):
    torch.testing.assert_close(one.positions, other.positions, **tolerance)
    assert one.stats.keys() == other.stats.keys()
    for name, values in one.stats.items():
        torch.testing.assert_close(values, other.stats[name], **tolerance)


@pytest.mark.usefixtures("either_noise")
@every_kernel
@pytest.mark.parametrize("settings", [{}, {"thinning": 3}, {"num_samples": 1}], ids=str)
def test_draws_and_statistics_are_those_of_single_steps(kernel, settings):
    eager = _run(kernel(ENERGY), compile=False, **settings)
    compiled = _run(kernel(ENERGY), **settings)
    assert compiled.kernel.step_size == pytest.approx(eager.kernel.step_size, rel=1e-6)
    _assert_same_draws(eager.chains, compiled.chains, rtol=1e-6, atol=1e-6)


@every_kernel
def test_a_hook_sees_every_step(kernel):
    calls = []
    mcmc = _run(kernel(ENERGY), hook_fn=lambda *call: calls.append(call[2:]))
    _assert_same_draws(mcmc.chains, _run(kernel(ENERGY)).chains)
    sampling = [step for stage, step in calls if stage == "Sample"]
    assert sampling == list(range(len(sampling)))
    assert len(sampling) >= 13


class PressedAt:
    """Ctrl-C in the ``left``-th of the calls that a compiled run makes."""

    def __init__(self, left, monkeypatch):
        self.left = left
        compile_ = CompiledSteps._compile

        def watching(steps, *args):
            compile_(steps, *args)
            graph = steps._graph
            steps._graph = lambda *tensors: self.count(graph, tensors)

        monkeypatch.setattr(CompiledSteps, "_compile", watching)

    def count(self, graph, tensors):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return graph(*tensors)


@pytest.mark.usefixtures("either_noise")
@every_kernel
@pytest.mark.parametrize("before_end", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_interrupted_and_continued_is_uninterrupted(kernel, before_end, tmp_path, monkeypatch):
    count = PressedAt(0, monkeypatch)
    whole = _run(kernel(ENERGY), 40)
    count.left = -count.left - before_end
    mcmc, path = _driver(kernel(ENERGY), 40), tmp_path / "run.pt"
    error, _ = cut_short(mcmc)
    assert count.left == 0  # no call was begun after it
    assert error is None  # some draws were kept
    mcmc.save(path)
    again = MCMC.load(path, kernel(ENERGY), disable_progbar=True)
    again.run()
    _assert_same_draws(whole.chains, again.chains, rtol=0, atol=0)
    assert again.kernel.step_size == whole.kernel.step_size


@pytest.mark.parametrize("kernel", [ChEESHMC, KERNELS["ChEES, rotations"]])
def test_what_is_tuned_compiles_nothing_anew(monkeypatch, kernel):
    takes = []
    compile_ = CompiledSteps._compile
    monkeypatch.setattr(
        CompiledSteps, "_compile", lambda *args: takes.append(args[1]) or compile_(*args)
    )
    mcmc = _run(kernel(ENERGY))
    assert mcmc.kernel.trajectory_length is not None
    assert all(moment is not None for moment in mcmc.kernel.moments.values())
    assert len(takes) == 2  # single steps in warm-up, several in a call afterwards


def test_an_energy_of_many_noise_levels_is_refused():
    potential = NoiseConditionalPotential(
        lambda x, level: x.square().sum(-1) / (2 * (1 + level**2)), 0.1, event_shape=(2,)
    )
    kernel = AnnealedLangevin(potential, step_size=0.01, noise_levels=(1.0, 0.1))
    with pytest.raises(ModelError, match="without compile=True"):
        driver(kernel, 3, 0, num_chains=4, compile=True).run()


def test_chains_that_leave_are_named():
    mcmc = driver(
        Langevin(PlainEnergy(lambda x: -x.square().sum(-1), 2), step_size=0.5),
        500,
        0,
        num_chains=8,
        compile=True,
    )
    error, warned = cut_short(mcmc)
    assert isinstance(error, NonFiniteError)
    assert "left for infinity" in str(error)
    assert "cut short: kept" in warned[0]
