"""What the driver makes of its draws, under Pyro's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import check_count
from pyro_ebm.sampling.summary import site_statistics


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


def diagnostics_of(samples: dict[str, Tensor], stats: dict[str, Tensor]) -> dict[str, Any]:
    """R-hat and ESS of each site by ArviZ, divergences and acceptance of each chain."""
    diverging, rates = stats["diverging"], stats["acceptance_rate"].mean(dim=1)
    divergences = {
        f"chain {c}": row.nonzero().flatten().tolist() for c, row in enumerate(diverging)
    }
    rate = {f"chain {c}": float(value) for c, value in enumerate(rates)}
    table: dict[str, Any] = dict(site_statistics(samples))
    return table | {"divergences": divergences, "acceptance rate": rate}
