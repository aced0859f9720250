"""Sums of potentials, and the proximal term of energy-calibrated inference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_ebm.core.checks import (
    ShapeError,
    check_event,
    check_finite,
    check_floating,
    check_positive,
)
from pyro_ebm.core.types import Potential, PotentialTerm


class Summable:
    """Gives a potential ``potential + term``."""

    def __add__(self: Potential, term: PotentialTerm) -> SumPotential:
        return SumPotential(self, term)


class ProximalPotential:
    r"""Distance to an anchor, :math:`\frac{1}{2\sigma^2} \lVert q - a \rVert^2`.

    Added to a posterior it keeps chains near a guide's sample or mean: the energy-calibrated
    posterior. The law is then the *tilted* :math:`p(q|x) N(q; a, \sigma^2 I)`, biased towards
    the anchor by an amount that vanishes as :math:`\sigma \to \infty`. The gradient is
    :math:`+(q - a) / \sigma^2` (seed 000, section 4, whose last line has the sign wrong).

    One anchor serves all chains: chains with different anchors have different targets, and
    R-hat between them would mean nothing.

    Args:
        anchor: :math:`a`, shape ``(dim,)``, in unconstrained coordinates.
        scale: :math:`\sigma > 0`.

    Raises:
        ShapeError: If the anchor is not one floating-point vector.
        NonFiniteError: If the anchor is not finite.

    >>> term = ProximalPotential(torch.zeros(2), scale=0.5)
    >>> term(torch.ones(3, 2))
    tensor([4., 4., 4.])
    """

    def __init__(self, anchor: Tensor, scale: float) -> None:
        if not isinstance(anchor, Tensor):
            raise ShapeError(
                f"anchor is {anchor!r}, but a tensor of shape (dim,) is wanted: "
                "torch.tensor(anchor)."
            )
        if anchor.ndim != 1:
            raise ShapeError(
                f"anchor has shape {tuple(anchor.shape)}, but one vector (dim,) in unconstrained "
                "coordinates is wanted: chains with different anchors have different targets."
            )
        self.anchor = check_finite("anchor", check_floating("anchor", anchor.detach()))
        self.scale = check_positive("scale", scale)

    @property
    def dim(self) -> int:
        return self.anchor.shape[0]

    def __call__(self, q: Tensor) -> Tensor:
        return self._offset(q).square().sum(dim=-1) / (2.0 * self.scale**2)

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        q = q.detach()
        return self(q), self._offset(q) / self.scale**2

    def _offset(self, q: Tensor) -> Tensor:
        check_event("the position", q, torch.Size((self.dim,)))
        return q - self.anchor.to(q)

    def __repr__(self) -> str:
        return f"ProximalPotential(dim={self.dim}, scale={self.scale:g})"


class SumPotential(Summable):
    """A potential plus a term: the product of their densities.

    Sites, starts and transforms are those of the first.

    Args:
        potential: The potential that names the sites.
        term: Anything with ``dim``, ``__call__`` and ``value_and_grad``, another potential
            included.

    Raises:
        TypeError: If the term is none.
        ShapeError: If the two are functions of vectors of different length.

    >>> from pyro_ebm.potentials.energy import EnergyPotential
    >>> bowl = EnergyPotential(lambda x: x.square().sum(-1), event_shape=(2,))
    >>> (bowl + ProximalPotential(torch.zeros(2), scale=1.0))(torch.ones(1, 2))
    tensor([3.])
    """

    def __init__(self, potential: Potential, term: PotentialTerm) -> None:
        if not _is_term(term):
            raise TypeError(
                f"{term!r} cannot be added to {potential!r}: a term needs dim, __call__(q) and "
                "value_and_grad(q), as ProximalPotential(anchor, scale) or "
                "EnergyPotential(energy) has."
            )
        if potential.dim != term.dim:
            raise ShapeError(
                f"{potential!r} is a function of {potential.dim} unconstrained numbers, but "
                f"{term!r} of {term.dim}: only potentials of the same vector can be added."
            )
        self.potential = potential
        self.term = term

    @property
    def dim(self) -> int:
        return self.potential.dim

    @property
    def dtype(self) -> torch.dtype:
        return self.potential.dtype

    @property
    def device(self) -> torch.device:
        return self.potential.device

    @property
    def has_parameters(self) -> bool:
        """Whether the potential that names the sites has some of Pyro's."""
        return bool(getattr(self.potential, "has_parameters", False))

    def __call__(self, q: Tensor) -> Tensor:
        return self.potential(q) + self.term(q)

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = self.potential.value_and_grad(q)
        term_value, term_grad = self.term.value_and_grad(q)
        return value + term_value, grad + term_grad

    def initial(self, num_chains: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.potential.initial(num_chains, generator=generator)

    def constrain(self, q: Tensor) -> dict[str, Tensor]:
        return self.potential.constrain(q)

    def unconstrain(self, sites: dict[str, Tensor]) -> Tensor:
        return self.potential.unconstrain(sites)

    def flatten(self, sites: dict[str, Tensor]) -> Tensor:
        return self.potential.flatten(sites)

    def unflatten(self, q: Tensor) -> dict[str, Tensor]:
        return self.potential.unflatten(q)

    def transforms(self) -> dict[str, Transform]:
        return self.potential.transforms()

    def explain_nonfinite(self, q: Tensor) -> str:
        value = self.term(q)
        if not bool(torch.isfinite(value)):
            return f"the term {self.term!r} is {value.item()}"
        return self.potential.explain_nonfinite(q)

    def __repr__(self) -> str:
        return f"{self.potential!r} + {self.term!r}"


def _is_term(term: object) -> bool:
    return callable(term) and hasattr(term, "dim") and hasattr(term, "value_and_grad")
