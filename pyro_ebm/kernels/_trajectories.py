"""What kernels have in common that follow trajectories: integrator, mass, and its centre."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from pyro_ebm.core.checks import check_center
from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._hamiltonian import Phase
from pyro_ebm.kernels._metric import metric_of
from pyro_ebm.kernels._motion import FreeMotion, Motion, rotation
from pyro_ebm.kernels._recipe import Recipe
from pyro_ebm.kernels.integrators import LEAPFROG, Integrator, check_integrator

StateT = TypeVar("StateT")


@dataclass(frozen=True, eq=False, kw_only=True)
class TrajectoryRecipe(Recipe[StateT]):
    """A recipe whose steps are those of an integrator."""

    full_mass: bool = False
    integrator: Integrator = LEAPFROG
    center: Tensor | None = None

    _stiffness: float = field(init=False, repr=False, default=0.0)
    """Of the Gaussian that steps follow: none until it is known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integrator(self.integrator)
        if self.center is not None:
            check_center(self.center)
            if not self.integrator.rotates:
                raise ValueError(
                    f"center is given, but {self.integrator} moves chains straight on between "
                    "kicks, round no centre: give integrator=ROTATIONS, or center=None."
                )
        object.__setattr__(self, "_stiffness", float(self._knows_the_gaussian))

    @property
    def tuned_numbers(self) -> dict[str, float | None]:
        stiffness = {"_stiffness": self._stiffness} if self.integrator.rotates else {}
        return super().tuned_numbers | stiffness

    @property
    def moments(self) -> dict[str, Tensor | None]:
        center = {"center": self.center} if self.integrator.rotates else {}
        return super().moments | center

    @property
    def largest_step_size(self) -> float:
        return self.integrator.largest_step_size if self._knows_the_gaussian else math.inf

    def leap(self, potential: Potential, start: Phase, stride: Tensor) -> tuple[Phase, Tensor]:
        """One step by the signed step sizes ``stride`` ``(C, 1)``; the end, and ``U`` there."""
        return self.integrator.step(potential, start, stride, self._motion(start.position))

    def _motion(self, position: Tensor) -> Motion:
        metric = metric_of(self.scale, position)
        if self.center is None or not self._knows_the_gaussian:
            return FreeMotion(metric)
        return rotation(metric, self.center, self._stiffness, position)

    @property
    def _knows_the_gaussian(self) -> bool:
        """Its centre *and* its widths: with others' widths steps would be short."""
        return self.center is not None and self.scale is not None
