"""The goals, and whether the numbers meet them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.benchmarks.roster import OURS, PEERS

NUTS = (
    "ours_nuts",
    "ours_nuts_compiled",
    "ours_nuts_dense_compiled",
    "ours_nuts_mclachlan_compiled",
    "ours_nuts_rotations_compiled",
    "ours_nuts_dense_rotations_compiled",
)
NUTPIE = ("nutpie", "nutpie_low_rank")
NUMPYRO = ("numpyro", "numpyro_dense")
PYRO = ("pyro", "pyro_dense")
ALL_OURS = tuple(engine.key for engine in OURS)
EXACT_PEERS = tuple(engine.key for engine in PEERS if engine.is_exact)
BLACKJAX = ("blackjax_nuts", "blackjax_nuts_dense", "blackjax_chees")


class Goal(NamedTuple):
    """The fastest of ``ours`` is at least ``factor`` times the fastest of ``theirs``."""

    text: str
    target: str
    ours: Sequence[str]
    theirs: Sequence[str]
    factor: float


class Verdict(NamedTuple):
    """What came of a goal. ``ratio`` is None where there is nothing to compare."""

    goal: Goal
    ratio: float | None
    ours: str = ""
    theirs: str = ""
    note: str = ""

    @property
    def word(self) -> str:
        if self.ratio is None:
            return "not measured"
        return "met" if self.ratio >= self.goal.factor else "missed"


SAMPLING_GOALS = (
    Goal("NUTS against nutpie", "eight_schools", NUTS, NUTPIE, 1.0),
    Goal("NUTS against nutpie", "logistic_regression", NUTS, NUTPIE, 5.0),
    Goal("NUTS against NumPyro's NUTS", "eight_schools", NUTS, NUMPYRO, 8.0),
    Goal("NUTS against NumPyro's NUTS", "logistic_regression", NUTS, NUMPYRO, 8.0),
    Goal("best kernel against the best of BlackJAX", "gaussian", ALL_OURS, BLACKJAX, 1.0),
    Goal("NUTS against Pyro's NUTS", "eight_schools", NUTS, PYRO, 300.0),
    Goal("NUTS against Pyro's NUTS", "logistic_regression", NUTS, PYRO, 100.0),
    Goal("best kernel against the best peer", "mlp_2", ALL_OURS, EXACT_PEERS, 3.0),
    Goal("best kernel against the best peer", "mlp_64", ALL_OURS, EXACT_PEERS, 3.0),
)


def step_goals(chain_counts: Sequence[int]) -> list[Goal]:
    """Goals of the steps a second, for each number of chains."""
    langevin, mala = (
        ("langevin_ours", "langevin_ours_compiled"),
        ("mala_ours", "mala_ours_compiled"),
    )
    goals = []
    for chains in chain_counts:
        where = str(chains)
        goals += [
            Goal("Langevin against torchebm", where, langevin, ("langevin_torchebm",), 2.0),
            Goal("Langevin against a JAX scan", where, langevin, ("langevin_jax",), 0.9),
            Goal("MALA against a JAX scan", where, mala, ("mala_jax",), 0.9),
        ]
    return goals


def judge(
    goal: Goal,
    speeds: Mapping[str, float],
    reasons: Mapping[str, str],
    left_out: Mapping[str, float] | None = None,
) -> Verdict:
    """Compare the speeds of the engines that count.

    ``reasons`` says why others do not, and ``left_out`` how fast they were, if they came to an
    end: a peer that was faster, but does not count, is named.
    """
    ours, theirs = _fastest(goal.ours, speeds), _fastest(goal.theirs, speeds)
    if not ours or not theirs:
        missing = [key for key in (goal.theirs if ours else goal.ours) if key in reasons]
        note = "; ".join(f"{key}: {reasons[key]}" for key in missing) or "not run"
        return Verdict(goal, None, ours, theirs, note)
    rivals = {key: speed / speeds[theirs] for key, speed in (left_out or {}).items()}
    note = "; ".join(
        f"{key}, {rivals[key]:.2f} times as fast as the latter, does not count: {reasons[key]}"
        for key in goal.theirs
        if rivals.get(key, 0.0) > 1.0
    )
    return Verdict(goal, speeds[ours] / speeds[theirs], ours, theirs, note)


def _fastest(keys: Sequence[str], speeds: Mapping[str, float]) -> str:
    return max((key for key in keys if key in speeds), key=lambda key: speeds[key], default="")
