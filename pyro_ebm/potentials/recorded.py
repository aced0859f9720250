"""Gradients of energies as recorded graphs: no Python of the energy runs, and no autograd."""

from __future__ import annotations

import copy
from functools import singledispatch
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_ebm.core.types import PotentialTerm
from pyro_ebm.potentials.compose import SumPotential
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.potentials.graphs.tracing import TracedFunction, check_follows, trace
from pyro_ebm.potentials.holdings import Holdings, same
from pyro_ebm.potentials.kept_graphs import KeptGraphs, versions
from pyro_ebm.potentials.noise_conditional import NoiseConditionalPotential, NoiseConditionalSum
from pyro_ebm.potentials.randomness import RandomnessDetector

_MOST_PLACES = 2000
"""What an energy holds is read for each gradient; more would take longer than it saves."""

_EXITS = frozenset({"numpy", "tolist", "data_ptr", "__array__", "__dlpack__"})
"""Functions of a tensor by which its numbers leave torch, unseen by graphs."""


class RecordedEnergy:
    """An energy potential whose value and gradient are recorded once, as those of models are.

    An energy that a graph would not follow runs as it is written: one that branches on its input,
    selects by it, leaves torch, draws random numbers, or changes what it holds (a counter, say).
    So does one from then on of which a tensor or number is replaced by others; what is changed
    in place is followed. All else is that of the potential.

    >>> import torch
    >>> potential = RecordedEnergy(EnergyPotential(torch.sin, event_shape=()))
    >>> value, grad = potential.value_and_grad(torch.zeros(3, 1))
    >>> grad.flatten()
    tensor([1., 1., 1.])
    """

    def __init__(self, potential: EnergyPotential) -> None:
        self._potential = potential
        self._holdings = Holdings((vars(potential),))
        self._graphs = KeptGraphs(self._recorded, self._holdings.now)
        self._held: tuple[Any, ...] = ()
        self._is_followed: bool | None = None

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        if self._is_followed is None:
            return self._first(q)
        return (self._graphs if self._is_followed else self._potential.value_and_grad)(q.detach())

    def _first(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """As it is written, to see what it does besides."""
        before, counts = self._look()
        with RandomnessDetector() as randomness, _ExitDetector() as exits:
            results = self._potential.value_and_grad(q)
        self._held, new_counts = self._look()
        keeps_still = same(before, self._held) and counts == new_counts
        is_closed = not (randomness.operations or exits.functions)
        self._is_followed = keeps_still and is_closed and len(self._held) <= _MOST_PLACES
        # Runs that go on begin here, too, so that this must not be another rounding.
        return self._graphs(q.detach()) if self._is_followed else results

    def _recorded(self, q: Tensor) -> TracedFunction:
        traced = self._traced(q) if same(self._look()[0], self._held) else None
        self._is_followed = traced is not None
        plain = TracedFunction(self._potential.value_and_grad, reads_numbers=False)
        return plain if traced is None else traced

    def _traced(self, q: Tensor) -> TracedFunction | None:
        plain = self._potential.value_and_grad
        try:
            traced = trace(plain, q, self._held)
            check_follows(traced.function, plain, q)
        except Exception:  # whatever stops it, what is written is right
            return None
        return None if traced.reads_numbers else traced

    def _look(self) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """What the energy holds, and how often that has been changed."""
        self._holdings.look_again()
        held = self._holdings.now()
        return held, versions(held)

    def __call__(self, q: Tensor) -> Tensor:
        return self._potential(q)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._potential, name)


class _ExitDetector(TorchFunctionMode):
    """Collect the names of functions by which numbers leave torch."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[str] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _EXITS:
            self.functions.append(func.__name__)
        return func(*args, **(kwargs or {}))


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
