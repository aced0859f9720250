"""What every objective keeps; a class without a row here fails."""

from __future__ import annotations

import copy
import inspect
import pickle

import pyro.distributions as dist
import pytest
import torch

from pyro_ebm import MALA, Langevin, MLPEnergy, UnderdampedLangevin, objectives
from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.objectives import ContrastiveDivergence, MaximumLikelihood

ROWS = {
    ContrastiveDivergence: {
        "one-step": lambda: ContrastiveDivergence(Langevin(step_size=0.2)),
        "several": lambda: ContrastiveDivergence(MALA(step_size=0.5), num_steps=3),
        "momentum": lambda: ContrastiveDivergence(UnderdampedLangevin(step_size=0.2), 2),
    },
    MaximumLikelihood: {
        "default": lambda: MaximumLikelihood(MALA(step_size=0.5), num_steps=3),
        "initial": lambda: MaximumLikelihood(
            Langevin(step_size=0.2), 2, dist.Normal(0.0, 2.0).expand([6]).to_event(1)
        ),
    },
}
FOUND = {cls for _, cls in inspect.getmembers(objectives, inspect.isclass)}
CASES = [
    pytest.param(build, id=f"{cls.__name__}-{name}")
    for cls, rows in ROWS.items()
    for name, build in rows.items()
]
every_objective = pytest.mark.parametrize("build", CASES)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _loss_and_slopes(objective, energy, x, seed=0):
    loss = objective(energy, x, generator=_generator(seed))
    return loss, torch.autograd.grad(loss, list(energy.parameters()))


def test_every_objective_has_a_row():
    assert FOUND
    assert set(ROWS) == FOUND


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(1,), (7,), (3, 2)])
def test_loss_is_a_finite_scalar_of_the_data_type(build, dtype, batch):
    energy = MLPEnergy(6).to(dtype)
    loss, slopes = _loss_and_slopes(build(), energy, torch.randn((*batch, 6), dtype=dtype))
    assert (loss.shape, loss.dtype) == ((), dtype)
    assert bool(loss.isfinite())
    for slope, parameter in zip(slopes, energy.parameters(), strict=True):
        assert (slope.shape, slope.dtype) == (parameter.shape, dtype)
        assert bool(slope.isfinite().all())


@every_objective
def test_flat_and_image_shaped_data_are_the_same(build):
    if getattr(build(), "initial", None) is not None:
        pytest.skip("its initial law has the flat shape")
    flat, image = MLPEnergy(6), MLPEnergy((1, 2, 3))
    image.load_state_dict(flat.state_dict())
    x = torch.randn(5, 6)
    first = _loss_and_slopes(build(), flat, x)
    second = _loss_and_slopes(build(), image, x.reshape(5, 1, 2, 3))
    torch.testing.assert_close(first, second)


@every_objective
def test_the_generator_decides_and_the_global_one_is_left_alone(build):
    energy, x, objective = MLPEnergy(6), torch.randn(5, 6), build()
    before = torch.get_rng_state()
    first, second, other = (_loss_and_slopes(objective, energy, x, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first[0] != other[0]


@every_objective
def test_the_global_seed_decides_without_a_generator(build):
    energy, x = MLPEnergy(6), torch.randn(5, 6)
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(build()(energy, x))
    assert torch.equal(*losses)


@every_objective
@pytest.mark.parametrize("duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_copies_give_the_same_loss(build, duplicate):
    energy, x, objective = MLPEnergy(6), torch.randn(5, 6), build()
    first = _loss_and_slopes(objective, energy, x)
    torch.testing.assert_close(_loss_and_slopes(duplicate(objective), energy, x), first)


@every_objective
def test_takes_any_callable_with_an_event_shape(build):
    class Tilted:
        event_shape = torch.Size([6])
        weight = torch.ones(6, requires_grad=True)

        def __call__(self, x):
            return 0.5 * (self.weight * x.square()).sum(-1)

    loss = build()(Tilted(), torch.randn(5, 6), generator=_generator())
    assert torch.autograd.grad(loss, Tilted.weight)[0].shape == (6,)


@every_objective
def test_the_mean_over_the_batch_is_taken(build):
    """Ten times the same data have the scale of one, whatever the noise."""

    class Level:
        event_shape = torch.Size([6])

        def __call__(self, x):
            return 0.5 * x.square().sum(-1)

    x = torch.full((1, 6), 100.0)
    one, ten = build()(Level(), x), build()(Level(), x.expand(10, 6))
    assert 0.5 < ten / one < 2


@every_objective
def test_frozen_parameters_get_no_gradient(build):
    energy = MLPEnergy(6)
    energy.network[0].requires_grad_(False)
    build()(energy, torch.randn(5, 6)).backward()
    assert energy.network[0].weight.grad is None
    assert energy.network[2].weight.grad is not None


@every_objective
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.full((3, 6), torch.nan), NonFiniteError, "18 values"),
        (torch.full((1, 6), torch.inf), NonFiniteError, "6 values"),
        (torch.ones(3, 6, dtype=torch.int64), ShapeError, "int64"),
        (torch.ones(3, 5), ShapeError, r"\(3, 5\)"),
        (torch.ones(()), ShapeError, "event shape"),
        (torch.ones(0, 6), ShapeError, "at least one"),
    ],
    ids=["nan", "infinite", "integer", "event", "scalar", "empty"],
)
def test_refuses_bad_data(build, x, error, message):
    with pytest.raises(error, match=message):
        build()(MLPEnergy(6), x)


@every_objective
def test_refuses_functions_without_event_shape(build):
    with pytest.raises(ModelError, match="event_shape"):
        build()(lambda x: x.sum(-1), torch.ones(3, 6))


@every_objective
def test_documents_what_its_value_is_not(build):
    words = " ".join(type(build()).__doc__.split())
    assert "not a likelihood" in words
    assert "biased" in words
    assert "References:" in words
