"""Targets that no textbook has: finite draws where possible, a flag or an error where not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pyro_ebm.core.checks import NonFiniteError, StepSizeError
from pyro_ebm.kernels import (
    HMC,
    MALA,
    MCLACHLAN,
    NUTS,
    ROTATIONS,
    ChEESHMC,
    PreconditionedMALA,
    ReplicaExchange,
)
from tests.sampling.runs import PlainEnergy, cut_short, driver
from tests.statistics import assert_chain_means

KERNELS = {
    "MALA": MALA,
    "PreconditionedMALA": PreconditionedMALA,
    "HMC": HMC,
    "NUTS": lambda target: NUTS(target, max_tree_depth=4),
    "NUTS, McLachlan": lambda target: NUTS(target, max_tree_depth=4, integrator=MCLACHLAN),
    "NUTS, rotations": lambda target: NUTS(target, max_tree_depth=4, integrator=ROTATIONS),
    "ChEES": lambda target: ChEESHMC(target, max_num_steps=60),
    "ReplicaExchange": lambda target: ReplicaExchange(
        NUTS(max_tree_depth=4), target=target, num_replicas=3, smallest_beta=0.3
    ),
}
FAST = {"MALA", "NUTS"}
every_kernel = pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(kernel, id=name, marks=[] if name in FAST else pytest.mark.slow)
        for name, kernel in KERNELS.items()
    ],
)
NUM_CHAINS = 32


def _bowl(x):
    return 0.5 * x.square().sum(-1)


def _nan_slope(x):
    """The bowl, whose slope is NaN where the first coordinate is above 1."""
    return _bowl(x) + torch.where(x[..., 0] > 1.0, 0.0, (1.0 - x[..., 0]).sqrt() * 0.0)


def _walled(x):
    return torch.where(x[..., 0] > 0.5, math.inf, _bowl(x))


def _bottomless(x):
    return torch.where(x[..., 0] > 0.5, -math.inf, _bowl(x))


def _steps(x):
    """Level but for jumps, so that slopes say nothing."""
    return x.square().sum(-1).floor().detach() + 0.0 * x.sum(-1)


def _run(kernel, energy, **options):
    settings = {"num_chains": NUM_CHAINS} | options
    mcmc = driver(kernel(PlainEnergy(energy, 2)), 40, 60, **settings)
    mcmc.run()
    return mcmc


def _draws(mcmc):
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    assert draws.shape[:2] == (NUM_CHAINS, 40)
    assert bool(draws.isfinite().all())
    return draws


@every_kernel
@pytest.mark.parametrize(
    ("energy", "edge"), [(_nan_slope, 1.0), (_walled, 0.5), (_bottomless, 0.5)]
)
def test_no_draw_comes_from_where_nothing_is_known(kernel, energy, edge):
    mcmc = _run(kernel, energy)
    draws = _draws(mcmc)
    assert float(draws[..., 0].max()) <= edge
    below = torch.special.ndtr(torch.tensor(edge))
    assert_chain_means(draws[..., 0], -math.exp(-0.5 * edge**2) / math.sqrt(2 * math.pi) / below)
    assert int(mcmc.chains.stats["diverging"].sum()) > 0


@every_kernel
def test_jumps_without_slopes_are_sampled(kernel):
    """Of the law there is nothing to learn from gradients; the tests of acceptance see to it."""
    mcmc = _run(kernel, _steps)
    inner = _draws(mcmc).square().sum(-1) < 1.0
    # The rings 0 <= r^2 < 1, 1 <= r^2 < 2, ... have equal areas.
    assert_chain_means(inner.double(), 1.0 - math.exp(-1.0))


@every_kernel
def test_a_direction_without_a_scale_is_an_error_or_seen_in_the_draws(kernel):
    mcmc = driver(kernel(PlainEnergy(lambda x: 0.5 * x[..., 0].square(), 2)), 40, 60, num_chains=32)
    error, _ = cut_short(mcmc)
    if error is not None:
        assert isinstance(error, (NonFiniteError, StepSizeError))
        return
    spread = _draws(mcmc).std(dim=(0, 1))
    assert float(spread[1]) > 3.0 * float(spread[0])


def _thin(kernel, width):
    slopes = torch.tensor([1.0, 1.0 / width])
    return _run(
        kernel,
        lambda x: 0.5 * (x * slopes).square().sum(-1),
        initial_params={"x": torch.randn(NUM_CHAINS, 2) / slopes},
    )


@every_kernel
def test_a_coordinate_that_hardly_varies_gets_a_scale(kernel):
    mcmc = _thin(kernel, width=1e-6)
    draws = _draws(mcmc)
    scale = mcmc.kernel.scale
    diagonal = scale.diagonal() if scale.ndim == 2 else scale
    assert bool((diagonal > 0).all())
    assert 0.3e-6 < float(draws[..., 1].std()) < 3e-6
    assert 0.3 < float(draws[..., 0].std()) < 3.0


@every_kernel
def test_a_coordinate_too_thin_for_any_step_is_named(kernel):
    with pytest.raises(StepSizeError, match="finds no step size"):
        _thin(kernel, width=1e-12)


@every_kernel
def test_a_scale_of_zero_is_an_error(kernel):
    with pytest.raises(ValueError, match="scale"):
        replace(kernel(PlainEnergy(_bowl, 2)), scale=torch.tensor([1.0, 0.0]))


@every_kernel
def test_one_dead_chain_is_named_and_harms_no_other(kernel):
    """It starts where every step that suits the others leads to a wall."""

    def energy(x):
        far = x[..., 0] > 50.0
        hole = (x - torch.tensor([100.0, 0.0])).abs().amax(-1) > 1e-6
        return torch.where(far, torch.where(hole, math.inf, 0.0 * x.sum(-1)), _bowl(x))

    starts = torch.randn(NUM_CHAINS, 2)
    starts[0] = torch.tensor([100.0, 0.0])
    mcmc = _run(kernel, energy, initial_params={"x": starts})
    draws = _draws(mcmc)
    stats = mcmc.chains.stats
    is_dead = bool((draws[0] == starts[0]).all())
    assert mcmc.num_restarted > 0 or (is_dead and float(stats["acceptance_rate"][0].max()) < 0.01)
    assert 0.5 < float(draws[1:].var()) < 1.5
