"""Where chains begin: given by the user, by one of Pyro's strategies, or at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import ModelError, ShapeError, check_finite
from pyro_ebm.core.types import Potential
from pyro_ebm.potentials.model import ModelPotential
from pyro_ebm.potentials.starts import check_starts, finite_starts


def starts(
    potential: Potential,
    num_chains: int,
    generator: torch.Generator,
    *,
    initial_params: dict[str, Tensor] | None = None,
    init_strategy: Callable[..., Any] | None = None,
) -> Tensor:
    """Positions ``(num_chains, dim)`` of finite energy and gradient.

    Args:
        potential: What to sample.
        num_chains: Number of chains.
        generator: Source of randomness.
        initial_params: Unconstrained values by site with a leading chain axis.
        init_strategy: One of ``pyro.infer.autoguide.init_to_*``.

    Raises:
        NonFiniteError: If a start is not finite, or none is found.
        ShapeError: If the given values do not fit.
        ModelError: If there is a strategy and no Pyro model.
    """
    if initial_params is not None:
        return check_starts(potential, _given(potential, num_chains, initial_params))
    if init_strategy is None:
        return finite_starts(potential, num_chains, generator)
    if not isinstance(potential, ModelPotential):
        raise ModelError(
            f"init_strategy needs the sites of a Pyro model, but the target is {potential!r}: "
            "give initial_params instead."
        )
    return check_starts(potential, potential.initial_from(init_strategy, num_chains, generator))


def _given(potential: Potential, num_chains: int, params: dict[str, Tensor]) -> Tensor:
    _check_tensors(params)
    position = potential.flatten(params).to(potential.device, potential.dtype)
    wanted = (num_chains, potential.dim)
    if position.ndim == 1 and num_chains == 1:
        position = position.unsqueeze(0)
    if position.shape != wanted:
        raise ShapeError(
            f"initial_params hold positions of shape {tuple(position.shape)}, but {wanted} is "
            "wanted, (num_chains, dim): give every site a leading axis of num_chains."
        )
    return position.detach().clone()


def _check_tensors(params: object) -> None:
    if not isinstance(params, dict) or not all(isinstance(v, Tensor) for v in params.values()):
        raise ShapeError(
            f"initial_params is {params!r}, but a dict of tensors is wanted: unconstrained values "
            "by site, (num_chains, *event) each."
        )
    for name, value in params.items():
        check_finite(f"initial_params[{name!r}]", value)
