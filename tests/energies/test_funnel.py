"""Neal's funnel: density, constants and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from pyro_ebm.energies import FunnelEnergy
from pyro_ebm.energies.quadrature import tabulate


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_normalised_energy_is_minus_the_log_density(scale):
    energy = FunnelEnergy(4, scale)
    x = torch.randn(6, 4)
    log_density = Normal(0.0, scale).log_prob(x[:, 0])
    log_density = log_density + Normal(0.0, (x[:, :1] / 2).exp()).log_prob(x[:, 1:]).sum(-1)
    torch.testing.assert_close(energy(x) + energy.log_partition, -log_density)


def test_variances_by_quadrature():
    energy = FunnelEnergy(3)
    log_variance = tabulate(lambda v: v**2 / 18, -60.0, 60.0)
    assert float(energy.variance[0]) == pytest.approx(log_variance.expectation(torch.square))
    assert float(energy.variance[1]) == pytest.approx(log_variance.expectation(torch.exp))
    assert float(energy.variance[2]) == pytest.approx(math.exp(4.5))


def test_gradient():
    x = torch.randn(6, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(FunnelEnergy(3, 2.0)(x).sum(), x)
    v, others = x[:, :1], x[:, 1:]
    first = v / 4 + 1 - 0.5 * (-v).exp() * others.square().sum(-1, keepdim=True)
    torch.testing.assert_close(grad, torch.cat([first, (-v).exp() * others], dim=-1))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="dim"):
        FunnelEnergy(1)
    with pytest.raises(ValueError, match="scale"):
        FunnelEnergy(3, scale=0.0)
