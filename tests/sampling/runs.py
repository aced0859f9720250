"""Short runs of the driver, and energies for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm.kernels import MALA, Langevin, UnderdampedLangevin
from pyro_ebm.sampling import MCMC

KERNELS = [MALA, Langevin, UnderdampedLangevin]


class PlainEnergy:
    """Any function with an event shape."""

    def __init__(self, function: Callable[[Tensor], Tensor], *event_shape: int) -> None:
        self.function, self.event_shape = function, torch.Size(event_shape)

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


def half_square(x: Tensor) -> Tensor:
    """``x^2 / 2``, of a scalar event."""
    return 0.5 * x.square()


STANDARD = PlainEnergy(half_square)


def driver(kernel: Any, num_samples: int = 10, warmup_steps: int = 20, **settings: Any) -> MCMC:
    """A driver without a progress bar."""
    return MCMC(kernel, num_samples, warmup_steps, **{"disable_progbar": True, **settings})


def run(kernel: Any, num_samples: int = 10, warmup_steps: int = 20, **settings: Any) -> MCMC:
    """The same, run on a target without arguments."""
    mcmc = driver(kernel, num_samples, warmup_steps, **settings)
    mcmc.run()
    return mcmc


def cut_short(mcmc: MCMC, *args: Any) -> tuple[BaseException | None, list[str]]:
    """Run, and return what was raised and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            mcmc.run(*args)
            error = None
        except (Exception, KeyboardInterrupt) as raised:
            error = raised
    return error, [str(warning.message) for warning in caught]


def regression(x: Tensor, y: Tensor | None = None, *, width: float = 1.0) -> None:
    """A positive, a vector and a plate of latent values, and two deterministic sites."""
    scale = pyro.sample("scale", dist.HalfNormal(width))
    weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.deterministic("ratio", weights / scale.unsqueeze(-1))
    with pyro.plate("data", len(x)):
        effect = pyro.sample("effect", dist.Normal(0.0, scale))
        mean = pyro.deterministic("mean", x @ weights + effect)
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def regression_data() -> tuple[Tensor, Tensor]:
    """Six points."""
    x = torch.stack([torch.linspace(-1.0, 1.0, 6), torch.ones(6)], dim=-1)
    return x, torch.tensor([-1.0, -0.2, 0.4, 0.1, 0.9, 1.5])
