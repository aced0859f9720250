"""Event axes: the trailing axes of one point, named once for every energy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_ebm.core.checks import check_count, check_event


def as_event_shape(event_shape: int | Sequence[int]) -> torch.Size:
    """Return the shape of one point; an int is the length of a vector.

    >>> as_event_shape(3), as_event_shape((8, 8)), as_event_shape(())
    (torch.Size([3]), torch.Size([8, 8]), torch.Size([]))
    """
    sizes = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
    return torch.Size([check_count("each size in event_shape", size) for size in sizes])


def flatten_event(x: Tensor, event_shape: torch.Size) -> Tensor:
    """Check points and give them one event axis: ``(*batch, *event) -> (*batch, n)``.

    >>> flatten_event(torch.zeros(5, 8, 8), torch.Size([8, 8])).shape
    torch.Size([5, 64])
    """
    check_event("x", x, event_shape)
    return x.reshape(*batch_shape(x, event_shape), event_shape.numel())


def batch_shape(x: Tensor, event_shape: torch.Size) -> torch.Size:
    """Return the leading axes of points ``(*batch, *event)``.

    >>> batch_shape(torch.zeros(5, 8, 8), torch.Size([8, 8]))
    torch.Size([5])
    """
    return x.shape[: x.ndim - len(event_shape)]
