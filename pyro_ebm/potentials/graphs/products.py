"""Matrix products of chains with data, written for the way in which chains lie in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

_aten = torch.ops.aten

_FEW = 4
"""Columns: a product of 128 x 2 with 2 x 1024 took BLAS ten times as long as one loop."""

_MEMORY = {_aten.as_strided.default, _aten.view.dtype, _aten.view_as_complex.default}
_ATTENTION = "scaled_dot_product"


def turn_products(graph: fx.Graph) -> None:
    """Write products ``chains @ data`` as transposes of ``data.mT @ chains.mT``.

    Their numbers then lie ``(features, chains)``, so that what comes next loops over chains. A
    bias is added afterwards, which takes no loop of its own when it is compiled, and neither
    does a product of few columns with few rows, written as a sum of multiplications. A graph
    with operations that depend on how numbers lie in memory stays as it is; one with operations
    in place must not be given.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> weight, bias, x = torch.ones(2, 5), torch.ones(2), torch.ones(4, 5)
    >>> graph = make_fx(lambda x: torch.addmm(bias, x, weight.mT))(x).graph
    >>> turn_products(graph)
    >>> [node.name for node in graph.nodes if node.op == "call_function"][1:]
    ['neg_default', 't_default', 't_default_1', 'mm_default', 't_default_2', 'sub_tensor']
    """
    if not any(map(_looks_at_memory, graph.nodes)):
        _Turner(graph).run()
        graph.eliminate_dead_code()


def sum_thin_products(graph: fx.Graph) -> None:
    """Write products of few columns with few rows, or with one column, as arithmetic and sums.

    For chains that lie one after the other, on a CPU. The arithmetic is part of the loops before
    and after it, while BLAS took as long for the single number that a network ends with as for a
    layer. Graphs as of :func:`turn_products`.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> weight, bias, x = torch.ones(1, 5), torch.ones(1), torch.ones(4, 5)
    >>> graph = make_fx(lambda x: torch.addmm(bias, x, weight.mT))(x).graph
    >>> sum_thin_products(graph)
    >>> [node.name for node in graph.nodes if node.op == "call_function"][1:]
    ['t_default', 'mul_tensor', 'sum_dim_int_list', 'add_tensor']
    """
    if not any(map(_looks_at_memory, graph.nodes)):
        _ThinProducts(graph).run()
        graph.eliminate_dead_code()


def _looks_at_memory(node: fx.Node) -> bool:
    """Whether results depend on strides, or there is an error for some."""
    if not isinstance(node.target, OpOverload):
        return False
    is_torch = node.target.namespace in {"aten", "prims"}
    return not is_torch or node.target in _MEMORY or _ATTENTION in node.target.name()


def _is_known(node: fx.Node) -> bool:
    """Of sparse tensors there is no value."""
    return isinstance(node.meta.get("val"), Tensor)


def _has_one_column(matrix: Tensor) -> bool:
    """In a type of which products are not summed in another."""
    return matrix.shape[1] == 1 and _is_summed_as_it_is(matrix)


def _is_summed_as_it_is(matrix: Tensor) -> bool:
    return matrix.device.type == "cpu" and matrix.dtype in {torch.float32, torch.float64}


def _has_few_columns(matrix: Tensor) -> bool:
    """One, or a few in a type of which products are not summed in another."""
    return 1 <= matrix.shape[1] <= (_FEW if _is_summed_as_it_is(matrix) else 1)


class _Rewriter(ABC):
    """Puts other operations in the place of products."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._varying: set[fx.Node] = set()

    def run(self) -> None:
        for node in list(self._graph.nodes):
            if node.op == "placeholder" or not self._varying.isdisjoint(node.all_input_nodes):
                self._varying.add(node)
            with self._graph.inserting_before(node):
                new = self._rewritten(node)
            if new is not node:
                node.replace_all_uses_with(new)
                self._varying |= {new} if node in self._varying else set()

    @abstractmethod
    def _rewritten(self, node: Any) -> Any:
        """What takes the place of a node, or the node itself."""

    def _multiplied(self, value: Tensor, one: fx.Node, two: fx.Node) -> fx.Node:
        """A sum of products of one column with one row each, if they are few."""
        if not _has_few_columns(one.meta["val"]):
            return self._call(value, _aten.mm.default, one, two)
        columns, rows = (self._parts(part, axis) for part, axis in ((one, 1), (two, 0)))
        total, *terms = (
            self._call(value, _aten.mul.Tensor, column, row)
            for column, row in zip(columns, rows, strict=True)
        )
        for term in terms:
            total = self._call(value, _aten.add.Tensor, total, term)
        return total

    def _parts(self, matrix: fx.Node, axis: int) -> list[fx.Node]:
        """Its columns, or its rows, each as a matrix."""
        values = matrix.meta["val"].split(1, axis)
        if len(values) == 1:
            return [matrix]
        places = ((axis, index, index + 1) for index in range(len(values)))
        return [
            self._call(value, _aten.slice.Tensor, matrix, *place)
            for value, place in zip(values, places, strict=True)
        ]

    def _transposed(self, node: fx.Node) -> fx.Node:
        return self._call(node.meta["val"].mT, _aten.t.default, node)

    def _call(self, value: Tensor, operation: Any, *args: Any) -> fx.Node:
        node = self._graph.call_function(operation, args)
        node.meta["val"] = value
        return node


class _Turner(_Rewriter):
    def _rewritten(self, node: Any) -> Any:
        value = node.meta.get("val")
        if not all(map(_is_known, (node, *node.all_input_nodes))):
            return node
        if node.target is _aten.view.default:
            return self._call(value, _aten.reshape.default, *node.args)
        if node.target is _aten.mm.default:
            return self._product(value, *node.args)
        if node.target is _aten.addmm.default and not node.kwargs:
            return self._with_bias(value, *node.args)
        return node

    def _with_bias(self, value: Tensor, bias: fx.Node, one: fx.Node, two: fx.Node) -> fx.Node:
        """The difference of product and -bias: the compiler would undo a sum of the two."""
        negative = self._call(bias.meta["val"], _aten.neg.default, bias)
        return self._call(value, _aten.sub.Tensor, self._product(value, one, two), negative)

    def _product(self, value: Tensor, one: fx.Node, two: fx.Node) -> fx.Node:
        if two in self._varying:
            return self._multiplied(value, one, two)
        factors = map(self._transposed, (two, one))
        return self._transposed(self._multiplied(value.mT, *factors))


class _ThinProducts(_Rewriter):
    def _rewritten(self, node: Any) -> Any:
        value = node.meta.get("val")
        if not all(map(_is_known, (node, *node.all_input_nodes))) or node.kwargs:
            return node
        if node.target is _aten.mm.default:
            return self._thin(node, *node.args)
        if node.target is _aten.addmm.default and _is_summed_as_it_is(value):
            bias, *factors = node.args
            total = self._thin(node, *factors)
            return node if total is node else self._call(value, _aten.add.Tensor, total, bias)
        return node

    def _thin(self, node: fx.Node, one: fx.Node, two: fx.Node) -> fx.Node:
        """The product of the two, or the node itself if that is to stay."""
        value = node.meta["val"]
        if _has_few_columns(one.meta["val"]):
            return self._multiplied(value, one, two)
        if not (_has_one_column(two.meta["val"]) and one.meta["val"].is_contiguous()):
            return node
        terms = self._call(one.meta["val"], _aten.mul.Tensor, one, self._transposed(two))
        keepdim = True
        return self._call(value, _aten.sum.dim_IntList, terms, [1], keepdim)
