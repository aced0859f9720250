"""Masked and missing data."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_ebm.core.checks import ModelError
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


def scaled(y, known):
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)), poutine.scale(scale=3.0):
        pyro.sample("y", dist.Normal(0.0, scale), obs=y, obs_mask=known)


def test_predictions_of_known_data_are_not_scaled():
    """They integrate to one, as the cube of a density would not: the scale keeps its law."""
    y, known = torch.tensor([0.5, -1.0, torch.nan]), torch.tensor([True, True, False])
    potential = ModelPotential(scaled, y, known)
    q = potential.initial(4)
    values = potential.constrain(q)
    law = dist.Normal(0.0, values["scale"][:, None])
    log_prob = law.log_prob(values["y_unobserved"])
    log_prob = log_prob[:, :2].sum(-1) + 3.0 * log_prob[:, 2] + 3.0 * law.log_prob(y[:2]).sum(-1)
    prior = dist.HalfNormal(1.0).log_prob(values["scale"]) + q[:, 0]  # with the Jacobian of exp
    torch.testing.assert_close(potential(q), -(log_prob + prior))


def test_a_mask_within_an_event_hides_nan():
    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        law = dist.Normal(loc, 1.0).expand(y.shape).mask(~y.isnan()).to_event(1)
        pyro.sample("y", law, obs=y)

    value, grad = ModelPotential(model, torch.tensor([1.0, torch.nan])).value_and_grad(
        torch.tensor([[0.0]])
    )
    assert value.isfinite()
    assert grad.tolist() == [[-1.0]]


def mixture(y, known):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    parts = dist.Normal(torch.stack([loc, loc + 1.0]), 1.0)
    law = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.5])), parts)
    with pyro.plate("data", len(y)), poutine.mask(mask=known):
        pyro.sample("y", law, obs=y)


def sphere(y, known):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("data", len(y)), poutine.mask(mask=known):
        pyro.sample("y", dist.ProjectedNormal(loc), obs=y)


@pytest.mark.parametrize(("model", "y"), [(mixture, torch.randn(3)), (sphere, torch.eye(3))])
def test_data_of_any_law_may_be_masked(model, y):
    known = torch.tensor([True, False, True])
    potential = ModelPotential(model, y, known)
    q = potential.initial(3)
    ours = potential.value_and_grad(q)
    without = ModelPotential(model, y[known], known[known]).value_and_grad(q)
    torch.testing.assert_close(ours, without)


@pytest.mark.parametrize("datum", [1.5, 2, [1.0]])
def test_data_that_are_no_tensors_are_refused(datum):
    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(loc, 1.0), obs=datum)

    with pytest.raises(ModelError, match=r"data of site 'y' are .*a tensor is wanted"):
        ModelPotential(model)


def test_there_may_be_no_data():
    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    value = ModelPotential(model, torch.empty(0))(torch.zeros(2, 1))
    assert value.tolist() == pytest.approx([0.9189385332] * 2)
