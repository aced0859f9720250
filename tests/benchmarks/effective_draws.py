"""Effective draws a second of MALA with many chains against Pyro's NUTS, in one run.

``python -m tests.benchmarks.effective_draws``: eight schools (non-centred) and the latent
posterior of one handwritten digit. ESS is ArviZ's bulk ESS, the smallest over all coordinates and
their squares; warm-up is part of the time, and so is the tracing of the model. Medians of three
runs with their range. Both run on the same number of threads, which is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import arviz as az
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import NUTS
from torch import Tensor

from examples.digits import data
from examples.digits.models import VAE
from pyro_ebm import MALA, MCMC
from pyro_ebm.estimators import ReparameterizedELBO

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


class Row(NamedTuple):
    """One run."""

    seconds: float
    ess: float
    r_hat: float


def eight_schools() -> None:
    """Rubin (1981), non-centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, ERRORS), obs=EFFECTS)


def one_digit() -> tuple[Callable[..., None], Tensor]:
    """The latent posterior of one held-out digit under a trained decoder."""
    digits = data.load()
    vae = VAE()
    optimizer = pyro.optim.Adam({"lr": 2e-3})
    svi = pyro.infer.SVI(vae.model, vae.guide, optimizer, loss=ReparameterizedELBO())
    for _ in range(1500):
        svi.step(digits.train[torch.randint(len(digits.train), (128,))])
    vae.requires_grad_(requires_grad=False)
    return vae.model, digits.shown[1:2]


def run_mala(model: Callable[..., None], *args: Any) -> Row:
    """Run MALA with 256 chains."""
    started = time.perf_counter()
    mcmc = MCMC(MALA(model), 2000, 500, num_chains=256, thinning=2, disable_progbar=True)
    mcmc.run(*args)
    draws = mcmc.get_samples(group_by_chain=True)
    return _row(time.perf_counter() - started, draws)


def run_nuts(model: Callable[..., None], *args: Any) -> Row:
    """Pyro's NUTS with two chains, one after the other."""
    chains = []
    started = time.perf_counter()
    for _ in range(2):
        mcmc = pyro.infer.MCMC(NUTS(model), 500, 500, disable_progbar=True)
        mcmc.run(*args)
        chains.append(mcmc.get_samples())
    draws = {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}
    return _row(time.perf_counter() - started, draws)


def _row(seconds: float, draws: dict[str, Tensor]) -> Row:
    both = draws | {f"{name} squared": value.square() for name, value in draws.items()}
    arrays = {name: value.numpy() for name, value in both.items()}
    container = az.convert_to_dataset(arrays)
    ess, r_hat = az.ess(container), az.rhat(container)
    return Row(
        seconds,
        min(float(ess[name].min()) for name in arrays),
        max(float(r_hat[name].max()) for name in arrays),
    )


def _report(target: str, name: str, rows: list[Row]) -> float:
    speeds = sorted(row.ess / row.seconds for row in rows)
    median = statistics.median(speeds)
    print(
        f"{target:14} {name:18} ESS/s {median:9.1f} ({speeds[0]:.1f} to {speeds[-1]:.1f})  "
        f"seconds {statistics.median(row.seconds for row in rows):6.1f}  "
        f"R-hat {max(row.r_hat for row in rows):.3f}"
    )
    return median


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pyro.set_rng_seed(0)
    print(f"threads: {arguments.threads}, runs: {arguments.runs}, float32")
    model, digit = one_digit()
    for target, function, args in (
        ("eight schools", eight_schools, ()),
        ("one digit", model, (digit,)),
    ):
        rows = [
            (run_mala(function, *args), run_nuts(function, *args)) for _ in range(arguments.runs)
        ]
        mala = _report(target, "MALA, 256 chains", [row[0] for row in rows])
        nuts = _report(target, "Pyro NUTS, 2 chains", [row[1] for row in rows])
        print(f"{target:14} ratio {mala / nuts:.0f}")


if __name__ == "__main__":
    main()
