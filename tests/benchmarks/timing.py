"""Runs under the clock, made again where others had the processors of the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.benchmarks.contract import Run
from tests.benchmarks.machine import stolen_seconds

MOST_STOLEN = 0.05
"""Share of the processors' time that other guests of a virtual machine had, in a quiet run."""

PATIENCE = 2.0
"""Budgets that may be spent on all runs, those that are not quiet included."""


class Timed(NamedTuple):
    """One run. ``cores`` is processor time over time; ``draws`` is a file."""

    seconds: float
    cores: float
    stolen: float
    num_gradients: int | None
    compile_seconds: float
    draws: str


def quiet_runs(
    make: Callable[[int], Run], wanted: int, budget: float, seed: int, folder: Path
) -> list[Timed]:
    """So many runs as are wanted, fewer if they take longer than the budget.

    What is not quiet is made again; if no run was quiet, all of them are given.
    """
    runs: list[Timed] = []
    while True:
        number = len(runs)
        runs.append(_timed(make, seed + number, folder / f"draws_{number}.npz"))
        quiet = [run for run in runs if run.stolen <= MOST_STOLEN]
        if len(quiet) == wanted or _seconds(quiet) > budget or _seconds(runs) > PATIENCE * budget:
            return quiet or runs


def _timed(make: Callable[[int], Run], seed: int, path: Path) -> Timed:
    started, cpu_started, stolen = time.perf_counter(), _cpu_seconds(), stolen_seconds()
    run = make(seed)
    wall, cpu = time.perf_counter() - started, _cpu_seconds() - cpu_started
    stolen = stolen_seconds() - stolen
    np.savez(path, **run.draws)
    return Timed(
        seconds=wall - run.compile_seconds,
        cores=(cpu + run.other_cpu_seconds) / wall,
        stolen=stolen / (wall * (os.cpu_count() or 1)),
        num_gradients=run.num_gradients,
        compile_seconds=run.compile_seconds,
        draws=str(path),
    )


def _seconds(runs: list[Timed]) -> float:
    return sum(run.seconds for run in runs)


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    return sum(os.times()[:4])
