"""The sample sites of a Pyro model: found once, then placed at given values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials.starts import INITIAL_RADIUS
from pyro_ebm.potentials.supports import bijection_to
from pyro_ebm.potentials.validation import without_validation


class LatentSite(NamedTuple):
    """One continuous latent site, flattened into ``q[start:stop]``."""

    name: str
    start: int
    stop: int
    unconstrained_shape: torch.Size
    dtype: torch.dtype
    transform: Transform


class _Starter(Messenger):
    """Give each latent site a feasible value without asking more of it than its support."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["fn"] = without_validation(msg["fn"])
        if not is_sampled(msg):
            return
        transform = bijection_to(_support(msg))
        shape = transform.inverse_shape(msg["fn"].batch_shape + msg["fn"].event_shape)
        unconstrained = _example(msg["fn"]).new_empty(shape)
        msg["value"] = transform(unconstrained.uniform_(-INITIAL_RADIUS, INITIAL_RADIUS))
        msg["done"] = True


def is_latent(site: dict[str, Any]) -> bool:
    """Whether a site is a random variable that nothing has fixed."""
    return (
        site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
        and not is_deterministic(site)
    )


def is_enumerated(site: dict[str, Any]) -> bool:
    """Whether a site is to be summed out: all its values are tried."""
    return is_latent(site) and site["infer"].get("enumerate") == "parallel"


def is_sampled(site: dict[str, Any]) -> bool:
    """Whether a site is a random variable that chains move."""
    return is_latent(site) and not is_enumerated(site)


def is_deterministic(site: dict[str, Any]) -> bool:
    """Whether a site was recorded by ``pyro.deterministic``."""
    return bool(site["type"] == "sample" and site["infer"].get("_deterministic", False))


def is_data(site: dict[str, Any]) -> bool:
    """Whether a site compares something with observed data (no factor, no bookkeeping)."""
    return bool(
        site["type"] == "sample"
        and site["is_observed"]
        and not is_deterministic(site)
        and not site_is_subsample(site)
        and not site["infer"].get("is_auxiliary", False)
    )


def first_trace(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """Run the model once at a feasible random point."""
    with _Starter():
        return poutine.trace(model).get_trace(*args, **kwargs)


def find_latent_sites(trace: Trace) -> tuple[LatentSite, ...]:
    """Lay the latent sites of a trace out in one vector, in the order of the model."""
    sites: list[LatentSite] = []
    start = 0
    for name, node in trace.nodes.items():
        if not is_sampled(node):
            continue
        transform = bijection_to(node["fn"].support)
        shape = transform.inverse_shape(node["value"].shape)
        stop = start + shape.numel()
        sites.append(LatentSite(name, start, stop, shape, node["value"].dtype, transform))
        start = stop
    return tuple(sites)


def split(q: Tensor, sites: tuple[LatentSite, ...]) -> dict[str, Tensor]:
    """Unconstrained values by name, each in its site's own type: ``(*chains, dim)`` in."""
    return {
        site.name: q[..., site.start : site.stop]
        .reshape(q.shape[:-1] + site.unconstrained_shape)
        .to(site.dtype)
        for site in sites
    }


def plate_dims(site: dict[str, Any]) -> tuple[str | None, ...]:
    """Name of the plate behind each axis of a site's value, None where there is none."""
    value, event_dim = site["value"], site["fn"].event_dim
    dims: list[str | None] = [None] * value.ndim
    for frame in site["cond_indep_stack"]:
        axis = None if frame.dim is None else value.ndim - event_dim + frame.dim
        if axis is not None and axis >= 0 and value.shape[axis] == frame.size:
            dims[axis] = frame.name
    return tuple(dims)


def _support(site: dict[str, Any]) -> Any:
    if _is_point_mass(site["fn"]):
        raise ModelError(
            f"the latent site {site['name']!r} ({site['fn']}) is a point mass, which has no "
            "density that chains could move on: use pyro.deterministic."
        )
    try:
        support = site["fn"].support
    except NotImplementedError as error:
        raise ModelError(
            f"the latent site {site['name']!r} ({site['fn']}) has no support, so it cannot be "
            "mapped to unconstrained coordinates: give its distribution a `support` property."
        ) from error
    if support.is_discrete:
        raise ModelError(
            f"the latent site {site['name']!r} ({site['fn']}) is discrete, but gradient-based "
            "kernels need continuous latent sites: have it summed out with "
            'infer={"enumerate": "parallel"} at the site, or all such sites with '
            "pyro.infer.config_enumerate(model); if its support is infinite, condition on it."
        )
    return support


def _is_point_mass(distribution: Any) -> bool:
    return isinstance(_innermost(distribution), Delta)


def _innermost(distribution: Any) -> Any:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def _example(distribution: Any) -> Tensor:
    """A value's type and device; improper laws cannot be sampled and take the defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the value, which nobody uses
        try:
            value: Tensor = distribution.sample()
        except NotImplementedError:
            return torch.empty(0)
        except (RuntimeError, ValueError):  # at a point where its parameters are infeasible
            return _parameter(distribution)
    return value


def _parameter(distribution: Any) -> Tensor:
    parts = [*vars(_innermost(distribution)).values(), torch.empty(0)]
    tensors = (part for part in parts if isinstance(part, Tensor) and part.is_floating_point())
    return next(tensors)
