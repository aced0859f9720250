"""What users get wrong: each a named error that says what came, what was wanted, what to do."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import init_to_sample, init_to_value

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError, StepSizeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, Langevin
from pyro_ebm.potentials.energy import EnergyPotential
from tests.sampling.runs import (
    KERNELS,
    STANDARD,
    PlainEnergy,
    driver,
    half_square,
    regression,
    regression_data,
    run,
)

PLANE = PlainEnergy(lambda x: 0.5 * x.square().sum(-1), 2)


def assert_says(raised, *parts):
    """The message has the parts in this order."""
    message, position = str(raised.value), 0
    for part in parts:
        found = message.find(part, position)
        assert found >= 0, f"{part!r} is not in {message[position:]!r}"
        position = found + len(part)


ENERGIES = {
    "column": (
        lambda x: x.square().sum(-1, keepdim=True),
        ShapeError,
        ["shape (6, 1)", "batch of shape (6,)", "one number for each point", ".squeeze(-1)"],
    ),
    "scalar": (
        lambda x: x.square().sum(),
        ShapeError,
        ["returned shape ()", "batch of shape (6,)", "not over the batch"],
    ),
    "unsummed": (
        lambda x: x.square(),
        ShapeError,
        ["shape (6, 2)", "batch of shape (6,)", "Sum over the event axes"],
    ),
    "nan": (
        lambda x: x.sum(-1) * math.nan,
        NonFiniteError,
        ["6 of 6 chains found no starting point", "energy PlainEnergy is nan at x=", "mend"],
    ),
    "infinite": (
        lambda x: x.sum(-1) + math.inf,
        NonFiniteError,
        ["6 of 6 chains", "energy PlainEnergy is inf at x=", "initial_params"],
    ),
    "nan_gradient": (
        lambda x: torch.where(x > 99, (x - 99).sqrt(), x.square()).sum(-1),
        NonFiniteError,
        ["6 of 6 chains", "finite energy and gradient"],
    ),
    "integer": (
        lambda x: x.sum(-1).long(),
        ShapeError,
        ["torch.int64", "floating-point"],
    ),
    "constant": (
        lambda x: torch.zeros(len(x)),
        ModelError,
        ["does not depend on its input", "compute it from x"],
    ),
    "detached": (
        lambda x: x.detach().square().sum(-1),
        ModelError,
        ["does not depend on its input", ".detach()", "differentiable operations"],
    ),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_energies(name):
    function, error, parts = ENERGIES[name]
    with pytest.raises(error) as raised:
        run(MALA(PlainEnergy(function, 2)), num_chains=6)
    assert_says(raised, *parts)


def test_bare_function():
    with pytest.raises(ModelError) as raised:
        run(MALA(half_square))
    assert_says(raised, "half_square", "'x'", "EnergyPotential(f, event_shape=(2,))")


def test_bare_function_as_a_potential():
    with pytest.raises(ModelError) as raised:
        EnergyPotential(half_square)
    assert_says(raised, "no event_shape", "EnergyPotential(energy, event_shape=(2,))")


def test_event_shape_of_another_energy():
    energy = GaussianEnergy.standard((3,))
    with pytest.raises(ShapeError) as raised:
        run(MALA(EnergyPotential(energy, event_shape=(2,))))
    assert_says(raised, "shape (1, 2)", "event shape (3,)")


def test_something_that_is_no_target():
    with pytest.raises(ModelError) as raised:
        run(MALA(torch.zeros(3)))
    assert_says(raised, "tensor([0., 0., 0.])", "a Pyro model, an energy", "MALA(model)")


def test_recipe_without_a_target():
    with pytest.raises(ModelError) as raised:
        driver(Langevin(step_size=0.1))
    assert_says(raised, "Langevin", "without a target", "Langevin(model)")


def test_arguments_for_an_energy():
    with pytest.raises(ModelError) as raised:
        driver(MALA(STANDARD)).run(torch.zeros(3))
    assert_says(raised, "arguments were given", "not a Pyro model", "run() without arguments")


@pytest.mark.parametrize("bad", [0, -1, 1.0, 2.5, True, "3", None, math.nan])
@pytest.mark.parametrize("name", ["num_samples", "num_chains", "thinning"])
def test_counts(name, bad):
    with pytest.raises(ValueError, match=f"{name}=.*{name} must be a whole number of at least 1"):
        driver(MALA(STANDARD), **{name: bad})


@pytest.mark.parametrize("bad", [-1, 1.0, True, "3"])
def test_warmup_steps(bad):
    with pytest.raises(ValueError, match="warmup_steps must be a whole number of at least 0"):
        driver(MALA(STANDARD), warmup_steps=bad)


def test_numpy_counts_are_counts():
    assert driver(MALA(STANDARD), np.int64(7), np.int32(0 + 3)).num_samples == 7


@pytest.mark.parametrize("bad", [-0.1, 0.0, math.nan, math.inf, "a"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_step_sizes(kernel, bad):
    with pytest.raises(ValueError, match="step_size must be a finite number above zero") as raised:
        kernel(STANDARD, step_size=bad)
    assert_says(raised, f"step_size={bad!r}")


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_room_to_tune(kernel):
    with pytest.raises(StepSizeError) as raised:
        driver(kernel(STANDARD), warmup_steps=0)
    assert_says(raised, "no step size", "warmup_steps=0", "give the kernel a step_size")


@pytest.mark.parametrize(
    ("scale", "error", "parts"),
    [
        (torch.ones(3), ShapeError, ["3 entries", "2 coordinates", "scale=None"]),
        (torch.tensor([1.0, 0.0]), NonFiniteError, ["finite and above zero"]),
        (torch.tensor([1.0, math.nan]), NonFiniteError, ["finite and above zero"]),
        (torch.ones(()), ShapeError, ["shape ()", "(dim,)"]),
    ],
)
def test_scales(scale, error, parts):
    with pytest.raises(error) as raised:
        run(MALA(PLANE, scale=scale), num_chains=2)
    assert_says(raised, *parts)


STARTS = {
    "integers": (
        {"x": torch.zeros(3, 2, dtype=torch.long)},
        ShapeError,
        ["torch.int64", "floating-point", ".to("],
    ),
    "nan": (
        {"x": torch.tensor([[0.0, math.nan]] * 3)},
        NonFiniteError,
        ["initial_params['x']", "3 values that are NaN", "among 6"],
    ),
    "infinite": ({"x": torch.full((3, 2), math.inf)}, NonFiniteError, ["6 values"]),
    "event": (
        {"x": torch.zeros(3, 4)},
        ShapeError,
        ["shape (3, 4)", "event shape (2,)"],
    ),
    "chains": (
        {"x": torch.zeros(5, 2)},
        ShapeError,
        ["shape (5, 2)", "(3, 2) is wanted", "leading axis of num_chains"],
    ),
    "no_axis": ({"x": torch.zeros(2)}, ShapeError, ["shape (2,)", "(3, 2) is wanted"]),
    "two_axes": ({"x": torch.zeros(1, 3, 2)}, ShapeError, ["shape (1, 3, 2)", "(3, 2) is"]),
    "name": ({"y": torch.zeros(3, 2)}, ShapeError, ["['y']", "'x'", "give {'x': tensor}"]),
    "nothing": ({}, ShapeError, ["[]", "'x'"]),
    "list": ({"x": [0.0, 0.0]}, ShapeError, ["initial_params is {'x': [0.0, 0.0]}", "dict of"]),
    "tensor": (torch.zeros(3, 2), ShapeError, ["initial_params is tensor", "dict of tensors"]),
}


@pytest.mark.parametrize("name", STARTS)
def test_starts(name):
    params, error, parts = STARTS[name]
    with pytest.raises(error) as raised:
        run(MALA(PLANE), num_chains=3, initial_params=params)
    assert_says(raised, *parts)


def test_start_where_the_energy_is_not_finite():
    half = PlainEnergy(lambda x: torch.where(x > 0, math.inf, x.square()))
    starts = {"x": torch.tensor([-1.0, 2.0, -1.0, 3.0])}
    with pytest.raises(NonFiniteError) as raised:
        run(MALA(half), num_chains=4, initial_params=starts)
    assert_says(raised, "chains [1, 3]", "is inf at x=2.0", "Start them elsewhere")


def test_starts_of_a_model_with_a_missing_and_an_unknown_site():
    params = {"scale": torch.zeros(2), "weights": torch.zeros(2, 2), "effects": torch.zeros(2, 6)}
    mcmc = driver(MALA(regression), num_chains=2, initial_params=params)
    with pytest.raises(ShapeError) as raised:
        mcmc.run(*regression_data())
    assert_says(raised, "missing ['effect']", "unknown ['effects']")


def test_starts_of_a_model_whose_sites_disagree():
    params = {"scale": torch.zeros(2), "weights": torch.zeros(3, 2), "effect": torch.zeros(2, 6)}
    mcmc = driver(MALA(regression), num_chains=2, initial_params=params)
    with pytest.raises(ShapeError, match="the same chain axes"):
        mcmc.run(*regression_data())


def test_the_site_that_is_not_finite_is_named():
    def model():
        pyro.sample("fine", dist.Normal(0.0, 1.0))
        loc = pyro.sample("broken", dist.Normal(0.0, 1.0))
        pyro.factor("hopeless", loc * math.nan)

    with pytest.raises(NonFiniteError) as raised:
        run(MALA(model), num_chains=3)
    assert_says(raised, "3 of 3 chains", "site 'hopeless' is nan", "init_strategy")


def test_strategy_that_starts_outside():
    strategy = init_to_value(values={"rate": torch.tensor(-1.0)})

    def model():
        pyro.sample("rate", dist.Gamma(2.0, 1.0))

    with pytest.raises(NonFiniteError, match=r"chains \[0, 1\]"):
        run(MALA(model), num_chains=2, init_strategy=strategy)


def test_strategy_for_an_energy():
    with pytest.raises(ModelError) as raised:
        run(MALA(STANDARD), init_strategy=init_to_sample)
    assert_says(raised, "init_strategy needs the sites of a Pyro model", "initial_params")


def discrete():
    chance = pyro.sample("chance", dist.Beta(1.0, 1.0))
    pyro.sample("coin", dist.Bernoulli(chance))


def only_data():
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))


def not_scalar():
    with pyro.plate("data", 3):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(loc, 1.0), obs=torch.zeros(4, 3))


def random_outside():
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(loc + torch.randn(3), 1.0).to_event(1), obs=torch.zeros(3))


def python_random_outside():
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.factor("noise", loc * np.random.default_rng().normal())


def dropout():
    loc = pyro.sample("loc", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    pyro.factor("net", torch.nn.functional.dropout(loc).sum())


def subsampled():
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 10, subsample_size=2) as index:
        pyro.sample("y", dist.Normal(loc, 1.0), obs=torch.zeros(10)[index])


def missing_data():
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    data = torch.tensor([0.0, math.nan, 1.0, math.nan])
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=data)


MODELS = [
    (discrete, ModelError, ["'coin'", "discrete"]),
    (only_data, ModelError, ["only_data", "no latent sample site", "pyro.sample"]),
    (not_scalar, ShapeError, ["'y'", ".to_event(1)"]),
    (random_outside, ModelError, ["random_outside", "outside its sample sites", "aten.", "data"]),
    (python_random_outside, ModelError, ["python_random_outside", "random numbers outside torch"]),
    (dropout, ModelError, ["dropout", "outside its sample sites", "eval()"]),
    (subsampled, ModelError, ["'data'", "subsamples 2 of 10", "no subsample_size"]),
    (missing_data, NonFiniteError, ["'y'", "2 NaN among 4", "obs_mask"]),
]


@pytest.mark.parametrize(
    ("model", "error", "parts"), MODELS, ids=lambda m: getattr(m, "__name__", "")
)
def test_models(model, error, parts):
    with pytest.raises(error) as raised:
        run(MALA(model), num_chains=2)
    assert_says(raised, *parts)


def test_model_arguments_that_are_missing():
    with pytest.raises(ModelError) as raised:
        run(MALA(regression))
    assert_says(raised, "regression", "missing a required argument: 'x'", "run(...)")


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_too_few_draws_for_statistics(num_samples):
    mcmc = run(MALA(STANDARD), num_samples, num_chains=2)
    for call in (mcmc.summary, mcmc.diagnostics):
        with pytest.raises(ValueError, match="at least 4") as raised:
            call()
        assert_says(raised, f"there are {num_samples} draws", "larger num_samples")
    assert mcmc.get_samples()["x"].shape == (2 * num_samples,)


@pytest.mark.parametrize("prob", [0.0, 1.0, -0.1, math.nan, "0.9"])
def test_probability_of_the_summary(prob):
    mcmc = run(MALA(STANDARD))
    with pytest.raises(ValueError, match="prob must lie strictly between 0 and 1"):
        mcmc.summary(prob=prob)


@pytest.mark.parametrize("bad", [0, -3, 1.5, True])
def test_number_of_samples_drawn_again(bad):
    mcmc = run(MALA(STANDARD))
    with pytest.raises(ValueError, match="num_samples must be a whole number of at least 1"):
        mcmc.get_samples(bad)
