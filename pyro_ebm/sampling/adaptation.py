"""Statistics that warm-up pools over chains: step size and coordinate scale."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.sampling.step_size import LARGEST, SMALLEST

_LEAST_WIDTH = 1e-6
"""Of a direction in coordinates of unit scale: rounding of sums of squares hides smaller ones."""


class DualAveraging:
    r"""Step size whose pooled acceptance tends to a target (Nesterov's dual averaging).

    .. math::
        \bar H_t = (1 - \tfrac{1}{t + t_0}) \bar H_{t-1} + \tfrac{a^* - a_t}{t + t_0}, \quad
        \log \epsilon_t = \mu - \tfrac{\sqrt t}{\gamma} \bar H_t, \quad
        \overline{\log \epsilon}_t = t^{-\kappa} \log \epsilon_t
                                     + (1 - t^{-\kappa}) \overline{\log \epsilon}_{t-1}

    with :math:`\mu = \log \epsilon_0`, :math:`\gamma = 0.2`, :math:`t_0 = 10`,
    :math:`\kappa = 0.75`. Hoffman and Gelman take :math:`\log 10 \epsilon_0` and 0.05: with
    acceptances that are a transition old, as those of many chains are, the step size would swing.

    Args:
        step_size: :math:`\epsilon_0`.
        target: :math:`a^*`.
        largest: Bound of the step sizes.

    References:
        Hoffman and Gelman (2014), The No-U-Turn sampler, section 3.2.

    >>> tuner = DualAveraging(step_size=1.0, target=0.8)
    >>> tuner.update(0.2) < tuner.update(0.1) * 100
    True
    """

    def __init__(self, step_size: float, target: float, largest: float = LARGEST) -> None:
        self.target, self.largest = target, min(largest, LARGEST)
        self._mu = math.log(step_size)
        self._error = 0.0
        self._log_average = math.log(step_size)
        self._count = 0

    def update(self, acceptance: float) -> float:
        """Take in one pooled acceptance and return the next step size."""
        self._count += 1
        weight = 1.0 / (self._count + 10.0)
        self._error += weight * (self.target - acceptance - self._error)
        log_step = self._mu - math.sqrt(self._count) / 0.2 * self._error
        log_step = min(max(log_step, math.log(SMALLEST)), math.log(self.largest))
        decay = self._count**-0.75
        self._log_average += decay * (log_step - self._log_average)
        return math.exp(log_step)

    @property
    def average(self) -> float:
        """The averaged step size, to keep after warm-up."""
        return math.exp(self._log_average)


class PooledVariance:
    r"""Variance of each coordinate over chains and steps, shrunk as in Stan.

    .. math:: \hat s^2 = \frac{n}{n + 5} \mathrm{Var} + 10^{-3} \frac{5}{n + 5}

    Updated batch by batch with Chan's formula, in float64.

    >>> pooled = PooledVariance(dim=1)
    >>> for _ in range(1000):
    ...     pooled.update(torch.tensor([[-1.0], [1.0]]))
    >>> pooled.scale(torch.float32)
    tensor([0.9990])
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self._squares = self._products(self._mean.unsqueeze(0))

    def update(self, positions: Tensor) -> None:
        """Take in the positions ``(C, dim)`` of all chains."""
        batch = positions.double()
        n, total = len(batch), self.count + len(batch)
        mean = batch.mean(dim=0)
        shift = mean - self._mean
        between = self._products(shift.unsqueeze(0)) * (self.count * n / total)
        # New tensors, so that what state_dict() gave before stays as it was.
        self._squares = self._squares + self._products(batch - mean) + between
        self._mean = self._mean + shift * (n / total)
        self.count = total

    def moments(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Means ``(dim,)`` and :meth:`scale`, as kernels name them."""
        return {"center": self._mean.to(dtype), "scale": self.scale(dtype)}

    def scale(self, dtype: torch.dtype) -> Tensor:
        """Standard deviations ``(dim,)``."""
        return self._shrunk(1e-3).sqrt().to(dtype)

    def state_dict(self) -> dict[str, Any]:
        """Everything it remembers, in plain values; later updates do not change them."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        vars(self).update(state_dict)

    def _products(self, centred: Tensor) -> Tensor:
        return centred.square().sum(dim=0)

    def _shrunk(self, prior: float | Tensor) -> Tensor:
        n = self.count
        return (n * self._squares / max(n - 1, 1) + 5.0 * prior) / (n + 5.0)


class PooledCovariance(PooledVariance):
    r"""Covariance over chains and steps, shrunk as in Stan to :math:`10^{-3} I`.

    A direction is at least a millionth as wide as its coordinates, and never of width zero:
    where columns are collinear the sums know no more of it than rounding.

    >>> pooled = PooledCovariance(dim=2)
    >>> for _ in range(1000):
    ...     pooled.update(torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]))
    >>> pooled.scale(torch.float32)
    tensor([[0.9995, 0.0000],
            [0.0000, 0.9995]])
    """

    def scale(self, dtype: torch.dtype) -> Tensor:
        """Cholesky factor ``(dim, dim)``."""
        identity = torch.eye(len(self._mean), dtype=torch.float64, device=self._mean.device)
        covariance = self._shrunk(1e-3 * identity)
        deviations = covariance.diagonal().sqrt()
        correlations = covariance / deviations.outer(deviations) + _LEAST_WIDTH**2 * identity
        factor: Tensor = deviations.unsqueeze(-1) * torch.linalg.cholesky(correlations)
        return factor.to(dtype)

    def _products(self, centred: Tensor) -> Tensor:
        return centred.mT @ centred
