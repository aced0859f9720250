"""One row or more for every exported kernel; a class without one fails the contract test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyro_ebm.kernels import (
    HMC,
    MALA,
    MCLACHLAN,
    NUTS,
    ROTATIONS,
    SGLD,
    AnnealedLangevin,
    ChEESHMC,
    Langevin,
    PreconditionedMALA,
    ReplicaExchange,
    UnderdampedLangevin,
)

SCALE = torch.tensor([0.7, 1.0, 1.6, 1.0, 0.5, 1.2])
# A factor of a covariance with correlations.
FACTOR = torch.linalg.cholesky(SCALE.diag() + 0.2)
CENTER = torch.tensor([0.3, 0.0, -0.2, 1.0, 0.0, 0.1])

# A short one, so that a few steps make a draw.
LADDER = {"step_size": 0.1, "noise_levels": (2.0, 1.0), "steps_per_level": 1}

# Stretches are powers of two, so that a change of units rounds nothing.
BETAS = torch.tensor([1.0, 0.25, 0.0625])

# Rows are kernels for six coordinates with a step size.
FACTORIES: dict[type, dict[str, Callable[[], Any]]] = {
    AnnealedLangevin: {
        "plain": lambda: AnnealedLangevin(**LADDER),
        "cold": lambda: AnnealedLangevin(noise_scale=0.3, scale=SCALE, **LADDER),
        "clipped": lambda: AnnealedLangevin(grad_clip=0.7, scale=FACTOR, **LADDER),
    },
    ChEESHMC: {
        "plain": lambda: ChEESHMC(step_size=0.8),
        "scaled": lambda: ChEESHMC(step_size=0.8, scale=SCALE),
        "dense": lambda: ChEESHMC(step_size=0.8, scale=FACTOR, full_mass=True),
        "one step": lambda: ChEESHMC(step_size=0.8, trajectory_length=0.1),
        "McLachlan": lambda: ChEESHMC(step_size=1.2, integrator=MCLACHLAN),
        "rotations": lambda: ChEESHMC(
            step_size=1.2, scale=SCALE, integrator=ROTATIONS, center=CENTER
        ),
    },
    HMC: {
        "plain": lambda: HMC(step_size=0.8),
        "scaled": lambda: HMC(step_size=0.8, scale=SCALE),
        "dense": lambda: HMC(step_size=0.8, scale=FACTOR, full_mass=True),
        "one step": lambda: HMC(step_size=0.8, trajectory_length=0.1),
        "McLachlan": lambda: HMC(step_size=1.2, scale=SCALE, integrator=MCLACHLAN),
        "rotations": lambda: HMC(
            step_size=1.2, scale=FACTOR, full_mass=True, integrator=ROTATIONS, center=CENTER
        ),
    },
    Langevin: {
        "plain": lambda: Langevin(step_size=0.4),
        "scaled": lambda: Langevin(step_size=0.4, scale=SCALE),
    },
    MALA: {
        "plain": lambda: MALA(step_size=0.8),
        "scaled": lambda: MALA(step_size=0.8, scale=SCALE),
        "dense": lambda: MALA(step_size=0.8, scale=FACTOR),
    },
    NUTS: {
        "plain": lambda: NUTS(step_size=0.8),
        "scaled": lambda: NUTS(step_size=0.8, scale=SCALE),
        "dense": lambda: NUTS(step_size=0.8, scale=FACTOR, full_mass=True),
        "shallow": lambda: NUTS(step_size=0.8, max_tree_depth=1),
        "McLachlan": lambda: NUTS(step_size=1.2, scale=FACTOR, integrator=MCLACHLAN),
        "rotations": lambda: NUTS(step_size=1.2, scale=SCALE, integrator=ROTATIONS, center=CENTER),
    },
    PreconditionedMALA: {
        "plain": lambda: PreconditionedMALA(step_size=0.8),
        "scaled": lambda: PreconditionedMALA(step_size=0.8, scale=SCALE),
        "dense": lambda: PreconditionedMALA(step_size=0.8, scale=FACTOR),
    },
    ReplicaExchange: {
        "plain": lambda: ReplicaExchange(MALA(step_size=0.8), betas=BETAS),
        "HMC": lambda: ReplicaExchange(HMC(trajectory_length=0.5), step_size=0.8, betas=BETAS),
        "NUTS": lambda: ReplicaExchange(NUTS(step_size=0.8, scale=SCALE), betas=BETAS[:2]),
    },
    SGLD: {
        "plain": lambda: SGLD(step_size=0.2),
        "cold": lambda: SGLD(step_size=0.2, noise_scale=0.3, scale=SCALE),
        "dense": lambda: SGLD(step_size=0.2, temperature=2.0, scale=FACTOR),
        "clipped": lambda: SGLD(step_size=0.2, grad_clip=0.7, position_bounds=(-60.0, 60.0)),
    },
    UnderdampedLangevin: {
        "plain": lambda: UnderdampedLangevin(step_size=0.4),
        "scaled": lambda: UnderdampedLangevin(step_size=0.4, scale=SCALE, friction=0.3),
    },
}
