"""Leave out operations of a recorded graph that change nothing, or that were done before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pyro_ebm.potentials.graphs.aliasing import is_view
from pyro_ebm.potentials.graphs.editing import Editor, steps
from pyro_ebm.potentials.graphs.recording import Recording

_aten = torch.ops.aten

_NEUTRAL: dict[Any, tuple[int, bool]] = {
    _aten.mul.Tensor: (1, True),
    _aten.mul.Scalar: (1, False),
    _aten.div.Tensor: (1, False),
    _aten.div.Scalar: (1, False),
    _aten.pow.Tensor_Scalar: (1, False),
    _aten.add.Tensor: (0, True),
    _aten.add.Scalar: (0, False),
    _aten.sub.Tensor: (0, False),
    _aten.sub.Scalar: (0, False),
}
"""The second operand that leaves the first unchanged, and whether the operands commute."""

_COPIES = {_aten.clone.default, _aten._to_copy.default}

_RESHAPES = {
    _aten.view.default,
    _aten.unsqueeze.default,
    _aten.squeeze.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.expand.default,
    _aten.sum.dim_IntList,
}
"""Operations that keep all numbers in their order if they keep their count."""

_FILLED: dict[Any, Any] = {
    _aten.zeros.default: lambda node: 0,
    _aten.ones.default: lambda node: 1,
    _aten.zeros_like.default: lambda node: 0,
    _aten.ones_like.default: lambda node: 1,
    _aten.full_like.default: lambda node: node.args[1],
    _aten.new_zeros.default: lambda node: 0,
    _aten.new_ones.default: lambda node: 1,
    _aten.new_full.default: lambda node: node.args[2],
}
"""Operations that fill a tensor with a number, whatever those of their operand are."""


def simplify(recording: Recording) -> None:
    """Simplify the graph of a recording, which computes the same as before.

    Equal are all numbers but the sign of a zero. What operations in place touch is left alone.

    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> x = torch.ones(2)
    >>> with OperationRecorder(x) as recorder:
    ...     y = -(-(x * 1.0).exp()) + x.exp()
    >>> recording = recorder.recording((y,))
    >>> simplify(recording)
    >>> [node.name for node in recording.graph.nodes]
    ['q', 'exp_default', 'add_tensor', 'output']
    """
    _Simplifier(recording).run()
    recording.graph.eliminate_dead_code()


class _Simplifier(Editor):
    """One pass from the first operation to the last."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        self._literals: set[fx.Node] = set()
        self._literal_names = recording.literals
        self._earlier: dict[Any, fx.Node] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op in ("placeholder", "output") or self.is_written(node):
                continue
            if node in self.tensors:
                self._fill(node)
                self._negate(node)
                self._reshape(node)
            same = self._unchanged_operand(node) or self._repeated(node)
            if same is None:
                self._note_literal(node)
            else:
                node.replace_all_uses_with(same)

    def _note_literal(self, node: Any) -> None:
        """Whether a node has the same numbers whatever the input and the held tensors."""
        if node.op == "get_attr":
            is_literal = node.target in self._literal_names
        else:
            is_literal = self._literals.issuperset(node.all_input_nodes)
        if is_literal:
            self._literals.add(node)

    def _repeated(self, node: Any) -> fx.Node | None:
        first = self._earlier.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
        return None if first is node else first

    def _fill(self, node: Any) -> None:
        tensor = self.tensors[node]
        number = self._number(node)
        if number is None or not (tensor.is_contiguous() or is_view(node)):
            return
        node.target, node.args = _aten.full.default, (list(tensor.shape), number)
        node.kwargs = {"dtype": tensor.dtype, "device": tensor.device}
        self.tensors[node] = tensor.contiguous()

    def _number(self, node: Any) -> Any:
        """With what a node is filled, if with one number."""
        if node.target in _FILLED:
            return _FILLED[node.target](node)
        is_negated = node.target is _aten.neg.default
        if not (is_negated or is_view(node)):
            return None
        source = node.args[0]
        if source.target is not _aten.full.default or self.is_written(source):
            return None
        tensor = self.tensors[node]
        if tensor.dtype != self.tensors[source].dtype or not tensor.is_floating_point():
            return None
        return -source.args[1] if is_negated else source.args[1]

    def _negate(self, node: Any) -> None:
        if node.target is _aten.mul.Tensor:
            for operand, other in (node.args, node.args[::-1]):
                if self._is(other, -1) and self.can_replace(node, operand):
                    node.target, node.args = _aten.neg.default, (operand,)
                    return

    def _reshape(self, node: Any) -> None:
        """Make a chain of changes of shape one."""
        source = node
        while self._is_reshape(source):
            source = source.args[0]
        if source is node:
            return
        shape = self.tensors[node].shape
        if _steps_of_view(self.tensors[source], shape) == steps(self.tensors[node]):
            node.target, node.args, node.kwargs = _aten.view.default, (source, list(shape)), {}

    def _is_reshape(self, node: Any) -> bool:
        if node.target not in _RESHAPES or self.is_written(node):
            return False
        result, source = self.tensors[node], self.tensors[node.args[0]]
        return result.numel() == source.numel() > 0 and result.dtype == source.dtype

    def _unchanged_operand(self, node: Any) -> fx.Node | None:
        if node not in self.tensors:
            return None
        candidates = [*self._kept_by_arithmetic(node), *self._seen_through(node)]
        return next((c for c in candidates if self.can_replace(node, c)), None)

    def _kept_by_arithmetic(self, node: Any) -> list[Any]:
        if node.target in _COPIES:
            return [node.args[0]]
        if node.target is _aten.neg.default:
            inner = node.args[0]
            return [inner.args[0]] if inner.target is _aten.neg.default else []
        if node.target not in _NEUTRAL or node.kwargs:
            return []
        number, commutes = _NEUTRAL[node.target]
        pairs = (node.args, node.args[::-1])[: 1 + commutes]
        return [operand for operand, other in pairs if self._is(other, number)]

    def _seen_through(self, node: Any) -> list[Any]:
        """What a view is a view of, where it shows the same memory in the same way."""
        if not is_view(node):
            return []
        values: Any = fx.map_arg((node.args, node.kwargs), self.tensors.__getitem__)
        view = node.target(*values[0], **values[1])
        found: list[Any] = []
        source = node
        while is_view(source) and isinstance(source.args[0], fx.Node):
            source = source.args[0]
            if source in self.tensors and _shows_the_same(view, self.tensors[source]):
                found.append(source)
        return found

    def _is(self, argument: Any, number: int) -> bool:
        """Whether an argument is this number whatever happens."""
        if isinstance(argument, fx.Node):
            return argument in self._literals and bool((self.tensors[argument] == number).all())
        return type(argument) in (int, float) and argument == number


def _steps_of_view(tensor: Tensor, shape: torch.Size) -> list[int] | None:
    try:
        return steps(tensor.view(shape))
    except RuntimeError:
        return None


def _shows_the_same(view: Tensor, other: Tensor) -> bool:
    return (
        view.untyped_storage()._cdata == other.untyped_storage()._cdata
        and view.storage_offset() == other.storage_offset()
        and steps(view) == steps(other)
    )
