"""Arithmetic on flat positions ``(C, dim)``: the axes are named once, here."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

TupleT = TypeVar("TupleT", bound=tuple[Any, ...])


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
    fields = (choose(mask, n, o) for n, o in zip(new, old, strict=True))
    return type(new)(*fields)
