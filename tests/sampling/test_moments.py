"""The mean that rotating steps go round: estimated, kept if it is given, and of use."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import HMC, MALA, NUTS, ROTATIONS, ChEESHMC
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.sampling.adaptation import DualAveraging, PooledCovariance, PooledVariance
from pyro_ebm.sampling.step_size import StepSizeSearch
from pyro_ebm.sampling.steps import eager_steps, tuned_tensors
from tests.sampling.runs import PlainEnergy, run

MEAN = torch.tensor([5.0, -30.0])
FACTOR = torch.tensor([[0.1, 0.0], [2.0, 3.0]])
ENERGY = GaussianEnergy(MEAN, FACTOR @ FACTOR.mT)
SETTINGS = {"num_samples": 20, "warmup_steps": 300, "num_chains": 64}

every_kernel = pytest.mark.parametrize("make", [HMC, NUTS, ChEESHMC])


@every_kernel
def test_on_a_gaussian_steps_are_a_quarter_turn(make):
    """All are accepted, however long; longer ones are of no use."""
    kernel = run(make(ENERGY, integrator=ROTATIONS, full_mass=True), **SETTINGS).kernel
    widths = FACTOR.norm(dim=-1)
    assert bool(((kernel.center - MEAN).abs() < 0.3 * widths).all())
    torch.testing.assert_close(kernel.scale @ kernel.scale.mT, FACTOR @ FACTOR.mT, rtol=0.3, atol=0)
    assert kernel.step_size == pytest.approx(math.pi / 2)


@every_kernel
def test_what_is_given_is_kept_and_the_other_estimated(make):
    center, scale = MEAN + 1.0, torch.tensor([0.2, 4.0])
    given = run(make(ENERGY, integrator=ROTATIONS, center=center), **SETTINGS).kernel
    assert torch.equal(given.center, center)
    torch.testing.assert_close(given.scale, FACTOR.norm(dim=-1), rtol=0.3, atol=0.0)
    given = run(make(ENERGY, integrator=ROTATIONS, scale=scale), **SETTINGS).kernel
    assert torch.equal(given.scale, scale)
    assert bool(((given.center - MEAN).abs() < 0.3 * FACTOR.norm(dim=-1)).all())


@every_kernel
def test_without_warm_up_steps_go_straight_on(make):
    """As leapfrogs, draw for draw: no centre is known."""
    runs = []
    for integrator in ({}, {"integrator": ROTATIONS}):
        torch.manual_seed(0)
        runs.append(run(make(ENERGY, step_size=0.1, **integrator), 5, 0, num_chains=4))
    assert torch.equal(*(mcmc.chains.positions for mcmc in runs))


def test_pooled_moments():
    for pooled in (PooledVariance(2), PooledCovariance(2)):
        for batch in (MEAN + torch.randn(100, 2)).split(30):
            pooled.update(batch)
        moments = pooled.moments(torch.float32)
        assert moments["center"].dtype == torch.float32
        assert bool(((moments["center"] - MEAN.float()).abs() < 0.5).all())
        assert torch.equal(moments["scale"], pooled.scale(torch.float32))


def test_moments_that_are_not_known_are_those_of_a_standard_normal():
    position = torch.zeros(3, 2)
    *numbers, scale, center = tuned_tensors(HMC(step_size=0.5, integrator=ROTATIONS), position)
    assert [float(number) for number in numbers] == [0.5, 0.0]
    assert scale.tolist() == [1.0, 1.0]
    assert center.tolist() == [0.0, 0.0]
    half_known = HMC(step_size=0.5, integrator=ROTATIONS, center=MEAN)
    known = replace(half_known, scale=torch.ones(2))
    for kernel, stiffness in ((half_known, 0.0), (known, 1.0)):
        *numbers, _, center = tuned_tensors(kernel, position)
        assert [float(number) for number in numbers] == [0.5, stiffness]
        assert torch.equal(center, MEAN)
    assert len(tuned_tensors(HMC(step_size=0.5), position)) == len(MALA().moments) + 1 == 2


def _found(energy, **settings):
    potential = EnergyPotential(energy)
    known = {"center": torch.zeros(1), "scale": torch.ones(1)}
    kernel = HMC(integrator=ROTATIONS, **known, **settings)
    generator = torch.Generator().manual_seed(0)
    state = kernel.init(potential, torch.randn(4096, 1), generator)
    return StepSizeSearch(eager_steps(potential), generator).find(kernel, state)


@pytest.mark.parametrize("step_size", [None, 0.01, 50.0])
def test_the_search_ends_at_a_quarter_turn(step_size):
    assert _found(PlainEnergy(lambda x: 0.5 * x.square()), step_size=step_size) == math.pi / 2


@pytest.mark.parametrize("precision", [1.3, 1.5, 4.0])
@pytest.mark.parametrize("step_size", [None, 0.01, 0.6, 50.0])
def test_and_stays_below_it_where_the_target_is_no_such_gaussian(step_size, precision):
    """Brackets of a factor of two may lie on both sides of it."""
    found = _found(PlainEnergy(lambda x: 0.5 * precision * x.square()), step_size=step_size)
    assert 0.5 < found <= math.pi / 2


@every_kernel
def test_a_centre_without_widths_does_not_hold_chains_back(make):
    """Round a Gaussian a thousand times too narrow steps would be tiny."""
    wide = GaussianEnergy(MEAN, 1e6 * torch.eye(2))
    kernel = run(make(wide, integrator=ROTATIONS, center=MEAN), **SETTINGS).kernel
    torch.testing.assert_close(kernel.scale, torch.full((2,), 1e3), rtol=0.3, atol=0.0)


def test_trajectories_of_hmc_are_no_half_turns():
    """Rounded up, half of them would take two steps of a quarter."""
    mcmc = run(HMC(ENERGY, integrator=ROTATIONS, full_mass=True), **SETTINGS)
    assert float(mcmc.chains.stats["n_steps"].double().mean()) == 1.0


def test_averaging_stays_below_the_largest_step():
    tuner = DualAveraging(1.0, 0.8, largest=1.5)
    sizes = [tuner.update(1.0) for _ in range(50)]
    assert max(sizes) == pytest.approx(1.5)
    assert tuner.average <= 1.5 * (1 + 1e-12)
