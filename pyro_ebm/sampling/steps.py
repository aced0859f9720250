"""One step of all chains: as it is written, or compiled together with the potential."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.positions import fields_like, tensors_of
from pyro_ebm.core.types import Info, Kernel, Potential
from pyro_ebm.potentials.holdings import same
from pyro_ebm.potentials.tracing import ValueAndGrad, flat_graph
from pyro_ebm.sampling.compiler import Compiler

Step = Callable[[Kernel[Any, Any], Any, Any], tuple[Any, Info]]
"""Moves chains: kernel, state and noise to the next state and the report."""


def eager_steps(potential: Potential) -> Step:
    """Steps that run operation by operation."""

    def step(kernel: Kernel[Any, Any], state: Any, noise: Any) -> tuple[Any, Info]:
        moved: tuple[Any, Info] = kernel.step(potential, state, noise)
        return moved

    return step


class CompiledSteps:
    """Steps of which potential and transition are compiled into one graph.

    The draws are those of the plain steps up to rounding. The step size and the scale are
    arguments of the graph, so that warm-up compiles nothing anew; when other hyper-parameters
    change, the graph is made again. What the potential holds is taken as it is at the first step,
    tensors that are changed in place are followed.

    Args:
        potential: What the chains sample.
        compiler: What compiles.
    """

    def __init__(self, potential: Potential, compiler: Compiler) -> None:
        self._potential, self._compiler = potential, compiler
        self._kernel: Kernel[Any, Any] | None = None
        self._others: tuple[Any, ...] = ()
        self._last: tuple[Any, list[Tensor]] = (None, [])

    def __call__(self, kernel: Kernel[Any, Any], state: Any, noise: Any) -> tuple[Any, Info]:
        if kernel is not self._kernel:
            self._take(kernel, state, noise)
        inputs = [*self._tuned, *self._tensors_of(state), *map(_in_one_layout, tensors_of(noise))]
        outputs = self._graph(*inputs)
        remaining = iter(outputs)
        moved = fields_like(state, remaining)
        self._last = moved, outputs[: self._num_fields]
        return moved, fields_like(self._info, remaining)

    def _tensors_of(self, state: Any) -> list[Tensor]:
        """In the layout of the graph, which what it has returned is in already."""
        last, tensors = self._last
        return tensors if state is last else [*map(_in_one_layout, tensors_of(state))]

    def _take(self, kernel: Kernel[Any, Any], state: Any, noise: Any) -> None:
        """Read the hyper-parameters; compile if others than step size and scale are new."""
        self._tuned = [*map(_in_one_layout, tuned_tensors(kernel, state.position))]
        others = (*_other_hyperparameters(kernel), *state.position.shape, state.position.dtype)
        if not same(others, self._others):
            with self._compiler.timed():
                self._compile(kernel, state, noise)
        self._kernel, self._others = kernel, others

    def _compile(self, kernel: Kernel[Any, Any], state: Any, noise: Any) -> None:
        num_fields = self._num_fields = len(tensors_of(state))
        inputs = [*self._tuned, *tensors_of(state), *tensors_of(noise)]
        # A step may write to scratch memory, which is not to be that of the chains.
        examples = [_in_one_layout(field).clone() for field in inputs]

        def step(
            potential: Any, step_size: Tensor, scale: Tensor, *tensors: Tensor
        ) -> list[Tensor]:
            moved, self._info = with_tuned(kernel, step_size, scale).step(
                potential,
                fields_like(state, iter(tensors[:num_fields])),
                fields_like(noise, iter(tensors[num_fields:])),
            )
            return [*map(_in_one_layout, tensors_of(moved)), *tensors_of(self._info)]

        watched = _Watched(self._potential)
        step(watched, *examples)
        flat = _Flat(flat_graph(self._potential.value_and_grad, watched.asked_for))
        self._graph = self._compiler(partial(step, flat), examples)


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


def tuned_tensors(kernel: Kernel[Any, Any], position: Tensor) -> tuple[Tensor, Tensor]:
    """Step size and scale as tensors; compiled code would take numbers as constants."""
    step_size = torch.tensor(kernel.step_size, dtype=torch.float64, device=position.device)
    if kernel.scale is not None:
        return step_size, kernel.scale.to(position)
    ones = torch.ones_like(position[0], memory_format=torch.contiguous_format)
    return step_size, ones.diag() if kernel.full_mass else ones


def with_tuned(kernel: Kernel[Any, Any], step_size: Tensor, scale: Tensor) -> Any:
    """The kernel with these tensors, which no constructor would check."""
    twin = copy.copy(kernel)
    object.__setattr__(twin, "step_size", step_size)
    object.__setattr__(twin, "scale", scale)
    return twin


def _other_hyperparameters(kernel: Any) -> tuple[Any, ...]:
    names = (field.name for field in dataclasses.fields(kernel))
    others = (name for name in names if name not in {"target", "step_size", "scale"})
    return type(kernel), *(getattr(kernel, name) for name in others)


def _in_one_layout(field: Tensor) -> Tensor:
    """Chains innermost, whatever else there is."""
    return field.movedim(0, -1).contiguous().movedim(-1, 0) if field.ndim > 1 else field
