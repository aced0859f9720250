"""Transition kernels: recipes for moving many chains at once."""

from pyro_ebm.kernels.langevin import Langevin as Langevin
from pyro_ebm.kernels.mala import MALA as MALA
from pyro_ebm.kernels.underdamped import UnderdampedLangevin as UnderdampedLangevin
