"""BlackJAX's NUTS after its window adaptation, every chain by itself, chains by ``vmap``."""

from __future__ import annotations

from typing import Any

import blackjax
import jax
import numpy as np
from blackjax.adaptation.base import get_filter_adapt_info_fn

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.jax_devices import chain_keys, over_devices
from tests.benchmarks.engines.jax_targets import Unconstrained, starts, unconstrained
from tests.benchmarks.targets import Target

WARMUP = 500


def prepare(target: Target, settings: Settings) -> Prepared:
    return _prepare(target, settings, dense=False)


def prepare_dense(target: Target, settings: Settings) -> Prepared:
    return _prepare(target, settings, dense=True)


def _prepare(target: Target, settings: Settings, *, dense: bool) -> Prepared:
    problem = unconstrained(target)
    chain = _chain(problem, settings.num_draws, dense=dense)
    sample = over_devices(jax.vmap(chain), settings)

    def arguments(seed: int) -> tuple[Any, Any]:
        key = jax.random.PRNGKey(seed)
        positions = starts(problem.example, settings.num_chains, jax.random.fold_in(key, 1))
        return chain_keys(key, settings), positions

    with timed() as compiling:
        compiled = jax.jit(sample).lower(*arguments(0)).compile()

    def run(seed: int) -> Run:
        draws, num_steps = jax.device_get(compiled(*arguments(seed)))
        return Run(draws, int(np.sum(num_steps, dtype=np.int64)))

    mass = " of a dense mass" if dense else ""
    text = f"window adaptation{mass}, warm-up {WARMUP}, vmap on each of {settings.threads} devices"
    return Prepared(run, compiling.seconds, "float32", text)


def _chain(problem: Unconstrained, num_draws: int, *, dense: bool) -> Any:
    def density(position: Any) -> Any:
        return -problem.potential(position)

    def chain(key: Any, position: Any) -> Any:
        warm, kept = jax.random.split(key)
        adaptation = blackjax.window_adaptation(
            blackjax.nuts,
            density,
            is_mass_matrix_diagonal=not dense,
            adaptation_info_fn=get_filter_adapt_info_fn(),
        )
        (state, parameters), _ = adaptation.run(warm, position, WARMUP)
        step = blackjax.nuts(density, **parameters).step

        def body(state: Any, key: Any) -> Any:
            state, info = step(key, state)
            return state, (problem.constrain(state.position), info.num_integration_steps)

        return jax.lax.scan(body, state, jax.random.split(kept, num_draws))[1]

    return chain
