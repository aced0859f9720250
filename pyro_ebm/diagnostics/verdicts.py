"""The single checks of a mixing report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from pyro_ebm.diagnostics.container import KEEPS_MOMENTUM, SAMPLE_DIMS, Array, container
from pyro_ebm.diagnostics.coordinates import Coordinates
from pyro_ebm.diagnostics.report import MixingCheck
from pyro_ebm.diagnostics.stuck import moved_fraction, relative_spread, spread_threshold

_MOST_NAMES = 5


def check_finite(coordinates: Coordinates) -> MixingCheck:
    """No NaN, no infinity."""
    bad = coordinates.where(~coordinates.is_finite())
    count = int((~np.isfinite(bad.draws)).sum())
    text = "All values are finite." if count == 0 else f"NaN or infinity in {_some(bad.names)}."
    if not coordinates.names:
        text = "There are no values to judge."
    return MixingCheck("non-finite", count, 0, count == 0 and bool(coordinates.names), text)


def check_r_hat(coordinates: Coordinates, threshold: float) -> MixingCheck:
    """Rank-normalised split R-hat; of the two halves where there is one chain only."""
    num_chains = coordinates.draws.shape[0]
    # A chain that never moves makes R-hat infinite; the value is judged, so nothing is hidden.
    with np.errstate(divide="ignore", invalid="ignore"):
        values = az.rhat(_dataset(coordinates if num_chains > 1 else _halves(coordinates)))
    value, name = _largest(values["x"].values, coordinates.names)
    passed = value <= threshold
    text = "The chains agree."
    if not passed:
        text = "The chains have not reached one law: run longer, or start elsewhere."
    if num_chains == 1:
        text += " There is one chain, so its two halves stand for two."
    return MixingCheck("R-hat", value, threshold, passed, f"{text} Largest: {name}.")


def check_ess(coordinates: Coordinates, threshold: float) -> Iterator[MixingCheck]:
    """Bulk and tail effective sample sizes, over all chains."""
    for method, purpose in (("bulk", "means"), ("tail", "90 % intervals")):
        values = az.ess(_dataset(coordinates), method=method)["x"].values
        worst, name = _largest(-values, coordinates.names)
        passed = -worst >= threshold
        text = f"Enough for {purpose}." if passed else f"Too few for {purpose}: run longer."
        yield MixingCheck(f"{method} ESS", -worst, threshold, passed, f"{text} Smallest: {name}.")


def check_mcse(coordinates: Coordinates, threshold: float) -> MixingCheck:
    """Standard error of the mean, in posterior standard deviations."""
    data = _dataset(coordinates)
    value, name = _largest((az.mcse(data) / data.std(SAMPLE_DIMS))["x"].values, coordinates.names)
    passed = value <= threshold
    text = "The means are known well." if passed else "The means are not known yet: run longer."
    return MixingCheck("MCSE / sd", value, threshold, passed, f"{text} Largest: {name}.")


def check_energy(energy: xr.DataArray, threshold: float, ess: float) -> MixingCheck:
    """E-BFMI: how far the momentum moves the energy, against how far the energy ranges."""
    result: Any = az.bfmi(container({"sample_stats": energy.to_dataset(name="energy")}, {}))
    values = np.asarray(result if isinstance(result, np.ndarray) else result["energy"])
    smallest, name = _largest(-values, [f"chain {c}" for c in range(len(values))])
    passed = -smallest >= threshold
    text = (
        "The momentum reaches all energies."
        if passed
        else "The energies are explored slowly (heavy tails): use another parameterisation."
    )
    if not passed and energy.attrs.get(KEEPS_MOMENTUM):
        passed = float(az.ess(energy.to_dataset(name="energy"))["energy"]) >= ess
        text = (
            "The kernel keeps most of its momentum from draw to draw, so a small value is no "
            f"alarm by itself; the ESS of the energy is {'enough' if passed else 'too small'}."
        )
    return MixingCheck("E-BFMI", -smallest, threshold, passed, f"{text} Smallest: {name}.")


def check_divergences(diverging: Array, threshold: int) -> MixingCheck:
    """Draws after which the energy was off by more than 1000, or not finite."""
    chains = diverging.sum(axis=1)
    count, worst = int(chains.sum()), int(chains.argmax())
    text = "No draw diverged."
    if count:
        text = (
            f"Where they happen is not explored; most in chain {worst} ({int(chains[worst])}). Use "
            "smaller steps (a higher target_accept_prob) or another parameterisation."
        )
    return MixingCheck("divergences", count, threshold, count <= threshold, text)


def find_stuck_chains(coordinates: Coordinates, moves: float, spread: float) -> dict[int, str]:
    """Chains that hardly move, and how that shows."""
    draws = coordinates.draws
    moved, relative = moved_fraction(draws), relative_spread(draws, moves)
    threshold = spread_threshold(spread, draws.shape)
    stuck = {}
    for chain in np.flatnonzero((moved < moves) | (relative < threshold)).tolist():
        if moved[chain] < moves:
            stuck[chain] = f"moves in {moved[chain]:.1%} of its draws"
        else:
            stuck[chain] = f"spreads over {relative[chain]:.2g} of the whole"
    return stuck


def check_stuck(stuck: dict[int, str]) -> MixingCheck:
    """No chain stands still."""
    text = "Every chain moves."
    if stuck:
        chains = _some([f"chain {chain} {how}" for chain, how in stuck.items()])
        text = f"{chains}. Start them elsewhere, or use smaller steps."
    return MixingCheck("stuck chains", len(stuck), 0, not stuck, text)


def _dataset(coordinates: Coordinates) -> xr.Dataset:
    return xr.Dataset({"x": ((*SAMPLE_DIMS, "coordinate"), coordinates.draws)})


def _halves(coordinates: Coordinates) -> Coordinates:
    """One chain as two chains of half its length."""
    half = coordinates.draws.shape[1] // 2
    draws = coordinates.draws[:, : 2 * half]
    return Coordinates(coordinates.names, draws.reshape(2, half, -1))


def _largest(values: Array, names: list[str]) -> tuple[float, str]:
    """The largest value and its name; NaN counts as largest, and fails every comparison."""
    worst = int(values.argmax())
    return float(values[worst]), names[worst]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
