"""Pyro's own kernels on our potentials."""

from __future__ import annotations

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, MCMC, NUTS
from torch.distributions import constraints

from pyro_ebm.core.checks import ModelError, NonFiniteError
from pyro_ebm.energies import GaussianEnergy, QuarticEnergy
from pyro_ebm.potentials import EnergyPotential, ModelPotential, PyroTarget, as_potential_fn

pytestmark = pytest.mark.filterwarnings(
    "ignore:num_chains=.* is more than available_cpu:UserWarning",
)


def model(y):
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    pyro.sample("y", dist.Normal(shares, scale).to_event(1), obs=y)


KERNELS = {NUTS: {"max_tree_depth": 3}, HMC: {"num_steps": 2}}


def run(kernel_class, start, num_chains, monkeypatch):
    monkeypatch.setattr("torch.multiprocessing.cpu_count", lambda: 1)
    kernel = kernel_class(
        potential_fn=start.potential_fn, transforms=start.transforms, **KERNELS[kernel_class]
    )
    mcmc = MCMC(
        kernel,
        num_samples=5,
        warmup_steps=4,
        num_chains=num_chains,
        initial_params=start.initial_params,
        disable_progbar=True,
    )
    mcmc.run()
    return mcmc.get_samples(group_by_chain=True)


@pytest.mark.parametrize(("kernel_class", "num_chains"), [(NUTS, 1), (NUTS, 2), (HMC, 2)])
def test_pyros_kernels_run_on_models(kernel_class, num_chains, monkeypatch):
    start = as_potential_fn(model, num_chains, torch.tensor([0.2, 0.5, 0.3]))
    draws = run(kernel_class, start, num_chains, monkeypatch)
    assert {k: v.shape for k, v in draws.items()} == {
        "scale": (num_chains, 5),
        "shares": (num_chains, 5, 3),
    }
    assert bool((draws["scale"] > 0).all())
    torch.testing.assert_close(draws["shares"].sum(-1), torch.ones(num_chains, 5))


@pytest.mark.parametrize(
    ("support", "num_chains"), [(constraints.real, 1), (constraints.positive, 2)]
)
def test_pyros_kernels_run_on_energies(support, num_chains, monkeypatch):
    potential = EnergyPotential(GaussianEnergy.standard((2, 3)), support=support)
    draws = run(NUTS, as_potential_fn(potential, num_chains), num_chains, monkeypatch)
    assert draws["x"].shape == (num_chains, 5, 2, 3)
    assert bool(potential.support.check(draws["x"]).all())


def test_surface():
    potential = ModelPotential(model, torch.tensor([0.2, 0.5, 0.3]))
    one, many = as_potential_fn(potential, 1), as_potential_fn(potential, 3)
    assert isinstance(one, PyroTarget)
    assert {k: v.shape for k, v in one.initial_params.items()} == {"scale": (), "shares": (2,)}
    assert {k: v.shape for k, v in many.initial_params.items()} == {"scale": (3,), "shares": (3, 2)}
    value = one.potential_fn(one.initial_params)
    assert value.shape == ()
    torch.testing.assert_close(value, potential(potential.flatten(one.initial_params)))
    constrained = {k: one.transforms[k].inv(v) for k, v in one.initial_params.items()}
    expected = potential.constrain(potential.flatten(one.initial_params))
    torch.testing.assert_close(constrained, expected)
    assert repr(potential) in repr(one.potential_fn)


def test_potential_function_pickles():
    start = as_potential_fn(model, 1, torch.tensor([0.2, 0.5, 0.3]))
    twin = pickle.loads(pickle.dumps(start))
    torch.testing.assert_close(
        twin.potential_fn(start.initial_params), start.potential_fn(start.initial_params)
    )


def test_supports_that_depend_on_latent_values_are_refused():
    def dynamic():
        a = pyro.sample("a", dist.Gamma(2.0, 1.0))
        pyro.sample("b", dist.Uniform(torch.zeros(()), a))

    with pytest.raises(ModelError, match="depends on a latent value"):
        as_potential_fn(dynamic, 1)


def test_starts_are_finite():
    """Half of the default starts are not, so retrying is needed."""

    def root(x):
        return x.sum(-1).sqrt() + x.square().sum(-1)

    start = as_potential_fn(EnergyPotential(root, 1), 64)
    assert bool((start.initial_params["x"] > 0).all())


def test_impossible_starts_name_the_site():
    def impossible(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Uniform(z, z + 1e-9), obs=y)

    with pytest.raises(NonFiniteError, match=r"5 of 5 chains found no starting point.*site 'y'"):
        as_potential_fn(impossible, 5, torch.tensor(-1.0))
    with pytest.raises(NonFiniteError, match="is nan at x="):
        as_potential_fn(EnergyPotential(lambda x: (-x.square()).sum(-1).sqrt() * 1e9, 2), 1)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_chains=0"):
        as_potential_fn(QuarticEnergy(), 0)
    with pytest.raises(ModelError, match="arguments were given"):
        as_potential_fn(QuarticEnergy(), 1, torch.zeros(3))
