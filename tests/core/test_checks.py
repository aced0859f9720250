"""Checks of what users bring: what passes, and what the errors say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pyro_ebm.core import checks
from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.energies import GaussianEnergy, MLPEnergy


class Plain:
    event_shape = torch.Size([2])


@pytest.mark.parametrize("value", [3, np.int64(3)])
def test_counts_pass(value):
    number = checks.check_count("n", value)
    assert (number, type(number)) == (3, int)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "3", None, math.nan])
def test_refuses_counts(value):
    with pytest.raises(ValueError, match=r"n=.*must be a whole number of at least 1\."):
        checks.check_count("n", value)


def test_counts_have_a_minimum():
    assert checks.check_count("n", 0, minimum=0) == 0
    with pytest.raises(ValueError, match="n=1, but n must be a whole number of at least 2"):
        checks.check_count("n", 1, minimum=2)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5)])
def test_positive_numbers_pass(value):
    assert type(checks.check_positive("s", value)) is float


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, True, "0.1", None])
def test_refuses_what_is_not_positive(value):
    with pytest.raises(ValueError, match=r"s=.*must be a finite number above zero\."):
        checks.check_positive("s", value)


@pytest.mark.parametrize("value", [0, 1, 1.5, -0.1, math.nan, True, "0.5"])
def test_refuses_probabilities(value):
    assert checks.check_probability("p", 0.8) == 0.8
    with pytest.raises(ValueError, match=r"p=.*must lie strictly between 0 and 1\."):
        checks.check_probability("p", value)


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        (1.0, ShapeError, r"scale is 1\.0, but a tensor of shape \(dim,\) is wanted"),
        (torch.ones(2, 3), ShapeError, r"shape \(2, 3\).*a vector of shape \(dim,\)"),
        (torch.ones(2, 2), ShapeError, "entries above its diagonal"),
        (-torch.eye(2), NonFiniteError, "finite and above zero"),
        (torch.ones(()), ShapeError, r"a vector of shape \(dim,\)"),
        (torch.tensor([1.0, 0.0]), NonFiniteError, "finite and above zero: give None"),
        (torch.tensor([1.0, torch.nan]), NonFiniteError, "nan"),
        (torch.tensor([1.0, torch.inf]), NonFiniteError, "inf"),
    ],
)
def test_refuses_scales(scale, error, message):
    with pytest.raises(error, match=message):
        checks.check_scale(scale)


def test_scales_pass():
    scale = torch.tensor([0.5, 2.0])
    assert checks.check_scale(scale) is scale


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_refuses_what_is_not_real_floating_point(dtype):
    with pytest.raises(ShapeError, match=r"y has dtype .*y\.to\(torch\.get_default_dtype\(\)\)"):
        checks.check_floating("y", torch.ones(2, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (2, 3)])
def test_refuses_events(shape):
    with pytest.raises(ShapeError, match=r"y has shape .*the event shape \(3, 2\)"):
        checks.check_event("y", torch.ones(shape), torch.Size([3, 2]))


@pytest.mark.parametrize("batch", [(), (5,), (0,), (5, 1)])
@pytest.mark.parametrize("event", [(), (3,), (3, 2)])
def test_events_pass(batch, event):
    x = torch.ones(batch + event)
    assert checks.check_event("y", x, torch.Size(event)) is x


def test_what_is_not_finite_is_counted():
    x = torch.tensor([1.0, torch.nan, torch.inf])
    with pytest.raises(NonFiniteError, match=r"y holds 2 values .* among 3; remove or impute"):
        checks.check_finite("y", x)
    assert checks.check_finite("y", x[:1]).tolist() == [1.0]


def test_energies_need_an_event_shape():
    assert checks.check_event_shape(Plain()) == torch.Size([2])
    with pytest.raises(ModelError, match=r"f\.event_shape = torch\.Size\(\[2\]\)"):
        checks.check_event_shape(lambda x: x)


def test_data_get_one_batch_axis():
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(checks.check_data(Plain(), x), x.reshape(6, 2))
    assert checks.check_data(Plain(), x[0, 0]).shape == (1, 2)


def test_no_data_are_an_error():
    with pytest.raises(ShapeError, match=r"shape \(0, 2\), but at least one datum"):
        checks.check_data(Plain(), torch.ones(0, 2))


@pytest.mark.parametrize(
    "energy",
    [MLPEnergy(2).float(), GaussianEnergy.standard(2).float()],
    ids=["parameters", "buffers"],
)
def test_data_have_the_type_of_the_energy(energy):
    assert checks.check_data(energy, torch.ones(3, 2).float()).dtype == torch.float32
    advice = r"dtype torch\.float64.*torch\.float32: .*x\.to\(torch\.float32\) or energy\.to\(torch"
    with pytest.raises(ShapeError, match=advice):
        checks.check_data(energy, torch.ones(3, 2))


def test_integer_buffers_have_no_say_in_the_type():
    energy = nn.Module()
    energy.event_shape = torch.Size([2])
    energy.register_buffer("count", torch.zeros((), dtype=torch.int64))
    for dtype in (torch.float32, torch.float64):
        assert checks.check_data(energy, torch.ones(3, 2, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("came", "advice"),
    [((4, 1), r"\.squeeze\(-1\)"), ((), "not over the batch"), ((4, 2), "Sum over the event")],
)
def test_refuses_energies_of_the_wrong_shape(came, advice):
    with pytest.raises(ShapeError, match=rf"f returned shape .*\(4,\).*{advice}"):
        checks.check_energies(torch.ones(came), torch.Size([4]), "f")


def test_refuses_energies_of_the_wrong_type():
    with pytest.raises(ShapeError, match=r"output of f has dtype torch\.int64"):
        checks.check_energies(torch.ones(4, dtype=torch.int64), torch.Size([4]), "f")
    values = torch.ones(4)
    assert checks.check_energies(values, torch.Size([4]), "f") is values
