"""MALA: the ratio, detailed balance, and its transition matrix on the line."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, _adjusted_langevin
from pyro_ebm.kernels._metric import DiagonalMetric, metric_of
from pyro_ebm.kernels._metropolis import langevin_log_ratio
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.mutants import RATIOS, proposal_log_density
from tests.kernels.transitions import (
    line_matrix,
    move,
    noise_between,
    noise_like,
    stationary_moments,
)
from tests.targets import AsymmetricEnergy, asymmetric_target

SCALES = [None, torch.tensor([1.4, 0.3, 0.8])]
every_scale = pytest.mark.parametrize("scale", SCALES, ids=["unscaled", "scaled"])
CORRELATED = GaussianEnergy(torch.ones(3), torch.eye(3) + 0.8)
POINTS = torch.linspace(-3.5, 3.5, 281)


def _curved(x):
    """Correlated, asymmetric and not quadratic."""
    return CORRELATED(x) + (0.1 * x.pow(4) + 0.5 * torch.sin(3 * x)).sum(-1)


def _pairs(kernel, num_pairs=2_000):
    """Pairs of states as far apart as proposals are, and their potential."""
    potential = EnergyPotential(_curved, event_shape=(3,))
    old = kernel.init(potential, torch.randn(num_pairs, 3))
    scale = 1.0 if kernel.scale is None else kernel.scale
    away = kernel.step_size * scale * torch.randn(num_pairs, 3)
    return potential, old, kernel.init(potential, old.position + away)


@every_scale
def test_ratio_is_that_of_explicit_densities(scale):
    kernel = MALA(step_size=0.7, scale=scale)
    _, old, new = _pairs(kernel)
    s = torch.ones(3) if scale is None else scale
    forward, backward = (
        Normal(a.position - 0.5 * 0.7**2 * s**2 * a.grad, 0.7 * s).log_prob(b.position).sum(-1)
        for a, b in ((old, new), (new, old))
    )
    expected = old.potential_energy - new.potential_energy + backward - forward
    actual = langevin_log_ratio(old, new, 0.7, metric_of(scale, old.position))
    assert actual.abs().max() > 1
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-11)


@every_scale
def test_acceptance_is_that_of_one_leapfrog_step(scale):
    kernel = MALA(step_size=0.7, scale=scale)
    potential, old, _ = _pairs(kernel)
    momentum = torch.randn_like(old.position)
    s = torch.ones(3) if scale is None else scale
    halfway = momentum - 0.35 * s * old.grad
    position = old.position + 0.7 * s * halfway
    energy, grad = potential.value_and_grad(position)
    end = halfway - 0.35 * s * grad
    kinetic = 0.5 * (momentum.square() - end.square()).sum(-1)
    log_ratio = old.potential_energy - energy + kinetic
    _, info = move(kernel, potential, old, momentum)
    torch.testing.assert_close(
        info.acceptance_rate, log_ratio.clamp(max=0).exp(), rtol=1e-12, atol=1e-14
    )


@every_scale
def test_detailed_balance_of_the_step(scale):
    kernel = MALA(step_size=0.7, scale=scale)
    potential, old, new = _pairs(kernel)
    flows = []
    for start, end in ((old, new), (new, old)):
        normal = noise_between(kernel, start, end.position)
        _, info = move(kernel, potential, start, normal)
        log_proposal = -0.5 * normal.square().sum(-1)
        flows.append(-start.potential_energy + log_proposal + info.acceptance_rate.log())
    torch.testing.assert_close(*flows, rtol=1e-12, atol=1e-12)


def test_each_chain_accepts_by_its_own_uniform():
    kernel = MALA(step_size=1.2)
    potential, old, _ = _pairs(kernel)
    normal = torch.randn_like(old.position)
    _, info = move(kernel, potential, old, normal)
    rate = info.acceptance_rate
    assert 0.1 < float((rate < 1).double().mean()) < 1
    for uniform, accepts in (((rate - 1e-9).clamp(min=0), rate > 0), (rate, rate > 2)):
        noise = noise_like(kernel, old, normal=normal, uniform=uniform)
        moved, _ = kernel.step(potential, old, noise)
        assert torch.equal((moved.position != old.position).any(dim=1), accepts)


def test_uniforms_are_one_for_each_chain_in_float64():
    kernel = MALA(step_size=0.1)
    potential = EnergyPotential(_curved, event_shape=(3,))
    uniform = kernel.noise(kernel.init(potential, torch.zeros(7, 3).float()), None).uniform
    assert uniform.shape == (7,)
    assert uniform.dtype == torch.float64


def test_target_moments_on_the_line():
    target = asymmetric_target()
    potential = EnergyPotential(target.energy)
    matrix = line_matrix(MALA(step_size=0.4), potential, POINTS)
    assert float(matrix.min()) >= 0
    law = torch.softmax(-AsymmetricEnergy()(POINTS), dim=0)
    assert float((law @ matrix - law).abs().sum()) < 1e-13
    moments = [float(target.mean), float(target.second_moment)]
    assert stationary_moments(matrix, POINTS) == pytest.approx(moments, abs=1e-9)


@pytest.mark.parametrize(
    ("ratio", "moments"),
    [("dropped", [-0.3213, 0.4440]), ("mismatched", [-0.1526, 0.5865])],
)
def test_wrong_ratios_on_the_line(ratio, moments, monkeypatch):
    monkeypatch.setattr(_adjusted_langevin, "langevin_log_ratio", RATIOS[ratio])
    potential = EnergyPotential(AsymmetricEnergy())
    matrix = line_matrix(MALA(step_size=0.4), potential, POINTS)
    assert stationary_moments(matrix, POINTS) == pytest.approx(moments, abs=5e-5)


def test_the_densities_of_the_mutants_are_those_of_the_proposal():
    kernel = MALA(step_size=0.7, scale=SCALES[1])
    _, old, new = _pairs(kernel)
    normal = noise_between(kernel, old, new.position)
    expected = Normal(0.0, 1.0).log_prob(normal).sum(-1) - (0.7 * kernel.scale).log().sum()
    actual = proposal_log_density(old, new.position, 0.7, 0.7**2, DiagonalMetric(kernel.scale))
    constant = 1.5 * math.log(2 * math.pi) + (0.7 * kernel.scale).log().sum()
    torch.testing.assert_close(actual - constant, expected, rtol=1e-12, atol=1e-11)
