"""Preconditioning: coordinates in which the target has about unit covariance.

With a factor ``L`` of a covariance, positions are ``x = L z``. Momenta and gradients live in
the coordinates ``z``, so that the mass is one and inner products are plain.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_ebm.core.checks import ShapeError


class Metric(Protocol):
    """The maps that a factor ``L`` gives."""

    def to_position(self, velocity: Tensor, /) -> Tensor:
        """``L v`` for each chain, ``(C, dim) -> (C, dim)``."""
        ...

    def to_momentum(self, grad: Tensor, /) -> Tensor:
        """``L^T g`` for each chain, ``(C, dim) -> (C, dim)``."""
        ...

    def to_unit(self, distance: Tensor, /) -> Tensor:
        """``L^{-1} d`` for each chain, ``(C, dim) -> (C, dim)``."""
        ...


class UnitMetric(NamedTuple):
    """No preconditioning."""

    def to_position(self, velocity: Tensor, /) -> Tensor:
        return velocity

    def to_momentum(self, grad: Tensor, /) -> Tensor:
        return grad

    def to_unit(self, distance: Tensor, /) -> Tensor:
        return distance


class DiagonalMetric(NamedTuple):
    """One standard deviation for each coordinate."""

    scale: Tensor
    """Standard deviations ``(dim,)``."""

    def to_position(self, velocity: Tensor, /) -> Tensor:
        return self.scale * velocity

    def to_momentum(self, grad: Tensor, /) -> Tensor:
        return self.scale * grad

    def to_unit(self, distance: Tensor, /) -> Tensor:
        return distance / self.scale


class DenseMetric(NamedTuple):
    """A Cholesky factor of a covariance."""

    factor: Tensor
    """Lower triangular ``(dim, dim)``."""

    def to_position(self, velocity: Tensor, /) -> Tensor:
        return velocity @ self.factor.mT

    def to_momentum(self, grad: Tensor, /) -> Tensor:
        return grad @ self.factor

    def to_unit(self, distance: Tensor, /) -> Tensor:
        unit: Tensor = torch.linalg.solve_triangular(self.factor, distance.mT, upper=False).mT
        return unit


def metric_of(scale: Tensor | None, position: Tensor) -> Metric:
    """The metric of a kernel's ``scale``, for positions ``(C, dim)``.

    Raises:
        ShapeError: If the scale belongs to a vector of another length.
    """
    if scale is None:
        return UnitMetric()
    if scale.shape[-1] != position.shape[-1]:
        raise ShapeError(
            f"scale has {scale.shape[-1]} entries, but the unconstrained position has "
            f"{position.shape[-1]} coordinates: give one standard deviation for each of them, a "
            "Cholesky factor of their covariance, or scale=None."
        )
    scale = scale.detach().to(position)  # chains would carry its graph from step to step
    return DiagonalMetric(scale) if scale.ndim == 1 else DenseMetric(scale)
