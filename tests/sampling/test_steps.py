"""Compiled steps: the same draws up to rounding, compiled once."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch.distributions import Distribution

from pyro_ebm.core.positions import WIDE, laid_out
from pyro_ebm.energies import GaussianEnergy, MLPEnergy
from pyro_ebm.kernels import (
    HMC,
    MALA,
    NUTS,
    SGLD,
    AnnealedLangevin,
    ChEESHMC,
    Langevin,
    ReplicaExchange,
    UnderdampedLangevin,
)
from pyro_ebm.potentials import as_potential
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.sampling import MCMC, compiler
from pyro_ebm.sampling.compiler import Compiler
from pyro_ebm.sampling.steps import CompiledSteps, eager_steps
from tests.contracts.kernel_rows import FACTORIES
from tests.sampling.conftest import without_cpp

PRECISION = torch.tensor([[1.0, 0.6, 0.0], [0.6, 2.0, 0.3], [0.0, 0.3, 40.0]])
KERNELS = [
    MALA(step_size=0.3),
    HMC(step_size=0.2),
    NUTS(step_size=0.2),
    NUTS(step_size=0.2, full_mass=True),
    UnderdampedLangevin(step_size=0.2),
]


def _potential():
    return EnergyPotential(GaussianEnergy(torch.zeros(3), precision=PRECISION))


def _wide():
    """Wide enough for chains that lie one after the other."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EnergyPotential(MLPEnergy(WIDE, hidden=(8,)))


def _walks(kernel, potential, num_steps):
    """States of both ways to step, from the same start with the same noise."""
    generator = torch.Generator().manual_seed(0)
    start = kernel.init(potential, laid_out(torch.randn(6, potential.dim)), generator)
    noises = [kernel.noise(start, generator) for _ in range(num_steps)]
    for step in (eager_steps(potential), CompiledSteps(potential, Compiler())):
        state, reports = start, []
        for noise in noises:
            state, info = step(kernel, state, noise)
            reports.append(info)
        yield state, reports


@pytest.mark.usefixtures("either_noise")
@pytest.mark.parametrize("potential", [_potential, _wide], ids=["innermost", "rows"])
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_graphs_make_the_same_steps(kernel, potential, interpreted):
    del interpreted
    (state, reports), (other, others) = _walks(kernel, potential(), 60)
    strides = laid_out(state.position).stride()
    assert state.position.stride() == other.position.stride() == strides
    torch.testing.assert_close(state.position, other.position)
    for one, two in zip(reports, others, strict=True):
        assert type(one) is type(two)
        for field, twin in zip(one, two, strict=True):
            torch.testing.assert_close(field, twin)


@pytest.mark.usefixtures("either_noise")
@pytest.mark.parametrize("cls", [SGLD, ChEESHMC, ReplicaExchange])
def test_graphs_of_the_other_kernels(cls, interpreted):
    del interpreted
    potential = EnergyPotential(GaussianEnergy.standard((6,)))
    for factory in FACTORIES[cls].values():
        (state, _), (other, _) = _walks(factory(), potential, 20)
        torch.testing.assert_close(state.position, other.position)


FIXED = {
    "tempered": lambda target: ReplicaExchange(MALA(target, step_size=0.1), num_replicas=2),
    "tempered trees": lambda target: ReplicaExchange(NUTS(target, step_size=0.5), num_replicas=2),
    "annealed": lambda target: AnnealedLangevin(
        target,
        step_size=0.1,
        scale=torch.linalg.cholesky(torch.eye(as_potential(target).dim) + 0.1),
        noise_levels=(2.0, 1.0),
        steps_per_level=2,
    ),
}


@pytest.mark.usefixtures("either_noise")
@pytest.mark.parametrize("potential", [_potential, _wide], ids=["innermost", "rows"])
@pytest.mark.parametrize("kernel", FIXED.values(), ids=FIXED)
def test_runs_draw_the_same_noise_however_their_states_lie(kernel, potential, interpreted):
    """Without warm-up, and for longer than the steps between two looks at the run."""
    del interpreted
    draws = []
    for settings in ({}, {"compile": True}, {"compile": True, "hook_fn": lambda *call: None}):
        torch.manual_seed(0)
        mcmc = MCMC(kernel(potential()), 20, 0, num_chains=4, disable_progbar=True, **settings)
        mcmc.run()
        draws.append(mcmc.chains.positions)
    for others in draws[1:]:
        torch.testing.assert_close(draws[0], others)


@pytest.mark.parametrize("potential", [_potential, _wide], ids=["innermost", "rows"])
@pytest.mark.parametrize("kernel", [MALA, NUTS])
def test_runs_are_the_same_warm_up_included(kernel, potential, interpreted):
    del interpreted
    runs = []
    for compile_ in (False, True):
        mcmc = MCMC(
            kernel(potential()),
            20,
            30,
            num_chains=4,
            disable_progbar=True,
            generator=torch.Generator().manual_seed(1),
            compile=compile_,
        )
        mcmc.run()
        runs.append(mcmc)
    eager, compiled = runs
    assert compiled.kernel.step_size == pytest.approx(eager.kernel.step_size, rel=1e-6)
    torch.testing.assert_close(eager.chains.positions, compiled.chains.positions)
    assert eager.compile_seconds == 0 < compiled.compile_seconds


def test_a_tuned_step_size_compiles_nothing_anew(monkeypatch):
    graphs = []

    def count(graph, examples, options):
        graphs.append(graph)
        return without_cpp(graph, examples, options)

    monkeypatch.setattr(compiler._inductor, "compile", count)
    potential = _potential()
    compiled = CompiledSteps(potential, Compiler())
    kernels = [MALA(step_size=0.1), MALA(step_size=0.2), MALA(step_size=0.2, scale=torch.ones(3))]
    state = kernels[0].init(potential, torch.randn(4, 3))
    for kernel in kernels:
        _, info = compiled(kernel, state, kernel.noise(state, None))
        assert bool((info.step_size == kernel.step_size).all())
    assert len(graphs) == 1
    other = UnderdampedLangevin(step_size=0.1, friction=2.0)
    start = other.init(potential, torch.randn(4, 3))
    compiled(other, start, other.noise(start, None))
    assert len(graphs) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of torch.compile
@pytest.mark.parametrize("kernel", [MALA(step_size=0.3), NUTS(step_size=0.2)], ids=repr)
def test_compiled_code_makes_the_same_steps(kernel):
    with pyro.settings.context(validate_distributions_torch=True):
        (state, _), (other, _) = _walks(kernel, _potential(), 60)
        assert Distribution._validate_args
    torch.testing.assert_close(state.position, other.position)


@pytest.mark.slow
@pytest.mark.usefixtures("either_noise")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of TorchInductor
@pytest.mark.parametrize(
    "kernel",
    [
        NUTS(_potential(), full_mass=True),
        ReplicaExchange(NUTS(_potential()), num_replicas=2, smallest_beta=0.5),
        NUTS(_wide()),
        ReplicaExchange(NUTS(_wide()), num_replicas=2, smallest_beta=0.9),
    ],
    ids=["nuts", "tempering", "nuts in rows", "tempering in rows"],
)
def test_compiled_runs_draw_what_eager_ones_do(kernel):
    """Everything at once: states of any shape, tuned scales, storage."""
    runs = []
    for compiles in (False, True):
        pyro.set_rng_seed(0)
        runs.append(MCMC(kernel, 5, 20, num_chains=16, compile=compiles, disable_progbar=True))
        runs[-1].run()
    eager, compiled = (run.chains for run in runs)
    torch.testing.assert_close(eager.positions, compiled.positions, rtol=1e-3, atol=1e-3)
    assert torch.equal(eager.stats["diverging"], compiled.stats["diverging"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of TorchInductor
@pytest.mark.usefixtures("seeded_noise")
def test_compiled_code_makes_the_numbers_of_a_seed():
    """An odd number of them, so that some are made outside of the loop over vectors."""
    energy = GaussianEnergy(torch.zeros(5).float(), precision=torch.eye(5).float())
    draws = []
    for compiles in (False, True):
        pyro.set_rng_seed(0)
        kernel = Langevin(energy, step_size=0.1)
        mcmc = MCMC(kernel, 9, 0, num_chains=13_109, compile=compiles, disable_progbar=True)
        mcmc.run()
        draws.append(mcmc.chains.positions)
    torch.testing.assert_close(*draws, rtol=1e-5, atol=1e-5)
