"""Runs as ArviZ's InferenceData (0.2x) or DataTree (1.x)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import xarray as xr
from torch import Tensor

from pyro_ebm.core.checks import ModelError, ShapeError
from pyro_ebm.diagnostics.container import KEEPS_MOMENTUM, as_dataset, container
from pyro_ebm.diagnostics.model_sites import (
    axis_names,
    likelihood_axis_names,
    likelihood_size,
    model_of,
    observed_data,
    pointwise_log_likelihood,
    why_no_likelihood,
)
from pyro_ebm.diagnostics.runs import Run, Warmup, read
from pyro_ebm.potentials.model import ModelPotential
from pyro_ebm.sampling.summary import to_numbers, to_numpy

_MOST_NUMBERS = 2**22
"""Pointwise log densities that are computed without being asked for (32 MiB)."""


def to_arviz(
    x: object,
    *,
    log_likelihood: bool | None = None,
    warmup: bool = False,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str | None]] | None = None,
) -> Any:
    r"""Hand a run to ArviZ: InferenceData on its 0.2x line, DataTree on 1.x, the same groups.

    ``posterior`` holds the draws in the space the user wrote them in, ``pyro.deterministic``
    sites included; ``sample_stats`` every statistic that the kernel has (``energy`` only where
    there is a momentum, ``lp`` is the log density in unconstrained space); ``observed_data``
    the data of a Pyro model; ``log_likelihood`` the pointwise :math:`\log p(y_i | \theta)`,
    with scales and masks. Booleans in the posterior are 0 and 1 there (ArviZ's statistics
    subtract). Axes that belong to a plate have its name. What is left out and why
    is in ``attrs`` at the root.

    Pyro's own MCMC keeps divergences only; ``RecordingNUTS`` and ``RecordingHMC`` keep the
    rest. Its model is run again, with the arguments of the run, for what comes from the model.

    Args:
        x: Our ``MCMC``, a ``pyro.infer.MCMC``, or a dict of arrays or tensors
            ``(chain, draw, *event)``.
        log_likelihood: True and False decide; None includes the group where it is small (at
            most 2^22 numbers). It is left out where it would not be a likelihood: for
            observed sites whose density is not normalised (``is_normalized = False`` on the
            distribution's class), for models with ``pyro.factor``, for a posterior plus a term,
            for sites that are observed in some draws only.
        warmup: Add ``warmup_posterior`` and ``warmup_sample_stats``.
        coords: Labels by name of the axis; 0, 1, ... by default.
        dims: Names of the event axes by site, instead of the plates'.

    Raises:
        RuntimeError: If ``x`` has no draws yet.
        ShapeError: If arrays do not share their chains and draws, or names do not fit.
        TypeError: If ``x`` is something else, a container of ArviZ among them.
        ValueError: If the steps of warm-up are wanted and were not kept.

    >>> import torch
    >>> data = to_arviz({"z": torch.zeros(4, 10, 3)}, dims={"z": ["school"]})
    >>> dict(data["posterior"].sizes)
    {'chain': 4, 'draw': 10, 'school': 3}
    """
    run = read(x)
    _check_draws(run.draws)
    model = model_of(run.potential)
    names = (axis_names(model) if model else {}) | dict(dims or {})
    labels = dict(coords or {})
    groups = {"posterior": as_dataset(to_numbers(run.draws), names, labels)}
    if run.stats:
        groups["sample_stats"] = _statistics(run, labels)
    if model:
        observed = to_numpy(observed_data(model))
        if observed:
            groups["observed_data"] = as_dataset(observed, names, labels, sample_dims=())
    likelihood, reason = _log_likelihood(run, labels, wanted=log_likelihood)
    if likelihood is not None:
        groups["log_likelihood"] = likelihood
    if warmup:
        kept = _kept_warmup(run)
        groups["warmup_posterior"] = as_dataset(to_numbers(kept.draws), names, labels)
        groups["warmup_sample_stats"] = as_dataset(kept.stats, {}, labels)
    attrs = _libraries(x) | run.attrs
    if reason is not None:
        attrs["log_likelihood_left_out"] = reason
    groups["posterior"] = groups["posterior"].assign_attrs(attrs)
    return container(groups, attrs)


def _statistics(run: Run, labels: Mapping[str, Any]) -> xr.Dataset:
    dataset = as_dataset(run.stats, {}, labels)
    if run.keeps_momentum and "energy" in dataset:
        dataset["energy"].attrs[KEEPS_MOMENTUM] = 1
    return dataset


def _log_likelihood(
    run: Run, labels: Mapping[str, Any], *, wanted: bool | None
) -> tuple[xr.Dataset | None, str | None]:
    """The group, or the reason why it is left out; neither where nobody would expect it."""
    if wanted is False:
        return None, None
    reason = run.attrs.get("model_sites_left_out") or why_no_likelihood(run.potential)
    model, positions = model_of(run.potential), run.positions
    if reason is not None or model is None or positions is None:
        return _left_out(reason, wanted=wanted)
    size = likelihood_size(model) * positions.shape[0] * positions.shape[1]
    if wanted is None and size > _MOST_NUMBERS:
        return None, f"it has {size} numbers; ask for it with log_likelihood=True"
    try:
        return _pointwise(model, positions, labels), None
    except ModelError as error:
        return _left_out(str(error), wanted=wanted)


def _left_out(reason: str | None, *, wanted: bool | None) -> tuple[None, str | None]:
    if wanted:
        warnings.warn(f"log_likelihood is left out: {reason}.", stacklevel=4)
    return None, reason


def _pointwise(model: ModelPotential, positions: Tensor, labels: Mapping[str, Any]) -> xr.Dataset:
    values = to_numpy(pointwise_log_likelihood(model, positions))
    return as_dataset(values, likelihood_axis_names(model), labels)


def _kept_warmup(run: Run) -> Warmup:
    if run.warmup is None:
        raise ValueError(
            "warmup=True, but the run has kept no steps of warm-up: run with save_warmup=True "
            "(an argument of MCMC, as_pyro_kernel, RecordingNUTS and RecordingHMC) and "
            "warmup_steps > 0, and more of them if a chain has not made a single transition: as "
            "many are kept as the slowest chain has made."
        )
    return run.warmup


def _check_draws(draws: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in draws.items()}
    leading = {shape[:2] for shape in shapes.values()}
    if len(leading) != 1 or any(len(shape) < 2 or 0 in shape[:2] for shape in shapes.values()):
        raise ShapeError(
            f"the draws have the shapes {shapes}, but all must begin with the same number of "
            "chains and of draws: (chain, draw, *event)."
        )


def _libraries(x: object) -> dict[str, Any]:
    ours = {"creation_library": "pyro_ebm", "creation_library_version": _own_version()}
    if isinstance(x, Mapping):
        return ours
    return ours | {
        "inference_library": "pyro_ebm",
        "inference_library_version": _own_version(),
    }


def _own_version() -> str:
    try:
        return version("pyro-ebm")
    except PackageNotFoundError:
        return "not installed"
