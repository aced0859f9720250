"""Contrastive divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import check_count, check_data
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Energy, Kernel
from pyro_ebm.objectives._negative_phase import check_recipe, contrast, moved


@dataclass(frozen=True, eq=False)
class ContrastiveDivergence:
    r"""CD-k: chains start at the data and run ``num_steps`` steps.

    .. math:: \nabla_\theta \mathcal L = \mathbb E_{p_\text{data}}[\nabla_\theta E_\theta(x)]
              - \mathbb E_{\Pi^k_\theta p_\text{data}}[\nabla_\theta E_\theta(x')],

    minus the CD-k ascent direction. It is *biased* for the likelihood gradient and the
    gradient of no function; the chains are constants in :math:`\theta`. With an unadjusted
    kernel the fixed point is off by the kernel's own bias: data of variance :math:`S` and
    ``Langevin(step_size)`` give the precision with
    :math:`\Lambda (1 - \epsilon^2 \Lambda / 4) = 1 / S`; with MALA it is :math:`1 / S`.
    Spurious modes far from the data are not seen. The value is not a likelihood.

    Args:
        kernel: Recipe with a step size.
        num_steps: k.

    Raises:
        StepSizeError: If the recipe has no step size.
        NonFiniteError: On call, if the data or the mean energies are not finite.

    References:
        Hinton (2002), Training products of experts by minimizing contrastive divergence;
        seed 003, equations 3 and 7.

    >>> from pyro_ebm.energies import MLPEnergy
    >>> from pyro_ebm.kernels import Langevin
    >>> objective = ContrastiveDivergence(Langevin(step_size=0.1), num_steps=5)
    >>> objective(MLPEnergy(2), torch.randn(16, 2)).shape
    torch.Size([])
    """

    kernel: Kernel[Any, Any]
    num_steps: int = 1

    def __post_init__(self) -> None:
        check_recipe(self.kernel)
        check_count("num_steps", self.num_steps)

    def __call__(
        self, energy: Energy, x: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        data = check_data(energy, x)
        generator = own_generator(generator, data.device)
        negatives = moved(self.kernel, energy, data, self.num_steps, generator)
        return contrast(energy, data, negatives)
