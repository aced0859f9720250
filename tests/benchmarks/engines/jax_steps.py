"""Langevin and MALA as one writes them by hand in JAX: a jitted scan over vmapped gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.jax_devices import over_devices
from tests.benchmarks.engines.jax_targets import energy_of, starts
from tests.benchmarks.steps import KEPT, STEP_SIZE
from tests.benchmarks.targets import Target

Gradient = Callable[[Any], tuple[Any, Any]]
State = tuple[Any, Any, Any]


def langevin(target: Target, settings: Settings) -> Prepared:
    return _prepare(_langevin, target, settings)


def mala(target: Target, settings: Settings) -> Prepared:
    return _prepare(_mala, target, settings)


def _langevin(gradient: Gradient, state: State, key: Any) -> State:
    return _proposal(gradient, state, key)


def _mala(gradient: Gradient, state: State, key: Any) -> State:
    key, accept = jax.random.split(key)
    proposed = _proposal(gradient, state, key)
    log_ratio = (
        state[1] - proposed[1] + _log_density(proposed, state) - _log_density(state, proposed)
    )
    taken = jnp.log(jax.random.uniform(accept, log_ratio.shape)) < log_ratio
    return jax.tree.map(
        lambda new, old: jnp.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old),
        proposed,
        state,
    )


def _proposal(gradient: Gradient, state: State, key: Any) -> State:
    x, _, grad = state
    noise = jax.random.normal(key, x.shape)
    x = x - STEP_SIZE**2 / 2 * grad + STEP_SIZE * noise
    return x, *gradient(x)


def _log_density(start: State, end: State) -> Any:
    """Of moving from one to the other, up to a constant."""
    drifted = start[0] - STEP_SIZE**2 / 2 * start[2]
    return -((end[0] - drifted) ** 2).sum(-1) / (2 * STEP_SIZE**2)


def _prepare(step: Any, target: Target, settings: Settings) -> Prepared:
    energy, dim = energy_of(target)
    gradient = jax.vmap(jax.value_and_grad(energy))
    thinning = settings.num_draws // KEPT

    def share(key: Any, x: Any) -> Any:
        def keep(state: State, key: Any) -> tuple[State, Any]:
            keys = jax.random.split(key, thinning)
            state, _ = jax.lax.scan(lambda s, k: (step(gradient, s, k), None), state, keys)
            return state, state[0]

        kept = jax.lax.scan(keep, (x, *gradient(x)), jax.random.split(key[0], KEPT))[1]
        return kept.swapaxes(0, 1)

    def arguments(seed: int) -> tuple[Any, Any]:
        key = jax.random.PRNGKey(seed)
        keys = jax.random.split(key, settings.threads)
        return keys, starts(jnp.zeros(dim), settings.num_chains, key)

    sample = over_devices(share, settings)
    with timed() as compiling:
        compiled = jax.jit(sample).lower(*arguments(0)).compile()

    def run(seed: int) -> Run:
        return Run({"x": jax.device_get(compiled(*arguments(seed)))}, None)

    text = f"a scan on each of {settings.threads} XLA devices"
    return Prepared(run, compiling.seconds, "float32", text)
