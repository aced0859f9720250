"""``python -m tests.benchmarks``: pyro_ebm and its peers on the same machine in one run.

``run`` (the default) measures everything, every engine with its best number of chains, and writes
``docs/benchmarks.md``; ``search`` finds those numbers anew, which takes longer; ``report`` only
writes the page again. ``effective``, ``steps`` and ``growth`` measure one part of what ``run``
measures. Naming engines or targets measures those and keeps the other results.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import growth, report, steps, store
from tests.benchmarks.processes import Limits, run_worker
from tests.benchmarks.roster import ENGINES, Engine
from tests.benchmarks.rows import Row, analysed
from tests.benchmarks.targets import Target, all_targets

OUT = Path("out/benchmarks")
RESULTS = OUT / "results.json"
DEFAULT_CHAINS = 64
LONGEST_SEARCH = 60.0
"""Seconds: a search goes on to more chains while they are expected to stay below."""
SETTINGS = ("runs", "threads", "budget", "timeout")


def main() -> None:
    """Measure and write the page."""
    arguments = _arguments()
    # Workers are sessions of their own; the exception ends the one that runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    limits = Limits(*(getattr(arguments, name) for name in SETTINGS))
    results = store.read(RESULTS) if RESULTS.exists() else store.empty(limits._asdict())
    if arguments.command in AFRESH and not _names(arguments):
        fresh = store.empty(limits._asdict())
        keeps = {"searched": results.searched} if arguments.command == "run" else {}
        results = fresh._replace(**keeps)
    if COMMANDS[arguments.command]:
        results = results._replace(settings=limits._asdict(), sessions=results.sessions + 1)
    for part in COMMANDS[arguments.command]:
        if _names(arguments) <= part.named_by:
            results = part.measure(arguments, limits, results)
            store.write(results, RESULTS)
    report.write(results, arguments.docs)


def _names(arguments: argparse.Namespace) -> set[str]:
    """What was named on the command line."""
    return {name for name in ("engines", "targets") if getattr(arguments, name)}


def _effective(
    arguments: argparse.Namespace, limits: Limits, results: store.Results
) -> store.Results:
    """Effective draws a second."""
    for target, engine in _pairs(arguments):
        default = DEFAULT_CHAINS if len(engine.chain_counts) > 1 else engine.chain_counts[0]
        chains = store.best_chains(engine.key, target.name, default)
        row = _measured(engine, target, chains, limits)
        kept = [r for r in results.rows if (r.engine, r.target) != (row.engine, row.target)]
        results = results._replace(rows=[*kept, row])
        store.write(results, RESULTS)
    return results


def _steps(arguments: argparse.Namespace, limits: Limits, results: store.Results) -> store.Results:
    """Steps a second, which have one target."""
    for speed in steps.measure(steps.chosen(arguments.engines), limits, OUT / "steps"):
        print(report.line_of_steps(speed), flush=True)
        kept = [s for s in results.speeds if (s.engine, s.chains) != (speed.engine, speed.chains)]
        results = results._replace(speeds=[*kept, speed])
        store.write(results, RESULTS)
    return results


def _growth(arguments: argparse.Namespace, limits: Limits, results: store.Results) -> store.Results:
    """How the time of our own kernels grows."""
    points, failures = growth.measure(limits, OUT / "growth")
    return results._replace(points=points, growth_failures=failures)


def _search(arguments: argparse.Namespace, limits: Limits, results: store.Results) -> store.Results:
    """The best number of chains of each engine."""
    for target, engine in _pairs(arguments):
        expected = 0.0
        for chains in engine.chain_counts:
            if expected > LONGEST_SEARCH:
                reason = f"not run: about {expected:.0f} s expected"
                row = Row(engine.key, target.name, chains, failure=reason)
            else:
                row = _measured(engine, target, chains, limits._replace(runs=1))
                # Four times as many chains take four times as long once a core is busy.
                expected = LONGEST_SEARCH + 1 if row.failure else 4 * row.seconds
            results = results._replace(searched=store.updated(results.searched, row))
            store.write(results, RESULTS)
    store.remember(results.searched)
    return results


class Part(NamedTuple):
    """A part of what can be measured."""

    measure: Callable[[argparse.Namespace, Limits, store.Results], store.Results]
    named_by: set[str]
    """Names on the command line that choose among its rows; without them it is left out."""


EFFECTIVE = Part(_effective, {"engines", "targets"})
STEPS = Part(_steps, {"engines"})
GROWTH = Part(_growth, set())
SEARCH = Part(_search, {"engines", "targets"})
COMMANDS = {
    "run": (EFFECTIVE, STEPS, GROWTH),
    "effective": (EFFECTIVE,),
    "steps": (STEPS,),
    "growth": (GROWTH,),
    "search": (SEARCH,),
    "report": (),
}
AFRESH = ("run", "search")
"""What begins without the results there are."""


def _pairs(arguments: argparse.Namespace) -> list[tuple[Target, Engine]]:
    targets = [t for t in all_targets() if not arguments.targets or t.name in arguments.targets]
    engines = [e for e in ENGINES if not arguments.engines or e.key in arguments.engines]
    return [(t, e) for t in targets for e in engines if not e.targets or t.name in e.targets]


def _measured(engine: Engine, target: Target, chains: int, limits: Limits) -> Row:
    folder = OUT / "draws"
    try:
        row = analysed(run_worker(engine, target, chains, limits, folder), limits.threads)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(report.line(row), flush=True)
    return row


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", nargs="?", default="run", choices=COMMANDS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="*", default=[])
    parser.add_argument("--targets", nargs="*", default=[])
    parser.add_argument("--budget", type=float, default=60.0, help="no further run after this")
    parser.add_argument("--timeout", type=float, default=240.0)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the page goes")
    arguments = parser.parse_args()
    arguments.runs = 1 if arguments.quick else arguments.runs
    parts = COMMANDS[arguments.command]
    for name in _names(arguments).difference(*(part.named_by for part in parts)):
        parser.error(
            f"--{name} does not choose among the rows of {arguments.command}: leave it out."
        )
    return arguments


if __name__ == "__main__":
    main()
