"""What a model with discrete sites must not do for them to be summed out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.ops import packed
from pyro.ops.provenance import get_provenance
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.potentials.enumeration import Enumeration, sites_with_density
from pyro_ebm.potentials.placing import PlacedModel
from pyro_ebm.potentials.sites import LatentSite, is_deterministic, is_enumerated


def find_enumeration(trace: Trace) -> Enumeration | None:
    """The discrete sites to sum out, None if there are none.

    Raises:
        ModelError: If one of them cannot be summed out.
    """
    values = {}
    for name, site in trace.nodes.items():
        if is_enumerated(site):
            _check_support(name, site)
            _check_batch(name, site)
            values[name] = site["value"]
    if not values:
        return None
    sites = sites_with_density(trace)
    frames = (frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized)
    num_axes = max(
        *(-frame.dim for frame in frames), *(site["log_prob"].ndim for site in sites), 0, 0
    )
    return Enumeration(values, -1 - num_axes)


def check_enumeration(
    placed: PlacedModel, point: Tensor, sites: tuple[LatentSite, ...]
) -> frozenset[str]:
    """Return the deterministic sites that depend on discrete ones, after a look at the model.

    Each site must have the log density that it has in an execution with single values. That
    finds broadcasts that happen to work, and values that meet outside their plates.

    Raises:
        ModelError: If the model is another one when all discrete values are tried at once.
    """
    enumeration = placed.enumeration
    if enumeration is None:
        return frozenset()
    single = placed.fixed_at(point, sites).trace
    _compare(enumeration, _all_at_once(enumeration, lambda: placed.at(point, sites).trace), single)
    if not any(map(is_deterministic, single.nodes.values())):
        return frozenset()
    return _find_dependent(placed.fixed_at(point, sites, tracks=True).trace)


def _compare(enumeration: Enumeration, whole: Trace, single: Trace) -> None:
    whole.symbolize_dims()
    names, indices = list(enumeration.values), _indices(enumeration, whole)
    for site in sites_with_density(whole):
        chosen = site["log_prob"]
        if not enumeration.is_independent(site):
            _check_scale(site, names)
            chosen = _chosen(enumeration.packed_log_prob(site), indices)
        alone = single.nodes[site["name"]]["log_prob"]
        if not _is_close(chosen, alone):
            raise ModelError(
                f"the log density of site {site['name']!r} at single values of the discrete sites "
                f"{names} is {alone.sum().item():.6g}, but {chosen.sum().item():.6g} for the same "
                "values where all are tried at once: their axes meet axes of the model's own. Put "
                "these into plates, and what depends on a site in a plate into that plate."
            )


def _all_at_once(enumeration: Enumeration, try_all: Callable[[], Trace]) -> Trace:
    try:
        return try_all()
    except (ModelError, ShapeError, NonFiniteError):
        raise
    except Exception as error:  # whatever the model does with values of unusual shapes
        raise ModelError(
            f"the model runs with single values of its discrete sites {list(enumeration.values)}, "
            "but not with all of them at once, which have their values along an axis to the left "
            f"of all plates: {_last_line(error)}. Write it for any leading axes (no `if` on them, "
            "indices with pyro.ops.indexing.Vindex), and sequences with pyro.markov."
        ) from error


def _find_dependent(trace: Trace) -> frozenset[str]:
    return frozenset(
        name
        for name, site in trace.nodes.items()
        if is_deterministic(site) and get_provenance(site["value"])
    )


def _check_support(name: str, site: dict[str, Any]) -> None:
    if site["infer"].get("num_samples") is not None:
        raise ModelError(
            f"the latent site {name!r} is to be summed over num_samples random values, so the "
            "density would change from step to step: leave num_samples out."
        )
    try:
        site["fn"].enumerate_support(expand=False)
    except NotImplementedError as error:
        raise ModelError(
            f"the latent site {name!r} ({site['fn']}) cannot be summed out, because its values "
            f"cannot be listed ({_last_line(error)}): if it is continuous, leave "
            'infer={"enumerate": "parallel"} out; put batches into plates; condition on what is '
            "infinite."
        ) from error


def _check_batch(name: str, site: dict[str, Any]) -> None:
    """Values outside plates are tried together, not one by one."""
    dims = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
    batch_shape = site["fn"].batch_shape
    free = [d for d in range(-len(batch_shape), 0) if batch_shape[d] > 1 and d not in dims]
    if free:
        raise ModelError(
            f"the discrete site {name!r} has the batch shape {tuple(batch_shape)}, but its axes "
            f"{free} are in no plate, so its values cannot be summed out one by one: put it into "
            "pyro.plate."
        )


def _check_scale(site: dict[str, Any], names: list[str]) -> None:
    scale = torch.as_tensor(site["scale"], device="cpu")
    if not bool((scale == 1).all()):
        raise ModelError(
            f"the site {site['name']!r} is scaled by {scale.flatten()[0].item():g} and depends on "
            f"the discrete sites {names}: the sum over their values of a scaled density is no "
            "likelihood. Leave out poutine.scale and subsampling there."
        )


def _indices(enumeration: Enumeration, whole: Trace) -> dict[str, Tensor]:
    """Where in its support the single value of each site is, by the symbol of its axis."""
    indices = {}
    for name, value in enumeration.values.items():
        site = whole.nodes[name]
        same = site["value"] == value
        for _ in range(site["fn"].event_dim):
            same = same.all(dim=-1)
        index = same.int().argmax(dim=site["infer"]["_enumerate_dim"], keepdim=True)
        dims = site["infer"]["_dim_to_symbol"]
        indices[site["infer"]["_enumerate_symbol"]] = packed.pack(index, dims)
    return indices


def _chosen(log_prob: Any, indices: dict[str, Tensor]) -> Tensor:
    for symbol, index in indices.items():
        if symbol in log_prob._pyro_dims:
            log_prob = packed.gather(log_prob, index, symbol)
    chosen: Tensor = log_prob
    return chosen


def _is_close(chosen: Tensor, single: Tensor) -> bool:
    precision = max(1e-8, 100.0 * torch.finfo(single.dtype).eps)
    size = single.nan_to_num().abs().sum().item()
    return torch.allclose(
        chosen.sum(), single.sum(), rtol=0.0, atol=precision * (1.0 + size), equal_nan=True
    )


def _last_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]
