"""Expectations and variances of gradient estimates by running through every outcome."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_ebm.estimators._sites import innermost, is_draw, is_latent


class Moments(NamedTuple):
    """Exact mean and variance of a gradient estimate, flattened over the parameters."""

    mean: Tensor
    variance: Tensor


class ForcedDraws(Messenger):
    """Give the sites their values, in order where a site is drawn several times."""

    def __init__(self, values: dict[str, list[Tensor]]):
        super().__init__()
        self.values = {name: deque(queue) for name, queue in values.items()}

    def _pyro_sample(self, msg):
        if is_latent(msg) and not msg["done"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]].popleft()
            msg["done"] = True


class ForcedNoise(Messenger):
    """Draw ``loc + scale * noise`` (``scale_tril`` where there is one), with its path."""

    def __init__(self, noise: Tensor):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        if not is_draw(msg) or msg["done"]:
            return
        base = innermost(msg["fn"])
        scaled = (
            (base.scale_tril @ self.noise.unsqueeze(-1)).squeeze(-1)
            if hasattr(base, "scale_tril")
            else base.scale * self.noise
        )
        msg["value"] = (base.loc + scaled).expand(msg["fn"].shape())
        msg["done"] = True


def gradient(elbo, model, guide, parameters: list[Tensor], *args) -> Tensor:
    """Estimate of the gradient of the ELBO (not of the loss)."""
    loss = elbo.differentiable_loss(model, guide, *args)
    slopes = torch.autograd.grad(-loss, parameters, allow_unused=True)
    return torch.cat(
        [
            torch.zeros(parameter.numel()) if slope is None else slope.reshape(-1)
            for slope, parameter in zip(slopes, parameters, strict=True)
        ]
    )


def moments(weights: Tensor, gradients: Tensor) -> Moments:
    mean = weights @ gradients
    return Moments(mean, weights @ (gradients - mean).square())


def binary_outcomes(shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, Tensor]]:
    """Every assignment of 0 and 1 to the named tensors."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    for bits in itertools.product([0.0, 1.0], repeat=sum(sizes)):
        chunks = torch.tensor(bits).split(sizes)
        yield {
            name: chunk.reshape(shape)
            for (name, shape), chunk in zip(shapes.items(), chunks, strict=True)
        }


class Structure(NamedTuple):
    """A model and guide whose latents are all binary, with the shapes of the guide's sites."""

    model: Callable[[], None]
    guide: Callable[[], None]
    parameters: list[Tensor]
    shapes: dict[str, tuple[int, ...]]


def traces_at(structure: Structure, outcome: dict[str, Tensor]):
    with ForcedDraws({name: [value] for name, value in outcome.items()}):
        guide = poutine.trace(structure.guide).get_trace()
    model = poutine.trace(poutine.replay(structure.model, trace=guide)).get_trace()
    return model, guide


def draw_probability(guide) -> Tensor:
    """Probability of the draws themselves: no scale, no mask."""
    log_probs = []
    for site in guide.nodes.values():
        if is_draw(site):
            law = site["fn"]
            law = law.base_dist if isinstance(law, MaskedDistribution) else law
            log_probs.append(law.log_prob(site["value"]).sum())
    return torch.stack(log_probs).sum().exp()


def exact_gradient(structure: Structure) -> Tensor:
    """Gradient of ``sum_z q(z) (log p - log q)``, by autograd through the sum."""
    elbo = torch.zeros(())
    for outcome in binary_outcomes(structure.shapes):
        model, guide = traces_at(structure, outcome)
        integrand = model.log_prob_sum() - guide.log_prob_sum()
        elbo = elbo + draw_probability(guide) * integrand
    slopes = torch.autograd.grad(elbo, structure.parameters)
    return torch.cat([slope.reshape(-1) for slope in slopes])


def estimator_moments(elbo, structure: Structure) -> Moments:
    """Mean and variance of the estimate over all draws of all particles."""
    single = [
        (outcome, draw_probability(traces_at(structure, outcome)[1]).detach())
        for outcome in binary_outcomes(structure.shapes)
    ]
    weights, gradients = [], []
    for particles in itertools.product(single, repeat=elbo.num_particles):
        weights.append(torch.stack([probability for _, probability in particles]).prod())
        values = arranged(elbo, [outcome for outcome, _ in particles])
        with ForcedDraws(values):
            estimate = gradient(elbo, structure.model, structure.guide, structure.parameters)
        gradients.append(estimate)
    return moments(torch.stack(weights), torch.stack(gradients))


def arranged(elbo, outcomes: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Values for the particles: one after the other, or stacked left of ``max_plate_nesting``."""
    if not elbo.vectorize_particles or elbo.num_particles == 1:
        return {name: [outcome[name] for outcome in outcomes] for name in outcomes[0]}
    nesting = elbo._plate_nesting
    return {
        name: [
            torch.stack(
                [
                    outcome[name].reshape((1,) * (nesting - outcome[name].ndim) + value.shape)
                    for outcome in outcomes
                ]
            )
        ]
        for name, value in outcomes[0].items()
    }


def hermite(num_nodes: int, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Nodes ``(n ** dim, dim)`` and weights of the standard normal law."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    weights = weights / weights.sum()
    grid = list(itertools.product(range(num_nodes), repeat=dim))
    points = torch.tensor([[nodes[i] for i in index] for index in grid])
    masses = torch.tensor([math.prod(weights[i] for i in index) for index in grid])
    return points, masses
