"""Many chains at once from code written for one: batched and traced, or honestly looped."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials.tracing import ValueAndGrad, batched, looped, trace, unvalidated


class ChainBatcher:
    """Apply functions of one position ``(dim,)`` to rows of positions ``(C, dim)``.

    Functions are batched with ``torch.func.vmap``. At the first that cannot be, one warning
    names the reason and from then on everything is looped over chains. Gradients are traced
    into flat graphs, kept for each shape, type, device and identity of ``parameters()``.

    Args:
        scalar: Potential energy of one position.
        parameters: Returns the tensors in use now, whose replacement makes graphs stale.
        name: What to call the function in messages.
        compiles: Whether graphs are handed to ``torch.compile``.
    """

    def __init__(
        self,
        scalar: Callable[[Tensor], Tensor],
        parameters: Callable[[], tuple[Any, ...]],
        name: str,
        *,
        compiles: bool = False,
    ) -> None:
        self.scalar, self.parameters, self.name, self.compiles = scalar, parameters, name, compiles
        self.is_batchable = True
        self._graphs: dict[Any, tuple[tuple[Any, ...], ValueAndGrad]] = {}

    def each(self, function: Callable[..., Any], rows: Any) -> Any:
        """Apply ``function`` to every row of a tensor, or of a dict of tensors."""
        with unvalidated():
            if self.is_batchable:
                try:
                    return vmap(function)(rows)
                except Exception as error:  # any failure to batch leads to the loop, which is exact
                    self._give_up_batching(error)
            return _loop(function, rows)

    def value_and_grad(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(C,)`` and gradients ``(C, dim)`` of ``scalar``."""
        key = (rows.shape, rows.dtype, rows.device)
        parameters = self.parameters()
        known = self._graphs.get(key)
        if known is None or not _same_objects(known[0], parameters):
            with unvalidated():
                function = self._gradient_function(rows)
            known = self._graphs[key] = (self.parameters(), function)
        return known[1](rows)

    def _gradient_function(self, rows: Tensor) -> ValueAndGrad:
        if self.is_batchable:
            try:
                function = trace(batched(self.scalar), rows, compiles=self.compiles)
                self._check_graph(function, rows)
                return function
            except Exception as error:  # any failure to batch leads to the loop, which is exact
                self._give_up_batching(error)
        return looped(self.scalar)

    def _check_graph(self, function: ValueAndGrad, rows: Tensor) -> None:
        """A graph that has frozen a branch of the first chain would be wrong for the last."""
        values = function(rows)[0]
        for row in (0, -1):
            truth = self.scalar(rows[row])
            if not torch.allclose(values[row], truth, rtol=1e-3, atol=1e-3, equal_nan=True):
                raise ModelError(
                    f"batched value {values[row].item()}, but {truth.item()} for the chain alone"
                )

    def _give_up_batching(self, error: Exception) -> None:
        if self.compiles:
            raise ModelError(
                f"{self.name} cannot be batched over chains, so it cannot be compiled: {error}"
            ) from error
        self.is_batchable = False
        reason = textwrap.shorten(str(error), width=160)
        warnings.warn(
            f"{self.name} cannot be batched over chains and is run one chain after another, which "
            f"is slow with many chains. Reason: {type(error).__name__}: {reason}",
            stacklevel=2,
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_graphs": {}}


def _same_objects(old: tuple[Any, ...], new: tuple[Any, ...]) -> bool:
    return len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))


def _loop(function: Callable[..., Any], rows: Any) -> Any:
    if isinstance(rows, dict):
        count = len(next(iter(rows.values())))
        results = [function({k: v[i] for k, v in rows.items()}) for i in range(count)]
    else:
        results = [function(row) for row in rows]
    if isinstance(results[0], dict):
        return {k: torch.stack([result[k] for result in results]) for k in results[0]}
    return torch.stack(results)
