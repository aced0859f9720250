"""Steps that follow a Gaussian: exact on it, and leave every law as it is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import (
    HMC,
    LEAPFROG,
    MCLACHLAN,
    NUTS,
    ROTATIONS,
    ChEESHMC,
    ReplicaExchange,
)
from pyro_ebm.kernels._hamiltonian import Phase, total_energy
from pyro_ebm.kernels._metric import DenseMetric, DiagonalMetric, UnitMetric
from pyro_ebm.kernels._motion import FreeMotion, Rotation
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.transitions import CountingPotential, assert_invariant
from tests.statistics import Rejected
from tests.targets import all_targets, asymmetric_target, gaussian_target

FACTOR = torch.tensor([[0.5, 0.0, 0.0], [0.3, 1.2, 0.0], [-0.4, 0.1, 2.0]])
MEAN = torch.tensor([1.0, -20.0, 0.3])
KERNELS = {"HMC": HMC, "NUTS": NUTS, "ChEES": ChEESHMC}
METRICS = {
    "unit": (UnitMetric(), torch.eye(3)),
    "diagonal": (DiagonalMetric(FACTOR.diagonal()), FACTOR.diagonal().diag()),
    "dense": (DenseMetric(FACTOR), FACTOR),
}

every_kernel = pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)
every_metric = pytest.mark.parametrize(("metric", "factor"), METRICS.values(), ids=METRICS)


def _phase(potential, num_chains=5):
    position = MEAN + torch.randn(num_chains, 3)
    _, grad = potential.value_and_grad(position)
    return Phase(position, torch.randn(num_chains, 3), grad)


@every_metric
def test_unit_coordinates_undo_the_factor(metric, factor):
    z = torch.randn(4, 3)
    torch.testing.assert_close(metric.to_unit(z @ factor.mT), z)
    torch.testing.assert_close(metric.to_unit(metric.to_position(z)), z)


@every_metric
@pytest.mark.parametrize("integrator", [ROTATIONS, replace(MCLACHLAN, rotates=True)])
@pytest.mark.parametrize("angle", [0.3, -1.0, math.pi / 2])
def test_a_gaussian_is_followed_exactly(metric, factor, integrator, angle):
    potential = EnergyPotential(GaussianEnergy(MEAN, factor @ factor.mT))
    start = _phase(potential)
    stride = torch.full((5, 1), angle)
    end, _ = integrator.step(potential, start, stride, Rotation(metric, MEAN))
    z = torch.linalg.solve(factor, (start.position - MEAN).mT).mT
    turned = math.cos(angle) * z + math.sin(angle) * start.momentum
    torch.testing.assert_close(end.position, MEAN + turned @ factor.mT, rtol=1e-10, atol=1e-10)
    momentum = math.cos(angle) * start.momentum - math.sin(angle) * z
    torch.testing.assert_close(end.momentum, momentum, rtol=1e-10, atol=1e-10)


@every_metric
@pytest.mark.parametrize("integrator", [ROTATIONS, replace(MCLACHLAN, rotates=True)])
def test_without_stiffness_it_goes_straight_on(metric, factor, integrator):
    """What compiled steps do before the centre is known."""
    del factor
    potential = EnergyPotential(lambda x: 0.25 * x.pow(4).sum(-1), (3,))
    start, stride = _phase(potential), torch.full((5, 1), 0.3)
    free, energy = integrator.step(potential, start, stride, FreeMotion(metric))
    rotation = Rotation(metric, torch.zeros(3), torch.tensor(0.0))
    found, same_energy = integrator.step(potential, start, stride, rotation)
    for one, other in zip((*free, energy), (*found, same_energy), strict=True):
        torch.testing.assert_close(one, other)


def test_energies_err_by_the_rest_of_the_potential_only():
    """``U = x^2 / 2 + a x^4 / 4``: errors are proportional to ``a`` and vanish with it."""
    start = torch.tensor([[0.8]]), torch.tensor([[0.5]])
    errors = []
    for a in (1e-3, 1e-4):
        potential = EnergyPotential(
            lambda x, a=a: (0.5 * x.square() + 0.25 * a * x.pow(4)).sum(-1), (1,)
        )
        before = total_energy(potential.value_and_grad(start[0])[0], start[1])
        phase = Phase(*start, potential.value_and_grad(start[0])[1])
        rotation = Rotation(UnitMetric(), torch.zeros(1))
        end, energy = ROTATIONS.step(potential, phase, torch.tensor([[1.0]]), rotation)
        errors.append(float(total_energy(energy, end.momentum) - before))
    assert abs(errors[0]) > 1e-6
    assert errors[0] / errors[1] == pytest.approx(10.0, rel=0.01)


@every_kernel
@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_kernels_leave_the_law_as_it_is(make, target):
    """Round a centre and with widths that are not those of the target."""
    dim = target.mean.numel()
    kernel = make(
        step_size=0.9,
        integrator=ROTATIONS,
        scale=torch.linspace(0.7, 1.2, dim),
        center=torch.linspace(-0.5, 0.4, dim),
    )
    assert_invariant(kernel, target, num_chains=10_000, num_draws=5)


@every_kernel
def test_kernels_with_a_dense_mass_leave_the_law_as_it_is(make):
    target = gaussian_target()
    dim = target.mean.numel()
    factor = torch.linalg.cholesky(
        torch.full((dim, dim), 0.3) + torch.linspace(0.5, 1.2, dim).diag()
    )
    center = torch.linspace(-0.5, 0.4, dim)
    kernel = make(step_size=0.9, integrator=ROTATIONS, scale=factor, full_mass=True, center=center)
    assert_invariant(kernel, target, num_chains=10_000, num_draws=5)


@every_kernel
def test_rotations_that_do_not_keep_volume_are_rejected(make, monkeypatch):
    def drift(self, place, momentum, time):
        moved = time.cos() * place + time.sin() * momentum
        return moved, momentum - time.sin() * place

    monkeypatch.setattr(Rotation, "drift", drift)
    target = asymmetric_target()
    center = torch.zeros(target.mean.numel())
    kernel = make(step_size=0.9, integrator=ROTATIONS, center=center, scale=torch.ones_like(center))
    with pytest.raises(Rejected):
        assert_invariant(kernel, target, num_chains=10_000, num_draws=5)


@every_kernel
def test_one_gradient_a_step(make):
    potential = CountingPotential(GaussianEnergy(MEAN, FACTOR @ FACTOR.mT))
    kernel = make(step_size=0.5, integrator=ROTATIONS, center=MEAN, scale=FACTOR, full_mass=True)
    state = kernel.init(potential, torch.randn(3, 3))
    for _ in range(4):
        state, _ = kernel.step(potential, state, kernel.noise(state, None))
    assert potential.num_gradients == 1 + 4


@every_kernel
def test_longer_steps_than_a_quarter_turn_are_not_looked_for(make):
    assert make(integrator=ROTATIONS).largest_step_size == math.inf
    assert make(integrator=ROTATIONS, center=MEAN).largest_step_size == math.inf
    known = make(integrator=ROTATIONS, center=MEAN, scale=FACTOR, full_mass=True)
    assert known.largest_step_size == math.pi / 2
    assert make(integrator=LEAPFROG).largest_step_size == math.inf


@every_kernel
@pytest.mark.parametrize(
    ("center", "error", "message"),
    [
        ([0.0, 1.0], ShapeError, r"center is \[0\.0, 1\.0\], but a tensor"),
        (torch.zeros(2, 2), ShapeError, r"tensor of shape \(dim,\) is wanted"),
        (torch.tensor([0.0, math.nan]), NonFiniteError, "center"),
    ],
    ids=["list", "matrix", "NaN"],
)
def test_what_is_no_center_is_refused(make, center, error, message):
    with pytest.raises(error, match=message):
        make(integrator=ROTATIONS, center=center)


@every_kernel
def test_a_center_is_of_no_use_to_steps_straight_on(make):
    with pytest.raises(ValueError, match="give integrator=ROTATIONS, or center=None"):
        make(center=torch.zeros(3))


@every_kernel
def test_a_center_of_another_length_is_named(make):
    potential = EnergyPotential(GaussianEnergy(MEAN, FACTOR @ FACTOR.mT))
    kernel = make(step_size=0.5, integrator=ROTATIONS, center=torch.zeros(2), scale=torch.ones(3))
    state = kernel.init(potential, torch.randn(4, 3))
    with pytest.raises(ShapeError, match=r"shape \(2,\), but .* has 3 coordinates"):
        kernel.step(potential, state, kernel.noise(state, None))


def test_replicas_have_no_common_centre():
    with pytest.raises(ModelError, match="each replica has its own"):
        ReplicaExchange(HMC(integrator=ROTATIONS))
