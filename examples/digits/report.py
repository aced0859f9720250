"""The report: tables for the screen and for Markdown."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from examples.digits.fit import Fit, GradientRow
from examples.digits.models import NOISE
from examples.digits.posterior import Sampled
from examples.digits.prior import PriorResult
from pyro_ebm.diagnostics import mixing_report

Table = list[list[str]]


def elbo_table(fits: dict[str, Fit]) -> Table:
    """Final held-out ELBO of each training."""
    rows = [[name, f"{fit.elbo[-1]:.2f}"] for name, fit in fits.items()]
    return [["trained with", "held-out ELBO per digit"], *rows]


def gradient_table(rows: list[GradientRow]) -> Table:
    """Gradient statistics of each estimator."""
    head = ["estimator", "particles", "norm of the mean", "total variance"]
    body = [
        [row.name, str(row.num_particles), f"{row.mean_norm:.2f}", f"{row.total_variance:.4g}"]
        for row in rows
    ]
    return [head, *body]


def posterior_table(methods: list[Sampled]) -> Table:
    """Mixing and speed of each method on the four posteriors."""
    head = ["method", "chains x draws", "R-hat", "min ESS", "ESS/s", "seconds", "mean variance"]
    body = [
        [
            method.name,
            " x ".join(str(n) for n in method.draws.shape[:2]),
            f"{method.r_hat:.3f}",
            f"{method.ess:.0f}",
            f"{method.ess / method.seconds:.0f}",
            f"{method.seconds:.1f}",
            f"{float(method.variance.mean()):.4f}",
        ]
        for method in methods
        if method.name != "guide"
    ]
    return [head, *body]


def agreement(first: Sampled, second: Sampled) -> tuple[float, float]:
    """Largest |z| between two methods' posterior means, and its bound (false alarms: 1 %)."""
    error = (first.mean_error**2 + second.mean_error**2).sqrt()
    z = ((first.mean - second.mean).abs() / error).max()
    tail = 0.01 / (2.0 * first.mean.numel())
    bound = torch.special.ndtri(torch.tensor(1.0 - tail, dtype=torch.float64))
    return float(z), float(bound)


def mmd_table(result: PriorResult) -> Table:
    """Squared MMD to held-out data, in latent and in pixel space."""
    head = ["space", "samples of", "MMD^2", "Gaussian prior", "difference", "std. error", "z"]
    body = [
        [
            space,
            name,
            f"{row.candidate:.5f}",
            f"{row.reference:.5f}",
            f"{row.difference:.5f}",
            f"{row.standard_error:.5f}",
            f"{row.z:.1f}",
        ]
        for space, rows in (("latent", result.latent_mmd), ("pixel", result.pixel_mmd))
        for name, row in rows.items()
    ]
    return [head, *body]


def claims(methods: list[Sampled], result: PriorResult) -> list[str]:
    """What should hold, and whether it does in this run."""
    by_name = {method.name: method for method in methods}
    z, bound = agreement(by_name["MALA"], by_name["Pyro's NUTS"])
    closest = max(result.latent_mmd[name].z for name in result.samples)
    return [
        f"{_verdict(z < bound)}: the posterior means of MALA and Pyro's NUTS agree within "
        f"Monte-Carlo error (largest |z| {z:.2f}, bound {bound:.2f}).",
        f"{_verdict(closest < -3.0)}: samples of the energy, by either kernel, are closer to "
        "held-out latents than the Gaussian prior by more than 3 standard errors "
        f"(z {closest:.1f}).",
    ]


def _verdict(holds: bool) -> str:  # noqa: FBT001
    return "holds" if holds else "DOES NOT HOLD"


def as_text(table: Table) -> str:
    """Align a table for the screen."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join(lines)


def as_markdown(table: Table) -> str:
    """Write a table in Markdown."""
    head, *body = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([head, "|" + "---|" * len(table[0]), *body])


def write(
    path: Path,
    fits: dict[str, Fit],
    gradients: list[GradientRow],
    methods: list[Sampled],
    result: PriorResult,
) -> None:
    """Write the report with tables and figures."""
    by_name = {method.name: method for method in methods}
    verdicts = "\n\n".join(
        f"```text\n{name}\n{mixing_report(data)}\n```"
        for name, data in (
            ("MALA on the posterior", by_name["MALA"].data),
            ("Pyro's NUTS on the posterior", by_name["Pyro's NUTS"].data),
            ("underdamped Langevin on the energy", result.data["underdamped"]),
        )
    )
    path.write_text(
        _TEMPLATE.format(
            noise=NOISE,
            elbo=as_markdown(elbo_table(fits)),
            gradients=as_markdown(gradient_table(gradients)),
            posterior=as_markdown(posterior_table(methods)),
            claims="\n".join(f"- {claim}" for claim in claims(methods, result)),
            ula=_variance_ratios(methods),
            mmd=as_markdown(mmd_table(result)),
            verdicts=verdicts,
        )
    )


def _variance_ratios(methods: list[Sampled]) -> str:
    reference = next(m for m in methods if m.name == "MALA")
    ratios = [
        f"{m.name} {math.exp(float((m.variance / reference.variance).log().mean())):.3f}"
        for m in methods
        if m.name.startswith("Langevin") and "proximal" not in m.name
    ]
    return ", ".join(ratios)


_TEMPLATE = """# Digits: a VAE, its posteriors, and an energy as its prior

Handwritten digits of 8 x 8 pixels, 898 to train on and 899 held out; latent dimension 8, Gaussian
pixels with standard deviation {noise}.

{claims}

## 1. Two gradient estimators

{elbo}

The gradient of the ELBO per digit with respect to the encoder, at the same parameters and on the
same 128 digits:

{gradients}

Both estimate the same gradient (the norm of an estimated mean is inflated by its own noise); they
differ in variance.

![ELBO and gradient variance](training.png)

## 2. The posteriors of four held-out digits

All four are sampled at once (32 latents). ESS and R-hat are ArviZ's, rank-normalised; the
worst latent counts. Warm-up is part of the seconds.

{posterior}

Langevin without a Metropolis test is biased. Its posterior variance in units of MALA's,
geometric mean over the latents: {ula}.

The proximal term, anchored at the guide's mean, is another bias, chosen on purpose: it keeps the
chains near the guide.

![Bias of the methods](posterior_bias.png)

![Reconstructions](reconstructions.png)

## 3. An energy as the prior

A Gaussian base plus a network, trained by contrastive divergence on the aggregated posterior.
Squared MMD to held-out latents (unbiased, Gaussian kernel, median bandwidth), and the same for
decoder means against held-out images, where the oracle decodes the aggregated posterior itself.
The standard error is the one of the paired difference, with all draws of one digit counted as one
cluster; z below -3 means closer than the Gaussian prior.

{mmd}

![Training of the energy, and latents](energy.png)

![Generated images](generated.png)

## Did the chains mix?

{verdicts}
"""
