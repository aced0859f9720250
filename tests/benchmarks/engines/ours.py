"""pyro_ebm itself: a kernel, eager or compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro

from pyro_ebm import MCMC, kernels
from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.torch_targets import energy_of, model_of
from tests.benchmarks.targets import Target

MALA_THINNING = 4
_DENSE: dict[str, Any] = {"full_mass": True}
_ROTATIONS: dict[str, Any] = {"integrator": kernels.ROTATIONS}
_NAMES: dict[Any, str] = {kernels.MCLACHLAN: "MCLACHLAN", kernels.ROTATIONS: "ROTATIONS"}


def nuts(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.NUTS, target, settings)


def nuts_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.NUTS, target, settings, compile=True)


def nuts_dense_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.NUTS, target, settings, _DENSE, compile=True)


def nuts_mclachlan_compiled(target: Target, settings: Settings) -> Prepared:
    given = {"integrator": kernels.MCLACHLAN, "target_accept_prob": 0.75}
    return _prepare(kernels.NUTS, target, settings, given, compile=True)


def nuts_rotations_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.NUTS, target, settings, _ROTATIONS, compile=True)


def nuts_dense_rotations_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.NUTS, target, settings, _ROTATIONS | _DENSE, compile=True)


def chees_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.ChEESHMC, target, settings, compile=True)


def chees_mclachlan_compiled(target: Target, settings: Settings) -> Prepared:
    given = {"integrator": kernels.MCLACHLAN, "target_accept_prob": 0.9}
    return _prepare(kernels.ChEESHMC, target, settings, given, compile=True)


def chees_rotations_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.ChEESHMC, target, settings, _ROTATIONS, compile=True)


def chees_dense_rotations_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.ChEESHMC, target, settings, _ROTATIONS | _DENSE, compile=True)


def mala(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.MALA, target, settings, thinning=MALA_THINNING)


def mala_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.MALA, target, settings, thinning=MALA_THINNING, compile=True)


def _prepare(
    kernel: Callable[..., Any],
    target: Target,
    settings: Settings,
    hyperparameters: dict[str, Any] | None = None,
    **options: Any,
) -> Prepared:
    given = hyperparameters or {}
    make = partial(kernel, **given)
    what, args = _target(target)
    with timed() as first:
        # The first run of a process imports what torch imports late; peers compile here.
        _driver(make(what), 16, 10, {"thinning": 1}).run(*args)

    def run(seed: int) -> Run:
        pyro.set_rng_seed(seed)
        mcmc = _driver(make(what), settings.num_chains, settings.num_draws, options)
        mcmc.run(*args)
        samples = mcmc.get_samples(group_by_chain=True)
        draws = {name: value.numpy() for name, value in samples.items()}
        return Run(draws, _num_gradients(mcmc, options), getattr(mcmc, "compile_seconds", 0.0))

    mode = "compile=True" if options.get("compile") else "eager"
    thinning = f"thinning {options['thinning']}" if "thinning" in options else ""
    settings_given = [f"{name}={_NAMES.get(value, value)}" for name, value in given.items()]
    text = ", ".join(filter(None, (mode, *settings_given, "default warm-up", thinning)))
    return Prepared(run, first.seconds, "float32", text)


def _target(target: Target) -> tuple[Any, tuple[Any, ...]]:
    return (energy_of(target), ()) if target.is_energy else model_of(target)


def _driver(kernel: Any, num_chains: int, num_draws: int, options: dict[str, Any]) -> MCMC:
    return MCMC(kernel, num_draws, num_chains=num_chains, disable_progbar=True, **options)


def _num_gradients(mcmc: MCMC, options: dict[str, Any]) -> int:
    assert mcmc.chains is not None
    stats, thinning = mcmc.chains.stats, options.get("thinning", 1)
    if "n_steps" in stats:
        return mcmc.kernel.integrator.num_gradients * int(stats["n_steps"].sum())
    return thinning * int(stats["lp"].numel())
