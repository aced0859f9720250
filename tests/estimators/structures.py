"""Models and guides with binary latents, for every way in which plates can lie."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from tests.estimators.outcomes import Structure

DATA = torch.tensor([0.7, -1.1])


def leaf(*values):
    return torch.tensor(values).requires_grad_()


def independent_data(size):
    logits, weight = leaf(*[0.4, -0.9][:size]), leaf(1.3)

    def model():
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(weight * z, 0.8), obs=DATA[:size])

    def guide():
        with pyro.plate("data", size):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    return Structure(model, guide, [logits, weight], {"z": (size,)})


def global_and_local():
    above, weights, weight = leaf(0.3), leaf(0.5, -0.7), leaf(0.9)

    def model():
        g = pyro.sample("g", dist.Bernoulli(0.4))
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Bernoulli(0.2 + 0.5 * g))
            pyro.sample("x", dist.Normal(weight * z - g, 0.8), obs=DATA)

    def guide():
        g = pyro.sample("g", dist.Bernoulli(logits=above[0]))
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Bernoulli(logits=weights * (1 + g)))

    return Structure(model, guide, [above, weights, weight], {"g": (), "z": (2,)})


def nested_plates():
    outer, inner = leaf(0.3, -0.2), leaf(0.5)

    def model():
        with pyro.plate("group", 2, dim=-1):
            g = pyro.sample("g", dist.Bernoulli(0.4))
            with pyro.plate("member", 2, dim=-2):
                z = pyro.sample("z", dist.Bernoulli(0.2 + 0.5 * g))
                data = torch.tensor([[0.1, 1.2], [-0.3, 0.4]])
                pyro.sample("x", dist.Normal(z + g, 1.0), obs=data)

    def guide():
        with pyro.plate("group", 2, dim=-1):
            g = pyro.sample("g", dist.Bernoulli(logits=outer))
            with pyro.plate("member", 2, dim=-2):
                pyro.sample("z", dist.Bernoulli(logits=inner * (1 - 2 * g)))

    return Structure(model, guide, [outer, inner], {"g": (2,), "z": (2, 2)})


def crossing_plates():
    rows, columns = leaf(0.3, -0.2), leaf(0.5, 0.1)
    data = torch.tensor([[0.1, 1.2], [-0.3, 0.4]])

    def model():
        by_row, by_column = pyro.plate("row", 2, dim=-2), pyro.plate("column", 2, dim=-1)
        with by_row:
            a = pyro.sample("a", dist.Bernoulli(0.4))
        with by_column:
            b = pyro.sample("b", dist.Bernoulli(0.7))
        with by_row, by_column:
            pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=data)

    def guide():
        with pyro.plate("row", 2, dim=-2):
            pyro.sample("a", dist.Bernoulli(logits=rows.unsqueeze(-1)))
        with pyro.plate("column", 2, dim=-1):
            pyro.sample("b", dist.Bernoulli(logits=columns))

    return Structure(model, guide, [rows, columns], {"a": (2, 1), "b": (2,)})


def sequential_plate():
    logits, above = leaf(0.4, -0.9), leaf(0.2)

    def model():
        g = pyro.sample("g", dist.Bernoulli(0.5))
        for i in pyro.plate("data", 2):
            z = pyro.sample(f"z_{i}", dist.Bernoulli(0.3))
            pyro.sample(f"x_{i}", dist.Normal(z - g, 0.8), obs=DATA[i])

    def guide():
        pyro.sample("g", dist.Bernoulli(logits=above[0]))
        for i in pyro.plate("data", 2):
            pyro.sample(f"z_{i}", dist.Bernoulli(logits=logits[i]))

    return Structure(model, guide, [logits, above], {"g": (), "z_0": (), "z_1": ()})


def twice_iterated_plate():
    """The same plate object goes on counting: its counters name no data any more."""
    logits = leaf(0.4, -0.9)

    def model():
        data = pyro.plate("data", 2)
        zs = [pyro.sample(f"z_{i}", dist.Bernoulli(0.3)) for i in data]
        for i in data:
            pyro.sample(f"x_{i}", dist.Normal(zs[i], 0.8), obs=DATA[i])

    def guide():
        for i in pyro.plate("data", 2):
            pyro.sample(f"z_{i}", dist.Bernoulli(logits=logits[i]))

    return Structure(model, guide, [logits], {"z_0": (), "z_1": ()})


def scaled_minibatch():
    logits = leaf(0.4, -0.9, 0.1)
    rows = torch.tensor([2, 0])

    def model():
        with pyro.plate("data", 3, subsample=rows):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 0.8), obs=DATA)

    def guide():
        with pyro.plate("data", 3, subsample=rows):
            pyro.sample("z", dist.Bernoulli(logits=logits[rows]))

    return Structure(model, guide, [logits], {"z": (2,)})


def annealed():
    """``poutine.scale`` weighs the costs, and leaves the law of the draws as it is."""
    structure = independent_data(2)

    def model():
        with poutine.scale(scale=0.3):
            structure.model()

    def guide():
        with poutine.scale(scale=0.7):
            structure.guide()

    return structure._replace(model=model, guide=guide)


def masked(mask_guide, mask_model):
    logits, above = leaf(0.4, -0.9), leaf(0.6)
    keep = torch.tensor([True, False])

    def model():
        g = pyro.sample("g", dist.Bernoulli(0.4))
        with pyro.plate("data", 2):
            z = pyro.sample("z", mask_model(dist.Bernoulli(0.3), keep))
            # The masked draw is seen by the likelihood: its score must not be masked.
            pyro.sample("x", dist.Normal(z + g, 0.8), obs=DATA)

    def guide():
        pyro.sample("g", dist.Bernoulli(logits=above[0]))
        with pyro.plate("data", 2):
            pyro.sample("z", mask_guide(dist.Bernoulli(logits=logits), keep))

    return Structure(model, guide, [logits, above], {"g": (), "z": (2,)})


def masked_by_distribution():
    return masked(lambda fn, keep: fn.mask(keep), lambda fn, keep: fn.mask(keep))


def masked_by_handler():
    structure = independent_data(2)
    keep = torch.tensor([True, False])

    def under_mask(program):
        def run():
            with poutine.mask(mask=keep):
                program()

        return run

    return structure._replace(model=under_mask(structure.model), guide=under_mask(structure.guide))


STRUCTURES = [
    lambda: independent_data(2),
    global_and_local,
    nested_plates,
    crossing_plates,
    sequential_plate,
    twice_iterated_plate,
    scaled_minibatch,
    annealed,
    masked_by_distribution,
    masked_by_handler,
]
IDS = [
    "independent",
    "global-and-local",
    "nested",
    "crossing",
    "sequential",
    "iterated-twice",
    "minibatch",
    "annealed",
    "masked-distribution",
    "masked-handler",
]
