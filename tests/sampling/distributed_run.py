"""One rank of a shared run; ``torchrun`` starts it (see ``test_distributed.py``)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed

from pyro_ebm import MCMC
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, NUTS, ROTATIONS, ChEESHMC

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
LOC = torch.tensor([1.0, -2.0], dtype=torch.float64)
ENERGY = GaussianEnergy(LOC, covariance=COVARIANCE)
NUM_DRAWS = 300
KERNELS = {
    "NUTS": NUTS(ENERGY),
    "ChEES": ChEESHMC(ENERGY),
    "rotations": NUTS(ENERGY, integrator=ROTATIONS),
    "MALA": MALA(ENERGY),
}


def main(folder: Path) -> None:
    """Save what each kernel was tuned to and has drawn."""
    distributed.init_process_group("gloo")
    results = {}
    for name, kernel in KERNELS.items():
        torch.manual_seed(0)
        mcmc = MCMC(kernel, NUM_DRAWS, num_chains=64, disable_progbar=True, distributed=True)
        mcmc.run()
        tuned = mcmc.kernel
        length = getattr(tuned, "trajectory_length", None)
        results[name] = {
            "step_size": tuned.step_size,
            "scale": tuned.scale,
            "center": getattr(tuned, "center", None),
            "length": length,
            "draws": mcmc.chains.positions,
            "diverging": mcmc.chains.stats["diverging"],
        }
    torch.save(results, folder / f"rank_{distributed.get_rank()}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
