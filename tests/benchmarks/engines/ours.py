"""pyro_ebm itself: a kernel, eager or compiled."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro

from pyro_ebm import MCMC, kernels
from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.torch_targets import energy_of, model_of
from tests.benchmarks.targets import Target

MALA_THINNING = 4


def nuts(target: Target, settings: Settings) -> Prepared:
    return _prepare("NUTS", target, settings)


def nuts_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare("NUTS", target, settings, compile=True)


def nuts_dense_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare("NUTS", target, settings, full_mass=True, compile=True)


def chees_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare("ChEESHMC", target, settings, compile=True)


def mala(target: Target, settings: Settings) -> Prepared:
    return _prepare("MALA", target, settings, thinning=MALA_THINNING)


def mala_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare("MALA", target, settings, thinning=MALA_THINNING, compile=True)


def _prepare(
    kernel: str, target: Target, settings: Settings, *, full_mass: bool = False, **options: Any
) -> Prepared:
    what, args = _target(target)
    mass = {"full_mass": True} if full_mass else {}  # not all kernels have a choice
    make = partial(getattr(kernels, kernel), what, **mass)
    with timed() as first:
        # The first run of a process imports what torch imports late; peers compile here.
        _driver(make(), 16, 10, {"thinning": 1}).run(*args)

    def run(seed: int) -> Run:
        pyro.set_rng_seed(seed)
        mcmc = _driver(make(), settings.num_chains, settings.num_draws, options)
        mcmc.run(*args)
        samples = mcmc.get_samples(group_by_chain=True)
        draws = {name: value.numpy() for name, value in samples.items()}
        return Run(draws, _num_gradients(mcmc, options), getattr(mcmc, "compile_seconds", 0.0))

    thinning = f", thinning {options['thinning']}" if "thinning" in options else ""
    mode = "compile=True" if options.get("compile") else "eager"
    dense = ", full_mass=True" if full_mass else ""
    return Prepared(run, first.seconds, "float32", f"{mode}{dense}, default warm-up{thinning}")


def _target(target: Target) -> tuple[Any, tuple[Any, ...]]:
    return (energy_of(target), ()) if target.is_energy else model_of(target)


def _driver(kernel: Any, num_chains: int, num_draws: int, options: dict[str, Any]) -> MCMC:
    return MCMC(kernel, num_draws, num_chains=num_chains, disable_progbar=True, **options)


def _num_gradients(mcmc: MCMC, options: dict[str, Any]) -> int:
    assert mcmc.chains is not None
    stats, thinning = mcmc.chains.stats, options.get("thinning", 1)
    if "n_steps" in stats:
        return int(stats["n_steps"].sum())
    return thinning * int(stats["lp"].numel())
