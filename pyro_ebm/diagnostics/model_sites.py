"""What a Pyro model adds to its draws: observed data, pointwise likelihood, names of axes."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.types import Potential
from pyro_ebm.estimators.wrappers import innermost, is_normalized
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
    return {
        name: torch.as_tensor(site["value"]) for name, site in _data_sites(model.prototype).items()
    }


def deterministic_draws(model: ModelPotential, positions: Tensor) -> dict[str, Tensor]:
    """Values of the ``pyro.deterministic`` sites at positions ``(chain, draw, dim)``."""
    if not model.deterministic_names:
        return {}
    sites = model.constrain(positions)
    return {name: sites[name] for name in model.deterministic_names}


def axis_names(model: ModelPotential) -> dict[str, Names]:
    """Names of the plates behind the axes of every latent, deterministic and observed site."""
    nodes = model.prototype.nodes
    names = [
        *(site.name for site in model.sites),
        *model.deterministic_names,
        *_data_sites(model.prototype),
    ]
    return {name: _value_axes(nodes[name]) for name in names}


def likelihood_axis_names(model: ModelPotential) -> dict[str, Names]:
    """Names of the plates behind the axes of every observed site's log density."""
    return {
        name: _plates_behind(site, tuple(site["log_prob"].shape))
        for name, site in _data_sites(model.prototype).items()
    }


def likelihood_size(model: ModelPotential) -> int:
    """Number of pointwise log densities at one position."""
    return sum(site["log_prob"].numel() for site in _data_sites(model.prototype).values())


def why_no_likelihood(potential: Potential | None) -> str | None:
    """Why the pointwise log-likelihood would be missing or meaningless; None if it is not."""
    model = model_of(potential)
    if model is None:
        return "the target is not a Pyro model"
    if isinstance(potential, SumPotential):
        return "the target is a posterior plus another term, so the draws are not its posterior"
    if model.enumerated_names:
        return (
            f"the discrete sites {model.enumerated_names} are summed out, so single data have no "
            "log density of their own"
        )
    return _why_not_of_the_data(model)


def _why_not_of_the_data(model: ModelPotential) -> str | None:
    sites = _data_sites(model.prototype)
    if not sites:
        return "the model has no observed sites"
    unnormalised = [name for name, site in sites.items() if not is_normalized(site["fn"])]
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
    """Log densities of the data ``(chain, draw, *batch)``, with their scales and masks.

    Raises:
        ModelError: If the model observes other sites at one position than at another.
    """
    names = set(_data_sites(model.prototype))

    def read(q: Tensor) -> dict[str, Tensor]:
        sites = _data_sites(model.at(q).trace)
        if set(sites) != names:
            raise ModelError(
                f"the sites {sorted(names ^ set(sites))} are observed in some draws only"
            )
        return {name: site["log_prob"] for name, site in sites.items()}

    return model.evaluate(read, positions)


def _data_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    return {
        name: site
        for name, site in trace.nodes.items()
        if is_data(site) and not _is_factor(site) and not _is_computed(site["fn"])
    }


def _is_factor(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and isinstance(innermost(site["fn"]), dist.Unit)


def _is_computed(distribution: Any) -> bool:
    """Whether a site holds a computed value: what a reparameterisation puts in a site's place."""
    return (
        isinstance(distribution, dist.MaskedDistribution)
        and distribution._mask is False
        and isinstance(innermost(distribution), dist.Delta)
    )


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
