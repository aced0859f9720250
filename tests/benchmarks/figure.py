"""The pictures of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from tests.benchmarks.growth import KERNELS, Point, against_chains, against_dims
from tests.benchmarks.rows import Row

mpl.use("Agg")
OURS, THEIRS = "#c44e52", "#8c9bb0"
RESOLUTION = 120


def speeds(
    rows: Sequence[Row], titles: Mapping[str, str], targets: Mapping[str, str], path: Path
) -> None:
    """Bars on a logarithmic axis, one panel for each target; only rows that count."""
    shown = [name for name in targets if any(r.target == name and r.counts for r in rows)]
    if not shown:
        return
    figure, axes = plt.subplots(
        len(shown), 1, figsize=(8, 0.7 + 2.1 * len(shown)), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[:, 0], shown, strict=True):
        counted = [row for row in rows if row.target == name and row.counts]
        ranked = sorted(counted, key=lambda row: row.speed)
        low, high = zip(*(row.spread for row in ranked), strict=True)
        values = [row.speed for row in ranked]
        errors = [
            [v - x for v, x in zip(values, low, strict=True)],
            [x - v for v, x in zip(values, high, strict=True)],
        ]
        colours = [OURS if row.engine.startswith("ours") else THEIRS for row in ranked]
        axis.barh([titles[row.engine] for row in ranked], values, xerr=errors, color=colours)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_minor_formatter(NullFormatter())  # its numbers would overlap
        axis.set_title(targets[name], fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
    axes[-1, 0].set_xlabel("effective draws a second (worst parameter or square)")
    _save(figure, path)


def growth(points: Sequence[Point], path: Path) -> None:
    """Time of one draw and of one gradient against chains and against dimension."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for kernel in KERNELS:
        _curve(axes[0], kernel, against_chains(points, kernel), "chains")
        _curve(axes[1], kernel, against_dims(points, kernel), "dim")
    for axis, label in zip(axes, ("chains (10-D)", "dimension (64 chains)"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds, all chains together")
    axes[0].legend(fontsize=8)
    _save(figure, path)


def _curve(axis: Any, kernel: str, points: Sequence[Point], field: str) -> None:
    sizes = [getattr(point, field) for point in points]
    draws = [1e3 * point.seconds for point in points]
    gradients = [1e3 * point.seconds / point.num_gradients for point in points]
    (drawn,) = axis.plot(sizes, draws, "o-", label=f"{kernel}, one draw")
    if gradients != draws:
        label = f"{kernel}, one gradient"
        axis.plot(sizes, gradients, "s--", color=drawn.get_color(), label=label)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=RESOLUTION, metadata={"Software": None})
    plt.close(figure)
