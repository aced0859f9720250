"""ArviZ's container on both of its lines: InferenceData on 0.2x, DataTree on 1.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from pyro_ebm.core.checks import ShapeError
from pyro_ebm.sampling.summary import HAS_DATATREE

Array = np.ndarray[Any, Any]
Dims = Mapping[str, Sequence[str | None]]

SAMPLE_DIMS = ("chain", "draw")

KEEPS_MOMENTUM = "keeps_momentum"
"""Attribute of ``energy`` for kernels that do not draw the momentum anew for each draw."""


def as_dataset(
    variables: Mapping[str, Array],
    dims: Dims,
    coords: Mapping[str, Any],
    sample_dims: tuple[str, ...] = SAMPLE_DIMS,
) -> xr.Dataset:
    """Arrays with named axes, numbered from zero where ``coords`` does not say otherwise.

    ArviZ needs the names ``chain`` and ``draw`` for itself: sites of that name get an
    underscore at the end.

    Args:
        variables: Arrays ``(*sample_dims, *event)``.
        dims: Names of the event axes; None or missing where an axis has no name.
        coords: Labels by name of the axis.
        sample_dims: Names of the leading axes.

    Raises:
        ShapeError: If the names, or the labels, do not fit an array.

    >>> as_dataset({"z": np.zeros((4, 10, 3))}, {"z": ["school"]}, {}).z.dims
    ('chain', 'draw', 'school')
    """
    named = {
        _unreserved(name): (
            sample_dims + _event_dims(name, array, dims.get(name), len(sample_dims)),
            array,
        )
        for name, array in variables.items()
    }
    sizes = {
        dim: size
        for axes, array in named.values()
        for dim, size in zip(axes, array.shape, strict=True)
    }
    try:
        return xr.Dataset(named, coords={d: coords.get(d, np.arange(n)) for d, n in sizes.items()})
    except ValueError as error:
        shapes = {name: (axes, array.shape) for name, (axes, array) in named.items()}
        raise ShapeError(
            f"the axes {shapes} do not fit together or to the labels {dict(coords)}: {error}"
        ) from error


def container(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> Any:
    """InferenceData or DataTree of the groups, with ``attrs`` at the root."""
    if HAS_DATATREE:
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attrs)), **groups})
    return az.InferenceData(attrs=dict(attrs), **groups)


def is_container(x: object) -> bool:
    """Whether ``x`` is InferenceData or a DataTree."""
    return isinstance(x, xr.DataTree if HAS_DATATREE else az.InferenceData)


def group(data: Any, name: str) -> xr.Dataset | None:
    """A group of a container, None where it has none."""
    if name not in (data.children if HAS_DATATREE else data.groups()):
        return None
    dataset: xr.Dataset = data[name].to_dataset() if HAS_DATATREE else data[name]
    return dataset


def _unreserved(name: str) -> str:
    return f"{name}_" if name in SAMPLE_DIMS else name


def _event_dims(
    name: str, array: Array, given: Sequence[str | None] | None, num_sample_dims: int
) -> tuple[str, ...]:
    num_axes = array.ndim - num_sample_dims
    names = [None] * num_axes if given is None else list(given)
    if len(names) != num_axes:
        raise ShapeError(
            f"{name} has {num_axes} event axes (shape {array.shape[num_sample_dims:]}), but the "
            f"names {names} were given for them."
        )
    return tuple(
        f"{name}_dim_{axis}" if dim is None else _unreserved(dim) for axis, dim in enumerate(names)
    )
