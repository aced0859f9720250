"""HMC: reversible, exact, jittered, and without waiting chains."""

from __future__ import annotations

import math

import arviz as az
import numpy as np
import pytest
import torch

from pyro_ebm.kernels import HMC, MALA, hmc
from pyro_ebm.kernels._hamiltonian import total_energy
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.sampling import MCMC
from tests.kernels.transitions import (
    CountingPotential,
    assert_invariant,
    exact_start,
    gaussian_potential,
)
from tests.statistics import Rejected
from tests.targets import all_targets, asymmetric_target, gaussian_target

SCALES = torch.linspace(0.1, 1.0, 10)


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_leaves_the_law_as_it_is(target):
    assert_invariant(HMC(step_size=0.6), target, num_chains=10_000, num_draws=5)


def test_one_leapfrog_is_mala():
    """With the same noise: both propose the same points and accept the same."""
    target = asymmetric_target()
    potential = EnergyPotential(target.energy)
    kernel, mala = HMC(step_size=0.7, trajectory_length=0.1), MALA(step_size=0.7)
    reference = exact_start(mala, target, 200)
    state = kernel.init(potential, reference.position)
    for _ in range(5):
        noise = kernel.noise(state, None)
        move = mala.noise(reference, None)
        move = move._replace(normal=state.front.momentum, uniform=noise.accept)
        state, info = kernel.step(potential, state, noise)
        reference, expected = mala.step(potential, reference, move)
        torch.testing.assert_close(state.position, reference.position)
        torch.testing.assert_close(info.acceptance_rate, expected.acceptance_rate)
        assert bool(info.finished.all())


def _accepts_all(log_ratio, diverging):
    del diverging
    return torch.ones_like(log_ratio)


def _forgets_the_kinetic_energy(potential_energy, momentum):
    del momentum
    return potential_energy.double()


@pytest.mark.parametrize(
    ("name", "mutant"),
    [("point_acceptance", _accepts_all), ("total_energy", _forgets_the_kinetic_energy)],
)
def test_mistakes_are_rejected(name, mutant, monkeypatch):
    monkeypatch.setattr(hmc, name, mutant)
    with pytest.raises(Rejected):
        assert_invariant(HMC(step_size=0.8), asymmetric_target(), num_chains=10_000, num_draws=5)


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_lengths_of_trajectories(jitter):
    potential = CountingPotential(gaussian_target().energy)
    kernel = HMC(step_size=0.1, trajectory_length=1.0, jitter=jitter)
    state = kernel.init(potential, torch.randn(500, potential.dim))
    lengths = []
    for _ in range(40):
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        lengths.append(info.n_steps[info.finished])
    lengths = torch.cat(lengths)
    assert potential.num_gradients == 41
    shortest, longest = (round(10 * (1 + sign * jitter)) for sign in (-1, 1))
    assert set(lengths.tolist()) == set(range(shortest, longest + 1))
    if jitter > 0:  # each end is the nearest to half as many
        assert float((lengths == 10).double().mean()) == pytest.approx(1 / 6, abs=0.04)
        assert float((lengths == 7).double().mean()) < 0.13


@pytest.mark.parametrize(("step_size", "num_steps"), [(0.1, 1), (0.41, 2), (0.39, 3), (5.0, 1)])
def test_lengths_are_rounded_to_whole_steps(step_size, num_steps):
    time = 0.1 if step_size == 0.1 else 1.0
    potential = gaussian_potential(torch.eye(2))
    kernel = HMC(step_size=step_size, trajectory_length=time, jitter=0.0)
    state = kernel.init(potential, torch.randn(3, 2))
    for step in range(1, num_steps + 1):
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        assert info.finished.tolist() == [step == num_steps] * 3


def test_trajectories_are_cut_at_the_largest_number_of_steps():
    potential = gaussian_potential(torch.eye(2))
    kernel = HMC(potential, step_size=1e-4, max_num_steps=7)
    mcmc = MCMC(kernel, 3, 0, num_chains=4, disable_progbar=True)
    mcmc.run()
    assert bool((mcmc.chains.stats["n_steps"] == 7).all())


def _worst_r_hat(jitter):
    """Of the squares, on coordinates whose periods are commensurate with the trajectory."""
    potential = gaussian_potential(torch.tensor([1.0, 4.0, 16.0]))
    mcmc = MCMC(
        HMC(potential, step_size=0.05, trajectory_length=math.pi, jitter=jitter),
        100,
        0,
        num_chains=20,
        initial_params={"x": torch.randn(20, 3) / torch.tensor([1.0, 2.0, 4.0])},
        disable_progbar=True,
    )
    mcmc.run()
    squares = mcmc.get_samples(group_by_chain=True)["x"].square().numpy()
    return float(np.max(az.rhat(az.convert_to_dataset(squares))["x"].values))


@pytest.mark.slow
def test_jitter_breaks_resonance():
    """Without it the trajectories come back to where they began, and chains never mix.

    The squares of the slowest coordinate have a lag-one correlation of the mean of
    ``cos(pi u)^2``: 1 without jitter, 0.5 with ``u`` uniform on [0.5, 1.5].
    """
    assert _worst_r_hat(0.0) > 1.5
    assert _worst_r_hat(0.5) < 1.1


@pytest.mark.parametrize("jitter", [-0.1, 1.0, math.nan])
def test_wrong_jitters_are_named(jitter):
    with pytest.raises(ValueError, match="jitter="):
        HMC(jitter=jitter)


def test_energies_of_float32_momenta_are_summed_in_float64():
    """In many dimensions, where sums in float32 lose more than what is decided by."""
    momentum, potential_energy = torch.randn(5, 20_000).float(), torch.rand(5).float()
    exact = potential_energy.double() + 0.5 * momentum.double().square().sum(dim=-1)
    found = total_energy(potential_energy, momentum)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=0.0)
