"""posteriors' SGLD on full batches, which is Langevin: biased, so its error column matters.

It has neither adaptation nor chains: the chains are one tensor of parameters, and the step is
set by hand.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import posteriors
import torch
from torch import Tensor

from tests.benchmarks.contract import Prepared, Run, Settings, timed
from tests.benchmarks.engines.torch_targets import energy_of
from tests.benchmarks.targets import Target

WARMUP = 1000
THINNING = 4
LEARNING_RATE = 2e-2


def prepare(target: Target, settings: Settings) -> Prepared:
    torch.set_num_threads(settings.threads)
    energy = energy_of(target)
    transform = posteriors.sgmcmc.sgld.build(partial(_log_posterior, energy), LEARNING_RATE)
    dim = energy.event_shape.numel()
    with timed() as first:
        state = transform.init(torch.zeros(settings.num_chains, dim))
        transform.update(state, None)

    def run(seed: int) -> Run:
        torch.manual_seed(seed)
        return _run(transform, 4 * torch.rand(settings.num_chains, dim) - 2, settings)

    text = f"no adaptation; full batch, step {LEARNING_RATE} by hand, thinning {THINNING}"
    return Prepared(run, first.seconds, "float32", f"{text}, {WARMUP} steps left out")


def _log_posterior(energy: Any, x: Tensor, _: None) -> tuple[Tensor, Tensor]:
    return -energy(x).sum(), torch.empty(0)


def _run(transform: Any, x: Tensor, settings: Settings) -> Run:
    state = transform.init(x)
    kept = torch.empty(settings.num_draws, *x.shape)
    for _ in range(WARMUP):
        state, _ = transform.update(state, None)
    for draw in kept:
        for _ in range(THINNING):
            state, _ = transform.update(state, None)
        draw.copy_(state.params)
    return Run({"x": kept.swapaxes(0, 1).numpy()}, THINNING * kept[..., 0].numel())
