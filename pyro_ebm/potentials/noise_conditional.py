"""Energies that depend on the size of the noise in the data, as potentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_ebm.core.checks import check_event_shape, check_positive
from pyro_ebm.core.types import PotentialTerm
from pyro_ebm.potentials.compose import SumPotential
from pyro_ebm.potentials.energy import EnergyPotential


class NoiseConditionalPotential(EnergyPotential):
    r"""An energy :math:`E(x, \sigma)` of data with Gaussian noise of size :math:`\sigma`.

    .. math:: e^{-E(x, \sigma)} \propto \int p(y)\, N(x; y, \sigma^2 I)\, dy

    is what denoising score matching over several levels learns. As a potential it is the law
    at ``noise_level``; ``AnnealedLangevin`` walks through the others. A term that is added to it
    is the same at all levels.

    Args:
        energy: ``energy(x, sigma)`` of points ``(*batch, *event)`` and noise levels
            ``(*batch,)``, ``(*batch,)``.
        noise_level: :math:`\sigma` of the potential itself, the last level of an anneal.
        event_shape: Shape of one point; taken from ``energy.event_shape`` if that exists.
        name: Name of the site in samples.

    Raises:
        ModelError: If no event shape is given or known.
        ValueError: If the noise level is not a finite number above zero.

    >>> def energy(x, sigma):
    ...     return x.square().sum(-1) / (2 * (1 + sigma**2))
    >>> potential = NoiseConditionalPotential(energy, noise_level=1.0, event_shape=(2,))
    >>> q = torch.tensor([[2.0, 2.0]])
    >>> potential(q), potential.at_noise_level(torch.tensor([3.0]))(q)
    (tensor([2.]), tensor([0.4000]))
    """

    def __init__(
        self,
        energy: Callable[[Tensor, Tensor], Tensor],
        noise_level: float,
        event_shape: int | Sequence[int] | None = None,
        *,
        name: str = "x",
    ) -> None:
        self.noise_level: float = check_positive("noise_level", noise_level)
        self._conditional = energy
        shape = _shape_of(energy, event_shape)
        super().__init__(AtNoiseLevel(energy, self.noise_level, shape), shape, name=name)

    def at_noise_level(self, noise_level: Tensor) -> EnergyPotential:
        """The potential at another level, one for each chain ``(C,)``."""
        energy = AtNoiseLevel(self._conditional, noise_level, self.event_shape)
        return EnergyPotential(energy, self.event_shape, name=self.name)

    def __add__(self, term: PotentialTerm) -> NoiseConditionalSum:
        return NoiseConditionalSum(self, term)

    def __repr__(self) -> str:
        return (
            f"NoiseConditionalPotential({self._conditional!r}, noise_level={self.noise_level!r}, "
            f"event_shape={tuple(self.event_shape)})"
        )


class NoiseConditionalSum(SumPotential):
    """A noise-conditional potential plus a term that is the same at all levels."""

    def __init__(
        self, potential: NoiseConditionalPotential | NoiseConditionalSum, term: PotentialTerm
    ) -> None:
        super().__init__(potential, term)
        self.noise_level: float = potential.noise_level
        self._conditional = potential

    def at_noise_level(self, noise_level: Tensor) -> SumPotential:
        """The sum at another level, one for each chain ``(C,)``."""
        return self._conditional.at_noise_level(noise_level) + self.term

    def __add__(self, term: PotentialTerm) -> NoiseConditionalSum:
        return NoiseConditionalSum(self, term)


def _shape_of(energy: object, given: int | Sequence[int] | None) -> Sequence[int]:
    if given is None:
        return check_event_shape(energy)
    return given if isinstance(given, Sequence) else (given,)


class AtNoiseLevel(nn.Module):
    """A noise-conditional energy at one level, or at one for each point.

    Args:
        energy: ``energy(x, sigma)``.
        noise_level: One number, or ``(*batch,)``.
        event_shape: Shape of one point.
    """

    def __init__(
        self,
        energy: Callable[[Tensor, Tensor], Tensor],
        noise_level: float | Tensor,
        event_shape: Sequence[int],
    ) -> None:
        super().__init__()
        self.energy = energy
        self.noise_level = noise_level
        self.event_shape = torch.Size(event_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``(*batch,)``."""
        batch = x.shape[: x.ndim - len(self.event_shape)]
        noise_level = torch.as_tensor(self.noise_level, dtype=x.dtype, device=x.device)
        return self.energy(x, noise_level.expand(batch))
