"""Run the main example: ``python -m examples.digits [--smoke]``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pyro
import torch

from examples.digits import data, figures, report
from examples.digits.fit import compare_gradients, train_twice
from examples.digits.posterior import sample_posteriors
from examples.digits.prior import study_prior
from examples.digits.settings import FULL, SMOKE, Settings


def run(settings: Settings, folder: Path) -> list[str]:
    """Run everything, write the results into ``folder``, and return what holds."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # tensors are small: more threads mostly wait for one another
    pyro.set_rng_seed(0)
    digits = data.load()
    fits = train_twice(digits, settings)
    vae = fits["reparameterised"].vae
    gradients = compare_gradients(vae, digits.train[:128], settings)
    methods = sample_posteriors(vae, digits.shown, settings)
    prior = study_prior(vae, digits, settings)
    by_name = {method.name: method for method in methods}
    by_name["MALA"].data.to_netcdf(folder / "chains.nc", engine="h5netcdf")
    held_out = vae.aggregated_posterior(digits.test, draws_per_digit=8).flatten(0, 1)
    before_after = [by_name[n] for n in ("guide", "MALA", "Pyro's NUTS", "MALA, proximal")]
    compared = [by_name[n] for n in ("guide", "Langevin", "Langevin, large step", "Pyro's NUTS")]
    figures.save(
        {
            "training": figures.training(fits, gradients),
            "posterior_bias": figures.posterior_bias(compared, by_name["MALA"]),
            "reconstructions": figures.reconstructions(vae, digits.shown, before_after),
            "energy": figures.energy(prior, held_out),
            "generated": figures.generated(vae, prior),
        },
        folder,
    )
    report.write(folder / "report.md", fits, gradients, methods, prior)
    for table in (
        report.elbo_table(fits),
        report.gradient_table(gradients),
        report.posterior_table(methods),
        report.mmd_table(prior),
    ):
        print("\n" + report.as_text(table))
    return report.claims(methods, prior)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that everything runs")
    parser.add_argument("--out", type=Path, default=Path("out/digits"), help="folder for results")
    arguments = parser.parse_args()
    started = time.perf_counter()
    claims = run(SMOKE if arguments.smoke else FULL, arguments.out)
    if not arguments.smoke:
        print("", *claims, sep="\n")
    print(f"\nResults in {arguments.out}/ after {time.perf_counter() - started:.0f} s.")
    if not (arguments.smoke or all(claim.startswith("holds") for claim in claims)):
        sys.exit("Not every claim holds in this run.")


if __name__ == "__main__":
    main()
