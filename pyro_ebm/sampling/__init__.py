"""Drivers: many chains in one batch, and bridges to Pyro's own."""

from pyro_ebm.sampling.mcmc import MCMC as MCMC
