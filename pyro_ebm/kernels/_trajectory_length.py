"""The length of trajectories that moves chains farthest, found by all of them together."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.positions import dot64
from pyro_ebm.kernels._metric import metric_of

UNIT_LENGTH = 2.246705
"""Longest trajectory on a standard normal, with its share uniform on [0, 1]: the maximum of
``1 / 2 - sin(2 T) / (4 T)``."""

_FEWEST_CHAINS = 8
_FIRST_NUM_STEPS = 9.0
"""Steps of the longest of the first trajectories, while scales are not known. Half of it, with
which they begin, is no whole number, so that the last bit of a step size decides nothing."""

_LEARNING_RATE = 0.025
_MOMENTUM, _DECAY = 0.9, 0.999
_LARGEST_UPDATE = 0.35
_MOST_STEPS = 1000.0

_OTHER_UNITS = 2.0
"""Factor by which a window may change a scale before lengths are taken to be in other units."""


class Centred(NamedTuple):
    """Chains as the criterion sees them: how far they are from their mean."""

    distance: Tensor
    """From the mean, ``(C, dim)``."""
    squared: Tensor
    """Its squared length ``(C,)``."""
    share: Tensor
    """Of each chain in all averages, ``(C,)`` with the sum one."""


def centred(z: Tensor, weight: Tensor) -> Centred:
    """Chains at ``z`` ``(C, dim)``, weighted by ``weight`` ``(C,)``; NaN if all of it is zero."""
    share = weight / weight.sum()
    distance = z - share @ z
    return Centred(distance, dot64(distance, distance), share)


def criterion_gradient(start: Centred, end: Centred, velocity: Tensor) -> Tensor:
    r"""Derivative of the criterion with respect to the trajectory length, a scalar.

    .. math:: \sum_c a_c (|\hat z'_c|^2 - |\hat z_c|^2) \hat z'_c \cdot v'_c / \sum_c a_c,

    with hats for the distance from the mean over the chains.

    Args:
        start: Where the trajectories began, :math:`z`, about their mean.
        end: Where they ended, :math:`z'`, weighted by their acceptance :math:`a`.
        velocity: Velocities there, ``(C, dim)``.
    """
    change = end.squared - start.squared
    return (end.share * change * dot64(end.distance, velocity)).sum()


def spread(start: Centred, end: Centred) -> Tensor:
    r"""What the criterion would be, four times, if ends had nothing to do with starts; a scalar.

    .. math:: \mathrm{Var} |\hat z|^2 + \mathrm{Var} |\hat z'|^2
        + (E |\hat z'|^2 - E |\hat z|^2)^2.

    In units of it gradients are about one, wherever the chains are.
    """
    before, after = _mean_squared(start), _mean_squared(end)
    variances = _variance(start, before) + _variance(end, after)
    return variances + (after - before).square()


def _mean_squared(chains: Centred) -> Tensor:
    return chains.share @ chains.squared


def _variance(chains: Centred, mean: Tensor) -> Tensor:
    """Of the squared distances."""
    return chains.share @ (chains.squared - mean).square()


class TrajectoryLengthTuner:
    """Climbs the criterion by Adam on the log of the length, and averages.

    It takes one step at the end of each trajectory, along the gradient in units of what the
    criterion could be there: those of far-out starts would be 10^8 times as large, and Adam, which
    remembers them, would make nothing of later ones. When warm-up finds scales, or replaces one by
    another of more than twice or less than half of it, lengths are in new units: it starts again
    from the length that is best for a standard normal.
    """

    tunes = frozenset({"trajectory_length"})

    def __init__(self) -> None:
        self._scale: Tensor | None = None
        self._log_length = math.nan

    def update(self, kernel: Any, state: Any, info: Any) -> Any:
        """Take in one step of all chains.

        Raises:
            ModelError: If there are fewer than 8 chains.
        """
        _check_number(len(state.position))
        if math.isnan(self._log_length) or self._are_other_units(kernel.scale):
            self._begin(self._first_length(kernel))
            kernel = _with_length(kernel, self._log_length)
        self._scale = kernel.scale
        if not bool(info.finished.all()):
            return kernel
        self._climb(kernel, state, info)
        return _with_length(kernel, self._log_length)

    def finish(self, kernel: Any) -> Any:
        """The kernel with the averaged length."""
        has_begun = not math.isnan(self._log_length)
        return _with_length(kernel, self._log_average) if has_begun else kernel

    def _first_length(self, kernel: Any) -> float:
        if kernel.scale is not None:
            return UNIT_LENGTH
        return min(UNIT_LENGTH, _FIRST_NUM_STEPS * float(kernel.step_size))

    def _are_other_units(self, scale: Tensor | None) -> bool:
        """Whether lengths meant something else with the scale of the step before."""
        if scale is self._scale or scale is None:  # as a rule: it is asked at each step
            return False
        if self._scale is None:
            return True
        change = _widths(scale) / _widths(self._scale).to(scale)
        return bool(change.log().abs().max() > math.log(_OTHER_UNITS))

    def _begin(self, length: float) -> None:
        self._log_length = self._log_average = math.log(length)
        self._slope = self._square = 0.0
        self._count = 0

    def _climb(self, kernel: Any, state: Any, info: Any) -> None:
        step_size = float(info.step_size[0])
        gradient = relative_gradient(kernel.scale, state, info, step_size)
        if gradient is None:
            return
        self._log_length += self._update(gradient)
        lowest, highest = math.log(step_size), math.log(_MOST_STEPS * step_size)
        self._log_length = min(max(self._log_length, lowest), highest)
        self._log_average += self._count**-0.5 * (self._log_length - self._log_average)

    def _update(self, gradient: float) -> float:
        """Adam's."""
        self._count += 1
        self._slope += (1.0 - _MOMENTUM) * (gradient - self._slope)
        self._square += (1.0 - _DECAY) * (gradient**2 - self._square)
        slope = self._slope / (1.0 - _MOMENTUM**self._count)
        square = self._square / (1.0 - _DECAY**self._count)
        update = _LEARNING_RATE * slope / (math.sqrt(square) + 1e-8)
        return min(max(update, -_LARGEST_UPDATE), _LARGEST_UPDATE)


def _with_length(kernel: Any, log_length: float) -> Any:
    return dataclasses.replace(kernel, trajectory_length=math.exp(log_length))


def relative_gradient(
    scale: Tensor | None, state: Any, info: Any, step_size: float
) -> float | None:
    """Derivative of the criterion with respect to the log of the length, in units of the spread.

    None if no chain can tell, all rejected or all at one distance. All starts count alike, and
    ends as much as they are accepted.
    """
    weight = info.acceptance_rate
    # In float64, since fourth powers of what is far out are beyond float32.
    ends = (state.start.double(), state.end.position.double())
    start, end = (metric_of(scale, x).to_unit(x) for x in ends)
    chains = centred(start, torch.ones_like(weight)), centred(end, weight)
    gradient = criterion_gradient(*chains, state.end.momentum)
    # Together, since each transfer waits for the device.
    told = torch.stack([spread(*chains), gradient, info.n_steps[0].double()])
    unit, slope, num_steps = told.tolist()
    # The length of this trajectory, rounded up to whole steps. The unit is NaN if all rejected.
    return step_size * num_steps * slope / unit if unit > 0 else None


def _widths(scale: Tensor) -> Tensor:
    """Standard deviations ``(dim,)``."""
    scale = scale.detach()
    return scale if scale.ndim == 1 else scale.norm(dim=-1)


def _check_number(num_chains: int) -> None:
    if num_chains < _FEWEST_CHAINS:
        raise ModelError(
            f"ChEESHMC cannot tune its trajectory length on {num_chains} chains: the criterion is "
            f"an average over chains. Use {_FEWEST_CHAINS} at the least, better 64 and more, give "
            "it a trajectory_length, or use NUTS."
        )
