"""Warm-up: tune a kernel's step size and moments on pooled chains, before any draw is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.positions import (
    fields_like,
    map_fields,
    select,
    tensors_of,
)
from pyro_ebm.core.types import Info, Kernel, Potential, State
from pyro_ebm.sampling.adaptation import DualAveraging, PooledCovariance, PooledVariance
from pyro_ebm.sampling.outliers import is_high, within_reach
from pyro_ebm.sampling.plain import attributes, set_attributes
from pyro_ebm.sampling.ranks import OneProcess, Ranks, gather_together
from pyro_ebm.sampling.step_size import StepSizeSearch
from pyro_ebm.sampling.steps import Step, eager_steps

OnStep = Callable[[Any, Any], None]

_FEWEST_TO_AVERAGE = 3
_FEWEST_TO_SETTLE = 10


_FROZEN_ACCEPTANCE = 0.01
"""Mean acceptance of a chain in a window below which it is taken to be frozen."""

_FEWEST_TO_FREEZE = 30
"""Shorter windows do not tell a frozen chain from an unlucky one."""

_ALONE = OneProcess()

_ONE_CHAIN = 20
"""How much longer than the shortest the warm-up of a single chain is."""

_NOT_PLAIN = {"kernel", "potential", "generator", "_step", "_search", "_ranks"}
_PARTS = ("_tuner", "_pooled", "_progress", "_adaptation")
"""What else a warm-up holds: handed over, and objects of their own."""


class Window(NamedTuple):
    """Transitions of warm-up; ``estimates_moments`` at the end of it."""

    num_transitions: int
    estimates_moments: bool


def windows(num_transitions: int) -> list[Window]:
    """Stan's schedule in shares: 15 % to find the mass, doubling windows, 10 % for the step size.

    The scale that is kept is estimated in the last but one. That window is not made longer in order
    to hold what is left, as Stan's is: chains that are still on their way at its beginning would
    make every scale too large.

    >>> [window.num_transitions for window in windows(1000)]
    [150, 125, 250, 375, 100]
    """
    last = min(num_transitions, max(_FEWEST_TO_SETTLE, math.ceil(0.1 * num_transitions)))
    first = min(num_transitions - last, math.ceil(0.15 * num_transitions))
    left, size = num_transitions - first - last, max(10, num_transitions // 8)
    slow: list[Window] = []
    while left > 0:
        size = left if left < 2 * size else size
        slow.append(Window(size, estimates_moments=True))
        left, size = left - size, 2 * size
    ends = Window(first, estimates_moments=False), Window(last, estimates_moments=False)
    return [window for window in (ends[0], *slow, ends[1]) if window.num_transitions > 0]


def enough_transitions(shortest: int, num_chains: int) -> int:
    """Length of warm-up by default: 20 times the shortest for one chain, less the more pool.

    What is pooled, variances and acceptances, has errors as ``1 / sqrt(chains * transitions)``;
    what is not, the way from the starts to the bulk of the target, sets the shortest.

    >>> [enough_transitions(50, num_chains) for num_chains in (1, 4, 16, 64, 1024)]
    [1000, 354, 125, 50, 50]
    """
    return max(shortest, math.ceil(_ONE_CHAIN * shortest / math.pow(num_chains, 0.75)))


class WarmUp:
    """Tune what the kernel leaves open, and move its chains on the way.

    A step size or moment (scale, centre) that is given is kept; one that is None is tuned. The
    chains are one batch, so they share them. Progress is counted in transitions: draws that half of
    the chains have finished, which may be at different stages of their trajectories. At each whole
    transition the step size follows the mean acceptance over all chains and *all points they
    came to*, and the moments take in where all chains are, in the middle of a trajectory or not:
    finished draws alone would be those of the short trajectories first. A new step size takes
    effect at each chain's next trajectory; at the end of a window, and of warm-up, all chains
    begin anew together, with the new moments and the step size that they make of the old one
    (:class:`~pyro_ebm.sampling.step_size.StepSizeSearch`).

    Args:
        kernel: The recipe to complete.
        potential: What the chains sample.
        generator: Source of randomness.
        step: How to move chains; by default as the kernel's ``step`` is written.
        ranks: Processes that have chains of the same run. What is pooled is pooled over all of
            them, so that all tune the same kernel.
    """

    def __init__(
        self,
        kernel: Kernel[Any, Any],
        potential: Potential,
        generator: torch.Generator,
        step: Step | None = None,
        ranks: Ranks = _ALONE,
    ) -> None:
        self._ranks = ranks
        self.kernel, self.potential, self.generator = kernel, potential, generator
        self._step = eager_steps(potential) if step is None else step
        self._search = StepSizeSearch(self._step, generator, ranks)
        self._tunes_step_size = kernel.step_size is None
        self._open_moments = [name for name, value in kernel.moments.items() if value is None]
        self._adaptation = kernel.adaptation()

    def run(self, state: State, num_transitions: int, on_step: OnStep) -> tuple[Any, Any]:
        """Return the tuned kernel and the state after ``num_transitions`` of half of the chains.

        Raises:
            StepSizeError: If no step size gives an acceptance near the target.
        """
        self.begin(num_transitions)
        while not self.is_done:
            state, info = self.step(state)
            on_step(state, info)
        return self.kernel, state

    def begin(self, num_transitions: int) -> None:
        """Plan a warm-up of so many transitions, made by calls of :meth:`step`."""
        self._accepted: Tensor
        self.num_restarted = 0
        self._windows = windows(num_transitions)
        self._window: Window | None = None
        self._num_transitions = 0

    @property
    def is_done(self) -> bool:
        """Whether the kernel is tuned."""
        return self._window is None and not self._windows

    @property
    def num_transitions(self) -> int:
        """Transitions that half of the chains have made so far."""
        current = 0 if self._window is None else self._progress.num_transitions
        return self._num_transitions + current

    def step(self, state: Any) -> tuple[Any, Info]:
        """Move the chains by one step, and tune.

        Raises:
            StepSizeError: If no step size gives an acceptance near the target.
        """
        if self._window is None:
            state = self._open_window(self._windows.pop(0), state)
        state, info = self._move(state)
        if self._adaptation is not None:
            self.kernel = self._adaptation.update(self.kernel, *self._everywhere(state, info))
        self._accepted = self._accepted + info.step_acceptance
        self._num_steps += 1
        self._progress.add(info, self._ranks)
        if self._progress.has_transition:
            self._tune(state)
        if self._progress.num_transitions >= self._window_length:
            state = self._close_window(state)
        # A chain may be elsewhere than where the kernel has left it.
        return state, info._replace(lp=-state.potential_energy)

    def _everywhere(self, *parts: Any) -> list[Any]:
        """States and reports of the chains of all ranks."""
        tensors = iter(gather_together(self._ranks, tensors_of(parts)))
        return [fields_like(part, tensors) for part in parts]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the kernel; later steps do not change it. It is taken at each step."""
        state = {name: value for name, value in vars(self).items() if name not in _NOT_PLAIN}
        state["_windows"] = list(self._windows)
        for name in _PARTS:
            part = state.get(name)
            state[name] = None if part is None else attributes(part)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, with the kernel of that moment."""
        vars(self).update({k: v for k, v in state_dict.items() if k not in _PARTS})
        self._windows = [Window(*window) for window in state_dict["_windows"]]
        window = state_dict["_window"]
        self._window = None if window is None else Window(*window)
        self._tuner = None if state_dict["_tuner"] is None else DualAveraging(1.0, 0.5)
        self._pooled = PooledCovariance(1) if self.kernel.full_mass else PooledVariance(1)
        self._progress = _Progress(torch.zeros(1))
        for name in _PARTS:
            if state_dict[name] is not None:
                set_attributes(getattr(self, name), state_dict[name])

    def _open_window(self, window: Window, state: Any) -> Any:
        self._window, self._window_length = window, window.num_transitions
        self._estimates_moments = bool(self._open_moments) and window.estimates_moments
        self._tuner = self._new_tuner(window, state)
        dim, device = state.position.shape[-1], state.position.device
        pooled = PooledCovariance if self.kernel.full_mass else PooledVariance
        self._pooled = pooled(dim, device)
        self._accepted = torch.zeros_like(state.potential_energy, dtype=torch.float64)
        self._num_steps = 0
        self._progress = _Progress(torch.zeros_like(self._accepted))
        return self.kernel.restart(state, self.generator)

    def _tune(self, state: Any) -> None:
        acceptance = self._progress.take_acceptance()
        if self._tuner is not None:
            self._replace(step_size=self._tuner.update(acceptance))
        if self._estimates_moments:
            told = state.position, self._hardly_moved()
            position, stand = gather_together(self._ranks, told)
            self._pooled.update(within_reach(position[~_unless_most(stand)]))

    def _close_window(self, state: Any) -> Any:
        self._num_transitions += self._progress.num_transitions
        self._window = None
        if self._tuner is not None:
            self._replace(step_size=self._tuner.average)
        # First, since lost chains would count as rejected where the step size is looked for.
        state = self._restart_lost_chains(state)
        tuned = self.kernel
        if self._estimates_moments:
            moments = self._pooled.moments(state.position.dtype)
            self._replace(**{name: moments[name] for name in self._open_moments})
        if self._tunes_step_size and self._windows:
            self._replace(step_size=self._search.carry_over(tuned, self.kernel, state))
        if not self._windows and self._adaptation is not None:
            self.kernel = self._adaptation.finish(self.kernel)
        return self.kernel.restart(state, self.generator)

    def _restart_lost_chains(self, state: Any) -> Any:
        """Put chains that a whole window could not bring to the others where others are.

        A start can be so far out that a step which suits all other chains is never accepted
        there, and the step is shared; or a trajectory from a steep start ends on a plateau a
        thousand times as high as the bulk is deep, which takes thousands of such steps to cross.
        Nothing is kept from warm-up, so chains may be moved; ``num_restarted`` counts them.
        """
        everyone = self._lost(state.potential_energy).chunk(self._ranks.size)
        lost, sources = everyone[self._ranks.rank], state
        found = (~lost).nonzero().flatten()
        if any(bool(part.all()) for part in everyone):  # of which all ranks know
            sources = map_fields(self._ranks.gather, state)
            found = (~torch.cat(everyone)).nonzero().flatten()
        num_lost = int(lost.sum())
        if num_lost == 0 or len(found) == 0:
            return state
        choice = torch.randint(
            len(found), (num_lost,), generator=self.generator, device=found.device
        )
        self.num_restarted += num_lost
        return map_fields(lambda old, new: _put(old, lost, new[found[choice]]), state, sources)

    def _lost(self, energy: Tensor) -> Tensor:
        """Chains of all ranks, one rank after another."""
        energies, stand = gather_together(self._ranks, (energy, self._hardly_moved()))
        are_frozen = _unless_most(stand) & (self._num_steps >= _FEWEST_TO_FREEZE)
        high = torch.zeros_like(are_frozen)
        high[~are_frozen] = is_high(energies[~are_frozen])
        return are_frozen | high

    def _hardly_moved(self) -> Tensor:
        """Chains ``(C,)`` of this rank that hardly moved in this window.

        Where they are says nothing of the target, and a few of them far out make scales too large.
        """
        return self._accepted < _FROZEN_ACCEPTANCE * self._num_steps

    def _new_tuner(self, window: Window, state: Any) -> DualAveraging | None:
        if not self._tunes_step_size:
            return None
        step_size = self.kernel.step_size or self._search.find(self.kernel, state)
        self._replace(step_size=step_size)
        if window.num_transitions < _FEWEST_TO_AVERAGE:
            return None
        kernel = self.kernel
        return DualAveraging(step_size, kernel.target_accept_prob, kernel.largest_step_size)

    def _move(self, state: Any) -> tuple[Any, Info]:
        noise = self.kernel.noise(state, self.generator)
        moved, info = self._step(self.kernel, state, noise)
        if self._tunes_step_size and not self.kernel.is_adjusted:
            moved = self._metropolis(moved, state, info)
        return moved, info

    def _metropolis(self, moved: Any, state: Any, info: Info) -> Any:
        rate = info.step_acceptance
        uniform = torch.rand(
            rate.shape, generator=self.generator, dtype=rate.dtype, device=rate.device
        )
        return select(uniform < rate, moved, self.kernel.rejected(state))

    def _replace(self, **changes: Any) -> None:
        self.kernel = dataclasses.replace(self.kernel, **changes)  # type: ignore[type-var]  # kernels are dataclasses


def _put(field: Tensor, where: Tensor, values: Tensor) -> Tensor:
    field = field.clone()
    field[where] = values
    return field


def _unless_most(chains: Tensor) -> Tensor:
    """These chains, or none if they are most."""
    return chains & (2 * chains.sum() <= len(chains))


class _Progress:
    """Counts transitions of chains that finish them at different steps."""

    def __init__(self, finished: Tensor) -> None:
        self._finished, self._num_taken = finished, 0
        self._acceptance, self._num_points = 0.0, 0
        self.num_transitions = 0
        """What half of the chains have made: a mean would count chains that diverge at every step,
        which is a transition each, for those that are on long trajectories."""

    def add(self, info: Info, ranks: Ranks) -> None:
        self._finished = self._finished + info.finished
        finished, accepted = gather_together(ranks, (self._finished, info.step_acceptance))
        # One transfer from the device.
        transitions, acceptance = torch.stack(
            [finished.median(), accepted.sum(dtype=torch.float64)]
        ).tolist()
        self._acceptance += acceptance
        self._num_points += len(accepted)
        self.num_transitions = int(transitions)

    @property
    def has_transition(self) -> bool:
        """Whether there is a new one."""
        return self.num_transitions > self._num_taken

    def take_acceptance(self) -> float:
        """Mean acceptance of the points since the last one."""
        acceptance = self._acceptance / self._num_points
        self._num_taken = self.num_transitions
        self._acceptance, self._num_points = 0.0, 0
        return acceptance
