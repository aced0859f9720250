"""Energies: functions ``E`` with densities proportional to ``exp(-E)``; torch only."""

from pyro_ebm.energies.compose import SumEnergy as SumEnergy
from pyro_ebm.energies.compose import TemperedEnergy as TemperedEnergy
from pyro_ebm.energies.funnel import FunnelEnergy as FunnelEnergy
from pyro_ebm.energies.gaussian import GaussianEnergy as GaussianEnergy
from pyro_ebm.energies.mixture import MixtureEnergy as MixtureEnergy
from pyro_ebm.energies.mlp import MLPEnergy as MLPEnergy
from pyro_ebm.energies.wells import DoubleWellEnergy as DoubleWellEnergy
from pyro_ebm.energies.wells import QuarticEnergy as QuarticEnergy
