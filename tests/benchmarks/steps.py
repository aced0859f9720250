"""Langevin and MALA steps a second on the MLP energy."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.processes import Limits, run_worker
from tests.benchmarks.roster import STEP_CHAIN_COUNTS, STEP_ENGINES, Engine
from tests.benchmarks.targets import mlp

STEP_SIZE = 0.1
KEPT = 10
"""Draws that are stored of a run, so that storage costs nobody anything."""
DIM = 64
CHAIN_STEPS = 1_000_000
"""Steps of all chains together in one run."""


class Speed(NamedTuple):
    """Steps of all chains together in a second, of each run."""

    engine: str
    chains: int
    speeds: tuple[float, ...] = ()
    compile_seconds: float | None = None
    stolen: float | None = None
    """The largest share of the processors' time that other guests of the machine had in a run."""
    failure: str = ""

    @property
    def speed(self) -> float:
        """The median."""
        return statistics.median(self.speeds)


def num_steps(chains: int) -> int:
    """A multiple of what is kept."""
    return max(20, CHAIN_STEPS // chains // KEPT) * KEPT


def measure(engines: list[Engine], limits: Limits, folder: Path) -> Iterator[Speed]:
    """All engines at all numbers of chains."""
    for chains in STEP_CHAIN_COUNTS:
        for engine in engines:
            shutil.rmtree(folder, ignore_errors=True)  # with the caches of the last engine
            steps = num_steps(chains)
            answer = run_worker(engine, mlp(DIM, steps), chains, limits, folder)
            if "failure" in answer:
                yield Speed(engine.key, chains, failure=answer["failure"])
                continue
            speeds = tuple(chains * steps / run["seconds"] for run in answer["runs"])
            stolen = max(run["stolen"] for run in answer["runs"])
            yield Speed(engine.key, chains, speeds, answer["compile_seconds"], stolen)


def chosen(keys: list[str]) -> list[Engine]:
    """Engines of this table by name; all of them if none is named."""
    return [engine for engine in STEP_ENGINES if not keys or engine.key in keys]
