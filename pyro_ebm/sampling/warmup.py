"""Warm-up: tune a kernel's step size and scale on pooled chains, before any draw is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.checks import StepSizeError
from pyro_ebm.core.positions import select
from pyro_ebm.core.types import Info, Kernel, Potential, State
from pyro_ebm.sampling.adaptation import DualAveraging, PooledVariance

OnStep = Callable[[Any, Any], None]

_SMALLEST, _LARGEST = 1e-10, 1e10

_FEWEST_TO_AVERAGE = 10
_FEWEST_TO_SETTLE = 15
"""Dual averaging starts at ten times the step size that was found: its average is still six times
too large after 2 updates, 1.1 times after 10, and right after 15, however many chains there are."""


_FROZEN_ACCEPTANCE = 0.01
"""Mean acceptance of a chain in a window below which it is taken to be frozen."""

_FEWEST_TO_FREEZE = 50
"""Shorter windows do not tell a frozen chain from an unlucky one."""


class Window(NamedTuple):
    """Steps of warm-up; ``estimates_scale`` at the end of it."""

    num_steps: int
    estimates_scale: bool


def windows(num_steps: int) -> list[Window]:
    """Stan's schedule in shares: 15 % to find the mass, doubling windows, 10 % for the step size.

    >>> [window.num_steps for window in windows(1000)]
    [150, 125, 625, 100]
    """
    last = min(num_steps, max(_FEWEST_TO_SETTLE, math.ceil(0.1 * num_steps)))
    first = min(num_steps - last, math.ceil(0.15 * num_steps))
    left, size = num_steps - first - last, max(10, num_steps // 8)
    slow: list[Window] = []
    while left > 0:
        size = left if left < 3 * size else size
        slow.append(Window(size, estimates_scale=True))
        left, size = left - size, 2 * size
    ends = Window(first, estimates_scale=False), Window(last, estimates_scale=False)
    return [window for window in (ends[0], *slow, ends[1]) if window.num_steps > 0]


class WarmUp:
    """Tune what the kernel leaves open, and move its chains on the way.

    A step size or scale that is given is kept; one that is None is tuned. The step size
    follows the mean acceptance over all chains, the scale the variance over all chains and
    the steps of a window. The chains are one batch, so they share both.

    Args:
        kernel: The recipe to complete.
        potential: What the chains sample.
        generator: Source of randomness.
    """

    def __init__(
        self, kernel: Kernel[Any, Any], potential: Potential, generator: torch.Generator
    ) -> None:
        self.kernel, self.potential, self.generator = kernel, potential, generator
        self._tunes_step_size = kernel.step_size is None
        self._tunes_scale = kernel.scale is None

    def run(self, state: State, num_steps: int, on_step: OnStep) -> tuple[Any, Any]:
        """Return the tuned kernel and the state after ``num_steps`` steps.

        Raises:
            StepSizeError: If no step size gives an acceptance near the target.
        """
        self.begin(num_steps)
        for _ in range(num_steps):
            state, info = self.step(state)
            on_step(state, info)
        return self.kernel, state

    def begin(self, num_steps: int) -> None:
        """Plan ``num_steps`` calls of :meth:`step`, after which the kernel is tuned."""
        self._accepted: Tensor
        self.num_restarted = 0
        self._windows = iter(windows(num_steps))
        self._steps_left = 0

    def step(self, state: Any) -> tuple[Any, Info]:
        """Move the chains by one step, and tune.

        Raises:
            StepSizeError: If no step size gives an acceptance near the target.
        """
        if self._steps_left == 0:
            self._open_window(next(self._windows), state)
        state, info = self._move(state)
        if self._tuner is not None:
            step_size = self._tuner.update(float(info.acceptance_rate.mean()))
            self._replace(step_size=step_size)
        if self._estimates_scale:
            self._variance.update(state.position)
        self._accepted = self._accepted + info.acceptance_rate
        self._steps_left -= 1
        if self._steps_left == 0:
            state = self._close_window(state)
        return state, info

    def _open_window(self, window: Window, state: Any) -> None:
        self._window, self._steps_left = window, window.num_steps
        self._estimates_scale = self._tunes_scale and window.estimates_scale
        self._tuner = self._start_step_size(window, state)
        self._variance = PooledVariance(self.potential.dim, state.position.device)
        self._accepted = torch.zeros_like(state.potential_energy, dtype=torch.float64)

    def _close_window(self, state: Any) -> Any:
        if self._tuner is not None:
            self._replace(step_size=self._tuner.average)
        if self._estimates_scale:
            self._replace(scale=self._variance.scale(state.position.dtype))
            state = self._restart_frozen_chains(state)
        return state

    def _restart_frozen_chains(self, state: Any) -> Any:
        """Put chains that a whole window could not move where others are.

        A start can be so far out that a step which suits all other chains is never accepted
        there, and the step is shared. Nothing is kept from warm-up, so chains may be moved;
        ``num_restarted`` counts them.
        """
        num_steps = self._window.num_steps
        frozen = self._accepted < _FROZEN_ACCEPTANCE * num_steps
        num_frozen, num_chains = int(frozen.sum()), len(frozen)
        if num_steps < _FEWEST_TO_FREEZE or not 0 < 2 * num_frozen <= num_chains:
            return state
        moving = (~frozen).nonzero().flatten()
        choice = torch.randint(
            len(moving), (num_frozen,), generator=self.generator, device=moving.device
        )
        source = torch.arange(num_chains, device=moving.device)
        source[frozen] = moving[choice]
        self.num_restarted += num_frozen
        return type(state)(*(field[source] for field in state))

    def _start_step_size(self, window: Window, state: Any) -> DualAveraging | None:
        if not self._tunes_step_size:
            return None
        start = find_step_size(self.kernel, self.potential, state, self.generator)
        self._replace(step_size=start)
        if window.num_steps < _FEWEST_TO_AVERAGE:
            return None
        return DualAveraging(start, self.kernel.target_accept_prob)

    def _move(self, state: Any) -> tuple[Any, Info]:
        noise = self.kernel.noise(state, self.generator)
        moved, info = self.kernel.step(self.potential, state, noise)
        if not self.kernel.is_adjusted:
            moved = self._metropolis(moved, state, info)
        return moved, info

    def _metropolis(self, moved: Any, state: Any, info: Info) -> Any:
        rate = info.acceptance_rate
        uniform = torch.rand(
            rate.shape, generator=self.generator, dtype=rate.dtype, device=rate.device
        )
        return select(uniform < rate, moved, self.kernel.rejected(state))

    def _replace(self, **changes: Any) -> None:
        self.kernel = dataclasses.replace(self.kernel, **changes)  # type: ignore[type-var]  # kernels are dataclasses


def find_step_size(
    kernel: Kernel[Any, Any], potential: Potential, state: Any, generator: torch.Generator
) -> float:
    """Double or halve the step size until the pooled acceptance crosses the target.

    Raises:
        StepSizeError: If no step size between 1e-10 and 1e10 does.
    """
    step_size = kernel.step_size or 1.0
    acceptance = _acceptance(kernel, potential, state, step_size, generator)
    grows = acceptance > kernel.target_accept_prob
    factor = 2.0 if grows else 0.5
    while _SMALLEST < step_size < _LARGEST:
        step_size *= factor
        acceptance = _acceptance(kernel, potential, state, step_size, generator)
        if (acceptance > kernel.target_accept_prob) != grows:
            return step_size if not grows else step_size / factor
    raise StepSizeError(
        f"{type(kernel).__name__} finds no step size between {_SMALLEST:g} and {_LARGEST:g}: the "
        f"acceptance stays {'above' if grows else 'below'} {kernel.target_accept_prob:g} "
        f"({acceptance:.3g} at step size {step_size:.3g}). "
        + (
            "The potential is flat or improper; give it a proper density or a step_size."
            if grows
            else "The gradient does not belong to the energy, or the energy is not finite or jumps "
            "around the starting points; mend it, or give other initial_params."
        )
    )


def _acceptance(
    kernel: Kernel[Any, Any],
    potential: Potential,
    state: Any,
    step_size: float,
    generator: torch.Generator,
) -> float:
    trial = dataclasses.replace(kernel, step_size=step_size)  # type: ignore[type-var]  # kernels are dataclasses
    _, info = trial.step(potential, state, trial.noise(state, generator))
    return float(info.acceptance_rate.mean())
