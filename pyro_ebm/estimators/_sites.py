"""The addends of ``log p(x, z) - log q(z)``, one for each site, with the plates they live in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import site_is_factor, site_is_subsample
from pyro.util import check_site_shape
from torch import Tensor

from pyro_ebm.core.checks import ModelError, NonFiniteError
from pyro_ebm.estimators.wrappers import innermost, is_masked, unmasked
from pyro_ebm.potentials.sites import is_latent

Site: TypeAlias = Any
"""A node of a Pyro trace."""


@dataclass(frozen=True, eq=False)
class Term:
    """One addend of the ELBO.

    ``cost`` is ``log p`` of a model site or ``-log q`` of a guide site, scaled and masked,
    ``(particle, *batch)`` with one axis for each plate dimension. ``score`` is the plain
    ``log q`` of a random draw, neither scaled nor masked, because that is the law it was
    drawn from; None for sites that draw nothing.
    """

    site: Site
    role: str
    cost: Tensor
    score: Tensor | None
    plates: frozenset[Any]
    loops: Mapping[str, int]

    @property
    def name(self) -> str:
        """Name of the site."""
        return str(self.site["name"])


def is_point_mass(site: Site) -> bool:
    """Whether ``site`` is a latent that draws nothing, a ``Delta``."""
    return is_latent(site) and isinstance(innermost(site["fn"]), dist.Delta)


def is_draw(site: Site) -> bool:
    """Whether ``site`` draws a random value from a density that ``log_prob`` can tell."""
    return is_latent(site) and not is_point_mass(site)


def is_outside_draw(site: Site) -> bool:
    """Whether ``site`` is a guide's factor for a draw made without reparameterisation."""
    return site_is_factor(site) and getattr(site["fn"], "has_rsample", None) is False


def sample_sites(trace: Any) -> list[Site]:
    """The sample statements of ``trace``, without those that pick minibatches."""
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample" and not site_is_subsample(site)
    ]


def log_density(site: Site) -> Tensor:
    """``log_prob`` of the value of ``site``, before scale and mask."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return torch.as_tensor(log_prob)


def _draw_density(site: Site) -> Tensor:
    try:
        return log_density(site)
    except (KeyError, NotImplementedError) as error:
        # Some flows only know the density of the very tensor that they just drew.
        raise ModelError(
            f"The distribution {site['fn']} of the guide's site {site['name']!r} cannot tell the "
            "density of a given value. The score function needs one that can, a flow with an "
            "inverse; for this one use ReparameterizedELBO."
        ) from error


def score_density(site: Site, log_prob: Tensor) -> Tensor | None:
    """``log q`` of the draw at a guide ``site``; None if it draws nothing."""
    if is_draw(site) and is_masked(site["fn"]):
        return torch.as_tensor(unmasked(site["fn"]).log_prob(site["value"]))
    return log_prob if is_draw(site) or is_outside_draw(site) else None


def loop_positions(sites: Iterable[Site]) -> dict[str, dict[str, int]]:
    """Position of each site in its sequential plates: ``{site: {plate: counter}}``.

    A plate object that is iterated twice goes on counting, so equal counters no longer mean
    equal data; such plates are left out, which costs variance and not correctness.
    """
    frames = [
        (site["name"], frame)
        for site in sites
        for frame in site["cond_indep_stack"]
        if not frame.vectorized
    ]
    recounted = {frame.name for _, frame in frames if frame.counter > frame.size}
    positions: dict[str, dict[str, int]] = {}
    for name, frame in frames:
        if frame.name not in recounted:
            positions.setdefault(name, {})[frame.name] = frame.counter
    return positions


def elbo_terms(
    model_sites: list[Site], guide_sites: list[Site], rows: int | None, nesting: int | None
) -> list[Term]:
    """All addends of one run: of ``rows`` particles in a plate left of ``nesting``, or of one."""
    loops = loop_positions([*model_sites, *guide_sites])
    densities = [(site, "model", log_density(site)) for site in model_sites]
    densities += [(site, "guide", _draw_density(site)) for site in guide_sites]
    depth = max((value.ndim for *_, value in densities), default=0) if nesting is None else nesting
    return [
        Term(
            site=site,
            role=role,
            cost=particles_first(_cost(site, role, value, nesting), rows, depth),
            score=_score(site, role, value, rows, depth),
            plates=frozenset(
                frame
                for frame in site["cond_indep_stack"]
                if frame.vectorized and frame.dim >= -depth
            ),
            loops=loops.get(site["name"], {}),
        )
        for site, role, value in densities
    ]


def _cost(site: Site, role: str, log_prob: Tensor, nesting: int | None) -> Tensor:
    cost: Tensor = scale_and_mask(log_prob, site["scale"], site["mask"])
    site["log_prob"] = cost
    if is_validation_enabled():
        limit: Any = math.inf if nesting is None else nesting + 1
        check_site_shape(site, limit)
    return cost if role == "model" else -cost


def _score(site: Site, role: str, log_prob: Tensor, rows: int | None, depth: int) -> Tensor | None:
    score = score_density(site, log_prob) if role == "guide" else None
    return None if score is None else particles_first(score, rows, depth)


def particles_first(log_prob: Tensor, rows: int | None, depth: int) -> Tensor:
    """Arrange as ``(particle, *batch)`` with ``depth`` batch axes."""
    width = depth if rows is None else depth + 1
    surplus = tuple(range(log_prob.ndim - width))
    kept = log_prob.sum(dim=surplus) if surplus else log_prob
    padded = kept.reshape((1,) * (width - kept.ndim) + tuple(kept.shape))
    return padded.unsqueeze(0) if rows is None else padded.expand(rows, *padded.shape[1:])


def nonfinite_error(terms: Iterable[Term]) -> NonFiniteError:
    """The error that names the sites whose log density is not finite."""
    bad = [
        f"site {term.name!r} of the {term.role}"
        for term in terms
        if not bool(torch.isfinite(term.cost).all())
        or (term.score is not None and not bool(torch.isfinite(term.score).all()))
    ]
    return NonFiniteError(
        "The ELBO is NaN or infinite: the log density is not finite at "
        + (", ".join(dict.fromkeys(bad)) if bad else "no single site, but their sum is not")
        + ". Check the support, the parameters and the data there; no gradient was computed."
    )
