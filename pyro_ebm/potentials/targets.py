"""From what users hand over to a potential."""

from __future__ import annotations

from typing import Any

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.types import Energy, Potential
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.potentials.model import ModelPotential


def as_potential(target: object, *args: Any, **kwargs: Any) -> Potential:
    """Turn a target into a potential.

    A potential is taken as it is, an object with an ``event_shape`` is an energy, and any
    other callable is a Pyro model, which gets the arguments.

    Args:
        target: Potential, energy, or Pyro model.
        *args: Arguments of the model.
        **kwargs: Keyword arguments of the model.

    Raises:
        ModelError: If the target is none of these, or arguments are given to one that takes
            none.

    >>> from pyro_ebm.energies import QuarticEnergy
    >>> as_potential(QuarticEnergy()).dim
    1
    """
    if not isinstance(target, (Potential, Energy)) and callable(target):
        return ModelPotential(target, *args, **kwargs)
    if not isinstance(target, (Potential, Energy)):
        raise ModelError(
            f"the target is {target!r}, but a Pyro model, an energy (a callable with an "
            "event_shape) or a potential is wanted: give the kernel one, as in MALA(model)."
        )
    if args or kwargs:
        raise ModelError(
            f"arguments were given to run(...), but the target {target!r} is not a Pyro model and "
            "takes none: call run() without arguments."
        )
    return target if isinstance(target, Potential) else EnergyPotential(target)
