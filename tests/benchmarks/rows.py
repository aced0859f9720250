"""Results as the report reads them, and as they lie in ``results.json``."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.measure import Quality, Statistic, quality_of_file

MOST_R_HAT = 1.01


class Measured(NamedTuple):
    """One run of one engine on one target. ``cores`` is processor time over time.

    ``stolen`` is the share of the processors' time that other guests of the machine had.
    """

    seconds: float
    cores: float
    num_gradients: int | None
    ess: float
    r_hat: float
    slowest: str
    stolen: float | None = None

    @property
    def speed(self) -> float:
        """Effective draws a second, warm-up included."""
        return self.ess / self.seconds


class Row(NamedTuple):
    """One engine on one target with its best number of chains."""

    engine: str
    target: str
    chains: int
    dtype: str = ""
    settings: str = ""
    versions: dict[str, str] = {}  # noqa: RUF012  # never changed
    compile_seconds: float | None = None
    runs: tuple[Measured, ...] = ()
    statistics: dict[str, Statistic] = {}  # noqa: RUF012  # never changed
    failure: str = ""

    @property
    def speed(self) -> float:
        """Median of the effective draws a second."""
        return statistics.median(run.speed for run in self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        """Slowest and fastest run."""
        speeds = [run.speed for run in self.runs]
        return min(speeds), max(speeds)

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def stolen(self) -> float | None:
        """The largest of all runs, if it was measured."""
        return max((run.stolen for run in self.runs if run.stolen is not None), default=None)

    @property
    def r_hat(self) -> float:
        """The largest of all runs."""
        return max(run.r_hat for run in self.runs)

    @property
    def ess_per_thousand_gradients(self) -> float | None:
        ratios = [1000 * r.ess / r.num_gradients for r in self.runs if r.num_gradients]
        return statistics.median(ratios) if ratios else None

    @property
    def counts(self) -> bool:
        """Whether the row may be compared: all runs ended, finite and with a small R-hat."""
        return not self.failure and all(run.r_hat <= MOST_R_HAT for run in self.runs)

    @property
    def why_not(self) -> str:
        """Why it does not count."""
        if self.failure:
            return self.failure
        return "" if self.counts else f"R-hat {self.r_hat:.3f}"


def analysed(answer: dict[str, Any], processes: int) -> Row:
    """A worker's answer with ESS and R-hat of the draws that it left; the draws are deleted."""
    if "failure" in answer:
        return Row(**answer)
    measured: list[Measured] = []
    found: dict[str, Statistic] = {}
    for run in answer.pop("runs"):
        path = Path(run.pop("draws"))
        run.pop("compile_seconds")
        quality: Quality = quality_of_file(path, processes)
        path.unlink()
        found = found or quality.statistics
        measured.append(Measured(**run, **_summary(quality)))
    return Row(**answer, runs=tuple(measured), statistics=found)


def to_json(row: Row) -> dict[str, Any]:
    """Plain dicts and lists."""
    return row._asdict() | {
        "runs": [run._asdict() for run in row.runs],
        "statistics": {name: list(value) for name, value in row.statistics.items()},
    }


def from_json(found: dict[str, Any]) -> Row:
    """Inverse of :func:`to_json`."""
    return Row(**found)._replace(
        runs=tuple(Measured(**run) for run in found["runs"]),
        statistics={name: Statistic(*value) for name, value in found["statistics"].items()},
    )


def _summary(quality: Quality) -> dict[str, Any]:
    return {"ess": quality.ess, "r_hat": quality.r_hat, "slowest": quality.slowest}
