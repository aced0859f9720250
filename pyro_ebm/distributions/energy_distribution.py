"""An energy as a Pyro distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.core.checks import ModelError, ShapeError, check_count, check_energies, check_event
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Energy, Kernel
from pyro_ebm.kernels import MALA
from pyro_ebm.potentials import EnergyPotential
from pyro_ebm.sampling.walk import tuned_walk

_TRAINABLE = (
    "its log-density is unnormalised: log Z depends on {what} too, and an ELBO or a posterior "
    "that leaves log Z out has no minimum (it goes to minus infinity) or the wrong law. {advice}"
)


class EnergyDistribution(TorchDistribution):
    r"""The law :math:`p(x) \propto e^{-E(x)}` as a site of a Pyro model.

    .. math:: \texttt{log\_prob}(x) = -E(x), \quad \text{unnormalised: off by } -\log Z.

    The missing constant cancels in MCMC and in the gradients of an ELBO as long as it is a
    constant. It is not when the energy depends on something that is learned or inferred, and
    so that is refused. ``sample`` runs chains of ``kernel`` and is *approximate*: it is exact
    only in the limit of many steps.

    Args:
        energy: A frozen energy.
        base: Distribution over one event that starts the chains of ``sample``; it is *not*
            part of the density (to tilt a base add its energy, ``GaussianEnergy(...) + energy``).
            By default a standard normal.
        kernel: Recipe that moves the chains; a step size or scale left open is tuned on them.
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
        event_shape = torch.Size(energy.event_shape)
        _check_frozen(energy)
        self.energy = energy
        self.base = _check_base(base, event_shape)
        self.kernel = MALA() if kernel is None else kernel
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
        self._check_depends_on_x_only(value)
        batch = value.shape[: value.ndim - len(self.event_shape)]
        energies = check_energies(self.energy(value), batch, f"the energy {self.energy!r}")
        return -energies.expand(torch.broadcast_shapes(batch, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Approximate draws ``(*sample_shape, *batch, *event)``, one chain for each."""
        shape = torch.Size(sample_shape) + self.batch_shape
        potential = EnergyPotential(self.energy)
        generator = own_generator(None, potential.device)
        with torch.no_grad():
            start = self.base.sample((shape.numel(),)).to(potential.dtype)
        start = start.reshape(shape.numel(), potential.dim)
        moved = tuned_walk(self.kernel, potential, start, self.num_steps, generator)
        return moved.reshape(shape + self.event_shape)

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

    def _check_depends_on_x_only(self, value: Tensor) -> None:
        if torch.is_grad_enabled() and self.energy(value.detach()).requires_grad:
            raise ModelError(
                f"the energy {self.energy!r} depends on a parameter or another latent value, but "
                + _TRAINABLE.format(
                    what="that value",
                    advice="Train energies with an objective (ContrastiveDivergence) and use fixed "
                    "ones inside a model.",
                )
            )

    def __repr__(self) -> str:
        return f"EnergyDistribution({self.energy!r}, batch_shape={tuple(self.batch_shape)})"


def _check_frozen(energy: Energy) -> None:
    if isinstance(energy, nn.Module) and any(p.requires_grad for p in energy.parameters()):
        raise ModelError(
            f"the energy {energy!r} has parameters that require grad, but "
            + _TRAINABLE.format(
                what="them",
                advice="Train it with an objective such as ContrastiveDivergence, then freeze it "
                "with energy.requires_grad_(False).",
            )
        )


def _check_base(base: TorchDistribution | None, event_shape: torch.Size) -> TorchDistribution:
    if base is None:
        return Normal(0.0, 1.0).expand(event_shape).to_event(len(event_shape))
    if base.event_shape != event_shape or base.batch_shape:
        raise ShapeError(
            f"base has batch shape {tuple(base.batch_shape)} and event shape "
            f"{tuple(base.event_shape)}, but a distribution over one point of shape "
            f"{tuple(event_shape)} is wanted: use .to_event()."
        )
    return base
