"""The score-function estimator on discrete latents, by exact enumeration."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ebm.estimators import LeaveOneOut, NoBaseline, ScoreFunctionELBO
from tests.estimators.outcomes import (
    ForcedDraws,
    Structure,
    estimator_moments,
    exact_gradient,
    gradient,
    moments,
)


class SelfIncludingMean:
    """The mutant: each particle is also in its own baseline."""

    minimum_particles = 1

    def __call__(self, signals):
        return signals.mean(dim=0, keepdim=True)


LOG_JOINT = torch.tensor([1.2, -0.4, 0.7, 2.0])


def four_states(phi):
    """A categorical latent with ``log p(x, z) = LOG_JOINT[z]``."""

    def model():
        z = pyro.sample("z", dist.Categorical(torch.ones(4)))
        pyro.factor("joint", LOG_JOINT[z] + torch.log(torch.tensor(4.0)))

    def guide():
        pyro.sample("z", dist.Categorical(logits=phi))

    return model, guide


def four_state_moments(elbo, phi):
    model, guide = four_states(phi)
    probabilities = phi.detach().softmax(0)
    weights, gradients = [], []
    for outcome in itertools.product(range(4), repeat=elbo.num_particles):
        states = torch.tensor(outcome)
        weights.append(probabilities[states].prod())
        with ForcedDraws({"z": [states if len(states) > 1 else states[0]]}):
            gradients.append(gradient(elbo, model, guide, [phi]))
    return moments(torch.stack(weights), torch.stack(gradients))


@pytest.fixture
def phi():
    return torch.tensor([0.3, -0.8, 1.1, 0.2], requires_grad=True)


def four_state_truth(phi):
    log_q = phi.log_softmax(0)
    return torch.autograd.grad((log_q.exp() * (LOG_JOINT - log_q)).sum(), phi)[0]


@pytest.mark.parametrize(
    ("baseline", "num_particles"),
    [(NoBaseline(), 1), (NoBaseline(), 2), (LeaveOneOut(), 2), (LeaveOneOut(), 3)],
)
def test_four_states_unbiased(phi, baseline, num_particles):
    elbo = ScoreFunctionELBO(baseline, num_particles, max_plate_nesting=0)
    torch.testing.assert_close(four_state_moments(elbo, phi).mean, four_state_truth(phi))


def test_four_states_variance_of_the_plain_estimator(phi):
    """Coordinate variances of seed 001's formula: [1.17, 0.34, 1.23, 1.71]."""
    elbo = ScoreFunctionELBO(max_plate_nesting=0)
    torch.testing.assert_close(
        four_state_moments(elbo, phi).variance,
        torch.tensor([1.17, 0.34, 1.23, 1.71]),
        atol=5e-3,
        rtol=0,
    )
    halved = four_state_moments(ScoreFunctionELBO(num_particles=2, max_plate_nesting=0), phi)
    torch.testing.assert_close(halved.variance, four_state_moments(elbo, phi).variance / 2)


@pytest.mark.parametrize("num_particles", [2, 3])
def test_four_states_self_including_mean_shrinks_the_gradient(phi, num_particles):
    elbo = ScoreFunctionELBO(SelfIncludingMean(), num_particles, max_plate_nesting=0)
    ratio = four_state_moments(elbo, phi).mean / four_state_truth(phi)
    torch.testing.assert_close(ratio, torch.full((4,), (num_particles - 1) / num_particles))


def test_gradient_vanishes_draw_by_draw_at_the_posterior():
    """With a baseline and no noise from the derivative of log q: exactly zero."""
    phi = LOG_JOINT.clone().requires_grad_()
    result = four_state_moments(ScoreFunctionELBO(LeaveOneOut(), 2, max_plate_nesting=0), phi)
    torch.testing.assert_close(result.mean, torch.zeros(4))
    torch.testing.assert_close(result.variance, torch.zeros(4))


TARGETS = torch.tensor([0.6, 0.51, 0.48])


def three_bits():
    """``E_q[sum_i (b_i - p_i)^2]`` with one logit shared by three bits."""
    phi = torch.zeros((), requires_grad=True)

    def model():
        bits = pyro.sample("b", dist.Bernoulli(0.5 * torch.ones(3)).to_event(1))
        pyro.factor("f", (bits - TARGETS).square().sum(-1))

    def guide():
        pyro.sample("b", dist.Bernoulli(logits=phi.expand(3)).to_event(1))

    return Structure(model, guide, [phi], {"b": (3,)})


@pytest.mark.parametrize(
    ("baseline", "num_particles", "variance"),
    [(NoBaseline(), 1, 0.4384), (NoBaseline(), 2, 0.2192), (LeaveOneOut(), 2, 0.00728)],
)
def test_three_bits(baseline, num_particles, variance):
    elbo = ScoreFunctionELBO(
        baseline, num_particles, max_plate_nesting=0, vectorize_particles=False
    )
    result = estimator_moments(elbo, three_bits())
    torch.testing.assert_close(result.mean, torch.tensor([-0.0450]))
    torch.testing.assert_close(
        result.variance, torch.tensor([variance]), atol=6e-5 if variance > 0.1 else 6e-6, rtol=0
    )
    torch.testing.assert_close(result.mean, exact_gradient(three_bits()))


def test_three_bits_vectorised_is_the_same_estimator():
    structure = three_bits()
    phi = structure.parameters[0]
    outcomes = [torch.tensor(bits) for bits in itertools.product([0.0, 1.0], repeat=3)]
    vectorised = ScoreFunctionELBO(LeaveOneOut(), 2, max_plate_nesting=0)
    sequential = ScoreFunctionELBO(LeaveOneOut(), 2, vectorize_particles=False)
    for first, second in itertools.product(outcomes, repeat=2):
        with ForcedDraws({"b": [torch.stack([first, second])]}):
            together = gradient(vectorised, structure.model, structure.guide, [phi])
        with ForcedDraws({"b": [first, second]}):
            one_by_one = gradient(sequential, structure.model, structure.guide, [phi])
        torch.testing.assert_close(together, one_by_one)
