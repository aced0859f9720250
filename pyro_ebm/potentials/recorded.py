"""Gradients of energies as recorded graphs: no Python of the energy runs, and no autograd."""

from __future__ import annotations

import copy
from functools import singledispatch
from typing import Any, NamedTuple

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


class _Look(NamedTuple):
    """What an energy holds at some moment."""

    held: tuple[Any, ...]
    versions: tuple[int, ...]
    """How often that has been changed in place."""


class RecordedEnergy:
    """An energy potential whose value and gradient are recorded once, as those of models are.

    An energy that a graph would not follow runs as it is written: one that branches on its input,
    selects by it, leaves torch, draws random numbers, or changes what it holds (a counter, say).
    So does one from then on of which a tensor or number is replaced by others; what is changed
    in place is followed. All else is that of the potential.

    Attributes:
        plain_because: Why the energy runs as it is written, slower; None if it is recorded, or
            has not been called.

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
        self._is_known = False
        self.plain_because: str | None = None

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        if not self._is_known:
            return self._first(q)
        return (self._potential.value_and_grad if self.plain_because else self._graphs)(q.detach())

    def _first(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """As it is written, to see what it does besides."""
        before = self._look()
        with RandomnessDetector() as randomness, _ExitDetector() as exits:
            results = self._potential.value_and_grad(q)
        after = self._look()
        self._held, self._is_known = after.held, True
        if randomness.operations:
            self.plain_because = f"it draws random numbers ({randomness.operations[0]})"
        elif exits.functions:
            self.plain_because = f"numbers leave torch ({exits.functions[0]})"
        else:
            self.plain_because = _objection(before, after)
        # Runs that go on begin here, too, so that this must not be another rounding.
        return results if self.plain_because else self._graphs(q.detach())

    def _recorded(self, q: Tensor) -> TracedFunction:
        plain = TracedFunction(self._potential.value_and_grad, reads_numbers=False)
        if not same(self._look().held, self._held):
            self.plain_because = "a tensor or number that it held has been replaced"
            return plain
        try:
            traced = trace(plain.function, q, self._held)
            check_follows(traced.function, plain.function, q)
        except Exception as error:  # whatever stops it, what is written is right
            self.plain_because = f"no graph follows it ({type(error).__name__}: {error})"
            return plain
        if traced.reads_numbers:
            self.plain_because = "it reads numbers out of tensors"
        return plain if self.plain_because else traced

    def _look(self) -> _Look:
        self._holdings.look_again()
        held = self._holdings.now()
        return _Look(held, versions(held))

    def __call__(self, q: Tensor) -> Tensor:
        return self._potential(q)

    def __getattr__(self, name: str) -> Any:
        if name == "_potential":  # of a copy that holds nothing yet
            raise AttributeError(name)
        return getattr(self._potential, name)

    def __getstate__(self) -> dict[str, Any]:
        """Copies look for themselves: what functions refer to need not be copied with them."""
        return self.__dict__ | {"_held": (), "_is_known": False, "plain_because": None}

    def __repr__(self) -> str:
        reason = f", plain because {self.plain_because}" if self.plain_because else ""
        return f"RecordedEnergy({self._potential!r}{reason})"


def _objection(before: _Look, after: _Look) -> str | None:
    """Why what an energy held before and after a call speaks against recording it."""
    if not same(before.held, after.held) or before.versions != after.versions:
        return "it changes what it holds"
    if len(after.held) > _MOST_PLACES:
        return f"it holds more than {_MOST_PLACES} tensors and numbers"
    return None


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
