"""Quartic energies: one well with light tails, and two wells with a barrier between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_ebm.core.checks import check_positive
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.energies.compose import EnergyAlgebra
from pyro_ebm.energies.events import as_event_shape, flatten_event
from pyro_ebm.energies.quadrature import LineDensity, tabulate

# exp(-50) is below the rounding of float64 sums of order one.
_NEGLIGIBLE_ENERGY = 50.0


class QuarticEnergy(EnergyAlgebra, nn.Module):
    r"""Independent coordinates with tails lighter than Gaussian.

    .. math::
        E(x) = \sum_i \tfrac14 x_i^4, \qquad
        Z_1 = \frac{\Gamma(1/4)}{\sqrt 2} = 2.5636933520, \qquad
        \mathbb E x_i^2 = \frac{2\,\Gamma(3/4)}{\Gamma(1/4)} = 0.6759782401, \qquad
        \mathbb E x_i^4 = 1

    Unadjusted Langevin chains explode on it from far starts. No parameters: values have the
    dtype of the points; the moments and draws have torch's default dtype.

    Args:
        event_shape: Shape of one point; a single number unless given.

    Example:
        >>> energy = QuarticEnergy()
        >>> energy(torch.tensor([0.0, 2.0])), round(energy.log_partition.exp().item(), 4)
        (tensor([0., 4.]), 2.5637)
    """

    def __init__(self, event_shape: int | Sequence[int] = ()) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``(*batch,)`` of the points ``(*batch, *event)``."""
        return 0.25 * flatten_event(x, self.event_shape).pow(4).sum(-1)

    @property
    def mean(self) -> Tensor:
        """Exact mean, of the event shape."""
        return torch.zeros(self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Exact variances of the coordinates, of the event shape."""
        return torch.full(self.event_shape, 2 * math.gamma(0.75) / math.gamma(0.25))

    @property
    def log_partition(self) -> Tensor:
        """Exact ``log Z``."""
        return torch.tensor(self.event_shape.numel() * math.log(math.gamma(0.25) / math.sqrt(2)))

    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Exact draws ``(*sample_shape, *event)``: :math:`x^4 / 4` is Gamma(1/4) distributed."""
        generator = own_generator(generator)
        shape = (*sample_shape, *self.event_shape)
        concentration = torch.full(shape, 0.25, device=generator.device)
        radius = (4 * torch._standard_gamma(concentration, generator=generator)).pow(0.25)
        negative = torch.rand(shape, generator=generator, device=generator.device) < 0.5
        return torch.where(negative, -radius, radius)

    def extra_repr(self) -> str:
        """Show the event shape."""
        return f"event_shape={tuple(self.event_shape)}"


class DoubleWellEnergy(EnergyAlgebra, nn.Module):
    r"""Independent coordinates with two wells at plus and minus ``location``.

    .. math:: E(x) = \sum_i h \left( \frac{x_i^2}{m^2} - 1 \right)^2

    with :math:`m` the ``location`` of the wells and :math:`h` the height of the ``barrier``
    between them. The defaults give :math:`(x^2 - 4)^2 / 8`, with
    :math:`\mathbb E x^2 = 3.4085446087` and :math:`Z = 2.8218294064`. The moments are computed by
    quadrature in float64. No parameters: values have the dtype of the points; the moments and
    draws have torch's default dtype.

    Args:
        event_shape: Shape of one point; a single number unless given.
        location: Distance of both minima from zero.
        barrier: Energy at zero; that of the minima is zero.

    Raises:
        ValueError: ``location`` or ``barrier`` is not a finite number above zero.

    Example:
        >>> energy = DoubleWellEnergy()
        >>> energy(torch.tensor([0.0, 2.0])), round(energy.variance.item(), 4)
        (tensor([2., 0.]), 3.4085)
    """

    def __init__(
        self,
        event_shape: int | Sequence[int] = (),
        *,
        location: float = 2.0,
        barrier: float = 2.0,
    ) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)
        self.location = check_positive("location", location)
        self.barrier = check_positive("barrier", barrier)
        density = self._density()
        self._log_partition = density.log_partition
        self._variance = density.expectation(torch.square)

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``(*batch,)`` of the points ``(*batch, *event)``."""
        return self._each(flatten_event(x, self.event_shape)).sum(-1)

    @property
    def mean(self) -> Tensor:
        """Exact mean, of the event shape."""
        return torch.zeros(self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Variances of the coordinates, of the event shape, exact to rounding."""
        return torch.full(self.event_shape, self._variance)

    @property
    def log_partition(self) -> Tensor:
        """Value of ``log Z``, exact to rounding."""
        return torch.tensor(self.event_shape.numel() * self._log_partition)

    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent draws ``(*sample_shape, *event)`` by inversion of the tabulated density."""
        shape = (*sample_shape, *self.event_shape)
        return self._density().sample(shape, generator=generator).to(torch.get_default_dtype())

    def extra_repr(self) -> str:
        """Show the arguments."""
        return (
            f"event_shape={tuple(self.event_shape)}, location={self.location}, "
            f"barrier={self.barrier}"
        )

    def _each(self, x: Tensor) -> Tensor:
        return self.barrier * ((x / self.location).square() - 1).square()

    def _density(self) -> LineDensity:
        bound = self.location * math.sqrt(1 + math.sqrt(_NEGLIGIBLE_ENERGY / self.barrier))
        return tabulate(self._each, -bound, bound)
