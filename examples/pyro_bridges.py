"""Eight schools four ways: our kernels and Pyro's, in our driver and in Pyro's."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import arviz as az
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import MALA, MCMC, RecordingNUTS, as_potential_fn, as_pyro_kernel, to_arviz
from pyro_ebm.diagnostics import mixing_report

OUT = Path("out/pyro_bridges")
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(errors: Tensor, effects: Tensor) -> None:
    """Effects of coaching in eight schools (Rubin, 1981), non-centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("school", 8):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, errors), obs=effects)


def many_chains(num: int) -> MCMC:
    """256 chains in one batch: the import and the number of chains are what changes."""
    mcmc = MCMC(MALA(schools), num_samples=num, warmup_steps=500, num_chains=256)
    mcmc.run(ERRORS, EFFECTS)
    return mcmc


def pyro_nuts(num: int) -> pyro.infer.MCMC:
    """Pyro's NUTS on Pyro's potential, with everything that ArviZ wants recorded."""
    mcmc = pyro.infer.MCMC(RecordingNUTS(schools), num // 4, num // 4)
    mcmc.run(ERRORS, EFFECTS)
    return mcmc


def nuts_on_ours(num: int) -> pyro.infer.MCMC:
    """Pyro's NUTS on our potential; energies go the same way."""
    start = as_potential_fn(schools, 1, ERRORS, EFFECTS)
    nuts = RecordingNUTS(potential_fn=start.potential_fn, transforms=start.transforms)
    mcmc = pyro.infer.MCMC(nuts, num // 4, num // 4, initial_params=start.initial_params)
    mcmc.run()
    return mcmc


def ours_in_pyro(num: int) -> pyro.infer.MCMC:
    """MALA in Pyro's driver: one chain after another."""
    mcmc = pyro.infer.MCMC(as_pyro_kernel(MALA(schools)), 2 * num, num)
    mcmc.run(ERRORS, EFFECTS)
    return mcmc


RUNS = {
    "MALA, 256 chains": many_chains,
    "Pyro's NUTS": pyro_nuts,
    "Pyro's NUTS, our U": nuts_on_ours,
    "MALA in Pyro's MCMC": ours_in_pyro,
}


def main() -> None:
    """Run, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that it runs")
    num = 20 if parser.parse_args().smoke else 600
    pyro.set_rng_seed(0)
    rows = []
    figure, axes = plt.subplots(1, len(RUNS), figsize=(13, 3), sharex=True, sharey=True)
    for axis, (name, run) in zip(axes, RUNS.items(), strict=True):
        started = time.perf_counter()
        data = to_arviz(run(num))
        seconds = time.perf_counter() - started
        tau, ess = data["posterior"]["tau"].values, float(az.ess(data)["tau"])
        failed = [check.name for check in mixing_report(data).checks if not check.passed]
        rows.append(
            f"{name:<22}{tau.mean():>8.2f} +- {tau.std() / ess**0.5:.2f}{ess:>9.0f}"
            f"{ess / seconds:>9.1f}   {', '.join(failed) or 'none'}"
        )
        axis.hist(tau.ravel(), bins=40, range=(0, 20), density=True, color="C0")
        axis.set(title=name, xlabel=r"$\tau$", yticks=[])
    print(f"\n{'':<22}{'tau':>16}{'ESS':>9}{'ESS/s':>9}   checks that failed", *rows, sep="\n")
    figure.tight_layout()
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "tau.png", dpi=120)
    print(f"Figure in {OUT}/; seconds include warm-up, {torch.get_num_threads()} threads.")


if __name__ == "__main__":
    main()
