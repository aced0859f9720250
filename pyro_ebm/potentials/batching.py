"""Many chains at once from code written for one: batched and traced, or honestly looped."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.potentials.graphs.recording import UnbatchableError
from pyro_ebm.potentials.graphs.tracing import TracedFunction, ValueAndGrad, batched, trace
from pyro_ebm.potentials.kept_graphs import KeptGraphs
from pyro_ebm.potentials.validation import unvalidated

_LAST_BITS = 100.0
"""Rounding errors that add up in a term, in units of the last bit of the position."""


class ChainBatcher:
    """Apply functions of one position ``(dim,)`` to rows of positions ``(C, dim)``.

    Functions are batched with ``torch.func.vmap``. At the first that cannot be, one warning
    names the reason and from then on everything is looped over chains. Gradients are traced
    into flat graphs, kept for each shape, type, device and identity of ``held()``.

    Args:
        scalar: Potential energy of one position.
        held: Returns the tensors and numbers in use now, whose replacement makes graphs stale.
        name: What to call the function in messages.
        prepare: Called with one position before a graph is made; may refuse.
        rounding: Bound of the rounding error of ``scalar`` at one position.
        compiles: Whether graphs are handed to ``torch.compile``.
    """

    def __init__(
        self,
        scalar: Callable[[Tensor], Tensor],
        held: Callable[[], tuple[Any, ...]],
        name: str,
        prepare: Callable[[Tensor], None],
        rounding: Callable[[Tensor], Tensor],
        *,
        compiles: bool = False,
    ) -> None:
        self.scalar, self.held, self.name, self.compiles = scalar, held, name, compiles
        self.prepare, self.rounding = prepare, rounding
        self.is_batchable = True
        self._graphs = KeptGraphs(self._recorded, held)

    def each(self, function: Callable[..., Any], rows: Any) -> Any:
        """Apply ``function`` to every row of a tensor, or of a dict of tensors."""
        if _count(rows) == 0:
            some = tree_map(lambda t: t.new_zeros((1, *t.shape[1:])), rows)
            return tree_map(lambda t: t[:0], self.each(function, some))
        with unvalidated():
            if self.is_batchable:
                try:
                    return vmap(function)(rows)
                except Exception as error:  # any failure to batch leads to the loop
                    _raise_if_final(error)
                    self._give_up_batching(error)
            return _loop(function, rows)

    def value_and_grad(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(C,)`` and gradients ``(C, dim)`` of ``scalar``."""
        if len(rows) == 0:
            return rows.new_empty(0), rows
        if not self.is_batchable:
            return _looped(self.scalar)(rows)
        return self._graphs(rows)

    def _recorded(self, rows: Tensor) -> TracedFunction:
        self.prepare(rows[0])
        try:
            with unvalidated():
                traced = trace(batched(self.scalar), rows, self.held(), compiles=self.compiles)
            self._check_graph(traced.function, rows)
        except Exception as error:  # any failure to batch leads to the loop
            _raise_if_final(error)
            self._give_up_batching(error)
            return TracedFunction(_looped(self.scalar), reads_numbers=False)
        return traced

    def _check_graph(self, function: ValueAndGrad, rows: Tensor) -> None:
        """A graph that has frozen a branch of the first chain would be wrong for the last."""
        values = function(rows)[0]
        for row in (0, -1):
            truth = self.scalar(rows[row])
            tolerance = self._tolerance(rows[row], truth)
            if not torch.allclose(values[row], truth, rtol=0.0, atol=tolerance, equal_nan=True):
                raise UnbatchableError(
                    f"batched value {values[row].item()}, but {truth.item()} for the chain alone"
                )

    def _tolerance(self, row: Tensor, truth: Tensor) -> float:
        """How far rounding alone may carry a value of the graph.

        The value is a sum that may cancel, so the error follows the size of its terms and not
        its own. Inside a term, differences of large numbers and ill-conditioned matrices enlarge
        the error of their input: what the last bit of the position changes shows by how much.
        """
        change = self.scalar(row * (1.0 + torch.finfo(row.dtype).eps)) - truth
        tolerance = (self.rounding(row) + _LAST_BITS * change.abs()).item()
        return tolerance if math.isfinite(tolerance) else 0.0

    def _give_up_batching(self, error: Exception) -> None:
        if self.compiles:
            raise ModelError(
                f"{self.name} cannot be batched over chains, so it cannot be compiled: "
                f"{_first_cause(error)}"
            ) from error
        self.is_batchable = False
        cause = _first_cause(error)
        reason = textwrap.shorten(str(cause), width=160)
        warnings.warn(
            f"{self.name} cannot be batched over chains and is run one chain after another, which "
            f"is slow with many chains. Reason: {type(cause).__name__}: {reason}. If a latent "
            "value passes through .item() or numpy, its part of the gradient is missing: MALA "
            "stays exact, unadjusted kernels do not.",
            stacklevel=2,
        )


def _looped(scalar: Callable[[Tensor], Tensor]) -> ValueAndGrad:
    """What ``batched`` gives, one chain after another, for functions that cannot be batched."""

    def one(q: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad(), unvalidated():
            q = q.detach().requires_grad_()
            value = scalar(q)
            (grad,) = torch.autograd.grad(value, q, materialize_grads=True)
        return value.detach(), grad

    def value_and_grad(q: Tensor) -> tuple[Tensor, Tensor]:
        values, grads = zip(*(one(row) for row in q), strict=True)
        return torch.stack(values), torch.stack(grads)

    return value_and_grad


def _raise_if_final(error: Exception) -> None:
    """Let errors through that the loop would not mend, or only meet again for each chain."""
    cause = _first_cause(error)
    if isinstance(cause, UnbatchableError):
        return
    if isinstance(cause, (torch.OutOfMemoryError, ModelError, ShapeError, NonFiniteError)):
        raise cause


def _first_cause(error: BaseException) -> BaseException:
    """The error without the traces of sites that Pyro adds on its way up."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _count(rows: Any) -> int:
    return len(tree_leaves(rows)[0])


def _loop(function: Callable[..., Any], rows: Any) -> Any:
    results = [function(tree_map(itemgetter(i), rows)) for i in range(_count(rows))]
    return tree_map(lambda *parts: torch.stack(parts), *results)
