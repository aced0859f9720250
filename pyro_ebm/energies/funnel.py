"""Neal's funnel as an energy: no single step size fits it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_ebm.core.checks import check_count, check_positive
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.energies.compose import EnergyAlgebra
from pyro_ebm.energies.events import flatten_event


class FunnelEnergy(EnergyAlgebra, nn.Module):
    r"""A Gaussian coordinate that is the log variance of all the others.

    .. math::
        v = x_0 \sim N(0, s^2), \quad x_i \mid v \sim N(0, e^v), \qquad
        E(x) = \frac{v^2}{2 s^2} + \frac{n - 1}{2} v + \frac{e^{-v}}{2} \sum_{i=1}^{n-1} x_i^2

    with :math:`s` the ``scale`` and :math:`n` the ``dim``;
    :math:`\log Z = \log s + \frac n2 \log 2\pi`, all means are zero,
    :math:`\operatorname{Var} v = s^2` and :math:`\operatorname{Var} x_i = e^{s^2/2}`. At
    ``scale=3`` the fourth moment of :math:`x_i` is :math:`3 e^{18}`: sample variances say
    nothing there. No parameters: values have the dtype of the points; the moments and draws
    have torch's default dtype.

    Args:
        dim: Length of one point, at least two.
        scale: Standard deviation of the first coordinate.

    Raises:
        ValueError: ``dim`` is below two, or ``scale`` is not a finite number above zero.

    Example:
        >>> energy = FunnelEnergy(3)
        >>> energy(torch.tensor([0.0, 1.0, 1.0]))
        tensor(1.)

    References:
        Neal (2003), Slice sampling, section 8.
    """

    def __init__(self, dim: int, scale: float = 3.0) -> None:
        super().__init__()
        self.event_shape = torch.Size([check_count("dim", dim, minimum=2)])
        self.scale = check_positive("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``(*batch,)`` of the points ``(*batch, *event)``."""
        flat = flatten_event(x, self.event_shape)
        log_variance, others = flat[..., 0], flat[..., 1:]
        narrow = 0.5 * (log_variance / self.scale).square()
        wide = 0.5 * (-log_variance).exp() * others.square().sum(-1)
        return narrow + wide + 0.5 * others.shape[-1] * log_variance

    @property
    def mean(self) -> Tensor:
        """Exact mean, of the event shape."""
        return torch.zeros(self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Exact variances of the coordinates, of the event shape."""
        others = [math.exp(0.5 * self.scale**2)] * (self.event_shape.numel() - 1)
        return torch.tensor([self.scale**2, *others])

    @property
    def log_partition(self) -> Tensor:
        """Exact ``log Z``."""
        half_size = 0.5 * self.event_shape.numel()
        return torch.tensor(math.log(self.scale) + half_size * math.log(2 * math.pi))

    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact independent draws ``(*sample_shape, *event)``."""
        generator = own_generator(generator)
        shape = (*sample_shape, *self.event_shape)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        log_variance = self.scale * noise[..., :1]
        return torch.cat([log_variance, (0.5 * log_variance).exp() * noise[..., 1:]], dim=-1)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"dim={self.event_shape.numel()}, scale={self.scale}"
