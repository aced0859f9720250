"""Matrix products of chains with data, written with chains innermost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten


def turn_products(graph: fx.Graph) -> None:
    """Write products ``chains @ data`` as transposes of ``data.mT @ chains.mT``.

    Their numbers then lie ``(features, chains)``, so that what comes next loops over chains. A
    bias is added afterwards, which takes no loop of its own when it is compiled, and a product
    of one column with one row is a multiplication. The graph must have no operations in place.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> weight, bias, x = torch.ones(2, 3), torch.ones(2), torch.ones(4, 3)
    >>> graph = make_fx(lambda x: torch.addmm(bias, x, weight.mT))(x).graph
    >>> turn_products(graph)
    >>> [node.name for node in graph.nodes if node.op == "call_function"]
    ['transpose', 't_default', 't_default_1', 'mm_default', 't_default_2', 'add_tensor']
    """
    if any(node.target is _aten.as_strided.default for node in graph.nodes):
        return  # it looks at memory, whose order is about to change
    _Turner(graph).run()
    graph.eliminate_dead_code()


class _Turner:
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

    def _rewritten(self, node: Any) -> Any:
        value = node.meta.get("val")
        if node.target is _aten.view.default:
            return self._call(value, _aten.reshape.default, *node.args)
        if node.target is _aten.mm.default:
            return self._product(value, *node.args)
        if node.target is _aten.addmm.default and not node.kwargs:
            bias, *factors = node.args
            return self._call(value, _aten.add.Tensor, self._product(value, *factors), bias)
        return node

    def _product(self, value: Tensor, one: fx.Node, two: fx.Node) -> fx.Node:
        if one.meta["val"].shape[1] == 1:
            return self._call(value, _aten.mul.Tensor, one, two)
        if two in self._varying:
            return self._call(value, _aten.mm.default, one, two)
        factors = map(self._transposed, (two, one))
        return self._transposed(self._call(value.mT, _aten.mm.default, *factors))

    def _transposed(self, node: fx.Node) -> fx.Node:
        return self._call(node.meta["val"].mT, _aten.t.default, node)

    def _call(self, value: Tensor, operation: Any, *args: Any) -> fx.Node:
        node = self._graph.call_function(operation, args)
        node.meta["val"] = value
        return node
