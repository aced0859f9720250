"""Our samplers in this process, or on ranks of ``torch.distributed``, one for each thread."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.targets import Target

Sample = Callable[[int], Run]
"""Makes a run with a seed."""


def prepared(
    make: Callable[..., Sample],
    kernel: str,
    target: Target,
    settings: Settings,
    options: dict[str, Any],
    *notes: str,
) -> Prepared:
    """What ``make(kernel, target, settings, options)`` gives; ``options`` are those of ``MCMC``."""
    arguments = kernel, target, settings, options
    how = ["compile=True" if options.get("compile") else "eager", *notes]
    with timed() as first:
        if options.get("distributed"):
            how.append(f"{settings.threads} ranks of one thread")
            run = shared(settings.threads, make, *arguments)
        else:
            run = make(*arguments)
    return Prepared(run, first.seconds, "float32", ", ".join(how))


def shared(num_ranks: int, make: Callable[..., Sample], *arguments: Any) -> Sample:
    """What ``make(*arguments)`` gives, made and called on all ranks; the answer of the first.

    ``make`` must be importable by its name, since the other ranks are new processes.
    """
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    meeting = Path(folder) / "ranks"
    spawn = multiprocessing.get_context("spawn")
    for rank in range(1, num_ranks):
        place = rank, num_ranks, meeting
        spawn.Process(target=_follow, args=(place, make, arguments), daemon=True).start()
    _join(0, num_ranks, meeting)
    sample = make(*arguments)
    return lambda seed: _together(sample, seed)


def _follow(place: tuple[int, int, Path], make: Callable[..., Sample], arguments: Any) -> None:
    """Do what the first rank does, until it ends this process."""
    _join(*place)
    sample = make(*arguments)
    while True:
        _together(sample, 0)


def _join(rank: int, num_ranks: int, meeting: Path) -> None:
    torch.set_num_threads(1)
    url = f"file://{meeting}"
    distributed.init_process_group("gloo", init_method=url, rank=rank, world_size=num_ranks)


def _together(sample: Sample, seed: int) -> Run:
    """A run with the seed of the first rank; the others' processor time is added to its own."""
    told = torch.tensor([seed])
    distributed.broadcast(told, 0)
    before = _cpu_seconds()
    run = sample(int(told))
    spent = torch.tensor([_cpu_seconds() - before], dtype=torch.float64)
    everyone = spent.clone()
    distributed.all_reduce(everyone)
    # The ranks compile at the same time, and the first waits for the last.
    compiling = torch.tensor([run.compile_seconds], dtype=torch.float64)
    distributed.all_reduce(compiling, distributed.ReduceOp.MAX)
    return run._replace(compile_seconds=float(compiling), other_cpu_seconds=float(everyone - spent))


def _cpu_seconds() -> float:
    return sum(os.times()[:2])
