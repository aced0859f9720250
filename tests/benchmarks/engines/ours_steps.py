"""Steps of pyro_ebm's Langevin and MALA with a step size that is given."""

from __future__ import annotations

from typing import Any

import pyro
import torch

from pyro_ebm import MCMC, kernels
from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.torch_targets import energy_of
from tests.benchmarks.steps import KEPT, STEP_SIZE
from tests.benchmarks.targets import Target


def langevin(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.Langevin, target, settings)


def langevin_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.Langevin, target, settings, compile=True)


def mala(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.MALA, target, settings)


def mala_compiled(target: Target, settings: Settings) -> Prepared:
    return _prepare(kernels.MALA, target, settings, compile=True)


def _prepare(kernel: Any, target: Target, settings: Settings, **options: Any) -> Prepared:
    energy = energy_of(target)
    scale = torch.ones(energy.event_shape.numel())
    recipe = kernel(energy, step_size=STEP_SIZE, scale=scale)

    def sample(thinning: int, seed: int) -> Run:
        pyro.set_rng_seed(seed)
        mcmc = MCMC(
            recipe,
            KEPT,
            0,
            num_chains=settings.num_chains,
            thinning=thinning,
            disable_progbar=True,
            **options,
        )
        mcmc.run()
        draws = {"x": mcmc.get_samples(group_by_chain=True)["x"].numpy()}
        return Run(draws, None, getattr(mcmc, "compile_seconds", 0.0))

    with timed() as first:
        sample(1, 0)
    text = "compile=True" if options else "eager"
    thinning = settings.num_draws // KEPT
    return Prepared(lambda seed: sample(thinning, seed), first.seconds, "float32", text)
