"""How the time of a draw grows with the number of chains and with the dimension."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.processes import Limits, run_module

KERNELS = ("NUTS", "MALA")
CHAINS = (1, 4, 16, 64, 256, 1024, 4096)
DIMS = (2, 10, 100, 1000, 10_000)
FIXED_DIM, FIXED_CHAINS = 10, 64
TIMEOUT = 600.0


class Point(NamedTuple):
    """Seconds that one more draw of all chains takes, and its gradients of one chain."""

    kernel: str
    chains: int
    dim: int
    seconds: float
    num_gradients: float


def measure(limits: Limits, folder: Path) -> tuple[list[Point], dict[str, str]]:
    """All points, and by kernel the reason why there are none."""
    points: list[Point] = []
    failures = {}
    for kernel in KERNELS:
        module = "tests.benchmarks.engines.ours_growth"
        answer = run_module(module, [kernel], limits._replace(timeout=TIMEOUT), folder)
        if "failure" in answer:
            failures[kernel] = answer["failure"]
        else:
            points += [Point(**point) for point in answer["points"]]
    return points, failures


def against_chains(points: Sequence[Point], kernel: str) -> list[Point]:
    """The points of one kernel at the fixed dimension."""
    return [p for p in points if p.kernel == kernel and p.dim == FIXED_DIM]


def against_dims(points: Sequence[Point], kernel: str) -> list[Point]:
    """The points of one kernel at the fixed number of chains."""
    found = [p for p in points if p.kernel == kernel and p.chains == FIXED_CHAINS]
    return sorted(found, key=lambda p: p.dim)


def turning_size(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Size at which the linear part of the cost equals the fixed part.

    The fixed part is the time at the smallest size, the cost of one unit is taken at the
    largest. Far below the result more is nearly free, far above it time is linear.
    """
    return sizes[-1] * seconds[0] / seconds[-1]
