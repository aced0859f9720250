"""Model potentials against Pyro's own, and against quadrature where Pyro is wrong."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from torch.distributions import constraints

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials import ModelPotential
from tests.models import all_models

LOOPED = {
    "ordered": "inplace arithmetic",  # pyro's OrderedLogistic
    "discrete_hmm": "setup_context",  # pyro's safe_log
}
ROWS = all_models()
BATCHED_ROWS = [row for row in ROWS if row.name not in LOOPED]
every_model = pytest.mark.parametrize("row", BATCHED_ROWS, ids=lambda row: row.name)


def potential_of(row):
    return ModelPotential(row.model, *row.args, **row.kwargs)


def pyros_values(row, potential, q):
    """Values, gradients and constrained sites as ``pyro.infer.NUTS`` has them, row after row."""
    _, potential_fn, transforms, _ = initialize_model(row.model, row.args, row.kwargs)
    values, grads, sites = [], [], []
    for position in q:
        leaf = position.clone().requires_grad_()
        value = potential_fn(potential.unflatten(leaf))
        values.append(value.detach())
        grads.append(torch.autograd.grad(value, leaf)[0])
        unconstrained = potential.unflatten(position)
        sites.append({name: transforms[name].inv(unconstrained[name]) for name in transforms})
    named = {name: torch.stack([site[name] for site in sites]) for name in transforms}
    return torch.stack(values), torch.stack(grads), named


def assert_equals_pyro(row):
    potential = potential_of(row)
    q = potential.initial(7)
    values, grads, sites = pyros_values(row, potential, q)
    value, grad = potential.value_and_grad(q)
    torch.testing.assert_close(value, values)
    torch.testing.assert_close(grad, grads, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(potential(q), values)
    constrained = potential.constrain(q)
    for name, expected in sites.items():
        torch.testing.assert_close(constrained[name], expected)


@every_model
def test_equals_pyro(row):
    assert_equals_pyro(row)


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in LOOPED], ids=lambda r: r.name)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_equals_pyro_in_a_loop(row):
    with pytest.warns(UserWarning, match=LOOPED[row.name]):
        assert_equals_pyro(row)


@every_model
def test_round_trips(row):
    potential = potential_of(row)
    nodes = potential.prototype.nodes
    for chains in [(), (3,), (2, 4)]:
        q = potential.initial(torch.Size(chains).numel()).reshape(*chains, -1)
        sites = potential.constrain(q)
        assert all(value.shape == chains + nodes[k]["value"].shape for k, value in sites.items())
        latent = {site.name: sites[site.name] for site in potential.sites}
        torch.testing.assert_close(potential.unconstrain(latent), q)
        assert torch.equal(potential.flatten(potential.unflatten(q)), q)


def test_deterministic_sites_come_with_the_draws():
    (row,) = [row for row in ROWS if row.name == "deterministic"]
    potential = potential_of(row)
    sites = potential.constrain(potential.initial(5))
    assert potential.deterministic_names == ["scale", "shifted"]
    torch.testing.assert_close(sites["scale"], sites["log_scale"].exp())
    torch.testing.assert_close(sites["shifted"], sites["loc"] + sites["scale"].unsqueeze(-1))


def test_improper_prior_has_no_density_of_its_own():
    def model():
        x = pyro.sample("x", dist.ImproperUniform(constraints.positive, (), (2,)))
        pyro.factor("rate", -3.0 * x.sum())

    potential = ModelPotential(model)
    q = potential.initial(7)
    value, grad = potential.value_and_grad(q)
    torch.testing.assert_close(value, (3.0 * q.exp() - q).sum(-1))
    torch.testing.assert_close(grad, 3.0 * q.exp() - 1.0)


def test_wishart_prior():
    """Pyro has no bijection to positive definite matrices; ours is checked by its density."""

    def model(x):
        matrix = pyro.sample("matrix", dist.Wishart(torch.tensor(4.0), torch.eye(2) + 0.3))
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.MultivariateNormal(mean, matrix), obs=x)

    x = torch.tensor([0.3, -1.0])
    potential = ModelPotential(model, x)
    q = potential.initial(7)
    sites = potential.constrain(q)
    assert potential.dim == 5
    joint = dist.Wishart(torch.tensor(4.0), torch.eye(2) + 0.3).log_prob(sites["matrix"])
    joint = joint + dist.Normal(0.0, 1.0).log_prob(sites["mean"]).sum(-1)
    joint = joint + dist.MultivariateNormal(sites["mean"], sites["matrix"]).log_prob(x)
    rows, columns = torch.tril_indices(2, 2)
    jacobians = torch.func.vmap(
        torch.func.jacrev(lambda q: potential.transforms()["matrix"](q[:3])[rows, columns])
    )(q)[..., :3]
    torch.testing.assert_close(potential(q), -joint - torch.linalg.slogdet(jacobians).logabsdet)
    torch.testing.assert_close(potential.unconstrain(sites), q)


OBSERVED, NOISE = torch.tensor(1.5), 0.7


def support_of_a_latent_value():
    a = pyro.sample("a", dist.Gamma(3.0, 1.0))
    b = pyro.sample("b", dist.Uniform(torch.zeros(()), a))
    pyro.sample("y", dist.Normal(b, NOISE), obs=OBSERVED)


def true_moments():
    """E[a], E[b] and the evidence by quadrature over ``a`` and ``b / a``."""
    a = torch.linspace(-12.0, 4.5, 2001).exp().unsqueeze(-1)
    share = (torch.arange(2000) + 0.5) / 2000
    joint = dist.Gamma(3.0, 1.0).log_prob(a) + a.log() + torch.tensor(16.5 / 2000).log()
    weights = (joint + dist.Normal(a * share, NOISE).log_prob(OBSERVED)).exp() / 2000
    evidence = weights.sum()
    moments = torch.stack([(weights * a).sum(), (weights * a * share).sum()])
    return torch.cat([moments / evidence, evidence.reshape(1)])


def moments_of(potential_of_grid, constrain):
    qa, qb = torch.linspace(-12.0, 4.5, 401), torch.linspace(-32.0, 32.0, 641)
    grid = torch.cartesian_prod(qa, qb)
    weights = torch.exp(-potential_of_grid(grid)) * (qa[1] - qa[0]) * (qb[1] - qb[0])
    sites = constrain(grid)
    moments = torch.stack([(weights * sites[name]).sum() for name in ("a", "b")])
    return torch.cat([moments / weights.sum(), weights.sum().reshape(1)])


def test_support_that_depends_on_a_latent_value():
    potential = ModelPotential(support_of_a_latent_value)
    moments = moments_of(potential, potential.constrain)
    torch.testing.assert_close(moments, true_moments(), rtol=1e-6, atol=0.0)
    q = potential.initial(50)
    back = potential.unconstrain(potential.constrain(q))
    torch.testing.assert_close(back, q)
    with pytest.raises(ModelError, match=r"support of .* depends on a latent value"):
        potential.transforms()


@pytest.mark.parametrize("frozen_at", [0.5, 2.0, 10.0])
def test_frozen_transform_is_a_mutant_that_quadrature_rejects(frozen_at):
    """Pyro's own potential: the transform of whatever value the first trace had."""

    def constrain(grid):
        return {"a": grid[:, 0].exp(), "b": frozen_at * grid[:, 1].sigmoid()}

    def frozen(grid):
        sites = constrain(grid)
        a, b = sites["a"], sites["b"]
        joint = (
            dist.Gamma(3.0, 1.0).log_prob(a) - a.log() + dist.Normal(b, NOISE).log_prob(OBSERVED)
        )
        sigmoid = grid[:, 1].sigmoid()
        return -(joint + grid[:, 0] + (frozen_at * sigmoid * (1 - sigmoid)).log())

    error = moments_of(frozen, constrain) - true_moments()
    assert error.abs().max() > 0.05


def test_jacobian_keeps_densities_normalised():
    """Without data ``exp(-U)`` of proper priors integrates to one."""

    def model():
        pyro.sample("gamma", dist.Gamma(3.0, 1.0))
        pyro.sample("beta", dist.Beta(2.0, 3.0))

    grid = torch.cartesian_prod(torch.linspace(-14.0, 5.0, 201), torch.linspace(-20.0, 15.0, 201))
    weights = torch.exp(-ModelPotential(model)(grid)) * (19.0 / 200) * (35.0 / 200)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_plates_of_two_sizes_and_scales_add_up():
    def model(x, y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=10.0), pyro.plate("first", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        with pyro.plate("second", len(y)):
            pyro.sample("y", dist.Normal(z, 2.0), obs=y)

    x, y, q = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.5, -1.0]), torch.tensor([[0.3], [2.0]])
    _, grad = ModelPotential(model, x, y).value_and_grad(q)
    torch.testing.assert_close(grad, q + 10 * (q - x).sum(-1, True) + (q - y).sum(-1, True) / 4)
