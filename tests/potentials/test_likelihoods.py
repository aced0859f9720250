"""Bernoulli likelihoods by softplus: the same numbers and slopes, in fewer operations."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_ebm import ModelPotential
from pyro_ebm.potentials.likelihoods import BERNOULLI_BY_SOFTPLUS
from pyro_ebm.potentials.replacing import Replacing
from tests.operations import OperationLog

LOGITS = torch.tensor([-1e4, -60.0, -39.0, -3.0, -1e-8, 0.0, 1e-8, 3.0, 39.0, 60.0, 1e4])


def loss_and_slopes(logits, outcome, **options):
    logits, outcome = logits.clone().requires_grad_(), outcome.clone().requires_grad_()
    loss = binary_cross_entropy_with_logits(logits, outcome, reduction="none", **options)
    return loss, *torch.autograd.grad(loss.sum(), (logits, outcome))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_it_is_the_log_of_the_probability(outcome, dtype):
    """Relatively: nothing is lost of small numbers."""
    with Replacing(BERNOULLI_BY_SOFTPLUS):
        loss, slope, _ = loss_and_slopes(LOGITS.to(dtype), torch.full((11,), outcome, dtype=dtype))
    signed = [float(x) * (1 - 2 * outcome) for x in LOGITS.to(dtype)]
    exact = [max(x, 0.0) + math.log1p(math.exp(-abs(x))) for x in signed]
    probabilities = [math.exp(min(x, 0.0)) / (1 + math.exp(-abs(x))) for x in signed]
    rtol = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss, torch.tensor(exact, dtype=dtype), rtol=rtol, atol=0.0)
    slopes = (1 - 2 * outcome) * torch.tensor(probabilities, dtype=dtype)
    torch.testing.assert_close(slope, slopes, rtol=rtol, atol=torch.finfo(dtype).tiny)


@pytest.mark.parametrize("outcome", [0.0, 0.2, 0.5, 0.9, 1.0, math.nan])
def test_it_is_what_torch_computes(outcome):
    """For outcomes between 0 and 1, too, with slopes in both, and NaN where there is nothing."""
    outcomes = torch.full_like(LOGITS, outcome)
    with Replacing(BERNOULLI_BY_SOFTPLUS):
        ours = loss_and_slopes(LOGITS, outcomes)
    for found, wanted in zip(ours, loss_and_slopes(LOGITS, outcomes), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("option", ["weight", "pos_weight"])
def test_weighted_losses_are_left_alone(option):
    options = {option: torch.full_like(LOGITS, 3.0)}
    outcomes = torch.full_like(LOGITS, 0.3)
    with Replacing(BERNOULLI_BY_SOFTPLUS):
        ours = loss_and_slopes(LOGITS, outcomes, **options)
    for found, wanted in zip(ours, loss_and_slopes(LOGITS, outcomes, **options), strict=True):
        assert torch.equal(found, wanted)


def test_means_are_left_alone():
    with Replacing(BERNOULLI_BY_SOFTPLUS):
        ours = binary_cross_entropy_with_logits(LOGITS, torch.ones_like(LOGITS))
    assert torch.equal(ours, binary_cross_entropy_with_logits(LOGITS, torch.ones_like(LOGITS)))


def test_shapes_that_do_not_fit_are_the_error_of_torch():
    with (
        Replacing(BERNOULLI_BY_SOFTPLUS),
        pytest.raises(ValueError, match="must be the same as input size"),
    ):
        binary_cross_entropy_with_logits(LOGITS, torch.ones(1), reduction="none")


def test_models_are_written_with_it():
    """One operation each way for all data, where torch has two exponentials and a logarithm."""

    def model(x, y):
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ weight), obs=y)

    x, y = torch.randn(40, 3), (torch.rand(40) < 0.5).double()
    potential, q = ModelPotential(model, x, y), torch.randn(5, 3, requires_grad=True)
    value, grad = potential.value_and_grad(q.detach())
    logits = q @ x.mT
    truth = 0.5 * q.square().sum(-1) + 1.5 * math.log(2 * math.pi)
    truth = truth - torch.distributions.Bernoulli(logits=logits).log_prob(y).sum(-1)
    torch.testing.assert_close(value, truth.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(truth.sum(), q)[0])
    with OperationLog() as recorder:
        potential.value_and_grad(q.detach())
    assert sum("softplus" in name for name in recorder.names) == 2
    assert not {"exp", "exp_", "log", "log_", "log1p"} & set(recorder.names)
