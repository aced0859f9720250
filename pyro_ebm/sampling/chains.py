"""One run of parallel chains: warm-up, then draws into storage."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.interrupts import uninterrupted
from pyro_ebm.core.positions import fields_like, held, laid_out, tensors_of
from pyro_ebm.core.types import Info, Kernel, Potential
from pyro_ebm.potentials.starts import is_finite_start
from pyro_ebm.sampling.plain import plain
from pyro_ebm.sampling.progress import Progress
from pyro_ebm.sampling.ranks import OneProcess, Ranks
from pyro_ebm.sampling.steps import Steps, eager_steps
from pyro_ebm.sampling.storage import DrawStorage
from pyro_ebm.sampling.warmup import WarmUp
from pyro_ebm.sampling.watch import EscapeWatch

Hook = Callable[[Any, dict[str, Tensor], str, int], None]

_STEPS_AT_ONCE = 8
"""Compiled steps between two looks at the run, which take as long as a step of few chains."""


class Mark(NamedTuple):
    """A run between two steps, to go on from.

    Nothing in it changes later but scratch memory of the state, which does not matter to a
    state that is stepped again (see ``Kernel.step``).
    """

    kernel: Any
    state: Any
    generator: Tensor
    watch: dict[str, Any]
    warm_up: dict[str, Any] | None
    """None once warm-up is over."""
    num_restarted: int
    steps: int
    """Steps of warm-up, or of sampling."""
    drawn: Tensor | None
    warmup_drawn: Tensor | None


class ChainRun:
    """Chains of one kernel on one potential, advanced as one batch.

    What has been drawn so far is always in ``storage``, whatever stops the run, and
    :meth:`state_dict` is always that of a moment between two steps.

    Args:
        kernel: Recipe; completed by warm-up.
        potential: What to sample.
        generator: Source of all randomness.
        storage: Where the draws go.
        warmup_storage: Where the steps of warm-up go, if they are wanted.
        hook: Called after each step with the kernel, the unconstrained values by site, the
            phase and the step.
        steps: How to move chains; by default as the kernel's ``step`` is written.
        ranks: Processes that have chains of the same run.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        kernel: Kernel[Any, Any],
        potential: Potential,
        generator: torch.Generator,
        *,
        storage: DrawStorage,
        warmup_storage: DrawStorage | None = None,
        hook: Hook | None = None,
        steps: Steps | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = OneProcess() if ranks is None else ranks
        self.kernel, self.potential, self.generator = kernel, potential, generator
        self.storage, self.warmup_storage, self.hook = storage, warmup_storage, hook
        self.num_restarted = 0
        given = Steps(eager_steps(potential)) if steps is None else steps
        self._eager_step, compiled, self._storing_steps = given
        self._step = self._eager_step if compiled is None else compiled

    def begin(self, position: Tensor, warmup_steps: int) -> None:
        """Put the chains at ``position`` and plan the warm-up."""
        self._start, self._warmup_steps, self._steps = position, warmup_steps, 0
        self._watch = EscapeWatch.of_warm_up(position)
        self._state = self.kernel.init(self.potential, laid_out(position), self.generator)
        self._start_energy = self._state.potential_energy
        self._warm_up: WarmUp | None = self._new_warm_up(self.kernel)
        self._warm_up.begin(warmup_steps)
        self._make_mark()

    def resume(self, kernel: Any, state_dict: dict[str, Any], warmup_steps: int) -> None:
        """Go on from what :meth:`state_dict` gave, with the kernel of that moment.

        Raises:
            ModelError: If the potential is another one.
        """
        recipe, start = self.kernel, state_dict["start"]
        template = self._first_state(start, state_dict["start_energy"])
        self._start, self._start_energy = start, state_dict["start_energy"]
        self._warmup_steps, self._steps = warmup_steps, state_dict["steps"]
        self.kernel, self.num_restarted = kernel, state_dict["num_restarted"]
        self._state = fields_like(template, iter(state_dict["state"]))
        self._watch = EscapeWatch.of_warm_up(start)
        self._watch.load_state_dict(state_dict["watch"])
        self._warm_up = None
        if state_dict["warm_up"] is not None:
            self._warm_up = self._new_warm_up(recipe)
            self._warm_up.kernel = kernel
            self._warm_up.load_state_dict(state_dict["warm_up"])
        self.storage.load_state_dict(state_dict["storage"])
        if self.warmup_storage is not None:
            self.warmup_storage.load_state_dict(state_dict["warmup_storage"])
        self.generator.set_state(state_dict["generator"].cpu())  # also that of a GPU
        self._make_mark()

    def _new_warm_up(self, kernel: Kernel[Any, Any]) -> WarmUp:
        adaptation = kernel.adaptation()
        # What else it tunes would be compiled anew at each change.
        compiles = adaptation is None or adaptation.tunes <= kernel.tuned_numbers.keys()
        step = self._step if compiles else self._eager_step
        return WarmUp(kernel, self.potential, self.generator, step, self._ranks)

    def _first_state(self, start: Tensor, energy: Tensor) -> Any:
        """The state that the run began with, but for what was random in it."""
        # In the same order as then, since the first evaluation records the graph of a model.
        is_finite_start(self.potential, start)
        generator = torch.Generator(start.device).manual_seed(0)
        state = self.kernel.init(self.potential, laid_out(start), generator)
        tolerance = torch.finfo(start.dtype).eps ** 0.75
        if not torch.allclose(state.potential_energy, energy, tolerance, tolerance):
            raise ModelError(
                f"at the starts of the run that was saved the potential is {energy.tolist()} there "
                f"and {state.potential_energy.tolist()} here, so that the run cannot be continued: "
                "give it the same model or energy, with the same parameters."
            )
        return state

    def run(self, progress: Progress, after_step: Callable[[], None] = lambda: None) -> None:
        """Warm up if that is not done yet, then fill the storage."""
        self._progress, self._after_each_step = progress, after_step
        if self._warm_up is not None:
            self._finish(self._warm_up)
        progress.phase("Sample", lambda: self._warmup_steps + self.storage.num_transitions())
        self._draw()

    def _finish(self, warm_up: WarmUp) -> None:
        self._progress.phase("Warm-up", lambda: warm_up.num_transitions)
        while not warm_up.is_done:
            state, info = warm_up.step(self._state)
            if self.warmup_storage is not None:
                self.warmup_storage.record(state, info)
            self.kernel, self.num_restarted = warm_up.kernel, warm_up.num_restarted
            self._after_step(state, info, "Warmup", self.warmup_storage)
        if self._warmup_steps:
            self._watch.look(self._state)
        self._watch = EscapeWatch.of_sampling(self._start, self._state.position)
        self._warm_up, self._steps = None, 0
        self._make_mark()

    def _draw(self) -> None:
        advance, at_once = self._step_and_store, 1
        if self._storing_steps is not None:
            advance, at_once = self._many_steps, self._num_calls * self.kernel.steps_per_call
        while (left := self.storage.steps_left()) > 0:
            for _ in range(math.ceil(left / at_once)):
                advance()
        self._watch.look(self._state)

    def _step_and_store(self) -> None:
        noise = self.kernel.noise(self._state, self.generator)
        state, info = self._step(self.kernel, self._state, noise)
        if (waiting := self.storage.waiting) is not None:
            state, moves = held(waiting, self._state, state), ~waiting
            info = info._replace(finished=info.finished & moves, diverging=info.diverging & moves)
        self.storage.record(state, info)
        self._after_step(state, info, "Sample", self.storage)

    def _many_steps(self) -> None:
        """Several calls, each of as many steps, so that a run that goes on makes the same."""
        assert self._storing_steps is not None
        first = self._noises()
        self._storing_steps.prepare(self.kernel, self._state, *first)
        # An interrupt in the middle of a call would leave scratch memory that belongs to no state.
        with uninterrupted() as interrupts:
            noises = (self._noises() for _ in range(self._num_calls - 1) if not interrupts)
            moved = self._storing_steps.store(self._state, chain([first], noises))
            self._after_step(moved.state, moved.info, "Sample", self.storage, moved.num_steps)

    @property
    def _num_calls(self) -> int:
        return max(1, _STEPS_AT_ONCE // self.kernel.steps_per_call)

    def _noises(self) -> list[Any]:
        """Randomness of one call."""
        num_steps = self.kernel.steps_per_call
        return [self.kernel.noise(self._state, self.generator) for _ in range(num_steps)]

    def _after_step(
        self,
        state: Any,
        info: Info,
        phase: str,
        storage: DrawStorage | None,
        num_steps: int = 1,
    ) -> None:
        self._state = state
        self._watch.step(state, info, num_steps)
        self._steps += num_steps
        self._make_mark()
        self._progress.step(info, storage)
        if self.hook is not None:
            params = self.potential.unflatten(state.position)
            self.hook(self.kernel, params, phase, self._steps - 1)
        self._after_each_step()

    def _make_mark(self) -> None:
        self._mark = Mark(
            kernel=self.kernel,
            state=self._state,
            generator=self.generator.get_state(),
            watch=self._watch.state_dict(),
            warm_up=None if self._warm_up is None else self._warm_up.state_dict(),
            num_restarted=self.num_restarted,
            steps=self._steps,
            drawn=self.storage.count,
            warmup_drawn=None if self.warmup_storage is None else self.warmup_storage.count,
        )

    @property
    def mark(self) -> Mark:
        """The latest moment between two steps."""
        return self._mark

    def state_dict(self) -> dict[str, Any]:
        """The latest mark and the draws, in plain values; the kernel goes separately."""
        mark = self._mark
        return {
            "start": self._start,
            "start_energy": self._start_energy,
            "num_restarted": mark.num_restarted,
            "state": tensors_of(mark.state),
            "generator": mark.generator,
            "watch": plain(mark.watch),
            "warm_up": plain(mark.warm_up),
            "steps": mark.steps,
            "storage": _stored(self.storage, mark.drawn),
            "warmup_storage": _stored(self.warmup_storage, mark.warmup_drawn),
        }


def _stored(storage: DrawStorage | None, count: Tensor | None) -> dict[str, Any] | None:
    """The draws, counted as at the mark; those that came later are made again."""
    if storage is None:
        return None
    return {"count": None} if count is None else storage.state_dict() | {"count": count}
