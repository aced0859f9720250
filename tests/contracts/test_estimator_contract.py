"""What every gradient estimator keeps; a class without a row here fails."""

import inspect
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO, SVI
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.optim import Adam

from pyro_ebm import estimators
from pyro_ebm.estimators import LeaveOneOut, NoBaseline, ReparameterizedELBO, ScoreFunctionELBO

ROWS = {
    ReparameterizedELBO: [
        ReparameterizedELBO,
        lambda: ReparameterizedELBO(3),
        lambda: ReparameterizedELBO(3, vectorize_particles=False),
    ],
    ScoreFunctionELBO: [
        ScoreFunctionELBO,
        lambda: ScoreFunctionELBO(NoBaseline(), 3),
        lambda: ScoreFunctionELBO(LeaveOneOut(), 3, max_plate_nesting=2),
        lambda: ScoreFunctionELBO(LeaveOneOut(), num_particles=3, vectorize_particles=False),
    ],
}
FOUND = [
    value
    for _, value in inspect.getmembers(estimators, inspect.isclass)
    if issubclass(value, ELBO) and not inspect.isabstract(value)
]
CASES = [pytest.param(build, id=repr(build())) for rows in ROWS.values() for build in rows]


def test_every_estimator_has_a_row():
    assert FOUND
    assert set(FOUND) == set(ROWS)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def data(request):
    return torch.tensor([[0.3, 1.0], [-0.4, 0.8], [0.1, 2.0]], dtype=request.param)


def model(data):
    centre = pyro.sample("centre", dist.Normal(data.new_zeros(2), 1.0).to_event(1))
    spread = pyro.sample("spread", dist.Gamma(data.new_tensor(2.0), 2.0))
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(centre, spread.unsqueeze(-1)).to_event(1), obs=data)


def gradients(elbo, guide, data, seed=1):
    pyro.set_rng_seed(seed)
    loss = elbo.differentiable_loss(model, guide, data)
    return loss, torch.autograd.grad(loss, list(guide.parameters()))


@pytest.mark.parametrize("build", CASES)
def test_loss_is_a_finite_scalar_of_the_data_type(build, data):
    guide = AutoNormal(model)
    guide(data)
    loss, slopes = gradients(build(), guide, data)
    assert loss.shape == ()
    assert loss.dtype == data.dtype
    assert bool(torch.isfinite(loss))
    assert all(slope.dtype == data.dtype and bool(slope.isfinite().all()) for slope in slopes)


@pytest.mark.parametrize("build", CASES)
def test_same_seed_same_gradient_from_the_first_call_on(build, data):
    guide = AutoMultivariateNormal(model)
    guide(data)
    elbo = build()
    first, second, other = (gradients(elbo, guide, data, seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first[0] != other[0]


@pytest.mark.parametrize("build", CASES)
def test_three_methods_agree(build, data):
    guide = AutoNormal(model)
    guide(data)
    elbo = build()
    loss, slopes = gradients(elbo, guide, data)
    pyro.set_rng_seed(1)
    assert elbo.loss(model, guide, data) == loss.item()
    pyro.set_rng_seed(1)
    assert elbo.loss_and_grads(model, guide, data) == loss.item()
    for parameter, slope in zip(guide.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope)


@pytest.mark.parametrize("build", CASES)
def test_works_in_svi_and_as_a_module(build, data):
    guide = AutoNormal(model)
    svi = SVI(model, guide, Adam({"lr": 0.01}), loss=build())
    assert math.isfinite(svi.step(data))
    assert math.isfinite(svi.evaluate_loss(data))


@pytest.mark.parametrize("build", CASES)
def test_one_estimator_serves_several_models(build, data):
    """The plates of the first model are not remembered for the second."""

    def flat():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def deep():
        with pyro.plate("a", 2, dim=-1), pyro.plate("b", 2, dim=-2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    elbo = build()
    for program in (flat, deep, flat):
        assert math.isfinite(elbo.loss(program, AutoNormal(program)))


@pytest.mark.parametrize("build", CASES)
def test_pickles_after_use(build, data):
    elbo = build()
    guide = AutoNormal(model)
    expected = gradients(elbo, guide(data) and guide, data)
    copy = pickle.loads(pickle.dumps(elbo))
    assert repr(copy) == repr(elbo)
    torch.testing.assert_close(gradients(copy, guide, data), expected)


def test_repr_tells_the_settings():
    assert repr(ReparameterizedELBO(3)) == "ReparameterizedELBO(num_particles=3)"
    elbo = ScoreFunctionELBO(LeaveOneOut(), 3, vectorize_particles=False, max_plate_nesting=2)
    assert repr(elbo) == (
        "ScoreFunctionELBO(baseline=LeaveOneOut(), num_particles=3, vectorize_particles=False, "
        "max_plate_nesting=2)"
    )


@pytest.mark.parametrize("build", CASES)
def test_no_parameter_store_entries_of_its_own(build, data):
    guide = AutoNormal(model)
    guide(data)
    before = set(pyro.get_param_store())
    gradients(build(), guide, data)
    assert set(pyro.get_param_store()) == before
