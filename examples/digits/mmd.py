"""Unbiased squared maximum mean discrepancy to clustered data, with a paired standard error."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ROWS = 2000
"""Rows of a kernel matrix to hold at a time."""


class MMDComparison(NamedTuple):
    """Squared MMD of a candidate and of a reference to the same held-out data."""

    candidate: float
    reference: float
    standard_error: float
    """Of the paired difference."""

    @property
    def difference(self) -> float:
        """Candidate minus reference."""
        return self.candidate - self.reference

    @property
    def z(self) -> float:
        """Difference in standard errors; below -3 the candidate is closer."""
        return self.difference / self.standard_error


def compare_mmd(
    candidates: dict[str, Tensor], reference: Tensor, held_out: Tensor
) -> dict[str, MMDComparison]:
    r"""Compare samples ``(draws, n)`` with data ``(cluster, draw, n)``.

    .. math:: \mathrm{MMD}^2 = E k(y, y') - 2 E k(y, h) + E k(h, h'),

    with a Gaussian kernel of median bandwidth, without the pairs of a draw with itself and
    those within one cluster. The last term cancels in the difference. Its standard error is
    that of the first-order (Hoeffding) projections on the candidate, the reference and the
    clusters, so that draws of one digit count as what they are: not independent.

    References:
        Gretton et al. (2012), A kernel two-sample test, lemma 6 and section 4.
    """
    points = held_out.flatten(0, 1)
    width = median_distance(points)
    within = _between_clusters(held_out, width)
    r = _Terms.of(reference, points, width)
    comparisons = {}
    for name, candidate in candidates.items():
        c = _Terms.of(candidate, points, width)
        per_cluster = (c.at_points - r.at_points).reshape(held_out.shape[:2]).mean(dim=1)
        variance = c.variance() + r.variance() + 4.0 * per_cluster.var() / len(held_out)
        comparisons[name] = MMDComparison(
            c.squared() + within, r.squared() + within, math.sqrt(float(variance))
        )
    return comparisons


def median_distance(points: Tensor) -> float:
    """Median distance between points, of at most 2000 of them."""
    chosen = points[torch.randperm(len(points))[:2000]]
    return float(torch.pdist(chosen).median())


class _Terms(NamedTuple):
    """Mean kernels of one sample."""

    to_itself: Tensor
    """For each draw the mean kernel to the other draws."""
    to_points: Tensor
    """For each draw the mean kernel to the data."""
    at_points: Tensor
    """For each datum the mean kernel to the draws."""

    @staticmethod
    def of(sample: Tensor, points: Tensor, width: float) -> _Terms:
        """Compute them in float64."""
        num = len(sample)
        to_itself = (_row_means(sample, sample, width) * num - 1.0) / (num - 1)
        return _Terms(
            to_itself, _row_means(sample, points, width), _row_means(points, sample, width)
        )

    def squared(self) -> float:
        """The part of the squared MMD that depends on the sample."""
        return float(self.to_itself.mean() - 2.0 * self.to_points.mean())

    def variance(self) -> Tensor:
        """Variance of that part that comes from the draws."""
        return 4.0 * (self.to_itself - self.to_points).var() / len(self.to_itself)


def _between_clusters(held_out: Tensor, width: float) -> float:
    """Mean kernel of data of different clusters."""
    num, points = len(held_out), held_out.flatten(0, 1)
    everywhere = _row_means(points, points, width).mean()
    inside = torch.stack([_row_means(cluster, cluster, width).mean() for cluster in held_out])
    return float((everywhere * num - inside.mean()) / (num - 1))


def _row_means(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Mean over ``b`` of the kernel at each row of ``a``, in float64."""
    a, b = a / width, b / width
    offset = -0.5 * b.square().sum(dim=1)
    parts = [
        torch.addmm(offset - 0.5 * rows.square().sum(dim=1, keepdim=True), rows, b.mT)
        .exp_()
        .mean(dim=1)
        .double()
        for rows in a.split(_ROWS)
    ]
    return torch.cat(parts)
