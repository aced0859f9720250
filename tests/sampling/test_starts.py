"""Where chains start: by default, by Pyro's strategies, and where they are told to."""

from __future__ import annotations

import pytest
import torch
from pyro.infer.autoguide import (
    init_to_feasible,
    init_to_generated,
    init_to_mean,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
)

from pyro_ebm.core.checks import ShapeError
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA
from tests.sampling.runs import STANDARD, driver, regression, regression_data, run

STRATEGIES = {
    "uniform": init_to_uniform,
    "narrow": init_to_uniform(radius=0.1),
    "sample": init_to_sample,
    "median": init_to_median(num_samples=5),
    "mean": init_to_mean,
    "feasible": init_to_feasible,
    "value": init_to_value(
        values={"scale": torch.tensor(2.0), "weights": torch.tensor([0.5, -1.0])}
    ),
    "generated": init_to_generated(generate=lambda: init_to_value(values={})),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("num_chains", [1, 3])
def test_pyros_strategies(name, num_chains):
    seen = []
    mcmc = driver(
        MALA(regression, step_size=1e-8, scale=torch.ones(9)),
        1,
        0,
        num_chains=num_chains,
        init_strategy=STRATEGIES[name],
        hook_fn=lambda kernel, params, stage, i: seen.append(params),
    )
    mcmc.run(*regression_data())
    scale, weights = (mcmc.get_samples()[site] for site in ("scale", "weights"))
    assert seen[0]["effect"].shape == (num_chains, 6)
    if name == "value":
        torch.testing.assert_close(scale, torch.full((num_chains,), 2.0), rtol=0, atol=1e-5)
        expected = torch.tensor([0.5, -1.0]).expand(num_chains, 2)
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)
    if name == "mean":
        assert weights.abs().max() < 1e-5
    if name == "narrow":
        assert weights.abs().max() < 0.1001
    if name in ("uniform", "sample") and num_chains == 3:
        assert len(scale.unique()) == 3


def test_default_starts_are_over_dispersed():
    tiny = MALA(STANDARD, step_size=1e-9, scale=torch.ones(1))
    starts = run(tiny, 1, 0, num_chains=500).get_samples()["x"]
    assert -2 <= starts.min() < -1.9
    assert 1.9 < starts.max() <= 2


def given(params, num_chains=3, target=regression, args=None):
    kernel = MALA(target, step_size=1e-9, scale=torch.ones(9 if target is regression else 1))
    mcmc = driver(kernel, 1, 0, num_chains=num_chains, initial_params=params)
    mcmc.run(*(regression_data() if args is None else args))
    return mcmc.get_samples(group_by_chain=True)


def unconstrained(*chains):
    return {
        "scale": torch.randn(chains),
        "weights": torch.randn(*chains, 2),
        "effect": torch.randn(*chains, 6),
    }


def test_initial_params_are_unconstrained_values():
    params = unconstrained(3)
    samples = given(params)
    torch.testing.assert_close(samples["scale"][:, 0], params["scale"].exp(), atol=1e-6, rtol=0)
    torch.testing.assert_close(samples["effect"][:, 0], params["effect"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("axes", [(), (1,)])
def test_a_single_chain_needs_no_axis(axes):
    params = unconstrained(*axes)
    samples = given(params, num_chains=1)
    expected = params["weights"].reshape(2)
    torch.testing.assert_close(samples["weights"][0, 0], expected, atol=1e-6, rtol=0)


def test_a_start_without_an_axis_is_not_one_number_for_each_chain():
    """Where there are as many chains as coordinates."""
    energy = GaussianEnergy.standard((2,))
    with pytest.raises(ShapeError, match=r"shape \(2,\), but \(2, 2\) is wanted"):
        run(MALA(energy), num_chains=2, initial_params={"x": torch.ones(2)})


def test_initial_params_are_not_changed():
    params = {"x": torch.ones(2, requires_grad=True)}
    run(MALA(STANDARD), num_chains=2, initial_params=params)
    assert torch.equal(params["x"], torch.ones(2))


def test_initial_params_of_another_shape_say_what_is_wanted():
    with pytest.raises(ShapeError, match=r"shape \(2, 9\), but \(3, 9\) is wanted"):
        given(unconstrained(2))
