"""Chains that hardly move."""

from __future__ import annotations

import math

import numpy as np

from pyro_ebm.diagnostics.container import Array

_FALSE_ALARM_RATE = 1e-5
"""Probability with which independent Gaussian draws would show a stuck chain."""

_MIDDLE = (0.3, 0.7)
"""Quantiles that measure the spread of all draws: one chain of four, however far, is outside."""

_NORMAL_MIDDLE = 1.0488010254160814
"""Distance of these quantiles of the standard normal law."""


def moved_fraction(draws: Array) -> Array:
    """Share of the steps of each chain that changed anything, ``(chain, draw, k) -> (chain,)``.

    >>> moved_fraction(np.array([[[0.0], [0.0], [0.0]], [[0.0], [1.0], [1.0]]])).tolist()
    [0.0, 0.5]
    """
    fraction: Array = (draws[:, 1:] != draws[:, :-1]).any(axis=2).mean(axis=1)
    return fraction


def relative_spread(draws: Array, moves: float) -> Array:
    """Smallest spread of each chain relative to that of all draws, ``(chain,)``.

    The spread of a chain is its standard deviation, that of all draws the distance of their
    quantiles 0.3 and 0.7 in units of a normal law's, so that neither heavy tails nor a chain
    far away make it up. Coordinates of a chain that change in fewer than ``moves`` of its
    draws say nothing about how far it travels and are skipped, as are those whose quantiles are
    equal: indicators, and values that are clipped.
    """
    lower, upper = np.quantile(draws, _MIDDLE, axis=(0, 1))
    whole = (upper - lower) / _NORMAL_MIDDLE
    changes = (draws[:, 1:] != draws[:, :-1]).mean(axis=1) >= moves
    relative = np.divide(
        draws.std(axis=1, ddof=1), whole, out=np.full(changes.shape, np.inf), where=whole > 0
    )
    smallest: Array = np.where(changes, relative, np.inf).min(axis=1, initial=np.inf)
    return smallest


def spread_threshold(spread: float, shape: tuple[int, ...]) -> float:
    r"""``spread``, or less where so few draws could be so close by chance.

    For the variance :math:`s^2` of :math:`k + 1` normal draws of variance :math:`\sigma^2`,

    .. math:: P(k s^2 / \sigma^2 < x) \le (x / 2)^{k/2} / \Gamma(k/2 + 1),

    which is solved for a false-alarm rate of 1e-5, shared among chains and coordinates.

    >>> spread_threshold(0.1, (4, 1000, 2))
    0.1
    """
    num_chains, num_draws, num_coordinates = shape
    degrees = num_draws - 1
    log_rate = math.log(_FALSE_ALARM_RATE / max(1, num_chains * num_coordinates))
    log_half = (2.0 / degrees) * (log_rate + math.lgamma(degrees / 2.0 + 1.0))
    return min(spread, math.sqrt(2.0 * math.exp(log_half) / degrees))
