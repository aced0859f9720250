"""Bad input: each gives a named error that says what came and what to do."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import SGD

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.estimators import LeaveOneOut, ReparameterizedELBO, ScoreFunctionELBO

BOTH = [ReparameterizedELBO(), ScoreFunctionELBO()]


def normal_guide():
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 1.0))


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "4"])
@pytest.mark.parametrize("estimator", [ReparameterizedELBO, ScoreFunctionELBO])
def test_number_of_particles(estimator, count):
    with pytest.raises(ValueError, match="num_particles="):
        estimator(num_particles=count)


def test_leave_one_out_needs_two_particles():
    with pytest.raises(ValueError, match=r"LeaveOneOut\(\) needs num_particles of at least 2"):
        ScoreFunctionELBO(LeaveOneOut())


@pytest.mark.parametrize(
    "law",
    [dist.Bernoulli(0.5), dist.Normal(0.0, 1.0).has_rsample_(False)],
    ids=["discrete", "declared"],
)
def test_pathwise_needs_reparameterised_draws(law):
    def program():
        pyro.sample("z", law)

    with pytest.raises(ModelError, match=r"'z'.*ScoreFunctionELBO"):
        ReparameterizedELBO().loss(program, program)


@pytest.mark.parametrize("elbo", BOTH)
@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_latent_without_guide(elbo):
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("forgotten", dist.Normal(0.0, 1.0))

    with pytest.raises(ModelError, match="forgotten"):
        elbo.loss(model, normal_guide)


@pytest.mark.parametrize("elbo", BOTH)
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_density_that_is_not_finite_names_its_site(elbo, value):
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("bad", dist.Unit(z + value, validate_args=False), obs=torch.empty(0))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (elbo.loss, elbo.differentiable_loss, elbo.loss_and_grads):
            with pytest.raises(NonFiniteError, match="site 'bad' of the model"):
                method(model, normal_guide)


def test_gradient_that_is_not_finite_names_its_parameter_and_takes_no_step():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        steep = pyro.param("steep", torch.tensor(0.0))
        pyro.factor("root", steep.sqrt())

    for elbo in BOTH:
        pyro.clear_param_store()
        svi = SVI(model, normal_guide, SGD({"lr": 0.1}), loss=elbo)
        with pytest.raises(NonFiniteError, match="'steep'"):
            svi.step()
        store = pyro.get_param_store()
        assert store["steep"].item() == 0
        assert all(value.unconstrained().grad is None for value in store.values())


def test_plates_of_changing_size_between_particles():
    sizes = iter([2, 2, 3, 3])

    def program():
        with pyro.plate("data", next(sizes)):
            pyro.sample("z", dist.Bernoulli(0.5))

    elbo = ScoreFunctionELBO(LeaveOneOut(), 2, vectorize_particles=False)
    with pytest.raises(ShapeError, match="'z'"):
        elbo.differentiable_loss(program, program)


def test_sites_that_only_one_particle_has():
    names = iter(["a", "a", "b", "b"])

    def program():
        pyro.sample(next(names), dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="NoBaseline"):
        ScoreFunctionELBO(LeaveOneOut(), 2, vectorize_particles=False).differentiable_loss(
            program, program
        )
    names = iter(["a", "a", "b", "b"])
    ScoreFunctionELBO(num_particles=2, vectorize_particles=False).differentiable_loss(
        program, program
    )


@pytest.mark.parametrize("estimator", [ReparameterizedELBO, ScoreFunctionELBO])
def test_model_that_mixes_particles(estimator):
    def guide(select):
        del select
        loc = pyro.param("loc", torch.zeros(3))
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    def model(select):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(select(z), 1.0), obs=torch.tensor(1.0))

    for mixing in (lambda z: z[0].sum(-1), lambda z: z.sum(), lambda z: z.flatten()[0]):
        with pytest.raises(ModelError, match=r"'x'.*vectorize_particles=False"):
            estimator(num_particles=4).loss(model, guide, mixing)
        estimator(num_particles=4, vectorize_particles=False).loss(model, guide, mixing)
    estimator(num_particles=4).loss(model, guide, lambda z: z[..., 0])
    estimator(num_particles=4).loss(model, guide, lambda z: z.sum(-1) + torch.randn(()))
