"""Trees of NUTS against those of NumPyro, which is installed with the extra ``bench``."""

from __future__ import annotations

import pytest
import torch

from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import NUTS
from pyro_ebm.potentials.energy import EnergyPotential
from tests.statistics import Rejected, assert_same_mean

numpyro = pytest.importorskip("numpyro")
jax = pytest.importorskip("jax")

PRECISION = torch.tensor([[1.0, 0.6, 0.0], [0.6, 2.0, 0.3], [0.0, 0.3, 40.0]])
NUM_CHAINS = 2000
EXTRA = {"num_steps": "n_steps", "accept_prob": "acceptance_rate"}
"""NumPyro's names and ours."""


def _start() -> torch.Tensor:
    return (torch.linalg.cholesky(PRECISION.inverse()) @ torch.randn(3, NUM_CHAINS)).T


def _theirs(start: torch.Tensor, step_size: float) -> dict[str, torch.Tensor]:
    """One transition of each chain."""
    with jax.enable_x64():
        precision = jax.numpy.asarray(PRECISION.numpy())
        kernel = numpyro.infer.NUTS(
            potential_fn=lambda x: 0.5 * x @ precision @ x,
            step_size=step_size,
            adapt_step_size=False,
            adapt_mass_matrix=False,
        )
        mcmc = numpyro.infer.MCMC(
            kernel,
            num_warmup=0,
            num_samples=1,
            num_chains=NUM_CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )
        starts = jax.numpy.asarray(start.numpy())
        mcmc.run(jax.random.PRNGKey(0), init_params=starts, extra_fields=tuple(EXTRA))
        found = mcmc.get_extra_fields()
    return {ours: torch.tensor(found[name].tolist()).double() for name, ours in EXTRA.items()}


def _ours(start: torch.Tensor, step_size: float) -> dict[str, torch.Tensor]:
    """One transition of each chain."""
    potential = EnergyPotential(GaussianEnergy(torch.zeros(3), PRECISION.inverse()))
    kernel = NUTS(step_size=step_size)
    state = kernel.init(potential, start)
    found = {name: torch.full((NUM_CHAINS,), torch.nan) for name in EXTRA.values()}
    while bool(found["n_steps"].isnan().any()):
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        for name, values in found.items():
            first = info.finished & values.isnan()
            values[first] = getattr(info, name)[first].double()
    return found


@pytest.mark.parametrize("step_size", [0.05, 0.2])
@pytest.mark.parametrize("name", EXTRA.values())
def test_trees_are_as_large(name, step_size):
    ours, theirs = _ours(_start(), step_size)[name], _theirs(_start(), step_size)[name]
    assert_same_mean(ours[:, None], theirs[:, None])


def test_trees_of_another_step_size_are_told_apart():
    ours, theirs = _ours(_start(), 0.2)["n_steps"], _theirs(_start(), 0.17)["n_steps"]
    with pytest.raises(Rejected):
        assert_same_mean(ours[:, None], theirs[:, None])
