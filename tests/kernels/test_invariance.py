"""Many chains from exact starts: who leaves the law as it is, and that the mistakes are seen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Gamma, constraints

from pyro_ebm.kernels import (
    HMC,
    MALA,
    NUTS,
    Langevin,
    PreconditionedMALA,
    UnderdampedLangevin,
)
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.mutants import (
    PATCHES,
    NoAccept,
    SharedNormal,
    SharedUniform,
    WideNoise,
    patched_mala,
)
from tests.kernels.transitions import (
    advance,
    assert_invariant,
    assert_law,
    draws_of,
    exact_start,
)
from tests.statistics import (
    Rejected,
    assert_chain_means,
    assert_independent_chains,
    assert_mean,
    assert_moments,
    independence_ratio,
)
from tests.targets import Target, all_targets, asymmetric_target, gaussian_target

STEP_SIZES = {
    "gaussian": 0.6,
    "quartic": 0.9,
    "asymmetric": 0.6,
    "mixture": 0.8,
    "double_well": 0.6,
    "funnel": 0.7,
}
"""Some 80 to 90 % of the moves are accepted, so that rejections matter."""

every_target = pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
DIGAMMA_OF_3 = 0.9227843351


class ShiftedGamma:
    """``Gamma(3, 1)`` on the positive reals."""

    event_shape = torch.Size([])

    def __call__(self, x):
        return x - 2 * x.log()


@every_target
def test_mala_leaves_the_law_as_it_is(target):
    assert_invariant(MALA(step_size=STEP_SIZES[target.name]), target)


@every_target
def test_mala_with_a_scale_leaves_the_law_as_it_is(target):
    dim = target.mean.numel()
    scale = torch.linspace(0.6, 1.3, dim)
    assert_invariant(MALA(step_size=STEP_SIZES[target.name], scale=scale), target)


@every_target
def test_unadjusted_langevin_does_not(target):
    with pytest.raises(Rejected):
        assert_invariant(Langevin(step_size=0.5), target)


def test_mala_keeps_the_covariance():
    target = gaussian_target()
    kernel, potential = MALA(step_size=0.6), EnergyPotential(target.energy)
    state = advance(kernel, potential, exact_start(kernel, target, 50_000), 10)
    assert_moments(state.position, target.mean, torch.linalg.inv(target.energy.precision))


@pytest.mark.parametrize("scale", [None, torch.tensor([1.2, 0.5])], ids=["unscaled", "scaled"])
def test_baoab_keeps_its_law_on_a_gaussian(scale):
    """The joint law of positions and velocities, whose covariance is ``1 - h^2 S P S / 4``."""
    target, h = gaussian_target(), 0.6
    kernel = UnderdampedLangevin(step_size=h, scale=scale)
    s = torch.diag(torch.ones(2) if scale is None else scale)
    covariance = torch.eye(2) - h**2 / 4 * s @ target.energy.precision @ s
    state = exact_start(kernel, target, 50_000)
    state = state._replace(velocity=state.velocity @ torch.linalg.cholesky(covariance).T)
    state = advance(kernel, EnergyPotential(target.energy), state, 10)
    assert_law(state, target)
    both = torch.cat([state.position, state.velocity], dim=1)
    mean = torch.cat([target.mean, torch.zeros(2)])
    position_covariance = torch.linalg.inv(target.energy.precision)
    assert_moments(both, mean, torch.block_diag(position_covariance, covariance))


def test_baoab_is_biased_elsewhere():
    with pytest.raises(Rejected):
        assert_invariant(UnderdampedLangevin(step_size=0.8), asymmetric_target())


@pytest.mark.parametrize("mutant", PATCHES)
def test_planted_mistakes_are_rejected(mutant):
    """At steps so small that no chain explodes, but that some moves are rejected."""
    step_size = 0.6 if mutant.startswith("stale") else 0.4
    with patched_mala(mutant) as cls, pytest.raises(Rejected):
        assert_invariant(cls(step_size=step_size), asymmetric_target())


@pytest.mark.parametrize("cls", [NoAccept, WideNoise])
def test_planted_noise_is_rejected(cls):
    with pytest.raises(Rejected):
        assert_invariant(cls(step_size=0.4), asymmetric_target())


def test_exploding_chains_are_rejected():
    """Reversed ratios send a few chains far away, where no moment has a useful error bar."""
    with patched_mala("reversed_ratio") as cls, pytest.raises(Rejected):
        assert_invariant(cls(step_size=0.6), asymmetric_target())


def _chains(kernel, num_chains=100):
    """Stationary draws ``(chain, draw, dim)`` of many chains."""
    target = asymmetric_target()
    potential = EnergyPotential(target.energy)
    state = advance(kernel, potential, exact_start(kernel, target, num_chains, potential), 50)
    return draws_of(kernel, potential, state, 300)


@pytest.mark.parametrize("num_chains", [1, 7, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cls", [MALA, HMC, NUTS])
def test_the_law_does_not_depend_on_the_number_of_chains_or_the_type(cls, dtype, num_chains):
    """Batches of so many chains, each from exact starts."""
    target, kernel = gaussian_target(), cls(step_size=0.6)
    potential = EnergyPotential(target.energy.to(dtype))
    ends = []
    for _ in range(-(-400 // num_chains)):
        state = kernel.init(potential, target.sample(num_chains, None).to(dtype))
        ends.append(advance(kernel, potential, state, 1))
    position, grad = (
        torch.cat([getattr(end, name) for end in ends]).double() for name in ("position", "grad")
    )
    assert_law(SimpleNamespace(position=position, grad=grad), gaussian_target())


@pytest.mark.parametrize(
    "cls", [Langevin, MALA, UnderdampedLangevin, HMC, NUTS, PreconditionedMALA]
)
def test_chains_are_independent(cls):
    assert_independent_chains(_chains(cls(step_size=0.4)))


def test_means_over_draws_and_chains():
    target = asymmetric_target()
    draws = _chains(MALA(step_size=0.6))
    features = torch.cat([draws, draws.square()], dim=-1)
    assert_chain_means(features, torch.stack([target.mean, target.second_moment]))


@pytest.mark.parametrize("cls", [SharedUniform, SharedNormal])
def test_shared_noise_is_rejected_by_the_independence_ratio(cls):
    with pytest.raises(Rejected, match="not independent"):
        assert_independent_chains(_chains(cls(step_size=1.2), num_chains=1_000))


def test_shared_normal_noise_makes_the_chains_one():
    assert float(independence_ratio(_chains(SharedNormal(step_size=0.6))).max()) > 10


def _gamma_features(potential):
    """Draws of ``Gamma(3, 1)``, moved by MALA in ``y = log x``."""
    kernel = MALA(step_size=0.6)
    x = Gamma(torch.tensor(3.0), torch.tensor(1.0)).sample((50_000, 1))
    state = kernel.init(potential, potential.unconstrain({"x": x.squeeze(-1)}))
    state = advance(kernel, potential, state, 10)
    x = potential.constrain(state.position)["x"]
    return torch.stack([x, (x - 3).square(), state.position.squeeze(-1)], dim=1)


def test_positive_support():
    potential = EnergyPotential(ShiftedGamma(), support=constraints.positive)
    assert_mean(_gamma_features(potential), torch.tensor([3.0, 3.0, DIGAMMA_OF_3]))


class WithoutJacobian(EnergyPotential):
    """The energy in unconstrained coordinates and nothing else: ``Gamma(2, 1)``."""

    def __call__(self, q):
        return self.energy(self.constrain(q)[self.name])


def test_a_missing_jacobian_is_rejected():
    potential = WithoutJacobian(ShiftedGamma(), support=constraints.positive)
    with pytest.raises(Rejected):
        assert_mean(_gamma_features(potential), torch.tensor([3.0, 3.0, DIGAMMA_OF_3]))


def test_a_missing_jacobian_gives_another_gamma():
    potential = WithoutJacobian(ShiftedGamma(), support=constraints.positive)
    x = Gamma(torch.tensor(2.0), torch.tensor(1.0)).sample((50_000,))
    kernel = MALA(step_size=0.6)
    state = kernel.init(potential, potential.unconstrain({"x": x}))
    state = advance(kernel, potential, state, 10)
    draws = potential.constrain(state.position)["x"]
    assert_mean(torch.stack([draws, draws.square()], dim=1), torch.tensor([2.0, 6.0]))


def test_images_are_sampled_like_flat_events():
    target = gaussian_target()
    energy = target.energy
    potential = EnergyPotential(lambda x: energy(x.flatten(-3)), event_shape=(1, 2, 1))
    image = Target("image", energy, target.mean, target.second_moment, target.sample)
    kernel = MALA(step_size=0.6)
    state = advance(kernel, potential, exact_start(kernel, image, 50_000, potential), 10)
    assert potential.constrain(state.position)["x"].shape == (50_000, 1, 2, 1)
    assert_law(state, target)
