"""What a Pyro model must not do to become a potential, each refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import getclosurevars, isfunction, ismethod, signature
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.potentials.sites import is_data
from pyro_ebm.potentials.tracing import RandomnessDetector

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


def check_trace(model: Callable[..., Any], trace: Trace, num_latent: int) -> None:
    """Refuse what can be seen in one execution."""
    if num_latent == 0:
        raise ModelError(
            f"the model {_name(model)} has no latent sample site, so there is nothing to sample: "
            f"add pyro.sample statements without obs. {_ENERGY_ADVICE}"
        )
    trace.compute_log_prob()
    for name, site in trace.nodes.items():
        if site["type"] == "sample":
            _check_subsampling(name, site)
            _check_data(name, site)
            _check_plates(name, site)


def check_no_randomness(model: Callable[..., Any], energy: Callable[[], Tensor]) -> None:
    """Refuse a model that is not a function of its latent values."""
    with RandomnessDetector() as detector:
        first = energy()
    if detector.operations:
        operations = ", ".join(dict.fromkeys(detector.operations))
        raise ModelError(
            f"the model {_name(model)} draws random numbers outside its sample sites "
            f"({operations}), "
            "so its density is not a function of the latent values: make them sample sites, pass "
            "them in as data, or put modules with dropout into eval() mode."
        )
    second = energy()
    if not torch.equal(first.nan_to_num(), second.nan_to_num()):
        raise ModelError(
            f"the model {_name(model)} gives the log densities {-first.item()} and "
            f"{-second.item()} "
            "at the same latent values: it keeps a state or draws random numbers outside torch. "
            "Make it a function of its latent values and arguments."
        )


def parameter_slots(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[dict[str, Any], str]]:
    """Where the modules that a model uses keep their parameters, buffers and submodules."""
    slots: list[tuple[dict[str, Any], str]] = []
    for root in _modules((model, *args, *kwargs.values())):
        for module in root.modules():
            for table in (module._parameters, module._buffers, module._modules):
                slots.extend((table, key) for key in table)
    return slots


def stored_parameters(names: tuple[str, ...]) -> tuple[Any, ...]:
    """The unconstrained tensors that Pyro's parameter store holds now, None where missing."""
    if not names:
        return ()
    store = dict(pyro.get_param_store().named_parameters())
    return tuple(store.get(name) for name in names)


def _modules(objects: tuple[Any, ...]) -> Iterator[nn.Module]:
    for item in objects:
        if isinstance(item, nn.Module):
            yield item
        elif ismethod(item):
            yield from _modules((item.__self__, item.__func__))
        elif isinstance(item, partial):
            yield from _modules((item.func, *item.args, *item.keywords.values()))
        elif isfunction(item):
            seen = getclosurevars(item)
            held = (*seen.nonlocals.values(), *seen.globals.values())
            yield from (value for value in held if isinstance(value, nn.Module))


def _check_subsampling(name: str, site: dict[str, Any]) -> None:
    if not site_is_subsample(site):
        return
    size, subsample_size = site["fn"].size, site["fn"].subsample_size
    if subsample_size is not None and subsample_size < size and not site["is_observed"]:
        raise ModelError(
            f"the plate {name!r} subsamples {subsample_size} of {size} data at random, so the "
            "density "
            "would change from step to step: give MCMC the full data (no subsample_size)."
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


def _check_plates(name: str, site: dict[str, Any]) -> None:
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    if not frames or site_is_subsample(site):
        return
    shape = site["log_prob"].shape
    for axis in range(-len(shape), 0):
        wanted = max((frame.size for frame in frames if frame.dim == axis), default=1)
        if shape[axis] not in (1, wanted):
            plates = ", ".join(f"{f.name!r} (dim {f.dim}, size {f.size})" for f in frames)
            raise ShapeError(
                f"the log density of site {name!r} has shape {tuple(shape)}, but its plates "
                f"{plates} "
                f"leave size {wanted} at axis {axis}: put the extra axis into a plate of its own, "
                "or "
                "into the event with .to_event(1)."
            )


def _name(model: Callable[..., Any]) -> str:
    return getattr(model, "__name__", None) or type(model).__name__
