"""Exact expectations of objectives on a Gaussian, by noise that has the right moments.

Two points have the mean and variance of the data, and noise of +-1 has mean zero and variance
one. One unadjusted step is linear and the energy quadratic, so that the loss of these four
pairs is the expected loss and nothing is random.
"""

from __future__ import annotations

import torch
from torch import nn

from pyro_ebm import Langevin
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels.langevin import LangevinNoise

MEAN, VARIANCE = 0.7, 1.3
"""Of the data."""


class SignNoise(Langevin):
    """Noise of +1 and -1 in turn, so that a batch has every datum with both."""

    def noise(self, state, generator):
        del generator
        signs = torch.tensor([1.0, -1.0]).repeat(len(state.position) // 2)
        return LangevinNoise(signs.unsqueeze(-1).expand_as(state.position))


def trainable_gaussian(loc, precision):
    """An energy on the line with both numbers trained."""
    return GaussianEnergy(
        nn.Parameter(torch.tensor(float(loc))),
        precision=nn.Parameter(torch.tensor(float(precision))),
    )


def two_points(variance=VARIANCE):
    """Data with the mean and variance exactly, each twice."""
    return (MEAN + torch.tensor([1.0, 1.0, -1.0, -1.0]) * variance**0.5).clone()


def gradient(objective, energy, x, generator=None):
    """Gradient of the loss, one vector over all parameters."""
    loss = objective(energy, x, generator=generator)
    slopes = torch.autograd.grad(loss, list(energy.parameters()))
    return torch.cat([slope.reshape(-1) for slope in slopes])
