"""Has it mixed? Every usual check with its threshold, in plain words."""

from __future__ import annotations

from typing import Any

import xarray as xr

from pyro_ebm.core.checks import ShapeError
from pyro_ebm.diagnostics.container import group, is_container
from pyro_ebm.diagnostics.coordinates import coordinates_of
from pyro_ebm.diagnostics.inference_data import to_arviz
from pyro_ebm.diagnostics.report import MixingReport
from pyro_ebm.diagnostics.verdicts import (
    check_divergences,
    check_energy,
    check_ess,
    check_finite,
    check_mcse,
    check_r_hat,
    check_stuck,
    find_stuck_chains,
)
from pyro_ebm.sampling.summary import check_enough_draws


def mixing_report(  # noqa: PLR0913  # one threshold for each check
    x: object,
    *,
    r_hat: float = 1.01,
    ess: float = 400.0,
    mcse: float = 0.05,
    bfmi: float = 0.3,
    divergences: int = 0,
    moves: float = 0.05,
    spread: float = 0.1,
) -> MixingReport:
    r"""Judge a run by everything that can be seen in its draws.

    - rank-normalised split R-hat (the larger of bulk and folded), worst parameter. It compares
      halves of *single* chains, so with many short chains it asks for about 50 effective draws
      in each chain, however many chains there are; with few it needs several to mean much.
    - bulk and tail ESS, worst parameter, in total: what the estimates need does not grow with
      the number of chains.
    - Monte-Carlo standard error of the mean, worst parameter, in posterior standard
      deviations: :math:`1 / \sqrt{\mathrm{ESS}}` of the plain mean.
    - E-BFMI, worst chain, where there is an ``energy``. Kernels that keep most of their momentum
      from draw to draw (underdamped Langevin) are judged by the ESS of the energy where it is
      small: their E-BFMI falls with the step size on every target.
    - divergences, where they were noted.
    - stuck chains: those that move in fewer than ``moves`` of their steps, and those that move
      but whose standard deviation is below ``spread`` times that of all draws in some
      coordinate (by quantiles, so heavy tails are no alarm). With very few draws the latter
      threshold falls, so that independent normal draws raise an alarm once in 100 000 runs.
    - values that are not finite.

    A parameter that is constant in all draws has no R-hat; it is named and left out.

    Args:
        x: What ``to_arviz`` takes, or InferenceData or a DataTree with a posterior.
        r_hat: Largest R-hat that passes.
        ess: Smallest ESS that passes.
        mcse: Largest relative standard error that passes.
        bfmi: Smallest E-BFMI that passes.
        divergences: Largest number of divergent draws that passes.
        moves: Smallest share of steps in which a chain must move.
        spread: Smallest spread of a chain, relative to that of all draws.

    Raises:
        ShapeError: If some draws are not real numbers.
        ValueError: If there are fewer than 4 draws in each chain.

    References:
        Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and
        localization: an improved R-hat (1.01 and 400); Betancourt (2016), Diagnosing suboptimal
        cotangent disintegrations in Hamiltonian Monte Carlo (E-BFMI).

    >>> import torch
    >>> mixing_report({"z": torch.randn(4, 1000)}).passed
    True
    """
    data = x if is_container(x) else to_arviz(x, log_likelihood=False)
    everything = coordinates_of(_posterior(data))
    num_chains, num_draws, _ = everything.draws.shape
    check_enough_draws(num_draws)
    checks = [check_finite(everything)]
    finite = everything.where(everything.is_finite())
    varying = finite.where(~finite.is_constant())
    if varying.names:
        checks += [check_r_hat(varying, r_hat), *check_ess(varying, ess), check_mcse(varying, mcse)]
    stats = group(data, "sample_stats")
    if stats is not None and "energy" in stats:
        checks.append(check_energy(stats["energy"], bfmi, ess))
    if stats is not None and "diverging" in stats:
        checks.append(check_divergences(stats["diverging"].values.astype(bool), divergences))
    stuck: dict[int, str] = {}
    if finite.names:
        stuck = find_stuck_chains(finite, moves, spread)
        checks.append(check_stuck(stuck))
    return MixingReport(
        num_chains=num_chains,
        num_draws=num_draws,
        checks=tuple(checks),
        stuck_chains=tuple(stuck),
        constant_parameters=tuple(finite.where(finite.is_constant()).names),
    )


def _posterior(data: Any) -> xr.Dataset:
    posterior = group(data, "posterior")
    if posterior is None or not posterior.data_vars:
        raise ShapeError("the container has no posterior group, so there are no draws to judge.")
    return posterior
