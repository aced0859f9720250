"""Put operations into a recorded graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pyro_ebm.potentials.graphs.aliasing import Aliasing
from pyro_ebm.potentials.graphs.recording import Recording

_UNMARKED = {torch.ops.aten.softplus_backward.default}
"""Pointwise operations that torch does not mark as such."""

_REDUCTIONS = {torch.ops.aten.sum.dim_IntList, torch.ops.aten.sum.default}


class Editor:
    """Insert and replace nodes, and know what their results look like.

    Nodes for which ``is_written`` holds must be left alone.
    """

    def __init__(self, recording: Recording) -> None:
        self.graph, self.tensors = recording.graph, recording.tensors
        self.is_written = Aliasing(recording).is_written

    def insert(self, before: fx.Node, operation: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node, whose result is computed from those of its arguments."""
        values: Any = fx.map_arg((args, kwargs), self.tensors.__getitem__)
        with self.graph.inserting_before(before):
            node = self.graph.call_function(operation, args, kwargs)
        self.tensors[node] = operation(*values[0], **values[1])
        return node

    def can_replace(self, node: fx.Node, other: Any) -> bool:
        """Whether all that uses a node may use another with the same numbers."""
        if other not in self.tensors or self.is_written(other):
            return False
        one, two = self.tensors[node], self.tensors[other]
        if _kind(one) != _kind(two):
            return False
        if steps(one) == steps(two):
            return True
        is_in_order = one.is_contiguous() and _is_in_order(two)
        return is_in_order and all(self._is_free(user, node, other) for user in node.users)

    def _is_free(self, user: Any, node: fx.Node, other: fx.Node) -> bool:
        """Whether the result of a node lies in memory as before if one operand lies otherwise."""
        if user.target in _REDUCTIONS:
            return True
        if not is_pointwise(user) or user not in self.tensors:
            return False
        swapped: Any = fx.map_arg((user.args, user.kwargs), lambda n: other if n is node else n)
        values: Any = fx.map_arg(swapped, self.tensors.__getitem__)
        return steps(user.target(*values[0], **values[1])) == steps(self.tensors[user])


def is_pointwise(node: fx.Node) -> bool:
    """Whether every number of the result is made of those in its place, and none is changed."""
    schema = getattr(node.target, "_schema", None)
    return node.target in _UNMARKED or (
        schema is not None and not schema.is_mutable and torch.Tag.pointwise in node.target.tags  # type: ignore[union-attr]  # an operation's
    )


def steps(tensor: Tensor) -> list[int]:
    """Strides, without those that mean nothing."""
    return [step for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, tensor.shape, tensor.is_conj(), tensor.is_neg()


def _is_in_order(tensor: Tensor) -> bool:
    """Whether pointwise operations make a contiguous tensor of it."""
    strides = [step for step in steps(tensor) if step > 0]
    return strides == sorted(strides, reverse=True)
