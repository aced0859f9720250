"""Gradients on a Gaussian, whose expectations are known in closed form."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_ebm import MALA, Langevin
from pyro_ebm.objectives import ContrastiveDivergence, MaximumLikelihood
from tests.objectives.gaussian_field import (
    MEAN,
    VARIANCE,
    SignNoise,
    gradient,
    trainable_gaussian,
    two_points,
)
from tests.statistics import Rejected, assert_mean

POINTS = [(0.2, 0.8, 0.1), (1.5, 1.4, 0.5), (0.7, 0.5, 1.0)]
"""Mean and precision of the model, and step size."""


def _ascent(loc, precision, step_size, variance=VARIANCE):
    """Minus the gradient of the loss: the ascent field of CD-1."""
    objective = ContrastiveDivergence(SignNoise(step_size=step_size))
    return -gradient(objective, trainable_gaussian(loc, precision), two_points(variance))


@pytest.mark.parametrize(("loc", "precision", "step_size"), POINTS)
def test_field_of_cd_1(loc, precision, step_size):
    gap, shrink = MEAN - loc, 1 - step_size**2 * precision / 2
    field_loc = step_size**2 * precision**2 / 2 * gap
    field_precision = 0.5 * ((shrink**2 - 1) * (VARIANCE + gap**2) + step_size**2)
    torch.testing.assert_close(
        _ascent(loc, precision, step_size), torch.tensor([field_loc, field_precision])
    )


@pytest.mark.parametrize(("loc", "precision", "step_size"), POINTS)
def test_cd_1_is_the_gradient_of_no_function(loc, precision, step_size):
    """The field is a polynomial of degree three, so that these differences are exact."""
    h = 0.1
    along_loc = _ascent(loc + h, precision, step_size) - _ascent(loc - h, precision, step_size)
    along_precision = _ascent(loc, precision + h, step_size) - _ascent(
        loc, precision - h, step_size
    )
    curl = (along_loc[1] - along_precision[0]) / (2 * h)
    truth = -(step_size**4) * precision**2 / 4 * (MEAN - loc)
    torch.testing.assert_close(curl, torch.tensor(truth))


@pytest.mark.parametrize(("step_size", "precision"), [(0.1, 1.0025125787), (0.5, 1.0717967697)])
def test_fixed_point_with_unadjusted_langevin(step_size, precision):
    """The root of the field, found without its formula."""
    low, high = 0.5, 1.9
    for _ in range(50):
        middle = (low + high) / 2
        if _ascent(MEAN, middle, step_size, variance=1.0)[1] > 0:
            low = middle
        else:
            high = middle
    assert middle == pytest.approx(precision, abs=1e-9)
    torch.testing.assert_close(_ascent(MEAN, middle, step_size, variance=1.0)[0], torch.tensor(0.0))


def test_fixed_point_at_step_one_is_twice_the_precision():
    """A double root: the field touches zero there and is positive on both sides."""
    fields = [_ascent(MEAN, at, 1.0, variance=1.0)[1].item() for at in (1.9, 2.0, 2.1)]
    assert fields == pytest.approx([0.00125, 0.0, 0.00125], abs=1e-12)


def _draws(objective, energy, num_draws=200, num_data=64, variance=VARIANCE):
    """Independent gradients, each on fresh exact data."""
    data = MEAN + variance**0.5 * torch.randn(num_draws, num_data)
    return torch.stack([gradient(objective, energy, x) for x in data])


@pytest.mark.parametrize("num_steps", [1, 3])
def test_fixed_point_with_mala_is_exact(num_steps):
    energy = trainable_gaussian(MEAN, 1 / VARIANCE)
    exact = ContrastiveDivergence(MALA(step_size=1.0), num_steps)
    assert_mean(_draws(exact, energy), 0.0)
    biased = ContrastiveDivergence(Langevin(step_size=1.0), num_steps)
    with pytest.raises(Rejected):
        assert_mean(_draws(biased, energy), 0.0)


def test_random_noise_has_the_field_as_its_mean():
    loc, precision, step_size = POINTS[1]
    objective = ContrastiveDivergence(Langevin(step_size=step_size))
    assert_mean(
        -_draws(objective, trainable_gaussian(loc, precision)), _ascent(loc, precision, step_size)
    )


def test_maximum_likelihood_with_long_chains():
    loc, precision = 0.2, 0.8
    truth = torch.tensor(
        [precision * (MEAN - loc), 0.5 * (1 / precision - VARIANCE - (MEAN - loc) ** 2)]
    )
    energy = trainable_gaussian(loc, precision)
    far = dist.Normal(0.0, 3.0)
    long = MaximumLikelihood(MALA(step_size=1.3), 25, far)
    assert_mean(-_draws(long, energy, num_draws=80), truth)
    short = MaximumLikelihood(MALA(step_size=1.3), 1, far)
    with pytest.raises(Rejected):
        assert_mean(-_draws(short, energy, num_draws=80), truth)
