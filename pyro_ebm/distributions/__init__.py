"""Energies as Pyro distributions."""

from pyro_ebm.distributions.energy_distribution import EnergyDistribution as EnergyDistribution
