"""MALA with a dense preconditioner: the ratio, a change of coordinates, the law, and warm-up."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_ebm import MCMC
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, PreconditionedMALA
from pyro_ebm.kernels._metric import DenseMetric
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.mutants import patched_mala
from tests.kernels.transitions import assert_invariant, move, noise_like
from tests.statistics import Rejected, assert_moments
from tests.targets import gaussian_target

COVARIANCE = torch.tensor([[1.0, 0.6, -0.2], [0.6, 0.8, 0.1], [-0.2, 0.1, 0.5]])
FACTOR = torch.linalg.cholesky(COVARIANCE)
# Not the target's own, so that the moves are correlated in another way than the law.
TILTED = torch.linalg.cholesky(torch.tensor([[1.0, -0.3], [-0.3, 0.6]]))
PATCHES = ["dropped_ratio", "accept_per_batch", "stale_gradient"]


def _curved(x):
    return 0.5 * x.square().sum(-1) + (0.1 * x.pow(4) + 0.5 * torch.sin(3 * x)).sum(-1) + x.prod(-1)


def _moves(kernel, num_pairs=2_000):
    """States, where they go if nothing is rejected, and the report."""
    potential = EnergyPotential(_curved, (3,))
    old = kernel.init(potential, torch.randn(num_pairs, 3))
    normal = torch.randn(num_pairs, 3)
    _, info = move(kernel, potential, old, normal)
    drift = 0.5 * kernel.step_size**2 * old.grad @ COVARIANCE
    position = old.position - drift + kernel.step_size * normal @ FACTOR.T
    return old, kernel.init(potential, position), info


def test_acceptance_is_that_of_explicit_densities():
    kernel = PreconditionedMALA(step_size=0.7, scale=FACTOR)
    old, new, info = _moves(kernel)
    forward, backward = (
        MultivariateNormal(
            a.position - 0.5 * 0.7**2 * a.grad @ COVARIANCE, 0.7**2 * COVARIANCE
        ).log_prob(b.position)
        for a, b in ((old, new), (new, old))
    )
    log_ratio = old.potential_energy - new.potential_energy + backward - forward
    assert float(log_ratio.abs().max()) > 1
    torch.testing.assert_close(
        info.acceptance_rate, log_ratio.clamp(max=0).exp(), rtol=1e-11, atol=1e-13
    )


def test_a_factor_is_a_change_of_coordinates():
    """Moving ``x = L y`` with factor ``L`` is moving ``y`` without."""
    position, normal = torch.randn(2, 500, 3)
    uniform = torch.rand(500)
    results = []
    for kernel, energy, to_own in (
        (PreconditionedMALA(step_size=0.6, scale=FACTOR), _curved, torch.eye(3)),
        (MALA(step_size=0.6), lambda y: _curved(y @ FACTOR.T), torch.linalg.inv(FACTOR)),
    ):
        potential = EnergyPotential(energy, (3,))
        state = kernel.init(potential, position @ FACTOR.T @ to_own.T)
        noise = noise_like(kernel, state, normal=normal, uniform=uniform)
        moved, info = kernel.step(potential, state, noise)
        in_x = moved.position @ torch.linalg.inv(to_own).T
        results.append((in_x, moved.potential_energy, info.acceptance_rate))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)


def test_deviations_do_what_they_do_in_mala():
    scale = torch.tensor([1.4, 0.3, 0.8])
    potential = EnergyPotential(_curved, (3,))
    position, noise = torch.randn(500, 3), None
    moved = []
    for cls in (MALA, PreconditionedMALA):
        kernel = cls(step_size=0.7, scale=scale)
        state = kernel.init(potential, position)
        noise = noise or kernel.noise(state, None)
        moved.append(kernel.step(potential, state, noise))
    for first, second in zip(*moved, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_law_is_left_as_it_is():
    assert_invariant(PreconditionedMALA(step_size=1.2, scale=TILTED), gaussian_target())


@pytest.mark.parametrize("mutant", PATCHES)
def test_planted_mistakes_are_rejected(mutant):
    with patched_mala(mutant), pytest.raises(Rejected):
        assert_invariant(PreconditionedMALA(step_size=1.2, scale=TILTED), gaussian_target())


def test_a_transposed_factor_is_rejected(monkeypatch):
    monkeypatch.setattr(DenseMetric, "to_momentum", lambda self, grad: grad @ self.factor.mT)
    with pytest.raises(Rejected):
        assert_invariant(PreconditionedMALA(step_size=1.2, scale=TILTED), gaussian_target())


def test_warm_up_finds_the_covariance_and_a_long_step():
    """With correlations of 0.99 a diagonal needs steps of the size of the narrow direction."""
    covariance = 0.01 * torch.eye(5) + 0.99
    energy = GaussianEnergy(torch.zeros(5), covariance)
    step_sizes = []
    for cls in (PreconditionedMALA, MALA):
        mcmc = MCMC(cls(energy), 20, warmup_steps=300, num_chains=500, disable_progbar=True)
        mcmc.run()
        step_sizes.append(mcmc.kernel.step_size)
        assert mcmc.kernel.scale.shape == ((5, 5) if cls is PreconditionedMALA else (5,))
        if cls is PreconditionedMALA:
            draws = mcmc.get_samples(group_by_chain=True)["x"]
            assert_moments(draws[:, -1], torch.zeros(5), covariance)
    assert step_sizes[0] > 3 * step_sizes[1]
