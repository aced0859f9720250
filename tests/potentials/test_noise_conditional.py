"""Noise-conditional potentials: the level of each point, sums, networks, and what is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials import EnergyPotential, NoiseConditionalPotential, ProximalPotential

LEVELS = torch.tensor([0.1, 1.0, 3.0])


def _energy(x, sigma):
    return x.square().sum(-1) / (2 * (0.5 + sigma.square()))


def test_each_chain_has_its_own_level():
    potential = NoiseConditionalPotential(_energy, 0.1, (2,))
    q = torch.randn(3, 2)
    value, grad = potential.at_noise_level(LEVELS).value_and_grad(q)
    variance = 0.5 + LEVELS.square()
    torch.testing.assert_close(value, q.square().sum(-1) / (2 * variance), rtol=1e-14, atol=0)
    torch.testing.assert_close(grad, q / variance.unsqueeze(-1), rtol=1e-14, atol=0)
    torch.testing.assert_close(potential(q)[0], value[0], rtol=0, atol=0)


def test_terms_are_the_same_at_all_levels():
    term = ProximalPotential(torch.ones(2), 0.7)
    potential = NoiseConditionalPotential(_energy, 0.1, (2,))
    total = potential + term + term
    q = torch.randn(3, 2)
    assert total.noise_level == 0.1
    torch.testing.assert_close(total(q), potential(q) + 2 * term(q))
    at_level = total.at_noise_level(LEVELS)
    torch.testing.assert_close(at_level(q), potential.at_noise_level(LEVELS)(q) + 2 * term(q))
    torch.testing.assert_close(
        at_level.value_and_grad(q)[1],
        potential.at_noise_level(LEVELS).value_and_grad(q)[1] + 2 * term.value_and_grad(q)[1],
    )


def test_networks_give_type_and_sites():
    class Network(nn.Module):
        event_shape = torch.Size([2, 3])

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6, dtype=torch.float32))

        def forward(self, x, sigma):
            return (x.flatten(-2) * self.weight).square().sum(-1) / sigma

    potential = NoiseConditionalPotential(Network(), 0.5, name="image")
    assert (potential.dim, potential.dtype) == (6, torch.float32)
    q = potential.initial(4)
    assert potential.constrain(q)["image"].shape == (4, 2, 3)
    at_level = potential.at_noise_level(torch.full((4,), 0.25))
    torch.testing.assert_close(at_level(q), 2 * potential(q))
    assert isinstance(at_level, EnergyPotential)


def test_what_is_missing_or_wrong_is_named():
    with pytest.raises(ModelError, match="event_shape"):
        NoiseConditionalPotential(_energy, 0.1)
    with pytest.raises(ValueError, match=r"noise_level=0\.0"):
        NoiseConditionalPotential(_energy, 0.0, (2,))
