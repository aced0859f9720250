"""What the Langevin kernels share: hyper-parameters, non-finite moves, float32, no stale state."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_ebm.core.checks import NonFiniteError, ShapeError, StepSizeError
from pyro_ebm.energies import GaussianEnergy, QuarticEnergy
from pyro_ebm.kernels import MALA, SGLD, Langevin, PreconditionedMALA, UnderdampedLangevin
from pyro_ebm.kernels._metric import UnitMetric
from pyro_ebm.kernels._metropolis import (
    acceptance_probability,
    is_divergent,
    langevin_init,
    langevin_log_ratio,
    langevin_proposal,
)
from pyro_ebm.potentials.compose import ProximalPotential
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.mutants import patched_mala
from tests.kernels.transitions import CountingPotential, advance, move
from tests.targets import AsymmetricEnergy

KERNELS = [Langevin, MALA, PreconditionedMALA, SGLD, UnderdampedLangevin]
every_kernel = pytest.mark.parametrize("cls", KERNELS)
NAN, INF = math.nan, math.inf


class Hole:
    """``x^2 / 2`` with a value of one's choice beyond one, and its gradient there."""

    event_shape = torch.Size([1])

    def __init__(self, value, slope=0.0):
        self.value, self.slope = value, slope

    def __call__(self, x):
        class Bad(torch.autograd.Function):
            @staticmethod
            def forward(ctx, y):
                return torch.full_like(y, self.value)

            @staticmethod
            def backward(ctx, grad):
                return torch.full_like(grad, self.slope)

        inside = x < 1
        safe = torch.where(inside, x, torch.zeros_like(x))
        outside = Bad.apply(torch.where(inside, torch.ones_like(x), x))
        return torch.where(inside, 0.5 * safe.square(), outside).sum(-1)


HOLES = {
    "energy nan": Hole(NAN),
    "energy inf": Hole(INF),
    "energy -inf": Hole(-INF),
    "gradient nan": Hole(0.5, NAN),
    "gradient inf": Hole(0.5, INF),
}
every_hole = pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)


@every_kernel
@every_hole
def test_moves_into_a_hole_are_not_made_and_flagged(cls, hole):
    kernel = cls(step_size=0.3)
    whole = EnergyPotential(GaussianEnergy.standard((1,)))
    start = torch.tensor([[0.0], [0.9], [-0.5], [0.95]])
    normal = torch.tensor([[0.1], [5.0], [-0.3], [9.0]])
    falls = torch.tensor([False, True, False, True])
    generator = torch.Generator().manual_seed(0)
    state = kernel.init(EnergyPotential(hole), start, generator)
    if hasattr(state, "velocity"):
        state = state._replace(velocity=normal)
    moved, info = move(kernel, EnergyPotential(hole), state, normal)
    unharmed, expected = move(kernel, whole, state, normal)
    assert torch.equal(info.diverging, falls)
    assert torch.equal(info.acceptance_rate[falls], torch.zeros(2))
    for name in ("position", "potential_energy", "grad"):
        assert torch.equal(getattr(moved, name)[falls], getattr(state, name)[falls])
        assert torch.equal(getattr(moved, name)[~falls], getattr(unharmed, name)[~falls])
    assert torch.equal(info.lp, -moved.potential_energy)
    assert torch.equal(info.acceptance_rate[~falls], expected.acceptance_rate[~falls])
    assert all(bool(torch.isfinite(field).all()) for field in (*moved, *info))


@every_kernel
@every_hole
def test_chains_walk_beside_a_hole(cls, hole):
    kernel, potential = cls(step_size=0.7), EnergyPotential(hole)
    state = kernel.init(potential, torch.zeros(500, 1))
    fallen = 0
    for _ in range(20):
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        fallen += int(info.diverging.sum())
        assert bool((state.position < 1).all())
    assert fallen > 100


@every_kernel
def test_an_energy_error_above_1000_is_flagged(cls):
    potential = EnergyPotential(lambda x: 2e4 * x.square().sum(-1), (1,))
    kernel = cls(step_size=1.0)
    state = kernel.init(potential, torch.tensor([[1e-9], [1.0], [0.0]]))
    if hasattr(state, "velocity"):
        state = state._replace(velocity=torch.zeros(3, 1))
    moved, info = move(kernel, potential, state, torch.zeros(3, 1))
    assert info.diverging.tolist() == [False, True, False]
    assert float(info.acceptance_rate[1]) == 0.0
    assert bool((moved.position[1] == 1.0).all()) == kernel.is_adjusted
    assert info.acceptance_rate[2] == 1.0


def test_the_threshold_of_divergence():
    log_ratio = torch.tensor([-999.0, -1001.0, 2000.0, NAN, 0.0, -INF, INF])
    finite = torch.tensor([True, True, True, True, False, True, True])
    flags = [False, True, False, True, True, True, False]
    assert is_divergent(log_ratio, finite).tolist() == flags
    rate = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert acceptance_probability(log_ratio, finite).tolist() == rate


@every_kernel
def test_a_chain_of_unknown_energy_is_flagged_and_has_a_rate(cls):
    """Such a start is refused by the driver; nobody else may see a NaN rate."""
    kernel, potential = cls(step_size=0.3), EnergyPotential(GaussianEnergy.standard((1,)))
    state = kernel.init(potential, torch.zeros(3, 1))
    state = state._replace(potential_energy=torch.tensor([0.0, NAN, 0.0]))
    _, info = kernel.step(potential, state, kernel.noise(state, None))
    assert info.diverging.tolist() == [False, True, False]
    assert float(info.acceptance_rate[1]) == 0.0


@every_kernel
def test_one_gradient_a_step(cls):
    kernel, potential = cls(step_size=0.5), CountingPotential(AsymmetricEnergy())
    state = kernel.init(potential, torch.zeros(20, 1))
    assert (potential.num_gradients, potential.num_energies) == (1, 1)
    advance(kernel, potential, state, 10)
    assert (potential.num_gradients, potential.num_energies) == (11, 11)


def _check_state_is_fresh(kernel):
    """Energies and gradients are those of the positions, after many rejections."""
    potential = EnergyPotential(AsymmetricEnergy())
    state = kernel.init(potential, torch.linspace(-2, 2, 200).unsqueeze(-1))
    rejected = 0
    for _ in range(20):
        old = state
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        rejected += int((state.position == old.position).sum())
        value, grad = potential.value_and_grad(state.position)
        torch.testing.assert_close(state.potential_energy, value)
        torch.testing.assert_close(state.grad, grad)
        torch.testing.assert_close(info.lp, -value)
    return rejected


@every_kernel
def test_state_is_never_stale(cls):
    rejected = _check_state_is_fresh(cls(step_size=0.6))
    assert (rejected > 200) == cls.is_adjusted


@pytest.mark.parametrize("mutant", ["stale_gradient", "stale_energy"])
def test_stale_states_are_seen(mutant):
    with patched_mala(mutant) as cls, pytest.raises(AssertionError):
        _check_state_is_fresh(cls(step_size=0.6))


@pytest.mark.parametrize("offset", [1e2, 1e4])
@pytest.mark.parametrize(("dim", "step_size"), [(2, 1.0), (20_000, 0.1)])
def test_float32_positions_are_accepted_as_in_float64(offset, dim, step_size):
    """Off by the rounding of the potential itself, and by nothing that grows with it."""
    potential = EnergyPotential(lambda x: offset + 0.5 * x.square().sum(-1), (dim,))
    old = langevin_init(potential, torch.randn(20, dim).float())
    new = langevin_proposal(potential, old, torch.randn(20, dim).float(), step_size, UnitMetric())
    exact = [langevin_init(potential, state.position.double()) for state in (old, new)]
    assert old.position.dtype == new.potential_energy.dtype == new.grad.dtype == torch.float32
    ratio = langevin_log_ratio(old, new, step_size, UnitMetric())
    assert ratio.dtype == torch.float64
    wrong = (ratio - langevin_log_ratio(*exact, step_size, UnitMetric())).abs().max()
    largest = float(new.potential_energy.abs().max())
    assert float(wrong) < 4 * torch.finfo(torch.float32).eps * largest


def test_float32_sums_lose_what_float64_sums_keep():
    """The same numbers through the formula as it stands in float32, which kernels must not do."""
    potential = EnergyPotential(lambda x: 0.5 * x.square().sum(-1), (20_000,))
    old = langevin_init(potential, torch.randn(20, 20_000).float())
    new = langevin_proposal(potential, old, torch.randn(20, 20_000).float(), 0.5, UnitMetric())
    exact = [type(state)(*(field.double() for field in state)) for state in (old, new)]
    truth = langevin_log_ratio(*exact, 0.5, UnitMetric())
    energy = old.potential_energy - new.potential_energy
    work = 0.5 * ((new.position - old.position) * (old.grad + new.grad)).sum(-1)
    kinetic = 0.5**2 / 8 * (old.grad.square().sum(-1) - new.grad.square().sum(-1))
    naive = energy + work + kinetic
    assert naive.dtype == torch.float32
    own_error = (langevin_log_ratio(old, new, 0.5, UnitMetric()) - truth).norm()
    assert float(own_error) < 0.25 * float((naive - truth).norm())


@every_kernel
def test_a_step_without_a_step_size_is_named(cls):
    kernel, potential = cls(), EnergyPotential(QuarticEnergy((2,)))
    state = kernel.init(potential, torch.zeros(3, 2))
    with pytest.raises(StepSizeError, match=rf"{cls.__name__}\(step_size=0.1\).*warmup_steps > 0"):
        kernel.step(potential, state, kernel.noise(state, None))


@every_kernel
@pytest.mark.parametrize("step_size", [0.0, -0.1, NAN, INF, "0.1", torch.ones(2)])
def test_wrong_step_sizes_are_named(cls, step_size):
    with pytest.raises(ValueError, match=r"step_size=.* must be a finite number above zero"):
        cls(step_size=step_size)


@every_kernel
@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 1.5, NAN, None])
def test_wrong_target_acceptances_are_named(cls, probability):
    with pytest.raises(ValueError, match=r"target_accept_prob=.* strictly between 0 and 1"):
        cls(target_accept_prob=probability)


@every_kernel
@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, INF])
def test_wrong_scales_are_named(cls, bad):
    with pytest.raises(NonFiniteError, match="every standard deviation must be finite"):
        cls(step_size=0.1, scale=torch.tensor([1.0, bad]))
    for shape in ((), (2, 3), (2, 1), (2, 2, 2)):
        with pytest.raises(ShapeError, match=r"scale has shape .* a vector of shape \(dim,\)"):
            cls(step_size=0.1, scale=torch.ones(shape))


@every_kernel
@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_scale_of_another_length_is_named_and_not_broadcast(cls, length):
    kernel = cls(step_size=0.1, scale=torch.ones(length))
    potential = EnergyPotential(QuarticEnergy((3,)))
    state = kernel.init(potential, torch.zeros(4, 3))
    with pytest.raises(ShapeError, match=rf"scale has {length} entries, .* has 3 coordinates"):
        kernel.step(potential, state, kernel.noise(state, None))


@every_kernel
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.float64])
def test_a_scale_takes_the_type_of_the_positions(cls, scale_dtype):
    potential = EnergyPotential(QuarticEnergy((2,)))
    kernel = cls(step_size=0.1, scale=torch.ones(2, dtype=scale_dtype))
    for dtype in (torch.float32, torch.float64):
        state = kernel.init(potential, torch.zeros(3, 2, dtype=dtype))
        moved, _ = kernel.step(potential, state, kernel.noise(state, None))
        assert {field.dtype for field in moved} == {dtype}


@every_kernel
def test_scale_is_a_change_of_coordinates(cls):
    """Moving ``x = s y`` with scale ``s`` is moving ``y`` with none."""
    s = torch.tensor([2.0, 0.3])
    energy = QuarticEnergy((2,))
    position = torch.randn(100, 2)
    scaled = EnergyPotential(lambda y: energy(s * y), (2,))
    states = []
    for kernel, potential, factor in (
        (cls(step_size=0.3, scale=s), EnergyPotential(energy), s),
        (cls(step_size=0.3), scaled, torch.ones(2)),
    ):
        state = kernel.init(potential, factor * position, torch.Generator().manual_seed(1))
        noise = kernel.noise(state, torch.Generator().manual_seed(2))
        moved, info = kernel.step(potential, state, noise)
        states.append((moved.position / factor, moved.potential_energy, info.acceptance_rate))
    torch.testing.assert_close(*states, rtol=1e-12, atol=1e-12)


@every_kernel
def test_sums_of_potentials_are_sampled_too(cls):
    anchor = torch.tensor([2.0, -1.0])
    potential = EnergyPotential(QuarticEnergy((2,))) + ProximalPotential(anchor, scale=0.1)
    kernel = cls(step_size=0.01)
    state = advance(kernel, potential, kernel.init(potential, anchor.expand(50, 2)), 10)
    value, grad = potential.value_and_grad(state.position)
    torch.testing.assert_close(state.potential_energy, value)
    torch.testing.assert_close(state.grad, grad)
    assert float((state.position - anchor).abs().max()) < 1
