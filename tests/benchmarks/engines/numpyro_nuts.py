"""NumPyro's NUTS: vectorised chains, split over as many XLA devices as there are threads.

``pmap`` over ``chain_method="vectorized"`` is what NumPyro's manual gives for CPUs with several
cores; on one XLA device all chains of a small model share one core.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from numpyro.infer import MCMC, NUTS

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.jax_targets import energy_of, model_of, starts
from tests.benchmarks.targets import Target

WARMUP = 500


def prepare(target: Target, settings: Settings) -> Prepared:
    return _prepare(target, settings, dense_mass=False)


def prepare_dense(target: Target, settings: Settings) -> Prepared:
    return _prepare(target, settings, dense_mass=True)


def _prepare(target: Target, settings: Settings, *, dense_mass: bool) -> Prepared:
    devices = min(settings.threads, settings.num_chains)
    nuts = partial(NUTS, dense_mass=dense_mass)
    sample = _sampler(nuts, target, settings, settings.num_chains // devices)
    with timed() as compiling:
        compiled = jax.pmap(sample).lower(_keys(0, devices)).compile()

    def run(seed: int) -> Run:
        draws, num_steps = jax.device_get(compiled(_keys(seed, devices)))
        joined = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}
        return Run(joined, int(np.sum(num_steps, dtype=np.int64)))

    dense = ", dense mass" if dense_mass else ""
    text = f"vectorized on each of {devices} XLA devices{dense}, warm-up {WARMUP}"
    return Prepared(run, compiling.seconds, "float32", text)


def _sampler(nuts: Any, target: Target, settings: Settings, num_chains: int) -> Any:
    def sample(key: Any) -> Any:
        if target.is_energy:
            energy, dim = energy_of(target)
            kernel, args = nuts(potential_fn=energy), ()
            initial = starts(np.zeros(dim), num_chains, jax.random.fold_in(key, 1))
            initial = initial if num_chains > 1 else initial[0]
        else:
            model, args = model_of(target)
            kernel, initial = nuts(model), None
        mcmc = MCMC(
            kernel,
            num_warmup=WARMUP,
            num_samples=settings.num_draws,
            num_chains=num_chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(key, *args, init_params=initial, extra_fields=("num_steps",))
        samples = mcmc.get_samples(group_by_chain=True)
        named = samples if isinstance(samples, dict) else {"x": samples}
        return named, mcmc.get_extra_fields()["num_steps"]

    return sample


def _keys(seed: int, devices: int) -> Any:
    return jax.random.split(jax.random.PRNGKey(seed), devices)
