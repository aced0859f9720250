"""What every potential of the library does; a class without a row in ``FACTORIES`` fails."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints
from torch.distributions.transforms import Transform

import pyro_ebm.potentials
from pyro_ebm.core.checks import ShapeError
from pyro_ebm.core.types import Potential
from pyro_ebm.energies import FunnelEnergy, MLPEnergy, QuarticEnergy
from pyro_ebm.potentials import (
    EnergyPotential,
    ModelPotential,
    NoiseConditionalPotential,
    ProximalPotential,
    PyroTarget,
    SumPotential,
)

NOT_POTENTIALS = {PyroTarget}


def eight_schools(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, 10.0), obs=y)


def one_number():
    pyro.sample("z", dist.Gamma(2.0, 1.0))


def dynamic_support():
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    pyro.sample("b", dist.Uniform(torch.zeros(()), a))
    pyro.deterministic("share", a)


def by_hand(x):
    return (1 + x.square()).sqrt().sum(-1)


def blurred(x, sigma):
    return x.square().sum(-1) / (2 * (1 + sigma.square()))


def blurred_image(x, sigma):
    return blurred(x.flatten(-2), sigma)


FACTORIES: dict[type, dict[str, Callable[[], Potential]]] = {
    EnergyPotential: {
        "function": lambda: EnergyPotential(by_hand, 3),
        "scalar": lambda: EnergyPotential(QuarticEnergy()),
        "network": lambda: EnergyPotential(MLPEnergy((2, 2), hidden=(4,))),
        "positive": lambda: EnergyPotential(FunnelEnergy(2), support=constraints.positive),
        "simplex": lambda: EnergyPotential(by_hand, 3, constraints.simplex, name="shares"),
    },
    ModelPotential: {
        "schools": lambda: ModelPotential(eight_schools, torch.tensor([3.0, -8.0, 20.0])),
        "scalar": lambda: ModelPotential(one_number),
        "dynamic": lambda: ModelPotential(dynamic_support),
    },
    NoiseConditionalPotential: {
        "function": lambda: NoiseConditionalPotential(blurred, 0.5, 3),
        "image": lambda: NoiseConditionalPotential(blurred_image, 0.5, (1, 2)),
    },
    ProximalPotential: {"vector": lambda: ProximalPotential(torch.tensor([1.0, -2.0]), 0.5)},
    SumPotential: {
        "model": lambda: ModelPotential(one_number) + ProximalPotential(torch.ones(1), 0.5),
        "energy": lambda: EnergyPotential(by_hand, 2) + EnergyPotential(QuarticEnergy(2)),
    },
}
TERMS = [
    pytest.param(factory, id=f"{cls.__name__}-{name}")
    for cls, factories in FACTORIES.items()
    for name, factory in factories.items()
]
every_term = pytest.mark.parametrize("factory", TERMS)
every_potential = pytest.mark.parametrize("factory", [row for row in TERMS if "Prox" not in row.id])


def positions(potential, *chains):
    return torch.randn((*chains, potential.dim))


def test_every_exported_potential_has_a_row():
    exported = {cls for _, cls in inspect.getmembers(pyro_ebm.potentials, inspect.isclass)}
    assert exported - NOT_POTENTIALS == set(FACTORIES)


@every_potential
def test_satisfies_the_protocol(factory):
    potential = factory()
    assert isinstance(potential, Potential)
    assert isinstance(potential.dim, int)
    assert potential.dtype == torch.float64
    assert potential.device == torch.device("cpu")


@every_term
@pytest.mark.parametrize("chains", [(), (4,), (2, 3)])
def test_one_number_for_each_position(factory, chains):
    potential = factory()
    q = positions(potential, *chains)
    assert potential(q).shape == chains
    value, grad = potential.value_and_grad(q)
    assert (value.shape, grad.shape) == (chains, (*chains, potential.dim))
    assert not value.requires_grad
    assert not grad.requires_grad
    torch.testing.assert_close(value, potential(q))


@every_term
def test_gradient_is_that_of_the_values(factory):
    potential = factory()
    q = positions(potential, 3).requires_grad_()
    assert torch.autograd.gradcheck(potential, (q,))
    (expected,) = torch.autograd.grad(potential(q).sum(), q)
    torch.testing.assert_close(potential.value_and_grad(q)[1], expected)


@every_term
def test_rows_do_not_meet(factory):
    potential = factory()
    q = positions(potential, 5)
    other = q.clone()
    other[2] = 100.0
    other[3] = torch.nan
    kept = [0, 1, 4]
    for changed, expected in zip(
        potential.value_and_grad(other), potential.value_and_grad(q), strict=True
    ):
        assert torch.equal(changed[kept], expected[kept])
    assert not bool(torch.isfinite(potential(other)[3]))
    alone = torch.stack([potential(row) for row in q])
    torch.testing.assert_close(potential(q), alone)


@every_term
def test_input_is_left_alone(factory):
    potential = factory()
    q = positions(potential, 4)
    before, state = q.clone(), torch.get_rng_state()
    potential.value_and_grad(q)
    potential(q)
    assert torch.equal(q, before)
    assert not q.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("factory", [row for row in TERMS if "network" not in row.id])
def test_positions_in_single_precision(factory):
    potential = factory()
    q = positions(potential, 4)
    for single, double in zip(
        potential.value_and_grad(q.float()), potential.value_and_grad(q), strict=True
    ):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factory", TERMS)
def test_single_precision_targets(factory):
    torch.set_default_dtype(torch.float32)
    try:
        potential = factory()
        q = positions(potential, 4)
        value, grad = potential.value_and_grad(q)
    finally:
        torch.set_default_dtype(torch.float64)
    assert (q.dtype, value.dtype, grad.dtype) == (torch.float32,) * 3


@every_potential
def test_starts_belong_to_their_generator(factory):
    potential = factory()
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    state = torch.get_rng_state()
    first, second, third = (potential.initial(6, generator=g) for g in generators)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (6, potential.dim)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert len(first.unique(dim=0)) == 6
    torch.manual_seed(0)
    once = potential.initial(2)
    torch.manual_seed(0)
    assert torch.equal(potential.initial(2), once)


@every_potential
@pytest.mark.parametrize("chains", [(), (4,), (2, 3)])
def test_sites_round_trip(factory, chains):
    potential = factory()
    q = positions(potential, *chains)
    unconstrained = potential.unflatten(q)
    assert torch.equal(potential.flatten(unconstrained), q)
    assert all(value.shape[: len(chains)] == chains for value in unconstrained.values())
    sites = potential.constrain(q)
    assert all(value.shape[: len(chains)] == chains for value in sites.values())
    latent = {name: sites[name] for name in unconstrained}
    torch.testing.assert_close(potential.unconstrain(latent), q)


@every_potential
def test_transforms_are_those_of_the_sites(factory):
    potential = factory()
    if "dynamic" in repr(potential):
        return
    q = positions(potential, 4)
    transforms, sites = potential.transforms(), potential.constrain(q)
    assert all(isinstance(transform, Transform) for transform in transforms.values())
    for name, value in potential.unflatten(q).items():
        torch.testing.assert_close(transforms[name](value), sites[name])


@every_potential
def test_explanations_are_sentences(factory):
    potential = factory()
    assert "is" in potential.explain_nonfinite(torch.full((potential.dim,), torch.nan))


@every_term
def test_wrong_positions_are_named(factory):
    potential = factory()
    if isinstance(potential, ProximalPotential):
        return
    for method in (potential, potential.value_and_grad, potential.constrain, potential.unflatten):
        with pytest.raises(ShapeError, match="must be the event shape"):
            method(torch.zeros(4, potential.dim + 1))
        with pytest.raises(ShapeError, match="floating-point"):
            method(torch.zeros(4, potential.dim, dtype=torch.long))


@every_term
@pytest.mark.parametrize("duplicate", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy])
def test_copies_are_equal(factory, duplicate):
    potential = factory()
    q = positions(potential, 4)
    potential.value_and_grad(q)
    twin = duplicate(potential)
    torch.testing.assert_close(twin.value_and_grad(q), potential.value_and_grad(q))


@every_potential
def test_potentials_add(factory):
    potential = factory()
    q = positions(potential, 4)
    total = potential + ProximalPotential(torch.zeros(potential.dim), 2.0)
    torch.testing.assert_close(total(q), potential(q) + q.square().sum(-1) / 8.0)


@every_term
def test_prints_what_it_is(factory):
    potential = factory()
    name = "EnergyPotential" if isinstance(potential, SumPotential) else type(potential).__name__
    assert f"{name}(" in repr(potential) or " + " in repr(potential)
