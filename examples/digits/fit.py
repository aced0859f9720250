"""Train the VAE with two gradient estimators, and compare their variance at one point."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pyro
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor
from tqdm.auto import tqdm

from examples.digits.data import Digits
from examples.digits.models import VAE
from examples.digits.settings import Settings
from pyro_ebm.estimators import LeaveOneOut, NoBaseline, ReparameterizedELBO, ScoreFunctionELBO

_BATCH = 128


class Fit(NamedTuple):
    """A trained VAE and its held-out ELBO per digit while training."""

    vae: VAE
    steps: list[int]
    elbo: list[float]


class GradientRow(NamedTuple):
    """Encoder gradient of one estimator at the common point."""

    name: str
    num_particles: int
    mean_norm: float
    total_variance: float


def train_twice(digits: Digits, settings: Settings) -> dict[str, Fit]:
    """Train from the same start with reparameterised and with score-function gradients."""
    start = VAE()
    estimators = {
        "reparameterised": ReparameterizedELBO(num_particles=4),
        "score function": ScoreFunctionELBO(LeaveOneOut(), num_particles=4),
    }
    return {
        name: _train(copy.deepcopy(start), estimator, digits, settings, name)
        for name, estimator in estimators.items()
    }


def compare_gradients(vae: VAE, x: Tensor, settings: Settings) -> list[GradientRow]:
    """Mean and total variance of the encoder's gradient of the ELBO per digit."""
    rows = {
        "reparameterised": ReparameterizedELBO(),
        "reparameterised, 8 particles": ReparameterizedELBO(num_particles=8),
        "score function": ScoreFunctionELBO(NoBaseline()),
        "score function, 8 particles": ScoreFunctionELBO(NoBaseline(), num_particles=8),
        "score function, leave-one-out": ScoreFunctionELBO(LeaveOneOut(), num_particles=8),
    }
    return [_measure(name, loss, vae, x, settings) for name, loss in rows.items()]


def _train(vae: VAE, estimator: ELBO, digits: Digits, settings: Settings, name: str) -> Fit:
    pyro.clear_param_store()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 2e-3}), loss=estimator)
    evaluate = ReparameterizedELBO(num_particles=8)
    steps, elbo = [], []
    for step in tqdm(range(settings.svi_steps), desc=f"VAE, {name}"):
        svi.step(digits.train[torch.randint(len(digits.train), (_BATCH,))])
        if step % max(1, settings.svi_steps // 50) == 0 or step == settings.svi_steps - 1:
            steps.append(step)
            elbo.append(-evaluate.loss(vae.model, vae.guide, digits.test) / len(digits.test))
    return Fit(vae.eval().requires_grad_(requires_grad=False), steps, elbo)


def _measure(name: str, loss: ELBO, vae: VAE, x: Tensor, settings: Settings) -> GradientRow:
    pyro.clear_param_store()
    vae = copy.deepcopy(vae).requires_grad_(requires_grad=True)
    draws = []
    for _ in tqdm(range(settings.gradient_repeats), desc=f"Gradients, {name}"):
        vae.zero_grad()
        loss.loss_and_grads(vae.model, vae.guide, x)
        grads = [parameter.grad.flatten() for parameter in vae.encoder.parameters()]
        draws.append(torch.cat(grads) / len(x))
    gradients = torch.stack(draws)
    return GradientRow(
        name, loss.num_particles, float(gradients.mean(0).norm()), float(gradients.var(0).sum())
    )
