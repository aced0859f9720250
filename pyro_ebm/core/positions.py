"""Arithmetic on flat positions ``(C, dim)``: the axes are named once, here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

TupleT = TypeVar("TupleT", bound=tuple[Any, ...])


def chains_innermost(x: Tensor) -> Tensor:
    """The same tensor ``(C, ...)``, with neighbouring chains next to each other in memory.

    There are more chains than coordinates as a rule, and one number for each chain goes with
    every coordinate, so that loops over chains run at full width. The values are the same.

    >>> chains_innermost(torch.zeros(1024, 10)).stride()
    (1, 1024)
    """
    return x.movedim(0, -1).contiguous().movedim(-1, 0) if x.ndim > 1 else x


def lies_in_rows(x: Tensor) -> bool:
    """Whether the coordinates of one chain are neighbours in memory, and those of others are not.

    >>> lies_in_rows(torch.zeros(1024, 10)), lies_in_rows(torch.zeros(10, 1024).mT)
    (True, False)
    """
    return x.is_contiguous() and not x.mT.is_contiguous()


def layout_of(x: Tensor) -> Callable[[Tensor], Tensor]:
    """What puts other tensors ``(C, ...)`` as the positions ``x`` lie: loops run through both."""
    return Tensor.contiguous if lies_in_rows(x) else chains_innermost


def empty_rows(num_rows: int, x: Tensor) -> Tensor:
    """Room for as many tensors like ``x`` ``(C, dim)``, each of which lies as ``x`` does."""
    if lies_in_rows(x):
        return x.new_empty(num_rows, *x.shape)
    return x.new_empty(num_rows, *x.mT.shape).mT


def normal_noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the shape, type and memory layout of ``x`` ``(C, dim)``.

    They are drawn in the order in which they lie, which to turn took a tenth of a step.
    """
    shape = x.shape if lies_in_rows(x) else x.mT.shape
    noise = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
    return noise if lies_in_rows(x) else noise.mT


def uniform_noise(
    x: Tensor, num_numbers: int, generator: torch.Generator | None
) -> tuple[Tensor, ...]:
    """Numbers uniform on [0, 1) in float64, each ``(C,)``, for the chains of ``x``."""
    shape = (num_numbers, len(x))
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=x.device).unbind()


def dot64(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each chain, ``(C, dim), (C, dim) -> (C,)``, summed in float64.

    Energy errors are small differences of large sums; float32 sums would drown them.

    >>> dot64(torch.ones(2, 3), torch.ones(2, 3))
    tensor([3., 3.], dtype=torch.float64)
    """
    return (a * b).sum(dim=-1, dtype=torch.float64)


def choose(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Take ``new`` for the chains in ``mask`` and ``old`` for the others.

    >>> choose(torch.tensor([True, False]), torch.ones(2, 1), torch.zeros(2, 1)).tolist()
    [[1.0], [0.0]]
    """
    expanded = mask.reshape(mask.shape + (1,) * (new.ndim - mask.ndim))
    return torch.where(expanded, new, old)


def select(mask: Tensor, new: TupleT, old: TupleT) -> TupleT:
    """Take each chain's state from ``new`` where ``mask`` holds, else from ``old``."""
    return map_fields(lambda n, o: choose(mask, n, o), new, old)


def held(waiting: Tensor, before: TupleT, after: TupleT) -> TupleT:
    """The states after a step, but for the waiting; scratch memory that both share stays shared."""
    return map_fields(lambda n, o: n if n is o else choose(waiting, o, n), after, before)


def map_fields(function: Callable[..., Tensor], fields: TupleT, *others: TupleT) -> TupleT:
    """Apply ``function`` to every tensor of a (nested) NamedTuple, and of others like it."""
    mapped = (
        function(*parts) if isinstance(parts[0], Tensor) else map_fields(function, *parts)
        for parts in zip(fields, *others, strict=True)
    )
    return type(fields)(*mapped)


def tensors_of(fields: tuple[Any, ...]) -> list[Tensor]:
    """All tensors of a (nested) NamedTuple, in order."""
    tensors: list[Tensor] = []
    for field in fields:
        tensors += [field] if isinstance(field, Tensor) else tensors_of(field)
    return tensors


def fields_like(template: TupleT, tensors: Iterator[Tensor]) -> TupleT:
    """The (nested) NamedTuple that holds the next of these tensors; undoes :func:`tensors_of`."""
    return type(template)(
        *(next(tensors) if isinstance(f, Tensor) else fields_like(f, tensors) for f in template)
    )
