"""What cannot be summed out, each refused by name."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials import ModelPotential
from tests.enumerated_models import PARALLEL, TABLE, Y


def unmarked(y):
    pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "sequential"})


def infinite(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("k", dist.Poisson(loc.exp()), infer=PARALLEL)


def continuous(y):
    pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("loc", dist.Normal(0.0, 1.0), infer=PARALLEL)


def several_in_one_event(y):
    pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("k", dist.Bernoulli(torch.full((3,), 0.3)).to_event(1), infer=PARALLEL)


def randomly_chosen(y):
    pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL | {"num_samples": 5})


def without_plate(y):
    pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("k", dist.Bernoulli(torch.full((3,), 0.3)), infer=PARALLEL)


def only_discrete(y):
    k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
    pyro.sample("y", dist.Normal(k, 1.0), obs=y[0])


def branching(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
    pyro.sample("y", dist.Normal(loc if k > 0 else -loc, 1.0), obs=y[0])


def meeting_axes(y):
    """The two values of ``k`` are taken for the two data, which nobody else would notice."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
    pyro.sample("y", dist.Normal(loc + k, 1.0).expand([2]).to_event(1), obs=y[:2])


def outside_its_plate(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
    pyro.sample("y", dist.Normal(loc + k, 1.0), obs=y)


def summed_outside_its_plate(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
    pyro.sample("y", dist.Normal(loc + k, 1.0).to_event(1), obs=y)


def scaled(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)), poutine.scale(scale=2.0):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
        pyro.sample("y", dist.Normal(loc + k, 1.0), obs=y)


def support_of_a_discrete_site(y):
    k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
    pyro.sample("z", dist.Uniform(0.0, 1.0 + k))


def crossing_plates(y):
    """A sum over all assignments of one plate for each of the other: exponential."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
    with rows:
        a = pyro.sample("a", dist.Bernoulli(0.3), infer=PARALLEL)
    with columns:
        b = pyro.sample("b", dist.Bernoulli(0.4), infer=PARALLEL)
    with rows, columns:
        pyro.sample("y", dist.Normal(loc + a + b, 1.0), obs=TABLE)


REFUSED = [
    (unmarked, r"'k'.*discrete.*infer=\{\"enumerate\": \"parallel\"\}"),
    (infinite, r"'k' \(Poisson.*cannot be summed out"),
    (continuous, r"'loc' \(Normal.*cannot be summed out.*if it is continuous"),
    (several_in_one_event, r"'k' .*cannot be summed out.*put batches into plates"),
    (randomly_chosen, r"'k'.*num_samples"),
    (without_plate, r"'k' has the batch shape \(3,\).*axes \[-1\] are in no plate"),
    (only_discrete, r"discrete latent sites only.*infer_discrete"),
    (branching, r"not with all of them at once.*Boolean value of Tensor"),
    (meeting_axes, r"site 'y'.*same values where all are tried at once|not with all"),
    (outside_its_plate, r"site 'y'.*'k'"),
    (summed_outside_its_plate, r"site 'y'.*\['k'\]"),
    (scaled, r"site 'k' is scaled by 2"),
    (support_of_a_discrete_site, r"'z'.*its support, Interval.*depends on them"),
    (crossing_plates, r"\['a', 'b'\] cannot be summed out.*tree-structured"),
]


@pytest.mark.parametrize(("model", "message"), REFUSED, ids=lambda i: getattr(i, "__name__", ""))
def test_refused_by_name(model, message):
    with pytest.raises(ModelError, match=f"(?s){message}"):
        ModelPotential(model, Y)
