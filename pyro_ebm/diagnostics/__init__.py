"""Read-only functions on finished runs: ArviZ's containers, and a verdict on the mixing."""

from pyro_ebm.diagnostics.inference_data import to_arviz as to_arviz
from pyro_ebm.diagnostics.mixing import mixing_report as mixing_report
from pyro_ebm.diagnostics.report import MixingCheck as MixingCheck
from pyro_ebm.diagnostics.report import MixingReport as MixingReport
