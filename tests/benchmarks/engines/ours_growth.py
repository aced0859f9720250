"""The time of one more draw of our kernels, for :mod:`tests.benchmarks.growth`.

Step size and scale are given, so there is no warm-up; the target is a Gaussian, so the energy
costs next to nothing. Time that does not grow with the number of draws (tracing) drops out,
because runs of two lengths are subtracted.
"""

from __future__ import annotations

import argparse
import json

import torch

from pyro_ebm import MCMC, kernels
from tests.benchmarks.contract import timed
from tests.benchmarks.engines.torch_targets import DiagonalGaussian
from tests.benchmarks.growth import CHAINS, DIMS, FIXED_CHAINS, FIXED_DIM, Point

LONG_ENOUGH = 0.6
"""Seconds after which the number of draws is doubled no more."""
MOST_DRAWS = 4096
STEP_EXPONENTS = {"NUTS": -1 / 4, "MALA": -1 / 6}
"""How step sizes shrink with the dimension at a constant acceptance."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernel")
    kernel = parser.parse_args().kernel
    sizes = [(chains, FIXED_DIM) for chains in CHAINS]
    sizes += [(FIXED_CHAINS, dim) for dim in DIMS if dim != FIXED_DIM]
    _run(kernel, 1, 2, 2)  # imports what torch imports late
    points = [_point(kernel, chains, dim)._asdict() for chains, dim in sizes]
    print(json.dumps({"points": points}))


def _point(kernel: str, chains: int, dim: int) -> Point:
    num_draws, shorter = 2, 0.0
    while True:
        seconds, num_gradients = _run(kernel, chains, dim, num_draws)
        if shorter and (seconds - shorter > LONG_ENOUGH / 2 or num_draws >= MOST_DRAWS):
            one_more = 2 * (seconds - shorter) / num_draws
            return Point(kernel, chains, dim, one_more, num_gradients / num_draws / chains)
        num_draws, shorter = 2 * num_draws, seconds


def _run(kernel: str, chains: int, dim: int, num_draws: int) -> tuple[float, int]:
    torch.manual_seed(0)
    recipe = getattr(kernels, kernel)(
        DiagonalGaussian(torch.ones(dim)),
        step_size=1.2 * dim ** STEP_EXPONENTS[kernel],
        scale=torch.ones(dim),
    )
    mcmc = MCMC(recipe, num_draws, 0, num_chains=chains, disable_progbar=True)
    with timed() as watch:
        mcmc.run()
    assert mcmc.chains is not None
    stats = mcmc.chains.stats
    return watch.seconds, int(stats["n_steps"].sum()) if "n_steps" in stats else chains * num_draws


if __name__ == "__main__":
    main()
