"""Merge arithmetic with constants in a recorded graph, so that they meet once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from pyro_ebm.potentials.graphs.editing import Editor
from pyro_ebm.potentials.graphs.recording import Recording

_aten = torch.ops.aten

_PRODUCTS = {_aten.mul.Tensor, _aten.div.Tensor}

_DIFFERENCES = {_aten.sub.Tensor, _aten.sub.Scalar}


def merge(recording: Recording) -> None:
    """Merge signs, powers of two and differences into constants.

    A log density is full of them: ``-x**2 / (2 * scale**2) - log(scale) - 0.9189``. Signs and
    powers of two are exact; a sum of two constants rounds once instead of twice.

    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> x, scale = torch.ones(2), torch.tensor([3.0, 4.0])
    >>> with OperationRecorder(x) as recorder:
    ...     y = -x.exp() / scale - scale.log() - 0.9
    >>> recording = recorder.recording((y,))
    >>> merge(recording)
    >>> [node.name for node in recording.graph.nodes if node.name[:3] in ("div", "sub")]
    ['div_tensor_1', 'sub_tensor_2']
    """
    merger = _Merger(recording)
    for node in list(recording.graph.nodes):
        if node.op == "call_function" and not merger.is_written(node):
            merger.merge(node)
    recording.graph.eliminate_dead_code()


class _Merger(Editor):
    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        self._moving: set[fx.Node] = set()
        for node in recording.graph.nodes:
            if node.op == "placeholder" or not self._moving.isdisjoint(node.all_input_nodes):
                self._moving.add(node)

    def merge(self, node: Any) -> None:
        new = None
        if node not in self._moving or node not in self.tensors or node.kwargs:
            return
        if node.target is _aten.neg.default:
            new = self._negated_product(node, node.args[0])
        elif node.target in _PRODUCTS:
            new = self._product_of_negated(node) or self._product_of_doubled(node)
        elif node.target in _DIFFERENCES:
            new = self._difference(node)
        elif node.target is _aten.sum.dim_IntList and len(node.args) == 2:
            new = self._sum(node)
        if new is not None and self.can_replace(node, new):
            self._moving.add(new)
            node.replace_all_uses_with(new)
            self.graph.erase_node(node)

    def _negated_product(self, node: Any, product: Any) -> fx.Node | None:
        """``-(x * c) = x * (-c)``, and the same for quotients."""
        if product.target not in _PRODUCTS or not self._is_only_here(product):
            return None
        first, second = product.args
        if self._is_constant(second):
            return self.insert(node, product.target, first, self._negative(node, second))
        if self._is_constant(first):
            return self.insert(node, product.target, self._negative(node, first), second)
        return None

    def _product_of_negated(self, node: Any) -> fx.Node | None:
        """``(-x) * c = x * (-c)``, and the same for quotients."""
        first, second = node.args
        if self._is(first, _aten.neg.default) and self._is_constant(second):
            return self.insert(node, node.target, first.args[0], self._negative(node, second))
        if self._is(second, _aten.neg.default) and self._is_constant(first):
            return self.insert(node, node.target, self._negative(node, first), second.args[0])
        return None

    def _product_of_doubled(self, node: Any) -> fx.Node | None:
        """``c * (x * 2) = (c * 2) * x``."""
        if node.target is not _aten.mul.Tensor:
            return None
        for constant, other in (node.args, node.args[::-1]):
            is_product = self._is(other, _aten.mul.Scalar) or self._is(other, _aten.mul.Tensor)
            if self._is_constant(constant) and is_product and _is_power_of_two(other.args[1]):
                factor = self.insert(node, _aten.mul.Scalar, constant, other.args[1])
                return self.insert(node, _aten.mul.Tensor, factor, other.args[0])
        return None

    def _difference(self, node: Any) -> fx.Node | None:
        """``x - c - d = x - (c + d)``."""
        inner, second = node.args
        if inner.target not in _DIFFERENCES or inner.kwargs or not self._is_only_here(inner):
            return None
        source, first = inner.args
        if not (self._is_constant(first) or self._is_constant(second)):
            return None
        if first in self._moving or second in self._moving:
            return None
        constant, other = (first, second) if isinstance(first, fx.Node) else (second, first)
        total = self.insert(node, _aten.add.Tensor, constant, other)
        return self.insert(node, _aten.sub.Tensor, source, total)

    def _sum(self, node: Any) -> fx.Node | None:
        """The sum over an axis of a sum over later axes."""
        inner = node.args[0]
        if not self._is(inner, _aten.sum.dim_IntList) or len(inner.args) != 2 or inner.kwargs:
            return None
        dims = [*node.args[1], *inner.args[1]]
        if min(dims) < 0 or max(node.args[1]) >= min(inner.args[1]):
            return None
        return self.insert(node, _aten.sum.dim_IntList, inner.args[0], dims)

    def _negative(self, node: Any, constant: Any) -> fx.Node:
        return self.insert(node, _aten.neg.default, constant)

    def _is(self, argument: Any, operation: Any) -> bool:
        is_node = isinstance(argument, fx.Node) and argument.target is operation
        return is_node and self._is_only_here(argument)

    def _is_only_here(self, node: Any) -> bool:
        return len(node.users) == 1 and node in self._moving and not self.is_written(node)

    def _is_constant(self, argument: Any) -> bool:
        if not isinstance(argument, fx.Node) or argument in self._moving:
            return False
        return self.tensors[argument].is_floating_point() and not self.is_written(argument)


def _is_power_of_two(number: Any) -> bool:
    return isinstance(number, (int, float)) and abs(math.frexp(number)[0]) == 0.5
