"""Draws that go to disk as they are made, so that they need not fit in memory."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.types import Chains, Potential
from pyro_ebm.sampling.storage import DrawStorage
from pyro_ebm.sampling.summary import to_numbers, to_numpy

_BLOCKS = 4
"""Blocks in memory: one is written, so chains may be three apart before the fast must wait."""

_FEWEST_FREE_STEPS = 16
"""If fewer steps are possible before a chain must wait, chains are looked at in each step."""


class DrawStore:
    """A zarr store with the groups ``posterior`` and ``sample_stats`` that ArviZ expects.

    It has room for all draws from the beginning; those that are not there yet are NaN, and 0 or
    False where values are whole numbers or booleans.

    Args:
        path: Folder of the store.
        potential: Gives the sites their names and the space that the user wrote them in.

    Raises:
        ModuleNotFoundError: If zarr is not installed.
        ModelError: If a site has a slash in its name, which would be a folder of the store.
    """

    def __init__(self, path: Path, potential: Potential) -> None:
        self.path, self._potential = path, potential
        self._zarr = import_zarr()
        _check_names(potential)

    def write(self, first: int, block: Chains) -> None:
        """Write the draws ``first``, ``first + 1``, ... of all chains.

        Args:
            first: Number of the first draw.
            block: Unconstrained positions and statistics.
        """
        rows = slice(first, first + block.positions.shape[1])
        for name, dataset in self._groups(block).items():
            dataset.to_zarr(self.path, group=name, region={"draw": rows}, consolidated=False)

    def resize(self, num_draws: int) -> None:
        """Give the store room for so many draws, or take room away at the end."""
        for name in ("posterior", "sample_stats"):
            group = self._zarr.open_group(str(self.path), mode="r+")[name]
            for key in group:
                array = group[key]
                if key != "chain":
                    axis = 0 if key == "draw" else 1
                    array.resize((*array.shape[:axis], num_draws, *array.shape[axis + 1 :]))
            draws = xr.Dataset(coords={"draw": np.arange(num_draws)})
            draws.to_zarr(self.path, group=name, mode="a", consolidated=False)

    def make(self, block: Chains, num_draws: int, chunk: int) -> None:
        """Begin the store anew.

        Args:
            block: Some draws, which are not written.
            num_draws: Draws of each chain that are to come.
            chunk: Draws of each chain that one file of the store holds.
        """
        library = {"inference_library": "pyro_ebm", "creation_library": "pyro_ebm"}
        xr.Dataset(attrs=library).to_zarr(self.path, mode="w", consolidated=False)
        for name, dataset in self._groups(block).items():
            chunks = {k: (v.shape[0], chunk, *v.shape[2:]) for k, v in dataset.items()}
            dataset.isel(draw=slice(0, 0)).assign_coords(
                chain=np.arange(dataset.sizes["chain"])
            ).to_zarr(
                self.path,
                group=name,
                encoding={key: {"chunks": sizes} for key, sizes in chunks.items()},
                consolidated=False,
            )
        self.resize(num_draws)

    def is_there(self) -> bool:
        """Whether there is a store of zarr 2 or 3, and no other folder."""
        return any((self.path / name).is_file() for name in ("zarr.json", ".zgroup"))

    def check_there(self) -> None:
        """Refuse to go on without the draws that have been written.

        Raises:
            FileNotFoundError: If they are gone.
        """
        if not self.is_there():
            raise FileNotFoundError(
                f"the run has written draws to {self.path}, but there is no such store now: give "
                "the place it was moved to, as in MCMC.load(path, kernel, stream=...)."
            )

    def _groups(self, block: Chains) -> dict[str, xr.Dataset]:
        return {
            "posterior": _dataset(to_numbers(self._potential.constrain(block.positions))),
            "sample_stats": _dataset(to_numpy(block.stats)),
        }


class StreamedStorage(DrawStorage):
    """Draws in a ring of blocks, each written to a store once every chain has filled it.

    Draw ``n`` of a chain goes into row ``n // thinning`` modulo the number of rows. A chain that
    is so far ahead of another that it would come to a row that is not written yet must wait:
    ``waiting`` says which.

    Args:
        num_draws: Draws of each chain.
        thinning: Keep every ``thinning``-th.
        store: Where blocks go.
        memory: Bytes that the ring may take.
    """

    def __init__(self, num_draws: int, thinning: int, store: DrawStore, memory: int) -> None:
        super().__init__(num_draws, thinning)
        self.store, self._memory = store, memory
        self._num_written = 0
        self._limit: int | None = None

    @property
    def waiting(self) -> Tensor | None:
        """Chains ``(C,)`` that must not go on now, or None if all may."""
        if self._limit is None or self._count is None:
            return None
        return self._count >= self._limit

    def steps_left(self) -> int:
        """Steps to make until it must be asked again; writes the blocks that are complete."""
        if self._count is None:
            return 1  # the size of a draw is known then
        self.write_blocks()
        end = self.num_draws * self.thinning
        slowest, fastest = int(self._count.min()), int(self._count.max())
        wanted = min(end, (self._num_written + self._block) * self.thinning) - slowest
        room = (self._num_written + self.num_rows) * self.thinning
        free = wanted if room >= end else room - fastest
        self._limit = None if free >= min(wanted, _FEWEST_FREE_STEPS) else room
        return int(wanted if self._limit is not None else min(wanted, free))

    def write_blocks(self) -> None:
        """Write every block that is complete, and at the end what is left."""
        while (num := self.num_complete - self._num_written) > 0:
            if num < self._block and self.num_complete < self.num_draws:
                return
            self._write(min(num, self._block))
            self._num_written += min(num, self._block)

    def close(self) -> None:
        """Write what is complete of a run that is cut short, too, and cut the store off there."""
        self.write_blocks()
        if 0 < self.num_complete < self.num_draws:
            self._write(self.num_complete - self._num_written)
            self.store.resize(self.num_complete)

    def chains(self) -> Chains | None:
        """Draws that every chain has and that are not written yet, or None if there are none."""
        num = self.num_complete - self._num_written
        return self._chains(self._rows(num)) if num > 0 else None

    def state_dict(self) -> dict[str, Any]:
        """The draws that are not written yet, and the counts."""
        state = super().state_dict()
        if self._count is None:
            return state
        return state | {
            "num_written": self._num_written,
            "num_rows": self.num_rows,
            "block": self._block,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["count"] is not None:
            self._num_written = state_dict["num_written"]
            self.num_rows, self._block = state_dict["num_rows"], state_dict["block"]
            self._memory = 0  # the ring has its size
        if self._num_written > 0:
            self.store.check_there()
            self.store.resize(self.num_draws)
        elif not self.store.is_there():  # draws that came after the checkpoint are written anew
            check_free(self.store.path)
        super().load_state_dict(state_dict)

    def _write(self, num: int) -> None:
        if num == 0:
            return
        block = self._chains(self._rows(num))
        if self._num_written == 0:
            self.store.make(block, self.num_draws, self._block)
        self.store.write(self._num_written, block)

    def _rows(self, num: int) -> Tensor:
        """Rows of the next draws to write."""
        first = self._num_written
        return torch.arange(first, first + num, device=self._chain.device) % self.num_rows

    def _first_row(self) -> int:
        return self._num_written

    def _place(self, draw: Tensor) -> Tensor:
        return draw % self.num_rows

    def _plan(self, bytes_of_row: int) -> None:
        if self._memory == 0:
            return
        most = max(_BLOCKS, self._memory // bytes_of_row)
        self._block = max(1, min(self.num_draws, most) // _BLOCKS)
        self.num_rows = min(self.num_draws, _BLOCKS * self._block)


def import_zarr() -> Any:
    """The library behind xarray's stores.

    Raises:
        ModuleNotFoundError: If it is not installed; says how to.
    """
    try:
        return importlib.import_module("zarr")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "stream=... writes a zarr store, but zarr is not installed: "
            "install the extra stream (pip install zarr xarray)."
        ) from error


def _check_names(potential: Potential) -> None:
    generator = torch.Generator(potential.device).manual_seed(0)
    sites = potential.constrain(potential.initial(1, generator=generator))
    if nested := [name for name in sites if "/" in name]:
        raise ModelError(
            f"the sites {nested} cannot be streamed: a slash in a name would make folders of the "
            "store. Name them otherwise, or keep the draws in memory (no stream=...)."
        )


def check_free(path: Path) -> None:
    """Refuse a path where there is something.

    Raises:
        OSError: If there is, or if there is no folder for it.
    """
    if path.exists():
        raise FileExistsError(
            f"the store {path} is there already and would be overwritten: give another path, or "
            "delete it. A run with a checkpoint goes on with MCMC.load(...)."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the store {path} cannot be written: the folder {path.parent} does not exist. Create "
            "it first."
        )


def _dataset(arrays: dict[str, np.ndarray[Any, Any]]) -> xr.Dataset:
    return xr.Dataset(
        {
            name: (("chain", "draw", *(f"{name}_dim_{i}" for i in range(x.ndim - 2))), x)
            for name, x in arrays.items()
        }
    )
