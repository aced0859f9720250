"""Default starting points of chains."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ebm.core.checks import NonFiniteError
from pyro_ebm.core.positions import choose
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Potential

_TRIES = 100

INITIAL_RADIUS = 2.0
"""Starts are uniform on [-2, 2] in unconstrained coordinates, as in Stan and Pyro."""


def uniform_starts(
    potential: Potential, num_chains: int, generator: torch.Generator | None
) -> Tensor:
    """Over-dispersed positions ``(num_chains, dim)`` for a potential of unit scale."""
    generator = own_generator(generator, potential.device)
    uniform = torch.rand(
        num_chains,
        potential.dim,
        generator=generator,
        dtype=potential.dtype,
        device=potential.device,
    )
    return INITIAL_RADIUS * (2.0 * uniform - 1.0)


def finite_starts(potential: Potential, num_chains: int, generator: torch.Generator) -> Tensor:
    """Starting points whose energy and gradient are finite, found by retrying.

    Raises:
        NonFiniteError: If a chain finds none in 100 tries; names the site that is not finite.
    """
    positions = potential.initial(num_chains, generator=generator)
    finite = is_finite_start(potential, positions)
    for _ in range(_TRIES - 1):
        if bool(finite.all()):
            return positions
        fresh = potential.initial(num_chains, generator=generator)
        positions = choose(finite, positions, fresh)
        finite = is_finite_start(potential, positions)
    if bool(finite.all()):
        return positions
    raise NonFiniteError(
        f"{int((~finite).sum())} of {num_chains} chains found no starting point of finite energy "
        f"and gradient in {_TRIES} tries: {explain_start(potential, positions, finite)}. Give "
        "initial_params or an init_strategy, or mend the model there."
    )


def check_starts(potential: Potential, positions: Tensor) -> Tensor:
    """Return given starting points if their energies and gradients are finite.

    Raises:
        NonFiniteError: If one is not; names the chain and the site.
    """
    finite = is_finite_start(potential, positions)
    if not bool(finite.all()):
        chains = (~finite).nonzero().flatten().tolist()
        raise NonFiniteError(
            f"chains {chains} start where energy or gradient is not finite: "
            f"{explain_start(potential, positions, finite)}. Start them elsewhere."
        )
    return positions


def is_finite_start(potential: Potential, positions: Tensor) -> Tensor:
    """Chains ``(C,)`` whose energy and gradient are finite."""
    value, grad = potential.value_and_grad(positions)
    return torch.isfinite(value) & torch.isfinite(grad).all(dim=-1)


def explain_start(potential: Potential, positions: Tensor, finite: Tensor) -> str:
    """What is not finite at the first bad chain."""
    return potential.explain_nonfinite(positions[int((~finite).nonzero()[0])])
