"""Baselines: control variates of the score-function estimator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Baseline(Protocol):
    r"""A number :math:`b_k` that is subtracted from the learning signal :math:`f_k`.

    Since :math:`\mathbb E_q[\nabla\log q] = 0`, any :math:`b_k` that does not depend on the
    draws of particle :math:`k` leaves the gradient unbiased; a good one makes it less noisy.
    """

    @property
    def minimum_particles(self) -> int:
        """Smallest ``num_particles`` with which the baseline can be computed."""
        ...

    def __call__(self, signals: Tensor, /) -> Tensor:
        """Baselines, broadcastable to the detached ``signals`` of shape ``(particle, *batch)``.

        ``*batch`` are the plates of the site: one learning signal for each particle and datum.
        """
        ...


@dataclass(frozen=True)
class NoBaseline:
    """Subtract nothing: the plain score-function estimator.

    >>> NoBaseline()(torch.tensor([1.0, 3.0])).item()
    0.0
    """

    @property
    def minimum_particles(self) -> int:
        """One particle is enough."""
        return 1

    def __call__(self, signals: Tensor, /) -> Tensor:
        """Zero."""
        return torch.zeros((), dtype=signals.dtype, device=signals.device)


@dataclass(frozen=True)
class LeaveOneOut:
    r"""Subtract the mean signal of the *other* particles.

    .. math:: b_k = \frac{1}{K-1} \sum_{j \ne k} f_j

    Unbiased for :math:`K \ge 2`. The mean over *all* particles would scale the gradient by
    :math:`(K-1)/K`.

    References:
        Buy 4 REINFORCE samples, get a baseline for free! (Kool, van Hoof & Welling, 2019).

    >>> LeaveOneOut()(torch.tensor([1.0, 2.0, 6.0])).tolist()
    [4.0, 3.5, 1.5]
    """

    @property
    def minimum_particles(self) -> int:
        """Each particle needs another one."""
        return 2

    def __call__(self, signals: Tensor, /) -> Tensor:
        """Means over the other particles, of the shape of ``signals``."""
        num_particles = signals.shape[0]
        if num_particles < 2:
            raise ValueError(
                f"LeaveOneOut averages over the other particles, but got {num_particles} "
                "particle; use num_particles of at least 2, or NoBaseline()."
            )
        return (signals.sum(dim=0, keepdim=True) - signals) / (num_particles - 1)
