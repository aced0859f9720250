"""Stop a run whose chains have left for infinity, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import NonFiniteError
from pyro_ebm.core.types import Info, State

_STEPS_BETWEEN_LOOKS = 50
_FEWEST_TO_BE_STUCK = 20


class EscapeWatch:
    """Looks at the chains every 50 steps or a few more, and at the end of a phase.

    A chain has left when a coordinate is not finite or beyond ``bound``, or when it has not
    moved since the last look because every move diverged: where the energy falls to minus
    infinity it soon overflows, and the chain is stuck before it gets far.
    Single far chains are data (heavy tails); half of all at once mean that the density cannot
    be normalised.

    Args:
        start: Starting positions ``(C, dim)``.
        bound: Largest coordinate that a chain may have.
    """

    def __init__(self, start: Tensor, bound: Tensor) -> None:
        self._bound = bound
        self._steps = 0
        self._only_diverges: Tensor
        self._begin_period(start)

    @classmethod
    def of_warm_up(cls, start: Tensor) -> EscapeWatch:
        """Allow ``1e12 * (1 + max |start|)``: the density may lie far from the starts."""
        return cls(start, 1e12 * (1.0 + _largest(start)))

    @classmethod
    def of_sampling(cls, first: Tensor, start: Tensor) -> EscapeWatch:
        """Allow ``1e6 * (1 + max |first start|)``, or 1000 times where warm-up has led to."""
        return cls(start, torch.maximum(1e6 * (1.0 + _largest(first)), 1e3 * _largest(start)))

    def state_dict(self) -> dict[str, Any]:
        """Everything it remembers, in plain values; later steps do not change them."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        vars(self).update(state_dict)

    def step(self, state: State, info: Info, num_steps: int = 1) -> None:
        """Count steps, and look if it is time to.

        Raises:
            NonFiniteError: If half of the chains have left.
        """
        self._steps += num_steps
        self._steps_in_period += num_steps
        self._only_diverges = self._only_diverges & info.diverging
        if self._steps_in_period >= _STEPS_BETWEEN_LOOKS:
            self.look(state)

    def look(self, state: State) -> None:
        """Look now; a few steps that diverge do not make a stuck chain.

        Raises:
            NonFiniteError: If half of the chains have left.
        """
        position = state.position
        has_left = ~(torch.isfinite(position) & (position.abs() < self._bound)).all(dim=-1)
        if self._steps_in_period >= _FEWEST_TO_BE_STUCK:
            has_left = has_left | self._only_diverges & (position == self._last).all(dim=-1)
        self._check(has_left)
        self._begin_period(position)

    def _begin_period(self, position: Tensor) -> None:
        self._last, self._steps_in_period = position, 0
        self._only_diverges = torch.ones(len(position), dtype=torch.bool, device=position.device)

    def _check(self, has_left: Tensor) -> None:
        left = int(has_left.sum())
        if 2 * left >= len(has_left):
            raise NonFiniteError(
                f"stopped after {self._steps} steps: {left} of {len(has_left)} chains have left "
                f"for infinity (beyond {float(self._bound):.3g} in unconstrained coordinates, or "
                "stuck where every move diverges). The energy is unbounded below or the posterior "
                "improper: add a prior or a base term (base_scale of MLPEnergy); or the steps are "
                "too large: use a smaller step_size; or the density lies that far from the starts: "
                "give initial_params there."
            )


def _largest(position: Tensor) -> Tensor:
    return position.abs().amax()
