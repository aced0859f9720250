"""Preallocated storage of draws: chains may finish them at different steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.positions import room_for
from pyro_ebm.core.types import Chains, Info, State


class DrawStorage:
    """Room for ``num_draws`` draws of each chain, filled without leaving the device.

    Draw ``n`` of a chain goes into row ``n // thinning``; draws beyond the room, and those
    that thinning drops, go into one spare row. The memory is
    ``num_draws * num_chains * (dim * itemsize + 8 * num_statistics)`` bytes.

    Args:
        num_draws: Draws to keep of each chain.
        thinning: Keep every ``thinning``-th.
    """

    def __init__(self, num_draws: int, thinning: int = 1) -> None:
        self.num_draws, self.thinning = num_draws, thinning
        self._count: Tensor | None = None

    @property
    def waiting(self) -> Tensor | None:
        """Chains ``(C,)`` that must not go on now, or None if all may."""
        return None

    def record(self, state: State, info: Info) -> None:
        """Store the draws of the chains that finished one in this step."""
        self.make_room(state, info)
        # An interrupt cannot leave a counted row that is not filled.
        self._count, _ = self.fill(state, info, *self.room)

    def make_room(self, state: State, info: Info) -> None:
        """Allocate for draws like these, unless that is done."""
        if self._count is None:
            dtypes = {name: value.dtype for name, value in _of_draws(info).items()}
            self._count = self._allocate(state.position, dtypes)

    @property
    def room(self) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`fill` writes to, and the count; there must be room."""
        assert self._count is not None
        return self._positions, self._stats, self._count

    @property
    def no_room(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same, as if all draws had been made: what is written is not kept."""
        return self._positions, self._stats, self._full_count

    def fill(
        self, state: State, info: Info, positions: Tensor, stats: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write the draws that were finished into the room given; the new count, and the rows.

        A function of tensors, for code that compiles it together with the step and then calls
        :meth:`count_to`. Such code should return the rows, too: a compiler computes them once if
        they are results, and again for each coordinate if not, which has taken longer than the
        gradient of a network.
        """
        rows = self._rows_of(count, info.finished)
        positions[rows, self._chain] = state.position
        values = [value.double() for value in _of_draws(info).values()]
        stats[rows, :, self._chain] = torch.stack(values).mT  # in the order of the storage
        return count + info.finished, rows

    def count_to(self, count: Tensor) -> None:
        """Take what :meth:`fill` has written as stored."""
        self._count = count

    @property
    def count(self) -> Tensor | None:
        """Draws of each chain so far ``(C,)``, never changed in place; None before the first."""
        return self._count

    def state_dict(self) -> dict[str, Any]:
        """Everything it remembers, in plain values: the rows that are filled, and the count."""
        if self._count is None:
            return {"count": None}
        num_filled = (self._count // self.thinning).clamp(max=self.num_draws)
        draw = torch.arange(self._first_row(), int(num_filled.max()), device=num_filled.device)
        is_empty = (draw.unsqueeze(-1) >= num_filled).unsqueeze(-1)
        rows = draw % self.num_rows
        return {
            "num_draws": self.num_draws,
            "count": self._count,
            "positions": self._positions[rows].masked_fill(is_empty, 0.0),
            "stats": self._stats[rows].mT.masked_fill(is_empty, 0.0),
            "dtypes": {name: str(dtype) for name, dtype in self._dtypes.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, perhaps with room for more draws.

        What chains drew beyond the room that there was then is drawn again.
        """
        if state_dict["count"] is None:
            return
        positions, stats = state_dict["positions"], state_dict["stats"]
        dtypes = {name: getattr(torch, dtype[6:]) for name, dtype in state_dict["dtypes"].items()}
        self._allocate(positions.new_empty(positions.shape[1:]), dtypes)
        first = self._first_row()
        rows = torch.arange(first, first + len(positions), device=positions.device) % self.num_rows
        self._positions[rows], self._stats[rows] = positions, stats.mT
        self._count = state_dict["count"]
        if self.num_draws > state_dict["num_draws"]:
            self._count = self._count.clamp(max=state_dict["num_draws"] * self.thinning)

    def num_transitions(self) -> int:
        """Transitions that go into the draws so far, on average over the chains."""
        if self._count is None:
            return 0
        return int(self._count.clamp(max=self.num_draws * self.thinning).double().mean())

    def steps_left(self) -> int:
        """Least number of further steps that can complete every chain."""
        if self._count is None:
            return self.num_draws * self.thinning
        return self.num_draws * self.thinning - int(self._count.min())

    @property
    def num_complete(self) -> int:
        """Draws that every chain has."""
        if self._count is None:
            return 0
        return min(int(self._count.min()) // self.thinning, self.num_draws)

    def close(self) -> None:
        """End the run, complete or not."""

    def chains(self) -> Chains | None:
        """Draws that every chain has, or None before the first."""
        num = self.num_complete
        return self._chains(slice(num)) if num > 0 else None

    def _chains(self, rows: slice | Tensor) -> Chains:
        stats = self._stats[rows].permute(2, 0, 1)
        return Chains(
            positions=self._positions[rows].transpose(0, 1),
            stats={
                name: stats[..., i].to(torch.float64 if dtype.is_floating_point else dtype)
                for i, (name, dtype) in enumerate(self._dtypes.items())
            },
        )

    def _allocate(self, position: Tensor, dtypes: dict[str, torch.dtype]) -> Tensor:
        num_chains, dim = position.shape
        self._dtypes = dtypes
        self._plan(num_chains * (dim * position.element_size() + 8 * len(dtypes)))
        rows, device = self.num_rows + 1, position.device
        # As they lie in states: to turn them took longer than a gradient.
        self._positions = room_for(rows, position)
        self._stats = torch.empty(rows, len(dtypes), num_chains, dtype=torch.float64, device=device)
        self._chain = torch.arange(num_chains, device=position.device)
        self._full_count = torch.full_like(self._chain, self.num_draws * self.thinning)
        return torch.zeros_like(self._chain)

    def _plan(self, bytes_of_row: int) -> None:
        """Choose the number of rows."""
        del bytes_of_row
        self.num_rows = self.num_draws

    def _first_row(self) -> int:
        """The first draw that is held."""
        return 0

    def _rows_of(self, count: Tensor, finished: Tensor) -> Tensor:
        """Where the next draw of each chain goes: the spare row for what is not kept."""
        draw, keeps = count, finished
        if self.thinning > 1:
            draw = count // self.thinning
            keeps = finished & (count % self.thinning == self.thinning - 1)
        return torch.where(keeps & (draw < self.num_draws), self._place(draw), self.num_rows)

    def _place(self, draw: Tensor) -> Tensor:
        """The row of a draw that is kept."""
        return draw


def _of_draws(info: Info) -> dict[str, Tensor]:
    """The statistics of a draw; those of a step are for warm-up."""
    report = info._asdict()
    return {k: v for k, v in report.items() if k not in {"finished", "step_acceptance"}}
