"""Density, shapes and approximate draws of an energy as a distribution."""

from __future__ import annotations

import copy
import pickle

import pyro.distributions as dist
import pytest
import torch

from pyro_ebm import MALA, EnergyDistribution, Langevin, MLPEnergy
from pyro_ebm.core.checks import ModelError, ShapeError
from pyro_ebm.energies import GaussianEnergy
from tests.statistics import Rejected, assert_moments

LOC = torch.tensor([1.0, -2.0])
COVARIANCE = torch.tensor([[2.0, 1.2], [1.2, 1.0]])


def _gaussian():
    return GaussianEnergy(LOC, COVARIANCE)


def _far_base():
    return dist.Normal(4.0, 0.5).expand([2]).to_event(1)


class Bowl:
    """A plain callable: energies have nothing to inherit."""

    event_shape = torch.Size([2])

    def __call__(self, x):
        return 0.5 * x.square().sum(-1)


@pytest.mark.parametrize("event_shape", [(), (3,), (1, 2, 3)])
@pytest.mark.parametrize("batch", [(), (5,), (4, 5), (0,)])
def test_log_density_is_minus_the_energy(event_shape, batch):
    energy = MLPEnergy(event_shape).requires_grad_(False)
    x = torch.randn(batch + event_shape)
    law = EnergyDistribution(energy, validate_args=x.numel() > 0)
    torch.testing.assert_close(law.log_prob(x), -energy(x), rtol=0, atol=0)


def test_log_density_lacks_exactly_log_z():
    x = torch.randn(5, 2)
    normalised = dist.MultivariateNormal(LOC, COVARIANCE).log_prob(x)
    law = EnergyDistribution(_gaussian())
    torch.testing.assert_close(law.log_prob(x) - _gaussian().log_partition, normalised)


def test_the_base_is_not_in_the_density():
    x = torch.randn(5, 2)
    with_base, without = (
        EnergyDistribution(_gaussian(), _far_base()),
        EnergyDistribution(_gaussian()),
    )
    assert torch.equal(with_base.log_prob(x), without.log_prob(x))


def test_gradient_passes_through():
    x = torch.randn(5, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(EnergyDistribution(Bowl()).log_prob(3 * x).sum(), x)
    torch.testing.assert_close(slope, -9 * x.detach())


def test_evaluates_the_energy_once():
    class Counting(Bowl):
        calls = 0

        def __call__(self, x):
            self.calls += 1
            return super().__call__(x)

    energy = Counting()
    EnergyDistribution(energy).log_prob(torch.randn(4, 2, requires_grad=True))
    assert energy.calls == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_are_those_of_the_energy(dtype):
    law = EnergyDistribution(MLPEnergy(2).to(dtype).requires_grad_(False), num_steps=5)
    x = law.sample((3,))
    assert (x.dtype, law.log_prob(x).dtype) == (dtype, dtype)


def test_shapes_and_expansion():
    law = EnergyDistribution(_gaussian(), _far_base(), kernel=MALA(step_size=0.3), num_steps=7)
    assert (law.batch_shape, law.event_shape) == ((), (2,))
    wide = law.expand([4, 3])
    assert (wide.batch_shape, wide.event_shape) == ((4, 3), (2,))
    assert (wide.energy, wide.base, wide.kernel) == (law.energy, law.base, law.kernel)
    assert wide.num_steps == 7
    assert wide.sample((5,)).shape == (5, 4, 3, 2)
    assert wide.log_prob(torch.zeros(2)).shape == (4, 3)
    assert wide.log_prob(torch.zeros(5, 4, 3, 2)).shape == (5, 4, 3)
    assert law.expand_by([6]).batch_shape == (6,)


def test_pyros_wrappers():
    law = EnergyDistribution(Bowl()).expand([3])
    assert law.to_event(1).log_prob(torch.ones(4, 3, 2)).tolist() == [-3.0] * 4
    mask = torch.tensor([True, False, True])
    assert law.mask(mask).log_prob(torch.ones(3, 2)).tolist() == [-1.0, 0.0, -1.0]


def test_class_attributes_that_pyro_reads():
    law = EnergyDistribution(MLPEnergy((2, 3)).requires_grad_(False))
    assert law.arg_constraints == {}
    assert law.support.event_dim == 2
    assert bool(law.support.check(torch.zeros(2, 3)))
    assert not law.has_rsample
    assert not law.has_enumerate_support
    assert not law.is_normalized


@pytest.mark.parametrize("duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_copies_are_equal(duplicate):
    law = EnergyDistribution(_gaussian(), _far_base(), kernel=Langevin(step_size=0.1)).expand([3])
    twin = duplicate(law)
    x = torch.randn(3, 2)
    assert torch.equal(twin.log_prob(x), law.log_prob(x))
    assert twin.sample().shape == (3, 2)


def test_draws_follow_the_seed_and_are_detached():
    law = EnergyDistribution(_gaussian(), num_steps=5)
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        draws.append(law.sample((3,)))
    assert torch.equal(*draws)
    assert not draws[0].requires_grad
    assert law.sample((0,)).shape == (0, 2)


@pytest.mark.parametrize("base", [None, _far_base()], ids=["default", "far"])
@pytest.mark.parametrize("kernel", [MALA(), MALA(step_size=0.5)], ids=["tuned", "given"])
def test_draws_have_the_law_wherever_the_chains_start(base, kernel):
    draws = EnergyDistribution(_gaussian(), base, kernel=kernel).sample((3000,))
    assert_moments(draws, LOC, COVARIANCE)


def test_draws_of_a_tilted_base_are_another_law():
    tilted = _gaussian() + GaussianEnergy(torch.full((2,), 4.0), scale=torch.full((2,), 0.5))
    draws = EnergyDistribution(tilted).sample((3000,))
    with pytest.raises(Rejected):
        assert_moments(draws, LOC, COVARIANCE)


def test_chains_too_short_to_have_mixed_are_seen():
    draws = EnergyDistribution(_gaussian(), _far_base(), num_steps=1).sample((3000,))
    with pytest.raises(Rejected):
        assert_moments(draws, LOC, COVARIANCE)


def test_every_plate_element_has_a_chain_of_its_own():
    draws = EnergyDistribution(GaussianEnergy.standard(())).expand([2]).sample((2000,))
    assert draws.shape == (2000, 2)
    assert_moments(draws, torch.zeros(2), torch.eye(2))


def test_refuses_a_function_without_event_shape():
    with pytest.raises(ModelError, match="no event_shape"):
        EnergyDistribution(lambda x: x.sum(-1))


@pytest.mark.parametrize("num_steps", [0, -3, True, 1.5])
def test_refuses_a_number_of_steps(num_steps):
    with pytest.raises(ValueError, match="num_steps"):
        EnergyDistribution(Bowl(), num_steps=num_steps)


@pytest.mark.parametrize(
    "base",
    [
        dist.Normal(torch.zeros(2), 1.0),
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        dist.Normal(torch.zeros(5, 2), 1.0).to_event(1),
    ],
    ids=["batch", "event", "both"],
)
def test_refuses_a_base_over_anything_but_one_event(base):
    with pytest.raises(ShapeError, match="to_event"):
        EnergyDistribution(Bowl(), base)


@pytest.mark.parametrize("validate_args", [True, False])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3), "event.shape"),
        (torch.ones(()), "event.shape|at least 1"),
        (torch.ones(2, dtype=torch.int64), "int64"),
    ],
    ids=["event", "scalar", "integer"],
)
def test_refuses_values(value, message, validate_args):
    law = EnergyDistribution(Bowl(), validate_args=validate_args)
    with pytest.raises(ValueError, match=message):
        law.log_prob(value)


def test_validates_support_and_batch():
    law = EnergyDistribution(Bowl(), validate_args=True).expand([3])
    with pytest.raises(ValueError, match="support"):
        law.log_prob(torch.full((3, 2), torch.nan))
    with pytest.raises(ValueError, match="broadcast"):
        law.log_prob(torch.zeros(4, 2))
    unchecked = EnergyDistribution(Bowl(), validate_args=False)
    assert bool(unchecked.log_prob(torch.full((2,), torch.nan)).isnan())


def test_refuses_an_energy_that_does_not_return_one_number_for_each_point():
    energy = Bowl()
    law = EnergyDistribution(energy)
    law.energy = lambda x: energy(x).unsqueeze(-1)
    with pytest.raises(ShapeError, match="squeeze"):
        law.log_prob(torch.zeros(4, 2))
