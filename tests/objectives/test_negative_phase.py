"""The gradient for given noise: chains are constants in the parameters."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from pyro_ebm import MALA, EnergyPotential, Langevin, MLPEnergy, UnderdampedLangevin
from pyro_ebm.kernels.langevin import LangevinNoise
from pyro_ebm.objectives import ContrastiveDivergence, MaximumLikelihood
from pyro_ebm.sampling.walk import walk
from tests.objectives.gaussian_field import gradient
from tests.statistics import Rejected

KERNELS = [Langevin(step_size=0.3), MALA(step_size=0.7), UnderdampedLangevin(step_size=0.3)]


def _generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize("num_steps", [1, 4])
def test_gradient_of_contrastive_divergence(kernel, num_steps):
    energy, x = MLPEnergy((2, 3)), torch.randn(7, 2, 3)
    start = x.reshape(7, 6)
    moved = walk(kernel, EnergyPotential(energy), start, num_steps, _generator()).reshape(7, 2, 3)
    truth = torch.autograd.grad(energy(x).mean() - energy(moved).mean(), list(energy.parameters()))
    objective = ContrastiveDivergence(kernel, num_steps)
    actual = gradient(objective, energy, x, _generator())
    torch.testing.assert_close(actual, torch.cat([slope.reshape(-1) for slope in truth]))
    value = objective(energy, x, generator=_generator())
    torch.testing.assert_close(value, energy(x).mean() - energy(moved).mean())


def test_gradient_of_maximum_likelihood():
    """Chains start at draws of the initial law, as many as there are data."""
    energy, x, kernel = MLPEnergy(2), torch.randn(7, 2), MALA(step_size=0.7)
    generator = _generator()
    start = torch.randn(7, 2, generator=generator)
    moved = walk(kernel, EnergyPotential(energy), start, 3, generator)
    truth = torch.autograd.grad(energy(x).mean() - energy(moved).mean(), list(energy.parameters()))
    actual = gradient(MaximumLikelihood(kernel, 3), energy, x, _generator())
    torch.testing.assert_close(actual, torch.cat([slope.reshape(-1) for slope in truth]))


@pytest.mark.parametrize("objective", [ContrastiveDivergence, MaximumLikelihood])
def test_training_leaves_data_and_other_gradients_alone(objective):
    energy, x = MLPEnergy(2), torch.randn(5, 2)
    kept, before = x.clone(), copy.deepcopy(energy.state_dict())
    objective(Langevin(step_size=0.1), 2)(energy, x)
    assert torch.equal(x, kept)
    assert all(torch.equal(value, before[name]) for name, value in energy.state_dict().items())
    assert all(parameter.grad is None for parameter in energy.parameters())


class Wavy(nn.Module):
    """Smooth, not symmetric, and not linear in one of its two parameters."""

    event_shape = torch.Size([2])

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.6, 0.9]))

    def forward(self, x):
        first, second = self.weights
        wave = torch.sin(second * x[..., 0] + x[..., 1])
        return 0.5 * first * x.square().sum(-1) + wave + 0.1 * x[..., 1].pow(3)


X = torch.tensor([[0.3, -0.8], [-1.1, 0.4], [0.9, 1.2]])
SIGNS = torch.tensor(list(itertools.product([1.0, -1.0], repeat=2)))
"""Noise with the mean and covariance of a standard normal, and no odd moments."""


class AllSigns(Langevin):
    def noise(self, state, generator):
        del generator
        return LangevinNoise(SIGNS.repeat(len(state.position) // len(SIGNS), 1))


def _contrastive_divergence(energy, step_size):
    objective = ContrastiveDivergence(AllSigns(step_size=step_size))
    return gradient(objective, energy, X.repeat_interleave(4, dim=0))


def _through_the_sampler(energy, step_size):
    """The mutant: chains that are not constants."""
    x = X.repeat_interleave(4, dim=0).requires_grad_()
    (slope,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
    moved = x - step_size**2 / 2 * slope + step_size * SIGNS.repeat(len(X), 1)
    return torch.autograd.grad(energy(x).mean() - energy(moved).mean(), energy.weights)[0]


def _score_matching(energy):
    r"""Gradient of the mean of :math:`\frac12 |\nabla E|^2 - \Delta E`."""
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
    seconds = [
        torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in (0, 1)
    ]
    loss = (0.5 * slope.square().sum(-1) - seconds[0] - seconds[1]).mean()
    return torch.autograd.grad(loss, energy.weights)[0]


def _assert_score_matching_in_small_steps(method):
    """The error is of fourth order: a sixteenth for each halving of the step."""
    energy = Wavy()
    truth = _score_matching(energy)
    steps = [0.2, 0.1, 0.05, 0.025]
    errors = [float((method(energy, e) - e**2 / 2 * truth).norm()) for e in steps]
    ratios = [large / small for large, small in itertools.pairwise(errors)]
    if ratios[-1] != pytest.approx(16, rel=0.02):
        raise Rejected(f"ratios of errors are {ratios}")


def test_cd_1_with_small_steps_is_score_matching():
    _assert_score_matching_in_small_steps(_contrastive_divergence)
    with pytest.raises(Rejected):
        _assert_score_matching_in_small_steps(_through_the_sampler)


def test_differentiating_through_the_sampler_is_another_gradient():
    r"""Its limit is that of :math:`|\nabla E|^2 - \Delta E`: score matching halves the square."""
    energy, step_size = Wavy(), 1e-3
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
    seconds = [
        torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in (0, 1)
    ]
    limit = (slope.square().sum(-1) - seconds[0] - seconds[1]).mean()
    truth = torch.autograd.grad(limit, energy.weights)[0]
    actual = _through_the_sampler(energy, step_size) / (step_size**2 / 2)
    torch.testing.assert_close(actual, truth, rtol=1e-4, atol=1e-4)
