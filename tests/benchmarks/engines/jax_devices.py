"""Chains split over XLA's host devices: on one device small models use one core only."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from tests.benchmarks.contract import Settings


def over_devices(function: Any, settings: Settings, *, num_shared: int = 0) -> Any:
    """Run ``function`` on each device with its share of the chains.

    The first ``num_shared`` arguments are the same for all; every other argument and every
    result has the chains first.
    """
    if settings.threads == 1:
        return function
    mesh = jax.make_mesh((settings.threads,), ("chains",), axis_types=(AxisType.Auto,))
    chains, shared = PartitionSpec("chains"), PartitionSpec()

    def split(*arguments: Any) -> Any:
        specs = (shared,) * num_shared + (chains,) * (len(arguments) - num_shared)
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=chains, check_vma=False
        )
        return mapped(*arguments)

    return split


def chain_keys(key: Any, settings: Settings) -> Any:
    """One key for each chain."""
    return jax.random.split(key, settings.num_chains)
