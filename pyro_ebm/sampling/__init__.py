"""Drivers: many chains in one batch, and bridges to Pyro's own."""

from pyro_ebm.sampling.mcmc import MCMC as MCMC
from pyro_ebm.sampling.pyro_bridge import as_pyro_kernel as as_pyro_kernel
from pyro_ebm.sampling.recording import RecordingHMC as RecordingHMC
from pyro_ebm.sampling.recording import RecordingNUTS as RecordingNUTS
