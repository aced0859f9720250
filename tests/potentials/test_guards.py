"""What a model must not do, each refused by name."""

from __future__ import annotations

import itertools
import random
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import constraints

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.energies import QuarticEnergy
from pyro_ebm.potentials import EnergyPotential, ModelPotential, as_potential
from tests.potentials.test_observations import imputed

DATA = torch.tensor([0.3, -1.0, 2.0])


def regression(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def discrete():
    k = pyro.sample("k", dist.Categorical(torch.ones(3)))
    pyro.sample("x", dist.Normal(k.float(), 1.0))


def without_latent(y):
    pyro.sample("y", dist.Normal(0.0, 1.0).expand([3]).to_event(1), obs=y)


def with_torch_noise():
    pyro.sample("z", dist.Normal(torch.rand(()), 1.0))


def with_numpy_noise():
    pyro.sample("z", dist.Normal(float(np.random.default_rng().normal()), 1.0))


def with_python_noise():
    pyro.sample("z", dist.Normal(random.random(), 1.0))


def counting(counter=itertools.count()):  # noqa: B008 (the state is the point)
    pyro.sample("z", dist.Normal(float(next(counter)), 1.0))


def dropped_out():
    z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    pyro.factor("f", nn.functional.dropout(z, 0.5).sum())


def subsampled(y, subsample=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    size = None if subsample is not None else 2
    with pyro.plate("data", len(y), subsample_size=size, subsample=subsample) as index:
        pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])


def mismatched_plate(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 2):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def extra_axis(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 3, dim=-2):
        pyro.sample("y", dist.Normal(z, 1.0).expand([3, 2]), obs=y)


def outside(y):
    """Without validation Gamma(1, r) has a finite density at negative numbers."""
    rate = pyro.sample("rate", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Gamma(1.0, rate), obs=y)


def on_a_sphere():
    pyro.sample("direction", dist.ProjectedNormal(torch.ones(3)))


def without_support():
    pyro.sample("z", NoSupport())


def appearing():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    if z > 0:
        pyro.sample("extra", dist.Normal(z, 1.0))
    else:
        pyro.sample("other", dist.Normal(z, 1.0))


def changing_shape():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("w", dist.Normal(0.0, 1.0).expand([2 if z > 0 else 1]).to_event(1))


def point_mass():
    pyro.sample("d", dist.Delta(torch.zeros(2)).expand([2]).to_event(1))


class NoSupport(dist.TorchDistribution):
    arg_constraints: ClassVar = {}

    def sample(self, sample_shape=()):
        return torch.zeros(sample_shape)

    def log_prob(self, value):
        return -value.square()


REFUSED = [
    (discrete, (), ModelError, r"latent site 'k'.*discrete.*\{\"enumerate\": \"parallel\"\}"),
    (without_latent, (DATA,), ModelError, r"'?without_latent'? has no latent sample site"),
    (with_torch_noise, (), ModelError, r"draws random numbers outside its sample sites.*aten.rand"),
    (dropped_out, (), ModelError, r"aten\.bernoulli.*eval\(\) mode"),
    (with_numpy_noise, (), ModelError, "keeps a state or draws random numbers outside torch"),
    (with_python_noise, (), ModelError, "keeps a state or draws random numbers outside torch"),
    (counting, (), ModelError, "at the same latent values: it keeps a state"),
    (subsampled, (DATA,), ModelError, "plate 'data' subsamples 2 of 3 data at random"),
    (mismatched_plate, (DATA,), ShapeError, r"site 'y'.*\(3,\).*'data' \(dim -1, size 2\)"),
    (extra_axis, (torch.ones(3, 2),), ShapeError, r"site 'y'.*'data'.*size 1 at axis -1.*to_event"),
    (outside, (torch.tensor([1.0, -1.0]),), ModelError, "1 data of site 'y' lie outside.*Gamma"),
    (on_a_sphere, (), ModelError, "no bijection.*support Sphere"),
    (point_mass, (), ModelError, "latent site 'd'.*point mass.*use pyro.deterministic"),
    (without_support, (), ModelError, "'z'.*has no support"),
    (regression, (), ModelError, "missing a required argument: 'y'.*arguments to run"),
    (regression, (DATA, DATA), ModelError, "too many positional arguments"),
    (regression, (torch.tensor([1.0, torch.nan]),), NonFiniteError, "site 'y' hold 1 NaN among 2"),
]


@pytest.mark.parametrize(("model", "args", "error", "message"), REFUSED)
@pytest.mark.filterwarnings("ignore:.*does not define `support`")
def test_refused_by_name(model, args, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        ModelPotential(model, *args)


@pytest.mark.parametrize("model", [appearing, changing_shape])
def test_sites_must_be_the_same_everywhere(model):
    """Seen at once, or when the first chain gets where they are not."""

    def use():
        potential = ModelPotential(model)
        potential.value_and_grad(torch.linspace(-2.0, 2.0, 8 * potential.dim).reshape(8, -1))

    # Whether the warning about looping comes first depends on the side of the first execution.
    with pytest.raises(ModelError, match=r"no fixed dimension|was not there"):
        with_warnings_ignored(use)


def with_warnings_ignored(function):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        function()


def test_module_in_training_mode_is_refused_even_later():
    network = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5)).eval()

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.factor("f", network(z).sum())

    potential = ModelPotential(model)
    potential.value_and_grad(torch.zeros(2, 1))
    network.train()
    with pytest.raises(ModelError, match="draws random numbers"):
        ModelPotential(model)
    with pytest.raises(ModelError, match="draws random numbers"):
        potential.value_and_grad(torch.zeros(3, 1))


def test_bare_functions_are_told_how_to_become_energies():
    for function in (lambda x: x.square().sum(-1), lambda: torch.zeros(())):
        with pytest.raises(ModelError, match=r"EnergyPotential\(f, event_shape="):
            as_potential(function)
    with pytest.raises(ModelError, match=r"has no event_shape"):
        EnergyPotential(lambda x: x)
    with pytest.raises(ModelError, match=r"the target is 3, but a Pyro model"):
        as_potential(3)


def test_targets_are_recognised():
    assert isinstance(as_potential(QuarticEnergy(2)), EnergyPotential)
    potential = as_potential(regression, DATA)
    assert isinstance(potential, ModelPotential)
    assert as_potential(potential) is potential
    for target in (QuarticEnergy(2), potential):
        with pytest.raises(ModelError, match="arguments were given"):
            as_potential(target, DATA)
    assert as_potential(regression, y=DATA).dim == 1


def test_fixed_subsample_is_a_scaled_likelihood():
    rows = torch.tensor([0, 2])
    potential = ModelPotential(subsampled, DATA, subsample=rows)
    q = torch.tensor([[0.7]])
    _, grad = potential.value_and_grad(q)
    torch.testing.assert_close(grad, q + 1.5 * (q - DATA[rows]).sum())
    assert ModelPotential(subsampled, DATA[:2]).dim == 1


def test_positions_of_the_wrong_kind():
    potential = ModelPotential(regression, DATA)
    methods = (potential, potential.value_and_grad, potential.constrain, potential.unflatten)
    for method in methods:
        with pytest.raises(ShapeError, match=r"\(3, 2\).*event shape \(1,\)"):
            method(torch.zeros(3, 2))
        with pytest.raises(ShapeError, match="floating-point"):
            method(torch.zeros(3, 1, dtype=torch.long))
    for method in (potential.unconstrain, potential.flatten):
        with pytest.raises(ShapeError, match=r"missing \['z'\], unknown \['w'\]"):
            method({"w": torch.zeros(3)})


def test_sites_of_different_chains_do_not_meet():
    def model():
        pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    potential = ModelPotential(model)
    for method in (potential.unconstrain, potential.flatten):
        with pytest.raises(ShapeError, match=r"leading axes.*same chain axes"):
            method({"a": torch.zeros(3), "b": torch.zeros(4, 2)})


def test_handlers_around_a_call_see_no_sites():
    with poutine.trace() as tracer, poutine.condition(data={"z": torch.tensor(9.0)}):
        potential = ModelPotential(regression, DATA)
        q = potential.initial(3)
        value, _ = potential.value_and_grad(q)
        torch.testing.assert_close(potential(q), value)
        potential.unconstrain(potential.constrain(q))
    assert not [site for site in tracer.trace.nodes.values() if site["type"] == "sample"]
    torch.testing.assert_close(ModelPotential(regression, DATA)(q), value)


@pytest.mark.filterwarnings("ignore:.*one chain after another:UserWarning")
@pytest.mark.parametrize("model", [regression, imputed])
def test_global_generator_is_left_alone(model):
    state = torch.get_rng_state()
    potential = ModelPotential(model, DATA.abs())
    generator = torch.Generator().manual_seed(0)
    q = potential.initial(3, generator=generator)
    potential.value_and_grad(q)
    potential(q)
    potential.constrain(q)
    assert torch.equal(torch.get_rng_state(), state)


def test_explanations_name_the_site():
    def model():
        pyro.sample("good", dist.Normal(0.0, 1.0))
        z = pyro.sample("bad", dist.Normal(0.0, 1.0))
        pyro.factor("root", -z.sqrt())

    potential = ModelPotential(model)
    assert "'root' is nan" in potential.explain_nonfinite(torch.tensor([0.0, -1.0]))
    assert "Jacobian or gradient" in potential.explain_nonfinite(torch.tensor([0.0, 0.0]))


def test_sites_keep_their_types():
    def model():
        pyro.sample("single", dist.Normal(torch.zeros((), dtype=torch.float32), 1.0))
        pyro.sample("double", dist.HalfNormal(torch.ones(2, dtype=torch.float64)).to_event(1))

    potential = ModelPotential(model)
    sites = potential.constrain(potential.initial(4))
    assert potential.dtype == torch.float64
    assert {k: v.dtype for k, v in sites.items()} == {
        "single": torch.float32,
        "double": torch.float64,
    }
    assert potential.unconstrain(sites).dtype == torch.float64
    _, grad = potential.value_and_grad(potential.initial(4))
    assert grad.dtype == torch.float64


def test_impropriety_is_not_sampled():
    """An improper law has no ``sample``, which nothing here may need."""

    def model():
        pyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        pyro.sample("y", dist.Normal(0.0, 1.0))

    assert ModelPotential(model).initial(3).shape == (3, 2)


def sometimes_recorded():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    if z > 0:
        pyro.deterministic("d", z)


def recorded_in_many_shapes():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.deterministic("d", z.expand(2 if z > 0 else 1))


@pytest.mark.parametrize("model", [sometimes_recorded, recorded_in_many_shapes])
def test_deterministic_sites_must_be_the_same_everywhere(model):
    def use():
        potential = ModelPotential(model)
        potential.value_and_grad(torch.linspace(-2.0, 2.0, 8).unsqueeze(-1))

    with pytest.raises(ModelError, match=r"deterministic site 'd'.*at other latent values"):
        with_warnings_ignored(use)


def test_draws_must_have_the_same_deterministic_sites():
    side = [True]

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if side[0]:
            pyro.deterministic("d", z)

    potential = ModelPotential(model)
    side[0] = False
    with pytest.raises(ModelError, match=r"'d' had shape \(\) .* but was not there"):
        potential.constrain(torch.zeros(3, 1))
    side[0] = True
    assert potential.constrain(torch.zeros(3, 1))["d"].shape == (3,)
