"""The checks themselves: they reject planted mutants and seldom cry wolf."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from tests import statistics
from tests.statistics import (
    Rejected,
    assert_chain_means,
    assert_independent_chains,
    assert_mean,
    assert_moments,
    assert_same_mean,
    independence_ratio,
)

COVARIANCE = torch.tensor([[2.0, 1.2], [1.2, 1.0]])
MEAN = torch.tensor([1.0, -2.0])
ALARM_RATE = 0.02


def exact_draws(num_samples: int) -> torch.Tensor:
    return MEAN + torch.randn(num_samples, 2) @ torch.linalg.cholesky(COVARIANCE).T


def autoregressive(noise: torch.Tensor, coefficient: float = 0.8) -> torch.Tensor:
    """Stationary AR(1) series N(0, 1) of shape (chain, draw, dim) driven by ``noise``."""
    x, draws = noise[:, 0], []
    for t in range(noise.shape[1]):
        x = coefficient * x + math.sqrt(1 - coefficient**2) * noise[:, t] if t else x
        draws.append(x)
    return torch.stack(draws, dim=1)


def is_rejected(check) -> bool:
    try:
        check()
    except Rejected:
        return True
    return False


def alarms(check, repetitions: int, monkeypatch) -> int:
    monkeypatch.setattr(statistics, "TEST_FAILURE_RATE", ALARM_RATE)
    return sum(is_rejected(check) for _ in range(repetitions))


def assert_alarm_rate(count: int, repetitions: int, most: float = ALARM_RATE) -> None:
    """Bounds of the binomial count at the failure rate of the suite; 2 % is the claim."""
    least = stats.binom(repetitions, ALARM_RATE / 3).ppf(1e-5)
    assert least <= count <= stats.binom(repetitions, most).isf(1e-5)


def test_right_input_passes():
    draws = exact_draws(20_000)
    chains = autoregressive(torch.randn(100, 300, 2))
    assert_mean(draws, MEAN)
    assert_mean(draws[:, 0], 1.0)
    assert_same_mean(draws, exact_draws(5_000))
    assert_moments(draws, MEAN, COVARIANCE)
    assert_chain_means(chains, 0.0)
    assert_independent_chains(chains)


def test_images_are_samples_too():
    assert_mean(torch.randn(500, 1, 3, 3), torch.zeros(1, 3, 3))
    assert_chain_means(torch.randn(30, 50, 3, 3), 0.0)


@pytest.mark.parametrize("standard_errors", [12.0, -12.0])
def test_shifted_mean_is_rejected(standard_errors):
    draws = exact_draws(20_000)
    shift = torch.tensor([0.0, standard_errors / math.sqrt(20_000)])
    with pytest.raises(Rejected, match=r"component 1 is -?\d"):
        assert_mean(draws + shift, MEAN)
    with pytest.raises(Rejected):
        assert_moments(draws + shift, MEAN, COVARIANCE)
    with pytest.raises(Rejected):
        assert_same_mean(draws + 2 * shift, exact_draws(20_000))


def test_wrong_variance_is_rejected():
    draws = MEAN + 1.05 * (exact_draws(20_000) - MEAN)
    assert_mean(draws, MEAN)
    with pytest.raises(Rejected):
        assert_moments(draws, MEAN, COVARIANCE)


def test_wrong_correlation_is_rejected():
    independent = MEAN + torch.randn(20_000, 2) * COVARIANCE.diagonal().sqrt()
    with pytest.raises(Rejected):
        assert_moments(independent, MEAN, COVARIANCE)


def test_shifted_chains_are_rejected():
    chains = autoregressive(torch.randn(100, 300, 2))
    error = 3 / math.sqrt(100 * 300)  # tau = 9, so 3 times the error of independent draws
    with pytest.raises(Rejected):
        assert_chain_means(chains + 12 * error, 0.0)


def test_one_biased_component_among_many_is_rejected():
    samples = torch.randn(2_000, 300)
    samples[:, 137] += 12 / math.sqrt(2_000)
    with pytest.raises(Rejected, match="component 137"):
        assert_mean(samples, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_samples_are_rejected(bad):
    samples = torch.randn(100, 10, 1)
    samples[3, 2] = bad
    for check in (assert_chain_means, assert_mean):
        with pytest.raises(Rejected, match="NaN or infinite"):
            check(samples, 0.0)
    with pytest.raises(Rejected, match="NaN or infinite"):
        assert_independent_chains(samples)


def test_constant_samples_must_be_right_to_rounding():
    assert_mean(torch.full((1_000,), 0.1), 0.1)
    with pytest.raises(Rejected):
        assert_mean(torch.full((1_000,), 0.1), 0.1 + 1e-12)


def test_too_little_input_is_a_mistake_and_not_a_rejection():
    with pytest.raises(ValueError, match="at least 2 samples"):
        assert_mean(torch.zeros(1, 3), 0.0)
    with pytest.raises(ValueError, match="chain, draw, dim"):
        independence_ratio(torch.zeros(3, 3))


def test_ratio_is_the_number_of_chains_for_identical_chains():
    series = torch.randn(1, 200, 2).expand(50, 200, 2)
    torch.testing.assert_close(independence_ratio(series), torch.full((2, 2), 50.0))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_noise_shared_by_the_chains_is_rejected(share):
    noise = math.sqrt(1 - share**2) * torch.randn(100, 300, 1) + share * torch.randn(1, 300, 1)
    chains = autoregressive(noise)
    with pytest.raises(Rejected, match="not independent"):
        assert_independent_chains(chains)


def test_shared_magnitude_is_seen_in_the_squares_only():
    chains = torch.randn(100, 300, 1) * torch.rand(1, 300, 1).add(0.2)
    ratio = independence_ratio(chains)
    assert ratio[0] < 2
    assert ratio[1] > 5
    with pytest.raises(Rejected, match="component 1 of"):
        assert_independent_chains(chains)


def test_antithetic_chains_are_rejected():
    half = torch.randn(50, 300, 1)
    with pytest.raises(Rejected):
        assert_independent_chains(torch.cat([half, -half]))


def test_means_have_their_false_alarm_rate(monkeypatch):
    count = alarms(lambda: assert_mean(torch.randn(60, 4), 0.0), 1_000, monkeypatch)
    assert_alarm_rate(count, 1_000)


def test_moments_have_their_false_alarm_rate(monkeypatch):
    def check():
        assert_moments(exact_draws(2_000), MEAN, COVARIANCE)

    # Five correlated components: Bonferroni errs on the safe side, skewness a little on the other.
    assert_alarm_rate(alarms(check, 300, monkeypatch), 300, most=1.5 * ALARM_RATE)


@pytest.mark.parametrize("coefficient", [0.0, 0.95])
def test_independence_has_its_false_alarm_rate(coefficient, monkeypatch):
    def check():
        assert_independent_chains(autoregressive(torch.randn(60, 100, 2), coefficient))

    assert_alarm_rate(alarms(check, 300, monkeypatch), 300, most=1.5 * ALARM_RATE)
