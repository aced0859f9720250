"""Every number of every site as one column: what statistics are computed on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import xarray as xr

from pyro_ebm.core.checks import ShapeError
from pyro_ebm.diagnostics.container import SAMPLE_DIMS, Array

_REAL_KINDS = "biuf"
"""Booleans, integers and floating point, in NumPy's letters."""


class Coordinates(NamedTuple):
    """Named columns of draws."""

    names: list[str]
    draws: Array
    """Values ``(chain, draw, coordinate)`` in float64."""

    def where(self, mask: Array) -> Coordinates:
        """The columns in ``mask``."""
        names = [name for name, kept in zip(self.names, mask, strict=True) if kept]
        return Coordinates(names, self.draws[:, :, mask])

    def is_finite(self) -> Array:
        """Columns without NaN and infinity."""
        return np.asarray(np.isfinite(self.draws).all(axis=(0, 1)))

    def is_constant(self) -> Array:
        """Columns that are the same in all draws of all chains."""
        return np.asarray((self.draws == self.draws[:1, :1]).all(axis=(0, 1)))


def coordinates_of(posterior: xr.Dataset) -> Coordinates:
    """Columns of a posterior group.

    Raises:
        ShapeError: If some of it is not real numbers.

    >>> z = np.zeros((4, 10, 2))
    >>> coordinates_of(xr.Dataset({"z": (("chain", "draw", "k"), z)})).names
    ['z[0]', 'z[1]']
    """
    names: list[str] = []
    columns = []
    for name, variable in posterior.data_vars.items():
        if variable.dtype.kind not in _REAL_KINDS:
            raise ShapeError(
                f"{name} has dtype {variable.dtype}, but only real numbers can be judged: split "
                f"complex ones into {name}.real and {name}.imag."
            )
        array = variable.transpose(*SAMPLE_DIMS, ...).values.astype(np.float64)
        event_shape = array.shape[2:]
        indices = np.ndindex(event_shape)
        names += [f"{name}{list(i)}" if event_shape else str(name) for i in indices]
        columns.append(array.reshape((*array.shape[:2], math.prod(event_shape))))
    return Coordinates(names, np.concatenate(columns, axis=2))
