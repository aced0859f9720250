"""Gradients of energies as recorded graphs: no Python of the energy runs, and no autograd."""

from __future__ import annotations

import copy
from functools import singledispatch
from typing import Any

from torch import Tensor

from pyro_ebm.core.types import PotentialTerm
from pyro_ebm.potentials.compose import SumPotential
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.potentials.graphs.tracing import TracedFunction, check_follows, trace
from pyro_ebm.potentials.holdings import Holdings, same
from pyro_ebm.potentials.kept_graphs import KeptGraphs, versions
from pyro_ebm.potentials.noise_conditional import NoiseConditionalPotential, NoiseConditionalSum


class RecordedEnergy:
    """An energy potential whose value and gradient are recorded once, as those of models are.

    The graph is made anew when a tensor or number that the energy holds is replaced. An energy
    that a graph would not follow runs as it is written: one that branches on its input, leaves
    torch, draws random numbers, or changes what it holds (a counter, say). All else is that of
    the potential.

    >>> import torch
    >>> potential = RecordedEnergy(EnergyPotential(torch.sin, event_shape=()))
    >>> value, grad = potential.value_and_grad(torch.zeros(3, 1))
    >>> grad.flatten()
    tensor([1., 1., 1.])
    """

    def __init__(self, potential: EnergyPotential) -> None:
        self._potential = potential
        self._holdings = Holdings((potential.energy,))
        self._graphs = KeptGraphs(self._recorded, self._holdings.now)
        self._keeps_still: bool | None = None

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        if self._keeps_still is None:
            return self._first(q)
        return (self._graphs if self._keeps_still else self._potential.value_and_grad)(q.detach())

    def _first(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """As it is written, to see whether that changes what the energy holds."""
        before, counts = self._held()
        results = self._potential.value_and_grad(q)
        after, new_counts = self._held()
        self._keeps_still = same(before, after) and counts == new_counts
        # Runs that go on begin here, too, so that this must not be another rounding.
        return self._graphs(q.detach()) if self._keeps_still else results

    def _recorded(self, q: Tensor) -> TracedFunction:
        plain = self._potential.value_and_grad
        held, _ = self._held()
        try:
            traced = trace(plain, q, held)
            check_follows(traced.function, plain, q)
        except Exception:  # whatever stops it, what is written is right
            return TracedFunction(plain, reads_numbers=False)
        return traced

    def _held(self) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """What the energy holds, and how often that has been changed."""
        self._holdings.look_again()
        held = self._holdings.now()
        return held, versions(held)

    def __call__(self, q: Tensor) -> Tensor:
        return self._potential(q)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._potential, name)


@singledispatch
def recorded(potential: PotentialTerm) -> Any:
    """A potential of the same values, of which gradients are recorded if it is an energy.

    For those who take many steps on it. Models record themselves, and energies that know noise
    levels are others at each step.

    >>> import torch
    >>> recorded(EnergyPotential(torch.sin, event_shape=())).dim
    1
    """
    return potential


@recorded.register
def _(potential: EnergyPotential) -> Any:
    return RecordedEnergy(potential)


@recorded.register
def _(potential: SumPotential) -> Any:
    twin = copy.copy(potential)
    twin.potential, twin.term = recorded(potential.potential), recorded(potential.term)
    return twin


@recorded.register(NoiseConditionalPotential)
@recorded.register(NoiseConditionalSum)
def _(potential: Any) -> Any:
    return potential
