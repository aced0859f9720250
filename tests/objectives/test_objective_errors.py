"""What objectives refuse, by name and with nothing replaced."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_ebm import MALA, EnergyDistribution, Langevin, MLPEnergy
from pyro_ebm.core.checks import NonFiniteError, ShapeError, StepSizeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.objectives import ContrastiveDivergence, MaximumLikelihood

OBJECTIVES = [ContrastiveDivergence, MaximumLikelihood]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
KERNEL = Langevin(step_size=0.1)


class FallsOff:
    """Not a number beyond one."""

    event_shape = torch.Size([2])

    def __call__(self, x):
        return (1 - x[..., 0]).log() + x.square().sum(-1)


@every_objective
@pytest.mark.parametrize("kernel", [Langevin, MALA])
def test_refuses_recipes_without_a_step_size(objective, kernel):
    with pytest.raises(StepSizeError, match=rf"{kernel.__name__}\(step_size=0.1\)"):
        objective(kernel())


@every_objective
@pytest.mark.parametrize("num_steps", [0, -3, True, 1.5, "2"])
def test_refuses_numbers_of_steps(objective, num_steps):
    with pytest.raises(ValueError, match="num_steps"):
        objective(KERNEL, num_steps)


@every_objective
def test_refuses_energies_of_the_wrong_shape(objective):
    energy = MLPEnergy(2)
    energy.event_shape = torch.Size([])
    energy.forward = lambda x: x.unsqueeze(-1)
    with pytest.raises(ShapeError, match="squeeze"):
        objective(KERNEL, 1)(energy, torch.ones(3))


@every_objective
def test_refuses_data_of_another_type_than_the_parameters(objective):
    with pytest.raises(ShapeError, match=r"dtype torch.float64, .* have torch.float32: convert"):
        objective(KERNEL, 1)(MLPEnergy(2).float(), torch.ones(3, 2))


@every_objective
def test_a_loss_that_is_not_a_number_is_an_error_and_stays_one(objective):
    """Peers have put a constant in its place and trained on."""
    with pytest.raises(NonFiniteError, match=r"nan on the data|energy that is not finite"):
        objective(KERNEL, 1)(FallsOff(), torch.full((3, 2), 2.0))


def test_an_overflowing_network_is_an_error():
    energy = MLPEnergy(2)
    with torch.no_grad():
        energy.network[0].weight.fill_(1e308)
    with pytest.raises(NonFiniteError, match="learning rate"):
        ContrastiveDivergence(KERNEL)(energy, torch.ones(3, 2))


@pytest.mark.parametrize(
    "initial",
    [
        dist.Normal(0.0, 1.0),
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        dist.Normal(torch.zeros(5, 2), 1.0).to_event(1),
    ],
    ids=["scalar", "event", "batch"],
)
def test_refuses_starts_of_another_shape(initial):
    objective = MaximumLikelihood(KERNEL, 1, initial)
    with pytest.raises(ShapeError, match="initial draws points of shape"):
        objective(MLPEnergy(2), torch.ones(4, 2))


def test_starts_are_drawn_from_the_law_given():
    class Recording(Langevin):
        def init(self, potential, position, generator=None):
            starts.append(position)
            return super().init(potential, position, generator)

    starts = []
    initial = dist.Delta(torch.tensor([5.0, -5.0]), event_dim=1)
    objective = MaximumLikelihood(Recording(step_size=0.1), 1, initial)
    objective(MLPEnergy(2), torch.ones(3, 2))
    assert starts[0].tolist() == [[5.0, -5.0]] * 3


def test_starts_may_be_draws_of_another_energy():
    initial = EnergyDistribution(GaussianEnergy.standard(2), num_steps=3)
    loss = MaximumLikelihood(KERNEL, 1, initial)(MLPEnergy(2), torch.ones(3, 2))
    assert bool(loss.isfinite())
