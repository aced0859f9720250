"""Markdown tables of the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.benchmarks.goals import Verdict
from tests.benchmarks.measure import largest_error, pooled
from tests.benchmarks.roster import ENGINES, STEP_CHAIN_COUNTS, STEP_ENGINES
from tests.benchmarks.rows import Row
from tests.benchmarks.steps import DIM, Speed
from tests.benchmarks.targets import all_targets

TITLES = {engine.key: engine.title for engine in ENGINES + STEP_ENGINES}
TARGETS = {target.name: target.title for target in all_targets()}
EXACT = {engine.key for engine in ENGINES if engine.is_exact}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table and an empty line."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_escaped(cell) for cell in cells) + " |" for cells in lines] + [""]


def number(value: float | None) -> str:
    """Three digits; a dash where there is nothing."""
    if value is None or value != value:  # noqa: PLR0124  # NaN
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def goals_table(verdicts: Sequence[Verdict]) -> list[str]:
    """One line for each goal."""
    rows = []
    for verdict in verdicts:
        goal = verdict.goal
        steps = f"MLP energy in {DIM}-D, {goal.target} chains, steps a second"
        between = verdict.note
        if verdict.ratio is not None:
            between = f"{TITLES[verdict.ours]} / {TITLES[verdict.theirs]}"
            between += f" ({verdict.note})" if verdict.note else ""
        measured = "-" if verdict.ratio is None else f"{number(verdict.ratio)}x"
        where, wanted = TARGETS.get(goal.target, steps), f">= {goal.factor:g}x"
        rows.append([goal.text, where, wanted, measured, f"**{verdict.word}**", between])
    return table(["goal", "on", "wanted", "measured", "", "between"], rows)


def target_table(rows: Sequence[Row]) -> list[str]:
    """One line for each engine, the fastest first, those that do not count last."""
    ranked = sorted(rows, key=lambda row: (not row.counts, -row.speed if row.runs else 0.0))
    references = [row.statistics for row in rows if row.counts and row.engine in EXACT]
    reference = pooled(references) if references else {}
    header = ["engine", "chains", "dtype", "ESS/s", "slowest to fastest run"]
    header += ["ESS per 1000 gradients", "seconds", "compile s", "cores", "stolen"]
    header += ["R-hat", "error", "runs"]
    return table(header, [_cells(row, reference) for row in ranked])


def steps_table(speeds: Sequence[Speed]) -> list[str]:
    """One line for each engine, one column for each number of chains."""
    rows = []
    for engine in STEP_ENGINES:
        here = {speed.chains: speed for speed in speeds if speed.engine == engine.key}
        if here:
            cells = [_speed_cell(here.get(chains)) for chains in STEP_CHAIN_COUNTS]
            compiling = max((s.compile_seconds or 0.0 for s in here.values()), default=None)
            stolen = max((s.stolen for s in here.values() if s.stolen is not None), default=None)
            rows.append([engine.title, *cells, number(compiling), _share(stolen)])
    columns = [f"{chains} chains" for chains in STEP_CHAIN_COUNTS]
    return table(["engine", *columns, "compile s", "stolen"], rows)


def search_table(searched: Sequence[Row], target: str) -> list[str]:
    """ESS a second at each number of chains, in one run each."""
    here = [row for row in searched if row.target == target]
    counts = sorted({row.chains for row in here})
    rows = []
    for key in dict.fromkeys(row.engine for row in here):
        found = {row.chains: row for row in here if row.engine == key}
        rows.append([TITLES[key], *(_searched_cell(found.get(chains)) for chains in counts)])
    return table([TARGETS[target], *(f"{chains} chains" for chains in counts)], rows)


def settings_table(rows: Sequence[Row]) -> list[str]:
    """How each engine was set, and where, if not everywhere alike."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.settings:
            where.setdefault((TITLES[row.engine], row.settings), []).append(TARGETS[row.target])
    engines = [engine for engine, _ in where]
    cells = [
        (engine, "; ".join(targets) if engines.count(engine) > 1 else "everywhere", settings)
        for (engine, settings), targets in where.items()
    ]
    return table(["engine", "on", "settings"], cells)


def pairs_table(header: Sequence[str], pairs: Mapping[str, str]) -> list[str]:
    """Two columns."""
    return table(header, list(pairs.items()))


def _cells(row: Row, reference: dict[str, tuple[float, float]]) -> list[str]:
    title, chains = TITLES[row.engine], str(row.chains)
    if row.failure:
        return [title, chains, "", f"none: {row.failure}", *[""] * 9]
    speed, (low, high) = number(row.speed), row.spread
    error = largest_error(row.statistics, reference) if reference else None
    return [
        title,
        chains,
        row.dtype,
        speed if row.counts else f"({speed}) does not count",
        f"{number(low)} to {number(high)}",
        number(row.ess_per_thousand_gradients),
        number(row.seconds),
        number(row.compile_seconds),
        f"{max(run.cores for run in row.runs):.1f}",
        _share(row.stolen),
        f"{row.r_hat:.3f}",
        number(error),
        str(len(row.runs)),
    ]


def _share(part: float | None) -> str:
    return "-" if part is None else f"{part:.0%}"


def _speed_cell(speed: Speed | None) -> str:
    if speed is None:
        return "-"
    if speed.failure:
        return f"none: {speed.failure}"
    return f"{number(speed.speed)} ({number(min(speed.speeds))} to {number(max(speed.speeds))})"


def _searched_cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row.failure:
        return row.failure
    return number(row.speed) if row.counts else f"({number(row.speed)}, R-hat {row.r_hat:.2f})"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
