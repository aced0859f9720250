"""Eight schools with many chains of NUTS, HMC and MALA, next to Pyro's NUTS.

``python -m examples.eight_schools [--smoke]`` writes out/eight_schools/ranks.png and effects.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import arviz as az
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import HMC, MALA, MCMC, NUTS, RecordingNUTS, to_arviz

OUT = Path("out/eight_schools")

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools() -> None:
    """Rubin (1981): effects of coaching in eight schools, non-centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, ERRORS), obs=EFFECTS)


class Run(NamedTuple):
    """Draws of one kernel."""

    data: Any
    seconds: float
    gradients: int | None
    """Gradients of all chains, but for warm-up."""


def run(kernel: Any, num_chains: int, num_draws: int, warmup_steps: int) -> Run:
    """Many chains of one of our kernels."""
    mcmc = MCMC(kernel, num_draws, warmup_steps, num_chains=num_chains, disable_progbar=True)
    started = time.perf_counter()
    mcmc.run()
    seconds = time.perf_counter() - started
    stats = mcmc.chains.stats
    gradients = int(stats.get("n_steps", torch.ones_like(stats["lp"])).sum())
    return Run(to_arviz(mcmc), seconds, gradients)


def run_pyro(num_draws: int) -> Run:
    """Two chains of Pyro's own NUTS, one for each core if there are more than two."""
    mcmc = pyro.infer.MCMC(
        RecordingNUTS(schools), num_draws, num_draws, num_chains=2, disable_progbar=True
    )
    started = time.perf_counter()
    mcmc.run()
    return Run(to_arviz(mcmc), time.perf_counter() - started, None)


def row(name: str, result: Run) -> str:
    """The line of the table."""
    posterior = result.data.posterior
    names = ["mu", "tau", "theta"]
    ess = min(float(az.ess(posterior)[site].min()) for site in names)
    r_hat = max(float(az.rhat(posterior)[site].max()) for site in names)
    error = float(az.mcse(posterior)["tau"])
    tau = f"{float(posterior['tau'].mean()):.3f} +- {error:.3f}"
    per_gradient = "" if result.gradients is None else f"{1000 * ess / result.gradients:.0f}"
    return (
        f"{name:<22}{tau:>16}{r_hat:>8.3f}{ess:>9.0f}{ess / result.seconds:>9.0f}{per_gradient:>10}"
        f"{result.seconds:>9.1f}"
    )


def plot(result: Run) -> None:
    """Rank plots of a few chains, and the posterior of each school's effect."""
    OUT.mkdir(parents=True, exist_ok=True)
    posterior = result.data.posterior
    az.plot_rank(posterior.isel(chain=slice(8)), var_names=["mu", "tau"])
    plt.gcf().savefig(OUT / "ranks.png", dpi=120)
    theta = torch.from_numpy(posterior["theta"].values).flatten(0, 1)
    figure, axis = plt.subplots(figsize=(6, 3.6))
    _draw_intervals(axis, theta)
    figure.tight_layout()
    figure.savefig(OUT / "effects.png", dpi=120)


def _draw_intervals(axis: Any, theta: Tensor) -> None:
    place = torch.arange(8)
    low, middle, high = theta.quantile(torch.tensor([0.05, 0.5, 0.95]), dim=0)
    axis.errorbar(place - 0.1, EFFECTS, yerr=1.645 * ERRORS, fmt="o", color="0.6", label="data")
    axis.errorbar(
        place + 0.1, middle, yerr=[middle - low, high - middle], fmt="o", label="posterior"
    )
    axis.set(xlabel="school", ylabel="effect (90 % intervals)", xticks=place.tolist())
    axis.legend()


def main() -> None:
    """Sample, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that it runs")
    smoke = parser.parse_args().smoke
    pyro.set_rng_seed(0)
    num_chains, num_draws = (16, 20) if smoke else (256, 200)
    results = {
        "NUTS": run(NUTS(schools), num_chains, num_draws, 50),
        "HMC": run(HMC(schools), num_chains, num_draws, 50),
        "MALA": run(MALA(schools), num_chains, 5 * num_draws, 100 if smoke else 500),
        "Pyro's NUTS, 2 chains": run_pyro(30 if smoke else 300),
    }
    print(f"\n{num_chains} chains, {torch.get_num_threads()} threads; seconds include warm-up")
    print(f"{'kernel':<22}{'tau':>16}{'R-hat':>8}{'ESS':>9}{'ESS/s':>9}{'per 1000':>10}{'sec':>9}")
    print(*(row(name, result) for name, result in results.items()), sep="\n")
    plot(results["NUTS"])
    print("ESS is the smallest of mu, tau and the effects; per 1000 gradients after warm-up.")
    print(f"Figures in {OUT}/.")


if __name__ == "__main__":
    main()
