"""A kernel of which every draw is known and whose chains finish draws at different steps."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor


class CountingState(NamedTuple):
    position: Tensor
    potential_energy: Tensor
    grad: Tensor
    clock: Tensor


class CountingInfo(NamedTuple):
    finished: Tensor
    step_acceptance: Tensor
    lp: Tensor
    acceptance_rate: Tensor
    step_size: Tensor
    diverging: Tensor
    n_steps: Tensor
    level: Tensor


@dataclass(frozen=True, eq=False)
class CountingKernel:
    """Chain ``c`` finishes its ``n``-th draw, the number ``n``, at step ``n * periods[c]``."""

    is_adjusted: ClassVar[bool] = True
    keeps_momentum: ClassVar[bool] = False
    full_mass: ClassVar[bool] = False
    shortest_warmup: ClassVar[int] = 0
    steps_per_call: ClassVar[int] = 1
    tuned_numbers: ClassVar[dict[str, float | None]] = {}
    moments: ClassVar[dict[str, Tensor | None]] = {}
    largest_step_size: ClassVar[float] = math.inf

    target: Any = None
    _: KW_ONLY
    periods: tuple[int, ...] = (1,)
    step_size: float | None = 1.0
    scale: Tensor | None = None
    target_accept_prob: float = 0.8

    def init(self, potential, position, generator=None):
        del potential, generator
        zeros = torch.zeros(len(position))
        return CountingState(torch.zeros_like(position), zeros, position, zeros.long())

    def rejected(self, state):
        return state

    def restart(self, state, generator):
        del generator
        return state

    def adaptation(self):
        return None

    def noise(self, state, generator):
        del state, generator

    def step(self, potential, state, noise):
        del potential, noise
        clock = state.clock + 1
        periods = torch.tensor(self.periods)
        # Between draws the position is one that nobody may store.
        finished = clock % periods == 0
        position = torch.where(finished, clock / periods, -1.0).unsqueeze(-1)
        state = state._replace(position=position.expand_as(state.position), clock=clock)
        info = CountingInfo(
            finished=finished,
            step_acceptance=torch.ones(len(clock)),
            lp=-(clock / periods).float(),
            acceptance_rate=torch.ones(len(clock)),
            step_size=torch.full((len(clock),), 0.25, dtype=torch.float32),
            diverging=clock % 2 == 0,
            n_steps=periods,
            level=clock.int(),
        )
        return state, info
