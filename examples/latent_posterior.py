"""A latent posterior with an energy as its prior: guide, chains, and chains tied to the guide.

The decoder maps 2 latent numbers to 4 noisy pixels; the prior is a ring. Everything can be checked
by quadrature. ``python -m examples.latent_posterior [--smoke]`` writes out/latent_posterior/.
"""

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

from pyro_ebm import (
    MALA,
    MCMC,
    EnergyDistribution,
    Langevin,
    ModelPotential,
    ProximalPotential,
    mixing_report,
)
from pyro_ebm.core.types import PotentialTerm
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
    guide = AutoMultivariateNormal(model)
    elbo = ReparameterizedELBO(num_particles=16)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss=elbo)
    for _ in trange(num_steps, desc="Guide"):
        svi.step(PIXELS)
    return guide


def exact(potential: PotentialTerm) -> Tensor:
    """Probabilities of the points of the grid."""
    return torch.softmax(-potential.value_and_grad(GRID)[0], dim=0)


def moments(z: Tensor, weights: Tensor) -> str:
    """Mean and standard deviations, as a piece of a row."""
    mean = weights @ z
    scale = (weights @ (z - mean).square()).sqrt()
    return "".join(f"{number:>9.3f}" for number in (*mean, *scale))


def plot(density: dict[str, Tensor], draws: dict[str, Tensor]) -> None:
    """Draws over the density that they should follow."""
    figure, axes = plt.subplots(1, len(draws), figsize=(13, 3.6), sharex=True, sharey=True)
    for axis, (name, z) in zip(axes, draws.items(), strict=True):
        values = density[name].reshape(len(AXIS), -1)
        axis.contour(AXIS, AXIS, values, levels=6, colors="0.65", linewidths=0.8)
        axis.scatter(*z[:1000].T, s=4, alpha=0.5, linewidths=0)
        axis.set(title=name, xlabel="$z_0$", xlim=(-1.5, 2.5), ylim=(-2.2, 2.5))
    axes[0].set_ylabel("$z_1$")
    figure.tight_layout()
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "posterior.png", dpi=120)
