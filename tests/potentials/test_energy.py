"""Energies on every support: Jacobians against autograd, exact moments, wrong outputs named."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import constraints

from pyro_ebm.core.checks import ModelError, ShapeError
from pyro_ebm.energies import GaussianEnergy, MLPEnergy, QuarticEnergy
from pyro_ebm.potentials import EnergyPotential

SUPPORTS = [
    ("real", constraints.real, (3,), 3),
    ("real_image", constraints.real, (2, 3), 6),
    ("real_vector", constraints.real_vector, (3,), 3),
    ("real_scalar", constraints.real, (), 1),
    ("positive", constraints.positive, (3,), 3),
    ("positive_image", constraints.positive, (2, 3), 6),
    ("positive_scalar", constraints.positive, (), 1),
    ("nonnegative", constraints.nonnegative, (2,), 2),
    ("interval", constraints.interval(-1.0, 3.0), (2, 2), 4),
    ("interval_scalar", constraints.interval(-1.0, 3.0), (), 1),
    ("unit_interval", constraints.unit_interval, (3,), 3),
    ("greater_than", constraints.greater_than(2.0), (3,), 3),
    ("less_than", constraints.less_than(-1.0), (1, 3), 3),
    ("simplex", constraints.simplex, (4,), 3),
    ("simplex_image", constraints.simplex, (2, 4), 6),
    ("corr_cholesky", constraints.corr_cholesky, (3, 3), 3),
    ("lower_cholesky", constraints.lower_cholesky, (3, 3), 6),
    ("lower_cholesky_batch", constraints.lower_cholesky, (2, 2, 2), 6),
    ("positive_definite", constraints.positive_definite, (3, 3), 6),
    ("positive_definite_batch", constraints.positive_definite, (2, 2, 2), 6),
    ("independent", constraints.independent(constraints.positive, 1), (3,), 3),
]
every_support = pytest.mark.parametrize(
    ("support", "event_shape", "dim"),
    [row[1:] for row in SUPPORTS],
    ids=[row[0] for row in SUPPORTS],
)


def flat(event_shape, x):
    """An energy without structure: it depends on each entry differently."""
    entries = x.reshape(*x.shape[: x.ndim - len(event_shape)], -1)
    return (torch.linspace(0.5, 2.0, entries.shape[-1]) * entries.square()).sum(-1)


def free_entries(support, event_shape):
    """Entries that determine a point: a simplex has one too many, a symmetric matrix many."""
    index = torch.arange(math.prod(event_shape)).reshape(event_shape)
    if support is constraints.simplex:
        return index[..., :-1].flatten()
    if support in (constraints.lower_cholesky, constraints.positive_definite):
        rows, columns = torch.tril_indices(event_shape[-1], event_shape[-1])
        return index[..., rows, columns].flatten()
    if support is constraints.corr_cholesky:
        rows, columns = torch.tril_indices(event_shape[-1], event_shape[-1], offset=-1)
        return index[rows, columns].flatten()
    return index.flatten()


@every_support
def test_jacobian_is_that_of_the_transform(support, event_shape, dim):
    energy = partial(flat, event_shape)
    potential = EnergyPotential(energy, event_shape, support)
    assert potential.dim == dim
    q = potential.initial(5)
    entries = free_entries(support, event_shape)

    def transform(position):
        return potential.constrain(position)["x"].reshape(-1)[entries]

    x = potential.constrain(q)["x"]
    jacobians = torch.stack([torch.autograd.functional.jacobian(transform, row) for row in q])
    expected = energy(x) - torch.linalg.slogdet(jacobians).logabsdet
    torch.testing.assert_close(potential(q), expected)
    assert bool(potential.support.check(x).all())
    value, grad = potential.value_and_grad(q)
    torch.testing.assert_close(value, expected)
    assert torch.autograd.gradcheck(potential, (q.requires_grad_(),))
    torch.testing.assert_close(grad, torch.autograd.grad(potential(q).sum(), q)[0])


@every_support
@pytest.mark.parametrize("chains", [(), (4,), (2, 3)])
def test_round_trips(support, event_shape, dim, chains):
    potential = EnergyPotential(partial(flat, event_shape), event_shape, support, name="theta")
    q = potential.initial(math.prod(chains)).reshape(*chains, dim)
    sites = potential.constrain(q)
    assert sites["theta"].shape == chains + event_shape
    torch.testing.assert_close(potential.unconstrain(sites), q)
    assert torch.equal(potential.flatten(potential.unflatten(q)), q)
    assert potential(q).shape == chains


def test_gamma_moments():
    """Through y = log x: E x = 3, Var x = 3, E y = digamma(3); Gamma(2, 1) without Jacobian."""

    def energy(x):
        return x.sum(-1) - 2.0 * x.log().sum(-1)

    potential = EnergyPotential(energy, (1,), constraints.positive)
    y = torch.linspace(-14.0, 5.0, 20_001).unsqueeze(-1)
    torch.testing.assert_close(potential(y), (-3.0 * y + y.exp()).squeeze(-1))

    def moments(values):
        weights = torch.softmax(-values, dim=0)
        x = y.exp().squeeze(-1)
        mean = (weights * x).sum()
        return mean.item(), (weights * (x - mean).square()).sum().item(), weights @ y.squeeze(-1)

    mean, variance, log_mean = moments(potential(y))
    assert (mean, variance) == pytest.approx((3.0, 3.0), rel=1e-9)
    assert log_mean.item() == pytest.approx(0.9227843351, abs=1e-9)
    assert moments(energy(y.exp()))[0] == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (lambda x: x.square().sum(-1, keepdim=True), r"\(4, 1\).*squeeze\(-1\)"),
        (lambda x: x.square().sum(), r"shape \(\).*Sum over the event axes only"),
        (lambda x: x.square(), r"\(4, 3\).*Sum over the event axes"),
        (lambda x: x.square().sum(-1).long(), "floating-point"),
        (lambda x: x.square().sum(-1).mean(0, keepdim=True), r"\(1,\).*one number for each point"),
    ],
)
def test_wrong_outputs_are_named(energy, message):
    potential = EnergyPotential(energy, 3)
    for method in (potential, potential.value_and_grad):
        with pytest.raises(ShapeError, match=f"the energy <lambda>.*{message}"):
            method(torch.zeros(4, 3))


@pytest.mark.parametrize(
    "energy", [lambda x: x.detach().square().sum(-1), lambda x: torch.zeros(x.shape[:-1])]
)
def test_energies_without_a_gradient_are_named(energy):
    with pytest.raises(ModelError, match=r"\.detach\(\).*no gradient"):
        EnergyPotential(energy, 3).value_and_grad(torch.zeros(4, 3))


def test_wrong_supports_are_named():
    with pytest.raises(ModelError, match="discrete"):
        EnergyPotential(QuarticEnergy(3), support=constraints.nonnegative_integer)
    with pytest.raises(ShapeError, match=r"support Simplex.* 1 axes, but the event shape has 0"):
        EnergyPotential(QuarticEnergy(), support=constraints.simplex)
    with pytest.raises(ModelError, match="no bijection"):
        EnergyPotential(partial(flat, (2, 2)), (2, 2), constraints.symmetric)


def test_wrong_sites_are_named():
    potential = EnergyPotential(QuarticEnergy(3), name="theta")
    for method in (potential.unconstrain, potential.flatten):
        with pytest.raises(ShapeError, match=r"sites \['x'\].*'theta'"):
            method({"x": torch.zeros(3)})
        with pytest.raises(ShapeError, match=r"\(2,\).*event shape \(3,\)"):
            method({"theta": torch.zeros(2)})


def test_explanation_shows_energy_and_point():
    potential = EnergyPotential(lambda x: x.sqrt().sum(-1), 2)
    assert "is nan at x=[1.0, -1.0]" in potential.explain_nonfinite(torch.tensor([1.0, -1.0]))


def test_type_and_device_are_those_of_the_energy():
    assert EnergyPotential(MLPEnergy(2, hidden=(3,)).float()).dtype == torch.float32
    assert EnergyPotential(GaussianEnergy.standard(2).double()).dtype == torch.float64
    assert EnergyPotential(lambda x: x.sum(-1), 2).dtype == torch.get_default_dtype()
    counting = nn.BatchNorm1d(2).float()
    counting.event_shape = torch.Size([2])
    assert EnergyPotential(counting).dtype == torch.float32
    assert EnergyPotential(MLPEnergy(2, hidden=(3,)).float()).initial(3).dtype == torch.float32


def test_parameters_are_followed_and_get_no_gradient():
    energy = MLPEnergy(2, hidden=(3,))
    potential = EnergyPotential(energy)
    q = potential.initial(4)
    before = potential.value_and_grad(q)[0]
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.add_(0.3)
    after = potential.value_and_grad(q)[0]
    assert bool((before != after).all())
    torch.testing.assert_close(after, energy(q).detach())
    assert all(parameter.grad is None for parameter in energy.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_gradients_exist_in_every_grad_mode(context):
    with context():
        value, grad = EnergyPotential(QuarticEnergy(2)).value_and_grad(torch.ones(3, 2))
    assert torch.equal(grad, torch.ones(3, 2))
    assert not value.requires_grad


@pytest.mark.parametrize("event_shape", [2.0, (-1,), (2, 0), True, "ab", (1.5,)])
def test_wrong_event_shapes_are_named(event_shape):
    with pytest.raises(ValueError, match=r"each size in event_shape=.*whole number of at least 1"):
        EnergyPotential(lambda x: x.sum(-1), event_shape)


def test_gradients_exist_in_inference_mode():
    potential = EnergyPotential(lambda x: x.square().sum(-1), event_shape=(2,))
    with torch.inference_mode():
        _, grad = potential.value_and_grad(torch.ones(3, 2))
    assert torch.equal(grad, torch.full((3, 2), 2.0))


def test_a_gradient_that_is_not_finite_is_named():
    potential = EnergyPotential(lambda x: x.abs().sqrt().sum(-1), event_shape=(1,))
    assert "but its gradient is not finite" in potential.explain_nonfinite(torch.zeros(1))


def test_energies_may_view_their_input():
    """Chains lie innermost in a run, of which a view as other axes would be an error."""

    def particles(x):
        return x.view(-1, 3).square().sum(-1).view(-1, 5).sum(-1) / 2

    potential, q = EnergyPotential(particles, event_shape=(5, 3)), torch.randn(4, 15)
    value, grad = potential.value_and_grad(q.mT.contiguous().mT)
    torch.testing.assert_close(value, q.square().sum(-1) / 2)
    torch.testing.assert_close(grad, q)
