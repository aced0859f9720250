"""Training by fit_energy: what it learns, reports and refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pyro_ebm import MALA, Langevin, MLPEnergy, fit_energy
from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.objectives import ContrastiveDivergence, MaximumLikelihood

OBJECTIVE = ContrastiveDivergence(Langevin(step_size=0.2))


def _fit(energy, x, **options):
    settings = {"objective": OBJECTIVE, "num_steps": 3, "progress": False} | options
    return fit_energy(energy, settings.pop("objective"), x, **settings)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Linear:
    """A loss whose gradient is one for every parameter; the batches are kept."""

    def __init__(self):
        self.batches = []

    def __call__(self, energy, x, *, generator=None):
        del generator
        self.batches.append(x)
        return sum(parameter.sum() for parameter in energy.parameters() if parameter.requires_grad)


RECOVERING = {
    "contrastive": ContrastiveDivergence(MALA(step_size=1.2), num_steps=3),
    "likelihood": MaximumLikelihood(MALA(step_size=1.2), num_steps=10),
}


def _recovery_errors(objective):
    """Errors of mean and precision, in standard deviations of the noise of the first rate.

    At rate r and batch size B both end with variance r / B about the moments of the data.
    """
    x = torch.tensor([1.0, -0.5]) + torch.tensor([1.0, 1.5]).sqrt() * torch.randn(3000, 2)
    energy = GaussianEnergy(nn.Parameter(torch.zeros(2)), precision=nn.Parameter(torch.ones(2)))
    for rate in (0.2, 0.02):
        optimizer = torch.optim.SGD(energy.parameters(), lr=rate)
        _fit(energy, x, objective=objective, num_steps=60, batch_size=500, optimizer=optimizer)
    errors = torch.cat([energy.loc - x.mean(0), energy.precision - 1 / x.var(0)])
    return errors.detach().abs() / math.sqrt(0.2 / 500)


@pytest.mark.parametrize("objective", RECOVERING.values(), ids=RECOVERING)
def test_recovers_a_gaussian(objective):
    assert float(_recovery_errors(objective).max()) < 5


def test_the_bias_of_unadjusted_chains_is_seen():
    objective = ContrastiveDivergence(Langevin(step_size=0.9), num_steps=3)
    assert float(_recovery_errors(objective).max()) > 5


def test_history():
    energy = MLPEnergy(2)
    x = torch.randn(50, 2)
    objective = Linear()
    rate = 0.01
    optimizer = torch.optim.SGD(energy.parameters(), lr=rate)
    start = sum(parameter.detach().sum().item() for parameter in energy.parameters())
    history = _fit(energy, x, objective=objective, num_steps=4, optimizer=optimizer)
    number = sum(parameter.numel() for parameter in energy.parameters())
    assert set(history.data_vars) == {"loss", "energy_data", "grad_norm"}
    assert history.sizes == {"step": 4}
    assert history.step.values.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(history.loss, start - rate * number * np.arange(4))
    np.testing.assert_allclose(history.grad_norm, math.sqrt(number))
    last = energy(objective.batches[-1]).mean().item()
    assert history.energy_data.values[-1] == pytest.approx(last)


@pytest.mark.parametrize(("batch_size", "size"), [(7, 7), (1, 1), (1000, 50)])
def test_batches_are_drawn_from_the_data(batch_size, size):
    x, objective = torch.randn(50, 2), Linear()
    _fit(MLPEnergy(2), x, objective=objective, batch_size=batch_size)
    rows = {tuple(row.tolist()) for row in x}
    for batch in objective.batches:
        assert batch.shape == (size, 2)
        assert {tuple(row.tolist()) for row in batch} <= rows
    assert not torch.equal(*objective.batches[:2])


def test_every_datum_has_the_same_chance():
    objective = Linear()
    _fit(MLPEnergy(()), torch.arange(10.0), objective=objective, num_steps=50, batch_size=10)
    counts = torch.cat(objective.batches).long().bincount(minlength=10)
    chi_square = float((counts - 50).square().sum()) / 50
    assert chi_square < 40  # 1e-5 of a chi-square with 9 degrees of freedom is above


def test_images_and_batch_axes():
    history = _fit(MLPEnergy((2, 3)), torch.randn(4, 5, 2, 3))
    assert bool(np.isfinite(history.loss).all())


def test_the_generator_decides_and_the_global_one_is_left_alone():
    x = torch.randn(50, 2)

    def train(seed):
        torch.manual_seed(0)
        energy = MLPEnergy(2)
        before = torch.get_rng_state()
        history = _fit(energy, x, generator=_generator(seed))
        assert torch.equal(torch.get_rng_state(), before)
        return history, torch.cat([p.detach().flatten() for p in energy.parameters()])

    (first, one), (second, two), (third, other) = (train(seed) for seed in (1, 1, 2))
    assert first.identical(second)
    assert torch.equal(one, two)
    assert not first.equals(third)
    assert not torch.equal(one, other)


def test_the_global_seed_decides_without_a_generator():
    x, losses = torch.randn(50, 2), []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(_fit(MLPEnergy(2), x).loss)
    assert losses[0].equals(losses[1])


def test_frozen_parts_stay_and_the_others_move():
    energy = MLPEnergy(2)
    energy.network[0].requires_grad_(False)
    frozen, free = energy.network[0].weight.clone(), energy.network[2].weight.clone()
    _fit(energy, torch.randn(50, 2))
    assert torch.equal(energy.network[0].weight, frozen)
    assert not torch.equal(energy.network[2].weight, free)


def test_the_optimizer_given_is_used():
    energy = MLPEnergy(2)
    part = energy.network[2].weight
    before, others = part.clone(), energy.network[0].weight.clone()
    _fit(energy, torch.randn(50, 2), objective=Linear(), optimizer=torch.optim.SGD([part], lr=0.5))
    torch.testing.assert_close(part.detach(), before.detach() - 1.5)
    assert torch.equal(energy.network[0].weight, others)


def test_progress_on_and_off(capsys):
    _fit(MLPEnergy(2), torch.randn(50, 2), progress=False)
    assert capsys.readouterr() == ("", "")
    _fit(MLPEnergy(2), torch.randn(50, 2), progress=True)
    assert "Fit" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["num_steps", "batch_size"])
@pytest.mark.parametrize("value", [0, -3, True, 1.5])
def test_refuses_counts(name, value):
    with pytest.raises(ValueError, match=name):
        _fit(MLPEnergy(2), torch.randn(50, 2), **{name: value})


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.full((3, 2), torch.nan), NonFiniteError, "6 values"),
        (torch.ones(3, 2, dtype=torch.int64), ShapeError, "int64"),
        (torch.ones(3, 4), ShapeError, r"\(3, 4\)"),
        (torch.ones(0, 2), ShapeError, "at least one"),
        (torch.ones(3, 2).float(), ShapeError, r"have torch.float64: .* x\.to\(torch.float64\)"),
    ],
    ids=["nan", "integer", "event", "empty", "type"],
)
def test_refuses_data(x, error, message):
    with pytest.raises(error, match=message):
        _fit(MLPEnergy(2), x)


class Plain:
    event_shape = torch.Size([2])

    def __call__(self, x):
        return x.square().sum(-1)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (MLPEnergy(2).requires_grad_(False), "unfreeze"),
        (GaussianEnergy.standard(2), "unfreeze"),
        (Plain(), "not a torch.nn.Module"),
        (nn.Linear(2, 1), "event_shape"),
    ],
    ids=["frozen", "constant", "callable", "shapeless"],
)
def test_refuses_energies_that_cannot_be_trained(energy, message):
    with pytest.raises(ModelError, match=message):
        _fit(energy, torch.randn(50, 2))


def test_refuses_an_optimizer_over_something_else():
    other = torch.optim.SGD(MLPEnergy(2).parameters(), lr=0.1)
    with pytest.raises(ModelError, match="nothing would be learned"):
        _fit(MLPEnergy(2), torch.randn(50, 2), optimizer=other)


def test_refuses_an_optimizer_that_needs_a_closure():
    energy = MLPEnergy(2)
    with pytest.raises(ModelError, match=r"LBFGS needs a closure .* torch\.optim\.Adam"):
        _fit(energy, torch.randn(50, 2), optimizer=torch.optim.LBFGS(energy.parameters()))


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (lambda energy, x, generator=None: energy(x).mean().detach(), ModelError, "no gradient"),
        (
            lambda energy, x, generator=None: x.sum().requires_grad_(),
            ModelError,
            "no gradient in the parameters that the optimizer holds",
        ),
        (lambda energy, x, generator=None: energy(x), ShapeError, r"shape \(50,\).*mean over"),
        (lambda energy, x, generator=None: 0.5, ShapeError, "0.5, but one scalar tensor"),
    ],
    ids=["detached", "elsewhere", "vector", "number"],
)
def test_refuses_losses_that_train_nothing(objective, error, message):
    with pytest.raises(error, match=message):
        _fit(MLPEnergy(2), torch.randn(50, 2), objective=objective)


class Poisoned:
    """Turns bad at the third step, in the loss or in its gradient only."""

    def __init__(self, spoil):
        self.spoil, self.step = spoil, 0

    def __call__(self, energy, x, *, generator=None):
        self.step += 1
        loss = OBJECTIVE(energy, x, generator=generator)
        return self.spoil(loss) if self.step == 3 else loss


@pytest.mark.parametrize(
    "spoil",
    [
        lambda loss: loss * torch.nan,
        lambda loss: loss + torch.inf,
        lambda loss: loss + 0 * (loss - loss).abs().sqrt(),
    ],
    ids=["nan", "infinite", "gradient"],
)
def test_stops_before_a_bad_gradient_spoils_the_parameters(spoil):
    x = torch.randn(50, 2)
    energies = []
    for num_steps, objective in ((2, OBJECTIVE), (9, Poisoned(spoil))):
        torch.manual_seed(0)
        energies.append(MLPEnergy(2))
        if num_steps == 9:
            with pytest.raises(NonFiniteError, match=r"step 3: .* of the step before are kept"):
                _fit(energies[1], x, objective=objective, num_steps=9, generator=_generator())
        else:
            _fit(energies[0], x, num_steps=2, generator=_generator())
    for good, kept in zip(*(energy.parameters() for energy in energies), strict=True):
        assert torch.equal(good, kept)


def test_errors_of_the_objective_say_the_step():
    energy = MLPEnergy(2)
    optimizer = torch.optim.SGD(energy.parameters(), lr=1e300)
    with pytest.raises(NonFiniteError, match=r"step \d: .*energy.*learning rate"):
        _fit(energy, torch.randn(50, 2), num_steps=5, optimizer=optimizer)
