"""Record the tensor operations that a function executes as a flat graph."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials.graphs.onednn import BIASED_PRODUCT, PRODUCT

_ALIASES = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}

_aten = torch.ops.aten

_READING = {_aten.index, _aten._unsafe_index}
_PUTTING = {_aten.index_put, _aten.index_put_}

_COPY_FRESH = torch.ops.aten.lift_fresh_copy.default

_SAME = {
    torch.ops.aten._unsafe_view.default: torch.ops.aten.view.default,
    PRODUCT: torch.ops.aten.mm.default,
    BIASED_PRODUCT: torch.ops.aten.addmm.default,
}
"""Operations that differ for autograd only, which the graph runs without, or are made elsewhere."""


class UnbatchableError(ModelError):
    """A function that is right for one chain, but not as a graph for many."""


class Recording(NamedTuple):
    """A recorded function of one tensor."""

    graph: fx.Graph
    constants: dict[str, Tensor]
    """Tensors that the function took from elsewhere, by the names of their nodes."""
    literals: frozenset[str]
    """Names of constants that the function made of numbers, so that no one else holds them."""
    tensors: dict[fx.Node, Tensor]
    """What the nodes were when recorded; operations in place may have changed it later."""
    storages: dict[fx.Node, frozenset[int]]
    """What memory the results of the nodes lie in: equal numbers are the same memory."""
    is_regular: bool
    """Whether results share memory only where the operations say so."""

    def graph_module(self) -> fx.GraphModule:
        """The function as it was recorded."""
        return fx.GraphModule(self.constants, self.graph)


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
    >>> recorder.recording((y,)).graph_module()(torch.zeros(2))
    (tensor([1., 1.]),)
    """

    def __init__(self, example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.reads_numbers = False
        self._graph = fx.Graph()
        self._constants: dict[str, Tensor] = {}
        self._literals: set[str] = set()
        self._tensors: dict[fx.Node, Tensor] = {}
        self._storages: dict[fx.Node, frozenset[int]] = {}
        self._is_regular = True
        self._alive: list[Tensor] = []  # as long as they live, no other can have their id
        self._nodes: dict[int, fx.Node] = {}
        placeholder = self._graph.placeholder("q")
        self._bind(example, placeholder)
        self._dependent = {placeholder}
        self._taken = set(self._storages[placeholder])
        self._made: set[int] = set()

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
            self._literals.add(str(constant.target))
            result = func(*args)
            node = self._call(_COPY_FRESH, (constant,), {})
            self._bind(result, node)
            self._made |= self._storages[node]
            return result
        arguments: Any = map_aggregate(args, self._node)
        keywords: Any = map_aggregate(kwargs or {}, self._node)
        if torch.Tag.data_dependent_output in func.tags:
            self._check_independent(func, arguments)
            self.reads_numbers = True
            return func(*args, **(kwargs or {}))
        if _makes_free_shapes(func, args) and self._depends(func, arguments):
            raise UnbatchableError(
                f"{_name_of(func)} works on as many numbers as a latent value says"
            )
        result = func(*args, **(kwargs or {}))
        node = self._call(_SAME.get(func, func), arguments, keywords)
        self._bind(result, node)
        self._note_memory(node)
        return result

    def recording(self, results: tuple[Tensor, ...]) -> Recording:
        """The recorded function, returning these of its tensors."""
        self._graph.output(tuple(self._node(result) for result in results))
        _drop_aliases(self._graph)
        self._graph.eliminate_dead_code()
        return Recording(
            self._graph,
            self._constants,
            frozenset(self._literals),
            self._tensors,
            self._storages,
            self._is_regular,
        )

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        node = self._graph.call_function(func, args, kwargs)
        if not self._dependent.isdisjoint(node.all_input_nodes):
            self._dependent.add(node)
        return node

    def _check_independent(self, func: Any, args: tuple[Any, ...]) -> None:
        if any(isinstance(arg, fx.Node) and arg in self._dependent for arg in args):
            raise UnbatchableError(
                f"{_name_of(func)} reads a number from a tensor that depends on a latent value"
            )

    def _depends(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether the input decides on the shape."""
        decides = args[1] if func.overloadpacket in _READING | _PUTTING else args
        found: list[fx.Node] = []
        fx.map_arg(decides, found.append)
        return not self._dependent.isdisjoint(found)

    def _bind(self, result: Any, node: fx.Node) -> None:
        self._storages[node] = frozenset()
        if isinstance(result, Tensor):
            self._alive.append(result)
            self._nodes[id(result)] = node
            self._tensors[node] = result
            self._storages[node] = self._memory(result)
        elif isinstance(result, (tuple, list)):
            for index, part in enumerate(result):
                child = self._call(operator.getitem, (node, index), {})
                self._bind(part, child)
                self._storages[node] |= self._storages[child]

    def _memory(self, tensor: Tensor) -> frozenset[int]:
        if tensor.layout is not torch.strided:
            self._is_regular = False
            return frozenset()
        return frozenset((tensor.untyped_storage()._cdata,))

    def _note_memory(self, node: fx.Node) -> None:
        new = self._storages[node] - self._taken - self._made
        returns = node.target._schema.returns  # type: ignore[union-attr]  # an operation's
        is_alias = any(result.alias_info is not None for result in returns)
        self._is_regular &= is_alias or new == self._storages[node]
        self._made |= new

    def _node(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = value
            node = self._graph.create_node("get_attr", name)
            self._bind(value, node)
            self._is_regular &= self._made.isdisjoint(self._storages[node])
            self._taken |= self._storages[node]
        return self._nodes[id(value)]


def _makes_free_shapes(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the shape of the result, or of what is put into it, is found out as it runs."""
    if func.overloadpacket in _PUTTING:
        return args[2].ndim > 0 and _has_mask(args[1])
    if func.overloadpacket in _READING:
        return _has_mask(args[1])
    return torch.Tag.dynamic_output_shape in func.tags


def _has_mask(indices: Any) -> bool:
    kinds = {index.dtype for index in indices if index is not None}
    return not kinds.isdisjoint({torch.bool, torch.uint8})


def _name_of(func: Any) -> str:
    return f"{func.namespace}.{func.overloadpacket.__name__}"


def _drop_aliases(graph: fx.Graph) -> None:
    """Aliases matter to autograd only, unless the shape of one is changed in place."""
    for node in graph.nodes:
        if node.target in _ALIASES and not any(map(_changes_shape, node.users)):
            node.replace_all_uses_with(node.args[0])


def _changes_shape(node: fx.Node) -> bool:
    return torch.Tag.inplace_view in getattr(node.target, "tags", ())
