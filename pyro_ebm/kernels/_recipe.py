"""What all kernels have: a target, a step size, a scale and an acceptance to tune to."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from pyro_ebm.core.checks import StepSizeError, check_positive, check_probability, check_scale
from pyro_ebm.core.types import Adaptation
from pyro_ebm.kernels._metric import Metric, metric_of

StateT = TypeVar("StateT")


@dataclass(frozen=True, eq=False)
class Recipe(Generic[StateT]):
    """Hyper-parameters of every kernel, checked, and what most kernels answer to warm-up."""

    is_adjusted: ClassVar[bool] = True
    keeps_momentum: ClassVar[bool] = False
    shortest_warmup: ClassVar[int] = 250
    steps_per_call: ClassVar[int] = 8
    full_mass = False  # not annotated, so that kernels can make it a hyper-parameter

    target: object | None = None
    _: KW_ONLY
    step_size: float | None = None
    scale: Tensor | None = None
    target_accept_prob: float = 0.8

    def __post_init__(self) -> None:
        if self.scale is not None:
            check_scale(self.scale)
        for name, value in list(vars(self).items()):
            if getattr(value, "ndim", None) == 0:  # a number of NumPy or torch
                object.__setattr__(self, name, value.item())
        if self.step_size is not None:
            check_positive("step_size", self.step_size)
        check_probability("target_accept_prob", self.target_accept_prob)

    @property
    def tuned_numbers(self) -> dict[str, float | None]:
        return {"step_size": self.step_size}

    @property
    def moments(self) -> dict[str, Tensor | None]:
        return {"scale": self.scale}

    @property
    def largest_step_size(self) -> float:
        return math.inf

    def restart(self, state: StateT, generator: torch.Generator | None) -> StateT:
        del generator
        return state

    def rejected(self, state: StateT) -> StateT:
        return state

    def adaptation(self) -> Adaptation[Any] | None:
        return None


def known_step_size(kernel: Recipe[Any]) -> float:
    """The step size.

    Raises:
        StepSizeError: If the kernel has none yet.
    """
    if kernel.step_size is None:
        name = type(kernel).__name__
        raise StepSizeError(
            f"{name} has no step size, but it is asked to move chains outside a warm-up: "
            f"give it one, as in {name}(step_size=0.1), or run it in MCMC with warmup_steps > 0."
        )
    return kernel.step_size


def step_and_metric(kernel: Recipe[Any], position: Tensor) -> tuple[float, Metric]:
    """Step size and metric to move ``position`` with.

    Raises:
        StepSizeError: If the kernel has no step size yet.
        ShapeError: If the scale belongs to a vector of another length.
    """
    return known_step_size(kernel), metric_of(kernel.scale, position)
