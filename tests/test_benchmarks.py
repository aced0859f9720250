"""What the benchmarks compute from the numbers; no peer is needed."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import goals, store, tables, targets, timing
from tests.benchmarks.contract import Run, Settings
from tests.benchmarks.engines import ours
from tests.benchmarks.growth import Point, turning_size
from tests.benchmarks.measure import Statistic, largest_error, pooled, quality
from tests.benchmarks.processes import Limits, reason, run_module
from tests.benchmarks.roster import ENGINES, OURS, STEP_ENGINES
from tests.benchmarks.rows import Measured, Row, analysed, from_json, to_json
from tests.benchmarks.steps import Speed
from tests.benchmarks.timing import Timed

ROOT = Path(__file__).parent.parent
NUM_CHAINS, NUM_DRAWS = 8, 500


def row(engine, seconds, *, ess=1000.0, r_hat=1.0, target="gaussian"):
    runs = tuple(Measured(s, 1.0, 4000, ess, r_hat, "x^2") for s in seconds)
    found = {"x": Statistic("x", ess, r_hat, 0.0, 1.0)}
    return Row(engine, target, 64, "float32", "none", {"torch": "1"}, 2.0, runs, found)


@pytest.fixture
def independent():
    return {"x": np.random.default_rng(0).normal(size=(NUM_CHAINS, NUM_DRAWS, 2))}


def test_independent_draws_are_all_effective(independent):
    found = quality(independent)
    assert set(found.statistics) == {"x[0]", "x[0]^2", "x[1]", "x[1]^2"}
    assert found.ess == pytest.approx(NUM_CHAINS * NUM_DRAWS, rel=0.2)
    assert found.r_hat < 1.01


def test_the_squares_count(independent):
    """A sign that flips in every draw is perfect for the mean and no news for the square."""
    radius = np.abs(independent["x"][:, :1, 0]) + np.zeros((NUM_CHAINS, NUM_DRAWS))
    sign = np.where(np.arange(NUM_DRAWS) % 2, 1.0, -1.0)
    found = quality({"x": radius * sign})
    assert found.slowest == "x^2"
    assert found.r_hat > 1.5


def test_draws_that_are_not_finite_do_not_count(independent):
    independent["x"][0, 3, 1] = np.nan
    found = quality(independent)
    assert np.isnan(found.ess)
    assert np.isnan(found.r_hat)
    assert not row("nutpie", [1.0], ess=found.ess, r_hat=found.r_hat).counts


def test_error_is_in_standard_deviations():
    reference = pooled(
        [{"x": Statistic("x", 300.0, 1.0, 1.0, 2.0)}, {"x": Statistic("x", 100.0, 1.0, 5.0, 2.0)}]
    )
    assert reference["x"] == pytest.approx((2.0, 2.0))
    assert largest_error({"x": Statistic("x", 1.0, 1.0, 3.0, 9.0)}, reference) == pytest.approx(0.5)


def test_a_row_counts_if_every_run_mixed():
    mixed = row("nutpie", [1.0, 2.0, 4.0])
    assert mixed.counts
    assert mixed.speed == 500.0
    assert mixed.spread == (250.0, 1000.0)
    assert mixed.ess_per_thousand_gradients == 250.0
    stuck = mixed._replace(runs=(*mixed.runs, Measured(1.0, 1.0, None, 9.0, 1.02, "x")))
    assert not stuck.counts
    assert stuck.why_not == "R-hat 1.020"


def test_goals_are_judged_by_rows_that_count():
    goal = goals.Goal("", "gaussian", ("a", "b"), ("c", "d"), 2.0)
    met = goals.judge(goal, {"a": 1.0, "b": 8.0, "c": 4.0, "d": 3.0}, {})
    assert (met.word, met.ratio, met.ours, met.theirs) == ("met", 2.0, "b", "c")
    assert goals.judge(goal, {"a": 1.0, "c": 4.0}, {}).word == "missed"
    unknown = goals.judge(goal, {"c": 4.0}, {"a": "R-hat 1.3"})
    assert unknown.word == "not measured"
    assert unknown.note == "a: R-hat 1.3"
    assert goals.judge(goal, {"c": 4.0}, {}).note == "not run"


def test_a_faster_peer_that_does_not_count_is_named():
    goal = goals.Goal("", "gaussian", ("a",), ("c", "d"), 2.0)
    verdict = goals.judge(goal, {"a": 9.0, "c": 4.0}, {"d": "R-hat 1.3"}, {"d": 6.0, "e": 9.0})
    assert (verdict.word, verdict.ratio) == ("met", 2.25)
    assert verdict.note == "d, 1.50 times as fast as the latter, does not count: R-hat 1.3"
    assert not goals.judge(goal, {"a": 9.0, "c": 4.0}, {"d": "R-hat 1.3"}, {"d": 3.0}).note


@pytest.mark.parametrize("engine", OURS, ids=lambda engine: engine.key)
def test_our_own_engines_can_be_prepared(engine):
    prepare = getattr(ours, engine.entry.partition(":")[2])
    assert "default warm-up" in prepare(targets.gaussian(), Settings(4, 5, 1)).settings


def test_goals_name_engines_and_targets_that_exist():
    keys = {engine.key for engine in ENGINES + STEP_ENGINES}
    names = {target.name for target in targets.all_targets()}
    for goal in goals.SAMPLING_GOALS:
        assert {*goal.ours, *goal.theirs} <= keys
        assert goal.target in names
    for goal in goals.step_goals((64,)):
        assert {*goal.ours, *goal.theirs} <= keys


def test_every_engine_has_its_file():
    for engine in ENGINES + STEP_ENGINES:
        module, _, function = engine.entry.partition(":")
        source = (ROOT / "tests/benchmarks/engines" / f"{module}.py").read_text()
        assert f"def {function}(" in source


def test_the_numbers_are_the_same_each_time(tmp_path):
    for first, second in zip(targets.all_targets(), targets.all_targets(), strict=True):
        path = targets.save(first, tmp_path)
        loaded = targets.load(path, first.builder, is_energy=first.is_energy)
        assert loaded.name == second.name
        for name, value in second.data.items():
            np.testing.assert_array_equal(loaded.data[name], value)


def test_results_survive_the_file(tmp_path):
    results = store.empty({"runs": 3})._replace(
        rows=[row("nutpie", [1.0, 2.0])],
        searched=[Row("pyro", "gaussian", 2, failure="none")],
        speeds=[Speed("mala_jax", 64, (1.0, 2.0), 3.0)],
        points=[Point("MALA", 1, 10, 0.1, 1.0)],
    )
    store.write(results, tmp_path / "results.json")
    assert store.read(tmp_path / "results.json") == results
    found = row("nutpie", [1.0])
    assert from_json(json.loads(json.dumps(to_json(found)))) == found


def test_draws_of_a_worker_are_analysed_and_deleted(tmp_path, independent):
    path = tmp_path / "draws.npz"
    np.savez(path, **independent)
    timed = Timed(2.0, 1.0, 0.01, num_gradients=None, compile_seconds=0.0, draws=str(path))
    run = timed._asdict()
    answer = {"engine": "nutpie", "target": "gaussian", "chains": 8, "runs": [run]}
    found = analysed(answer, processes=1)
    assert found.counts
    assert found.speed == found.runs[0].ess / 2.0
    assert not path.exists()


def test_tables_show_what_failed_and_why():
    lines = tables.target_table(
        [
            Row("nutpie", "gaussian", 4, failure="ModuleNotFoundError: No module named 'nutpie'"),
            row("pyro", [1.0], r_hat=1.2),
            row("numpyro", [1.0]),
        ]
    )
    assert [line.split("|")[1].strip() for line in lines[2:5]] == [
        "NumPyro NUTS",
        "Pyro NUTS",
        "nutpie NUTS",
    ]
    assert "does not count" in lines[3]
    assert "No module named" in lines[4]
    assert len({line.count("|") for line in lines[:-1]}) == 1


def _seeds_of_quiet_runs(monkeypatch, tmp_path, stolen_shares, **limits):
    """Runs of a second on one core each, of which others had these shares."""
    clock, stolen, shares = [0.0], [0.0], iter(stolen_shares)

    def make(seed):
        clock[0] += 1.0
        stolen[0] += next(shares)
        return Run({"x": np.array([seed])}, None)

    monkeypatch.setattr(timing, "stolen_seconds", lambda: stolen[0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 1)
    runs = timing.kept(timing.timed_runs(make, seed=1, folder=tmp_path, **limits))
    assert [run.seconds for run in runs] == [1.0] * len(runs)
    return [np.load(run.draws)["x"].item() for run in runs]


@pytest.mark.parametrize(
    ("shares", "wanted", "budget", "seeds"),
    [
        ([0.0, 0.0], 2, 9.0, [1, 2]),
        ([0.3, 0.0, 0.2, 0.01], 2, 9.0, [2, 4]),
        ([0.0, 0.0, 0.0], 9, 2.5, [1, 2, 3]),
        ([0.3, 0.0, 0.3], 9, 2.5, [2]),
        ([0.3, 0.4, 0.3, 0.2], 2, 9.0, [1, 2, 3, 4]),
    ],
    ids=["quiet", "made again", "budget", "all count", "never quiet"],
)
def test_runs_that_others_disturbed_are_made_again(
    monkeypatch, tmp_path, shares, wanted, budget, seeds
):
    limits = {"wanted": wanted, "budget": budget}
    assert _seeds_of_quiet_runs(monkeypatch, tmp_path, shares, **limits) == seeds


def test_a_worker_that_fails_says_why(tmp_path):
    limits = Limits(runs=1, threads=1, budget=1.0, timeout=30.0)
    answer = run_module("json.nothing_of_this_name", [], limits, tmp_path)
    assert "No module named" in answer["failure"]
    assert reason("", -9) == "ended by SIGKILL"
    assert reason("Traceback:\n  x\nValueError: bad\n", 1) == "ValueError: bad"


def test_cost_turns_linear_where_both_parts_are_equal():
    sizes = [1, 10, 100, 1000, 100_000]
    seconds = [1.0 + size / 50 for size in sizes]
    assert turning_size(sizes, seconds) == pytest.approx(50, rel=0.03)


def test_versions_are_pinned_once():
    """What both constraints files pin has one version; ArviZ is the documented exception."""
    tested, compared = (_pins(name) for name in ("constraints.txt", "constraints-bench.txt"))
    shared = (tested.keys() & compared.keys()) - {"arviz"}
    assert len(shared) > 5
    assert {name: compared[name] for name in shared if not compared[name] <= tested[name]} == {}


def _pins(file):
    found = {}
    for name, version in re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / file).read_text(), re.M):
        found.setdefault(name, set()).add(version)
    return found


def test_parts_that_names_do_not_choose_from_are_left_out(monkeypatch, tmp_path):
    measured = []
    parts = tuple(
        part._replace(measure=lambda _, __, results, name=name: measured.append(name) or results)
        for name, part in zip("esg", command.COMMANDS["run"], strict=True)
    )
    monkeypatch.setitem(command.COMMANDS, "run", parts)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(command.report, "write", lambda *_: None)
    for line in ([], ["--engines", "pyro"], ["--engines", "pyro", "--targets", "gaussian"]):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *line])
        command.main()
    assert "".join(measured) == "esg" + "es" + "e"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "growth", "--engines", "pyro"])
    with pytest.raises(SystemExit):
        command.main()
