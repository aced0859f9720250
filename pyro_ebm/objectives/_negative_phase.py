"""The negative phase: chains that are constants in the parameters of the energy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyro_ebm.core.checks import NonFiniteError, StepSizeError
from pyro_ebm.core.types import Energy, Kernel
from pyro_ebm.potentials import EnergyPotential
from pyro_ebm.sampling.walk import walk


def check_recipe(kernel: Kernel[Any, Any]) -> None:
    """Refuse a recipe that no chain can follow without a warm-up."""
    if kernel.step_size is None:
        name = type(kernel).__name__
        raise StepSizeError(
            f"{name} has no step size, and an objective has no warm-up to tune one: give it, as "
            f"in {name}(step_size=0.1)."
        )


def moved(
    kernel: Kernel[Any, Any],
    energy: Energy,
    start: Tensor,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Points ``(B, *event)`` after ``num_steps`` steps from ``start``, detached."""
    potential = EnergyPotential(energy)
    position = start.detach().reshape(len(start), potential.dim)
    with _frozen(energy):
        return walk(kernel, potential, position, num_steps, generator).reshape(start.shape)


@contextmanager
def _frozen(energy: Energy) -> Iterator[None]:
    """Chains need gradients in x only: about a sixth of the time of each is saved."""
    modules = [energy] if isinstance(energy, nn.Module) else []
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True


def contrast(energy: Energy, data: Tensor, negatives: Tensor) -> Tensor:
    r"""Surrogate :math:`\overline{E(x^+)} - \overline{E(x^-)}`.

    Raises:
        NonFiniteError: If the mean energy of either is not finite.
    """
    positive, negative = energy(data).mean(), energy(negatives.detach()).mean()
    loss = positive - negative
    if not bool(torch.isfinite(loss)):
        raise NonFiniteError(
            f"the mean energy is {positive.item():.6g} on the data and {negative.item():.6g} on "
            "the chains: the parameters have left the region where the energy is finite. Lower the "
            "learning rate or the kernel's step size, or add a base term to the energy."
        )
    return loss
