"""The ladder of replica exchange: swap rates in closed form, and what warm-up makes of it."""

from __future__ import annotations

import pytest
import torch

from pyro_ebm import MCMC
from pyro_ebm.core.checks import NonFiniteError, ShapeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, ReplicaExchange
from pyro_ebm.kernels._ladder import LadderTuner, equalised
from pyro_ebm.kernels._replicas import swap_acceptance
from pyro_ebm.potentials.energy import EnergyPotential
from tests.kernels.transitions import gaussian_potential
from tests.statistics import assert_mean

BETAS = torch.tensor([1.0, 0.5, 0.2])


def _swap_rates(betas):
    """Of a Gaussian in two dimensions, where ``U`` is exponential."""
    return 2 * betas[1:] / (betas[1:] + betas[:-1])


def test_swap_rates_on_a_gaussian():
    exact = torch.randn(50_000, 3, 2) * BETAS.rsqrt().unsqueeze(-1)
    rates = swap_acceptance(BETAS.expand(50_000, 3), 0.5 * exact.square().sum(dim=-1))
    assert_mean(rates, _swap_rates(BETAS))


def test_equal_rejection_is_the_fixed_point():
    """On a Gaussian that is a geometric ladder."""
    betas = torch.linspace(1.0, 0.05, 6)
    for _ in range(60):
        betas = equalised(betas, 1 - _swap_rates(betas))
    torch.testing.assert_close(betas, 0.05 ** (torch.arange(6.0) / 5), rtol=1e-6, atol=0)


def _tuned_ladder(potential, kernel, num_draws):
    tuner = LadderTuner(tunes_betas=True, tunes_stretches=True)
    state = kernel.init(potential, torch.randn(200, potential.dim))
    for _ in range(num_draws):
        state, info = kernel.step(potential, state, kernel.noise(state, None))
        kernel = tuner.update(kernel, state, info)
    return tuner.finish(kernel)


def test_adaptation_makes_all_pairs_reject_as_often():
    potential = gaussian_potential(torch.eye(2))
    start = ReplicaExchange(MALA(step_size=1.0), betas=torch.linspace(1.0, 0.05, 6))
    assert float(_swap_rates(start.betas).min()) < 0.4
    tuned = _tuned_ladder(potential, start, 320)
    exact = _swap_rates(tuned.betas)
    assert float(exact.max() - exact.min()) < 0.03
    assert tuned.swap_rates.tolist() == pytest.approx(exact.tolist(), abs=0.03)
    assert tuned.stretches.tolist() == pytest.approx(tuned.betas.rsqrt().tolist(), rel=0.1)


def test_stretches_make_all_replicas_accept_as_often():
    """On a quartic the hot replicas have a curvature of ``beta^(1/2)``, not of ``beta``."""
    potential = EnergyPotential(lambda x: 0.25 * x.pow(4), ())
    kernel = ReplicaExchange(MALA(step_size=1.0), betas=torch.tensor([1.0, 0.1, 0.01]))
    tuned = _tuned_ladder(potential, kernel, 320)
    tuned = ReplicaExchange(MALA(step_size=1.0), betas=tuned.betas, stretches=tuned.stretches)
    spreads = []
    for each in (kernel, tuned):
        state, rates = each.init(potential, torch.randn(500, 1)), []
        for _ in range(100):
            state, _ = each.step(potential, state, each.noise(state, None))
            rates.append(state.acceptance.mean(dim=0))
        mean = torch.stack(rates[20:]).mean(dim=0)
        spreads.append(float(mean.max() - mean.min()))
    assert spreads[0] > 0.2
    assert spreads[1] < 0.05
    excess = tuned.stretches * tuned.betas.sqrt()
    assert excess.tolist() == pytest.approx((tuned.betas**0.25).tolist(), rel=0.1)


def test_too_few_replicas_are_warned_of():
    kernel = ReplicaExchange(MALA(GaussianEnergy.standard(50)), num_replicas=3)
    with pytest.warns(UserWarning, match=r"of the 3 replicas .* num_replicas=\d"):
        MCMC(kernel, 5, 100, num_chains=16, disable_progbar=True).run()


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (ValueError, {"num_replicas": 1}),
        (ValueError, {"smallest_beta": 1.0}),
        (ValueError, {"betas": torch.tensor([0.9, 0.5])}),
        (ValueError, {"betas": torch.tensor([1.0, 0.5, 0.5])}),
        (ShapeError, {"betas": torch.tensor([1.0])}),
        (ShapeError, {"betas": [1.0, 0.5]}),
        (ShapeError, {"betas": BETAS, "stretches": torch.ones(2)}),
        (NonFiniteError, {"betas": BETAS, "stretches": torch.tensor([2.0, 1.0, 1.0])}),
    ],
)
def test_wrong_ladders_are_named(error, wrong):
    with pytest.raises(error, match=list(wrong)[-1]):
        ReplicaExchange(MALA(), **wrong)
