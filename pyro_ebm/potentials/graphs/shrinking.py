"""Compute on few numbers what a recorded graph computes on many copies of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from pyro_ebm.potentials.graphs.editing import Editor, is_pointwise
from pyro_ebm.potentials.graphs.recording import Recording

_aten = torch.ops.aten


def shrink(recording: Recording) -> None:
    """Expand the results of pointwise operations instead of their operands.

    The scale of a plate is one number in each chain, but its logarithm was taken, and its square
    differentiated, once for every row of data.

    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> x = torch.ones(2, 1)
    >>> with OperationRecorder(x) as recorder:
    ...     y = (x.expand(2, 9).log() * 2.0).sum(1)
    >>> recording = recorder.recording((y,))
    >>> shrink(recording)
    >>> recording.graph.eliminate_dead_code()
    True
    >>> [node.name for node in recording.graph.nodes]
    ['q', 'log_default_1', 'mul_tensor_1', 'expand_default_2', 'sum_dim_int_list', 'output']
    """
    shrinker = _Shrinker(recording)
    for node in list(recording.graph.nodes):
        if is_pointwise(node) and node in recording.tensors and not shrinker.is_written(node):
            shrinker.shrink(node)


class _Shrinker(Editor):
    def shrink(self, node: Any) -> None:
        shape = self.tensors[node].shape
        small: Any = fx.map_arg((node.args, node.kwargs), lambda arg: self._small(arg, node))
        parts = [self.tensors[n].shape for n in _nodes_in(small)]
        if not parts or small[0] == node.args:
            return
        new = self.insert(node, node.target, *small[0], **small[1])
        if torch.broadcast_shapes(*parts) != shape:
            new = self.insert(node, _aten.expand.default, new, list(shape))
        if self.can_replace(node, new):
            node.replace_all_uses_with(new)

    def _small(self, argument: Any, node: Any) -> Any:
        """What an operand is expanded from, with as many axes, so that it broadcasts alike."""
        ndim = self.tensors[argument].ndim
        if self.is_written(argument):
            return argument
        if argument.target is _aten.expand.default:
            source: Any = argument.args[0]
            return source if self.tensors[source].ndim == ndim else argument
        if argument.target is _aten.full.default and self.tensors[argument].numel() > 1:
            return self.insert(
                node, _aten.full.default, [1] * ndim, argument.args[1], **argument.kwargs
            )
        return argument


def _nodes_in(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(arguments, found.append)
    return found
