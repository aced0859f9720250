"""Three modes far apart: plain chains stay in the one they begin in, replica exchange does not.

``python -m examples.multimodal [--smoke]`` writes out/multimodal/ranks.png and draws.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from pyro_ebm import MALA, MCMC, to_arviz
from pyro_ebm.core.types import Kernel
from pyro_ebm.energies import MixtureEnergy
from pyro_ebm.kernels import HMC, NUTS, ReplicaExchange

OUT = Path("out/multimodal")
NUM_SHOWN, NUM_BINS = 8, 20
HEIGHT = 0.2
"""Of a level bar; 1 reaches the next chain."""

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
LOCS = torch.tensor([[-5.0, -2.0], [5.0, -3.0], [1.0, 6.0]])
SCALES = torch.tensor([[0.5, 1.0], [1.0, 0.5], [0.7, 0.7]])
ENERGY = MixtureEnergy(WEIGHTS, LOCS, SCALES)

KERNELS: dict[str, Kernel[Any, Any]] = {
    "MALA": MALA(ENERGY),
    "NUTS": NUTS(ENERGY),
    "ReplicaExchange(MALA)": ReplicaExchange(MALA(ENERGY), num_replicas=8, smallest_beta=0.02),
    "ReplicaExchange(HMC)": ReplicaExchange(HMC(ENERGY), num_replicas=8, smallest_beta=0.02),
}


def mode_of(x: Tensor) -> Tensor:
    """Number of the nearest mode, each coordinate in units of its standard deviation there."""
    standardised = (x.unsqueeze(-2) - LOCS) / SCALES
    return standardised.square().sum(dim=-1).argmin(dim=-1)


def sample(name: str, num_chains: int, num_draws: int) -> tuple[Tensor, str]:
    """Run one kernel; return its draws and its row of the table."""
    mcmc = MCMC(
        KERNELS[name],
        num_samples=num_draws,
        warmup_steps=num_draws,
        num_chains=num_chains,
        disable_progbar=True,
    )
    started = time.perf_counter()
    mcmc.run()
    seconds = time.perf_counter() - started
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    modes = mode_of(draws)
    shares = [float((modes == k).double().mean()) for k in range(len(WEIGHTS))]
    x0 = to_arviz({"x0": draws[..., 0]})
    r_hat, ess = (float(f(x0)["x0"]) for f in (az.rhat, az.ess))
    jumps = float((modes.diff(dim=1) != 0).double().mean())
    row = "".join(f"{share:>8.3f}" for share in shares)
    row = f"{name:<24}{row}{jumps:>9.4f}{r_hat:>8.3f}{ess:>9.0f}{seconds:>7.1f}"
    if isinstance(mcmc.kernel, ReplicaExchange):
        describe_ladder(name, mcmc.kernel, to_arviz(mcmc)["sample_stats"]["round_trip"])
    return draws, row


def describe_ladder(name: str, kernel: ReplicaExchange, round_trips: Any) -> None:
    """Print the ladder that warm-up has found, and how often a replica has gone all the way."""
    betas = " ".join(f"{beta:.3f}" for beta in kernel.ladder.tolist())
    print(f"{name}: betas {betas}; rejection rates add up to {float(kernel.barrier):.2f};")
    print(f"  {int(round_trips.sum())} round trips of replicas in {round_trips.size} draws")


def plot_ranks(draws: dict[str, Tensor]) -> None:
    """Ranks of the first coordinate in a few chains; they are level where chains agree."""
    figure, axes = plt.subplots(1, len(draws), figsize=(13, 3.8), sharey=True)
    for axis, (name, values) in zip(axes, draws.items(), strict=True):
        x0 = values[:NUM_SHOWN, :, 0]
        ranks = x0.flatten().argsort().argsort().reshape(x0.shape)
        for chain, of_chain in enumerate(ranks):
            counts, edges = np.histogram(of_chain, bins=NUM_BINS, range=(0, x0.numel()))
            heights = chain + HEIGHT * counts * NUM_BINS / len(of_chain)
            axis.stairs(heights, edges, baseline=chain, fill=True)
            axis.axhline(chain + HEIGHT, color="0.4", lw=0.7, ls="--")
        axis.set(title=name, xlabel="rank")
    axes[0].set(ylabel="chain; dashed: level", yticks=range(NUM_SHOWN), ylim=(0, NUM_SHOWN))
    figure.tight_layout()
    figure.savefig(OUT / "ranks.png", dpi=120)


def plot_draws(draws: dict[str, Tensor]) -> None:
    """All draws of one chain over the contours of the density."""
    span = torch.linspace(-8.0, 9.0, 300)
    grid = torch.stack(torch.meshgrid(span, span, indexing="xy"), dim=-1)
    figure, axes = plt.subplots(1, len(draws), figsize=(13, 3.6), sharex=True, sharey=True)
    for axis, (name, values) in zip(axes, draws.items(), strict=True):
        axis.contour(
            grid[..., 0],
            grid[..., 1],
            (-ENERGY(grid)).exp(),
            levels=6,
            colors="0.7",
            linewidths=0.8,
        )
        axis.plot(*values[0].T, lw=0.2, color="C0", alpha=0.5)
        axis.scatter(*values[0].T, s=4, alpha=0.5, linewidths=0, color="C0")
        axis.set(title=name, xlabel="$x_0$ of one chain")
    axes[0].set_ylabel("$x_1$")
    figure.tight_layout()
    figure.savefig(OUT / "draws.png", dpi=120)


def main() -> None:
    """Sample, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that it runs")
    num_chains, num_draws = (16, 60) if parser.parse_args().smoke else (64, 500)
    torch.manual_seed(0)
    results = {name: sample(name, num_chains, num_draws) for name in KERNELS}
    print(f"\n{num_chains} chains, {num_draws} draws each, {torch.get_num_threads()} threads")
    print(f"{'kernel':<24}{'shares of the modes':>24}{'jumps':>9}{'R-hat':>8}", end="")
    print(f"{'ESS':>9}{'s':>7}")
    print(*(row for _, row in results.values()), sep="\n")
    print(f"{'exact':<24}" + "".join(f"{weight:>8.3f}" for weight in WEIGHTS.tolist()))
    OUT.mkdir(parents=True, exist_ok=True)
    draws = {name: values for name, (values, _) in results.items()}
    plot_ranks(draws)
    plot_draws(draws)
    print(
        f"Figures in {OUT}/. The shares of plain chains are those of their starts, and R-hat says"
    )
    print("so; one chain alone would look converged. Jumps are between successive draws.")


if __name__ == "__main__":
    main()
