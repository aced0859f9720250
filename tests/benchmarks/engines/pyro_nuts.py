"""Pyro's NUTS, one process for each chain and one chain for each thread."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import MCMC, NUTS

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.torch_targets import energy_of, model_of
from tests.benchmarks.targets import Target

WARMUP = 300


def prepare(target: Target, settings: Settings) -> Prepared:
    return _prepare(target, settings, full_mass=False)


def prepare_dense(target: Target, settings: Settings) -> Prepared:
    return _prepare(target, settings, full_mass=True)


def _prepare(target: Target, settings: Settings, *, full_mass: bool) -> Prepared:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    nuts = partial(NUTS, jit_compile=True, full_mass=full_mass)
    sample = partial(_sample, nuts, target, settings.num_chains)
    with timed() as first:
        sample(5, 5, 0)
    dense = ", full_mass" if full_mass else ""
    text = f"jit_compile{dense}, warm-up {WARMUP}, a process for each chain"

    def run(seed: int) -> Run:
        return sample(settings.num_draws, WARMUP, seed)

    return Prepared(run, first.seconds, "float32", text)


def _sample(
    nuts: Any, target: Target, num_chains: int, num_draws: int, warmup: int, seed: int
) -> Run:
    pyro.set_rng_seed(seed)
    kernel, args, starts = _kernel(nuts, target, num_chains)
    mcmc = MCMC(
        kernel,
        num_draws,
        warmup,
        num_chains=num_chains,
        initial_params=starts,
        mp_context="fork",
        disable_progbar=True,
    )
    mcmc.run(*args)
    samples = mcmc.get_samples(group_by_chain=True)
    return Run({name: value.numpy() for name, value in samples.items()}, None)


def _kernel(nuts: Any, target: Target, num_chains: int) -> tuple[NUTS, tuple[Any, ...], Any]:
    if not target.is_energy:
        model, args = model_of(target)
        return nuts(model, ignore_jit_warnings=True), args, None
    energy = energy_of(target)
    dim = energy.event_shape.numel()
    starts = {"x": 4 * torch.rand(num_chains, dim) - 2}
    return nuts(potential_fn=partial(_potential, energy)), (), starts


def _potential(energy: Any, sites: dict[str, torch.Tensor]) -> torch.Tensor:
    return energy(sites["x"])
