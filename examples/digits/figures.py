"""Figures of the main example."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

from examples.digits.fit import Fit, GradientRow
from examples.digits.models import VAE
from examples.digits.posterior import Sampled
from examples.digits.prior import PriorResult

mpl.use("Agg")

_GRID = 8


def training(fits: dict[str, Fit], rows: list[GradientRow]) -> Figure:
    """ELBO curves, and the gradient variance at one point."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, fit in fits.items():
        left.plot(fit.steps, fit.elbo, label=f"{name}, 4 particles")
    last = min(fit.elbo[-1] for fit in fits.values())
    left.set(
        xlabel="SVI step",
        ylabel="held-out ELBO per digit (nats)",
        title="Two gradient estimators, one start",
        ylim=(last - 15.0, max(fit.elbo[-1] for fit in fits.values()) + 2.0),
    )
    left.legend(loc="upper left")
    names = [row.name for row in rows]
    bars = right.barh(names, [row.total_variance for row in rows], color="C2")
    right.bar_label(bars, fmt="%.3g", padding=3)
    right.set(
        xscale="log", xlabel="total variance of the encoder's gradient", title="At the same point"
    )
    right.margins(x=0.25)
    right.invert_yaxis()
    return figure


def posterior_bias(methods: list[Sampled], reference: Sampled) -> Figure:
    """Posterior variance of every coordinate against the reference method."""
    figure, axes = plt.subplots(
        1, len(methods), figsize=(3.1 * len(methods), 3.6), layout="constrained", sharey=True
    )
    truth = reference.variance.flatten().numpy()
    for axis, method in zip(np.atleast_1d(axes), methods, strict=True):
        variance = method.variance.flatten().numpy()
        axis.plot([truth.min(), truth.max()], [truth.min(), truth.max()], color="0.6", lw=1)
        axis.plot(truth, variance, ".", ms=5)
        ratio = float(np.exp(np.mean(np.log(variance / truth))))
        axis.set(
            xscale="log",
            yscale="log",
            title=f"{method.name}\nmean ratio {ratio:.3f}",
            xlabel=f"variance, {reference.name}",
        )
    np.atleast_1d(axes)[0].set_ylabel("variance of each of the 32 latents")
    return figure


def reconstructions(vae: VAE, x: Tensor, methods: list[Sampled]) -> Figure:
    """Digits and their reconstructions from the posterior mean of each method."""
    rows = [("digit", x)] + [(method.name, vae.decoder(method.mean)) for method in methods]
    figure, axes = plt.subplots(
        len(rows), len(x), figsize=(1.3 * len(x) + 1.6, 1.3 * len(rows)), layout="constrained"
    )
    for axis_row, (name, images) in zip(axes, rows, strict=True):
        for axis, image in zip(axis_row, images, strict=True):
            _show(axis, image)
            if name != "digit":
                error = float((image - x[list(axis_row).index(axis)]).square().mean().sqrt())
                axis.set_xlabel(f"rmse {error:.3f}", fontsize=7, labelpad=2)
        axis_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def generated(vae: VAE, result: PriorResult) -> Figure:
    """Images from the energy, the Gaussian prior, and the aggregated posterior."""
    sources = {
        "Gaussian prior": result.gaussian,
        "energy (MALA)": result.samples["MALA"],
        "aggregated posterior": result.oracle,
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
    for axis, (name, latents) in zip(axes, sources.items(), strict=True):
        chosen = latents[torch.linspace(0, len(latents) - 1, _GRID**2).long()]
        _show(axis, _tiled(vae.decoder(chosen)))
        axis.set_title(f"decoded from the {name}")
    return figure


def energy(result: PriorResult, held_out: Tensor) -> Figure:
    """Training history, and two latent coordinates under both priors."""
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
    history = result.history
    axes[0].plot(history.step, history.loss.rolling(step=50, min_periods=1).mean())
    axes[0].axhline(0.0, color="0.6", lw=1)
    axes[0].set(
        xlabel="step", ylabel="E(data) - E(chains)", title="Contrastive divergence\n(no likelihood)"
    )
    order = held_out.std(dim=0).argsort(descending=True)
    first, second = _most_structured(held_out, order)
    panels = {
        "held-out latents": held_out,
        "energy (MALA)": result.samples["MALA"],
        "Gaussian prior": result.gaussian,
    }
    for axis, (name, latents) in zip(axes[1:], panels.items(), strict=True):
        points = latents[:3000]
        axis.plot(points[:, first], points[:, second], ".", ms=2, alpha=0.4)
        axis.set(xlim=(-4, 4), ylim=(-4, 4), title=name, xlabel=f"z[{first}]")
    axes[1].set_ylabel(f"z[{second}]")
    return figure


def save(figures: dict[str, Figure], folder: Path) -> None:
    """Write every figure as PNG."""
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
        plt.close(figure)


def _most_structured(latents: Tensor, order: Tensor) -> tuple[int, int]:
    """The two coordinates that are least Gaussian, by excess kurtosis."""
    scaled = (latents - latents.mean(dim=0)) / latents.std(dim=0)
    ranked = (scaled.pow(4).mean(dim=0) - 3.0).abs()[order].argsort(descending=True)
    return int(order[ranked[0]]), int(order[ranked[1]])


def _tiled(images: Tensor) -> Tensor:
    """Images ``(_GRID ** 2, 64)`` as one, with a margin between them."""
    framed = pad(images.reshape(_GRID, _GRID, 8, 8), (1, 1, 1, 1), value=0.25)
    return framed.permute(0, 2, 1, 3).reshape(10 * _GRID, 10 * _GRID)


def _show(axis: Axes, image: Tensor) -> None:
    side = int(image.numel() ** 0.5)
    axis.imshow(image.reshape(side, side), cmap="gray_r", vmin=0.0, vmax=1.0)
    axis.set(xticks=[], yticks=[])
