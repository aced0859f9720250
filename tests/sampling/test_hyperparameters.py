"""What a run makes of the hyper-parameters of its kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_ebm.kernels import HMC, MALA
from tests.sampling.runs import STANDARD, run


def test_chains_carry_no_graph_of_a_scale():
    scale = torch.ones(1, requires_grad=True)
    mcmc = run(MALA(STANDARD, step_size=0.3, scale=scale), 5, 0)
    assert not mcmc.chains.positions.requires_grad


@pytest.mark.parametrize("number", [np.float64(0.7), np.float32(0.7), torch.tensor(0.7)])
def test_numbers_may_come_from_numpy_or_torch(number, tmp_path):
    kernel = HMC(STANDARD, target_accept_prob=number, trajectory_length=number)
    mcmc = run(kernel, 5, 20, num_chains=2, checkpoint=tmp_path / "run.pt")
    assert type(mcmc.kernel.target_accept_prob) is type(mcmc.kernel.trajectory_length) is float
