"""Loops over torch optimisers."""

from pyro_ebm.training.fit import fit_energy as fit_energy
