"""Random operations are seen wherever they run."""

from __future__ import annotations

import torch

from pyro_ebm.potentials.randomness import RandomnessDetector


def test_randomness_is_detected():
    with RandomnessDetector() as detector:
        torch.ones(3).exp().sort()
    assert detector.operations == []
    with RandomnessDetector() as detector:
        torch.randn(2)
        torch.zeros(2).uniform_()
        torch.nn.functional.dropout(torch.ones(2))
        torch.randperm(3)
        torch.bernoulli(torch.ones(2) / 2)
        torch.distributions.Gamma(2.0, 1.0).sample()
    assert len(detector.operations) >= 6
