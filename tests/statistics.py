"""Statistical checks whose tolerance is derived from Monte-Carlo error, never chosen.

Every check raises :class:`Rejected` with probability of about ``TEST_FAILURE_RATE`` when the
code under test is right, whatever the number of components it compares (Bonferroni). A planted
mutant is tested with ``pytest.raises(Rejected)``.
"""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

TEST_FAILURE_RATE = 2e-5
"""False-alarm rate of one check: 1 in 500 for a suite of 100 of them."""


class Rejected(AssertionError):  # noqa: N818 (it is the wanted outcome of a mutant)
    """The numbers contradict the claim; never raised for a mistake in the test itself."""


def assert_mean(samples: Tensor, truth: Tensor | float) -> None:
    """Check the mean over the first axis of *independent* ``samples`` of shape ``(n, *event)``."""
    _assert_small(*_mean_scores(samples, truth), what="mean")


def assert_same_mean(first: Tensor, second: Tensor) -> None:
    """Check that two sets of independent samples ``(n, *event)`` have one mean (Welch)."""
    errors = [_standard_error(_matrix(samples)) for samples in (first, second)]
    difference = _matrix(first).mean(dim=0) - _matrix(second).mean(dim=0)
    z = _ratio(difference, torch.stack(errors).square().sum(dim=0).sqrt())
    _assert_small(z, degrees=min(len(first), len(second)) - 1, what="difference of means")


def assert_moments(draws: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Check first and second moments of independent ``draws`` of shape ``(n, dim)``.

    The second moments are taken about the true mean, so that each is a plain average.
    """
    centred = _finite(draws) - mean.double()
    rows, columns = torch.triu_indices(len(mean), len(mean))
    products = centred[:, rows] * centred[:, columns]
    truth = torch.cat([torch.zeros(len(mean)), covariance[rows, columns]])
    _assert_small(*_mean_scores(torch.cat([centred, products], dim=1), truth), what="moment")


def assert_chain_means(draws: Tensor, truth: Tensor | float) -> None:
    """Check the mean of ``draws`` of shape ``(chain, draw, *event)``, however correlated in time.

    The error comes from the spread of the chains' means: it needs independent chains
    (:func:`assert_independent_chains`) that have reached their law, and no ESS.
    """
    _assert_small(*_mean_scores(_finite(draws).mean(dim=1), truth), what="mean of chain means")


def independence_ratio(draws: Tensor) -> Tensor:
    """``chains * var_t(mean over chains) / mean over chains(var_t)`` on ``x`` and ``x^2``.

    Draws of shape ``(chain, draw, dim)`` give ``(2, dim)``. The squares are about the mean of all
    draws. The expectation is 1 for independent chains of one law, whatever their
    autocorrelation, and the number of chains for identical ones. Noise shared by the chains
    leaves every mean right and is seen by this only. The chains must be stationary: a drift
    that they have in common looks like shared noise.
    """
    features = _features(draws)
    between = features.mean(dim=0).var(dim=0, correction=0)
    within = features.var(dim=1, correction=0).mean(dim=0)
    return len(draws) * _ratio(between, within).reshape(2, -1)


def assert_independent_chains(draws: Tensor) -> None:
    """Check :func:`independence_ratio` of ``(chain, draw, dim)`` against its own null law.

    For independent chains the average over chains is close to a Gaussian series, so the ratio
    is ``sum_j w_j chi^2_1``, with ``w`` the normalised eigenvalues of the covariance in time,
    estimated from all chains. Its tails follow from moments (Pearson 1959). The spread of
    the variances of the chains measures what is not Gaussian, and enters divided by their number.
    """
    ratio = independence_ratio(draws).flatten()
    lower, upper = _ratio_bounds(_features(draws), TEST_FAILURE_RATE / len(ratio))
    inside = (ratio > lower) & (ratio < upper)
    if not bool(inside.all()):
        worst = int(torch.where(inside, 0, ratio.log().abs().nan_to_num(math.inf)).argmax())
        raise Rejected(
            f"Chains are not independent: chains * var(mean over chains) / var is "
            f"{ratio[worst]:.3f} in component {worst} of (x, x^2), outside "
            f"[{lower[worst]:.3f}, {upper[worst]:.3f}]."
        )


def _ratio_bounds(features: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    powers = torch.stack([_normalised_traces(column) for column in _autocovariances(features).T])
    second, third = powers.T
    variances = features.var(dim=1, correction=0)
    spread = variances.var(dim=0) / variances.mean(dim=0).square()
    second = second * (1 + (spread / second - 1).clamp(min=0) / len(features))
    degrees = second.pow(3) / third.pow(2)
    upper = 1 + (_chi2_quantile(degrees, 1 - rate / 2) - degrees) * (second / degrees).sqrt()
    # The three-moment law ends above zero, so the lower tail takes the two-moment one.
    lower = _chi2_quantile(1 / second, rate / 2) * second
    return lower, upper


def _chi2_quantile(degrees: Tensor, probability: float) -> Tensor:
    return torch.from_numpy(stats.chi2(degrees.numpy()).ppf(probability))


def _autocovariances(features: Tensor) -> Tensor:
    """Autocovariances ``(lag, feature)`` pooled over chains, each divided by its own count."""
    num_draws = features.shape[1]
    power = torch.fft.rfft(features, n=2 * num_draws, dim=1).abs().square().mean(dim=0)
    counts = torch.arange(num_draws, 0, -1)
    return torch.fft.irfft(power, n=2 * num_draws, dim=0)[:num_draws] / counts.unsqueeze(-1)


def _normalised_traces(autocovariance: Tensor) -> Tensor:
    """``tr K^2 / (tr K)^2`` and ``tr K^3 / (tr K)^3`` of the centred covariance in time."""
    index = torch.arange(len(autocovariance))
    covariance = autocovariance[(index.unsqueeze(0) - index.unsqueeze(1)).abs()]
    rows = covariance.mean(dim=0, keepdim=True)
    centred = covariance - rows - rows.T + rows.mean()
    centred = centred / centred.trace()
    return torch.stack([centred.square().sum(), ((centred @ centred) * centred).sum()])


def _features(draws: Tensor) -> Tensor:
    if draws.ndim != 3:
        raise ValueError(f"draws of shape (chain, draw, dim) are wanted, not {tuple(draws.shape)}")
    centred = _finite(draws) - draws.double().mean(dim=(0, 1))
    squares = centred.square()
    return torch.cat([centred, squares - squares.mean(dim=(0, 1))], dim=-1)


def _mean_scores(samples: Tensor, truth: Tensor | float) -> tuple[Tensor, int]:
    matrix = _matrix(samples)
    target = torch.as_tensor(truth, dtype=torch.float64).expand(samples.shape[1:]).reshape(-1)
    return _ratio(matrix.mean(dim=0) - target, _standard_error(matrix)), len(samples) - 1


def _standard_error(matrix: Tensor) -> Tensor:
    """Monte-Carlo error, and the rounding error of a component that does not vary at all."""
    rounding = 8 * torch.finfo(torch.float64).eps * matrix.abs().amax(dim=0)
    return matrix.std(dim=0) / math.sqrt(len(matrix)) + rounding


def _matrix(samples: Tensor) -> Tensor:
    if len(samples) < 2:
        raise ValueError("at least 2 samples along the first axis are needed for an error bar")
    return _finite(samples).reshape(len(samples), -1)


def _finite(samples: Tensor) -> Tensor:
    if not bool(torch.isfinite(samples).all()):
        raise Rejected("There are NaN or infinite values among the samples.")
    return samples.detach().double()


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient with 0/0 = 0, and infinity where a nonzero error has no error bar."""
    return torch.where(numerator == 0, torch.zeros_like(numerator), numerator / denominator)


def _assert_small(z: Tensor, degrees: int, what: str) -> None:
    bound = float(stats.t(degrees).isf(TEST_FAILURE_RATE / (2 * z.numel())))
    worst = int(z.abs().argmax())
    if not bool(z.abs().max() < bound):
        raise Rejected(
            f"The {what} of component {worst} is {z[worst]:.2f} standard errors from the truth; "
            f"the bound is {bound:.2f} for {z.numel()} components and {degrees + 1} samples."
        )
