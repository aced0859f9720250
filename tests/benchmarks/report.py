"""``docs/benchmarks.md``, written from the results: no number on it is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import figure, growth, tables
from tests.benchmarks.goals import SAMPLING_GOALS, Verdict, judge, step_goals
from tests.benchmarks.roster import STEP_CHAIN_COUNTS
from tests.benchmarks.rows import MOST_R_HAT, Row
from tests.benchmarks.steps import DIM, STEP_SIZE, Speed
from tests.benchmarks.store import Results
from tests.benchmarks.tables import TARGETS, TITLES, number
from tests.benchmarks.timing import MOST_STOLEN

PREAMBLE = Path(__file__).with_name("preamble.md")
NOTES = Path(__file__).with_name("notes.md")
"""Why goals were missed; the one part that is written by hand."""

SPEED_FIGURE, GROWTH_FIGURE = "benchmarks_speed.png", "benchmarks_growth.png"


def write(results: Results, folder: Path) -> None:
    """The page and its figures."""
    conditions: dict[str, float] = {"most_r_hat": MOST_R_HAT, "most_stolen": MOST_STOLEN}
    conditions |= {"sessions": results.sessions}
    lines = [PREAMBLE.read_text().format(**conditions, **results.settings)]
    lines += ["## Goals", "", *tables.goals_table(verdicts(results))]
    lines += [NOTES.read_text()] if NOTES.exists() else []
    lines += _targets(results, folder) + _steps(results) + _growth(results, folder)
    lines += _search(results) + _conditions(results)
    (folder / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n")


def line(row: Row) -> str:
    """What the terminal shows of a row."""
    start = f"{row.target:20} {row.engine:22} {row.chains:5} chains"
    if row.failure:
        return f"{start}  {row.failure}"
    speed = f"{row.speed:10.0f} ESS/s, R-hat {row.r_hat:.3f}, {row.seconds:6.2f} s"
    return f"{start} {speed}, compile {row.compile_seconds or 0.0:5.1f} s, {row.runs[0].slowest}"


def line_of_steps(speed: Speed) -> str:
    """The same of steps a second."""
    start = f"{'steps':20} {speed.engine:22} {speed.chains:5} chains"
    if speed.failure:
        return f"{start}  {speed.failure}"
    return f"{start} {speed.speed:10.0f} steps/s, compile {speed.compile_seconds or 0.0:5.1f} s"


def verdicts(results: Results) -> list[Verdict]:
    """Of all goals."""
    found = []
    for goal in SAMPLING_GOALS:
        rows = [row for row in results.rows if row.target == goal.target]
        speeds = {row.engine: row.speed for row in rows if row.counts}
        reasons = {row.engine: row.why_not for row in rows}
        left_out = {row.engine: row.speed for row in rows if row.runs and not row.counts}
        found.append(judge(goal, speeds, reasons, left_out))
    for goal in step_goals(STEP_CHAIN_COUNTS):
        here = [speed for speed in results.speeds if str(speed.chains) == goal.target]
        measured = {speed.engine: speed.speed for speed in here if speed.speeds}
        found.append(judge(goal, measured, {speed.engine: speed.failure for speed in here}))
    return found


def _targets(results: Results, folder: Path) -> list[str]:
    lines = ["## Effective draws a second", "", f"![Effective draws a second]({SPEED_FIGURE})", ""]
    figure.speeds(results.rows, TITLES, TARGETS, folder / SPEED_FIGURE)
    for name, title in TARGETS.items():
        rows = [row for row in results.rows if row.target == name]
        lines += [f"### {title}", "", *tables.target_table(rows)] if rows else []
    return lines


def _steps(results: Results) -> list[str]:
    text = f"Steps of all chains together at the step size {STEP_SIZE}: the median, and in brackets"
    lines = [f"## Steps a second on the MLP energy in {DIM}-D", "", f"{text} the slowest and the"]
    return [*lines, "fastest run.", "", *tables.steps_table(results.speeds)]


def _growth(results: Results, folder: Path) -> list[str]:
    lines = ["## How cost grows", ""]
    lines += [f"{kernel}: none, {why}." for kernel, why in results.growth_failures.items()]
    lines += [""] if results.growth_failures else []
    if not results.points:
        return lines
    figure.growth(results.points, folder / GROWTH_FIGURE)
    lines += [f"![Time of one draw]({GROWTH_FIGURE})", ""]
    lines += [
        "Time of one more draw of all chains on a Gaussian, step size and scale given; in the table"
        " divided by the number of its gradients, which grows with the dimension. Cost is the"
        " sum of a fixed part (the time at the smallest size) and of a linear one (the slope at the"
        " largest size); it turns linear where the two are equal.",
        "",
    ]
    rows = []
    for kernel in growth.KERNELS:
        chains = growth.against_chains(results.points, kernel)
        dims = growth.against_dims(results.points, kernel)
        rows += [_turn(kernel, f"chains, {growth.FIXED_DIM}-D", chains, [p.chains for p in chains])]
        rows += [_turn(kernel, f"dimension, {growth.FIXED_CHAINS} chains", dims, _dims(dims))]
    header = ["kernel", "against", "smallest", "largest", "turns linear at"]
    return lines + tables.table(header, [row for row in rows if row])


def _dims(points: Sequence[growth.Point]) -> list[int]:
    return [point.dim for point in points]


def _turn(kernel: str, axis: str, points: Sequence[growth.Point], sizes: list[int]) -> list[str]:
    if len(points) < 2:
        return []
    # The number of gradients in a draw grows with the dimension, which is not the engine's cost.
    times = [1e3 * point.seconds / point.num_gradients for point in points]
    first, last = (f"{number(times[i])} ms at {sizes[i]}" for i in (0, -1))
    return [kernel, axis, first, last, f"about {growth.turning_size(sizes, times):.2g}"]


def _search(results: Results) -> list[str]:
    if not results.searched:
        return []
    lines = ["## The best number of chains", ""]
    lines += ["ESS a second in one run each; in brackets what does not count. Other numbers of"]
    lines += ["chains come from earlier searches (`tests/benchmarks/chain_counts.json`).", ""]
    for name in TARGETS:
        if any(row.target == name for row in results.searched):
            lines += tables.search_table(results.searched, name)
    return lines


def _conditions(results: Results) -> list[str]:
    versions: dict[str, str] = {}
    for row in results.rows:
        versions |= row.versions
    lines = ["## Conditions", "", *tables.pairs_table(["machine", ""], results.machine)]
    lines += tables.pairs_table(["package", "version"], dict(sorted(versions.items())))
    return lines + tables.settings_table(results.rows)
