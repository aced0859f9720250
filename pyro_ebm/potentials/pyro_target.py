"""Our potentials in the form that ``pyro.infer.NUTS`` and ``HMC`` take."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_ebm.core.checks import check_count
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Potential
from pyro_ebm.potentials.starts import finite_starts
from pyro_ebm.potentials.targets import as_potential


class PyroTarget(NamedTuple):
    """What Pyro's kernels and ``pyro.infer.MCMC`` take."""

    potential_fn: PotentialFunction
    """Potential energy of a dict of unconstrained values: a scalar."""
    initial_params: dict[str, Tensor]
    """Unconstrained starts, with a leading chain axis if there is more than one chain."""
    transforms: dict[str, Transform]
    """Maps from constrained to unconstrained values, in Pyro's direction."""


class PotentialFunction:
    """A potential as a scalar function of Pyro's dict; picklable if the target is."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential

    def __call__(self, params: dict[str, Tensor]) -> Tensor:
        return self.potential(self.potential.flatten(params))

    def __repr__(self) -> str:
        return f"PotentialFunction({self.potential!r})"


def as_potential_fn(target: object, num_chains: int, *args: Any, **kwargs: Any) -> PyroTarget:
    """Hand a target to Pyro's own kernels.

    Args:
        target: A potential, an energy, or a Pyro model.
        num_chains: Number of chains of ``pyro.infer.MCMC``.
        *args: Arguments of the model.
        **kwargs: Keyword arguments of the model.

    Raises:
        ModelError: If a support depends on a latent value: Pyro applies one frozen transform
            to all draws, which would be wrong.

    >>> import torch
    >>> from pyro_ebm.energies import QuarticEnergy
    >>> start = as_potential_fn(QuarticEnergy(), num_chains=2)
    >>> start.initial_params["x"].shape, start.potential_fn({"x": torch.ones(())}).item()
    (torch.Size([2]), 0.25)
    """
    check_count("num_chains", num_chains)
    potential = as_potential(target, *args, **kwargs)
    transforms = {name: transform.inv for name, transform in potential.transforms().items()}
    positions = finite_starts(potential, num_chains, own_generator(None, potential.device))
    starts = potential.unflatten(positions if num_chains > 1 else positions[0])
    return PyroTarget(PotentialFunction(potential), starts, transforms)
