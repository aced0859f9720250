"""Sample an energy of your own with 1024 chains, by four kernels, next to the exact moments.

``python -m examples.sample_an_energy [--smoke]`` writes out/sample_an_energy/draws.png.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import arviz as az
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pyro_ebm import MALA, MCMC, EnergyPotential, Langevin, UnderdampedLangevin, to_arviz

OUT = Path("out/sample_an_energy")


def arch(x: Tensor) -> Tensor:
    """Energy of a bent Gaussian: x0 ~ N(0, 1) and x1 ~ N(1.5 cos(x0), 1/4)."""
    along, across = x[..., 0], x[..., 1] - 1.5 * x[..., 0].cos()
    return along.square() / 2 + 2 * across.square()


MEAN = 1.5 * math.exp(-0.5)
VARIANCE = 1.5**2 * ((1 + math.exp(-2)) / 2 - math.exp(-1)) + 0.25

POTENTIAL = EnergyPotential(arch, event_shape=(2,))
KERNELS = {
    "MALA": MALA(POTENTIAL),
    "Langevin": Langevin(POTENTIAL),
    "Langevin, large step": Langevin(POTENTIAL, target_accept_prob=0.7),
    "UnderdampedLangevin": UnderdampedLangevin(POTENTIAL),
}


def sample(name: str, num_chains: int, num_steps: int) -> tuple[Tensor, str]:
    """Run one kernel; return its draws and its row of the table."""
    mcmc = MCMC(KERNELS[name], num_samples=num_steps, warmup_steps=num_steps, num_chains=num_chains)
    started = time.perf_counter()
    mcmc.run()
    seconds = time.perf_counter() - started
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    x1 = to_arviz({"x1": draws[..., 1]})
    ess, r_hat, error = (float(f(x1)["x1"]) for f in (az.ess, az.rhat, az.mcse))
    mean, variance = float(draws[..., 1].mean()), float(draws[..., 1].var())
    return draws, (
        f"{name:<22}{mean:>8.4f} +- {error:.4f}{variance:>10.4f}{mcmc.kernel.step_size:>7.2f}"
        f"{r_hat:>7.3f}{ess:>9.0f}{ess / seconds:>9.0f}"
    )


def plot(draws: dict[str, Tensor]) -> None:
    """The last draw of every chain over the contours of the density."""
    grid = torch.stack(
        torch.meshgrid(torch.linspace(-3.5, 3.5, 200), torch.linspace(-3.5, 4, 200), indexing="xy"),
        dim=-1,
    )
    density = (-arch(grid)).exp()
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), sharex=True, sharey=True)
    for axis, (name, values) in zip(axes, draws.items(), strict=True):
        last = values[:, -1]
        axis.contour(grid[..., 0], grid[..., 1], density, levels=6, colors="0.7", linewidths=0.8)
        axis.scatter(last[:, 0], last[:, 1], s=4, alpha=0.5, linewidths=0, color="C0")
        axis.set(title=name, xlabel="$x_0$", xlim=(-3.5, 3.5), ylim=(-3.5, 4))
    axes[0].set_ylabel("$x_1$")
    figure.tight_layout()
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "draws.png", dpi=120)


def main() -> None:
    """Sample, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that it runs")
    num_chains, num_steps = (64, 50) if parser.parse_args().smoke else (1024, 1000)
    torch.manual_seed(0)
    results = {name: sample(name, num_chains, num_steps) for name in KERNELS}
    print(f"\n{num_chains} chains, {num_steps} draws each, {torch.get_num_threads()} threads")
    print(f"{'kernel':<22}{'mean of x1':>18}{'variance':>10}{'step':>7}{'R-hat':>7}", end="")
    print(f"{'ESS':>9}{'ESS/s':>9}")
    print(*(row for _, row in results.values()), sep="\n")
    print(f"{'exact':<22}{MEAN:>8.4f}{VARIANCE:>20.4f}")
    plot({name: draws for name, (draws, _) in results.items()})
    print(
        f"Figure in {OUT}/. Only MALA is exact: what the others are off by comes from their step,"
    )
    print("and no number of draws takes it away. ESS counts draws; it knows nothing of a bias.")


if __name__ == "__main__":
    main()
