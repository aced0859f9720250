"""What every energy of the library does; a class without a row in ``FACTORIES`` fails."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

import pyro_ebm.energies
from pyro_ebm.core.checks import ShapeError
from pyro_ebm.core.types import Energy
from pyro_ebm.energies import (
    DoubleWellEnergy,
    FunnelEnergy,
    GaussianEnergy,
    MixtureEnergy,
    MLPEnergy,
    QuarticEnergy,
    SumEnergy,
    TemperedEnergy,
)

FACTORIES: dict[type, dict[str, Callable[[], nn.Module]]] = {
    MLPEnergy: {
        "flat": lambda: MLPEnergy(3, hidden=(5,)),
        "image": lambda: MLPEnergy((2, 3), hidden=(5, 4), activation=nn.Softplus, base_scale=2.0),
        "scalar": lambda: MLPEnergy((), hidden=(5,), base_scale=None),
    },
    GaussianEnergy: {
        "standard": lambda: GaussianEnergy.standard((2, 3)),
        "full": lambda: GaussianEnergy(torch.ones(3), torch.eye(3) + 0.5),
        "image": lambda: GaussianEnergy(torch.ones(2, 2), torch.eye(4) + 0.5),
        "scale": lambda: GaussianEnergy(torch.ones(2, 3), scale=torch.rand(2, 3) + 0.5),
        "trained": lambda: GaussianEnergy(
            nn.Parameter(torch.ones(2)), precision=nn.Parameter(torch.ones(2))
        ),
    },
    MixtureEnergy: {
        "scalar": lambda: _mixture(()),
        "flat": lambda: _mixture((3,)),
        "image": lambda: _mixture((2, 3)),
    },
    QuarticEnergy: {"scalar": QuarticEnergy, "image": lambda: QuarticEnergy((2, 3))},
    DoubleWellEnergy: {
        "scalar": DoubleWellEnergy,
        "flat": lambda: DoubleWellEnergy(3, location=1.0, barrier=3.0),
    },
    FunnelEnergy: {"flat": lambda: FunnelEnergy(3), "mild": lambda: FunnelEnergy(2, scale=1.0)},
    SumEnergy: {
        "modules": lambda: GaussianEnergy.standard((2, 3)) + MLPEnergy((2, 3), hidden=(4,)),
        "callable": lambda: SumEnergy(absolute, QuarticEnergy(2), absolute),
    },
    TemperedEnergy: {
        "module": lambda: 0.3 * MLPEnergy(3, hidden=(4,)),
        "callable": lambda: TemperedEnergy(absolute, 2.0),
    },
}
ROWS = [
    pytest.param(factory, id=f"{cls.__name__}-{name}")
    for cls, factories in FACTORIES.items()
    for name, factory in factories.items()
]
every_energy = pytest.mark.parametrize("factory", ROWS)


def absolute(x):
    """A user's bare function."""
    return (1 + x.square()).sqrt().sum(-1)


absolute.event_shape = torch.Size([2])


def _mixture(event_shape):
    locs = torch.linspace(-2, 2, 3).reshape(3, *(1 for _ in event_shape)).expand(3, *event_shape)
    return MixtureEnergy(torch.tensor([0.5, 0.25, 0.25]), locs, torch.full_like(locs, 0.7))


def _points(energy, *batch):
    return torch.randn((*batch, *energy.event_shape))


def test_every_exported_energy_has_a_row():
    exported = {cls for _, cls in inspect.getmembers(pyro_ebm.energies, inspect.isclass)}
    assert exported == set(FACTORIES)


@every_energy
def test_satisfies_the_protocol(factory):
    energy = factory()
    assert isinstance(energy, Energy)
    assert isinstance(energy.event_shape, torch.Size)


@every_energy
@pytest.mark.parametrize("batch", [(), (4,), (3, 2), (0,)])
def test_one_number_for_each_point(factory, batch):
    energy = factory()
    assert energy(_points(energy, *batch)).shape == batch


@every_energy
def test_points_do_not_meet(factory):
    energy = factory()
    x = _points(energy, 3, 2)
    alone = torch.stack([torch.stack([energy(point) for point in row]) for row in x])
    torch.testing.assert_close(energy(x), alone)


@every_energy
def test_strided_points_are_the_same_points(factory):
    energy = factory()
    x = _points(energy, 3, 2)
    torch.testing.assert_close(energy(x.transpose(0, 1)), energy(x).T)


@every_energy
def test_gradient_and_hessian_are_those_of_the_values(factory):
    energy = factory()
    x = _points(energy, 2).requires_grad_()
    assert torch.autograd.gradcheck(energy, (x,))
    assert torch.autograd.gradgradcheck(energy, (x,))


@every_energy
def test_vectorises_with_torch_func(factory):
    energy = factory()
    x = _points(energy, 4)
    grads, values = torch.func.vmap(torch.func.grad_and_value(energy))(x)
    torch.testing.assert_close(values, energy(x))
    (expected,) = torch.autograd.grad(energy(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(grads, expected)


@every_energy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moves_to_a_dtype(factory, dtype):
    energy = factory()
    x = _points(energy, 5)
    expected = energy(x)
    values = energy.to(dtype)(x.to(dtype))
    assert values.dtype == dtype
    torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-4)


@every_energy
@pytest.mark.parametrize("duplicate", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_copies_are_equal_and_independent(factory, duplicate):
    energy = factory()
    twin = duplicate(energy)
    x = _points(energy, 5)
    torch.testing.assert_close(twin(x), energy(x), rtol=0, atol=0)
    storages = {p.data_ptr() for p in energy.parameters()}
    assert storages.isdisjoint(p.data_ptr() for p in twin.parameters())


@every_energy
def test_state_dict_restores_the_values(factory):
    energy, other = factory(), factory()
    other.load_state_dict(energy.state_dict())
    x = _points(energy, 5)
    torch.testing.assert_close(other(x), energy(x), rtol=0, atol=0)


@every_energy
def test_calls_leave_the_global_generator_alone(factory):
    energy = factory()
    x = _points(energy, 5)
    state = torch.get_rng_state()
    energy(x)
    assert torch.equal(torch.get_rng_state(), state)


@every_energy
def test_wrong_points_are_named(factory):
    energy = factory()
    with pytest.raises(ShapeError, match="floating-point"):
        energy(_points(energy, 2).long())
    with pytest.raises(ShapeError, match="floating-point"):
        energy(_points(energy, 2).to(torch.complex64))
    if energy.event_shape:
        wrong = torch.zeros(4, *energy.event_shape[:-1], energy.event_shape[-1] + 1)
        with pytest.raises(ShapeError, match=r"must be the event shape"):
            energy(wrong)
        with pytest.raises(ShapeError, match=r"must be the event shape"):
            energy(torch.zeros(()))


@every_energy
def test_algebra(factory):
    energy = factory()
    x = _points(energy, 5)
    expected = 3 * energy(x)
    for combined in (energy + 2.0 * energy, energy * 2 + energy, SumEnergy(energy, energy, energy)):
        assert combined.event_shape == energy.event_shape
        torch.testing.assert_close(combined(x), expected)


@every_energy
def test_prints_its_name(factory):
    energy = factory()
    assert repr(energy).startswith(type(energy).__name__ + "(")
