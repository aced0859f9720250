import pickle

import pytest
import torch

from pyro_ebm.estimators import LeaveOneOut, NoBaseline


def test_leave_one_out_is_the_mean_of_the_others_for_each_datum():
    signals = torch.randn(5, 3)
    baselines = LeaveOneOut()(signals)
    for k in range(5):
        others = torch.cat([signals[:k], signals[k + 1 :]])
        torch.testing.assert_close(baselines[k], others.mean(dim=0))


def test_leave_one_out_centres_the_advantages():
    signals = torch.randn(4, 2)
    advantages = signals - LeaveOneOut()(signals)
    torch.testing.assert_close(advantages.sum(dim=0), torch.zeros(2))
    torch.testing.assert_close(advantages, (signals - signals.mean(dim=0)) * 4 / 3)


def test_no_baseline_is_zero():
    assert NoBaseline()(torch.randn(4, 2)).item() == 0


def test_leave_one_out_of_one_particle_is_an_error():
    with pytest.raises(ValueError, match="num_particles of at least 2"):
        LeaveOneOut()(torch.ones(1, 3))


@pytest.mark.parametrize("baseline", [NoBaseline(), LeaveOneOut()])
def test_baselines_are_values(baseline):
    assert pickle.loads(pickle.dumps(baseline)) == baseline
    assert repr(baseline) == f"{type(baseline).__name__}()"
