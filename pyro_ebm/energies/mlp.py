"""A multilayer perceptron as an energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_ebm.core.checks import check_count, check_positive
from pyro_ebm.energies.compose import EnergyAlgebra
from pyro_ebm.energies.events import as_event_shape, flatten_event


class MLPEnergy(EnergyAlgebra, nn.Module):
    r"""A fully connected network plus the energy of a Gaussian base.

    .. math:: E(x) = f_\theta(x) + \frac{\lVert x \rVert^2}{2 s^2}

    where :math:`s` is ``base_scale``. A network with activations that grow at most linearly
    (SiLU, softplus, tanh) grows at most linearly itself, so that the base term makes
    :math:`e^{-E}` integrable whatever the weights are. Without it most networks fall to minus
    infinity in some direction and are not densities.

    Points of any event shape are flattened. They must have the dtype of the parameters.

    Args:
        event_shape: Shape of one point; an int is the length of a vector.
        hidden: Widths of the hidden layers.
        activation: Makes one activation, for example a module class. Score matching
            differentiates the energy twice, so it must be smooth; piecewise linear ones
            (ReLU) have no second derivative.
        base_scale: Standard deviation of the Gaussian base; None leaves the base term out.

    Raises:
        ValueError: A size or width is below one, or ``base_scale`` is not finite and positive.
        ShapeError: On call, the trailing axes of the points are not ``event_shape``.

    Example:
        >>> energy = MLPEnergy((8, 8), hidden=(64,))
        >>> energy(torch.zeros(5, 8, 8)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        hidden: Sequence[int] = (128, 128),
        *,
        activation: Callable[[], nn.Module] = nn.SiLU,
        base_scale: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.event_shape: torch.Size = as_event_shape(event_shape)
        self.base_scale = None if base_scale is None else check_positive("base_scale", base_scale)
        self.network = _perceptron(self.event_shape.numel(), hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``(*batch,)`` of the points ``(*batch, *event)``."""
        flat = flatten_event(x, self.event_shape)
        values: Tensor = self.network(flat).squeeze(-1)  # the single output of the network
        if self.base_scale is None:
            return values
        return values + 0.5 * (flat / self.base_scale).square().sum(-1)

    def extra_repr(self) -> str:
        """Show what the layers do not."""
        return f"event_shape={tuple(self.event_shape)}, base_scale={self.base_scale}"


def _perceptron(
    size: int, hidden: Sequence[int], activation: Callable[[], nn.Module]
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(size, check_count("each width in hidden", width)), activation()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 1))
