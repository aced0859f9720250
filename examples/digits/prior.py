"""An energy trained on the aggregated posterior, and how well it does as a prior."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import xarray as xr
from torch import Tensor

from examples.digits.data import Digits
from examples.digits.mmd import MMDComparison, compare_mmd
from examples.digits.models import LATENT, VAE
from examples.digits.settings import Settings
from pyro_ebm import MALA, MCMC, MLPEnergy, UnderdampedLangevin, fit_energy, to_arviz
from pyro_ebm.objectives import ContrastiveDivergence


class PriorResult(NamedTuple):
    """The trained energy, its samples by two kernels, and the comparisons."""

    history: Any
    samples: dict[str, Tensor]
    """Latents ``(draws, LATENT)`` by kernel."""
    data: dict[str, Any]
    """ArviZ's containers by kernel."""
    gaussian: Tensor
    oracle: Tensor
    latent_mmd: dict[str, MMDComparison]
    pixel_mmd: dict[str, MMDComparison]


def study_prior(vae: VAE, digits: Digits, settings: Settings) -> PriorResult:
    """Train, sample by two kernels, and compare with the Gaussian prior."""
    energy = MLPEnergy(LATENT, hidden=(64, 64))
    history = _train(energy, vae.aggregated_posterior(digits.train, 20).flatten(0, 1), settings)
    runs = {
        "MALA": _sample(MALA(energy), settings),
        "underdamped": _sample(UnderdampedLangevin(energy, target_accept_prob=0.97), settings),
    }
    samples = {name: run.get_samples()["x"] for name, run in runs.items()}
    data = {name: to_arviz(run) for name, run in runs.items()}
    return _compare(vae, digits, history, samples, data)


def _train(energy: MLPEnergy, latents: Tensor, settings: Settings) -> Any:
    """Contrastive divergence, the last quarter of the steps at a tenth of the learning rate."""
    objective = ContrastiveDivergence(MALA(step_size=0.8), num_steps=15)
    histories = []
    for rate, share in ((1e-3, 0.75), (1e-4, 0.25)):
        history = fit_energy(
            energy,
            objective,
            latents,
            num_steps=math.ceil(share * settings.energy_steps),
            batch_size=256,
            optimizer=torch.optim.Adam(energy.parameters(), lr=rate),
        )
        histories.append(history)
    energy.requires_grad_(requires_grad=False)
    return xr.concat(histories, dim="step").assign_coords(
        step=range(1, sum(len(history.step) for history in histories) + 1)
    )


def _sample(kernel: Any, settings: Settings) -> MCMC:
    """Thinned, because the draws that are compared should be nearly independent."""
    num_chains = settings.prior_draws // 5
    mcmc = MCMC(kernel, 5, settings.prior_steps, num_chains=num_chains, thinning=50)
    mcmc.run()
    return mcmc


def _compare(
    vae: VAE, digits: Digits, history: Any, samples: dict[str, Tensor], data: dict[str, Any]
) -> PriorResult:
    num = len(samples["MALA"])
    gaussian = torch.randn(num, LATENT)
    oracle = vae.aggregated_posterior(digits.train, draws_per_digit=num // len(digits.train) + 1)
    oracle = oracle.flatten(0, 1)[torch.randperm(oracle[..., 0].numel())[:num]]
    held_out = vae.aggregated_posterior(digits.test, draws_per_digit=num // len(digits.test) + 1)
    candidates = samples | {"oracle": oracle}
    decode = vae.decoder
    return PriorResult(
        history,
        samples,
        data,
        gaussian,
        oracle,
        latent_mmd=compare_mmd(candidates, gaussian, held_out.transpose(0, 1)),
        pixel_mmd=compare_mmd(
            {name: decode(z) for name, z in candidates.items()},
            decode(gaussian),
            digits.test.unsqueeze(1),
        ),
    )
