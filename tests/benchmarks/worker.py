"""One engine on one target in a process of its own: the last line printed is one JSON object.

The draws of each run go to ``.npz`` files that the parent analyses; nothing but the engine is
imported here before the clock starts.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.contract import Prepared, Settings
from tests.benchmarks.roster import ENGINES_FOLDER
from tests.benchmarks.targets import load
from tests.benchmarks.timing import kept, timed_runs


def main() -> None:
    """Prepare, run, report."""
    arguments = _arguments()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    module, _, function = arguments.entry.partition(":")
    target = load(arguments.data, arguments.builder, is_energy=arguments.is_energy)
    settings = Settings(arguments.chains, arguments.draws, arguments.threads)
    prepare = getattr(importlib.import_module(f"{ENGINES_FOLDER}.{module}"), function)
    prepared = prepare(target, settings)
    print()
    print(json.dumps(_outcome(prepared, arguments)))
    sys.stdout.flush()


def _outcome(prepared: Prepared, arguments: argparse.Namespace) -> dict[str, Any]:
    limits = arguments.runs, arguments.budget, arguments.seed
    runs = timed_runs(prepared.run, *limits, arguments.out)
    return {
        "compile_seconds": prepared.compile_seconds + runs[0].compile_seconds,
        "dtype": prepared.dtype,
        "settings": prepared.settings,
        "versions": {name: importlib.metadata.version(name) for name in arguments.packages},
        "runs": [run._asdict() for run in kept(runs)],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--builder", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--is-energy", action="store_true")
    parser.add_argument("--chains", type=int, required=True)
    parser.add_argument("--draws", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--budget", type=float, required=True, help="no further run after this")
    parser.add_argument("--packages", nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
