"""The targets in torch and Pyro: for pyro_ebm, Pyro, torchebm and posteriors; float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_ebm.energies import FunnelEnergy, MLPEnergy
from tests.benchmarks.targets import Data, Target

Model = Callable[..., None]


class DiagonalGaussian(nn.Module):
    """The energy of independent Gaussians around zero."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.event_shape = scale.shape
        self.register_buffer("precision", scale.reciprocal().square())

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (self.precision * x.square()).sum(-1)


def model_of(target: Target) -> tuple[Model, tuple[Tensor, ...]]:
    """A Pyro model and its arguments."""
    tensors = {name: torch.as_tensor(value) for name, value in target.data.items()}
    args = [t.float() if t.is_floating_point() else t for t in tensors.values()]
    return globals()[target.builder], tuple(args)


def energy_of(target: Target) -> nn.Module:
    """A module ``(*batch, *event) -> (*batch,)`` whose parameters are frozen."""
    energy: nn.Module = globals()[target.builder](target.data)
    return energy.requires_grad_(requires_grad=False)


def eight_schools(effects: Tensor, errors: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, errors), obs=effects)


def logistic_regression(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(0.0, 2.5).expand([x.shape[1]]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def hierarchical(group: Tensor, x: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 2.5))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("groups", 50):
        intercept = pyro.sample("intercept", dist.Normal(mu, tau))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(intercept[group] + slope * x, sigma), obs=y)


def gaussian(data: Data) -> nn.Module:
    return DiagonalGaussian(_float(data["scale"]))


def mlp(data: Data) -> nn.Module:
    dim, hidden = data["weight_0"].shape[1], data["weight_1"].shape
    energy = MLPEnergy(dim, hidden)
    linear = [layer for layer in energy.network if isinstance(layer, nn.Linear)]
    for layer, module in enumerate(linear):
        module.weight.data = _float(data[f"weight_{layer}"])
        module.bias.data = _float(data[f"bias_{layer}"])
    return energy


def funnel(data: Data) -> nn.Module:
    return FunnelEnergy(int(data["dim"]), float(data["scale"]))


def _float(array: Any) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32)
