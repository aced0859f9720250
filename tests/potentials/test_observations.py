"""Masked and missing data."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_ebm.potentials import ModelPotential
from pyro_ebm.potentials.observations import fill_masked


def imputed(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.LogNormal(loc, 0.5), obs=y, obs_mask=~y.isnan())


def imputed_rows(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        normal = dist.Normal(loc, 0.5).expand([2]).to_event(1)
        pyro.sample("y", normal, obs=y, obs_mask=~y.isnan().any(-1))


def masked_by_distribution(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 0.5).mask(~y.isnan()), obs=y)


@pytest.mark.parametrize(
    ("model", "holes", "fill"),
    [
        (imputed, torch.tensor([0.3, torch.nan, 2.0]), 1.7),
        (imputed_rows, torch.tensor([[0.3, 1.0], [torch.nan, 2.0]]), 1.7),
        (masked_by_distribution, torch.tensor([0.3, torch.nan, 2.0]), 1.7),
    ],
)
def test_masked_nan_takes_part_in_nothing(model, holes, fill):
    """The value and the gradient are those of the same mask over arbitrary numbers."""
    known = ~holes.isnan()
    potential = ModelPotential(model, holes)
    q = potential.initial(5)
    value, grad = potential.value_and_grad(q)
    filled = torch.where(known, holes, fill)
    rows = known if known.ndim == 1 else known.all(-1)
    law = dist.LogNormal if model is imputed else dist.Normal
    leaf = q[:, :1].clone().requires_grad_()
    data = filled[rows].reshape(1, -1)
    expected = -law(leaf, 0.5).log_prob(data).sum(-1) - dist.Normal(0.0, 1.0).log_prob(leaf[:, 0])
    if potential.dim > 1:
        # Predictions of every datum, known ones included, have the likelihood as their density.
        expected = expected - dist.Normal(leaf, 0.5).log_prob(q[:, 1:]).sum(-1)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad[:, :1], torch.autograd.grad(expected.sum(), leaf)[0])
    assert torch.isfinite(grad).all()


def test_support_of_data_may_depend_on_latent_values():
    def model(y):
        a = pyro.sample("a", dist.HalfNormal(10.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Uniform(torch.zeros(()), a), obs=y)

    potential = ModelPotential(model, torch.tensor([3.0, 5.0]))
    value = potential(torch.tensor([[1.0], [2.0]]))
    assert torch.isfinite(value).tolist() == [False, True]


def test_data_outside_the_support_may_be_masked():
    def model(y):
        rate = pyro.sample("rate", dist.HalfNormal(1.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=y > 0):
            pyro.sample("y", dist.Gamma(1.0, rate), obs=y)

    potential = ModelPotential(model, torch.tensor([2.0, -1.0]))
    q = torch.tensor([[0.3]])
    grad = potential.value_and_grad(q)[1]
    torch.testing.assert_close(grad, (2 * q).exp() + 2.0 * q.exp() - 2.0)


def test_model_itself_sees_the_missing_data():
    seen = []

    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 2), poutine.mask(mask=~y.isnan()):
            seen.append(pyro.sample("y", dist.Normal(loc, 0.5), obs=y))

    y = torch.tensor([1.0, torch.nan])
    ModelPotential(model, y)
    assert all(torch.equal(value.isnan(), y.isnan()) for value in seen)
    trace = poutine.trace(lambda: None).get_trace()
    fill_masked(trace)
    assert not [name for name in trace.nodes if name == "y"]
