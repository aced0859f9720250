"""The targets in JAX and NumPyro: for NumPyro, BlackJAX and hand-written JAX; float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer.util import initialize_model

from tests.benchmarks.targets import Data, Target

Potential = Callable[[Any], Any]


class Unconstrained(NamedTuple):
    """One chain's potential over unconstrained positions."""

    potential: Potential
    constrain: Callable[[Any], dict[str, Any]]
    example: Any


def model_of(target: Target) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """A NumPyro model and its arguments."""
    return globals()[target.builder], tuple(jnp.asarray(v) for v in target.data.values())


def energy_of(target: Target) -> tuple[Potential, int]:
    """A function of one point, and the length of the point."""
    energy: tuple[Potential, int] = globals()[target.builder](target.data)
    return energy


def unconstrained(target: Target) -> Unconstrained:
    """A potential for engines that know no models."""
    if target.is_energy:
        energy, dim = energy_of(target)
        return Unconstrained(energy, lambda x: {"x": x}, jnp.zeros(dim))
    model, args = model_of(target)
    info = initialize_model(jax.random.PRNGKey(0), model, model_args=args)
    return Unconstrained(info.potential_fn, info.postprocess_fn, info.param_info.z)


def starts(example: Any, num_chains: int, key: Any) -> Any:
    """Uniform on [-2, 2], as NumPyro and Stan have it."""
    leaves, structure = jax.tree.flatten(example)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.uniform(k, (num_chains, *leaf.shape), minval=-2.0, maxval=2.0)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def eight_schools(effects: Any, errors: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", 8):
        eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * eta, errors), obs=effects)


def logistic_regression(x: Any, y: Any) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.5).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def hierarchical(group: Any, x: Any, y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(2.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("groups", 50):
        intercept = numpyro.sample("intercept", dist.Normal(mu, tau))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(intercept[group] + slope * x, sigma), obs=y)


def gaussian(data: Data) -> tuple[Potential, int]:
    precision = jnp.asarray(data["scale"] ** -2.0)
    return lambda x: 0.5 * (precision * x**2).sum(), len(data["scale"])


def mlp(data: Data) -> tuple[Potential, int]:
    weights = [jnp.asarray(data[f"weight_{layer}"]) for layer in range(3)]
    biases = [jnp.asarray(data[f"bias_{layer}"]) for layer in range(3)]

    def energy(x: Any) -> Any:
        hidden = jax.nn.silu(weights[0] @ x + biases[0])
        hidden = jax.nn.silu(weights[1] @ hidden + biases[1])
        return (weights[2] @ hidden + biases[2])[0] + 0.5 * (x**2).sum()

    return energy, weights[0].shape[1]


def funnel(data: Data) -> tuple[Potential, int]:
    dim, scale = int(data["dim"]), float(data["scale"])

    def energy(x: Any) -> Any:
        squares = (x[1:] ** 2).sum()
        return 0.5 * (x[0] / scale) ** 2 + 0.5 * jnp.exp(-x[0]) * squares + 0.5 * (dim - 1) * x[0]

    return energy, dim
