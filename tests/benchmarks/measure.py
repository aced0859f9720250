"""How good draws are: ArviZ's bulk ESS and R-hat of all parameters and of their squares."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import arviz as az
import numpy as np

Array = np.ndarray[Any, Any]


class Statistic(NamedTuple):
    """Of one scalar function of the draws."""

    name: str
    ess: float
    r_hat: float
    mean: float
    sd: float


class Quality(NamedTuple):
    """Of one run. ``slowest`` names the scalar with the smallest ESS."""

    ess: float
    r_hat: float
    slowest: str
    statistics: dict[str, Statistic]


def scalars(draws: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Each coordinate ``(chain, draw)`` and its square."""
    for name, value in draws.items():
        flat = value.reshape(*value.shape[:2], -1).astype(np.float64)
        for index in range(flat.shape[-1]):
            label = f"{name}[{index}]" if value.ndim > 2 else name
            yield label, flat[..., index]
            yield f"{label}^2", flat[..., index] ** 2


def quality(draws: dict[str, Array], processes: int = 1) -> Quality:
    """The smallest ESS and the largest R-hat; NaN where a draw is not finite."""
    named = list(scalars(draws))
    if processes == 1:
        found = [_statistic(pair) for pair in named]
    else:
        with ProcessPoolExecutor(processes) as pool:
            found = list(pool.map(_statistic, named, chunksize=4))
    slowest = min(found, key=lambda s: s.ess if np.isfinite(s.ess) else -1.0)
    r_hats = [s.r_hat for s in found]
    return Quality(slowest.ess, float(np.max(r_hats)), slowest.name, {s.name: s for s in found})


def quality_of_file(path: Path, processes: int = 1) -> Quality:
    """Of the draws a worker left."""
    with np.load(path) as file:
        return quality({name: file[name] for name in file.files}, processes)


def pooled(runs: list[dict[str, Statistic]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each scalar over runs, weighted by ESS."""
    reference = {}
    for name in runs[0]:
        found = [run[name] for run in runs if name in run]
        weights = np.array([s.ess for s in found])
        weights /= weights.sum()
        mean = float(weights @ [s.mean for s in found])
        reference[name] = mean, float(weights @ [s.sd for s in found])
    return reference


def largest_error(
    statistics: dict[str, Statistic], reference: dict[str, tuple[float, float]]
) -> float:
    """Largest distance between means in standard deviations of the reference."""
    return max(
        abs(statistics[name].mean - mean) / sd
        for name, (mean, sd) in reference.items()
        if name in statistics
    )


def _statistic(pair: tuple[str, Array]) -> Statistic:
    name, values = pair
    if not np.isfinite(values).all():
        return Statistic(name, float("nan"), float("nan"), float("nan"), float("nan"))
    ess, r_hat = float(az.ess(values)), float(az.rhat(values))
    return Statistic(name, ess, r_hat, float(values.mean()), float(values.std()))
