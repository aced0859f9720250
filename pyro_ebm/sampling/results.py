"""What the driver makes of its draws, under Pyro's names."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import check_count
from pyro_ebm.core.types import Chains, Potential
from pyro_ebm.sampling.summary import site_statistics, summary_table


class Results:
    """The draws of a run and what users ask of them, made when they first ask.

    Args:
        potential: What was sampled.
        chains: Draws in its unconstrained coordinates.
    """

    def __init__(self, potential: Potential, chains: Chains) -> None:
        self._potential, self._chains = potential, chains

    def settle(self) -> None:
        """Make what others could change later: parameters are still those of the run."""
        if getattr(self._potential, "has_parameters", False):
            _ = self.sites

    @cached_property
    def sites(self) -> dict[str, Tensor]:
        """Constrained draws ``(chain, draw, *event)``, deterministic sites included."""
        return self._potential.constrain(self._chains.positions)

    def samples(self, *, by_chain: bool, deterministic: bool) -> dict[str, Tensor]:
        """Constrained draws, ``(chain, draw, *event)`` or all in a row."""
        names = self.sites if deterministic else self._latent_names()
        sites = {name: self.sites[name] for name in names}
        return sites if by_chain else {name: v.flatten(0, 1) for name, v in sites.items()}

    def _latent_names(self) -> Iterable[str]:
        return self._potential.unflatten(self._chains.positions[0, 0])

    def table(self, probability: float) -> str:
        """ArviZ's table (rank-normalised R-hat, bulk and tail ESS) and the divergences."""
        divergences = int(self._chains.stats["diverging"].sum())
        table = summary_table(self.sites, probability).to_string()
        return f"{table}\nNumber of divergences: {divergences}"

    def diagnostics(self) -> dict[str, Any]:
        """R-hat and ESS of each site by ArviZ, divergences and acceptance of each chain."""
        stats = self._chains.stats
        rates = stats["acceptance_rate"].mean(dim=1)
        where = [row.nonzero().flatten().tolist() for row in stats["diverging"]]
        table: dict[str, Any] = dict(site_statistics(self.sites))
        return table | {
            "divergences": {f"chain {c}": draws for c, draws in enumerate(where)},
            "acceptance rate": {f"chain {c}": float(rate) for c, rate in enumerate(rates)},
        }


def resampled(
    samples: dict[str, Tensor], num_samples: int, axis: int, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """So many draws with replacement, the same of every site.

    >>> resampled({"x": torch.ones(3, 2)}, 5, 0, None)["x"].shape
    torch.Size([5, 2])
    """
    available = next(iter(samples.values())).shape[axis]
    index = torch.randint(
        available,
        (check_count("num_samples", num_samples),),
        generator=generator,
        device="cpu" if generator is None else generator.device,
    )
    return {name: v.index_select(axis, index.to(v.device)) for name, v in samples.items()}
