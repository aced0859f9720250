"""Estimators of the gradient of the ELBO, for ``pyro.infer.SVI``."""

from pyro_ebm.estimators.baselines import Baseline as Baseline
from pyro_ebm.estimators.baselines import LeaveOneOut as LeaveOneOut
from pyro_ebm.estimators.baselines import NoBaseline as NoBaseline
from pyro_ebm.estimators.reparameterized import ReparameterizedELBO as ReparameterizedELBO
from pyro_ebm.estimators.score_function import ScoreFunctionELBO as ScoreFunctionELBO
