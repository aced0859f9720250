"""The door between Pyro, energies and tensors: batched potentials."""

from pyro_ebm.potentials.compose import ProximalPotential as ProximalPotential
from pyro_ebm.potentials.compose import SumPotential as SumPotential
from pyro_ebm.potentials.energy import EnergyPotential as EnergyPotential
from pyro_ebm.potentials.model import ModelPotential as ModelPotential
from pyro_ebm.potentials.noise_conditional import (
    NoiseConditionalPotential as NoiseConditionalPotential,
)
from pyro_ebm.potentials.pyro_target import PyroTarget as PyroTarget
from pyro_ebm.potentials.pyro_target import as_potential_fn as as_potential_fn
from pyro_ebm.potentials.targets import as_potential as as_potential
