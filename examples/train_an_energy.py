"""Train a network as an energy by two objectives, with the exact likelihood beside them.

``python -m examples.train_an_energy [--smoke]`` writes out/train_an_energy/.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons
from torch import Tensor

from pyro_ebm import MALA, MCMC, MLPEnergy, fit_energy
from pyro_ebm.core.types import Energy, Objective
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.objectives import ContrastiveDivergence, MaximumLikelihood

OUT = Path("out/train_an_energy")
AXIS = torch.linspace(-4, 4, 200)
GRID = torch.stack(torch.meshgrid(AXIS, AXIS, indexing="xy"), dim=-1)
OBJECTIVES: dict[str, Objective] = {
    "ContrastiveDivergence": ContrastiveDivergence(MALA(step_size=0.3), num_steps=10),
    "MaximumLikelihood": MaximumLikelihood(MALA(step_size=0.3), num_steps=20),
}


def moons(num: int, seed: int) -> Tensor:
    """Two interleaved half circles, of mean 0 and scale 1 or so."""
    points, _ = make_moons(num, noise=0.08, random_state=seed)
    return (torch.as_tensor(points, dtype=torch.float32) - torch.tensor([0.5, 0.25])) * 1.3


def log_density(energy: Energy, x: Tensor) -> Tensor:
    """Normalised by quadrature, which two dimensions allow."""
    with torch.no_grad():
        cell = float(AXIS[1] - AXIS[0]) ** 2
        log_z = torch.logsumexp(-energy(GRID).flatten(), dim=0) + math.log(cell)
        return -energy(x) - log_z


def train(name: str, data: Tensor, num_steps: int) -> tuple[MLPEnergy, Tensor]:
    """Fit and sample one energy."""
    energy = MLPEnergy(event_shape=(2,), hidden=(32, 32))
    optimizer = torch.optim.Adam(energy.parameters(), lr=3e-3)
    checkpoint = OUT / f"{name}.pt"
    checkpoint.unlink(missing_ok=True)  # fit_energy overwrites no training of another run
    objective = OBJECTIVES[name]
    fit_energy(
        energy, objective, data, num_steps=num_steps, optimizer=optimizer, checkpoint=checkpoint
    )
    energy.requires_grad_(requires_grad=False)
    mcmc = MCMC(MALA(energy), num_samples=1, warmup_steps=num_steps // 2, num_chains=1000)
    mcmc.run()
    return energy, mcmc.get_samples()["x"]


def plot(data: Tensor, results: dict[str, tuple[MLPEnergy, Tensor]]) -> None:
    """Data, and for each objective the density and its samples."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharex=True, sharey=True)
    axes[0].scatter(*data.T, s=3, color="C0", linewidths=0)
    axes[0].set(title="data", xlim=(-3.2, 3.2), ylim=(-2.6, 2.6))
    for axis, (name, (energy, draws)) in zip(axes[1:], results.items(), strict=True):
        density = log_density(energy, GRID).exp()
        axis.pcolormesh(GRID[..., 0], GRID[..., 1], density, cmap="Blues", rasterized=True)
        axis.scatter(*draws.T, s=3, color="C1", linewidths=0)
        axis.set(title=name)
    figure.tight_layout()
    figure.savefig(OUT / "moons.png", dpi=120)


def main() -> None:
    """Train, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that it runs")
    num_steps = 30 if parser.parse_args().smoke else 800
    torch.manual_seed(0)
    OUT.mkdir(parents=True, exist_ok=True)
    data, held_out = moons(2000, seed=0), moons(1000, seed=1)
    results = {name: train(name, data, num_steps) for name in OBJECTIVES}
    gaussian = GaussianEnergy(data.mean(dim=0), data.T.cov())
    energies = {"Gaussian": gaussian} | {name: energy for name, (energy, _) in results.items()}
    print("\nheld-out log-likelihood per point, by quadrature")
    for name, energy in energies.items():
        values = log_density(energy, held_out)
        print(f"{name:<24}{values.mean():>8.3f} +- {values.std() / len(values) ** 0.5:.3f}")
    plot(data, results)
    print(f"Figure and checkpoints in {OUT}/.")


if __name__ == "__main__":
    main()
