"""Gradient estimators of one ELBO against its exact gradient; figure in out/compare_estimators/."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, SVI
from pyro.infer.autoguide import AutoNormal, init_to_mean
from torch import Tensor
from tqdm.auto import trange

from pyro_ebm.estimators import LeaveOneOut, NoBaseline, ReparameterizedELBO, ScoreFunctionELBO

OUT = Path("out/compare_estimators")
NOISE = 0.7
ESTIMATORS: dict[str, ELBO] = {
    "reparameterised": ReparameterizedELBO(num_particles=8),
    "score function": ScoreFunctionELBO(NoBaseline(), num_particles=8),
    "score, leave-one-out": ScoreFunctionELBO(LeaveOneOut(), num_particles=8),
}


def model(x: Tensor) -> None:
    """One latent number for each datum; the posterior is Gaussian."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def new_guide(x: Tensor) -> AutoNormal:
    """A guide whose means are zero."""
    pyro.clear_param_store()
    guide = AutoNormal(model, init_loc_fn=init_to_mean, init_scale=0.5)
    guide(x)
    return guide


def measure(name: str, x: Tensor, repeats: int) -> str:
    """Estimate the gradient in the means many times; the exact one is -x / NOISE^2 there."""
    guide, exact, gradients = new_guide(x), -x / NOISE**2, torch.empty(repeats, len(x))
    started = time.perf_counter()
    for i in trange(repeats, desc=name):
        guide.zero_grad()
        ESTIMATORS[name].loss_and_grads(model, guide, x)
        gradients[i] = guide.locs.z.grad
    milliseconds = 1000 * (time.perf_counter() - started) / repeats
    variance = gradients.var(dim=0)
    z_scores = (gradients.mean(dim=0) - exact) / (variance / repeats).sqrt()
    ratio = (exact.square() / variance).mean().sqrt()
    return (
        f"{name:<22}{z_scores.abs().max():>12.1f}{variance.mean():>12.3f}{ratio:>10.2f}"
        f"{milliseconds:>10.2f}"
    )


def train(name: str, x: Tensor, num_steps: int) -> list[float]:
    """Distance of the guide's means to the posterior's while training."""
    guide = new_guide(x)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss=ESTIMATORS[name])
    distances = []
    for _ in trange(num_steps, desc=f"SVI, {name}"):
        svi.step(x)
        error = guide.median(x)["z"] - x / (1 + NOISE**2)
        distances.append(float(error.square().mean().sqrt()))
    return distances


def main() -> None:
    """Measure, train, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only show that it runs")
    repeats, num_steps = (20, 20) if parser.parse_args().smoke else (1000, 600)
    pyro.set_rng_seed(0)
    x = torch.randn(20) * (1 + NOISE**2) ** 0.5
    rows = [measure(name, x, repeats) for name in ESTIMATORS]
    header = f"\n{'estimator':<22}{'max |z|':>12}{'variance':>12}{'SNR':>10}{'ms':>10}"
    print(header, *rows, sep="\n")
    print(
        "max |z|: largest bias in Monte-Carlo standard errors, of 20 coordinates; below 4 or so.\n"
    )
    figure, axis = plt.subplots(figsize=(5.5, 3.6))
    for name in ESTIMATORS:
        axis.semilogy(train(name, x, num_steps), label=name, linewidth=1.2)
    axis.set(xlabel="SVI step", ylabel="RMS error of the means")
    axis.legend(frameon=False)
    figure.tight_layout()
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "training.png", dpi=120)
    print("With leave-one-out the noise is gone at the posterior, where the signal is constant.")
    print(f"Figure in {OUT}/. Each with 8 particles, {torch.get_num_threads()} threads.")


if __name__ == "__main__":
    main()
