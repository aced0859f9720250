"""Unbiased squared maximum mean discrepancy to clustered data, with a paired standard error."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCKS = 20


class MMDComparison(NamedTuple):
    """Squared MMD of a candidate and of a reference to the same held-out data."""

    candidate: float
    reference: float
    difference: float
    """Mean over blocks of candidate minus reference."""
    standard_error: float

    @property
    def z(self) -> float:
        """Difference in standard errors; below -3 the candidate is closer."""
        return self.difference / self.standard_error


def compare_mmd(candidate: Tensor, reference: Tensor, held_out: Tensor) -> MMDComparison:
    r"""Compare two samples ``(draws, n)`` with data ``(cluster, draw, n)``.

    .. math:: \mathrm{MMD}^2 = E k(y, y') - 2 E k(y, h) + E k(h, h'),

    with a Gaussian kernel of median bandwidth. Samples and clusters are dealt out to 20 disjoint
    blocks; every block gives an unbiased estimate for both samples with the *same* held-out
    clusters, so that the standard error of the mean difference counts draws of one cluster as
    what they are: not independent.
    """
    bandwidth = median_distance(held_out.flatten(0, 1))
    rows = [
        _block(c, r, h, bandwidth)
        for c, r, h in zip(
            candidate.tensor_split(_BLOCKS),
            reference.tensor_split(_BLOCKS),
            held_out[torch.randperm(len(held_out))].tensor_split(_BLOCKS),
            strict=True,
        )
    ]
    values = torch.tensor(rows, dtype=torch.float64)
    differences = values[:, 0] - values[:, 1]
    return MMDComparison(
        float(values[:, 0].mean()),
        float(values[:, 1].mean()),
        float(differences.mean()),
        float(differences.std() / math.sqrt(_BLOCKS)),
    )


def median_distance(points: Tensor) -> float:
    """Median distance between points, of at most 1000 of them."""
    chosen = points[torch.randperm(len(points))[:1000]]
    return float(torch.pdist(chosen).median())


def _block(c: Tensor, r: Tensor, held_out: Tensor, bandwidth: float) -> tuple[float, float]:
    cluster = torch.arange(len(held_out)).repeat_interleave(held_out.shape[1])
    points = held_out.flatten(0, 1)
    within = _kernel(points, points, bandwidth)[cluster[:, None] != cluster[None, :]].mean()
    return _squared(c, points, within, bandwidth), _squared(r, points, within, bandwidth)


def _squared(sample: Tensor, points: Tensor, within: Tensor, bandwidth: float) -> float:
    num = len(sample)
    gram = _kernel(sample, sample, bandwidth)
    between_draws = (gram.sum() - gram.diagonal().sum()) / (num * (num - 1))
    return float(between_draws - 2.0 * _kernel(sample, points, bandwidth).mean() + within)


def _kernel(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    return torch.exp(-torch.cdist(a, b).square() / (2.0 * bandwidth**2))
