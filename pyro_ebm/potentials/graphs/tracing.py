"""Flat graphs of tensor operations: a function traced once, so that no Python runs per call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.func import grad_and_value, vmap

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.positions import is_wide
from pyro_ebm.potentials.graphs.aliasing import separate_results
from pyro_ebm.potentials.graphs.columns import lay_out_columns
from pyro_ebm.potentials.graphs.folding import FoldedFunction
from pyro_ebm.potentials.graphs.large_products import use_onednn
from pyro_ebm.potentials.graphs.merging import merge
from pyro_ebm.potentials.graphs.orientation import in_rows, oriented
from pyro_ebm.potentials.graphs.recording import OperationRecorder, Recording
from pyro_ebm.potentials.graphs.rows import share_rows
from pyro_ebm.potentials.graphs.shrinking import shrink
from pyro_ebm.potentials.graphs.simplify import simplify
from pyro_ebm.potentials.graphs.substitution import substitute

ValueAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]

_MOVE, _TOLERANCE = 0.1, 1e-3
"""How far from the example a graph is looked at, and how near it must come."""


def batched(scalar: Callable[[Tensor], Tensor]) -> ValueAndGrad:
    """Value and gradient of a scalar function of a vector, ``(C, dim) -> (C,), (C, dim)``."""
    both = vmap(grad_and_value(scalar))

    def value_and_grad(q: Tensor) -> tuple[Tensor, Tensor]:
        grad, value = both(q)
        return value, grad

    return value_and_grad


class TracedFunction(NamedTuple):
    """A recorded function, for inputs of exactly the example's shape and type."""

    function: ValueAndGrad
    reads_numbers: bool
    """Whether it contains numbers that were read from tensors when it was recorded."""


def trace(
    function: ValueAndGrad, example: Tensor, held: tuple[Any, ...] = (), *, compiles: bool = False
) -> TracedFunction:
    """Record ``function`` as a flat graph of tensor operations, without those it can do without.

    What does not depend on the input is computed once, and again when a tensor in ``held`` that
    it is computed from has changed.
    """
    with torch.no_grad():
        recording, reads_numbers = _recorded(function, _own(example))
    use_onednn(recording.graph, recording.tensors)
    run = _compiled(recording) if compiles else FoldedFunction(recording, held)
    return TracedFunction(run, reads_numbers)


def flat_graph(function: ValueAndGrad, example: Tensor) -> ValueAndGrad:
    """Record ``function`` for use inside code that is compiled as a whole.

    What the function holds is taken as it is now. The graph is written for chains that are
    laid out (:func:`pyro_ebm.core.positions.laid_out`).

    Raises:
        ModelError: If the graph does not follow the function to another point.
    """
    example = _own(example)
    with torch.no_grad():
        recording, _ = _recorded(function, example)
        if recording.is_regular:
            share_rows(recording, len(example))
            if not is_wide(example):
                lay_out_columns(recording)
        separate_results(recording.graph)
        write = in_rows if is_wide(example) else oriented
        call: ValueAndGrad = write(recording.graph_module(), example)
        check_follows(call, function, example)
    return call


def check_follows(graph: ValueAndGrad, function: ValueAndGrad, example: Tensor) -> None:
    """Refuse a graph that lacks numbers which came to the function by other ways than torch.

    Raises:
        ModelError: If the graph does not follow the function to another point.
    """
    other = example + _MOVE
    for found, wanted in zip(graph(other), function(other), strict=True):
        size = wanted[wanted.isfinite()].abs().max() if bool(wanted.isfinite().any()) else 1.0
        near = torch.isclose(found, wanted, _TOLERANCE, _TOLERANCE * float(size), equal_nan=True)
        if not bool(near.all()):
            raise ModelError(
                "this energy or model cannot be compiled: what was recorded of it at one point is "
                f"{found[~near][0]:.6g} at another, where it should be {wanted[~near][0]:.6g}. It "
                "computes something outside of torch (with NumPy, say, or from .item()): write it "
                "with torch operations, or run it without compile=True."
            )


def _own(example: Tensor) -> Tensor:
    """A copy that nobody holds, in the layout that graphs are called with."""
    return example.clone(memory_format=torch.contiguous_format)


def _recorded(function: ValueAndGrad, example: Tensor) -> tuple[Recording, bool]:
    """The function, improved, and whether it read numbers from tensors."""
    with OperationRecorder(example) as recorder:
        results = function(example)
    recording = recorder.recording(results)
    _improve(recording)
    return recording, recorder.reads_numbers


def _improve(recording: Recording) -> None:
    if recording.is_regular:
        with torch._C.DisableTorchFunction():  # active modes would only cost time
            for change in (simplify, shrink, simplify, merge, substitute):
                change(recording)


def _compiled(recording: Recording) -> ValueAndGrad:
    separate_results(recording.graph)
    call = torch.compile(recording.graph_module())

    def run(q: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), same_validation():
            value, grad = call(q.contiguous())
        return value, grad

    return run


@contextmanager
def same_validation() -> Iterator[None]:
    """Compiling switches validation off for all distributions made later by anybody."""
    before = Distribution._validate_args
    try:
        yield
    finally:
        if Distribution._validate_args != before:
            Distribution.set_default_validate_args(before)
