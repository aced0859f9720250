"""What a Pyro model adds to its draws: observed data, pointwise likelihood, names of axes."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm.core.types import Potential
from pyro_ebm.potentials.compose import SumPotential
from pyro_ebm.potentials.model import ModelPotential
from pyro_ebm.potentials.sites import is_data, is_deterministic, plate_dims

Names = tuple[str | None, ...]


def model_of(potential: Potential | None) -> ModelPotential | None:
    """The Pyro model behind a potential, None where there is none."""
    while isinstance(potential, SumPotential):
        potential = potential.potential
    return potential if isinstance(potential, ModelPotential) else None


def observed_data(model: ModelPotential) -> dict[str, Tensor]:
    """Values of the observed sites; no ``pyro.deterministic``, no ``pyro.factor``."""
    return {name: torch.as_tensor(site["value"]) for name, site in _data_sites(model).items()}


def deterministic_draws(model: ModelPotential, positions: Tensor) -> dict[str, Tensor]:
    """Values of the ``pyro.deterministic`` sites at positions ``(chain, draw, dim)``."""
    if not model.deterministic_names:
        return {}
    sites = model.constrain(positions)
    return {name: sites[name] for name in model.deterministic_names}


def axis_names(model: ModelPotential) -> dict[str, Names]:
    """Names of the plates behind the axes of every latent, deterministic and observed site."""
    nodes = model.prototype.nodes
    names = [*(site.name for site in model.sites), *model.deterministic_names, *_data_sites(model)]
    return {name: _value_axes(nodes[name]) for name in names}


def likelihood_axis_names(model: ModelPotential) -> dict[str, Names]:
    """Names of the plates behind the axes of every observed site's log density."""
    return {
        name: _plates_behind(site, tuple(site["log_prob"].shape))
        for name, site in _data_sites(model).items()
    }


def likelihood_size(model: ModelPotential) -> int:
    """Number of pointwise log densities at one position."""
    return sum(site["log_prob"].numel() for site in _data_sites(model).values())


def why_no_likelihood(potential: Potential | None) -> str | None:
    """Why the pointwise log-likelihood would be missing or meaningless; None if it is not."""
    model = model_of(potential)
    if model is None:
        return "the target is not a Pyro model"
    sites = _data_sites(model)
    if isinstance(potential, SumPotential):
        return "the target is a posterior plus another term, so the draws are not its posterior"
    if not sites:
        return "the model has no observed sites"
    unnormalised = [name for name, site in sites.items() if not _is_normalized(site["fn"])]
    if unnormalised:
        return (
            f"the density of the observed sites {unnormalised} is not normalised: log Z, which "
            "may depend on the parameters, is missing in it"
        )
    factors = [name for name, site in model.prototype.nodes.items() if _is_factor(site)]
    if factors:
        return (
            f"the model has the factors {factors}, which may hold data, and whether they are "
            "normalised cannot be known"
        )
    return None


def pointwise_log_likelihood(model: ModelPotential, positions: Tensor) -> dict[str, Tensor]:
    """Log densities of the data ``(chain, draw, *batch)``, with their scales and masks."""
    names = list(_data_sites(model))

    def read(q: Tensor) -> dict[str, Tensor]:
        nodes = model.at(q).trace.nodes
        return {name: nodes[name]["log_prob"] for name in names}

    return model.evaluate(read, positions)


def _data_sites(model: ModelPotential) -> dict[str, dict[str, Any]]:
    return {
        name: site
        for name, site in model.prototype.nodes.items()
        if is_data(site) and not _is_factor(site) and not _is_computed(site["fn"])
    }


def _is_factor(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and isinstance(_innermost(site["fn"]), dist.Unit)


def _is_computed(distribution: Any) -> bool:
    """Whether a site holds a computed value: what a reparameterisation puts in a site's place."""
    return (
        isinstance(distribution, dist.MaskedDistribution)
        and distribution._mask is False
        and isinstance(_innermost(distribution), dist.Delta)
    )


def _is_normalized(distribution: Any) -> bool:
    """An unnormalised density says so on its class, however it is wrapped."""
    while True:
        if not getattr(distribution, "is_normalized", True):
            return False
        if not hasattr(distribution, "base_dist"):
            return True
        distribution = distribution.base_dist


def _innermost(distribution: Any) -> Any:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def _value_axes(site: dict[str, Any]) -> Names:
    if not isinstance(site["value"], Tensor):
        return ()
    # pyro.deterministic counts every axis as part of the event, the plates' included.
    if is_deterministic(site) and site["fn"].event_dim == site["value"].ndim:
        return _plates_behind(site, tuple(site["value"].shape))
    return plate_dims(site)


def _plates_behind(site: dict[str, Any], shape: tuple[int, ...]) -> Names:
    names: list[str | None] = [None] * len(shape)
    for frame in site["cond_indep_stack"]:
        if frame.dim is not None and -frame.dim <= len(shape) and shape[frame.dim] == frame.size:
            names[frame.dim] = frame.name
    return tuple(names)
