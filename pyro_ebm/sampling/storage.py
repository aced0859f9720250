"""Preallocated storage of draws: chains may finish them at different steps."""

from __future__ import annotations

import torch
from torch import Tensor

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
        self.num_draws = num_draws
        self.thinning = thinning
        self._count: Tensor | None = None

    def record(self, state: State, info: Info) -> None:
        """Store the draws of the chains that finished one in this step."""
        stats = info._asdict()
        finished = stats.pop("finished")
        if self._count is None:
            self._count = self._allocate(state.position, stats)
        row = self._row(self._count, finished)
        self._positions[row, self._chain] = state.position
        self._stats[row, self._chain] = torch.stack(
            [value.double() for value in stats.values()], dim=-1
        )
        # Last, so that an interrupt cannot leave a counted row that is not filled.
        self._count = self._count + finished

    def steps_left(self) -> int:
        """Least number of further steps that can complete every chain."""
        if self._count is None:
            return self.num_draws * self.thinning
        return self.num_draws * self.thinning - int(self._count.min())

    def chains(self) -> Chains | None:
        """Draws that every chain has, or None before the first."""
        num = 0 if self._count is None else int(self._count.min()) // self.thinning
        if num == 0:
            return None
        stats = self._stats[:num].transpose(0, 1)
        return Chains(
            positions=self._positions[:num].transpose(0, 1),
            stats={
                name: stats[..., i].to(torch.float64 if dtype.is_floating_point else dtype)
                for i, (name, dtype) in enumerate(self._dtypes.items())
            },
        )

    def _allocate(self, position: Tensor, stats: dict[str, Tensor]) -> Tensor:
        num_chains, dim = position.shape
        self._dtypes = {name: value.dtype for name, value in stats.items()}
        rows = self.num_draws + 1
        self._positions = position.new_empty(rows, num_chains, dim)
        self._stats = torch.empty(
            rows, num_chains, len(stats), dtype=torch.float64, device=position.device
        )
        self._chain = torch.arange(num_chains, device=position.device)
        return torch.zeros_like(self._chain)

    def _row(self, count: Tensor, finished: Tensor) -> Tensor:
        spare = self.num_draws
        row = (count // self.thinning).clamp(max=spare)
        keeps = finished & (count % self.thinning == self.thinning - 1)
        return torch.where(keeps, row, spare)
