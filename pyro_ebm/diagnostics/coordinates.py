"""Every number of every site as one column: what statistics are computed on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from pyro_ebm.diagnostics.container import SAMPLE_DIMS, Array


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

    >>> z = np.zeros((4, 10, 2))
    >>> coordinates_of(xr.Dataset({"z": (("chain", "draw", "k"), z)})).names
    ['z[0]', 'z[1]']
    """
    names: list[str] = []
    columns = []
    for name, variable in posterior.data_vars.items():
        array = variable.transpose(*SAMPLE_DIMS, ...).values.astype(np.float64)
        event_shape = array.shape[2:]
        indices = np.ndindex(event_shape)
        names += [f"{name}{list(i)}" if event_shape else str(name) for i in indices]
        columns.append(array.reshape((*array.shape[:2], -1)))
    return Coordinates(names, np.concatenate(columns, axis=2))
