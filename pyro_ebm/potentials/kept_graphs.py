"""Keep recorded graphs as long as what they were recorded from stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from pyro_ebm.core.positions import is_wide, laid_out
from pyro_ebm.potentials.graphs.tracing import TracedFunction, ValueAndGrad
from pyro_ebm.potentials.holdings import same


class _Graph(NamedTuple):
    """A gradient function and what it was made for."""

    function: ValueAndGrad
    held: tuple[Any, ...]
    versions: tuple[int, ...] | None
    """Versions of the held tensors if the graph contains numbers that were read from tensors."""

    def is_fresh(self, held: tuple[Any, ...]) -> bool:
        return same(held, self.held) and self.versions in (None, versions(held))


class KeptGraphs:
    """Value and gradient by a graph for each shape, type and device of positions ``(C, dim)``.

    Args:
        record: Makes a graph at these positions.
        held: Returns the tensors and numbers in use now, whose replacement makes graphs stale.
    """

    def __init__(
        self, record: Callable[[Tensor], TracedFunction], held: Callable[[], tuple[Any, ...]]
    ) -> None:
        self._record, self._held = record, held
        self._graphs: dict[Any, _Graph] = {}

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        key = (rows.shape, rows.dtype, rows.device)
        graph = self._graphs.get(key)
        if graph is None or not graph.is_fresh(self._held()):
            function, reads_numbers = self._record(rows)
            held = self._held()
            graph = _Graph(function, held, versions(held) if reads_numbers else None)
            self._graphs[key] = graph
        value, grad = graph.function(rows)
        # Kernels combine the two, which takes twice as long where they lie differently.
        return value, laid_out(grad) if is_wide(rows) or not rows.is_contiguous() else grad

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_graphs": {}}


def versions(held: tuple[Any, ...]) -> tuple[int, ...]:
    """How often each of the tensors has been changed in place, as torch counts it."""
    tensors = (item for item in held if isinstance(item, Tensor) and not item.is_inference())
    return tuple(tensor._version for tensor in tensors)
