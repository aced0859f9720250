"""Learning signals follow plates: exact, by enumeration of binary latents."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_ebm.estimators import LeaveOneOut, ScoreFunctionELBO, score_function
from tests.estimators.outcomes import (
    ForcedDraws,
    Structure,
    binary_outcomes,
    estimator_moments,
    exact_gradient,
    gradient,
)
from tests.estimators.structures import (
    DATA,
    IDS,
    STRUCTURES,
    annealed,
    crossing_plates,
    global_and_local,
    independent_data,
    leaf,
    masked_by_distribution,
    nested_plates,
    scaled_minibatch,
    sequential_plate,
)

NESTING = 2


class PickedRows(Messenger):
    """Give every subsampled plate these rows."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def _pyro_sample(self, msg):
        if site_is_subsample(msg):
            msg["value"] = self.rows
            msg["done"] = True


def charge_everything(term, groups):
    """The mutant without plates: unbiased, but noisy."""
    del term
    return sum(cost.sum(dim=tuple(range(1, cost.ndim)), keepdim=True) for cost in groups.values())


def charge_own_plates_only(term, groups):
    """The mutant that forgets what is upstream and downstream of the plate: biased."""
    return sum(cost for (plates, _), cost in groups.items() if plates == term.plates)


@pytest.mark.parametrize("build", STRUCTURES, ids=IDS)
def test_unbiased(build):
    structure = build()
    result = estimator_moments(ScoreFunctionELBO(), structure)
    torch.testing.assert_close(result.mean, exact_gradient(structure))


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize(
    "build",
    [global_and_local, sequential_plate, masked_by_distribution],
    ids=["global-and-local", "sequential", "masked-distribution"],
)
def test_leave_one_out_is_unbiased_with_plates(build, vectorize):
    structure = build()
    elbo = ScoreFunctionELBO(
        LeaveOneOut(), 2, vectorize_particles=vectorize, max_plate_nesting=NESTING
    )
    result = estimator_moments(elbo, structure)
    torch.testing.assert_close(result.mean, exact_gradient(structure))


def test_charging_own_plates_only_is_biased(monkeypatch):
    structure = global_and_local()
    monkeypatch.setattr(score_function, "_signal", charge_own_plates_only)
    bias = estimator_moments(ScoreFunctionELBO(), structure).mean - exact_gradient(structure)
    assert bias.abs().max() > 0.1


@pytest.mark.parametrize(
    "elbo",
    [
        ScoreFunctionELBO(),
        ScoreFunctionELBO(LeaveOneOut(), 2, max_plate_nesting=1),
        ScoreFunctionELBO(LeaveOneOut(), 2, vectorize_particles=False),
    ],
)
def test_the_variance_of_one_datum_does_not_grow_with_the_plate(elbo):
    alone, together = independent_data(1), independent_data(2)
    expected = estimator_moments(elbo, alone)
    result = estimator_moments(elbo, together)
    torch.testing.assert_close(result.mean[0], expected.mean[0])
    torch.testing.assert_close(result.variance[0], expected.variance[0])


def test_charging_everything_is_unbiased_but_its_variance_grows(monkeypatch):
    expected = estimator_moments(ScoreFunctionELBO(), independent_data(1))
    monkeypatch.setattr(score_function, "_signal", charge_everything)
    result = estimator_moments(ScoreFunctionELBO(), independent_data(2))
    torch.testing.assert_close(result.mean[0], expected.mean[0])
    assert result.variance[0] > 1.5 * expected.variance[0]


def test_data_of_a_sequential_plate_are_charged_like_those_of_a_vectorised_one():
    logits = leaf(0.4, -0.9)

    def model():
        for i in pyro.plate("data", 2):
            z = pyro.sample(f"z_{i}", dist.Bernoulli(0.3))
            pyro.sample(f"x_{i}", dist.Normal(1.3 * z, 0.8), obs=DATA[i])

    def guide():
        for i in pyro.plate("data", 2):
            pyro.sample(f"z_{i}", dist.Bernoulli(logits=logits[i]))

    looped = Structure(model, guide, [logits], {"z_0": (), "z_1": ()})
    result = estimator_moments(ScoreFunctionELBO(), looped)
    expected = estimator_moments(ScoreFunctionELBO(), independent_data(2))
    torch.testing.assert_close(result.mean, expected.mean[:2])
    torch.testing.assert_close(result.variance, expected.variance[:2])


def test_particles_are_charged_with_their_own_costs():
    """Otherwise the variance of the mean over two particles is not half of that of one."""
    structure = global_and_local()
    one = estimator_moments(ScoreFunctionELBO(), structure)
    two = estimator_moments(ScoreFunctionELBO(num_particles=2, max_plate_nesting=1), structure)
    torch.testing.assert_close(two.variance, one.variance / 2)


@pytest.mark.parametrize(
    "build",
    [STRUCTURES[0], global_and_local, nested_plates, crossing_plates, scaled_minibatch, annealed],
    ids=["independent", "global-and-local", "nested", "crossing", "minibatch", "annealed"],
)
def test_every_draw_gives_the_gradient_of_pyro(build):
    structure = build()
    for outcome in itertools.islice(binary_outcomes(structure.shapes), 0, None, 3):
        estimates = []
        for elbo in (ScoreFunctionELBO(), Trace_ELBO()):
            with ForcedDraws({name: [value] for name, value in outcome.items()}):
                estimates.append(
                    gradient(elbo, structure.model, structure.guide, structure.parameters)
                )
        torch.testing.assert_close(*estimates)


def test_random_minibatches_give_the_gradient_of_all_data():
    logits = leaf(0.4, -0.9, 0.1)
    data = torch.tensor([0.7, -1.1, 0.2])

    def model():
        with pyro.plate("data", 3, subsample_size=2) as rows:
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 0.8), obs=data[rows])

    def guide():
        with pyro.plate("data", 3, subsample_size=2) as rows:
            pyro.sample("z", dist.Bernoulli(logits=logits[rows]))

    means = []
    for rows in itertools.combinations(range(3), 2):
        with PickedRows(torch.tensor(rows)):
            structure = Structure(model, guide, [logits], {"z": (2,)})
            means.append(estimator_moments(ScoreFunctionELBO(), structure).mean)

    def full_model():
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 0.8), obs=data)

    def full_guide():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    full = Structure(full_model, full_guide, [logits], {"z": (3,)})
    torch.testing.assert_close(torch.stack(means).mean(dim=0), exact_gradient(full))


@pytest.mark.parametrize("vectorize", [True, False])
def test_all_particles_see_the_same_minibatch(vectorize):
    picked = []

    def model():
        with pyro.plate("data", 1000, subsample_size=2) as rows:
            picked.append(rows)
            pyro.sample("z", dist.Bernoulli(0.3))

    def guide():
        with pyro.plate("data", 1000, subsample_size=2):
            pyro.sample("z", dist.Bernoulli(0.5))

    elbo = ScoreFunctionELBO(LeaveOneOut(), 3, vectorize_particles=vectorize, max_plate_nesting=1)
    elbo.loss(model, guide)
    assert len(picked) == (1 if vectorize else 3)
    assert all(torch.equal(rows, picked[0]) for rows in picked)
