"""Annealed Langevin: the recursion of the variances, stages, fresh starts, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_ebm import MCMC, EnergyDistribution
from pyro_ebm.core.checks import ModelError, StepSizeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import SGLD, AnnealedLangevin
from pyro_ebm.kernels._metropolis import LangevinState
from pyro_ebm.potentials import EnergyPotential, NoiseConditionalPotential, ProximalPotential
from tests.kernels.transitions import CountingPotential, advance, draws_of, move
from tests.statistics import Rejected, assert_independent_chains, assert_moments

SPREAD = 0.5
LADDER = {"step_size": 2e-3, "noise_levels": (1.0, 0.3, 0.1), "steps_per_level": 50}
SHORT = {"step_size": 0.1, "noise_levels": (3.0, 1.0), "steps_per_level": 4}
STANDARD = EnergyPotential(GaussianEnergy.standard(1))


def _gaussian(x, sigma):
    """Of data of variance ``SPREAD`` with noise."""
    return x.square().sum(-1) / (2 * (SPREAD + sigma.square()))


def _conditional(noise_level=0.1, dim=1):
    return NoiseConditionalPotential(_gaussian, noise_level, (dim,))


def _variances(kernel, start):
    """Variance after each level by the recursion, for noise-conditional Gaussians."""
    variances, variance = [], start
    for level in kernel.noise_levels:
        stride = kernel.step_size * level**2 / kernel.noise_levels[-1] ** 2
        for _ in range(kernel.steps_per_level):
            kept = 1 - stride / (2 * (SPREAD + level**2))
            variance = kept**2 * variance + stride * kernel.effective_temperature
        variances.append(variance)
    return variances


def _responses(kernel, potential, num_steps):
    """Positions of an anneal from one and from single unit noises, ``(step, 1 + step)``.

    The anneal is linear, so their squares add up to the variance.
    """
    impulses = torch.eye(num_steps + 1)
    state = kernel.init(potential, impulses[:, :1])
    positions = []
    for step in range(num_steps):
        state, info = move(kernel, potential, state, impulses[:, step + 1 : step + 2])
        positions.append(state.walker.position.squeeze(-1))
    return torch.stack(positions), state, info


def _exact_variances(kernel, start):
    length = kernel.steps_per_level + 1
    num_steps = kernel.num_steps - 1
    positions, _, info = _responses(kernel, _conditional(kernel.noise_levels[-1]), num_steps)
    assert bool(info.finished.all())
    ends = positions[kernel.steps_per_level - 1 :: length]
    return (start * ends[:, 0].square() + ends[:, 1:].square().sum(dim=1)).tolist()


def test_variances_of_a_gaussian_level_by_level():
    kernel = AnnealedLangevin(**LADDER)
    variances = _exact_variances(kernel, start=4.0)
    assert variances == pytest.approx([1.5541932341, 0.8008486604, 0.7491055877], abs=1e-10)
    assert variances == pytest.approx(_variances(kernel, start=4.0), rel=1e-12)


def test_variances_at_another_temperature():
    kernel = AnnealedLangevin(noise_scale=0.02, **LADDER)
    assert kernel.effective_temperature == pytest.approx(0.2)
    assert _exact_variances(kernel, 4.0) == pytest.approx(_variances(kernel, 4.0), rel=1e-12)


class SameStride(AnnealedLangevin):
    """The step size of the last level at all levels."""

    def _stage(self, state, step_size):
        stage = super()._stage(state, step_size)
        return stage._replace(stride=torch.full_like(stage.stride, step_size))


class LinearStride(AnnealedLangevin):
    """Step sizes that go with the noise level instead of its square."""

    def _stage(self, state, step_size):
        stage = super()._stage(state, step_size)
        return stage._replace(stride=step_size * (stage.stride / step_size).sqrt())


class NextLevel(AnnealedLangevin):
    """Never at the first level."""

    def _stage(self, state, step_size):
        stage = super()._stage(state, step_size)
        return stage._replace(noise_level=stage.noise_level.clamp(max=self.noise_levels[1]))


@pytest.mark.parametrize("mutant", [SameStride, LinearStride, NextLevel])
def test_planted_mistakes_miss_the_recursion(mutant):
    kernel = mutant(**LADDER)
    errors = [
        abs(a / b - 1)
        for a, b in zip(_exact_variances(kernel, 4.0), _variances(kernel, 4.0), strict=True)
    ]
    assert max(errors) > 0.02


def test_stages_of_an_anneal():
    """Levels of four moves; coming to a level, and starting anew, takes one step more."""
    kernel, potential = AnnealedLangevin(**SHORT), CountingPotential(GaussianEnergy.standard(1))
    state = kernel.init(potential, torch.randn(20, 1))
    assert (kernel.num_steps, potential.num_gradients) == (10, 2)
    moves, finished = [], []
    for _ in range(19):
        old = state
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        moves.append(bool((state.walker.position != old.walker.position).all()))
        finished.append(bool(info.finished.all()))
        drawn = torch.equal(state.draw.position, state.walker.position)
        assert drawn == finished[-1]
        assert drawn or torch.equal(state.draw.position, old.draw.position)
    level = [True] * 4
    assert moves == [*level, False, *level, True, *level, False, *level]
    assert finished == [False] * 8 + [True] + [False] * 9 + [True]
    assert potential.num_gradients == 21


def test_other_targets_are_tempered():
    """The drift of one step size and noise that cools: SGLD at falling temperatures."""
    potential = EnergyPotential(lambda x: (0.25 * x.pow(4) + torch.sin(3 * x)).sum(-1), (1,))
    kernel = AnnealedLangevin(temperature=0.5, **SHORT)
    state = kernel.init(potential, torch.randn(100, 1))
    for temperature in (4.5, 0.5):
        same = SGLD(step_size=0.1, temperature=temperature)
        reference = same.init(potential, state.walker.position)
        for _ in range(4):
            normal = torch.randn(100, 1)
            state, info = move(kernel, potential, state, normal)
            reference, expected = move(same, potential, reference, normal)
            torch.testing.assert_close(
                state.walker.position, reference.position, rtol=1e-11, atol=1e-12
            )
            torch.testing.assert_close(
                info.step_acceptance, expected.step_acceptance, rtol=1e-10, atol=1e-12
            )
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        assert bool((info.step_acceptance == 1).all())


def test_acceptance_is_the_mean_over_the_moves():
    kernel = AnnealedLangevin(**SHORT)
    state = kernel.init(STANDARD, torch.randn(50, 1))
    for num_stages in (9, 10):
        rates = []
        for _ in range(num_stages):
            state, info = kernel.step(STANDARD, state, kernel.noise(state, None))
            rates.append(info.step_acceptance)
        assert bool(info.finished.all())
        moves = [rate for rate in rates if bool((rate < 1).any())]
        assert len(moves) == 8
        torch.testing.assert_close(info.acceptance_rate, torch.stack(moves).mean(dim=0))


def _second_draws(kernel, num_chains=20_000, dim=2):
    """Draws of anneals that began at fresh starts."""
    potential = _conditional(kernel.noise_levels[-1], dim)
    state = kernel.init(potential, torch.full((num_chains, dim), 50.0))
    return advance(kernel, potential, state, 2).position


def test_fresh_starts_have_the_law_of_the_recursion():
    """The first start is far away, and forgotten; starts have the variance of the first level."""
    kernel = AnnealedLangevin(step_size=0.02, noise_levels=(1.0, 0.3), steps_per_level=5)
    variance = _variances(kernel, start=1.0)[-1]
    assert_moments(_second_draws(kernel), torch.zeros(2), variance * torch.eye(2))


class StartsWhereItEnded(AnnealedLangevin):
    """No fresh starts."""

    def _stage(self, state, step_size):
        stage = super()._stage(state, step_size)
        return stage._replace(starts=torch.zeros_like(stage.starts))


@pytest.mark.parametrize("mutant", [StartsWhereItEnded, SameStride])
def test_planted_mistakes_in_the_law_are_rejected(mutant):
    kernel = mutant(step_size=0.02, noise_levels=(1.0, 0.3), steps_per_level=5)
    variance = _variances(kernel, start=1.0)[-1]
    with pytest.raises(Rejected):
        assert_moments(_second_draws(kernel), torch.zeros(2), variance * torch.eye(2))


def test_chains_are_independent():
    kernel = AnnealedLangevin(**SHORT)
    state = advance(kernel, STANDARD, kernel.init(STANDARD, torch.randn(100, 1)), 1)
    assert_independent_chains(draws_of(kernel, STANDARD, state, 100))


def test_equilibrium_at_the_last_level_is_the_model():
    """Up to the bias of the step: variance ``1 / (1 - alpha / 4)`` of a standard Gaussian."""
    kernel = AnnealedLangevin(step_size=0.4, noise_levels=(3.0, 1.0), steps_per_level=40)
    state = advance(kernel, STANDARD, kernel.init(STANDARD, torch.zeros(20_000, 1)), 1)
    assert_moments(state.position, torch.zeros(1), torch.eye(1) / (1 - 0.1))


def test_denoising_is_the_mean_of_the_data_behind_a_point():
    ladder = {"step_size": 0.1, "noise_levels": (1.0, 0.5), "steps_per_level": 3}
    potential = _conditional(0.5)
    ends = []
    for denoise, num_steps in ((False, 7), (True, 8)):
        kernel = AnnealedLangevin(denoise=denoise, **ladder)
        assert kernel.num_steps == num_steps + 1
        state = kernel.init(potential, torch.linspace(-2, 2, 50).unsqueeze(-1))
        for step in range(num_steps):
            normal = torch.full((50, 1), math.sin(step))
            state, info = move(kernel, potential, state, normal)
        assert bool(info.finished.all())
        ends.append((state, info))
    (noisy, first), (denoised, second) = ends
    mean = noisy.position * SPREAD / (SPREAD + 0.5**2)
    torch.testing.assert_close(denoised.position, mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(denoised.potential_energy, potential(denoised.position))
    torch.testing.assert_close(first.acceptance_rate, second.acceptance_rate)


def test_clips_hold_at_every_level():
    kernel = AnnealedLangevin(grad_clip=0.5, position_bounds=(-1.0, 2.0), **SHORT)
    potential = EnergyPotential(lambda x: 100.0 * x.sum(-1), (1,))
    state = kernel.init(potential, torch.ones(100, 1))
    moved, _ = move(kernel, potential, state, torch.zeros(100, 1))
    torch.testing.assert_close(moved.walker.position, torch.full((100, 1), 1 - 0.45 * 0.5))
    for _ in range(25):
        state, _ = kernel.step(potential, state, kernel.noise(state, None))
        assert bool(((state.walker.position >= -1) & (state.walker.position <= 2)).all())


def test_chains_at_different_stages_do_not_meet():
    kernel, potential = AnnealedLangevin(**SHORT), _conditional(1.0)
    states = [kernel.init(potential, torch.randn(1, 1))]
    for _ in range(12):
        noise = kernel.noise(states[-1], None)
        states.append(kernel.step(potential, states[-1], noise)[0])
    normal = torch.randn(13, 1)
    alone = [
        move(kernel, potential, s, n.unsqueeze(0)) for s, n in zip(states, normal, strict=True)
    ]
    together, report = move(kernel, potential, _stacked(states), normal)
    for expected, actual in (
        (_stacked([s for s, _ in alone]), together),
        (_stacked([i for _, i in alone]), report),
    ):
        torch.testing.assert_close(tuple(actual), tuple(expected))


def _stacked(tuples):
    parts = zip(*tuples, strict=True)
    return type(tuples[0])(
        *(torch.cat(p) if isinstance(p[0], torch.Tensor) else _stacked(p) for p in parts)
    )


def test_a_divergence_is_told_of_with_its_draw():
    energy = EnergyPotential(
        lambda x: torch.where(x < 5, 0.5 * x.square(), torch.nan).sum(-1), (1,)
    )
    kernel = AnnealedLangevin(**SHORT)
    state = kernel.init(energy, torch.zeros(2, 1))
    flags = []
    for step in range(9):
        normal = torch.tensor([[100.0 if step == 2 else 0.0], [0.0]])
        state, info = move(kernel, energy, state, normal)
        flags.append(info.diverging.tolist())
    assert [row[0] for row in flags] == [False, False, True, *[False] * 5, True]
    assert not any(row[1] for row in flags)
    assert bool(torch.isfinite(state.position).all())
    for _ in range(10):
        state, info = move(kernel, energy, state, torch.zeros(2, 1))
    assert not bool(info.diverging.any())


def test_a_start_without_energy_is_flagged_to_its_end():
    energy = EnergyPotential(
        lambda x: torch.where(x < 5, 0.5 * x.square(), torch.nan).sum(-1), (1,)
    )
    kernel = AnnealedLangevin(**SHORT)
    state = kernel.restart(kernel.init(energy, torch.zeros(2, 1)), None)
    state, info = move(kernel, energy, state, torch.tensor([[10.0], [0.0]]))
    for _ in range(9):
        assert info.diverging.tolist() == [True, False]
        state, info = move(kernel, energy, state, torch.zeros(2, 1))
    assert info.finished.all()
    assert info.diverging.tolist() == [True, False]
    assert torch.isnan(info.lp).tolist() == [True, False]


def test_in_the_driver_without_warm_up():
    kernel = AnnealedLangevin(
        _conditional(dim=2), step_size=0.01, noise_levels=(1.0, 0.1), steps_per_level=5
    )
    mcmc = MCMC(kernel, 4, warmup_steps=0, num_chains=100, disable_progbar=True)
    mcmc.run()
    assert mcmc.get_samples(group_by_chain=True)["x"].shape == (100, 4, 2)
    assert mcmc.chains.stats["temperature"].unique().tolist() == [1.0]
    assert not bool(mcmc.chains.stats["diverging"].any())


def test_warm_up_moves_the_chains_and_the_draws_begin_anew():
    kernel = AnnealedLangevin(_conditional(1.0), scale=torch.ones(1), **SHORT)
    mcmc = MCMC(kernel, 3, warmup_steps=3, num_chains=50, disable_progbar=True)
    mcmc.run()
    assert mcmc.get_samples()["x"].shape == (150, 1)
    recipe = AnnealedLangevin(_conditional(0.01))
    with pytest.raises(StepSizeError, match=r"give the kernel a step_size\.$"):
        MCMC(recipe, 3, num_chains=4)
    with pytest.raises(StepSizeError, match="warm-up cannot tune one"):
        MCMC(recipe, 3, warmup_steps=3, num_chains=4, disable_progbar=True).run()


def test_as_many_steps_as_an_anneal_takes_make_a_draw_of_a_distribution():
    kernel = AnnealedLangevin(**SHORT)
    law = EnergyDistribution(GaussianEnergy.standard(2), kernel=kernel, num_steps=kernel.num_steps)
    assert law.sample((10,)).shape == (10, 2)


def test_sums_are_annealed_too():
    potential = _conditional(1.0) + ProximalPotential(torch.full((1,), 2.0), 0.5)
    kernel = AnnealedLangevin(**SHORT)
    state = kernel.init(potential, torch.zeros(3, 1))
    assert isinstance(state.walker, LangevinState)
    torch.testing.assert_close(state.walker.grad, torch.full((3, 1), -2.0 / 0.25))
    torch.testing.assert_close(state.walker.potential_energy, torch.full((3,), 8.0))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"noise_levels": (1.0, 1.0)}, "must fall"),
        ({"noise_levels": (0.1, 1.0)}, "must fall"),
        ({"noise_levels": ()}, "at least one number"),
        ({"noise_levels": [1.0, 0.1]}, "a tuple"),
        ({"noise_levels": (1.0, 0.0)}, "each of noise_levels=0.0"),
        ({"steps_per_level": 0}, "steps_per_level=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_wrong_numbers_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        AnnealedLangevin(step_size=0.1, **arguments)


def test_targets_that_do_not_fit_are_named():
    with pytest.raises(ModelError, match=r"end at 1\.0, but the target is the law .* 0\.1"):
        AnnealedLangevin(**SHORT).init(_conditional(0.1), torch.zeros(2, 1))
    with pytest.raises(ModelError, match="knows of no noise"):
        AnnealedLangevin(denoise=True, **SHORT).init(STANDARD, torch.zeros(2, 1))
