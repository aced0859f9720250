"""What a Pyro model must not do to become a potential, each refused by name."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.potentials.observations import mask_of
from pyro_ebm.potentials.randomness import RandomnessDetector
from pyro_ebm.potentials.sites import is_data, is_deterministic, is_enumerated

_ENERGY_ADVICE = (
    "If it is an energy function, wrap it: EnergyPotential(f, event_shape=(2,)), or give it an "
    "event_shape attribute."
)


def check_signature(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse arguments that the model cannot be called with."""
    try:
        signature(model).bind(*args, **kwargs)
    except TypeError as error:
        raise ModelError(
            f"the model {_name(model)} was called with {len(args)} positional and "
            f"{sorted(kwargs)} keyword arguments, but {error}: pass the model's arguments to "
            f"run(...). {_ENERGY_ADVICE}"
        ) from error


def check_trace(model: Callable[..., Any], trace: Trace, sizes: list[int]) -> None:
    """Refuse what can be seen in one execution, whose latent sites have so many numbers."""
    if not sizes and any(map(is_enumerated, trace.nodes.values())):
        raise ModelError(
            f"the model {_name(model)} has discrete latent sites only, and they are summed out, so "
            "there is nothing to sample: pyro.infer.infer_discrete gives their values."
        )
    if not sizes:
        raise ModelError(
            f"the model {_name(model)} has no latent sample site, so there is nothing to sample: "
            f"add pyro.sample statements without obs. {_ENERGY_ADVICE}"
        )
    if sum(sizes) == 0:
        raise ModelError(
            f"the latent sites of the model {_name(model)} are all of size zero, so there is "
            "nothing to sample: look at the sizes of its arguments."
        )
    _check_tensors(trace)
    _compute_log_prob(trace)
    for name, site in trace.nodes.items():
        if site["type"] == "sample":
            _check_subsampling(name, site)
            _check_data(name, site)
            _check_plates(name, site)


def check_supports(first: Trace, second: Trace) -> None:
    """Refuse data outside the support of their distribution, seen in two executions.

    Validation is off while chains run, and densities outside supports can be finite. What
    differs between the executions depends on latent values, and is none of the data.
    """
    for name, site in first.nodes.items():
        if not is_data(site) or name not in second.nodes or not _is_fixed(site["fn"]):
            continue
        if site["value"].numel() == 0:
            continue
        outside = ~site["fn"].support.check(site["value"])
        same = site["value"] == second.nodes[name]["value"]
        outside = outside & same.reshape((*outside.shape, -1)).all(dim=-1)
        mask = mask_of(site)
        outside = outside if mask is None else outside & mask
        if bool(outside.any()):
            raise ModelError(
                f"{int(outside.sum())} data of site {name!r} lie outside the support of "
                f"{site['fn']}, {site['fn'].support}: mend the data or the likelihood."
            )


def check_deterministic(first: Trace, now: Trace, left_out: frozenset[str] = frozenset()) -> None:
    """Refuse deterministic sites that come, go or change shape with latent values."""
    was, has = _deterministic_shapes(first), _deterministic_shapes(now)
    for name in (*was, *has):
        if name not in left_out and was.get(name) != has.get(name):
            raise ModelError(
                f"the deterministic site {name!r} {_presence(was.get(name))} when the model was "
                f"first run, but {_presence(has.get(name))} at other latent values, so its draws "
                "cannot be stored: record it in every execution with the same shape, for instance "
                "with torch.where."
            )


def check_no_randomness(model: Callable[..., Any], energy: Callable[[], Tensor]) -> None:
    """Refuse a model that is not a function of its latent values."""
    with RandomnessDetector() as detector:
        first = energy()
    if detector.operations:
        operations = ", ".join(dict.fromkeys(detector.operations))
        raise ModelError(
            f"the model {_name(model)} draws random numbers outside its sample sites "
            f"({operations}), so its density is not a function of the latent values: make them "
            "sample sites, pass them in as data, or put modules with dropout into eval() mode."
        )
    second = energy()
    if not torch.equal(first.nan_to_num(), second.nan_to_num()):
        raise ModelError(
            f"the model {_name(model)} gives the log densities {-first.item()} and "
            f"{-second.item()} at the same latent values: it keeps a state or draws random "
            "numbers outside torch. Make it a function of its latent values and arguments."
        )


def _deterministic_shapes(trace: Trace) -> dict[str, torch.Size]:
    nodes = trace.nodes.items()
    return {k: torch.as_tensor(s["value"]).shape for k, s in nodes if is_deterministic(s)}


def _presence(shape: torch.Size | None) -> str:
    return "was not there" if shape is None else f"had shape {tuple(shape)}"


def _check_tensors(trace: Trace) -> None:
    for name, site in trace.nodes.items():
        if is_data(site) and not isinstance(site["value"], Tensor):
            raise ModelError(
                f"the data of site {name!r} are {site['value']!r} of type "
                f"{type(site['value']).__name__}, but a tensor is wanted: obs=torch.as_tensor(...)."
            )


def _compute_log_prob(trace: Trace) -> None:
    try:
        trace.compute_log_prob()
    except RuntimeError as error:
        for name, site in trace.nodes.items():
            if is_data(site) and not _fits(site):
                raise ShapeError(
                    f"the data of site {name!r} have shape {tuple(site['value'].shape)}, but its "
                    f"distribution {site['fn']} has batch shape {tuple(site['fn'].batch_shape)} "
                    f"and event shape {tuple(site['fn'].event_shape)}{_plates(site)}: make the "
                    "sizes agree."
                ) from error
        raise


def _fits(site: dict[str, Any]) -> bool:
    try:
        torch.broadcast_shapes(site["value"].shape, site["fn"].shape())
    except RuntimeError:
        return False
    return True


def _plates(site: dict[str, Any]) -> str:
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    plates = ", ".join(f"{f.name!r} (dim {f.dim}, size {f.size})" for f in frames)
    return f" in the plates {plates}" if plates else ""


def _check_subsampling(name: str, site: dict[str, Any]) -> None:
    if not site_is_subsample(site):
        return
    size, subsample_size = site["fn"].size, site["fn"].subsample_size
    if subsample_size is not None and subsample_size < size and not site["is_observed"]:
        raise ModelError(
            f"the plate {name!r} subsamples {subsample_size} of {size} data at random, so the "
            "density would change from step to step: give MCMC the full data (no subsample_size)."
        )


def _check_data(name: str, site: dict[str, Any]) -> None:
    value = site["value"]
    if not is_data(site) or not isinstance(value, Tensor) or not torch.is_floating_point(value):
        return
    if bool(torch.isnan(value).any()) and bool(torch.isnan(site["log_prob"]).any()):
        raise NonFiniteError(
            f"the data of site {name!r} hold {int(torch.isnan(value).sum())} NaN among "
            f"{value.numel()} values: remove them, or impute them with "
            "pyro.sample(..., obs=data, obs_mask=~data.isnan())."
        )


def _is_fixed(distribution: Any) -> bool:
    """Whether the support depends on nothing that the model computes."""
    try:
        support = distribution.support
    except NotImplementedError:
        return False
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return not any(isinstance(value, Tensor) for value in vars(support).values())


def _check_plates(name: str, site: dict[str, Any]) -> None:
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    if not frames or site_is_subsample(site):
        return
    shape = site["log_prob"].shape
    for axis in range(-len(shape), 0):
        sizes = [frame.size for frame in frames if frame.dim == axis]
        wanted = max(sizes, default=1)
        # Plates need not tell their size to Pyro, which calls it -1.
        if -1 not in sizes and shape[axis] not in (1, wanted):
            raise ShapeError(
                f"the log density of site {name!r}{_plates(site)} has shape {tuple(shape)}, but "
                f"its plates leave size {wanted} at axis {axis}: put the extra axis into a plate "
                "of its own, or into the event with .to_event(1)."
            )


def _name(model: Callable[..., Any]) -> str:
    return getattr(model, "__name__", None) or type(model).__name__
