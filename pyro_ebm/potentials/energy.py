"""Energies as potentials: one site, with the support's transform and Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

from pyro_ebm.core.checks import (
    ModelError,
    ShapeError,
    check_count,
    check_energies,
    check_event,
)
from pyro_ebm.core.types import Energy
from pyro_ebm.potentials.compose import Summable
from pyro_ebm.potentials.starts import uniform_starts
from pyro_ebm.potentials.supports import bijection_to


class EnergyPotential(Summable):
    r"""An energy as a batched potential.

    .. math:: U(q) = E(T(q)) - \log |\det \partial T / \partial q|,

    where :math:`T` is torch's ``biject_to(support)`` (or our own bijection to triangular and
    positive definite matrices), so that chains move in unconstrained
    coordinates whatever the support; on the reals :math:`U = E`. The target is
    :math:`e^{-E}` restricted to the support.

    Args:
        energy: ``(*batch, *event) -> (*batch,)``, lower is more probable.
        event_shape: Shape of one point; taken from ``energy.event_shape`` if that exists.
        support: A constraint of ``torch.distributions``; scalar constraints apply to every
            coordinate.
        name: Name of the site in samples.

    Raises:
        ModelError: If no event shape is given or known.
        ValueError: If a size in the event shape is no whole number above zero.
        ShapeError: If the energy does not return one number for each point.

    >>> potential = EnergyPotential(lambda x: x.square().sum(-1) / 2, event_shape=(2,))
    >>> value, grad = potential.value_and_grad(torch.tensor([[3.0, 4.0]]))
    >>> value.item(), grad.tolist()
    (12.5, [[3.0, 4.0]])
    """

    def __init__(
        self,
        energy: Callable[[Tensor], Tensor],
        event_shape: int | Sequence[int] | None = None,
        support: Constraint = constraints.real,
        *,
        name: str = "x",
    ) -> None:
        self.energy = energy
        self.event_shape = _event_shape(energy, event_shape)
        self.support = _event_support(support, len(self.event_shape))
        self.name = name
        self._unconstrained_shape = torch.Size(
            bijection_to(self.support).inverse_shape(self.event_shape)
        )

    @property
    def dim(self) -> int:
        return self._unconstrained_shape.numel()

    @property
    def dtype(self) -> torch.dtype:
        return _like(self.energy).dtype

    @property
    def device(self) -> torch.device:
        return _like(self.energy).device

    def __call__(self, q: Tensor) -> Tensor:
        y = self.unflatten(q)[self.name]
        if _is_real(self.support):
            return check_energies(self.energy(y), q.shape[:-1], self._source())
        transform = bijection_to(self.support)
        x = transform(y)
        energies = check_energies(self.energy(x), q.shape[:-1], self._source())
        jacobian: Tensor = transform.log_abs_det_jacobian(y, x)
        return energies - jacobian

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        check_event("the position", q, torch.Size((self.dim,)))
        with torch.inference_mode(mode=False), torch.enable_grad():
            # Of inference tensors only copies have gradients, and energies may use views.
            q = q.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
            value = self(q)
            if not value.requires_grad:
                raise ModelError(
                    f"{self._source()} returned a value that does not depend on its input through "
                    "torch operations (a constant, or .detach(), .item() or numpy inside), so "
                    "it has no gradient: compute it from x with differentiable operations."
                )
            (grad,) = torch.autograd.grad(value.sum(), q)
        return value.detach(), grad

    def initial(self, num_chains: int, *, generator: torch.Generator | None = None) -> Tensor:
        return uniform_starts(self, num_chains, generator)

    def constrain(self, q: Tensor) -> dict[str, Tensor]:
        y = self.unflatten(q)[self.name]
        return {self.name: bijection_to(self.support)(y)}

    def unconstrain(self, sites: dict[str, Tensor]) -> Tensor:
        x = check_event(self.name, self._only_site(sites), self.event_shape)
        return self.flatten({self.name: bijection_to(self.support).inv(x)})

    def flatten(self, sites: dict[str, Tensor]) -> Tensor:
        y = check_event(self.name, self._only_site(sites), self._unconstrained_shape)
        return y.reshape((*y.shape[: y.ndim - len(self._unconstrained_shape)], self.dim))

    def unflatten(self, q: Tensor) -> dict[str, Tensor]:
        check_event("the position", q, torch.Size((self.dim,)))
        return {self.name: q.reshape((*q.shape[:-1], *self._unconstrained_shape))}

    def transforms(self) -> dict[str, Transform]:
        return {self.name: bijection_to(self.support)}

    def explain_nonfinite(self, q: Tensor) -> str:
        x, value = self.constrain(q)[self.name], self(q).item()
        place = f"at {self.name}={x.tolist()}"
        if math.isfinite(value):
            return f"{self._source()} is {value:g} {place}, but its gradient is not finite"
        return f"{self._source()} is {value} {place}"

    def _only_site(self, sites: dict[str, Tensor]) -> Tensor:
        if set(sites) != {self.name}:
            raise ShapeError(
                f"values for the sites {sorted(sites)} were given, but this target has the one "
                f"site {self.name!r}: give {{{self.name!r}: tensor}}."
            )
        return sites[self.name]

    def _source(self) -> str:
        name = getattr(self.energy, "__name__", None) or type(self.energy).__name__
        return f"the energy {name}"

    def __repr__(self) -> str:
        return f"EnergyPotential({self.energy!r}, event_shape={tuple(self.event_shape)})"


def _event_shape(energy: object, given: int | Sequence[int] | None) -> torch.Size:
    if given is None and isinstance(energy, Energy):
        given = energy.event_shape
    if given is not None:
        sizes = given if isinstance(given, Sequence) else (given,)
        return torch.Size([check_count("each size in event_shape", size) for size in sizes])
    raise ModelError(
        f"{energy!r} has no event_shape, so the shape of one point is unknown: give it, as in "
        "EnergyPotential(energy, event_shape=(2,))."
    )


def _event_support(support: Constraint, event_dim: int) -> Constraint:
    if support.is_discrete:
        raise ModelError(
            f"the support {support} is discrete, but gradient-based kernels need a continuous one."
        )
    if support.event_dim > event_dim:
        raise ShapeError(
            f"the support {support} is one of events with {support.event_dim} axes, but the event "
            f"shape has {event_dim}: give the event shape that belongs to the support."
        )
    return constraints.independent(support, event_dim - support.event_dim)


def _is_real(support: Constraint) -> bool:
    return isinstance(support, constraints.independent) and (
        support.base_constraint is constraints.real
        or support.base_constraint is constraints.real_vector
    )


def _like(energy: object) -> Tensor:
    """A tensor of the type and on the device of the energy's numbers."""
    if isinstance(energy, nn.Module):
        for tensor in (*energy.parameters(), *energy.buffers()):
            if tensor.is_floating_point():
                return tensor
    return torch.empty(0)
