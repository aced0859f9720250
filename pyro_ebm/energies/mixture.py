"""A mixture of Gaussians as an energy: several modes, everything known exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_ebm.core.checks import ShapeError, check_finite, check_floating
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.energies.compose import EnergyAlgebra
from pyro_ebm.energies.events import flatten_event
from pyro_ebm.energies.gaussian import hold

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class MixtureEnergy(EnergyAlgebra, nn.Module):
    r"""A normalised mixture of ``K`` Gaussians with independent coordinates.

    .. math:: E(x) = -\log \sum_{k=1}^{K} w_k\, N(x; \mu_k, \operatorname{diag} \sigma_k^2),
        \qquad \log Z = 0

    ``locs`` and ``scales`` are trained when they are given as :class:`torch.nn.Parameter`;
    the weights are constants. Points of another dtype are promoted by torch's rules.

    Args:
        weights: Probabilities of the components, of shape ``(K,)``.
        locs: Their means, ``(K, *event)``.
        scales: Their standard deviations, ``(K, *event)``.

    Raises:
        ShapeError: The shapes do not fit each other, or a tensor is not floating point.
        NonFiniteError: A number is NaN or infinite.
        ValueError: The weights are no probabilities, or a scale is not above zero.

    Example:
        >>> weights, locs = torch.tensor([0.3, 0.7]), torch.tensor([-2.0, 2.0])
        >>> energy = MixtureEnergy(weights, locs, torch.tensor([0.5, 1.0]))
        >>> round(energy.mean.item(), 4), round(energy.variance.item(), 4)
        (0.8, 4.135)
    """

    weights: Tensor
    locs: Tensor
    scales: Tensor

    def __init__(self, weights: Tensor, locs: Tensor, scales: Tensor) -> None:
        super().__init__()
        for name, value in (("weights", weights), ("locs", locs), ("scales", scales)):
            check_finite(name, check_floating(name, value).detach())
        _check_shapes(weights, locs, scales)
        _check_values(weights.detach(), scales.detach())
        self.event_shape = locs.shape[1:]
        self.register_buffer("weights", weights.detach().clone())
        hold(self, "locs", locs)
        hold(self, "scales", scales)

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``(*batch,)`` of the points ``(*batch, *event)``."""
        flat = flatten_event(x, self.event_shape).unsqueeze(-2)  # the axis of the components
        scales = self.scales.reshape(len(self.weights), -1)
        deviation = (flat - self.locs.reshape(len(self.weights), -1)) / scales
        log_densities = -(0.5 * deviation.square() + scales.log() + _HALF_LOG_TWO_PI).sum(-1)
        return -torch.logsumexp(self.weights.log() + log_densities, dim=-1)

    @property
    def mean(self) -> Tensor:
        """Exact mean, of the event shape."""
        return self._average(self.locs)

    @property
    def variance(self) -> Tensor:
        """Exact variances of the coordinates, of the event shape."""
        within = self.scales.square() + (self.locs - self.mean).square()
        return self._average(within)

    @property
    def log_partition(self) -> Tensor:
        """Exact ``log Z``, which is zero."""
        return self.weights.new_zeros(())

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact independent draws ``(*sample_shape, *event)``, detached."""
        device, dtype = self.locs.device, self.locs.dtype
        generator = own_generator(generator, device)
        count = math.prod(sample_shape)
        if count == 0:
            return self.locs.new_empty((*sample_shape, *self.event_shape))
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(
            (count, *self.event_shape), generator=generator, device=device, dtype=dtype
        )
        draws = self.locs[component] + self.scales[component] * noise
        return draws.reshape(*sample_shape, *self.event_shape)

    def extra_repr(self) -> str:
        """Show the shapes."""
        return f"event_shape={tuple(self.event_shape)}, num_components={len(self.weights)}"

    def _average(self, values: Tensor) -> Tensor:
        return (self.weights @ values.reshape(len(self.weights), -1)).reshape(self.event_shape)


def _check_shapes(weights: Tensor, locs: Tensor, scales: Tensor) -> None:
    if weights.ndim != 1 or locs.shape[:1] != weights.shape or scales.shape != locs.shape:
        raise ShapeError(
            f"weights, locs and scales have shapes {tuple(weights.shape)}, {tuple(locs.shape)} and "
            f"{tuple(scales.shape)}, but (K,), (K, *event) and (K, *event) are wanted."
        )


def _check_values(weights: Tensor, scales: Tensor) -> None:
    if not bool((scales > 0).all()):
        raise ValueError("scales must be standard deviations above zero.")
    # Sums of K rounded probabilities; looser would change the density noticeably.
    tolerance = 8 * torch.finfo(weights.dtype).eps * len(weights)
    if not bool((weights > 0).all()) or abs(float(weights.sum()) - 1) > tolerance:
        raise ValueError(
            f"weights are {weights.tolist()} with sum {float(weights.sum())}, but probabilities "
            "above zero with sum 1 are wanted: divide them by their sum."
        )
