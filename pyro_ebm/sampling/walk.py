"""A fixed number of steps of a recipe from given points, as objectives and distributions take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.types import Kernel, Potential
from pyro_ebm.sampling.warmup import WarmUp


def walk(
    kernel: Kernel[Any, Any],
    potential: Potential,
    position: Tensor,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Move chains ``(C, dim)`` by ``num_steps`` steps and return their positions, detached.

    Raises:
        StepSizeError: If the recipe has no step size.
    """
    state = kernel.init(potential, position.detach(), generator)
    for _ in range(num_steps):
        state, _ = kernel.step(potential, state, kernel.noise(state, generator))
    moved: Tensor = state.position
    return moved


def tuned_walk(
    kernel: Kernel[Any, Any],
    potential: Potential,
    position: Tensor,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Tune what the recipe leaves open for ``num_steps`` steps, then :func:`walk`."""
    state = kernel.init(potential, position.detach(), generator)
    tuned, state = WarmUp(kernel, potential, generator).run(
        state, num_steps, lambda state, info: None
    )
    return walk(tuned, potential, state.position, num_steps, generator)
