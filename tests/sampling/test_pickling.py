"""Drivers go through files and to other processes."""

from __future__ import annotations

import pickle

import pytest
import torch

from pyro_ebm.kernels import MALA, NUTS
from tests.sampling.runs import STANDARD, driver, regression, regression_data


@pytest.mark.parametrize("kernel", [MALA, NUTS])
@pytest.mark.parametrize("target", [STANDARD, regression], ids=["energy", "model"])
def test_a_run_can_be_pickled(target, kernel):
    args = () if target is STANDARD else regression_data()
    mcmc = driver(kernel(target), num_chains=3)
    mcmc.run(*args)
    other = pickle.loads(pickle.dumps(mcmc))
    assert "drawn=10" in repr(other)
    assert other.diagnostics().keys() == mcmc.diagnostics().keys()
    for name, draws in mcmc.get_samples().items():
        assert torch.equal(other.get_samples()[name], draws)
    other.run(*args)
    assert other.chains.positions.shape == mcmc.chains.positions.shape
