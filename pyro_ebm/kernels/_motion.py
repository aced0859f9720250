"""How chains move between two kicks: freely, or with the Gaussian of the target's moments."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_ebm.core.checks import ShapeError
from pyro_ebm.kernels._metric import Metric


class Motion(Protocol):
    """A part of Hamilton's equations that is solved exactly, in coordinates of its own."""

    def enter(self, position: Tensor, /) -> Tensor:
        """Its coordinates of positions, ``(C, dim) -> (C, dim)``."""
        ...

    def leave(self, place: Tensor, /) -> Tensor:
        """Positions of what :meth:`enter` gave."""
        ...

    def drift(self, place: Tensor, momentum: Tensor, time: Tensor, /) -> tuple[Tensor, Tensor]:
        """Places and momenta ``(C, dim)`` after the time ``(C, 1)``."""
        ...

    def kick(self, place: Tensor, grad: Tensor, /) -> Tensor:
        """What momenta lose in a unit of time to the rest of the potential, ``(C, dim)``."""
        ...


class FreeMotion(NamedTuple):
    """Straight on: the potential does nothing but kick."""

    metric: Metric

    def enter(self, position: Tensor, /) -> Tensor:
        return position

    def leave(self, place: Tensor, /) -> Tensor:
        return place

    def drift(self, place: Tensor, momentum: Tensor, time: Tensor, /) -> tuple[Tensor, Tensor]:
        return torch.addcmul(place, time, self.metric.to_position(momentum)), momentum

    def kick(self, place: Tensor, grad: Tensor, /) -> Tensor:
        del place
        return self.metric.to_momentum(grad)


class Rotation(NamedTuple):
    r"""Round the centre, as on a Gaussian :math:`|z|^2 / 2`, :math:`x = \mu + L z`.

    What is left to kick is :math:`U(x) - |z|^2 / 2`.
    """

    metric: Metric
    center: Tensor
    r""":math:`\mu`, ``(dim,)``."""
    stiffness: Tensor | float = 1.0
    """One, or zero for free motion: compiled steps have both in one graph."""

    def enter(self, position: Tensor, /) -> Tensor:
        return self.metric.to_unit(position - self.center)

    def leave(self, place: Tensor, /) -> Tensor:
        return self.center + self.metric.to_position(place)

    def drift(self, place: Tensor, momentum: Tensor, time: Tensor, /) -> tuple[Tensor, Tensor]:
        sine = self.stiffness * time.sin()
        cosine = 1.0 - self.stiffness * (1.0 - time.cos())
        reach = sine + (1.0 - self.stiffness) * time
        return cosine * place + reach * momentum, cosine * momentum - sine * place

    def kick(self, place: Tensor, grad: Tensor, /) -> Tensor:
        return self.metric.to_momentum(grad) - self.stiffness * place


def rotation(metric: Metric, center: Tensor, stiffness: Tensor | float, like: Tensor) -> Rotation:
    """The rotation of positions ``like`` these, ``(C, dim)``.

    Raises:
        ShapeError: If the centre belongs to a vector of another length.
    """
    if center.shape != like.shape[-1:]:
        raise ShapeError(
            f"center has the shape {tuple(center.shape)}, but the unconstrained position has "
            f"{like.shape[-1]} coordinates: give one number for each of them, or center=None to "
            "have warm-up estimate it."
        )
    return Rotation(metric, center.detach().to(like), stiffness)
