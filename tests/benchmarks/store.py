"""``out/benchmarks/results.json`` and the chain counts found by the search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.growth import Point
from tests.benchmarks.machine import description, load
from tests.benchmarks.rows import Row, from_json, to_json
from tests.benchmarks.steps import Speed

CHAIN_COUNTS_FILE = Path(__file__).with_name("chain_counts.json")


class Results(NamedTuple):
    """Everything the report needs. ``searched`` are the rows that the search compared.

    ``sessions`` counts the runs of the command whose rows are here: one, unless a part, engines or
    targets were measured again by name. ``settings`` are those of the latest.
    """

    machine: dict[str, str]
    rows: list[Row]
    searched: list[Row]
    speeds: list[Speed]
    points: list[Point]
    growth_failures: dict[str, str]
    settings: dict[str, Any]
    sessions: int = 0


def empty(settings: dict[str, Any]) -> Results:
    """Before anything is measured."""
    machine = description() | {"Load at the start": f"{load():.1f}"}
    return Results(machine, [], [], [], [], {}, settings)


def write(results: Results, path: Path) -> None:
    """Replace the file."""
    found = results._asdict() | {
        "rows": [to_json(row) for row in results.rows],
        "searched": [to_json(row) for row in results.searched],
        "speeds": [speed._asdict() for speed in results.speeds],
        "points": [point._asdict() for point in results.points],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))


def read(path: Path) -> Results:
    """Inverse of :func:`write`."""
    found = json.loads(path.read_text())
    return Results(**found)._replace(
        rows=[from_json(row) for row in found["rows"]],
        searched=[from_json(row) for row in found["searched"]],
        speeds=[Speed(**s)._replace(speeds=tuple(s["speeds"])) for s in found["speeds"]],
        points=[Point(**point) for point in found["points"]],
    )


def updated(rows: list[Row], row: Row) -> list[Row]:
    """With the row in place of an older one of the same engine, target and chains."""

    def key(row: Row) -> tuple[str, str, int]:
        return row.engine, row.target, row.chains

    return [other for other in rows if key(other) != key(row)] + [row]


def best_chains(engine: str, target: str, default: int) -> int:
    """What the search found."""
    if not CHAIN_COUNTS_FILE.exists():
        return default
    counts = json.loads(CHAIN_COUNTS_FILE.read_text())
    return int(counts.get(engine, {}).get(target, default))


def remember(searched: list[Row]) -> None:
    """Write the fastest number of chains among those that count, else among all.

    What the file says of those that were not searched stays.
    """
    counts: dict[str, dict[str, int]] = {}
    if CHAIN_COUNTS_FILE.exists():
        counts = json.loads(CHAIN_COUNTS_FILE.read_text())
    for row in searched:
        counts.get(row.engine, {}).pop(row.target, None)
    for row in searched:
        rivals = [r for r in searched if (r.engine, r.target) == (row.engine, row.target)]
        ended = [r for r in rivals if not r.failure]
        if ended:
            best = max([r for r in ended if r.counts] or ended, key=lambda r: r.speed)
            counts.setdefault(row.engine, {})[row.target] = best.chains
    CHAIN_COUNTS_FILE.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
