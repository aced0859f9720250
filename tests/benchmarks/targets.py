"""The targets as numbers: what every engine is given, whatever framework it is written in.

Data and network weights are drawn once, with NumPy and a fixed seed, and reach each engine's
process as one ``.npz`` file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SEED = 20240229
HIDDEN = 128

Array = np.ndarray[Any, Any]
Data = dict[str, Array]


class Target(NamedTuple):
    """What is sampled.

    ``builder`` is the function of that name in ``engines/torch_targets.py``,
    ``jax_targets.py`` and ``pymc_targets.py`` that writes the target down.
    """

    name: str
    title: str
    builder: str
    data: Data
    num_draws: int = 1000
    is_energy: bool = False


def eight_schools() -> Target:
    """Rubin (1981)."""
    effects = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    title = "Eight schools, non-centred (10 parameters)"
    return Target("eight_schools", title, "eight_schools", {"effects": effects, "errors": errors})


def logistic_regression() -> Target:
    """Neighbouring columns have the correlation 0.9."""
    generator = np.random.default_rng(SEED)
    columns = np.arange(20)
    correlation = 0.9 ** np.abs(np.subtract.outer(columns, columns))
    x = generator.normal(size=(1000, 20)) @ np.linalg.cholesky(correlation).T
    logits = x @ generator.normal(size=20)
    y = (generator.uniform(size=1000) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    title = "Logistic regression, 1000 x 20, columns correlated"
    return Target("logistic_regression", title, "logistic_regression", {"x": x, "y": y}, 500)


def gaussian() -> Target:
    """Standard deviations evenly spaced in the logarithm."""
    title = "Gaussian in 10-D, scales 0.1 to 1"
    return Target("gaussian", title, "gaussian", {"scale": np.geomspace(0.1, 1.0, 10)}, 1000, True)


def hierarchical() -> Target:
    """Fifty groups of ten observations, one slope for all."""
    generator = np.random.default_rng(SEED)
    group = np.repeat(np.arange(50), 10)
    x = generator.normal(size=500)
    intercepts = 1.0 + 0.7 * generator.normal(size=50)
    y = intercepts[group] + 0.5 * x + 0.8 * generator.normal(size=500)
    title = "Hierarchical regression, 50 groups (54 parameters)"
    return Target("hierarchical", title, "hierarchical", {"group": group, "x": x, "y": y})


def mlp(dim: int, num_draws: int) -> Target:
    """SiLU network with two hidden layers of 128 and a standard Gaussian base."""
    generator = np.random.default_rng(SEED)
    data = {}
    for layer, (fan_in, fan_out) in enumerate(((dim, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1))):
        gain = 2.0 / np.sqrt(fan_in)
        data[f"weight_{layer}"] = gain * generator.normal(size=(fan_out, fan_in))
        data[f"bias_{layer}"] = 0.5 * generator.normal(size=fan_out)
    return Target(f"mlp_{dim}", f"MLP energy in {dim}-D", "mlp", data, num_draws, True)


def funnel() -> Target:
    """Neal's funnel as ``FunnelEnergy`` has it.

    At the scale 3 no engine here reaches an R-hat of 1.01, so there would be nothing to compare.
    """
    data = {"dim": np.array(10), "scale": np.array(1.0)}
    return Target("funnel", "Funnel in 10-D, scale 1", "funnel", data, 3000, True)


def all_targets() -> list[Target]:
    """In the order of the table."""
    return [
        eight_schools(),
        logistic_regression(),
        gaussian(),
        hierarchical(),
        mlp(2, 1000),
        mlp(64, 500),
        funnel(),
    ]


def save(target: Target, folder: Path) -> Path:
    """Write the numbers where a worker reads them."""
    path = folder / f"{target.name}.npz"
    np.savez(path, **target.data)
    return path


def load(path: Path, builder: str, *, is_energy: bool) -> Target:
    """What :func:`save` wrote; the worker gives the draws."""
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    return Target(path.stem, path.stem, builder, data, is_energy=is_energy)
