"""Transition kernels: recipes for moving many chains at once."""

from pyro_ebm.kernels.annealed_langevin import AnnealedLangevin as AnnealedLangevin
from pyro_ebm.kernels.chees import ChEESHMC as ChEESHMC
from pyro_ebm.kernels.hmc import HMC as HMC
from pyro_ebm.kernels.integrators import LEAPFROG as LEAPFROG
from pyro_ebm.kernels.integrators import MCLACHLAN as MCLACHLAN
from pyro_ebm.kernels.integrators import ROTATIONS as ROTATIONS
from pyro_ebm.kernels.integrators import Integrator as Integrator
from pyro_ebm.kernels.langevin import Langevin as Langevin
from pyro_ebm.kernels.mala import MALA as MALA
from pyro_ebm.kernels.nuts import NUTS as NUTS
from pyro_ebm.kernels.preconditioned_mala import PreconditionedMALA as PreconditionedMALA
from pyro_ebm.kernels.sgld import SGLD as SGLD
from pyro_ebm.kernels.tempering import ReplicaExchange as ReplicaExchange
from pyro_ebm.kernels.underdamped import UnderdampedLangevin as UnderdampedLangevin
