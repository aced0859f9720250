"""Both estimators on Gaussian guides: exact by quadrature over the noise, then by sampling."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoMultivariateNormal,
    AutoNormal,
    init_to_value,
)

from pyro_ebm.estimators import LeaveOneOut, ReparameterizedELBO, ScoreFunctionELBO
from tests.estimators.outcomes import ForcedNoise, gradient, hermite, moments
from tests.statistics import Rejected, assert_mean

WEIGHT, NOISE_VARIANCE, DATUM = 1.3, 0.5, 0.9
MEAN, VARIANCE = 0.4, 0.3
PRECISION = 1 + WEIGHT**2 / NOISE_VARIANCE
ELBO = -1.5557513451


def linear_gaussian():
    """z ~ N(0, 1), x | z ~ N(w z, s^2), q = N(m, t^2), with parameters (m, log t, w)."""
    parameters = [
        torch.tensor(value, requires_grad=True) for value in (MEAN, math.log(VARIANCE) / 2, WEIGHT)
    ]
    mean, log_scale, weight = parameters

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(weight * z, NOISE_VARIANCE**0.5), obs=torch.tensor(DATUM))

    def guide():
        pyro.sample("z", dist.Normal(mean, log_scale.exp()))

    return model, guide, parameters


def over_noise(elbo, model, guide, parameters, dim=1, num_nodes=30):
    """Moments of the one-particle estimate, exact for integrands of degree below 60."""
    nodes, weights = hermite(num_nodes, dim)
    gradients = []
    for node in nodes:
        with ForcedNoise(node.squeeze(0) if dim == 1 else node):
            gradients.append(gradient(elbo, model, guide, parameters))
    return moments(weights, torch.stack(gradients))


def pathwise_by_hand(eps):
    z = MEAN + VARIANCE**0.5 * eps
    slope = WEIGHT * DATUM / NOISE_VARIANCE - PRECISION * z
    theta = (DATUM - WEIGHT * z) * z / NOISE_VARIANCE
    return torch.stack([slope, slope * VARIANCE**0.5 * eps + 1, theta], dim=-1)


def score_by_hand(eps):
    z = MEAN + VARIANCE**0.5 * eps
    log_joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(
        WEIGHT * z, NOISE_VARIANCE**0.5
    ).log_prob(torch.tensor(DATUM))
    signal = log_joint - dist.Normal(MEAN, VARIANCE**0.5).log_prob(z)
    theta = (DATUM - WEIGHT * z) * z / NOISE_VARIANCE
    return torch.stack([signal * eps / VARIANCE**0.5, signal * (eps.square() - 1), theta], dim=-1)


ESTIMATORS = [(ReparameterizedELBO, pathwise_by_hand), (ScoreFunctionELBO, score_by_hand)]


@pytest.mark.parametrize(("estimator", "by_hand"), ESTIMATORS)
def test_linear_gaussian_mean_and_variance(estimator, by_hand):
    """dELBO/dm = .588, dELBO/dlog t = -.314, and the theta-gradient -.476."""
    result = over_noise(estimator(), *linear_gaussian())
    torch.testing.assert_close(result.mean, torch.tensor([0.588, -0.314, -0.476]))
    nodes, weights = hermite(30)
    expected = moments(weights, by_hand(nodes.squeeze(-1)))
    torch.testing.assert_close(result.variance, expected.variance)


def test_pathwise_variances_in_closed_form():
    result = over_noise(ReparameterizedELBO(), *linear_gaussian())
    slope_at_mean = 0.588
    expected = [
        PRECISION**2 * VARIANCE,
        slope_at_mean**2 * VARIANCE + 2 * PRECISION**2 * VARIANCE**2,
    ]
    torch.testing.assert_close(result.variance[:2], torch.tensor(expected))


def test_value_is_minus_the_elbo():
    model, guide, _ = linear_gaussian()
    nodes, weights = hermite(30)
    for elbo in (ReparameterizedELBO(), ScoreFunctionELBO()):
        losses = []
        for node in nodes:
            with ForcedNoise(node.squeeze(0)):
                loss = elbo.loss(model, guide)
            with ForcedNoise(node.squeeze(0)):
                assert elbo.differentiable_loss(model, guide).item() == loss
            losses.append(loss)
        assert float(weights @ torch.tensor(losses)) == pytest.approx(-ELBO, abs=1e-9)


def test_score_function_vanishes_at_the_posterior_with_a_baseline():
    model, guide, parameters = linear_gaussian()
    with torch.no_grad():
        parameters[0].fill_(WEIGHT * DATUM / NOISE_VARIANCE / PRECISION)
        parameters[1].fill_(-0.5 * math.log(PRECISION))
    estimate = gradient(ScoreFunctionELBO(LeaveOneOut(), 4), model, guide, parameters)
    torch.testing.assert_close(estimate[:2], torch.zeros(2))


class WithoutEntropy(ScoreFunctionELBO):
    """The mutant: signals without the guide's own log density."""

    def _surrogate(self, particles):
        kept = [[term for term in part if term.role == "model"] for part in particles]
        draws = [term for part in particles for term in part if term.score is not None]
        signal = sum(term.cost.detach() for part in kept for term in part)
        return sum((signal * term.score).sum() for term in draws) + sum(
            term.cost.sum() for part in kept for term in part
        )


def sampled(elbo, num_estimates=250):
    model, guide, parameters = linear_gaussian()
    return torch.stack([gradient(elbo, model, guide, parameters) for _ in range(num_estimates)])


LINEAR_TRUTH = torch.tensor([0.588, -0.314, -0.476])


@pytest.mark.parametrize(
    "elbo",
    [
        ReparameterizedELBO(20),
        ScoreFunctionELBO(LeaveOneOut(), 20),
        ReparameterizedELBO(2, vectorize_particles=False),
        ScoreFunctionELBO(LeaveOneOut(), 2, vectorize_particles=False),
    ],
    ids=repr,
)
def test_sampled_gradients(elbo):
    assert_mean(sampled(elbo), LINEAR_TRUTH)


def test_sampled_gradients_reject_a_signal_without_entropy():
    with pytest.raises(Rejected):
        assert_mean(sampled(WithoutEntropy(num_particles=20)), LINEAR_TRUTH)


def test_sampled_gradients_reject_half_a_gradient():
    with pytest.raises(Rejected):
        assert_mean(sampled(ReparameterizedELBO(20)) / 2, LINEAR_TRUTH)


# --- automatic guides


def skewed_model(jump=0.0):
    """A positive and a real latent; ``jump`` adds a step that has no pathwise derivative."""
    s = pyro.sample("s", dist.Gamma(3.0, 2.0))
    z = pyro.sample("z", dist.Normal(0.5, 1.0))
    pyro.factor("joint", jump * (z > 0.1) - 0.3 * (z * s.log()))


def log_target(u, z):
    """The density of (log s, z), so with the Jacobian."""
    gamma = dist.Gamma(3.0, 2.0).log_prob(u.exp()) + u
    return gamma + dist.Normal(0.5, 1.0).log_prob(z) - 0.3 * z * u


def initialised(guide):
    """Leaf parameters of an automatic guide at a point without symmetries."""
    guide()
    parameters = list(guide.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    return parameters


def quadrature_truth(law, parameters):
    """Gradient of the smooth ELBO of a Gaussian guide ``law() -> (loc, scale_tril)``."""
    nodes, weights = hermite(40, 2)
    loc, scale_tril = law()
    draws = loc + nodes @ scale_tril.T
    log_q = dist.MultivariateNormal(loc, scale_tril=scale_tril).log_prob(draws)
    elbo = weights @ (log_target(*draws.T) - log_q)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(elbo, parameters)])


def normal_law(guide):
    def law():
        names = ("s", "z")
        loc = torch.stack([getattr(guide.locs, name) for name in names])
        return loc, torch.stack([getattr(guide.scales, name) for name in names]).diag()

    return law


def joint_law(guide):
    return lambda: (guide.loc, guide.scale.unsqueeze(-1) * guide.scale_tril)


AUTOGUIDES = [(AutoNormal, normal_law), (AutoMultivariateNormal, joint_law)]


@pytest.mark.parametrize("estimator", [ReparameterizedELBO, ScoreFunctionELBO])
def test_joint_guide_in_expectation(estimator):
    guide = AutoMultivariateNormal(skewed_model, init_scale=0.5)
    parameters = initialised(guide)
    result = over_noise(estimator(), skewed_model, guide, parameters, dim=2, num_nodes=14)
    truth = quadrature_truth(joint_law(guide), parameters)
    torch.testing.assert_close(result.mean, truth, atol=1e-7, rtol=1e-6)


def automatic_gradients(estimator, build, jump, num_estimates=50):
    guide = build(lambda: skewed_model(jump), init_scale=0.5)
    parameters = initialised(guide)
    elbo = estimator(num_particles=400)
    estimates = [
        gradient(elbo, lambda: skewed_model(jump), guide, parameters) for _ in range(num_estimates)
    ]
    return guide, parameters, torch.stack(estimates)


def step_truth(law, parameters, jump):
    """The smooth part, and the derivative of ``jump * P(z > 0.1)``."""
    loc, scale_tril = law()
    deviation = scale_tril[1].square().sum().sqrt()
    step = jump * dist.Normal(0.0, 1.0).cdf((loc[1] - 0.1) / deviation)
    slopes = torch.autograd.grad(step, parameters, allow_unused=True)
    flat = [
        torch.zeros(parameter.numel()) if slope is None else slope.reshape(-1)
        for slope, parameter in zip(slopes, parameters, strict=True)
    ]
    return quadrature_truth(law, parameters) + torch.cat(flat)


@pytest.mark.parametrize(("build", "law"), AUTOGUIDES)
def test_score_function_sees_a_step(build, law):
    guide, parameters, estimates = automatic_gradients(ScoreFunctionELBO, build, jump=2.0)
    truth = step_truth(law(guide), parameters, jump=2.0)
    assert (truth - quadrature_truth(law(guide), parameters)).abs().max() > 0.1
    assert_mean(estimates, truth)


@pytest.mark.parametrize(("build", "law"), AUTOGUIDES)
def test_pathwise_gradient_does_not_see_a_step(build, law):
    guide, parameters, estimates = automatic_gradients(ReparameterizedELBO, build, jump=2.0)
    assert_mean(estimates, quadrature_truth(law(guide), parameters))
    with pytest.raises(Rejected):
        assert_mean(estimates, step_truth(law(guide), parameters, jump=2.0))


def local_latents(size):
    def model():
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=torch.tensor([0.9, -2.0])[:size])

    return model


def test_local_latents_of_an_automatic_guide_are_charged_with_their_own_datum():
    results = []
    for size in (1, 2):
        pyro.clear_param_store()
        model = local_latents(size)
        guide = AutoNormal(
            model, init_scale=0.5, init_loc_fn=init_to_value(values={"z": torch.full((size,), 0.1)})
        )
        guide()
        parameters = list(guide.parameters())
        result = over_noise(ScoreFunctionELBO(), model, guide, parameters, dim=size, num_nodes=12)
        results.append([part.reshape(2, size)[:, 0] for part in result])
    torch.testing.assert_close(*results)
