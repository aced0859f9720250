"""Maximum likelihood with a negative phase by MCMC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_ebm.core.checks import ShapeError, check_count, check_data
from pyro_ebm.core.randomness import forked_rng, own_generator
from pyro_ebm.core.types import Energy, Kernel
from pyro_ebm.objectives._negative_phase import check_recipe, contrast, moved


@dataclass(frozen=True, eq=False)
class MaximumLikelihood:
    r"""Likelihood gradient with chains from a fixed law instead of exact samples.

    .. math:: \nabla_\theta \mathcal L = \mathbb E_{p_\text{data}}[\nabla_\theta E_\theta(x)]
              - \mathbb E_{\Pi^k_\theta p_0}[\nabla_\theta E_\theta(x')]

    The second law is the model only when the chains of ``num_steps`` steps from
    :math:`p_0` have mixed; until then the gradient is *biased*, and what is learned is a
    short-run sampler rather than a density. As many chains as data in the batch; the chains
    are constants in :math:`\theta`. The value is not a likelihood.

    Args:
        kernel: Recipe with a step size.
        num_steps: k.
        initial: Law :math:`p_0` of one event; by default a standard normal.

    Raises:
        StepSizeError: If the recipe has no step size.
        ShapeError: On call, if ``initial`` is not a law of one event.
        NonFiniteError: On call, if the data or the mean energies are not finite.

    References:
        Nijkamp et al. (2020), On the anatomy of MCMC-based maximum likelihood learning of
        energy-based models; seed 002, and seed 003, equation 2.

    >>> from pyro_ebm.energies import MLPEnergy
    >>> from pyro_ebm.kernels import MALA
    >>> objective = MaximumLikelihood(MALA(step_size=0.5), num_steps=20)
    >>> objective(MLPEnergy(2), torch.randn(16, 2)).requires_grad
    True
    """

    kernel: Kernel[Any, Any]
    num_steps: int = 50
    initial: Distribution | None = None

    def __post_init__(self) -> None:
        check_recipe(self.kernel)
        check_count("num_steps", self.num_steps)

    def __call__(
        self, energy: Energy, x: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        data = check_data(energy, x)
        generator = own_generator(generator, data.device)
        start = self._start(data, generator)
        negatives = moved(self.kernel, energy, start, self.num_steps, generator)
        return contrast(energy, data, negatives)

    def _start(self, data: Tensor, generator: torch.Generator) -> Tensor:
        if self.initial is None:
            return torch.randn(
                data.shape, generator=generator, dtype=data.dtype, device=data.device
            )
        with forked_rng(generator):
            start = self.initial.sample(data.shape[:1])
        if start.shape != data.shape:
            raise ShapeError(
                f"initial draws points of shape {tuple(start.shape[1:])}, but the energy's event "
                f"shape is {tuple(data.shape[1:])}: use .expand() and .to_event()."
            )
        return start.to(data)
