"""The step size from which warm-up tunes, and how it follows the scale."""

from __future__ import annotations

import pytest
import torch

from pyro_ebm.core.checks import StepSizeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import HMC, MALA, NUTS
from pyro_ebm.potentials.energy import EnergyPotential
from pyro_ebm.sampling import warmup
from pyro_ebm.sampling.step_size import StepSizeSearch
from pyro_ebm.sampling.steps import eager_steps
from tests.kernels.transitions import acceptance_of_linear_step
from tests.sampling.runs import STANDARD, PlainEnergy


def generator():
    return torch.Generator().manual_seed(0)


def search_of(potential, source=None):
    return StepSizeSearch(eager_steps(potential), generator() if source is None else source)


def normal_state(kernel, width=1.0, num_chains=4096):
    potential = EnergyPotential(GaussianEnergy(torch.zeros(1), torch.tensor([[width**2]])))
    return potential, kernel.init(potential, width * torch.randn(num_chains, 1))


def exact_acceptance(step_size):
    """Of a leapfrog in a standard normal."""
    kept = 1 - step_size**2 / 2
    return acceptance_of_linear_step(
        torch.tensor([[kept, step_size], [-step_size * (1 - step_size**2 / 4), kept]])
    )


@pytest.mark.parametrize("kernel", [HMC, NUTS, MALA])
@pytest.mark.parametrize("width", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("start", [None, 0.3])
def test_the_step_found_is_accepted_at_the_target_rate(kernel, width, start):
    recipe = kernel(step_size=start)
    potential, state = normal_state(recipe, width)
    found = search_of(potential).find(recipe, state) / width
    # The step is found to 5 %, and the acceptance of 4096 chains to 4 of its standard errors: no
    # rate between 0 and 1 has a larger one than 0.5 / 64.
    assert exact_acceptance(found * 1.05) - 4 * 0.5 / 64 < recipe.target_accept_prob
    assert exact_acceptance(found / 1.05) + 4 * 0.5 / 64 > recipe.target_accept_prob


def test_all_steps_of_a_search_are_tried_with_the_same_noise():
    potential, state = normal_state(HMC())
    noises = []

    def step(kernel, state, noise):
        noises.append(state.front.momentum)
        return eager_steps(potential)(kernel, state, noise)

    source = generator()
    StepSizeSearch(step, source).find(HMC(), state)
    assert len(noises) > 3
    assert all(torch.equal(noise, noises[0]) for noise in noises)
    assert not torch.equal(source.get_state(), generator().get_state())


@pytest.mark.parametrize("num_chains", [1, 4096])
@pytest.mark.parametrize("kernel", [HMC, NUTS, MALA])
@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.8])
def test_a_tuned_step_follows_the_scale(kernel, ratio, num_chains):
    """With four times the scale it is a fourth, whatever one chain accepts at first."""
    potential, state = normal_state(kernel(), num_chains=num_chains)
    found = search_of(potential).find(kernel(), state)
    tuned, rescaled = (kernel(step_size=ratio * found, scale=torch.tensor([s])) for s in (1.0, 4.0))
    carried = search_of(potential).carry_over(tuned, rescaled, state)
    assert carried == pytest.approx(ratio * found / 4, rel=1e-6)


@pytest.mark.parametrize(("ratio", "kept"), [(0.4, 0.5), (2.5, 2.0), (1e3, 2.0)])
def test_a_step_tuned_elsewhere_is_brought_near_to_what_the_first_step_tells(ratio, kept):
    potential, state = normal_state(HMC())
    found = search_of(potential).find(HMC(), state)
    tuned, rescaled = (HMC(step_size=ratio * found, scale=torch.tensor([s])) for s in (1.0, 4.0))
    carried = search_of(potential).carry_over(tuned, rescaled, state)
    assert carried == pytest.approx(kept * found / 4, rel=0.1)


def test_without_a_new_scale_the_tuned_step_is_kept():
    potential, state = normal_state(HMC())
    tuned = HMC(step_size=1.3 * search_of(potential).find(HMC(), state))
    carried = search_of(potential).carry_over(tuned, tuned, state)
    assert carried == pytest.approx(tuned.step_size, rel=1e-12)


def test_every_window_of_warm_up_begins_with_what_was_carried_over(monkeypatch):
    potential, state = normal_state(HMC(), width=100.0, num_chains=64)
    begun, carried = [], []

    class Watched(warmup.DualAveraging):
        def __init__(self, step_size, *settings):
            begun.append(step_size)
            super().__init__(step_size, *settings)

    def carry_over(self, *arguments):
        carried.append(original(self, *arguments))
        return carried[-1]

    original = StepSizeSearch.carry_over
    monkeypatch.setattr(warmup, "DualAveraging", Watched)
    monkeypatch.setattr(StepSizeSearch, "carry_over", carry_over)
    warmup.WarmUp(HMC(), potential, generator()).run(state, 50, lambda state, info: None)
    assert len(warmup.windows(50)) == len(begun) == len(carried) + 1 == 4
    assert begun[1:] == carried


def test_a_search_that_cannot_end_is_named():
    """Where the step sizes begin at the end of their range, too."""
    potential = EnergyPotential(PlainEnergy(lambda x: 0 * x))
    for step_size in (1e-10, 1e10):
        kernel = MALA(step_size=step_size)
        state = kernel.init(potential, torch.zeros(4, 1))
        with pytest.raises(StepSizeError, match="stays above"):
            search_of(potential).find(kernel, state)


def test_the_search_leaves_the_chains_alone():
    potential = EnergyPotential(STANDARD)
    state = HMC().init(potential, torch.randn(8, 1))
    before = state.position.clone()
    search_of(potential).find(HMC(), state)
    assert torch.equal(state.position, before)
