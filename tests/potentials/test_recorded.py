"""Recorded energies have the values and gradients of the energy as it is written, at any time."""

from __future__ import annotations

import copy
import itertools
import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import constraints

from pyro_ebm.core.positions import WIDE
from pyro_ebm.energies import GaussianEnergy, MLPEnergy, TemperedEnergy
from pyro_ebm.kernels import MALA, ReplicaExchange
from pyro_ebm.potentials import EnergyPotential, ModelPotential, ProximalPotential
from pyro_ebm.potentials.graphs.onednn import is_onednn_faster
from pyro_ebm.potentials.noise_conditional import NoiseConditionalPotential
from pyro_ebm.potentials.recorded import recorded
from pyro_ebm.sampling import steps
from tests.models import eight_schools
from tests.operations import OperationLog
from tests.sampling.runs import run

CALLS = itertools.count()
"""Counts what happens without a trace in what an energy holds."""


class Bowl(nn.Module):
    """``scale * |weight x|^2``, of which all can be changed."""

    event_shape = torch.Size([3])

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 3))
        self.scale = 1.0

    def forward(self, x):
        next(CALLS)
        return self.scale * (x @ self.weight.mT).square().sum(-1)


def num_calls():
    return next(CALLS)


def assert_follows(ours, potential, q):
    for found, wanted in zip(ours.value_and_grad(q), potential.value_and_grad(q), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_python_of_an_energy_runs_no_more():
    potential = EnergyPotential(Bowl())
    ours = recorded(potential)
    ours.value_and_grad(torch.randn(5, 3))
    before = num_calls()
    for _ in range(10):
        ours.value_and_grad(torch.randn(5, 3))
    assert num_calls() == before + 1
    ours.value_and_grad(torch.randn(6, 3))
    assert num_calls() > before + 2
    assert_follows(ours, potential, torch.randn(5, 3))


def negated(energy):
    with torch.no_grad():
        energy.weight.neg_().add_(1.0)


def with_new_weight(energy):
    energy.weight = nn.Parameter(torch.rand(3, 3))


def rescaled(energy):
    energy.scale = 3.0


@pytest.mark.parametrize("change", [negated, with_new_weight, rescaled])
def test_changes_of_the_energy_are_followed(change):
    energy, q = Bowl(), torch.randn(5, 3)
    potential = EnergyPotential(energy)
    ours = recorded(potential)
    first = ours.value_and_grad(q)[0]
    assert ours.plain_because is None
    change(energy)
    assert_follows(ours, potential, q)
    assert (ours.plain_because is None) == (change is negated)
    assert not torch.allclose(ours.value_and_grad(q)[0], first)


class Counting(Bowl):
    """Changes a number that it holds."""

    def forward(self, x):
        self.scale += 1.0
        return super().forward(x)


class Averaging(Bowl):
    """Changes a tensor that it holds, as batch normalisation does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return super().forward(x - self.mean)


class Branching(Bowl):
    """Another function on the other side."""

    def forward(self, x):
        return super().forward(x if bool(x.sum() > 0) else 2.0 * x)


class Selecting(Bowl):
    """Works on as many numbers as are far out: at first on none."""

    def forward(self, x):
        far = (x[:, 0] > 3.0).nonzero()[:, 0]
        return super().forward(x).index_add(0, far, x[far, 0]) if len(far) else super().forward(x)


class Huber(Bowl):
    """Puts other numbers where it is far out."""

    def forward(self, x):
        size = x.norm(dim=-1)
        far, energy = size > 3.0, super().forward(x)
        energy[far] = 3.0 * size[far]
        return energy


class OutsideTorch(Bowl):
    """Numbers that come by NumPy, and change far out only."""

    def forward(self, x):
        return (1.0 + np.digitize(x.detach().numpy().max(), [3.0])) * super().forward(x)


class OutsideTorchAsLists(Bowl):
    """The same by Python's numbers."""

    def forward(self, x):
        return (2.0 if max(x.flatten().tolist()) > 3.0 else 1.0) * super().forward(x)


WITHOUT_GRAPH = {
    Counting: "changes what it holds",
    Averaging: "changes what it holds",
    Branching: "no graph follows it",
    Selecting: "no graph follows it",
    Huber: "no graph follows it",
    OutsideTorch: r"leave torch \(numpy\)",
    OutsideTorchAsLists: r"leave torch \(tolist\)",
}


@pytest.mark.parametrize(("cls", "reason"), WITHOUT_GRAPH.items())
def test_what_no_graph_would_follow_runs_as_it_is_written(cls, reason):
    torch.manual_seed(0)
    energies = [cls(), cls()]
    energies[1].load_state_dict(energies[0].state_dict())
    potential = EnergyPotential(energies[1])
    ours = recorded(EnergyPotential(energies[0]))
    for shift in (0.0, 0.1, -1.0, 0.2, 5.0, -5.0):
        assert_follows(ours, potential, 0.3 * torch.randn(5, 3) + shift)
    for name, value in energies[0].state_dict().items():
        torch.testing.assert_close(value, energies[1].state_dict()[name])
    assert re.search(f"plain because .*{reason}", repr(ours))


def test_randomness_stays_random():
    """However little there is of it."""

    def noisy(x):
        return x.square().sum(-1) + 1e-9 * torch.rand(())

    ours = recorded(EnergyPotential(noisy, event_shape=(2,)))
    q = torch.ones(4, 2)
    assert len({ours.value_and_grad(q)[0][0].item() for _ in range(10)}) == 10
    assert ours.plain_because == "it draws random numbers (aten.rand)"


def test_an_energy_that_raises_nearby_runs_as_it_is_written():
    def walled(x):
        if bool((x > 1.0).any()):
            raise ValueError("outside")
        return x.square().sum(-1)

    potential = EnergyPotential(walled, event_shape=(2,))
    ours = recorded(potential)
    for _ in range(3):
        assert_follows(ours, potential, 0.95 * torch.ones(4, 2))
    with pytest.raises(ValueError, match="outside"):
        ours.value_and_grad(2.0 * torch.ones(4, 2))


def test_energies_of_the_library_may_be_tempered_on_the_way():
    energy, q = TemperedEnergy(GaussianEnergy.standard((3,)), beta=1.0), torch.randn(5, 3)
    ours = recorded(EnergyPotential(energy))
    ours.value_and_grad(q)
    energy.beta = 0.25
    torch.testing.assert_close(ours.value_and_grad(q)[1], 0.25 * q)


def test_modes_of_plain_modules_are_seen():
    network = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.999), nn.Flatten(0)).eval()
    ours, q = recorded(EnergyPotential(network, event_shape=(3,))), torch.randn(5, 3)
    assert (ours.value_and_grad(q)[1] != 0).any()
    network.train()
    assert not (ours.value_and_grad(q)[1] != 0).all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_scripted_modules_have_no_places_to_look_at():
    network = torch.jit.trace(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), torch.randn(5, 3))
    potential = EnergyPotential(network, event_shape=(3,))
    assert_follows(recorded(potential), potential, torch.randn(5, 3))


def test_terms_of_sums_are_recorded():
    potential = EnergyPotential(Bowl()) + ProximalPotential(torch.zeros(3), scale=0.5)
    potential = potential + EnergyPotential(Bowl())
    ours, q = recorded(potential), torch.randn(5, 3)
    ours.value_and_grad(q)
    before = num_calls()
    ours.value_and_grad(q)
    assert num_calls() == before + 1
    assert_follows(ours, potential, q)
    assert ours.dim == 3


def test_models_and_noise_conditional_energies_are_left_as_they_are():
    model = ModelPotential(eight_schools, torch.zeros(8), torch.ones(8))
    levels = NoiseConditionalPotential(lambda x, sigma: x[..., 0] * sigma, 1.0, event_shape=(1,))
    for potential in (model, levels, levels + ProximalPotential(torch.zeros(1), 1.0)):
        assert recorded(potential) is potential


def test_everything_else_is_that_of_the_potential():
    potential = EnergyPotential(Bowl(), support=constraints.positive, name="y")
    ours, q = recorded(potential), torch.randn(4, 3)
    assert torch.equal(ours(q), potential(q))
    assert torch.equal(ours.constrain(q)["y"], potential.constrain(q)["y"])
    assert (ours.dtype, ours.event_shape) == (potential.dtype, potential.event_shape)


def test_copies_record_for_themselves():
    potential = EnergyPotential(Bowl())
    ours = recorded(potential)
    ours.value_and_grad(torch.randn(5, 3))
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_follows(twin, potential, torch.randn(5, 3))


def test_gradients_lie_as_positions_do():
    ours, q = recorded(EnergyPotential(Bowl())), torch.randn(5, 3)
    for x in (q, q.mT.contiguous().mT):
        assert ours.value_and_grad(x)[1].stride() == x.stride()


def test_gradients_of_wide_points_lie_in_rows():
    """Also of an energy that makes them the other way round."""
    factor, q = torch.eye(WIDE), torch.randn(5, WIDE)
    ours = recorded(EnergyPotential(lambda x: (factor @ x.mT).square().sum(0), event_shape=WIDE))
    for _ in range(2):  # as it is written, then as it is recorded
        _, grad = ours.value_and_grad(q)
    assert ours.plain_because is None
    assert grad.stride() == q.stride()


@pytest.mark.usefixtures("either_product")
def test_large_products_are_those_of_models():
    energy = MLPEnergy(6, hidden=(128, 128)).float()
    ours, q = recorded(EnergyPotential(energy)), torch.randn(128, 6, dtype=torch.float32)
    ours.value_and_grad(q)
    with OperationLog() as log:
        ours.value_and_grad(q)
    assert is_onednn_faster() == ("product" in log.names)


def test_runs_draw_what_they_draw_without(monkeypatch):
    energy = MLPEnergy(3)
    draws = []
    for function in (recorded, lambda potential: potential):
        monkeypatch.setattr(steps, "recorded", function)
        torch.manual_seed(0)
        mcmc = run(MALA(energy), 30, 30, num_chains=4, generator=torch.Generator().manual_seed(1))
        draws.append(mcmc.chains.positions)
    torch.testing.assert_close(*draws)


@pytest.mark.parametrize("kernel", [MALA, lambda energy: ReplicaExchange(MALA(energy))])
def test_a_run_calls_the_energy_a_few_times_only(kernel):
    before = num_calls()
    run(kernel(Bowl()), 100, 100, num_chains=4)
    assert num_calls() - before < 20
