"""Which nodes of a recorded graph look into the same memory, and which write into it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from pyro_ebm.potentials.graphs.recording import Recording

_CLONE = torch.ops.aten.clone.default


class Aliasing:
    """The memory of a recorded graph.

    >>> import torch
    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> x = torch.ones(2)
    >>> with OperationRecorder(x) as recorder:
    ...     y = (2.0 * x).add_(1.0) + x
    >>> recording = recorder.recording((y,))
    >>> [Aliasing(recording).is_written(node) for node in recording.graph.nodes]
    [False, True, True, True, False]
    """

    def __init__(self, recording: Recording) -> None:
        self._storages = recording.storages
        self.writers: dict[int, list[fx.Node]] = {}
        for node in recording.graph.nodes:
            for target in written(node):
                for storage in self._storages[target]:
                    self.writers.setdefault(storage, []).append(node)

    def touched(self, node: fx.Node) -> frozenset[int]:
        """Memory that a node reads, writes or returns."""
        return frozenset().union(*self._memories(node))

    def is_written(self, node: fx.Node) -> bool:
        """Whether operations in place change what a node reads or returns."""
        if not self.writers:
            return False
        return any(not self.writers.keys().isdisjoint(memory) for memory in self._memories(node))

    def _memories(self, node: fx.Node) -> list[frozenset[int]]:
        return [self._storages.get(part, frozenset()) for part in (node, *node.all_input_nodes)]


def written(node: fx.Node) -> list[fx.Node]:
    """The arguments that an operation changes in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    values: dict[str, Any] = {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)}
    values |= node.kwargs
    found: list[fx.Node] = []
    for argument in schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            fx.map_arg(values.get(argument.name), found.append)
    return found


def is_view(node: fx.Node) -> bool:
    """Whether an operation only returns another view of what it is given."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable or not schema.returns:
        return False
    return all(result.alias_info is not None for result in schema.returns)


def eliminate_unread(graph: fx.Graph) -> None:
    """Drop dead code, and writes into memory that nothing reads."""
    graph.eliminate_dead_code()
    for node in reversed(list(graph.nodes)):
        targets = written(node)
        if targets and not node.users and all(_is_unread(target) for target in targets):
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _is_unread(target: fx.Node) -> bool:
    """Whether memory was made for the one operation in place that is done on it."""
    return target.op == "call_function" and len(target.users) == 1 and not is_view(target)


def separate_results(graph: fx.Graph) -> None:
    """Copy results that share memory with one another or with what the graph is given."""
    output: Any = next(iter(reversed(graph.nodes)))
    taken: set[fx.Node] = set()
    results = []
    for result in output.args[0]:
        root = _root(result)
        is_shared = root in taken or root.op != "call_function"
        with graph.inserting_before(output):
            results.append(graph.call_function(_CLONE, (result,)) if is_shared else result)
        taken.add(root)
    output.args = (tuple(results),)


def _root(node: fx.Node) -> fx.Node:
    """The node whose memory a node shows."""
    source: Any = node
    while True:
        if source.target is operator.getitem and is_view(source.args[0]):
            source = source.args[0].args[0]
        elif is_view(source):
            source = source.args[0]
        elif written(source):
            source = written(source)[0]
        else:
            return source  # type: ignore[no-any-return]
