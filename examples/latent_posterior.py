"""A latent posterior with an energy as its prior, by guide and chains, next to the truth."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Predictive
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor
from tqdm.auto import trange

from pyro_ebm import MALA, MCMC, EnergyDistribution, ModelPotential, ProximalPotential
from pyro_ebm.diagnostics import mixing_report
from pyro_ebm.estimators import ReparameterizedELBO

OUT = Path("out/latent_posterior")
WEIGHTS = torch.tensor([[0.9, -0.2], [0.4, 0.5], [-0.7, 0.3], [0.2, 0.6]])
PIXELS = torch.tensor([0.4, 0.9, 0.1, 0.8])
AXIS = torch.linspace(-3, 3, 400)
GRID = torch.stack(torch.meshgrid(AXIS, AXIS, indexing="xy"), dim=-1).reshape(-1, 2)


class Ring:
    """An energy that is lowest at distance 1.5 from the origin."""

    event_shape = torch.Size([2])

    def __call__(self, z: Tensor) -> Tensor:
        return 6.0 * (z.square().sum(-1).add(1e-6).sqrt() - 1.5).square()


def model(x: Tensor) -> None:
    """Pixels of one latent point."""
    z = pyro.sample("z", EnergyDistribution(Ring()))
    pyro.sample("x", dist.Normal(torch.tanh(z @ WEIGHTS.T), 0.6).to_event(1), obs=x)


def fit_guide(num_steps: int) -> AutoMultivariateNormal:
    """A Gaussian guide by reparameterised gradients."""
    guide, elbo = AutoMultivariateNormal(model), ReparameterizedELBO(num_particles=16)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss=elbo)
    for _ in trange(num_steps, desc="Guide"):
        svi.step(PIXELS)
    return guide


def row(name: str, z: Tensor, weights: Tensor) -> str:
    """Means and standard deviations."""
    mean = weights @ z
    scale = (weights @ (z - mean).square()).sqrt()
    return f"{name:<26}" + "".join(f"{number:>9.3f}" for number in (*mean, *scale))


def plot(draws: dict[str, Tensor], densities: list[Tensor]) -> None:
    """Draws over the density that they should follow."""
    figure, axes = plt.subplots(1, len(draws), figsize=(10.5, 3.8), sharex=True, sharey=True)
    for axis, (name, z), density in zip(axes, draws.items(), densities, strict=True):
        values = density.reshape(len(AXIS), -1)
        axis.contour(AXIS, AXIS, values, levels=6, colors="0.65", linewidths=0.8)
        axis.scatter(*z[torch.randperm(len(z))[:512]].T, s=5, alpha=0.5, linewidths=0)
        axis.set(title=name, xlabel="$z_0$", xlim=(-1.5, 2.5), ylim=(-1.3, 2.6))
    axes[0].set_ylabel("$z_1$")
    figure.tight_layout()
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "posterior.png", dpi=120)
    print(f"Figure in {OUT}/.")


def main() -> None:
    """Guide, chains, table, figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that it runs")
    smoke = parser.parse_args().smoke
    num_chains, num_draws, guide_steps = (64, 20, 50) if smoke else (512, 500, 1000)
    pyro.set_rng_seed(0)
    guide = fit_guide(guide_steps)
    starts = Predictive(guide, num_samples=num_chains)(PIXELS)["z"].reshape(-1, 2)
    posterior = ModelPotential(model, PIXELS)
    anchored = posterior + ProximalPotential(guide.get_posterior().mean.detach(), scale=0.4)
    draws = {"guide": starts}
    for name, target in {"MALA": posterior, "MALA, proximal": anchored}.items():
        mcmc = MCMC(MALA(target), num_draws, 200, {"z": starts}, num_chains)
        mcmc.run()
        print(mixing_report(mcmc), "\n")
        draws[name] = mcmc.get_samples()["z"]
    truth, tilted = (torch.softmax(-U.value_and_grad(GRID)[0], 0) for U in (posterior, anchored))
    print(f"{'':<26}{'mean z0':>9}{'mean z1':>9}{'sd z0':>9}{'sd z1':>9}")
    print(*(row(k, z, torch.ones(len(z)) / len(z)) for k, z in draws.items()), sep="\n")
    print(row("posterior, exact", GRID, truth))
    print(row("with proximal term, exact", GRID, tilted))
    plot(draws, [truth, truth, tilted])


if __name__ == "__main__":
    main()
