"""Kinds of guides: what is differentiated how, what is refused, and agreement with Pyro."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import AffineTransform, ExpTransform, planar
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalMessenger,
    AutoStructured,
)
from pyro.optim import Adam

from pyro_ebm.core.checks import ModelError
from pyro_ebm.estimators import LeaveOneOut, ReparameterizedELBO, ScoreFunctionELBO
from tests.estimators.outcomes import gradient

DATA = torch.tensor([[0.3, 1.0], [-0.4, 0.8], [0.1, 2.0]])


def hierarchical(data=DATA):
    centre = pyro.sample("centre", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    spread = pyro.sample("spread", dist.Gamma(2.0, 2.0))
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Normal(centre, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, spread.unsqueeze(-1)).to_event(1), obs=data)


def seeded(elbo, guide, parameters):
    pyro.set_rng_seed(7)
    return gradient(elbo, hierarchical, guide, parameters)


@pytest.mark.parametrize("build", [AutoNormal, AutoMultivariateNormal, AutoDelta, AutoStructured])
@pytest.mark.parametrize("vectorize", [True, False])
def test_pathwise_gradient_is_that_of_pyro(build, vectorize):
    guide = build(hierarchical)
    guide()
    parameters = list(guide.parameters())
    ours = ReparameterizedELBO(4, vectorize_particles=vectorize)
    theirs = Trace_ELBO(4, max_plate_nesting=1, vectorize_particles=vectorize)
    torch.testing.assert_close(seeded(ours, guide, parameters), seeded(theirs, guide, parameters))


def test_point_masses_get_their_exact_gradient_from_both():
    guide = AutoDelta(hierarchical)
    guide()
    parameters = list(guide.parameters())
    truth = seeded(Trace_ELBO(), guide, parameters)
    assert truth.abs().max() > 0.1
    for elbo in (ScoreFunctionELBO(), ScoreFunctionELBO(LeaveOneOut(), 3)):
        torch.testing.assert_close(seeded(elbo, guide, parameters), truth)


def test_point_masses_beside_draws():
    guide = AutoGuideList(hierarchical)
    guide.append(AutoDelta(pyro.poutine.block(hierarchical, expose=["spread"])))
    guide.append(AutoNormal(pyro.poutine.block(hierarchical, hide=["spread"])))
    guide()
    estimate = seeded(ScoreFunctionELBO(LeaveOneOut(), 3), guide, list(guide.parameters()))
    assert bool((estimate != 0).all())


@pytest.mark.parametrize("build", [AutoNormal, AutoMultivariateNormal, AutoNormalMessenger])
def test_score_function_takes_no_path(build):
    """A likelihood that is differentiable but whose derivative is a trap leaves no trace."""

    class Trap(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, slope):
            raise AssertionError("the pathwise derivative was taken")

    def model():
        z = pyro.sample("z", dist.Gamma(2.0, 2.0))
        pyro.sample("x", dist.Normal(Trap.apply(z), 1.0), obs=torch.tensor(0.5))

    guide = build(model)
    svi = SVI(model, guide, Adam({"lr": 0.01}), loss=ScoreFunctionELBO(LeaveOneOut(), 3))
    svi.step()
    with pytest.raises(AssertionError, match="pathwise"):
        SVI(model, guide, Adam({"lr": 0.01}), loss=ReparameterizedELBO(3)).step()


def test_no_path_inside_nested_distributions():
    """Expanded, independent, transformed and masked laws inside plates."""
    scale = torch.tensor(0.5, requires_grad=True)
    seen = []

    def model():
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(3), 1.0).to_event(1))
            seen.append(z)

    def guide():
        base = dist.Normal(torch.zeros(3), 1.0).expand([3]).to_event(1)
        law = dist.TransformedDistribution(base, [AffineTransform(0.0, scale), ExpTransform()])
        with pyro.plate("data", 2):
            pyro.sample("z", law.mask(torch.tensor([True, False])))

    estimate = gradient(ScoreFunctionELBO(num_particles=2), model, guide, [scale])
    assert all(not z.requires_grad for z in seen)
    assert estimate.abs().item() > 0


def test_score_of_a_flow_goes_through_its_inverse():
    """The density of a cached draw would forget that the base point moves with the flow."""
    guide = AutoIAFNormal(hierarchical, hidden_dim=[20])
    guide()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    flow = dict(guide.named_parameters())
    weight = next(value for name, value in flow.items() if "layers" in name and value.ndim == 2)
    pyro.set_rng_seed(3)
    model, traced = ScoreFunctionELBO()._get_trace(hierarchical, guide, (), {})
    latent = next(site for name, site in traced.nodes.items() if name.endswith("_latent"))
    value = latent["value"]
    slope = torch.autograd.grad(guide.get_posterior().log_prob(value), weight)[0]
    direction, step = slope / slope.norm(), 1e-6
    heights = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
            heights.append(guide.get_posterior().log_prob(value.clone()).item())
            weight.sub_(sign * step * direction)
    central = (heights[0] - heights[1]) / (2 * step)
    assert central == pytest.approx(slope.norm().item(), rel=1e-5)
    score = torch.autograd.grad(latent["fn"].log_prob(value), weight)[0]
    torch.testing.assert_close(score, slope)
    del model


@pytest.mark.parametrize("vectorize", [True, False])
def test_low_rank_guide_runs(vectorize):
    guide = AutoLowRankMultivariateNormal(hierarchical)
    elbo = ScoreFunctionELBO(LeaveOneOut(), 3, vectorize_particles=vectorize)
    SVI(hierarchical, guide, Adam({"lr": 0.01}), loss=elbo).step()


def test_draws_moved_by_learned_maps_are_refused():
    guide = AutoStructured(hierarchical)
    with pytest.raises(ModelError, match=r"'centre'.*ReparameterizedELBO"):
        ScoreFunctionELBO().differentiable_loss(hierarchical, guide)


def test_approval_of_one_guide_is_not_that_of_another():
    elbo = ScoreFunctionELBO()
    elbo.differentiable_loss(hierarchical, AutoDelta(hierarchical))
    with pytest.raises(ModelError, match="'centre'"):
        elbo.differentiable_loss(hierarchical, AutoStructured(hierarchical))


def test_draws_declared_outside_of_pyro_are_refused_or_scored():
    loc = torch.tensor(0.2, requires_grad=True)

    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide_with(has_rsample):
        def guide():
            law = dist.Normal(loc, 1.0)
            z = law.rsample() if has_rsample else law.sample()
            pyro.factor("log_q", law.log_prob(z), has_rsample=has_rsample)
            pyro.sample("z", dist.Delta(z))

        return guide

    with pytest.raises(ModelError, match="log_q"):
        ScoreFunctionELBO().differentiable_loss(model, guide_with(True))
    with pytest.raises(ModelError, match="log_q"):
        ReparameterizedELBO().differentiable_loss(model, guide_with(False))
    for elbo, has_rsample in ((ScoreFunctionELBO(), False), (ReparameterizedELBO(), True)):
        pyro.set_rng_seed(5)
        z = dist.Normal(loc, 1.0).sample()
        signal = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(loc, 1.0).log_prob(z)
        truth = -z if has_rsample else (signal * (z - loc)).detach()
        pyro.set_rng_seed(5)
        estimate = gradient(elbo, model, guide_with(has_rsample), [loc])
        torch.testing.assert_close(estimate, truth.reshape(1).detach())


def test_flow_without_inverse_is_refused_by_the_score_function():
    flow = planar(2)

    def model():
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide():
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    parameters = list(flow.parameters())
    assert gradient(ReparameterizedELBO(), model, guide, parameters).abs().max() > 0
    with pytest.raises(ModelError, match=r"'z'.*inverse"):
        gradient(ScoreFunctionELBO(), model, guide, parameters)
