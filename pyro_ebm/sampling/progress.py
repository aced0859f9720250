"""The progress bar of a run: acceptance, divergences and a running split R-hat."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from pyro.ops.stats import split_gelman_rubin
from tqdm.auto import tqdm

from pyro_ebm.core.types import Chains, Info
from pyro_ebm.sampling.storage import DrawStorage

_SHARE = 0.005
"""Share of the run's time that the bar may take."""
_DRAWS, _CHAINS, _COORDINATES = 100, 64, 32
"""Size of the sample that the running R-hat looks at."""


class Progress:
    """A tqdm bar of transitions that refreshes as often as its own cost allows.

    Args:
        total: Transitions of each chain.
        disable: Show nothing.
    """

    def __init__(self, total: int, *, disable: bool) -> None:
        self._bar = tqdm(total=total, disable=disable)
        self._is_shown = not disable
        self._position: Callable[[], int] = lambda: 0
        self._next = time.perf_counter()
        self._latest: tuple[Info, DrawStorage | None] | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_shown and self._latest is not None:
            self.refresh(*self._latest)
        self._bar.close()

    def phase(self, name: str, position: Callable[[], int]) -> None:
        """Name the phase of the run; ``position`` tells how many transitions have been made."""
        self._bar.set_description(name)
        self._position = position

    def step(self, info: Info, storage: DrawStorage | None = None) -> None:
        """Refresh the bar if it is time to."""
        self._latest = info, storage
        if self._is_shown and time.perf_counter() > self._next:
            self.refresh(info, storage)

    def refresh(self, info: Info, storage: DrawStorage | None = None) -> None:
        """Show the state of the run."""
        started = time.perf_counter()
        self._bar.set_postfix(_summary(info, storage), refresh=False)
        self._bar.update(self._position() - self._bar.n)
        ended = time.perf_counter()
        self._next = ended + max(0.1, (ended - started) / _SHARE)


def _summary(info: Info, storage: DrawStorage | None) -> dict[str, Any]:
    chains = None if storage is None else storage.chains()
    numbers: dict[str, Any] = {
        "step": f"{float(info.step_size.mean()):.2e}",
        "accept": f"{float(info.acceptance_rate.mean()):.2f}",
    }
    if chains is not None:
        numbers["divergent"] = int(chains.stats["diverging"].sum())
        numbers["r_hat"] = f"{running_r_hat(chains):.3f}"
    return numbers


def running_r_hat(chains: Chains) -> float:
    """Largest split R-hat of a sample of draws, chains and coordinates; NaN below 4 draws."""
    draws = chains.positions[:_CHAINS, :, :_COORDINATES]
    stride = max(1, draws.shape[1] // _DRAWS)
    draws = draws[:, ::stride].double()
    if draws.shape[1] < 4:
        return float("nan")
    r_hat: torch.Tensor = split_gelman_rubin(draws, chain_dim=0, sample_dim=1)
    return float(r_hat.max())
