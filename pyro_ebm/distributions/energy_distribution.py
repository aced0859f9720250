"""An energy as a Pyro distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.core.checks import (
    ModelError,
    ShapeError,
    check_count,
    check_energies,
    check_event,
    check_event_shape,
)
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Energy, Kernel
from pyro_ebm.distributions._dependence import depends_on_more_than
from pyro_ebm.kernels import MALA
from pyro_ebm.potentials import EnergyPotential
from pyro_ebm.sampling.walk import tuned_walk

_ACCEPTANCE = 0.8
"""Above the fastest, 0.574: where tails are lighter than Gaussian, chains that start far out
reject every larger step. On a quartic energy it takes the error of the variance from 10 % to 2 %.
"""


class EnergyDistribution(TorchDistribution):
    r"""The law :math:`p(x) \propto e^{-E(x)}` as a site of a Pyro model.

    .. math:: \texttt{log\_prob}(x) = -E(x), \quad \text{unnormalised: off by } -\log Z.

    The missing constant cancels in MCMC and in the gradients of an ELBO as long as it is a
    constant. It is not when the energy depends on something that is learned or inferred, and
    so that is refused. It is seen by its gradient: under ``torch.no_grad()``, and where values
    carry no gradient (integers), nothing can be seen.

    ``sample`` runs chains of ``kernel`` and is *approximate*: it is exact only in the limit of
    many steps.

    Args:
        energy: A frozen energy.
        base: Distribution over one event that starts the chains of ``sample``; it is *not*
            part of the density (to tilt a base add its energy, ``GaussianEnergy(...) + energy``).
            By default a standard normal.
        kernel: Recipe that moves the chains; a step size or scale left open is tuned on them.
            By default MALA with an acceptance of 0.8.
        num_steps: Steps of the chains, after as many of tuning.

    Raises:
        ModelError: If the energy has parameters that require grad, or depends on another
            value that does.
        ShapeError: If ``base`` is not a distribution over one event.

    >>> from pyro_ebm.energies import GaussianEnergy
    >>> law = EnergyDistribution(GaussianEnergy.standard(2))
    >>> law.log_prob(torch.ones(3, 2)).tolist(), law.sample((5,)).shape
    ([-1.0, -1.0, -1.0], torch.Size([5, 2]))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = False
    is_normalized = False
    """Likelihoods of this law lack a constant, so that loo and compare would be wrong."""

    def __init__(
        self,
        energy: Energy,
        base: TorchDistribution | None = None,
        *,
        kernel: Kernel[Any, Any] | None = None,
        num_steps: int = 100,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        event_shape = check_event_shape(energy)
        _check_frozen(energy)
        self.energy = energy
        self.base = base if base is None else _check_base(base, event_shape)
        self.kernel = MALA(target_accept_prob=_ACCEPTANCE) if kernel is None else kernel
        self.num_steps = check_count("num_steps", num_steps)
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the energy ``(*batch,)``.

        Raises:
            ModelError: If the energy depends on a learned or inferred value other than ``x``.
        """
        if self._validate_args:
            self._validate_sample(value)
        check_event("value", value, self.event_shape)
        x = value.view_as(value)
        batch = x.shape[: x.ndim - len(self.event_shape)]
        energies = check_energies(self.energy(x), batch, f"the energy {type(self.energy).__name__}")
        if depends_on_more_than(x, energies):
            raise ModelError(_refusal(self.energy, "depends on a parameter or a latent value"))
        return -energies.expand(torch.broadcast_shapes(batch, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Approximate draws ``(*sample_shape, *batch, *event)``, one chain for each."""
        shape = torch.Size(sample_shape) + self.batch_shape
        potential = EnergyPotential(self.energy)
        generator = own_generator(None, potential.device)
        start = self._starts(shape.numel(), potential, generator)
        if len(start) == 0:
            return start.reshape(shape + self.event_shape)
        moved = tuned_walk(self.kernel, potential, start, self.num_steps, generator)
        return moved.reshape(shape + self.event_shape)

    def _starts(
        self, num_chains: int, potential: EnergyPotential, generator: torch.Generator
    ) -> Tensor:
        shape, dtype, device = (num_chains, potential.dim), potential.dtype, potential.device
        if self.base is None:
            return torch.randn(shape, generator=generator, dtype=dtype, device=device)
        start: Tensor = self.base.sample((num_chains,)).reshape(shape)
        return start.to(dtype=dtype, device=device)

    def expand(
        self, batch_shape: Any, _instance: EnergyDistribution | None = None
    ) -> EnergyDistribution:
        if _instance is not None:
            raise NotImplementedError("EnergyDistribution is final and expands to itself only.")
        return EnergyDistribution(
            self.energy,
            self.base,
            kernel=self.kernel,
            num_steps=self.num_steps,
            batch_shape=batch_shape,
            validate_args=self._validate_args,
        )

    def __repr__(self) -> str:
        return f"EnergyDistribution({self.energy!r}, batch_shape={tuple(self.batch_shape)})"


def _check_frozen(energy: Energy) -> None:
    if isinstance(energy, nn.Module) and any(p.requires_grad for p in energy.parameters()):
        raise ModelError(_refusal(energy, "has parameters that require grad"))


def _refusal(energy: Energy, reason: str) -> str:
    return (
        f"the energy {energy!r} {reason}, but its log density is unnormalised: log Z has a "
        "gradient too, and without it an ELBO goes to minus infinity and a posterior has the "
        "wrong law. Train the energy with an objective such as ContrastiveDivergence, freeze it "
        "with energy.requires_grad_(False), and let nothing but x vary inside it."
    )


def _check_base(base: TorchDistribution, event_shape: torch.Size) -> TorchDistribution:
    if base.event_shape != event_shape or base.batch_shape:
        raise ShapeError(
            f"base has batch shape {tuple(base.batch_shape)} and event shape "
            f"{tuple(base.event_shape)}, but a distribution over one point of shape "
            f"{tuple(event_shape)} is wanted: use .to_event()."
        )
    return base
