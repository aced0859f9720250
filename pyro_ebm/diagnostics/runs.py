"""What a finished run left behind, whoever made it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.types import Potential
from pyro_ebm.diagnostics.container import Array, is_container
from pyro_ebm.diagnostics.model_sites import deterministic_draws, model_of
from pyro_ebm.potentials.model import ModelPotential
from pyro_ebm.potentials.pyro_target import PotentialFunction
from pyro_ebm.potentials.targets import as_potential
from pyro_ebm.sampling.mcmc import MCMC
from pyro_ebm.sampling.pyro_bridge import PyroKernel
from pyro_ebm.sampling.recording import RECORD, ChainRecord
from pyro_ebm.sampling.summary import to_numpy

Draws = dict[str, Tensor]


@dataclass(frozen=True)
class Warmup:
    """Steps of warm-up: values and statistics, ``(chain, draw, *event)`` each."""

    draws: Draws
    stats: dict[str, Array]


@dataclass(frozen=True)
class Run:
    """Draws with everything that is known about them.

    Args:
        draws: Values by site, ``(chain, draw, *event)``.
        stats: Per-draw statistics under ArviZ's names.
        warmup: The steps of warm-up, if they were kept.
        potential: What was sampled, if that is known.
        positions: Unconstrained draws ``(chain, draw, dim)`` of ``potential``.
        attrs: What is worth a note, in strings and numbers.
        keeps_momentum: Whether the momentum is not drawn anew for each draw.
    """

    draws: Draws
    stats: dict[str, Array] = field(default_factory=dict)
    warmup: Warmup | None = None
    potential: Potential | None = None
    positions: Tensor | None = None
    attrs: dict[str, Any] = field(default_factory=dict)
    keeps_momentum: bool = False


def read_mcmc(mcmc: MCMC) -> Run:
    """Read a run of our driver.

    Raises:
        RuntimeError: If it has no draws yet.
    """
    if mcmc.chains is None:
        raise RuntimeError("there are no draws yet: call run(...) first.")
    draws = mcmc.get_samples(group_by_chain=True)
    kept, warmup = mcmc.warmup_chains, None
    if kept is not None:
        warmup = Warmup(mcmc.potential.constrain(kept.positions), to_numpy(kept.stats))
    stats = to_numpy(mcmc.chains.stats)
    return Run(
        draws=draws,
        stats=stats,
        warmup=warmup,
        potential=mcmc.potential,
        positions=mcmc.chains.positions,
        attrs=_kernel_attrs(mcmc.kernel, mcmc.potential) | _step_sizes(stats),
        keeps_momentum=mcmc.kernel.keeps_momentum,
    )


def read_pyro(mcmc: Any) -> Run:
    """Read a run of ``pyro.infer.MCMC``, by a recording kernel or not.

    Raises:
        RuntimeError: If it has no draws yet.
    """
    if mcmc._samples is None:
        raise RuntimeError("there are no draws yet: call run(...) first.")
    draws = dict(mcmc.get_samples(group_by_chain=True))
    records = [chain.get(RECORD) for chain in mcmc._diagnostics]
    stats = _stacked([r.stats for r in records]) if all(records) else _divergences(mcmc, draws)
    attrs = _step_sizes(stats)
    potential, positions = None, None
    try:
        potential = _pyro_potential(mcmc)
        if potential is not None:
            positions = potential.unconstrain(draws)
            draws |= _deterministic(potential, positions)
    except ValueError as error:  # a model that only Pyro can run; its draws are still good
        attrs["model_sites_left_out"] = str(error)
    attrs |= _pyro_attrs(mcmc.kernel, potential)
    return Run(
        draws=draws,
        stats=stats,
        warmup=_pyro_warmup(mcmc, records, potential),
        potential=potential,
        positions=positions,
        attrs=attrs,
        keeps_momentum=_keeps_momentum(mcmc.kernel),
    )


def read_arrays(arrays: Mapping[str, Any]) -> Run:
    """Take draws ``(chain, draw, *event)`` by name as they are.

    Raises:
        TypeError: If some of it is no array of numbers.
    """
    return Run({name: _as_tensor(name, value) for name, value in arrays.items()})


def _as_tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is a {type(value).__name__}, but an array or tensor of numbers "
            f"(chain, draw, *event) is wanted: {error}"
        ) from error


def _deterministic(potential: Potential, positions: Tensor) -> Draws:
    model = model_of(potential)
    return {} if model is None else deterministic_draws(model, positions)


def _pyro_potential(mcmc: Any) -> Potential | None:
    """What was sampled, made again from the kernel and the arguments of the run.

    Raises:
        ValueError: If the model cannot be a potential.
    """
    kernel = mcmc.kernel
    if isinstance(kernel, PyroKernel):
        return as_potential(kernel.kernel.target, *mcmc._args, **mcmc._kwargs)
    model, potential_fn = getattr(kernel, "model", None), getattr(kernel, "potential_fn", None)
    if model is None:
        return potential_fn.potential if isinstance(potential_fn, PotentialFunction) else None
    potential = ModelPotential(model, *mcmc._args, **mcmc._kwargs)
    try:
        potential.transforms()
    except ModelError as error:
        warnings.warn(f"Pyro's draws of this model are wrong: {error}", stacklevel=2)
        raise
    return potential


def _pyro_warmup(
    mcmc: Any, records: list[ChainRecord | None], potential: Potential | None
) -> Warmup | None:
    kept = [record for record in records if record is not None and record.warmup_params]
    if len(kept) < len(records):
        return None
    values = _stacked([record.warmup_params or {} for record in kept])
    unconstrained = {name: torch.from_numpy(value) for name, value in values.items()}
    draws = {
        name: mcmc.transforms[name].inv(value) if name in mcmc.transforms else value
        for name, value in unconstrained.items()
    }
    if potential is not None:
        positions = potential.flatten(unconstrained).to(potential.device)
        draws |= _deterministic(potential, positions)
    return Warmup(draws, _stacked([record.warmup_stats or {} for record in kept]))


def _keeps_momentum(kernel: Any) -> bool:
    return isinstance(kernel, PyroKernel) and kernel.kernel.keeps_momentum


def _divergences(mcmc: Any, draws: Draws) -> dict[str, Array]:
    """Pyro's own kernels tell the indices of the divergent draws of each chain."""
    indices = [chain.get("divergences") for chain in mcmc._diagnostics]
    if not draws or any(chain is None for chain in indices):
        return {}
    diverging = np.zeros(next(iter(draws.values())).shape[:2], dtype=bool)
    for row, chain in zip(diverging, indices, strict=True):
        row[list(chain)] = True
    return {"diverging": diverging}


def _pyro_attrs(kernel: Any, potential: Potential | None) -> dict[str, Any]:
    if isinstance(kernel, PyroKernel):
        return _kernel_attrs(kernel.kernel, potential)
    return {
        "kernel": type(kernel).__name__,
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
    }


def _kernel_attrs(kernel: Any, potential: Potential | None) -> dict[str, Any]:
    """The target has a line of its own: inside the kernel it could be a bare address."""
    recipe = dataclasses.replace(kernel, target=None)
    return {"kernel": repr(recipe), "target": repr(potential)}


def _step_sizes(stats: dict[str, Array]) -> dict[str, Any]:
    """The last step size: one number if the chains share it, else one for each chain."""
    if "step_size" not in stats:
        return {}
    last = stats["step_size"][:, -1]
    return {"step_size": float(last[0]) if np.ptp(last) == 0 else last}


def _stacked(chains: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.stack([chain[name] for chain in chains]) for name in chains[0]}


def read(x: object) -> Run:
    """Read whatever :func:`pyro_ebm.diagnostics.to_arviz` takes.

    Raises:
        TypeError: If that is none of it.
    """
    if isinstance(x, MCMC):
        return read_mcmc(x)
    if isinstance(x, pyro.infer.MCMC):
        return read_pyro(x)
    if is_container(x):
        raise TypeError(
            f"{type(x).__name__} came, which is what ArviZ works on already: use it as it is."
        )
    if isinstance(x, Mapping):
        return read_arrays(x)
    raise TypeError(
        f"{type(x).__name__} came, but a pyro_ebm.MCMC, a pyro.infer.MCMC or a dict of arrays "
        "(chain, draw, *event) is wanted."
    )
