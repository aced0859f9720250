"""Stop a run whose chains have left for infinity, by name."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ebm.core.checks import NonFiniteError
from pyro_ebm.core.types import Info, State

_STEPS_BETWEEN_LOOKS = 50
_ESCAPE_FACTOR = 1e6
"""A chain has escaped when a coordinate is this many times the largest starting value."""


class EscapeWatch:
    """Looks at the chains every 50 steps.

    A chain has left when since the last look a coordinate was not finite or beyond
    ``1e6 * (1 + max |start|)``, or when it has not moved because every move diverged: where the
    energy falls to minus infinity it soon overflows, and the chain is stuck before it gets far.
    Single far chains are data (heavy tails); half of all at once mean that the density cannot
    be normalised.

    Args:
        start: Starting positions ``(C, dim)``.
    """

    def __init__(self, start: Tensor) -> None:
        self._bound = _ESCAPE_FACTOR * (1.0 + start.abs().amax())
        self._steps = 0
        self._begin_period(start)

    def step(self, state: State, info: Info) -> None:
        """Count one step, and look if it is time to.

        Raises:
            NonFiniteError: If half of the chains have left.
        """
        self._steps += 1
        self._furthest = torch.maximum(self._furthest, state.position.abs().amax(dim=-1))
        self._only_diverges = self._only_diverges & info.diverging
        if self._steps % _STEPS_BETWEEN_LOOKS == 0:
            self._look(state.position)
            self._begin_period(state.position)

    def _begin_period(self, position: Tensor) -> None:
        self._last = position
        self._furthest = position.abs().amax(dim=-1)
        self._only_diverges = torch.ones_like(self._furthest, dtype=torch.bool)

    def _look(self, position: Tensor) -> None:
        inside = self._furthest < self._bound
        is_stuck = self._only_diverges & (position == self._last).all(dim=-1)
        left = int((~inside | is_stuck).sum())
        if 2 * left >= len(inside):
            raise NonFiniteError(
                f"stopped after {self._steps} steps: {left} of {len(inside)} chains have left for "
                f"infinity (beyond {float(self._bound):.3g} in unconstrained coordinates, or stuck "
                "where every move diverges). The energy is unbounded below or the posterior "
                "improper: add a prior or a base term (base_scale of MLPEnergy); or the steps are "
                "too large: use a smaller step_size."
            )
