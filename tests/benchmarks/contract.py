"""What an engine is: a function ``prepare(target, settings) -> Prepared``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Settings(NamedTuple):
    """What the parent process decides for every engine alike."""

    num_chains: int
    num_draws: int
    threads: int


class Run(NamedTuple):
    """One run: draws ``(chain, draw, *event)`` by site, in the constrained space.

    ``num_gradients`` belongs to the kept draws of all chains, warm-up left out.
    ``compile_seconds`` is what of the time of this very run went into compiling.
    """

    draws: dict[str, Array]
    num_gradients: int | None
    compile_seconds: float = 0.0


class Prepared(NamedTuple):
    """An engine that is compiled for one target and ready to run with a seed."""

    run: Callable[[int], Run]
    compile_seconds: float
    dtype: str
    settings: str


class Stopwatch:
    """Seconds of a ``with timed()`` block, once it is left."""

    seconds = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Measure the block."""
    watch, started = Stopwatch(), time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - started
