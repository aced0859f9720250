"""Write a function for chains as they lie in memory, innermost or one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_ebm.potentials.graphs.editing import is_pointwise
from pyro_ebm.potentials.graphs.products import sum_thin_products, turn_products

_aten = torch.ops.aten
_SWAP = [1, 0]


def in_rows(function: Callable[..., Any], example: Tensor) -> fx.GraphModule:
    """The function as a graph without operations in place, for chains one after the other.

    >>> graph = in_rows(lambda x: (x @ torch.ones(5, 1)).add_(1.0), torch.ones(4, 5))
    >>> [node.name for node in graph.graph.nodes if node.op == "call_function"]
    ['ones', 't_default', 'mul_tensor', 'sum_dim_int_list', 'add']
    """
    module = make_fx(functionalize(function))(example)
    sum_thin_products(module.graph)
    module.recompile()
    return module


def oriented(function: Callable[..., Any], example: Tensor) -> fx.GraphModule:
    """The function as a graph without operations in place, in which no transpose needs a copy.

    Products with data come as ``(data, chains)``, are transposed for arithmetic, and back for
    the next product. A compiler writes what lies between the other way round, which takes longer
    than the arithmetic; here the arithmetic is done on the transposes instead.

    >>> weight, x = torch.ones(2, 5), torch.ones(4, 5)
    >>> graph = oriented(lambda x: (weight @ x.mT).mT.exp().mT, x)
    >>> [node.name for node in graph.graph.nodes]
    ['x_1', 'transpose', '_tensor_constant0', 'mm_default', 'exp_default', 'output']
    """
    module = make_fx(functionalize(function))(example)
    turn_products(module.graph)
    _Orienter(module.graph).run()
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


class _Orienter:
    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._transposes: dict[fx.Node, fx.Node] = {}

    def run(self) -> None:
        for node in list(self._graph.nodes):
            if _ndim(node) == 2 and is_transpose(node):
                self._cancel(node)
            elif any(part in self._transposes for part in node.all_input_nodes):
                self._orient(node)

    def _cancel(self, node: Any) -> None:
        source = node.args[0]
        if source in self._transposes:
            node.replace_all_uses_with(self._transposes[source])
        else:
            self._transposes[node] = source

    def _orient(self, node: Any) -> None:
        if is_pointwise(node) and not node.kwargs and _ndim(node) == 2:
            if all(_ndim(part) <= 2 for part in node.all_input_nodes):
                self._turn(node)
        elif node.target is _aten.sum.dim_IntList and len(node.args) == 2 and not node.kwargs:
            source, axes = node.args
            turned = [1 - axis % 2 for axis in axes or (0, 1)]
            self._replace(node, self._insert(node, node.target, self._turned(source), turned))

    def _turn(self, node: Any) -> None:
        with self._graph.inserting_before(node):
            arguments = fx.map_arg(node.args, self._turned)
        turned = self._insert(node, node.target, *arguments)
        back = self._insert(node, _aten.permute.default, turned, _SWAP)
        self._transposes[back] = turned
        self._replace(node, back)

    def _turned(self, part: fx.Node) -> fx.Node:
        if part in self._transposes:
            return self._transposes[part]
        if _ndim(part) == 0:
            return part
        if _ndim(part) == 1:
            return self._graph.call_function(_aten.unsqueeze.default, (part, 1))
        return self._graph.call_function(_aten.permute.default, (part, _SWAP))

    def _insert(self, before: fx.Node, operation: Any, *args: Any) -> fx.Node:
        with self._graph.inserting_before(before):
            return self._graph.call_function(operation, args)

    @staticmethod
    def _replace(node: fx.Node, new: fx.Node) -> None:
        new.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(new)


def is_transpose(node: Any) -> bool:
    """Whether a node swaps the two axes of a matrix."""
    if node.target is _aten.permute.default:
        return bool(node.args[1] == _SWAP)
    if node.target is _aten.transpose.int:
        return {axis % 2 for axis in node.args[1:]} == {0, 1}
    return node.target is _aten.t.default


def _ndim(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, Tensor) else -1
