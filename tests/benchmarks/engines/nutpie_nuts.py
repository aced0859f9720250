"""nutpie's NUTS on a PyMC model: a thread for each core, and BLAS inside it on one thread.

On two threads BLAS would fight with nutpie's own for the cores: slower on every target.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import nutpie
from threadpoolctl import threadpool_limits

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.pymc_targets import model_of
from tests.benchmarks.targets import Target

WARMUP = 400
"""nutpie's own default."""


def prepare(target: Target, settings: Settings) -> Prepared:
    return _prepare(target, settings, low_rank=False)


def prepare_low_rank(target: Target, settings: Settings) -> Prepared:
    return _prepare(target, settings, low_rank=True)


def _prepare(target: Target, settings: Settings, *, low_rank: bool) -> Prepared:
    threadpool_limits(1)
    with timed() as compiling:
        model = nutpie.compile_pymc_model(model_of(target), backend="numba")
        sample = partial(_sample, model, settings, low_rank=low_rank)
        sample(num_draws=10, warmup=10, seed=0)

    def run(seed: int) -> Run:
        return sample(num_draws=settings.num_draws, warmup=WARMUP, seed=seed)

    mass = ", low-rank modified mass" if low_rank else ""
    text = f"backend numba{mass}, warm-up {WARMUP}, {settings.threads} cores"
    return Prepared(run, compiling.seconds, "float64", text)


def _sample(
    model: nutpie.sample.CompiledModel,
    settings: Settings,
    *,
    low_rank: bool,
    num_draws: int,
    warmup: int,
    seed: int,
) -> Run:
    data = nutpie.sample(
        model,
        draws=num_draws,
        tune=warmup,
        chains=settings.num_chains,
        cores=settings.threads,
        seed=seed,
        save_warmup=False,
        progress_bar=False,
        low_rank_modified_mass_matrix=low_rank,
    )
    draws = {
        str(name): np.asarray(value)
        for name, value in data.posterior.items()
        if not str(name).endswith("__")
    }
    return Run(draws, int(data.sample_stats["n_steps"].sum()))
