"""Put the coordinates of recorded gradients together column by column."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from pyro_ebm.potentials.graphs.editing import Editor
from pyro_ebm.potentials.graphs.recording import Recording

_aten = torch.ops.aten


def lay_out_columns(recording: Recording) -> None:
    """Concatenate the parts ``(C, n)`` of results so that neighbouring chains stay neighbours.

    For chains that lie innermost. A gradient that is put together row by row would be the one
    operand with another layout, and loops that touch it would not be vectorised.

    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> x = torch.ones(5, 1)
    >>> with OperationRecorder(x) as recorder:
    ...     y = torch.cat([x, 2 * x], dim=1)
    >>> recording = recorder.recording((y,))
    >>> lay_out_columns(recording)
    >>> recording.graph_module()(x)[0].stride()
    (1, 5)
    """
    editor = _Columns(recording)
    for node in list(recording.graph.nodes):
        if node.target is _aten.cat.default and node in recording.tensors:
            editor.lay_out(node)
    recording.graph.eliminate_dead_code()


class _Columns(Editor):
    def lay_out(self, node: Any) -> None:
        parts, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
        is_result = all(user.op == "output" for user in node.users)
        is_matrix = all(self.tensors[part].ndim == 2 for part in parts)
        if axis not in {1, -1} or not (is_result and is_matrix):
            return
        columns = [self._transposed(node, part) for part in parts]
        rows = self.insert(node, _aten.cat.default, columns, 0)
        node.replace_all_uses_with(self._transposed(node, rows))

    def _transposed(self, before: fx.Node, matrix: fx.Node) -> fx.Node:
        return self.insert(before, _aten.permute.default, matrix, [1, 0])
