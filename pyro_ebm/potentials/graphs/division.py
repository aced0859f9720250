"""Divide a recorded graph into what its input changes and all the rest."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyro_ebm.potentials.graphs.aliasing import Aliasing, is_view, separate_results
from pyro_ebm.potentials.graphs.direct import call_directly
from pyro_ebm.potentials.graphs.recording import Recording


def divide(recording: Recording, watched: Iterable[Any]) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Two graphs: one of the input and of the results of the other, and this other."""
    moving = _Division(recording, watched).moving()
    nodes = list(recording.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    passed = [n for n in nodes if n not in moving and not moving.isdisjoint(n.users)]
    changing = fx.Graph()
    copies = {node: changing.placeholder(node.name) for node in [*inputs, *passed]}
    for node in nodes:
        if node in moving and node not in copies:
            copies[node] = changing.node_copy(node, copies.__getitem__)
    separate_results(changing)
    call_directly(changing)
    rest, copies = fx.Graph(), {}
    for node in nodes:
        if node not in moving:
            copies[node] = rest.node_copy(node, copies.__getitem__)
    rest.output(tuple(copies[node] for node in passed))
    rest.eliminate_dead_code()
    return fx.GraphModule({}, changing), fx.GraphModule(recording.constants, rest)


class _Division:
    """Which nodes have to run for each input.

    They are those that depend on it or on tensors that change unnoticed, and those whose memory
    does not hold the same whenever they look.
    """

    def __init__(self, recording: Recording, watched: Iterable[Any]) -> None:
        self._recording = recording
        self._nodes = list(recording.graph.nodes)
        self._order = {node: index for index, node in enumerate(self._nodes)}
        self._aliasing = Aliasing(recording)
        self._moving = {n for n in self._nodes if n.op in ("placeholder", "output")}
        constants = [node for node in self._nodes if node.op == "get_attr"]
        trusted = {id(tensor) for tensor in _trusted(watched)}
        self._untrusted = {node for node in constants if not self._is_trusted(node, trusted)}
        self._unsteady = {s for node in constants for s in recording.storages[node]}
        self._unsteady &= self._aliasing.writers.keys()

    def moving(self) -> set[fx.Node]:
        """All of them: each pass may find more."""
        if not self._recording.is_regular:
            return {node for node in self._nodes if node.op != "get_attr"}
        count = -1
        while count != len(self._moving) + len(self._unsteady):
            count = len(self._moving) + len(self._unsteady)
            for node in self._nodes:
                self._look_at(node)
            self._unsteady |= {s for s in self._aliasing.writers if not self._is_steady(s)}
        return self._moving

    def _is_trusted(self, node: fx.Node, trusted: set[int]) -> bool:
        is_ours = node.target in self._recording.literals
        return is_ours or id(self._recording.constants[str(node.target)]) in trusted

    def _look_at(self, node: fx.Node) -> None:
        if node.op != "call_function":
            return
        inputs = node.all_input_nodes
        sees_untrusted = not self._untrusted.isdisjoint(inputs)
        if not (
            self._moving.isdisjoint(inputs)
            and self._unsteady.isdisjoint(self._aliasing.touched(node))
            and (not sees_untrusted or is_view(node) or node.target is operator.getitem)
        ):
            self._moving.add(node)
        elif sees_untrusted:
            self._untrusted.add(node)

    def _is_steady(self, storage: int) -> bool:
        """Whether all is written before anything that runs for each input looks."""
        writers = self._aliasing.writers[storage]
        last = max(self._order[node] for node in writers)
        users = (n for n in self._nodes[: last + 1] if storage in self._aliasing.touched(n))
        return self._moving.isdisjoint(users)


def _trusted(watched: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors whose changes are counted: parameters are changed through ``.data`` as well."""
    tensors = [item for item in watched if isinstance(item, Tensor)]
    unnoticed = [tensor for tensor in tensors if _changes_unnoticed(tensor)]
    memory = {tensor.untyped_storage()._cdata for tensor in unnoticed if _is_strided(tensor)}
    for tensor in tensors:
        if _is_strided(tensor) and tensor.untyped_storage()._cdata not in memory:
            yield tensor


def _changes_unnoticed(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or tensor.requires_grad or tensor.is_inference()


def _is_strided(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided
