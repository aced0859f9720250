"""What warm-up pools: dual averaging and the pooled variance, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_ebm.sampling.adaptation import DualAveraging, PooledCovariance, PooledVariance

ACCEPTANCES = [0.9, 0.2, 0.0, 1.0, 0.55, 0.61, 0.58, 0.3]


def dual_averaging_by_hand(step_size, target, acceptances):
    """Hoffman and Gelman's recursions, with their symbols and our ``mu`` and ``gamma``."""
    mu, gamma, t0, kappa = math.log(step_size), 0.2, 10, 0.75
    h_bar, log_average, steps = 0.0, 0.0, []
    for t, acceptance in enumerate(acceptances, start=1):
        h_bar = (1 - 1 / (t + t0)) * h_bar + (target - acceptance) / (t + t0)
        log_step = mu - math.sqrt(t) / gamma * h_bar
        log_average = t**-kappa * log_step + (1 - t**-kappa) * log_average
        steps.append(math.exp(log_step))
    return steps, math.exp(log_average)


@pytest.mark.parametrize(("step_size", "target"), [(0.3, 0.574), (7.0, 0.98)])
def test_dual_averaging_is_the_recursion(step_size, target):
    tuner = DualAveraging(step_size, target)
    steps = [tuner.update(acceptance) for acceptance in ACCEPTANCES]
    expected, average = dual_averaging_by_hand(step_size, target, ACCEPTANCES)
    assert steps == pytest.approx(expected, rel=1e-13)
    assert tuner.average == pytest.approx(average, rel=1e-13)


def test_first_update_by_hand():
    tuner = DualAveraging(0.5, 0.8)
    assert tuner.average == pytest.approx(0.5, rel=1e-15)
    assert tuner.update(0.25) == pytest.approx(0.5 * math.exp(-5 * 0.55 / 11), rel=1e-13)
    assert tuner.average == pytest.approx(0.5 * math.exp(-0.25), rel=1e-13)


def test_dual_averaging_finds_the_step_size_of_the_target():
    """Acceptance exp(-step^2): 0.6 is reached at sqrt(-log 0.6)."""
    tuner, step_size = DualAveraging(5.0, 0.6), 5.0
    for _ in range(1_000):
        step_size = tuner.update(math.exp(-(step_size**2)))
    assert tuner.average == pytest.approx(math.sqrt(-math.log(0.6)), rel=0.02)


def batches():
    return [
        3.0 + torch.randn(5, 3),
        torch.randn(1, 3) * 10,
        torch.randn(40, 3) - 2,
        torch.ones(2, 3),
    ]


def test_pooled_variance_is_that_of_all_positions():
    pooled, parts = PooledVariance(3), batches()
    for part in parts:
        pooled.update(part)
    whole = torch.cat(parts)
    n = len(whole)
    shrunk = n / (n + 5) * whole.var(dim=0) + 1e-3 * 5 / (n + 5)
    assert pooled.count == n
    torch.testing.assert_close(pooled.scale(torch.float64), shrunk.sqrt(), rtol=1e-13, atol=0)


def test_pooled_variance_of_float32_far_from_zero():
    """Summed in float64 about a running mean: no cancellation."""
    positions = 1e4 + torch.randn(200, 16, 1, dtype=torch.float32)
    pooled = PooledVariance(1)
    for batch in positions:
        pooled.update(batch)
    scale = pooled.scale(torch.float32)
    assert scale.dtype == torch.float32
    n = positions.numel()
    variance = (n * positions.double().var() + 5e-3) / (n + 5)
    assert scale.item() == pytest.approx(variance.sqrt().item(), rel=1e-6)


def test_scale_of_nothing_and_of_one_position_is_the_shrinkage():
    pooled = PooledVariance(2)
    torch.testing.assert_close(pooled.scale(torch.float64), torch.full((2,), math.sqrt(1e-3)))
    pooled.update(torch.randn(1, 2))
    shrunk = math.sqrt(5e-3 / 6)
    torch.testing.assert_close(pooled.scale(torch.float64), torch.full((2,), shrunk))


def test_pooled_covariance_is_that_of_all_positions():
    pooled, parts = PooledCovariance(3), batches()
    for part in parts:
        pooled.update(part)
    whole = torch.cat(parts)
    n = len(whole)
    shrunk = n / (n + 5) * whole.mT.cov() + 1e-3 * 5 / (n + 5) * torch.eye(3)
    factor = pooled.scale(torch.float64)
    assert torch.equal(factor, factor.tril())
    torch.testing.assert_close(factor @ factor.mT, shrunk, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("width", [1.0, 1e4, 1e6, 1e8, 1e12])
@pytest.mark.parametrize("dim", [2, 40])
def test_collinear_coordinates_have_a_factor(width, dim):
    """Rounding leaves such covariances indefinite, which no factor has."""
    pooled = PooledCovariance(dim)
    for common in width * torch.randn(20, 64, 1):
        pooled.update(common.expand(-1, dim) + 1e-3 * torch.randn(64, dim))
    factor = pooled.scale(torch.float64)
    deviations = factor.square().sum(dim=-1).sqrt()
    torch.testing.assert_close(deviations, deviations[:1].expand(dim), rtol=1e-2, atol=0.0)
    assert deviations[0].item() == pytest.approx(width, rel=0.2)
    assert (factor.diagonal() >= 0.9e-6 * deviations).all()
