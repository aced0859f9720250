"""Discrete sites summed out: against brute force, and against Pyro where Pyro is right."""

from __future__ import annotations

import itertools
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from pyro.infer.autoguide.initialization import init_to_median, init_to_sample
from pyro.infer.mcmc.util import initialize_model

from pyro_ebm.kernels import MALA
from pyro_ebm.potentials import ModelPotential, as_potential_fn
from pyro_ebm.sampling import MCMC
from tests.enumerated_models import (
    BRUTE_FORCE_ONLY,
    EQUAL_TO_PYRO,
    PARALLEL,
    Y,
    hmm,
    latent_given_assignment,
    latent_given_switch,
    mixture,
    switch,
)
from tests.statistics import Rejected, assert_chain_means

every_model = pytest.mark.parametrize(
    ("model", "args"),
    EQUAL_TO_PYRO + BRUTE_FORCE_ONLY,
    ids=lambda item: getattr(item, "__name__", ""),
)


def all_values(site):
    """Every assignment of a discrete site, plates included."""
    support = site["fn"].enumerate_support(expand=False)
    support = support.reshape(support.shape[:1] + site["fn"].event_shape)
    batch = site["fn"].batch_shape
    for choice in itertools.product(range(len(support)), repeat=batch.numel()):
        yield support[list(choice)].reshape(batch + site["fn"].event_shape)


def brute_force(potential, model, args, q):
    """Minus the log of the sum of the joint density over every assignment, one by one."""
    transforms, unconstrained = potential.transforms(), potential.unflatten(q)
    values = {name: transforms[name](value) for name, value in unconstrained.items()}
    nodes = potential.prototype.nodes
    names = potential.enumerated_names
    terms = []
    for choice in itertools.product(*(list(all_values(nodes[name])) for name in names)):
        data = values | dict(zip(names, choice, strict=True))
        with pyro.validation_enabled(is_validate=False):
            trace = poutine.trace(poutine.condition(model, data)).get_trace(*args)
            terms.append(trace.log_prob_sum())
    jacobian = sum(
        transform.log_abs_det_jacobian(unconstrained[name], values[name]).sum()
        for name, transform in transforms.items()
    )
    return -(torch.stack(terms).logsumexp(0) + jacobian)


@every_model
def test_equals_brute_force(model, args):
    potential = ModelPotential(model, *args)
    q = potential.initial(2)
    value, grad = potential.value_and_grad(q)
    leaf = q.clone().requires_grad_()
    torch.testing.assert_close(potential(leaf), value)
    torch.testing.assert_close(torch.autograd.grad(potential(leaf).sum(), leaf)[0], grad)
    truth = torch.stack([brute_force(potential, model, args, position) for position in leaf])
    torch.testing.assert_close(value, truth.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(truth.sum(), leaf)[0])


@pytest.mark.parametrize(
    ("model", "args"), EQUAL_TO_PYRO, ids=lambda item: getattr(item, "__name__", "")
)
def test_equals_pyro(model, args):
    potential = ModelPotential(model, *args)
    q = potential.initial(5)
    value, grad = potential.value_and_grad(q)
    _, potential_fn, _, _ = initialize_model(model, args, max_plate_nesting=2)
    for position, one, gradient in zip(q, value, grad, strict=True):
        leaf = position.clone().requires_grad_()
        theirs = potential_fn(potential.unflatten(leaf))
        torch.testing.assert_close(one, theirs.detach())
        torch.testing.assert_close(gradient, torch.autograd.grad(theirs, leaf)[0])


def two_wide_steps(y):
    """Each value of ``k`` is all but impossible under one of the two data."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    k = pyro.sample("k", dist.Bernoulli(0.5), infer=PARALLEL)
    far = torch.stack([loc, loc + 100.0])[k.long()]
    pyro.sample("left", dist.Normal(far, 1.0), obs=y[0])
    pyro.sample("right", dist.Normal(far, 1.0), obs=y[1] + 100.0)


def test_nothing_underflows():
    """Pyro's sum in linear space loses both values and is infinite here."""
    potential = ModelPotential(two_wide_steps, Y)
    q = torch.tensor([[0.3]])
    value, grad = potential.value_and_grad(q)
    leaf = q[0].clone().requires_grad_()
    truth = brute_force(potential, two_wide_steps, (Y,), leaf)
    torch.testing.assert_close(value[0], truth.detach())
    torch.testing.assert_close(grad[0], torch.autograd.grad(truth, leaf)[0])
    given = {"loc": q[0, 0]}
    _, theirs, _, _ = initialize_model(
        two_wide_steps, (Y,), max_plate_nesting=0, initial_params=given
    )
    assert theirs(given) == torch.inf


def impossible_regime(y, *, is_possible=True):
    """All assignments are impossible in the first regime."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    regime = pyro.sample("regime", dist.Bernoulli(0.5), infer=PARALLEL)
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
        allowed = (regime == 1) & torch.tensor(is_possible) & (k > -1)
        pyro.factor("rule", torch.where(allowed, 0.0, -torch.inf))
        pyro.sample("y", dist.Normal(loc * k, 1.0), obs=y)


def test_impossible_values_leave_the_gradient_finite():
    potential = ModelPotential(impossible_regime, Y)
    q = potential.initial(3).requires_grad_()
    value, grad = potential.value_and_grad(q)
    truth = torch.stack([brute_force(potential, impossible_regime, (Y,), row) for row in q])
    torch.testing.assert_close(value, truth.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(potential(q).sum(), q)[0])
    assert torch.isfinite(grad).all()


def test_what_is_impossible_is_infinite_and_named():
    potential = ModelPotential(impossible_regime, Y, is_possible=False)
    value, _ = potential.value_and_grad(torch.zeros(2, 1))
    assert (value == torch.inf).all()
    assert "'rule' is -inf" in potential.explain_nonfinite(torch.zeros(1))

    def contradiction():
        pyro.sample("loc", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", dist.Bernoulli(0.5), infer=PARALLEL)
        pyro.factor("one", torch.where(k == 1, 0.0, -torch.inf))
        pyro.factor("zero", torch.where(k == 0, 0.0, -torch.inf))

    explanation = ModelPotential(contradiction).explain_nonfinite(torch.zeros(1))
    assert explanation == "no values of the discrete sites ['k'] are possible"


def imputed(y):
    chance = pyro.sample("chance", dist.Beta(2.0, 3.0))
    with pyro.plate("data", len(y)):
        seen = torch.tensor([True, False, True, False])
        flag = pyro.sample("flag", dist.Bernoulli(chance), obs=(y > 0).double(), obs_mask=seen)
        pyro.sample("y", dist.Normal(flag, 1.0), obs=y)


def test_missing_discrete_data_are_summed_out():
    """With ``obs_mask`` Pyro loses the ``infer`` of a site, so the whole model is configured."""
    potential = ModelPotential(config_enumerate(imputed), Y)
    q = potential.initial(5)
    chance, flags = q.sigmoid(), torch.tensor([0.0, 1.0])
    laws = dist.Bernoulli(chance.unsqueeze(-1)).log_prob(flags)
    both = laws + dist.Normal(flags, 1.0).log_prob(Y.unsqueeze(-1))
    seen = both[:, [0, 2], [int(Y[0] > 0), int(Y[2] > 0)]].sum(-1)
    missing = both[:, [1, 3]].logsumexp(-1).sum(-1)
    prior = dist.Beta(2.0, 3.0).log_prob(chance) + (chance * (1 - chance)).log()
    torch.testing.assert_close(potential(q), -(seen + missing + prior.squeeze(-1)))


def with_item(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
    pyro.factor("f", 0.0 * torch.tensor(loc.item()))
    pyro.sample("y", dist.Normal(loc + k, 1.0), obs=y[0])


def test_models_that_cannot_be_batched_are_looped():
    potential = ModelPotential(with_item, Y)
    q = potential.initial(3).requires_grad_()
    with pytest.warns(UserWarning, match="cannot be batched"):
        value, grad = potential.value_and_grad(q)
    truth = torch.stack([brute_force(potential, with_item, (Y,), row) for row in q])
    torch.testing.assert_close(value, truth.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(truth.sum(), q)[0])


def test_single_precision():
    values = []
    for dtype in (torch.float32, torch.float64):
        y = torch.linspace(-3.0, 3.0, 7, dtype=dtype)
        loc = torch.zeros(3, dtype=dtype)

        def model(y=y, loc=loc):
            locs = pyro.sample("locs", dist.Normal(loc, 20.0).to_event(1))
            with pyro.plate("data", len(y)):
                k = pyro.sample("k", dist.Categorical(torch.ones_like(loc)), infer=PARALLEL)
                pyro.sample("y", dist.Normal(locs[k], 1.0), obs=y)

        potential = ModelPotential(model)
        assert potential.dtype == dtype
        values.append(potential.value_and_grad(torch.tensor([[0.0, 200.0, -20.0]], dtype=dtype)))
    for single, double in zip(*values, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-4)


def recording(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.deterministic("shifted", loc + 1.0)
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
        mean = pyro.deterministic("mean", loc * k)
        pyro.deterministic("ones", k.sum())
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_draws_hold_what_depends_on_no_discrete_site():
    potential = ModelPotential(recording, Y)
    assert potential.enumerated_names == ["k"]
    assert potential.deterministic_names == ["shifted"]
    q = potential.initial(5)
    sites = potential.constrain(q)
    assert set(sites) == {"loc", "shifted"}
    torch.testing.assert_close(sites["shifted"], sites["loc"] + 1.0)
    torch.testing.assert_close(potential.unconstrain({"loc": sites["loc"]}), q)
    value, _ = potential.value_and_grad(q)
    truth = [brute_force(potential, recording, (Y,), row) for row in q]
    torch.testing.assert_close(value, torch.stack(truth))


@pytest.mark.parametrize("strategy", [init_to_sample, init_to_median])
@pytest.mark.parametrize("model", [latent_given_assignment, mixture, recording])
def test_starting_strategies(model, strategy):
    potential = ModelPotential(model, Y)
    q = potential.initial_from(strategy, 3, torch.Generator().manual_seed(0))
    assert q.shape == (3, potential.dim)
    assert torch.isfinite(potential(q)).all()


def test_starts_follow_drawn_discrete_sites():
    def model():
        k = pyro.sample("k", dist.Bernoulli(0.5), infer=PARALLEL)
        pyro.sample("z", dist.Normal(1000.0 * k, 1.0))

    q = ModelPotential(model).initial_from(init_to_sample, 50, torch.Generator().manual_seed(0))
    assert 5 < (q > 500.0).sum() < 45


def test_pickles():
    potential = ModelPotential(mixture, Y)
    q = potential.initial(3)
    again = pickle.loads(pickle.dumps(potential))
    assert torch.equal(again(q), potential(q))


def test_discrete_values_of_given_draws():
    """What the docstring promises: ``infer_discrete`` on the drawn sites."""
    y = torch.tensor([-10.0, 10.0, 9.0])
    potential = ModelPotential(mixture, y)
    values = {
        "weights": torch.full((3,), 1 / 3),
        "locs": torch.tensor([-10.0, 10.0, 0.0]),
        "scale": torch.tensor(0.5),
    }
    model = infer_discrete(poutine.condition(mixture, values), first_available_dim=-2)
    assert set(values) == set(potential.constrain(potential.initial(1)))
    assert poutine.trace(model).get_trace(y).nodes["k"]["value"].tolist() == [0, 1, 1]


def moments_of_switch(chance):
    """Of ``loc`` and its square, by quadrature."""
    loc = torch.linspace(-8.0, 8.0, 4001).unsqueeze(-1)
    terms = [
        dist.Bernoulli(torch.tensor(chance)).log_prob(torch.tensor(rough))
        + dist.Normal(loc, 0.5 + rough).log_prob(Y).sum(-1)
        for rough in (0.0, 1.0)
    ]
    joint = torch.stack(terms).logsumexp(0) + dist.Normal(0.0, 1.0).log_prob(loc).squeeze(-1)
    weights = joint.softmax(0)
    return torch.stack([weights @ loc.squeeze(-1), weights @ loc.squeeze(-1).square()])


def test_draws_follow_the_marginal():
    mcmc = MCMC(MALA(switch), num_samples=150, warmup_steps=150, num_chains=64)
    mcmc.run(Y)
    loc = mcmc.get_samples(group_by_chain=True)["loc"]
    draws = torch.stack([loc, loc.square()], dim=-1)
    assert_chain_means(draws, moments_of_switch(0.3))
    with pytest.raises(Rejected):
        assert_chain_means(draws, moments_of_switch(1e-9))


def test_pyros_own_kernels_can_have_it():
    start = as_potential_fn(hmm, 1, Y)
    assert set(start.initial_params) == {"transition", "locs"}
    assert torch.isfinite(start.potential_fn(start.initial_params))


def test_a_latent_value_is_one_for_all_discrete_ones():
    """In Pyro's potential it is one for each."""
    potential = ModelPotential(latent_given_switch, Y)
    theirs, _, _, _ = initialize_model(latent_given_switch, (Y,), max_plate_nesting=0)
    assert (potential.dim, theirs["z"].numel()) == (1, 2)
