"""The variational autoencoder, in Pyro syntax."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

LATENT = 8
PIXELS = 64
NOISE = 0.08
"""Standard deviation of a pixel given the latent."""


class VAE(nn.Module):
    """Decoder ``g`` and amortised guide ``q(z|x)``."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, PIXELS),
            nn.Sigmoid(),
        )
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * LATENT),
        )

    def model(self, x: Tensor) -> None:
        """``z ~ N(0, I)``, ``x ~ N(g(z), NOISE^2)``."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("digit", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), NOISE).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """``z ~ N(m(x), s(x)^2)``."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("digit", len(x)):
            pyro.sample("z", dist.Normal(*self.encode(x)).to_event(1))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the guide, ``(batch, LATENT)`` each."""
        loc, scale = self.encoder(x).chunk(2, dim=-1)
        return loc, softplus(scale) + 1e-3

    def aggregated_posterior(self, x: Tensor, draws_per_digit: int) -> Tensor:
        """Draws ``(draws, batch, LATENT)`` of ``q(z) = mean over x of q(z|x)``."""
        loc, scale = self.encode(x)
        with torch.no_grad():
            return loc + scale * torch.randn(draws_per_digit, *loc.shape)
