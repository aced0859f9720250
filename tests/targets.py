"""Targets with exact moments and exact samplers: the truth in the tests of kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.types import Energy
from pyro_ebm.energies import (
    DoubleWellEnergy,
    FunnelEnergy,
    GaussianEnergy,
    MixtureEnergy,
    QuarticEnergy,
)
from pyro_ebm.energies.quadrature import LineDensity, tabulate

_ASYMMETRIC_MEAN = -0.1641316011
_ASYMMETRIC_SECOND_MOMENT = 0.6547086081


@dataclass(frozen=True)
class Target:
    """An energy about which everything is known; tensors in float64.

    ``mean`` and ``second_moment`` (the expected square of each coordinate) have the event
    shape; ``sample(n, generator)`` gives independent exact draws ``(n, *event)``.
    """

    name: str
    energy: Energy
    mean: Tensor
    second_moment: Tensor
    sample: Callable[[int, torch.Generator | None], Tensor]


class AsymmetricEnergy:
    """``E(x) = x^4 / 4 + sin(3 x) / 2 + x / 5``: odd moments show reversed signs.

    A plain callable on purpose: energies have nothing to inherit.
    """

    event_shape = torch.Size([])

    def __call__(self, x: Tensor) -> Tensor:
        return 0.25 * x.pow(4) + 0.5 * torch.sin(3 * x) + 0.2 * x

    def density(self) -> LineDensity:
        """The density tabulated in float64."""
        return tabulate(self, -4.5, 4.5)

    def sample(self, num_draws: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws by inversion."""
        return self.density().sample((num_draws,), generator=generator)


def gaussian_target() -> Target:
    """Correlated, with unequal scales and a mean away from zero."""
    loc = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=torch.float64)
    second_moment = torch.tensor([3.0, 5.0], dtype=torch.float64)
    energy = GaussianEnergy(loc, covariance)
    return Target("gaussian", energy, loc, second_moment, _sampler(energy))


def quartic_target() -> Target:
    """Tails lighter than Gaussian, on which unadjusted Langevin explodes."""
    energy = QuarticEnergy()
    return Target("quartic", energy, _number(0.0), _number(0.6759782401), _sampler(energy))


def asymmetric_target() -> Target:
    """No symmetry at all: the target that catches wrong signs and dropped ratios."""
    energy = AsymmetricEnergy()
    mean, second_moment = _number(_ASYMMETRIC_MEAN), _number(_ASYMMETRIC_SECOND_MOMENT)
    return Target("asymmetric", energy, mean, second_moment, energy.sample)


def mixture_target() -> Target:
    """Two modes of different weight and width; ``P(x < 0)`` is 0.3159155910."""
    energy = MixtureEnergy(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([-2.0, 2.0], dtype=torch.float64),
        torch.tensor([0.5, 1.0], dtype=torch.float64),
    )
    return Target("mixture", energy, _number(0.8), _number(4.775), _sampler(energy))


def double_well_target() -> Target:
    """Two symmetric wells with a barrier of two."""
    energy = DoubleWellEnergy()
    return Target("double_well", energy, _number(0.0), _number(3.4085446087), _sampler(energy))


def funnel_target() -> Target:
    """A narrow funnel: at scale one the sample second moments are still nearly normal."""
    energy = FunnelEnergy(3, scale=1.0)
    second_moment = torch.tensor([1.0, math.exp(0.5), math.exp(0.5)], dtype=torch.float64)
    return Target(
        "funnel", energy, torch.zeros_like(second_moment), second_moment, _sampler(energy)
    )


def all_targets() -> list[Target]:
    """Every target, for ``pytest.mark.parametrize(..., ids=lambda target: target.name)``."""
    return [
        gaussian_target(),
        quartic_target(),
        asymmetric_target(),
        mixture_target(),
        double_well_target(),
        funnel_target(),
    ]


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _sampler(energy: Any) -> Callable[[int, torch.Generator | None], Tensor]:
    def sample(num_draws: int, generator: torch.Generator | None = None) -> Tensor:
        draws: Tensor = energy.sample((num_draws,), generator=generator)
        return draws

    return sample
