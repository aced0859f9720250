"""One run of parallel chains: warm-up, then draws into storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.types import Info, Kernel, Potential, State
from pyro_ebm.sampling.progress import Progress
from pyro_ebm.sampling.storage import DrawStorage
from pyro_ebm.sampling.warmup import WarmUp
from pyro_ebm.sampling.watch import EscapeWatch

Hook = Callable[[Any, dict[str, Tensor], str, int], None]


class ChainRun:
    """Chains of one kernel on one potential, advanced as one batch.

    What has been drawn so far is always in ``storage``, whatever stops the run.

    Args:
        kernel: Recipe; completed by warm-up.
        potential: What to sample.
        generator: Source of all randomness.
        storage: Where the draws go.
        warmup_storage: Where the steps of warm-up go, if they are wanted.
        hook: Called after each step with the kernel, the unconstrained values by site, the
            phase and the step.
    """

    def __init__(
        self,
        kernel: Kernel[Any, Any],
        potential: Potential,
        generator: torch.Generator,
        *,
        storage: DrawStorage,
        warmup_storage: DrawStorage | None = None,
        hook: Hook | None = None,
    ) -> None:
        self.kernel, self.potential, self.generator = kernel, potential, generator
        self.storage, self.warmup_storage, self.hook = storage, warmup_storage, hook
        self.num_restarted = 0

    def run(self, position: Tensor, warmup_steps: int, progress: Progress) -> None:
        """Warm up from ``position``, then fill the storage."""
        self._watch, self._progress = EscapeWatch.of_warm_up(position), progress
        state = self.kernel.init(self.potential, position, self.generator)
        if warmup_steps:
            state = self._warm_up(state, warmup_steps)
            self._watch.look(state)
        self._watch = EscapeWatch.of_sampling(position, state.position)
        progress.phase("Sample")
        self._draw(state)

    def _warm_up(self, state: Any, num_steps: int) -> Any:
        self._progress.phase("Warm-up")
        warm_up = WarmUp(self.kernel, self.potential, self.generator)
        steps = iter(range(num_steps))

        def on_step(state: State, info: Info) -> None:
            if self.warmup_storage is not None:
                self.warmup_storage.record(state, info)
            self._after_step(state, info, "Warmup", next(steps), self.warmup_storage)

        self.kernel, state = warm_up.run(state, num_steps, on_step)
        self.num_restarted = warm_up.num_restarted
        return state

    def _draw(self, state: Any) -> None:
        step = 0
        while (left := self.storage.steps_left()) > 0:
            for _ in range(left):
                noise = self.kernel.noise(state, self.generator)
                state, info = self.kernel.step(self.potential, state, noise)
                self.storage.record(state, info)
                self._after_step(state, info, "Sample", step, self.storage)
                step += 1
        self._watch.look(state)

    def _after_step(
        self, state: Any, info: Info, phase: str, step: int, storage: DrawStorage | None
    ) -> None:
        self._watch.step(state, info)
        self._progress.step(info, storage)
        if self.hook is not None:
            self.hook(self.kernel, self.potential.unflatten(state.position), phase, step)
