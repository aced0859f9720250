"""A fixed number of draws of a recipe from given points, as objectives and distributions take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import NonFiniteError
from pyro_ebm.core.positions import choose
from pyro_ebm.core.types import Kernel, Potential
from pyro_ebm.sampling.warmup import WarmUp


def walk(
    kernel: Kernel[Any, Any],
    potential: Potential,
    position: Tensor,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Move chains ``(C, dim)`` by ``num_steps`` draws and return their positions, detached.

    A draw is one step of most kernels, a trajectory of HMC and NUTS, an anneal of annealed
    Langevin.

    Raises:
        StepSizeError: If the recipe has no step size.
        NonFiniteError: If half of the chains could not make a single move, because each led to
            an energy that is not finite or far off.
    """
    start = position.detach()
    state = kernel.init(potential, start, generator)
    only_diverges = torch.ones(len(start), dtype=torch.bool, device=start.device)
    end, num_draws = start, torch.zeros_like(only_diverges, dtype=torch.int64)
    left = num_steps
    while left > 0:
        for _ in range(left):  # a step ends one draw at the most, so that none is too many
            state, info = kernel.step(potential, state, kernel.noise(state, generator))
            only_diverges = only_diverges & info.diverging
            num_draws = num_draws + info.finished
            end = choose(info.finished & (num_draws == num_steps), state.position, end)
        left = num_steps - int(num_draws.min())
    _check_moved(start, end, only_diverges, num_steps)
    return end


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


def _check_moved(start: Tensor, end: Tensor, only_diverges: Tensor, num_steps: int) -> None:
    held = only_diverges & (start == end).all(dim=-1) | ~torch.isfinite(end).all(dim=-1)
    if 2 * int(held.sum()) >= len(start) > 0:
        raise NonFiniteError(
            f"{int(held.sum())} of {len(start)} chains could not make one of {num_steps} moves: "
            "every move led to an energy that is not finite, or that differs by more than 1000. "
            "Use a smaller step_size, a lower learning rate, or an energy that is finite there."
        )
