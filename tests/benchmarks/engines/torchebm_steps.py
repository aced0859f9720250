"""Steps of torchebm's Langevin dynamics, whose step size is half of the square of ours."""

from __future__ import annotations

import torch
from torchebm.samplers import LangevinDynamics

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.torch_targets import energy_of
from tests.benchmarks.engines.torchebm_hmc import Wrapped
from tests.benchmarks.steps import KEPT, STEP_SIZE
from tests.benchmarks.targets import Target


def langevin(target: Target, settings: Settings) -> Prepared:
    torch.set_num_threads(settings.threads)
    energy = energy_of(target)
    sampler = LangevinDynamics(Wrapped(energy), step_size=STEP_SIZE**2 / 2)
    dim = energy.event_shape.numel()

    def sample(num_steps: int, seed: int) -> Run:
        torch.manual_seed(seed)
        x = 4 * torch.rand(settings.num_chains, dim) - 2
        thin = max(1, num_steps // KEPT)
        kept = sampler.sample(x, n_steps=num_steps, thin=thin, return_trajectory=True)
        return Run({"x": kept.numpy()}, None)

    with timed() as first:
        sample(KEPT, 0)
    return Prepared(lambda seed: sample(settings.num_draws, seed), first.seconds, "float32", "")
