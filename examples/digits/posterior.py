"""The latent posterior p(z|x) of held-out digits, by a guide and by chains."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import arviz as az
import pyro.infer
import torch
from torch import Tensor

from examples.digits.models import VAE
from examples.digits.settings import Settings
from pyro_ebm import (
    MALA,
    MCMC,
    Langevin,
    ModelPotential,
    ProximalPotential,
    RecordingNUTS,
    to_arviz,
)

PROXIMAL_SCALE = 0.5


class Sampled(NamedTuple):
    """Draws of one method."""

    name: str
    draws: Tensor
    """Latents ``(chain, draw, digit, LATENT)``."""
    seconds: float
    data: Any
    """ArviZ's container."""

    @property
    def r_hat(self) -> float:
        """Worst rank-normalised R-hat."""
        return float(az.rhat(self.data)["z"].max())

    @property
    def ess(self) -> float:
        """Smallest bulk ESS."""
        return float(az.ess(self.data)["z"].min())

    @property
    def mean(self) -> Tensor:
        """Posterior means ``(digit, LATENT)``."""
        return self.draws.mean(dim=(0, 1))

    @property
    def variance(self) -> Tensor:
        """Posterior variances ``(digit, LATENT)``."""
        return self.draws.flatten(0, 1).var(dim=0)

    @property
    def mean_error(self) -> Tensor:
        """Monte-Carlo standard error of the means, by ArviZ."""
        return torch.as_tensor(az.mcse(self.data)["z"].values)


def sample_posteriors(vae: VAE, x: Tensor, settings: Settings) -> list[Sampled]:
    """Sample the digits' joint posterior by every method."""
    posterior = ModelPotential(vae.model, x)
    loc, scale = vae.encode(x)
    anchored = posterior + ProximalPotential(loc.flatten(), PROXIMAL_SCALE)
    starts = {"z": loc + scale * torch.randn(settings.num_chains, *loc.shape)}
    return [
        _guide(vae, x, settings),
        _nuts("Pyro's NUTS", vae, x, settings, starts),
        _chains("MALA", MALA(posterior), settings, starts),
        _chains("Langevin", Langevin(posterior), settings, starts),
        _chains(
            "Langevin, large step",
            Langevin(posterior, target_accept_prob=0.6),
            settings,
            starts,
        ),
        _chains("MALA, proximal", MALA(anchored), settings, starts),
        _chains("Langevin, proximal", Langevin(anchored), settings, starts),
    ]


def _guide(vae: VAE, x: Tensor, settings: Settings) -> Sampled:
    started = time.perf_counter()
    loc, scale = vae.encode(x)
    draws = loc + scale * torch.randn(4, settings.num_samples, *loc.shape)
    return Sampled("guide", draws, time.perf_counter() - started, to_arviz({"z": draws}))


def _chains(name: str, kernel: Any, settings: Settings, starts: dict[str, Tensor]) -> Sampled:
    mcmc = MCMC(
        kernel,
        settings.num_samples,
        settings.warmup_steps,
        starts,
        settings.num_chains,
        thinning=settings.thinning,
    )
    started = time.perf_counter()
    mcmc.run()
    seconds = time.perf_counter() - started
    return Sampled(name, mcmc.get_samples(group_by_chain=True)["z"], seconds, to_arviz(mcmc))


def _nuts(name: str, vae: VAE, x: Tensor, settings: Settings, starts: dict[str, Tensor]) -> Sampled:
    mcmc = pyro.infer.MCMC(
        RecordingNUTS(vae.model),
        settings.nuts_samples,
        settings.nuts_warmup,
        initial_params={"z": starts["z"][:2]},
        num_chains=2,
        mp_context="fork",
    )
    started = time.perf_counter()
    mcmc.run(x)
    seconds = time.perf_counter() - started
    return Sampled(name, mcmc.get_samples(group_by_chain=True)["z"], seconds, to_arviz(mcmc))
