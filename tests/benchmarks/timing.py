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

MOST_RUNS = 2
"""Times the runs that are wanted: how many are made at most."""


class Timed(NamedTuple):
    """One run. ``cores`` is processor time over time; ``draws`` is a file."""

    seconds: float
    cores: float
    stolen: float
    num_gradients: int | None
    compile_seconds: float
    draws: str


def timed_runs(
    make: Callable[[int], Run], wanted: int, budget: float, seed: int, folder: Path
) -> list[Timed]:
    """Runs until so many are quiet as are wanted, or all of them took longer than the budget."""
    runs: list[Timed] = []
    for number in range(MOST_RUNS * wanted):
        runs.append(_timed(make, seed + number, folder / f"draws_{number}.npz"))
        if len(_quiet(runs)) == wanted or sum(run.seconds for run in runs) > budget:
            break
    return runs


def kept(runs: list[Timed]) -> list[Timed]:
    """The quiet runs; all of them if none was quiet."""
    return _quiet(runs) or runs


def _quiet(runs: list[Timed]) -> list[Timed]:
    return [run for run in runs if run.stolen <= MOST_STOLEN]


def _timed(make: Callable[[int], Run], seed: int, path: Path) -> Timed:
    started, cpu_started, stolen = time.perf_counter(), _cpu_seconds(), stolen_seconds()
    run = make(seed)
    wall, cpu = time.perf_counter() - started, _cpu_seconds() - cpu_started
    stolen = stolen_seconds() - stolen
    np.savez(path, **run.draws)
    seconds = wall - run.compile_seconds
    return Timed(
        seconds=seconds,
        cores=cpu / wall,
        # What was stolen while it compiled is counted too: better to run once more than to trust.
        stolen=stolen / (seconds * (os.cpu_count() or 1)),
        num_gradients=run.num_gradients,
        compile_seconds=run.compile_seconds,
        draws=str(path),
    )


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    return sum(os.times()[:4])
