import numpy as np
import pytest
from scipy import stats

from pyro_ebm.diagnostics.stuck import moved_fraction, relative_spread, spread_threshold


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


def test_moved_fraction_counts_draws_that_change_anything():
    draws = np.zeros((3, 5, 2))
    draws[1, 2:, 0] = 1.0
    draws[2] = np.arange(5.0)[:, None]
    assert moved_fraction(draws).tolist() == [0.0, 0.25, 1.0]


def test_relative_spread_of_equal_chains_is_one():
    np.testing.assert_allclose(relative_spread(normal(4, 2000, 1), 0.05), 1.0, atol=0.1)


def test_relative_spread_of_a_narrow_chain():
    draws = normal(4, 2000, 2)
    draws[2, :, 1] = 5.0 + 0.01 * draws[2, :, 1]
    assert relative_spread(draws, 0.05)[2] < 0.02
    assert relative_spread(draws, 0.05)[[0, 1, 3]].min() > 0.5


def test_a_chain_far_away_does_not_make_the_others_look_narrow():
    draws = normal(4, 500, 1)
    draws[0] += 1e6
    assert relative_spread(draws, 0.05).min() > 0.5


def test_heavy_tails_are_no_alarm():
    draws = stats.cauchy.rvs(size=(64, 200, 1), random_state=0)
    assert relative_spread(draws, 0.05).min() > spread_threshold(0.1, draws.shape)


def test_coordinates_that_hardly_change_are_skipped():
    draws = np.concatenate([normal(4, 100, 1), normal(4, 100, 1) > 3.0], axis=2)
    assert relative_spread(draws, 0.05).min() > 0.5
    assert (relative_spread(draws[:, :, 1:], 0.05) == np.inf).all()


@pytest.mark.parametrize("num_draws", [4, 6, 10, 30])
def test_threshold_keeps_its_false_alarm_rate(num_draws):
    """Exact: the variance of normal draws is chi-squared."""
    shape = (256, num_draws, 10)
    threshold = spread_threshold(0.5, shape)
    rate = stats.chi2(num_draws - 1).cdf((num_draws - 1) * threshold**2) * 2560
    assert rate <= 1e-5


def test_threshold_is_the_given_one_for_runs_of_any_length():
    assert spread_threshold(0.1, (4, 100, 10)) == 0.1
    assert spread_threshold(0.1, (4096, 1000, 100)) == 0.1
