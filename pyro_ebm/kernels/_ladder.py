"""Ladders of inverse temperatures, and how warm-up places them."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import NonFiniteError, ShapeError

_FEWEST_SWAPS = 100
_SHORTEST_ROUND = 5
"""Swaps of each pair, and draws of each chain, in the first round; every next one is twice as
long."""

_SMALLEST_REJECTION = 1e-3
"""What a pair that never rejects counts for, so that no two betas fall on each other."""

_FEW_SWAPS = 0.2


def geometric_betas(num_replicas: int, smallest: float) -> Tensor:
    """Inverse temperatures ``(R,)`` in float64 with equal ratios.

    >>> geometric_betas(3, 0.25).tolist()
    [1.0, 0.5, 0.25]
    """
    exponent = torch.arange(num_replicas, dtype=torch.float64, device="cpu") / (num_replicas - 1)
    betas: Tensor = smallest**exponent
    return betas


def check_betas(betas: Tensor) -> Tensor:
    """Return ``betas`` if they fall from 1 and stay above 0."""
    if not isinstance(betas, Tensor) or betas.ndim != 1 or len(betas) < 2:
        raise ShapeError(
            f"betas is {betas!r}, but a tensor (R,) of at least two inverse temperatures is wanted."
        )
    falls = betas[0] == 1 and bool((betas.diff() < 0).all()) and betas[-1] > 0
    if not falls:
        raise ValueError(
            f"betas is {betas.tolist()}, but inverse temperatures must fall from 1, that of the "
            "target, and stay above zero."
        )
    return betas.double()


def check_stretches(stretches: Tensor, ladder: Tensor) -> Tensor:
    """Return ``stretches`` if there is a positive one for each replica, and 1 for the first."""
    if not isinstance(stretches, Tensor) or stretches.shape != ladder.shape:
        raise ShapeError(
            f"stretches is {stretches!r}, but a tensor of shape {tuple(ladder.shape)} is wanted, "
            "a number for each replica."
        )
    if stretches[0] != 1 or not bool((torch.isfinite(stretches) & (stretches > 0)).all()):
        raise NonFiniteError(
            f"stretches is {stretches.tolist()}, but all must be finite and above zero, and the "
            "first, of the replica that is kept, must be 1."
        )
    return stretches.double()


def equalised(betas: Tensor, rejection: Tensor) -> Tensor:
    r"""Betas between which the cumulative rejection grows in equal steps.

    :math:`\Lambda(\beta_r)`, the sum of the rejection rates down to replica ``r``, is interpolated
    linearly in :math:`\log \beta`, and both ends are kept (Syed et al. 2022, algorithm 4).

    >>> equalised(torch.tensor([1.0, 0.5, 0.25]), torch.tensor([0.6, 0.2])).round(decimals=3)
    tensor([1.0000, 0.6300, 0.2500])
    """
    steps = rejection.clamp(min=_SMALLEST_REJECTION)
    barrier = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    wanted = torch.linspace(0.0, 1.0, len(betas), dtype=barrier.dtype, device=barrier.device)
    new = interpolated(wanted * barrier[-1], barrier, betas.log()).exp()
    new[0], new[-1] = betas[0], betas[-1]
    return new


def interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear function through ``(knots, values)``, knots increasing, at ``x``."""
    right = torch.searchsorted(knots, x).clamp(1, len(knots) - 1)
    left = right - 1
    share = (x - knots[left]) / (knots[right] - knots[left])
    return torch.lerp(values[left], values[right], share)


class LadderTuner:
    """Places betas and stretches in rounds, each twice as long as the one before.

    Rates of *all* pairs are averages of acceptance probabilities over draws and chains, whether
    the pair's turn it was or not.

    Args:
        tunes_betas: Whether betas are to be moved until all pairs reject as often.
        tunes_stretches: Whether stretches are, until all replicas accept as often as the coldest.
    """

    tunes = frozenset({"betas", "stretches", "swap_rates"})

    def __init__(self, *, tunes_betas: bool, tunes_stretches: bool) -> None:
        self._tunes_betas, self._tunes_stretches = tunes_betas, tunes_stretches
        self._num_rounds = self._count = 0
        self._swap_rates: Tensor | None = None

    def update(self, kernel: Any, state: Any, info: Any) -> Any:
        """Take in the chains that have made a draw; at the end of a round, move the ladder."""
        if self._count == 0:
            self._swaps = torch.zeros_like(state.swap_acceptance[0])
            self._moves = torch.zeros_like(state.acceptance[0])
        finished = info.finished.unsqueeze(-1)
        self._swaps = self._swaps + (state.swap_acceptance * finished).sum(dim=0)
        self._moves = self._moves + (state.acceptance * finished).sum(dim=0)
        self._count += int(info.finished.sum())
        if self._count < self._round_length(len(finished)):
            return kernel
        return self._end_round(kernel)

    def finish(self, kernel: Any) -> Any:
        """The kernel with its swap rates, and a warning where they are low."""
        if self._count >= _FEWEST_SWAPS:
            self._swap_rates = self._swaps / self._count
        if self._swap_rates is None:
            return kernel
        kernel = dataclasses.replace(kernel, swap_rates=self._swap_rates)
        _warn_of_few_swaps(kernel)
        return kernel

    def _round_length(self, num_chains: int) -> int:
        first = max(_FEWEST_SWAPS, _SHORTEST_ROUND * num_chains)
        return int(first * 2**self._num_rounds)

    def _end_round(self, kernel: Any) -> Any:
        swap_rates, acceptance = self._swaps / self._count, self._moves / self._count
        betas = kernel.ladder.to(swap_rates.device)
        # By how much a stretch differs from beta^(-1/2), which the ladder takes along.
        excess = kernel.units.to(swap_rates.device).log() + 0.5 * betas.log()
        if self._tunes_stretches:
            excess = excess + (acceptance - acceptance[0])
        new = equalised(betas, 1.0 - swap_rates) if self._tunes_betas else betas
        self._num_rounds, self._count = self._num_rounds + 1, 0
        # What is expected of the new ladder, until it has been measured.
        self._swap_rates = swap_rates if new is betas else swap_rates.mean().expand_as(swap_rates)
        if not self._tunes_stretches:
            return dataclasses.replace(kernel, betas=new)
        excess = interpolated(-new.log(), -betas.log(), excess)
        stretches = (excess - 0.5 * new.log()).exp()
        return dataclasses.replace(kernel, betas=new, stretches=stretches)


def _warn_of_few_swaps(kernel: Any) -> None:
    fewest, barrier = float(kernel.swap_rates.min()), float(kernel.barrier)
    if fewest >= _FEW_SWAPS:
        return
    wanted = max(kernel.num_replicas + 1, math.ceil(2 * barrier + 1))
    warnings.warn(
        f"only {fewest:.0%} of the swaps between two neighbours of the {kernel.num_replicas} "
        f"replicas are made, and rejection rates add up to {barrier:.1f}, so replicas hardly "
        f"travel: give num_replicas={wanted} or more, or a smallest_beta above "
        f"{float(kernel.ladder[-1]):.3g}.",
        stacklevel=2,
    )
