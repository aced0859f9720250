"""Quadrature on the line against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_ebm.energies.quadrature import tabulate


def test_gaussian_integrals():
    density = tabulate(lambda x: (x - 1) ** 2 / 8, -25.0, 27.0)
    assert density.log_partition == pytest.approx(math.log(2 * math.sqrt(2 * math.pi)), abs=1e-12)
    assert density.expectation(lambda x: x) == pytest.approx(1, abs=1e-12)
    assert density.expectation(torch.square) == pytest.approx(5, abs=1e-12)


def test_draws_invert_the_cumulative_distribution():
    density = tabulate(lambda x: 0.5 * x**2, -9.0, 9.0)
    draws = density.sample((1000,), generator=torch.Generator().manual_seed(1))
    uniform = torch.rand(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(torch.special.ndtr(draws), uniform, rtol=0, atol=1e-7)


def test_tabulated_moments_of_draws_are_exact_to_the_stated_size():
    density = tabulate(lambda x: 0.5 * x**2, -9.0, 9.0)
    cells = 0.5 * (density.masses[1:] + density.masses[:-1])
    left, right = density.points[:-1], density.points[1:]
    second_moment = float((cells * (left**2 + left * right + right**2) / 3).sum())
    assert second_moment == pytest.approx(1, abs=1e-6)


def test_energies_of_any_offset_do_not_overflow():
    density = tabulate(lambda x: 0.5 * x**2 - 1e4, -9.0, 9.0)
    assert density.log_partition == pytest.approx(1e4 + 0.5 * math.log(2 * math.pi), rel=1e-12)
