"""The targets in PyMC: for nutpie; float64."""

from __future__ import annotations

from typing import Any

import pymc as pm
import pytensor.tensor as pt

from tests.benchmarks.targets import Data, Target


def model_of(target: Target) -> Any:
    """A PyMC model."""
    with pm.Model() as model:
        globals()[target.builder](target.data)
    return model


def eight_schools(data: Data) -> None:
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    eta = pm.Normal("eta", 0.0, 1.0, shape=8)
    pm.Normal("y", mu + tau * eta, data["errors"], observed=data["effects"])


def logistic_regression(data: Data) -> None:
    beta = pm.Normal("beta", 0.0, 2.5, shape=data["x"].shape[1])
    pm.Bernoulli("y", logit_p=pt.dot(data["x"], beta), observed=data["y"].astype("int64"))


def hierarchical(data: Data) -> None:
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfNormal("tau", 2.0)
    slope = pm.Normal("slope", 0.0, 2.5)
    sigma = pm.HalfNormal("sigma", 2.0)
    intercept = pm.Normal("intercept", mu, tau, shape=50)
    location = intercept[data["group"]] + slope * data["x"]
    pm.Normal("y", location, sigma, observed=data["y"])


def gaussian(data: Data) -> None:
    pm.Normal("x", 0.0, data["scale"])


def mlp(data: Data) -> None:
    x = pm.Normal("x", 0.0, 1.0, shape=data["weight_0"].shape[1])
    hidden = x
    for layer in range(2):
        inner = pt.dot(data[f"weight_{layer}"], hidden) + data[f"bias_{layer}"]
        hidden = inner * pt.sigmoid(inner)
    value = pt.dot(data["weight_2"], hidden) + data["bias_2"]
    pm.Potential("network", -value[0])


def funnel(data: Data) -> None:
    dim, scale = int(data["dim"]), float(data["scale"])
    x = pm.Flat("x", shape=dim)
    energy = 0.5 * (x[0] / scale) ** 2 + 0.5 * pt.exp(-x[0]) * pt.sum(x[1:] ** 2)
    pm.Potential("energy", -energy - 0.5 * (dim - 1) * x[0])
