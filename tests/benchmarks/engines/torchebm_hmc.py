"""torchebm's HMC. It has no adaptation, so it is tuned here, outside the clock.

For each number of leapfrogs the largest step that is accepted often enough is taken, and of these
the pair with the most ESS per gradient, as a patient user would do by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchebm.core import BaseModel
from torchebm.samplers import HamiltonianMonteCarlo

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.torch_targets import energy_of
from tests.benchmarks.measure import quality
from tests.benchmarks.targets import Target

WARMUP = 200
LEAPFROGS = (2, 5, 10, 20)
STEP_SIZES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.11, 0.07, 0.04, 0.02)
ACCEPTANCE = 0.65
PILOT_CHAINS, PILOT_DRAWS = 64, 100


class Wrapped(BaseModel):
    """Our energy as torchebm's."""

    def __init__(self, energy: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x)


def prepare(target: Target, settings: Settings) -> Prepared:
    torch.set_num_threads(settings.threads)
    energy = energy_of(target)
    with timed() as tuning:
        sampler = max((_largest_step(energy, n) for n in LEAPFROGS), key=_ess_per_gradient)
    run = partial(_run, sampler, settings)
    tuned = f"step {sampler.get_scheduled_value('step_size')}, {sampler.n_leapfrog_steps} leapfrogs"
    text = f"no adaptation; {tuned} from a grid (tuned in {tuning.seconds:.0f} s, not counted)"
    return Prepared(run, 0.0, "float32", f"{text}, {WARMUP} draws left out")


def _largest_step(energy: Any, num_leapfrogs: int) -> HamiltonianMonteCarlo:
    samplers = [HamiltonianMonteCarlo(Wrapped(energy), s, num_leapfrogs) for s in STEP_SIZES]
    return next((s for s in samplers if _pilot(s)[1] >= ACCEPTANCE), samplers[-1])


def _pilot(sampler: HamiltonianMonteCarlo) -> tuple[Tensor, float]:
    torch.manual_seed(0)
    x, found = sampler.sample(
        _starts(PILOT_CHAINS, _dim(sampler)),
        n_steps=2 * PILOT_DRAWS,
        return_trajectory=True,
        return_diagnostics=True,
    )
    return x[:, PILOT_DRAWS:], float(found["acceptance_rate"][PILOT_DRAWS:].mean())


def _ess_per_gradient(sampler: HamiltonianMonteCarlo) -> float:
    draws, _ = _pilot(sampler)
    return quality({"x": draws.numpy()}).ess / sampler.n_leapfrog_steps


def _dim(sampler: HamiltonianMonteCarlo) -> int:
    return int(sampler.model.energy.event_shape.numel())


def _run(sampler: HamiltonianMonteCarlo, settings: Settings, seed: int) -> Run:
    torch.manual_seed(seed)
    num_steps = settings.num_draws + WARMUP
    x = _starts(settings.num_chains, _dim(sampler))
    draws = sampler.sample(x, n_steps=num_steps, return_trajectory=True)[:, WARMUP:]
    num_gradients = sampler.n_leapfrog_steps * settings.num_chains * settings.num_draws
    return Run({"x": draws.numpy()}, num_gradients)


def _starts(num_chains: int, dim: int) -> Tensor:
    return 4 * torch.rand(num_chains, dim) - 2
