"""Record the tensor operations that a function executes as a flat graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_ebm.core.checks import ModelError

_ALIASES = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}


_COPY_FRESH = torch.ops.aten.lift_fresh_copy.default


class UnbatchableError(ModelError):
    """A function that is right for one chain, but not as a graph for many."""


class OperationRecorder(TorchDispatchMode):
    """Record every operation that runs inside, and run it.

    What ``make_fx`` does, without its symbolic copy of every intermediate (which took most of
    the time of a trace), and with numbers read from tensors (``int(data.max())``, plates in a
    loop) taken as constants if they do not depend on the input, which ``reads_numbers`` tells.

    Args:
        example: The input, which must not be held by the function.

    Raises:
        UnbatchableError: If a number is read from a tensor that depends on the input.

    >>> x = torch.ones(2)
    >>> with OperationRecorder(x) as recorder:
    ...     y = 2 * x + 1
    >>> recorder.graph_module((y,))(torch.zeros(2))
    (tensor([1., 1.]),)
    """

    def __init__(self, example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.reads_numbers = False
        self._graph = fx.Graph()
        self._constants: dict[str, Tensor] = {}
        placeholder = self._graph.placeholder("q")
        self._nodes = {id(example): placeholder}
        self._dependent = {placeholder}
        self._alive = [example]  # as long as they live, no other tensor can have their id

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.lift_fresh.default:
            # In-place operations on a fresh constant must not change the one in the graph.
            constant = self._node(args[0].clone())
            result = func(*args)
            self._bind(result, self._call(_COPY_FRESH, (constant,), {}))
            return result
        arguments: Any = map_aggregate(args, self._node)
        keywords: Any = map_aggregate(kwargs or {}, self._node)
        if torch.Tag.data_dependent_output in func.tags:
            self._check_independent(func, arguments)
            self.reads_numbers = True
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self._bind(result, self._call(func, arguments, keywords))
        return result

    def graph_module(self, results: tuple[Tensor, ...]) -> Callable[[Tensor], Any]:
        """The recorded function, returning these of its tensors."""
        self._graph.output(tuple(self._node(result) for result in results))
        _drop_aliases(self._graph)
        self._graph.eliminate_dead_code()
        return fx.GraphModule(self._constants, self._graph)

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        node = self._graph.call_function(func, args, kwargs)
        if not self._dependent.isdisjoint(node.all_input_nodes):
            self._dependent.add(node)
        return node

    def _check_independent(self, func: Any, args: tuple[Any, ...]) -> None:
        if any(isinstance(arg, fx.Node) and arg in self._dependent for arg in args):
            raise UnbatchableError(
                f"{func.namespace}.{func.overloadpacket.__name__} reads a number from a tensor "
                "that depends on a latent value"
            )

    def _bind(self, result: Any, node: fx.Node) -> None:
        if isinstance(result, Tensor):
            self._alive.append(result)
            self._nodes[id(result)] = node
        elif isinstance(result, (tuple, list)):
            for index, part in enumerate(result):
                self._bind(part, self._call(operator.getitem, (node, index), {}))

    def _node(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = value
            self._bind(value, self._graph.create_node("get_attr", name))
        return self._nodes[id(value)]


def _drop_aliases(graph: fx.Graph) -> None:
    """Aliases matter to autograd only, and the graph runs without it."""
    for node in graph.nodes:
        if node.target in _ALIASES:
            node.replace_all_uses_with(node.args[0])
