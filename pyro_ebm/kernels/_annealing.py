"""Chains on a ladder of noise levels, and potentials that are known at each."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, Protocol, TypeGuard

from torch import Tensor

from pyro_ebm.core.checks import check_positive
from pyro_ebm.kernels._metropolis import LangevinState
from pyro_ebm.kernels._tempered import Differentiable


class NoiseConditional(Protocol):
    """A potential that is known at every noise level."""

    noise_level: float
    """Level of the potential itself."""

    def at_noise_level(self, noise_level: Tensor, /) -> Differentiable:
        """The potential at the level ``(C,)`` of each chain."""
        ...


class Tempered(NamedTuple):
    """A potential divided by the temperature ``(C,)`` of each chain."""

    potential: Differentiable
    temperature: Tensor

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = self.potential.value_and_grad(q)
        return value / self.temperature, grad / self.temperature.unsqueeze(-1)


class AnnealedState(NamedTuple):
    """Chains on their way down the ladder."""

    draw: LangevinState
    """The last draw: where the last complete anneal has ended, before the first the start."""
    walker: LangevinState
    """Where the anneal is now, with energy and gradient at its level."""
    noise_levels: Tensor
    """The ladder ``(C, level)``."""
    stage: Tensor
    """Steps of the anneal so far ``(C,)``."""
    acceptance_sum: Tensor
    """Sum over its moves ``(C,)`` in float64."""
    has_diverged: Tensor
    """Whether one of them has ``(C,)``."""

    @property
    def position(self) -> Tensor:
        return self.draw.position

    @property
    def potential_energy(self) -> Tensor:
        return self.draw.potential_energy

    @property
    def grad(self) -> Tensor:
        return self.draw.grad


class Stage(NamedTuple):
    """What the chains do in this step."""

    noise_level: Tensor
    """Level of the step ``(C,)``."""
    stride: Tensor
    r"""Step size :math:`\alpha_i` at that level ``(C, 1)``."""
    starts: Tensor
    """Chains that begin an anneal ``(C,)``."""
    moves: Tensor
    """Chains that make a Langevin move; others start, come to a new level, or denoise."""
    denoises: Tensor
    """Chains that make the last step of all."""
    finishes: Tensor
    """Chains that end their anneal."""
    num_moves: Tensor
    """Moves of the anneal, this one included; at least 1."""


def is_conditional(potential: object) -> TypeGuard[NoiseConditional]:
    return hasattr(potential, "at_noise_level")


def at_level(potential: Differentiable, noise_level: Tensor, last: Tensor) -> Differentiable:
    """The potential at the level ``(C,)`` of each chain."""
    if is_conditional(potential):
        return potential.at_noise_level(noise_level)
    return Tempered(potential, (noise_level / last).square())


def check_levels(levels: tuple[float, ...]) -> None:
    if not isinstance(levels, tuple) or not levels:
        raise ValueError(
            f"noise_levels={levels!r}, but a tuple of at least one number is wanted, the largest "
            "first: noise_levels=(1.0, 0.3, 0.1)."
        )
    for level in levels:
        check_positive("each of noise_levels", level)
    if any(after >= before for before, after in pairwise(levels)):
        raise ValueError(f"noise_levels={levels!r}, but they must fall from one to the next.")
