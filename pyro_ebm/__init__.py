"""Energy functions as first-class citizens of Pyro."""

from pyro_ebm.diagnostics import to_arviz as to_arviz
from pyro_ebm.distributions import EnergyDistribution as EnergyDistribution
from pyro_ebm.energies import MLPEnergy as MLPEnergy
from pyro_ebm.kernels import HMC as HMC
from pyro_ebm.kernels import MALA as MALA
from pyro_ebm.kernels import NUTS as NUTS
from pyro_ebm.kernels import Langevin as Langevin
from pyro_ebm.kernels import UnderdampedLangevin as UnderdampedLangevin
from pyro_ebm.potentials import EnergyPotential as EnergyPotential
from pyro_ebm.potentials import ModelPotential as ModelPotential
from pyro_ebm.potentials import ProximalPotential as ProximalPotential
from pyro_ebm.potentials import PyroTarget as PyroTarget
from pyro_ebm.potentials import as_potential_fn as as_potential_fn
from pyro_ebm.sampling import MCMC as MCMC
from pyro_ebm.sampling import RecordingHMC as RecordingHMC
from pyro_ebm.sampling import RecordingNUTS as RecordingNUTS
from pyro_ebm.sampling import as_pyro_kernel as as_pyro_kernel
from pyro_ebm.training import fit_energy as fit_energy
