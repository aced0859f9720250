"""How deep the plates are, and whether particles in a plate of their own leave each other alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.estimators._sites import log_density, particles_first, sample_sites
from pyro_ebm.potentials.sites import is_latent


def guess_nesting(
    run: Callable[[int | None], tuple[Any, Any]], replay: Callable[[Any], Any], num_particles: int
) -> int:
    """Number of plate dimensions of model and guide.

    Args:
        run: traces of model and guide, with all particles in a plate left of so many
            dimensions, or of one particle for None.
        replay: trace of the model with one particle, at the values of a trace of the guide.
        num_particles: size of the plate of particles.

    Raises:
        ModelError: the density of one particle changes when others are beside it.
    """
    alone = run(None)
    nesting = _plate_nesting(alone)
    together = run(nesting)
    for row in (0, num_particles - 1):
        values = _one_particle(alone[1], together[1], nesting, row)
        rerun = replay(values), replay(values)
        _check_broadcast(_row_sums(together[0], num_particles, nesting, row), *rerun)
    return nesting


def _plate_nesting(traces: tuple[Any, Any]) -> int:
    dims = [
        frame.dim
        for trace in traces
        for site in sample_sites(trace)
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    ]
    return -min(dims, default=0)


def _one_particle(alone: Any, together: Any, nesting: int, row: int) -> Any:
    """The trace ``alone`` with the draws of particle ``row`` of the vectorised ``together``."""
    trace = alone.copy()
    for site in sample_sites(alone):
        if is_latent(site):
            value = together.nodes[site["name"]]["value"]
            axis = -1 - nesting - site["fn"].event_dim
            value = value.select(axis, row).reshape(site["value"].shape)
            trace.nodes[site["name"]] = {**site, "value": value}
    return trace


def _row_sums(trace: Any, rows: int, nesting: int, row: int) -> dict[str, Tensor]:
    return {
        site["name"]: particles_first(log_density(site), rows, nesting)[row].sum()
        for site in sample_sites(trace)
    }


def _check_broadcast(together: Mapping[str, Tensor], first: Any, second: Any) -> None:
    """Refuse a model whose density of one particle changes when others are beside it.

    ``first`` and ``second`` are two runs on this particle alone: where they differ the model
    is random itself, and nothing can be said.
    """
    sums = [
        {site["name"]: log_density(site).sum() for site in sample_sites(t)} for t in (first, second)
    ]
    mixed = [
        name
        for name, value in together.items()
        if name in sums[0]
        and _close(sums[0][name], sums[1][name])
        and not _close(sums[0][name], value)
    ]
    if mixed:
        raise ModelError(
            f"The model does not broadcast: at its sites {mixed} the log density of one particle "
            "depends on the others (an index or a sum without a dim, a batch norm). Make it "
            "broadcast over an outermost plate (z[..., 0], sum(-1)), or pass "
            "vectorize_particles=False."
        )


def _close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-3, atol=1e-3, equal_nan=True)
