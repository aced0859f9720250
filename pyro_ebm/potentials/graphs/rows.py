"""Keep one row of the constants of a recorded graph that are the same for all chains."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from pyro_ebm.potentials.graphs.editing import Editor, is_pointwise
from pyro_ebm.potentials.graphs.recording import Recording

_aten = torch.ops.aten


def share_rows(recording: Recording, num_chains: int) -> None:
    """Expand one row where a constant holds equal rows, one for each chain.

    Differentiating a batch makes such constants of what the data alone determine; one row stays
    in the cache and has no layout of its own.

    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> x, data = torch.ones(3, 2), torch.tensor([[0.0, 1.0]]).repeat(3, 1)
    >>> with OperationRecorder(x) as recorder:
    ...     y = x * data
    >>> recording = recorder.recording((y,))
    >>> share_rows(recording, num_chains=3)
    >>> [node.name for node in recording.graph.nodes]
    ['q', 'constant_0', 'slice_tensor', 'expand_default', 'mul_tensor', 'output']
    """
    editor = _Rows(recording)
    for node in list(recording.graph.nodes):
        if node.op == "get_attr" and _has_equal_rows(recording.tensors[node], num_chains):
            editor.share(node)
    recording.graph.eliminate_dead_code()


class _Rows(Editor):
    def share(self, node: fx.Node) -> None:
        users = list(node.users)
        if self.is_written(node) or not all(map(is_pointwise, users)):
            return
        row = self.insert(node.next, _aten.slice.Tensor, node, 0, 0, 1)
        shape = list(self.tensors[node].shape)
        rows = self.insert(row.next, _aten.expand.default, row, shape)
        for user in users:
            user.replace_input_with(node, rows)


def _has_equal_rows(constant: Tensor, num_chains: int) -> bool:
    is_batch = constant.ndim > 1 and len(constant) == num_chains > 1
    return is_batch and constant.is_contiguous() and bool((constant == constant[:1]).all())
