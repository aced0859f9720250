"""ArviZ's statistics of draws, on the 0.2x line and on 1.x."""

from __future__ import annotations

from typing import Any

import arviz as az
import numpy as np
import torch
from torch import Tensor

from pyro_ebm.core.checks import check_probability

MINIMUM_DRAWS = 4
"""ArviZ's split statistics are not defined below."""

Groups = dict[str, dict[str, np.ndarray[Any, Any]]]

HAS_DATATREE = int(az.__version__.split(".")[0]) >= 1
"""ArviZ 1.x returns an xarray DataTree where 0.2x returns InferenceData."""


def to_numpy(draws: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of the same shape, and type but for bfloat16, which NumPy has not."""
    return {name: _known_to_numpy(value.detach().cpu()).numpy() for name, value in draws.items()}


def _known_to_numpy(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.bfloat16 else value


def to_numbers(draws: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """The same, with booleans as 0 and 1: ArviZ's statistics subtract, which booleans cannot."""
    arrays = to_numpy(draws)
    return {k: v.astype(np.int64) if v.dtype == np.bool_ else v for k, v in arrays.items()}


def from_groups(groups: Groups, **kwargs: Any) -> Any:
    """Build ArviZ's container from ``{group: {name: (chain, draw, *event)}}``."""
    return az.from_dict(groups, **kwargs) if HAS_DATATREE else az.from_dict(**groups, **kwargs)


def summary_table(draws: dict[str, Tensor], probability: float) -> Any:
    """ArviZ's summary as a pandas DataFrame: mean, sd, interval, MCSE, ESS and R-hat.

    Raises:
        ValueError: If there are fewer than 4 draws in each chain.
    """
    check_num_draws(draws)
    check_probability("prob", probability)
    interval = "ci_prob" if HAS_DATATREE else "hdi_prob"
    data = from_groups({"posterior": to_numbers(draws)})
    with _constants_allowed():
        return az.summary(data, **{interval: probability})


def site_statistics(draws: dict[str, Tensor]) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Rank-normalised split R-hat and bulk ESS of each site, under Pyro's names.

    Raises:
        ValueError: If there are fewer than 4 draws in each chain.
    """
    check_num_draws(draws)
    data = from_groups({"posterior": to_numbers(draws)})["posterior"]
    with _constants_allowed():
        n_eff, r_hat = az.ess(data), az.rhat(data)
    return {name: {"n_eff": n_eff[name].values, "r_hat": r_hat[name].values} for name in draws}


def check_num_draws(draws: dict[str, Tensor]) -> None:
    """Refuse statistics of too few draws."""
    check_enough_draws(min(value.shape[1] for value in draws.values()))


def check_enough_draws(num_draws: int) -> None:
    """Refuse statistics of chains that are too short for them."""
    if num_draws < MINIMUM_DRAWS:
        raise ValueError(
            f"there are {num_draws} draws in each chain, but R-hat and ESS need at least "
            f"{MINIMUM_DRAWS}: run with a larger num_samples."
        )


def _constants_allowed() -> Any:
    """Entries that never change (of a Cholesky factor, say) have the R-hat NaN, which says it."""
    return np.errstate(divide="ignore", invalid="ignore")
