"""The network energy: its formula, its base term, and why it has one."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from pyro_ebm.energies import MLPEnergy
from tests.statistics import TEST_FAILURE_RATE

NUM_NETWORKS = 100


def _falls_without_bound(energy, num_directions=500):
    """Far out every SiLU network is linear along a ray, so two points give its slope."""
    directions = torch.randn(num_directions, *energy.event_shape)
    directions /= directions.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        return bool((energy(1e6 * directions) < energy(5e5 * directions)).any())


def _count_falling(base_scale):
    networks = (MLPEnergy(2, base_scale=base_scale) for _ in range(NUM_NETWORKS))
    return sum(_falls_without_bound(network) for network in networks)


def _binomial_lower_quantile(num_trials, failure_rate):
    """Largest ``k`` such that fewer than ``k`` heads of a fair coin are rarer than the rate."""
    probability, k = 0.0, 0
    while (probability := probability + math.comb(num_trials, k) / 2**num_trials) < failure_rate:
        k += 1
    return k


def test_is_the_network_plus_the_base():
    energy = MLPEnergy((2, 3), hidden=(4,), base_scale=2.0)
    first, activation, last = energy.network
    x = torch.randn(5, 2, 3)
    hidden = activation(x.reshape(5, 6) @ first.weight.T + first.bias)
    expected = hidden @ last.weight[0] + last.bias + x.square().sum((1, 2)) / 8
    torch.testing.assert_close(energy(x), expected)


def test_without_base_is_the_network_alone():
    energy = MLPEnergy(3, base_scale=None)
    x = torch.randn(5, 3)
    torch.testing.assert_close(energy(x), energy.network(x).squeeze(-1))


def test_no_hidden_layer_tilts_the_base():
    energy = MLPEnergy(3, hidden=())
    (layer,) = energy.network
    x = torch.randn(5, 3)
    expected = x @ layer.weight[0] + layer.bias + 0.5 * x.square().sum(-1)
    torch.testing.assert_close(energy(x), expected)


def test_base_term_wins_in_every_direction():
    assert _count_falling(base_scale=1.0) == 0


def test_of_a_network_and_its_negative_one_falls():
    for _ in range(20):
        energy = MLPEnergy(2, base_scale=None)
        negative = copy.deepcopy(energy)
        with torch.no_grad():
            for parameter in negative.network[-1].parameters():
                parameter.neg_()
        assert _falls_without_bound(energy) or _falls_without_bound(negative)


def test_most_networks_without_base_are_no_densities():
    # The last layer is drawn symmetrically and of a network and its negative one falls (above),
    # so that each network falls with probability at least one half; measured: about 0.9.
    least = _binomial_lower_quantile(NUM_NETWORKS, TEST_FAILURE_RATE)
    assert _count_falling(base_scale=None) >= least > 25


def test_activation_is_made_for_each_layer():
    energy = MLPEnergy(2, hidden=(3, 3), activation=nn.Tanh)
    assert [type(layer) for layer in energy.network].count(nn.Tanh) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_shape": 0}, "event_shape"),
        ({"event_shape": (2, -1)}, "event_shape"),
        ({"event_shape": 2, "hidden": (4, 0)}, "hidden"),
        ({"event_shape": 2, "base_scale": 0.0}, "base_scale"),
        ({"event_shape": 2, "base_scale": math.nan}, "base_scale"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLPEnergy(**arguments)
