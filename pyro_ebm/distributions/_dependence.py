"""What a value depends on, read from its autograd graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def depends_on_more_than(x: Tensor, y: Tensor) -> bool:
    """Whether ``y`` has a gradient with respect to anything but ``x``.

    What ``x`` itself was computed from does not count. ``x`` must be a result of its own, so
    that no other tensor shares its node (``value.view_as(value)``). Computing ``y`` again from
    ``x.detach()`` would answer the same, at the price of a second evaluation.

    >>> import torch
    >>> leaf, other = torch.ones(2, requires_grad=True), torch.ones((), requires_grad=True)
    >>> x = leaf.view_as(leaf)
    >>> depends_on_more_than(x, x.sum()), depends_on_more_than(x, x.sum() + other)
    (False, True)
    """
    if y.grad_fn is None:
        return y.requires_grad
    seen: set[Any] = {x.grad_fn}
    waiting: list[Any] = [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        sources = [source for source, _ in node.next_functions if source is not None]
        if not sources:
            return True
        waiting += sources
    return False
