"""Chains that are far from all others in warm-up."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_FEWEST = 16
"""Chains from which their median deviation is good enough to say that one is far out."""

_ENOUGH = 128
"""Chains that tell a median to a tenth of a standard deviation: all of them would take longer."""

_HIGH = 30
"""Median deviations: no normal energy is so high, one with the tail exp(-U) once in 4 million."""

_MOST_HIGH = 1 / 16
"""Share of the chains: what more of them have found is a part of the target."""


def within_reach(position: Tensor) -> Tensor:
    """Positions ``(C, dim)``, moved to within ten median deviations of the chains' median.

    One chain of 64 that is still on its way from a far start, 100 standard deviations out, would
    make a scale 12 times too large, and its own step the smaller. A normal coordinate lies within
    ten median deviations but for a share of 1e-11. Few chains do not tell who is far; of very many
    some, taken by chance, do.

    >>> position = torch.tensor([*range(-10, 11), 1e6]).unsqueeze(-1)
    >>> within_reach(position).max()
    tensor(50.)
    """
    if len(position) < _FEWEST:
        return position
    median, deviation = _middle(position[_some(len(position)).to(position.device)])
    reach = torch.where(deviation > 0, 10 * deviation, torch.inf)
    return position.clamp(median - reach, median + reach)


@cache
def _some(num_chains: int) -> Tensor:
    """The same ones of so many on all ranks; in no order, since starts may alternate."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randperm(num_chains, generator=generator, device="cpu")[:_ENOUGH]


def is_high(energy: Tensor) -> Tensor:
    """Chains ``(C,)`` whose energies lie far above those of all others; none if they are many.

    A mode so high has no weight, unless it is as much wider: of 16 chains or more it must hold a
    sixteenth in order to count as one.

    >>> is_high(torch.tensor([*range(16), 1000.0])).nonzero()
    tensor([[16]])
    """
    none = torch.zeros_like(energy, dtype=torch.bool)
    if len(energy) < _FEWEST:
        return none
    median, deviation = _middle(energy)
    high = (energy - median > _HIGH * deviation) & (deviation > 0)
    return high if int(high.sum()) <= _MOST_HIGH * len(energy) else none


def _middle(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median over chains, and the median deviation from it."""
    median = values.median(dim=0).values
    return median, (values - median).abs().median(dim=0).values
