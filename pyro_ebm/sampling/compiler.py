"""Compile functions of tensors whose shapes do not change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, _inductor, fx
from torch._guards import TracingContext, tracing
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pyro_ebm.potentials.graphs.group_sums import sum_by_group
from pyro_ebm.potentials.graphs.large_products import straighten_weights, use_onednn
from pyro_ebm.potentials.graphs.sums import multiply_by_ones
from pyro_ebm.potentials.graphs.tracing import same_validation

TensorFunction = Callable[..., list[Tensor]]
"""Takes tensors, returns tensors, may write to those that it takes."""

_WORTH_THREADS = 2**15
"""Numbers in the largest tensor from which loops are split over threads, as in torch itself."""


class Compiler:
    """Trace a function and hand the graph to TorchInductor.

    Unlike ``torch.compile`` nothing is asked at every call: what the function holds is taken as
    it is now, and shapes, types and layouts must stay those of the examples. TorchInductor keeps
    what it compiled, and takes it again in any process with the same graph, threads and versions
    (in the folder ``TORCHINDUCTOR_CACHE_DIR``; ``TORCHINDUCTOR_FORCE_DISABLE_CACHES=1`` forbids).

    Attributes:
        seconds: Time that compiling took so far.

    Raises:
        RuntimeError: By torch, if there is no C++ compiler.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: TensorFunction, examples: Sequence[Tensor]) -> TensorFunction:
        """The compiled function; ``function`` is called once, with the examples."""
        with self.timed(), torch.no_grad(), same_validation():
            graph = make_fx(function)(*examples)
            sum_by_group(graph)
            multiply_by_ones(graph)
            use_onednn(graph.graph, _tensors(graph))
            straighten_weights(graph)
            compiled = _compiled(graph, examples)
        without_grad: TensorFunction = torch.no_grad()(compiled)
        return without_grad

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time that passes inside, too, but only once."""
        started, before = time.perf_counter(), self.seconds
        try:
            yield
        finally:
            self.seconds = before + time.perf_counter() - started


def _compiled(graph: fx.GraphModule, examples: Sequence[Tensor]) -> Callable[..., Any]:
    # TorchInductor looks into its cache only where shapes could be symbols. They must not be:
    # code for all shapes is slower.
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with tracing(TracingContext(mode)):
        shapes: list[Any] = [mode.from_tensor(example, static_shapes=True) for example in examples]
        compiled: Callable[..., Any] = _inductor.compile(graph, shapes, options=_options(graph))
    return compiled


def _options(graph: fx.GraphModule) -> dict[str, Any]:
    sizes = (value.numel() for node, value in _tensors(graph).items() if _computes(node))
    largest = max(sizes, default=0)
    # Shapes are those of the examples: to ask at each call took a sixth of a step of 64 chains.
    options: dict[str, Any] = {"size_asserts": False}
    # Threads that wait for each other at every loop cost more than a small loop itself.
    return options if largest >= _WORTH_THREADS else options | {"cpp.threads": 1}


def _tensors(graph: fx.GraphModule) -> dict[fx.Node, Tensor]:
    """Examples of what its nodes are."""
    values = {node: node.meta.get("val") for node in graph.graph.nodes}
    return {node: value for node, value in values.items() if isinstance(value, Tensor)}


def _computes(node: fx.Node) -> bool:
    """Not what is given, nor what a few numbers are written to: that may be large and idle."""
    return isinstance(node.target, OpOverload) and not node.target._schema.is_mutable
