"""Replace operations of a recorded graph by faster ones with the same results."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import fx

from pyro_ebm.potentials.graphs.aliasing import eliminate_unread
from pyro_ebm.potentials.graphs.editing import Editor
from pyro_ebm.potentials.graphs.recording import Recording

_aten = torch.ops.aten

_ONE_MINUS = (_aten.sub_.Tensor, (_aten.fill_.Scalar, (_aten.empty_like.default, "s"), 1.0), "s")

_SILU_BACKWARD = (
    _aten.mul.Tensor,
    (_aten.mul.Tensor, "g", "s"),
    (_aten.add.Scalar, (_aten.mul.Tensor, "x", _ONE_MINUS), 1.0),
)
"""With ``s = sigmoid(x)``: an operation with its operands, of which strings are names."""


def substitute(recording: Recording) -> None:
    """Replace sums of padded tensors and operations with an index.

    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> x, rows = torch.ones(2, 3), torch.tensor([0, 2, 2])
    >>> with OperationRecorder(x) as recorder:
    ...     y = x[:, rows]
    >>> recording = recorder.recording((y,))
    >>> substitute(recording)
    >>> [str(node.target) for node in recording.graph.nodes][-2]
    'aten.index_select.default'
    """
    substituter = _Substituter(recording)
    for node in reversed(recording.graph.nodes):
        if node in recording.tensors and not substituter.is_written(node):
            substituter.substitute(node)
    eliminate_unread(recording.graph)


class _Part(NamedTuple):
    """A tensor with zeros around it, along one axis."""

    start: int
    stop: int
    node: Any


class _Substituter(Editor):
    def substitute(self, node: Any) -> None:
        new = None
        if _is_sum(node) and not (len(node.users) == 1 and _is_sum(next(iter(node.users)))):
            new = self._joined(node)
        elif node.target is _aten.index.Tensor:
            new = self._selected(node)
        elif node.target is _aten.index_put.default:
            new = self._added(node)
        elif node.target is _aten.mul.Tensor:
            new = self._silu_backward(node)
        if new is not None and self.can_replace(node, new):
            node.replace_all_uses_with(new)

    def _joined(self, node: Any) -> fx.Node | None:
        """Side by side instead of the sum of parts with zeros around them."""
        terms = self._terms(node)
        padded: list[Any] = [term for term in terms if term.target is _aten.slice_backward.default]
        others = [t for t in terms if t.target is not _aten.slice_backward.default]
        places = {(tuple(p.args[1]), *p.args[2:3], *p.args[5:]) for p in padded}
        if len(padded) < 2 or len(others) > 1 or len(places) != 1:
            return None
        if any(self.is_written(term.args[0]) for term in padded):
            return None
        sizes, dim, step = next(iter(places))
        parts = sorted((_part(term, sizes[dim]) for term in padded), key=itemgetter(0, 1))
        stops = [0, *(part.stop for part in parts)]
        starts = [*(part.start for part in parts), sizes[dim]]
        if step != 1 or any(a > b for a, b in zip(stops, starts, strict=True)):
            return None
        pieces: list[fx.Node] = []
        for index, stop in enumerate(stops):
            if stop < starts[index]:
                pieces.append(self._zeros(node, sizes, dim, starts[index] - stop))
            pieces += [part.node for part in parts[index : index + 1]]
        joined = self.insert(node, _aten.cat.default, pieces, dim)
        return self.insert(node, _aten.add.Tensor, others[0], joined) if others else joined

    def _terms(self, node: Any) -> list[Any]:
        """Of a sum, through sums that nothing else uses."""
        terms: list[Any] = []
        for part in node.args:
            is_ours = len(part.users) == 1 and not self.is_written(part)
            terms += self._terms(part) if _is_sum(part) and is_ours else [part]
        return terms

    def _silu_backward(self, node: Any) -> fx.Node | None:
        """One operation for the seven that the batched gradient of SiLU is made of."""
        found: dict[str, Any] = {}
        if not _matches(_SILU_BACKWARD, node, found):
            return None
        g, x, s = (found[name] for name in "gxs")
        if s.target is not _aten.sigmoid.default or s.args != (x,) or self.is_written(x):
            return None
        if self.is_written(g) or self.tensors[g].shape != self.tensors[x].shape:
            return None
        return self.insert(node, _aten.silu_backward.default, g, x)

    def _zeros(self, node: Any, sizes: tuple[int, ...], dim: int, width: int) -> fx.Node:
        shape = [*sizes[:dim], width, *sizes[dim + 1 :]]
        like = self.tensors[node]
        return self.insert(node, _aten.full.default, shape, 0, dtype=like.dtype, device=like.device)

    def _selected(self, node: Any) -> fx.Node | None:
        source, indices = node.args
        found = self._only_index(source, indices)
        if found is None:
            return None
        return self.insert(
            node, _aten.index_select.default, source, found[0], self._wrapped(node, *found)
        )

    def _added(self, node: Any) -> fx.Node | None:
        """On a CPU: elsewhere the faster operation adds in any order."""
        source, indices, values = node.args[:3]
        found = self._only_index(source, indices)
        is_sum = node.args[3:] == (True,) and self.tensors[node].device.type == "cpu"
        if found is None or not is_sum:
            return None
        dim, index = found
        wanted = list(self.tensors[source].shape)
        wanted[dim] = self.tensors[index].numel()
        if list(self.tensors[values].shape) != wanted:
            return None
        wrapped = self._wrapped(node, dim, index)
        return self.insert(node, _aten.index_add.default, source, dim, wrapped, values)

    def _only_index(self, source: Any, indices: Any) -> tuple[int, fx.Node] | None:
        given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
        if len(given) != 1:
            return None
        like = self.tensors[given[0][1]]
        # The faster operations refuse numbers from another device.
        is_there = like.device == self.tensors[source].device
        return given[0] if is_there and like.dtype == torch.int64 and like.ndim == 1 else None

    def _wrapped(self, node: Any, dim: int, index: fx.Node) -> fx.Node:
        """Negative numbers count from the end, but not for the faster operations."""
        size = self.tensors[node.args[0]].shape[dim]
        is_negative = self.insert(node, _aten.lt.Scalar, index, 0)
        from_end = self.insert(node, _aten.add.Tensor, index, size)
        return self.insert(node, _aten.where.self, is_negative, from_end, index)


def _is_sum(node: fx.Node) -> bool:
    are_tensors = all(isinstance(part, fx.Node) for part in node.args)
    return node.target is _aten.add.Tensor and are_tensors and not node.kwargs


def _part(term: Any, size: int) -> _Part:
    source, _, _, start, stop = term.args[:5]
    start, stop = (place + size if place < 0 else min(place, size) for place in (start, stop))
    return _Part(start, stop, source)


def _matches(pattern: Any, value: Any, found: dict[str, Any]) -> bool:
    if isinstance(pattern, str):
        return found.setdefault(pattern, value) is value
    if not isinstance(pattern, tuple):
        return bool(pattern == value)
    if not isinstance(value, fx.Node) or value.target is not pattern[0]:
        return False
    return all(_matches(p, v, found) for p, v in zip(pattern[1:], value.args, strict=False))
