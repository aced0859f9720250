"""Energies that depend on a draw: their log Z would be missing in the signal."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.optim import SGD
from torch.distributions import constraints

from pyro_ebm.core.checks import ModelError
from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.estimators import LeaveOneOut, ReparameterizedELBO, ScoreFunctionELBO
from pyro_ebm.kernels import Langevin

REFUSAL = "depends on a parameter or a latent value"


class Quadratic:
    """``a x^2``, that counts its evaluations."""

    event_shape = torch.Size([1])

    def __init__(self, a=1.0):
        self.a, self.count = a, 0

    def __call__(self, x):
        self.count += 1
        return (self.a * x**2).sum(-1)


def law(energy):
    return EnergyDistribution(energy, kernel=Langevin(step_size=0.1), num_steps=2)


def model():
    a = pyro.sample("a", dist.HalfNormal(1.0))
    pyro.sample("z", law(Quadratic(a)))


def guide():
    a = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    pyro.sample("a", dist.LogNormal(a.log(), 0.1))
    normal_guide()


def normal_guide():
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(1)), 1.0).to_event(1))


def observed():
    a = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    pyro.sample("y", law(Quadratic(a)).mask(torch.tensor(True)), obs=torch.ones(1))


ALL = [
    ReparameterizedELBO(vectorize_particles=False),
    ScoreFunctionELBO(),
    ScoreFunctionELBO(num_particles=3, vectorize_particles=False),
]


@pytest.mark.parametrize("elbo", ALL, ids=repr)
def test_a_latent_inside_of_an_energy_is_refused(elbo):
    for program, match in ((model, guide), (observed, normal_guide)):
        svi = SVI(program, match, SGD({"lr": 0.1}), loss=elbo)
        for _ in range(2):
            with pytest.raises(ModelError, match=REFUSAL):
                svi.step()


@pytest.mark.parametrize("automatic", [AutoNormal, AutoMultivariateNormal])
def test_automatic_guides_hide_nothing(automatic):
    with pytest.raises(ModelError, match=REFUSAL):
        ScoreFunctionELBO().loss(observed, automatic(observed))
    with pytest.raises(ModelError, match=REFUSAL), torch.no_grad():
        ScoreFunctionELBO().loss(observed, automatic(observed))


def test_an_energy_in_the_guide_is_refused_too():
    def normal():
        pyro.sample("a", dist.HalfNormal(1.0))
        pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    def energetic():
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        a = pyro.sample("a", dist.HalfNormal(scale))
        pyro.sample("z", law(Quadratic(a)))

    with pytest.raises(ModelError, match=REFUSAL):
        ScoreFunctionELBO().loss(normal, energetic)


def test_a_fixed_energy_is_looked_at_once():
    energy = Quadratic()

    def prior():
        pyro.sample("z", law(energy))

    elbo = ScoreFunctionELBO()
    counts = []
    for _ in range(3):
        before = energy.count
        elbo.loss(prior, normal_guide)
        counts.append(energy.count - before)
    assert counts[1] == counts[2] == counts[0] - 1
    assert pickle.loads(pickle.dumps(elbo))._constants is None


def test_the_look_changes_neither_gradient_nor_random_state():
    def energetic():
        pyro.sample("z", law(GaussianEnergy.standard(1)))

    def normal():
        pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    gradients, states = [], []
    for program in (energetic, normal):
        torch.manual_seed(0)
        pyro.clear_param_store()
        # The energy lacks log Z, a constant that leave-one-out takes out of the signal.
        ScoreFunctionELBO(LeaveOneOut(), 4).loss_and_grads(program, normal_guide)
        gradients.append(pyro.get_param_store()["loc"].unconstrained().grad)
        states.append(torch.get_rng_state())
    torch.testing.assert_close(*gradients)
    assert torch.equal(*states)
