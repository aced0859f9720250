"""Models with every kind of site that a run can hold, for the tests of its export."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

Y = torch.tensor([28.0, 8.0, -3.0, 7.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0])


def schools(y=Y, errors=ERRORS):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.deterministic("is_good", theta > 5.0)
        pyro.sample("y", dist.Normal(theta, errors), obs=y)
    pyro.deterministic("spread", tau.square())


SCALE = 2.5
MASK = torch.tensor([True, False, True])
GRID = torch.arange(12.0).reshape(2, 3, 2)
COUNTS = torch.tensor([3, 0, 4])


def scaled_and_masked():
    """A grid of plates with vectors in its cells, a scale, a mask, and a site beside them."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    columns = pyro.plate("column", 3, dim=-1)
    with (
        pyro.plate("row", 2, dim=-2),
        columns,
        poutine.scale(scale=SCALE),
        poutine.mask(mask=MASK),
    ):
        pyro.sample("x", dist.Normal(loc, 3.0).to_event(1), obs=GRID)
    with columns:
        pyro.sample("count", dist.Poisson(loc.sum().exp()), obs=COUNTS)
    pyro.sample("total", dist.Normal(loc[0], 1.0), obs=torch.tensor(0.5))
