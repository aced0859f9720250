"""One step of all chains: as it is written, or compiled together with the potential."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.positions import fields_like, laid_out, map_fields, tensors_of
from pyro_ebm.core.types import Info, Kernel, Potential
from pyro_ebm.potentials.graphs.tracing import ValueAndGrad, flat_graph
from pyro_ebm.potentials.holdings import same
from pyro_ebm.potentials.recorded import recorded
from pyro_ebm.sampling.compiler import Compiler
from pyro_ebm.sampling.storage import DrawStorage

Step = Callable[[Kernel[Any, Any], Any, Any], tuple[Any, Info]]
"""Moves chains: kernel, state and noise to the next state and the report."""


class Steps(NamedTuple):
    """How a run moves its chains."""

    eager: Step
    """Operation by operation, whatever changes of the kernel between two steps."""
    compiled: Step | None = None
    storing: CompiledSteps | None = None
    """Makes several steps at once and stores their draws itself, if that is possible."""


def eager_steps(potential: Potential) -> Step:
    """Steps that run operation by operation."""

    def step(kernel: Kernel[Any, Any], state: Any, noise: Any) -> tuple[Any, Info]:
        moved: tuple[Any, Info] = kernel.step(potential, state, noise)
        return moved

    return step


class Moved(NamedTuple):
    """What several steps came to."""

    state: Any
    info: Info
    """Report of the last; ``diverging`` says which chains diverged in all of them."""
    num_steps: int
    room: tuple[Tensor, ...]
    """Where the next draws go."""


class CompiledSteps:
    """Steps of which potential and transition are compiled into one graph.

    The draws are those of the plain steps up to rounding. What warm-up tunes is an argument of the
    graph, so that it compiles nothing anew; when other hyper-parameters change, the graph is made
    again. What the potential holds is taken as it is at the first step of the run.

    Args:
        potential: What the chains sample.
        compiler: What compiles.
        storage: Where the graph is to write the draws, if it is to.
    """

    def __init__(
        self, potential: Potential, compiler: Compiler, storage: DrawStorage | None = None
    ) -> None:
        self._potential, self._compiler, self._storage = potential, compiler, storage
        self._kernel: Kernel[Any, Any] | None = None
        self._others: tuple[Any, ...] = ()
        self._last: tuple[Any, list[Tensor]] = (None, [])

    def __call__(self, kernel: Kernel[Any, Any], state: Any, noise: Any) -> tuple[Any, Info]:
        """One step, whose draws are not stored."""
        self.prepare(kernel, state, noise)
        room = () if self._storage is None else self._storage.no_room
        moved = self._advance(state, [(noise,)], room)
        return moved.state, moved.info

    def store(self, state: Any, calls: Iterable[Sequence[Any]]) -> Moved:
        """One call for each group of noises, one step for each noise, with their draws stored.

        Kernel and groups must be as :meth:`prepare` has seen them.
        """
        assert self._storage is not None
        moved = self._advance(state, calls, self._storage.room)
        self._storage.count_to(moved.room[-1])
        return moved

    def prepare(self, kernel: Kernel[Any, Any], state: Any, *noises: Any) -> None:
        """Compile what a call with these needs, if that has not been done."""
        if kernel is not self._kernel:
            self._take(kernel, state, noises)

    def _advance(
        self, state: Any, calls: Iterable[Sequence[Any]], room: tuple[Tensor, ...]
    ) -> Moved:
        """The state gets names after the calls only: that takes as long as a small step."""
        tensors, num_fields, num_steps = self._tensors_of(state), self._num_fields, 0
        diverging: Any = True
        for noises in calls:
            randomness = map(laid_out, tensors_of(tuple(noises)))
            outputs = self._graph(*self._tuned, *room, *tensors, *randomness)
            tensors, remaining = outputs[:num_fields], iter(outputs[num_fields:])
            info = fields_like(self._info, remaining)
            diverging = diverging & info.diverging
            room = (*room[:-1], *islice(remaining, bool(room)))
            num_steps += len(noises)
        moved = fields_like(state, iter(tensors))
        self._last = moved, tensors
        return Moved(moved, info._replace(diverging=diverging), num_steps, room)

    def _tensors_of(self, state: Any) -> list[Tensor]:
        """In the layout of the graph, which what it has returned is in already."""
        last, tensors = self._last
        return tensors if state is last else [*map(laid_out, tensors_of(state))]

    def _take(self, kernel: Kernel[Any, Any], state: Any, noises: Any) -> None:
        """Read the hyper-parameters; compile if others than those of warm-up are new."""
        self._tuned = [*map(laid_out, tuned_tensors(kernel, state.position))]
        shape = *state.position.shape, state.position.dtype, len(noises)
        others = (*_other_hyperparameters(kernel), *shape)
        if not same(others, self._others):
            with self._compiler.timed():
                self._compile(kernel, state, noises)
        self._kernel, self._others = kernel, others

    def _compile(self, kernel: Kernel[Any, Any], state: Any, noises: Any) -> None:
        watched: Any = _Watched(self._potential)
        self._info: Any
        _, self._info = kernel.step(watched, map_fields(torch.clone, state), noises[0])
        flat = _Flat(flat_graph(self._potential.value_and_grad, watched.asked_for))
        self._num_fields = len(tensors_of(state))
        parts: list[Any] = [self._tuned, (), state, noises]
        if self._storage is not None:
            self._storage.make_room(state, self._info)
            parts[1] = self._storage.no_room
        sizes = [len(tensors_of(part)) for part in parts]

        def steps(*tensors: Tensor) -> list[Tensor]:
            split = iter(tensors)
            tuned, room, at, randomness = ([*islice(split, size)] for size in sizes)
            fields = iter(randomness)
            moved, info, stored = self._walk(
                flat,
                with_tuned(kernel, *tuned),
                fields_like(state, iter(at)),
                [fields_like(noise, fields) for noise in noises],
                room,
            )
            report = tensors_of(info)
            return [*map(laid_out, tensors_of(moved)), *report, *stored]

        # A step may write to scratch memory, which is not to be that of the chains.
        fields = (laid_out(field).clone() for field in tensors_of((state, *noises)))
        examples = [*self._tuned, *parts[1], *fields]
        self._graph = self._compiler(steps, examples)

    def _walk(
        self, potential: Any, kernel: Any, state: Any, noises: Any, room: list[Tensor]
    ) -> tuple[Any, Any, list[Tensor]]:
        """What the graph does: steps, and draws into ``room``; it returns their count and rows."""
        diverging: Any = True
        all_rows: list[Tensor] = []
        for noise in noises:
            state, info = kernel.step(potential, state, noise)
            diverging = diverging & info.diverging
            if self._storage is not None:
                count, rows = self._storage.fill(state, info, *room)
                room, all_rows = [*room[:-1], count], [*all_rows, rows]
        return state, info._replace(diverging=diverging), [*room[-1:], *all_rows]


def steps_of_a_run(
    kernel: Kernel[Any, Any],
    potential: Potential,
    compiler: Compiler | None,
    storage: DrawStorage | None,
) -> Steps:
    """Eager steps, or compiled ones, which store their draws if there is a storage.

    Raises:
        ModelError: If an energy that knows noise levels is to be compiled.
    """
    eager = eager_steps(recorded(potential))
    if compiler is None:
        return Steps(eager)
    if hasattr(potential, "at_noise_level"):
        raise ModelError(
            f"{type(potential).__name__} is another energy at each noise level, but compile=True "
            "makes a graph of one: run it without compile=True."
        )
    if storage is None:
        return Steps(eager, CompiledSteps(potential, compiler))
    storing = CompiledSteps(potential, compiler, storage)
    if kernel.steps_per_call == 1:  # one graph is enough
        return Steps(eager, storing, storing)
    return Steps(eager, CompiledSteps(potential, compiler), storing)


class _Watched:
    """A potential that remembers what gradients were asked for."""

    def __init__(self, potential: Potential) -> None:
        self._potential = potential
        self.asked_for: Tensor

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        self.asked_for = q
        return self._potential.value_and_grad(q)


class _Flat(NamedTuple):
    """The part of a potential that steps use, as a graph."""

    function: ValueAndGrad

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        return self.function(q.contiguous())


def tuned_tensors(kernel: Kernel[Any, Any], position: Tensor) -> list[Tensor]:
    """What warm-up tunes, moments last; compiled code would take numbers as constants."""
    numbers = [
        torch.tensor(number, dtype=torch.float64, device=position.device)
        for number in kernel.tuned_numbers.values()
    ]
    known = {name: m.to(position) for name, m in kernel.moments.items() if m is not None}
    if len(known) < len(kernel.moments):  # until warm-up has estimated them
        known = _standard_moments(position, full_mass=kernel.full_mass) | known
    return [*numbers, *(known[name] for name in kernel.moments)]


def with_tuned(kernel: Kernel[Any, Any], *tensors: Tensor) -> Any:
    """The kernel with these tensors, which no constructor would check."""
    twin = copy.copy(kernel)
    for name, tensor in zip((*kernel.tuned_numbers, *kernel.moments), tensors, strict=True):
        object.__setattr__(twin, name, tensor)
    return twin


def _standard_moments(position: Tensor, *, full_mass: bool) -> dict[str, Tensor]:
    """Of a standard normal."""
    ones = torch.ones_like(position[0], memory_format=torch.contiguous_format)
    return {"scale": ones.diag() if full_mass else ones, "center": torch.zeros_like(ones)}


def _other_hyperparameters(kernel: Any) -> tuple[Any, ...]:
    tuned = {"target", *kernel.moments, *kernel.tuned_numbers}
    others = (field.name for field in dataclasses.fields(kernel) if field.name not in tuned)
    return type(kernel), *(getattr(kernel, name) for name in others)
