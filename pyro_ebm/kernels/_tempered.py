"""Langevin steps whose noise and drift are set apart, and whose gradients and positions clip."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from pyro_ebm.core.checks import StepSizeError, check_positive
from pyro_ebm.core.noise import NormalNoise
from pyro_ebm.kernels._metric import Metric
from pyro_ebm.kernels._metropolis import (
    LangevinState,
    acceptance_probability,
    finite_chains,
    is_divergent,
    langevin_log_ratio,
)
from pyro_ebm.kernels._recipe import Recipe


class Differentiable(Protocol):
    """What a move needs of a potential."""

    def value_and_grad(self, q: Tensor, /) -> tuple[Tensor, Tensor]:
        """Values ``(C,)`` and gradients ``(C, dim)``."""
        ...


class TemperedInfo(NamedTuple):
    """Report of one step; all fields are ``(C,)`` and but for the first two ArviZ's statistics."""

    finished: Tensor
    step_acceptance: Tensor
    lp: Tensor
    acceptance_rate: Tensor
    step_size: Tensor
    diverging: Tensor
    temperature: Tensor
    """Effective temperature: what is sampled is ``exp(-U / temperature)``, where anything is."""


class TemperedNoise(NamedTuple):
    """Randomness of one step."""

    normal: NormalNoise


@dataclass(frozen=True, eq=False, kw_only=True)
class TemperedRecipe(Recipe[Any]):
    """Step, noise or temperature, and clips, each on its own; ``effective_temperature`` follows."""

    is_adjusted: ClassVar[bool] = False

    target_accept_prob: float = 0.98
    noise_scale: float | None = None
    temperature: float | None = None
    grad_clip: float | None = None
    position_bounds: tuple[float, float] | None = None
    effective_temperature: float = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("noise_scale", "temperature", "grad_clip"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        _check_bounds(self.position_bounds)
        # Frozen, so it cannot be assigned.
        object.__setattr__(self, "effective_temperature", self._effective_temperature())

    def _effective_temperature(self) -> float:
        if self.noise_scale is None:
            return 1.0 if self.temperature is None else self.temperature
        if self.temperature is not None:
            raise ValueError(
                f"noise_scale={self.noise_scale!r} and temperature={self.temperature!r} are both "
                "given, but the temperature is noise_scale ** 2 / step_size: give one of them."
            )
        if self.step_size is None:
            raise StepSizeError(
                f"noise_scale={self.noise_scale!r} is given without a step_size, so the "
                "temperature noise_scale ** 2 / step_size is not known, and tuning the step size "
                "would change the law: give step_size too, or temperature instead of noise_scale."
            )
        return self.noise_scale**2 / self.step_size

    def clipped(self, state: LangevinState) -> LangevinState:
        """The state with the gradient that drives the chains."""
        if self.grad_clip is None:
            return state
        return state._replace(grad=state.grad.clamp(-self.grad_clip, self.grad_clip))

    def projected(self, position: Tensor) -> Tensor:
        """Positions put back into the bounds."""
        if self.position_bounds is None:
            return position
        return position.clamp(*self.position_bounds)


class TemperedMove(NamedTuple):
    """A move that a chain can make, and what a test would say of it."""

    end: LangevinState
    """Where it leads."""
    finite: Tensor
    """Whether energy and gradient are finite there ``(C,)``."""
    acceptance: Tensor
    """Probability of the test for ``exp(-U / temperature)`` inside the bounds ``(C,)``."""
    diverging: Tensor
    """Whether it is not finite or the energy error exceeds 1000 ``(C,)``."""


def drifted(
    kernel: TemperedRecipe,
    state: LangevinState,
    normal: Tensor,
    step_size: float | Tensor,
    metric: Metric,
) -> Tensor:
    r""":math:`x - \frac\alpha2 C\,\mathrm{clip}(\nabla U) + \sqrt{\alpha T} L \xi`.

    The step size :math:`\alpha` is one number, or one for each chain ``(C, 1)``.
    """
    grad = metric.to_momentum(kernel.clipped(state).grad)
    noise_scale = (step_size * kernel.effective_temperature) ** 0.5
    return state.position + metric.to_position(noise_scale * normal - (0.5 * step_size) * grad)


def tempered_move(
    kernel: TemperedRecipe,
    potential: Differentiable,
    state: LangevinState,
    position: Tensor,
    step_size: float | Tensor,
    metric: Metric,
) -> TemperedMove:
    r"""The move from the state to ``position``, once that is back inside the bounds.

    With :math:`h = \mathrm{clip}(\nabla U)` the log ratio of the test, which is never made, is

    .. math:: \frac1T \bigl\{U - U' + \tfrac12 d^\top(h + h')
              + \tfrac{\alpha}{8}(h^\top C h - h'^\top C h')\bigr\}.

    Moves that the bounds have shortened end on the boundary, which has probability zero.
    """
    inside = kernel.projected(position)
    end = LangevinState(inside, *potential.value_and_grad(inside))
    finite = finite_chains(end.potential_energy, end.grad)
    error = langevin_log_ratio(kernel.clipped(state), kernel.clipped(end), step_size**0.5, metric)
    is_possible = finite & (inside == position).all(dim=-1)
    return TemperedMove(
        end=end,
        finite=finite,
        acceptance=acceptance_probability(error / kernel.effective_temperature, is_possible),
        diverging=is_divergent(error, finite),
    )


def _check_bounds(bounds: tuple[float, float] | None) -> None:
    if bounds is None:
        return
    if not (
        isinstance(bounds, tuple)
        and len(bounds) == 2
        and all(isinstance(bound, (int, float)) and math.isfinite(bound) for bound in bounds)
        and bounds[0] < bounds[1]
    ):
        raise ValueError(
            f"position_bounds={bounds!r}, but two finite numbers are wanted, the lower one "
            "first: position_bounds=(0.0, 1.0)."
        )
