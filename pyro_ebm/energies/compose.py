"""Algebra of energies: sums are products of densities, multiples are tempered densities."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pyro_ebm.core.checks import ShapeError, check_energies, check_event, check_positive
from pyro_ebm.core.types import Energy
from pyro_ebm.energies.events import batch_shape


class EnergyAlgebra:
    """Operators of this library's energies: ``e1 + e2`` and ``beta * e``.

    For energies of your own, write :class:`SumEnergy` and :class:`TemperedEnergy` out, or
    have one of this library's energies on either side of the ``+``.
    """

    # Without this, NumPy scalars on the left would try to turn the energy into an array.
    __array_ufunc__ = None

    def __add__(self: Energy, other: Energy) -> SumEnergy:
        return SumEnergy(self, other) if callable(other) else NotImplemented

    def __radd__(self: Energy, other: Energy) -> SumEnergy:
        return SumEnergy(other, self) if callable(other) else NotImplemented

    def __mul__(self: Energy, beta: float) -> TemperedEnergy:
        return NotImplemented if callable(beta) else TemperedEnergy(self, beta)

    def __rmul__(self: Energy, beta: float) -> TemperedEnergy:
        return NotImplemented if callable(beta) else TemperedEnergy(self, beta)


class SumEnergy(EnergyAlgebra, nn.Module):
    r"""A sum of energies, which is a product of experts.

    .. math:: E(x) = \sum_i E_i(x), \qquad p(x) \propto \prod_i p_i(x)

    Adding a Gaussian energy to another one tilts the Gaussian. The terms may be any
    callables with an ``event_shape``; the parameters of those that are modules are
    parameters of the sum. Pickles if its terms do.

    Args:
        energies: At least one energy; all with the same event shape.

    Raises:
        ShapeError: A term has no event shape, or another one than the first; on call, a term
            does not return one number for each point.

    Example:
        >>> from pyro_ebm.energies import GaussianEnergy, QuarticEnergy
        >>> energy = GaussianEnergy.standard(()) + QuarticEnergy()
        >>> energy(torch.tensor([0.0, 2.0]))
        tensor([0., 6.])

    References:
        Hinton (2002), Training products of experts by minimizing contrastive divergence.
    """

    def __init__(self, *energies: Energy) -> None:
        super().__init__()
        if not energies:
            raise ValueError("SumEnergy() has no terms, but at least one energy is wanted.")
        self.event_shape = _event_shape_of(energies[0])
        for energy in energies[1:]:
            _check_same_event(_event_shape_of(energy), self.event_shape)
        self._names = tuple(f"term_{i}" for i in range(len(energies)))
        for name, energy in zip(self._names, energies, strict=True):
            setattr(self, name, energy)

    @property
    def energies(self) -> tuple[Energy, ...]:
        """The terms, in the order in which they were given."""
        return tuple(cast("Energy", getattr(self, name)) for name in self._names)

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``(*batch,)`` of the points ``(*batch, *event)``."""
        batch = batch_shape(check_event("x", x, self.event_shape), self.event_shape)
        first, *others = self.energies
        total = check_energies(first(x), batch, _name_of(first))
        for energy in others:
            total = total + check_energies(energy(x), batch, _name_of(energy))
        return total

    def extra_repr(self) -> str:
        """Name the terms that torch does not print because they are not modules."""
        plain = (name for name in self._names if name not in self._modules)
        return "\n".join(f"({name}): {getattr(self, name)!r}" for name in plain)


class TemperedEnergy(EnergyAlgebra, nn.Module):
    r"""An energy at inverse temperature ``beta``.

    .. math:: E_\beta(x) = \beta E(x), \qquad p_\beta(x) \propto p(x)^\beta

    ``beta < 1`` flattens the density, ``beta > 1`` sharpens it. The energy may be any callable
    with an ``event_shape``; if it is a module, its parameters are parameters of this one.

    Args:
        energy: The energy at ``beta = 1``.
        beta: Inverse temperature, finite and above zero.

    Raises:
        ShapeError: The energy has no event shape.
        ValueError: ``beta`` is not a finite number above zero.

    Example:
        >>> from pyro_ebm.energies import QuarticEnergy
        >>> (0.5 * QuarticEnergy())(torch.tensor(2.0))
        tensor(2.)
    """

    def __init__(self, energy: Energy, beta: float) -> None:
        super().__init__()
        self.event_shape = _event_shape_of(energy)
        self.beta = check_positive("beta", beta)
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``(*batch,)`` of the points ``(*batch, *event)``."""
        check_event("x", x, self.event_shape)
        return self.beta * self.energy(x)

    def extra_repr(self) -> str:
        """Show the inverse temperature, and the energy if torch does not print it."""
        shown = "energy" in self._modules
        return f"beta={self.beta}" + ("" if shown else f", energy={self.energy!r}")


def _event_shape_of(energy: Energy) -> torch.Size:
    if not isinstance(energy, Energy):
        raise ShapeError(
            f"{_name_of(energy)} has no event_shape, but an energy is a callable that says what "
            "the shape of one point is: set its attribute event_shape, for a function f on "
            "vectors of length 2 as f.event_shape = torch.Size([2])."
        )
    return torch.Size(energy.event_shape)


def _check_same_event(came: torch.Size, wanted: torch.Size) -> None:
    if came != wanted:
        raise ShapeError(
            f"The terms of a sum have event shapes {tuple(wanted)} and {tuple(came)}, but they "
            "must be energies of the same points: give all of them one event shape."
        )


def _name_of(energy: object) -> str:
    return getattr(energy, "__name__", type(energy).__name__)
