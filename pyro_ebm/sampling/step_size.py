"""Step sizes from which warm-up begins to tune: what the first step of all chains tells."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from pyro_ebm.core.checks import StepSizeError
from pyro_ebm.core.types import Kernel
from pyro_ebm.sampling.ranks import OneProcess, Ranks
from pyro_ebm.sampling.steps import Step

SMALLEST, LARGEST = 1e-10, 1e10
"""Step sizes that warm-up stays between."""

_HALVINGS = 3
"""Of a factor of two, on a logarithmic scale: the step size is found to within 5 %."""

_LARGEST_RATIO = 2.0
"""Of a tuned step size to the one that the first step tells, or the inverse. A whole trajectory
accepts another share than its first step, but a step size that is much further off was tuned
on chains that were elsewhere, on their way to the target."""

_ALONE = OneProcess()


class StepSizeSearch:
    """Step sizes whose first step, from where the chains are, is accepted at the target rate.

    The first step is that of a trajectory, and a whole draw of other kernels.

    Args:
        step: How to move chains.
        generator: Source of randomness. All step sizes of one search are tried with the same noise.
        ranks: Processes that have chains of the same run; the acceptance is pooled over them.
    """

    def __init__(self, step: Step, generator: torch.Generator, ranks: Ranks = _ALONE) -> None:
        self._step, self._generator, self._ranks = step, generator, ranks

    def find(self, kernel: Kernel[Any, Any], state: Any) -> float:
        """Double or halve the kernel's step size until the acceptance crosses the target; bisect.

        Where the kernel's largest step size is accepted more often than that, it is taken.

        Raises:
            StepSizeError: If no step size between 1e-10 and 1e10 does.
        """
        target, noise = kernel.target_accept_prob, self._generator.get_state()
        largest = min(kernel.largest_step_size, LARGEST)
        if largest < LARGEST and self._acceptance(kernel, largest, state, noise) > target:
            return largest
        step_size = min(max(kernel.step_size or 1.0, 2.0 * SMALLEST), largest / 2.0)
        acceptance = self._acceptance(kernel, step_size, state, noise)
        grows = acceptance > target
        factor = 2.0 if grows else 0.5
        while SMALLEST < step_size < LARGEST:
            step_size *= factor
            acceptance = self._acceptance(kernel, step_size, state, noise)
            if (acceptance > target) != grows:
                low = step_size / 2.0 if grows else step_size
                return min(self._between(kernel, low, 2.0 * low, state, noise), largest)
        raise StepSizeError(_not_found(kernel, step_size, acceptance, grows=grows))

    def carry_over(self, tuned: Kernel[Any, Any], rescaled: Kernel[Any, Any], state: Any) -> float:
        r"""Return what the step size of a tuned kernel becomes with other moments.

        .. math:: \epsilon' = \epsilon \frac{f'}{f}

        with what the first step tells before, :math:`f`, and after, :math:`f'`, with the same
        noise. A tuned :math:`\epsilon` that is not within a factor of two of :math:`f` is brought
        there first.

        Raises:
            StepSizeError: If there is no such step size.
        """
        noise = self._generator.get_state()
        before = after = self.find(tuned, state)
        if rescaled is not tuned:
            self._generator.set_state(noise)
            after = self.find(rescaled, state)
        ratio = (tuned.step_size or before) / before
        carried = after * min(max(ratio, 1 / _LARGEST_RATIO), _LARGEST_RATIO)
        return min(carried, rescaled.largest_step_size)

    def _between(
        self, kernel: Kernel[Any, Any], low: float, high: float, state: Any, noise: torch.Tensor
    ) -> float:
        """Bisect between a step size that is accepted often enough and one that is not."""
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            acceptance = self._acceptance(kernel, middle, state, noise)
            low, high = (middle, high) if acceptance > kernel.target_accept_prob else (low, middle)
        return math.sqrt(low * high)

    def _acceptance(
        self, kernel: Kernel[Any, Any], step_size: float, state: Any, noise: torch.Tensor
    ) -> float:
        self._generator.set_state(noise)
        trial = dataclasses.replace(kernel, step_size=step_size)  # type: ignore[type-var]  # kernels are dataclasses
        start = trial.restart(state, self._generator)
        _, info = self._step(trial, start, trial.noise(start, self._generator))
        return float(self._ranks.gather(info.step_acceptance).mean())


def _not_found(
    kernel: Kernel[Any, Any], step_size: float, acceptance: float, *, grows: bool
) -> str:
    return (
        f"{type(kernel).__name__} finds no step size between {SMALLEST:g} and {LARGEST:g}: the "
        f"acceptance stays {'above' if grows else 'below'} {kernel.target_accept_prob:g} "
        f"({acceptance:.3g} at step size {step_size:.3g}). "
        + (
            "The potential is flat or improper; give it a proper density or a step_size."
            if grows
            else "The gradient does not belong to the energy, or the energy is not finite or jumps "
            "around the starting points; mend it, or give other initial_params."
        )
    )
