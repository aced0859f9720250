"""States of replicas at their temperatures, and how points pass from one to another."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.positions import choose, map_fields
from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._hamiltonian import Point


class ReplicaState(NamedTuple):
    """Chains of ``R`` replicas each, from cold to hot; replica 0 is the one that is kept."""

    inner: Any
    """The inner kernel's state, every field ``(C, R, ...)``, in stretched coordinates."""
    beta: Tensor
    """Inverse temperatures ``(C, R)``."""
    stretch: Tensor
    """Lengths ``(C, R)`` of the unit of each replica's coordinates."""
    waiting: Tensor
    """Replicas ``(C, R)`` that have ended their transition."""
    acceptance: Tensor
    """Acceptance ``(C, R)`` of the latest transition of each, in float64."""
    diverging: Tensor
    """Whether that diverged, ``(C, R)``."""
    swap_acceptance: Tensor
    """Acceptance ``(C, R - 1)`` of swaps of neighbours at the latest draw, in float64."""
    replica: Tensor
    """Where each began: a number in ``0, ..., R - 1``, ``(C, R)``."""
    was_hottest: Tensor
    """Whether it has been the hottest since it was the coldest, ``(C, R)``."""
    parity: Tensor
    """Whether the next swaps are those of even (0) or odd (1) pairs, ``(C,)``."""
    num_steps: Tensor
    """Steps since the latest draw ``(C,)``."""

    # The coldest replica has inverse temperature and stretch one: nothing to convert.
    @property
    def position(self) -> Tensor:
        return coldest(self.inner.position)

    @property
    def potential_energy(self) -> Tensor:
        return coldest(self.inner.potential_energy)

    @property
    def grad(self) -> Tensor:
        return coldest(self.inner.grad)


class TemperedPotential:
    """``beta U(stretch y)``, with numbers ``(C R,)`` of each replica."""

    def __init__(self, potential: Potential, beta: Tensor, stretch: Tensor) -> None:
        self._potential, self._beta, self._stretch = potential, beta, stretch.unsqueeze(-1)
        self._slope = self._beta.unsqueeze(-1) * self._stretch

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = self._potential.value_and_grad(self._stretch * q)
        return self._beta * value, self._slope * grad


def swap_acceptance(beta: Tensor, potential_energy: Tensor) -> Tensor:
    r""":math:`\min(1, e^{(\beta_r - \beta_{r+1}) (U_r - U_{r+1})})`, ``(C, R - 1)`` in float64."""
    log_ratio = beta.double().diff(dim=-1) * potential_energy.double().diff(dim=-1)
    return log_ratio.clamp(max=0.0).exp()


def sources(swaps: Tensor) -> Tensor:
    """From where each place ``(C, R)`` is filled when those pairs ``(C, R - 1)`` swap."""
    up, down = (torch.nn.functional.pad(swaps.long(), sides) for sides in ((0, 1), (1, 0)))
    return torch.arange(up.shape[1], device=up.device) + up - down


def taken_from(values: Tensor, source: Tensor) -> Tensor:
    """Values ``(C, R, ...)`` of the replicas that move to each place."""
    index = source.reshape(source.shape + (1,) * (values.ndim - 2))
    return torch.take_along_dim(values, index, dim=1)


def points_of(state: ReplicaState) -> Point:
    """The draws of all replicas ``(C, R, dim)``, with the potential and gradient of the target."""
    inner, stretch = state.inner, state.stretch.unsqueeze(-1)
    slope = state.beta.unsqueeze(-1) * stretch
    return Point(stretch * inner.position, inner.potential_energy / state.beta, inner.grad / slope)


def tempered(points: Point, beta: Tensor, stretch: Tensor) -> Point:
    """The same points in each replica's coordinates."""
    unit = stretch.unsqueeze(-1)
    slope = beta.unsqueeze(-1) * unit
    return Point(points.position / unit, beta * points.potential_energy, slope * points.grad)


def put_at(inner: Any, where: Tensor, points: Point) -> Any:
    """The inner state with replicas that are at the start of a transition put elsewhere.

    A kernel's state at a start holds its position, energy and gradient, perhaps more than once,
    and perhaps the total energy; what else it holds does not depend on where it is.
    """
    change = points.potential_energy.double() - inner.potential_energy.double()
    return _put(inner, where, points._asdict(), change)


def _put(fields: Any, where: Tensor, values: dict[str, Tensor], change: Tensor) -> Any:
    def put(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return _put(value, where, values, change)
        if name in values:
            return choose(where, values[name], value)
        return torch.where(where, value + change, value) if name == "energy" else value

    return type(fields)(*(put(*pair) for pair in zip(fields._fields, fields, strict=True)))


def next_sweep(state: ReplicaState, finished: Tensor) -> ReplicaState:
    """The next sweep of the chains that have ended one."""
    ends = finished.unsqueeze(-1)
    was_hottest = state.was_hottest.clone()
    was_hottest[:, 0] &= ~finished
    was_hottest[:, -1] |= finished
    return state._replace(
        waiting=state.waiting & ~ends,
        was_hottest=was_hottest,
        parity=torch.where(finished, 1 - state.parity, state.parity),
        num_steps=state.num_steps.masked_fill(finished, 0),
    )


def flat(fields: Any) -> Any:
    """All replicas of all chains as one batch, ``(C, R, ...) -> (C R, ...)``.

    Scalars, as seeds are, belong to no chain and stay.
    """
    return map_fields(lambda field: field.flatten(0, 1) if field.ndim else field, fields)


def by_chain(fields: Any, num_chains: int) -> Any:
    """Inverse of :func:`flat`."""
    shape = (num_chains, -1)
    return map_fields(lambda field: field.unflatten(0, shape) if field.ndim else field, fields)


def coldest(values: Tensor) -> Tensor:
    """What is kept: the values ``(C, ...)`` of replica 0."""
    return values[:, 0]
