"""BlackJAX's ChEES-HMC: one step size, trajectory and diagonal mass for all chains."""

from __future__ import annotations

from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from blackjax.adaptation.base import get_filter_adapt_info_fn

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.jax_devices import chain_keys, over_devices
from tests.benchmarks.engines.jax_targets import Unconstrained, starts, unconstrained
from tests.benchmarks.targets import Target

WARMUP = 500
LEARNING_RATE = 0.02
"""Of Adam, as in BlackJAX's own tests and sampling book."""
INITIAL_STEP_SIZE = 0.1


def prepare(target: Target, settings: Settings) -> Prepared:
    problem = unconstrained(target)

    def arguments(seed: int) -> tuple[Any, Any]:
        key = jax.random.PRNGKey(seed)
        positions = starts(problem.example, settings.num_chains, jax.random.fold_in(key, 1))
        return key, positions

    with timed() as compiling:
        sample = jax.jit(_sampler(problem, settings)).lower(*arguments(0)).compile()

    def run(seed: int) -> Run:
        draws, num_steps = jax.device_get(sample(*arguments(seed)))
        return Run(draws, int(np.sum(num_steps, dtype=np.int64)))

    text = f"chees_adaptation with diagonal mass, Adam {LEARNING_RATE}, warm-up {WARMUP}"
    return Prepared(run, compiling.seconds, "float32", text)


def _sampler(problem: Unconstrained, settings: Settings) -> Any:
    def density(position: Any) -> Any:
        return -problem.potential(position)

    def sample(key: Any, positions: Any) -> Any:
        warm, kept = jax.random.split(key)
        adaptation = blackjax.chees_adaptation(
            density,
            settings.num_chains,
            adaptation_info_fn=get_filter_adapt_info_fn(),
            mass_matrix_estimation="diagonal",
        )
        (states, parameters), _ = adaptation.run(
            warm,
            positions,
            INITIAL_STEP_SIZE,
            optax.adam(LEARNING_RATE),
            WARMUP,
            max_sampling_steps=settings.num_draws,
        )
        length = parameters.pop("integration_steps_params")
        tuned = (parameters.pop("step_size"), parameters.pop("inverse_mass_matrix"), length)
        chains = over_devices(_keep(problem, density, parameters, settings), settings, num_shared=1)
        return chains(tuned, chain_keys(kept, settings), states)

    return sample


def _keep(problem: Unconstrained, density: Any, rule: dict[str, Any], settings: Settings) -> Any:
    """Draws of a share of the chains, all with the same trajectory at the same draw."""
    step = blackjax.mcmc.dynamic_hmc.build_kernel(**rule)

    def keep(tuned: Any, keys: Any, states: Any) -> Any:
        step_size, mass, length = tuned

        def body(states: Any, draw: Any) -> Any:
            drawn = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, draw)
            states, info = jax.vmap(lambda k, s: step(k, s, density, step_size, mass, length))(
                drawn, states
            )
            return states, (
                jax.vmap(problem.constrain)(states.position),
                info.num_integration_steps,
            )

        kept = jax.lax.scan(body, states, jnp.arange(settings.num_draws))[1]
        return jax.tree.map(lambda value: jnp.swapaxes(value, 0, 1), kept)

    return keep
