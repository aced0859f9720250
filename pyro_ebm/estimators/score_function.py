"""The score-function gradient of the ELBO, also called REINFORCE."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from pyro.poutine.util import site_is_factor
from torch import Tensor

from pyro_ebm.core.checks import ModelError, ShapeError
from pyro_ebm.estimators._draws import (
    ConstantDraws,
    check_constants,
    moved_draws,
    needs_grad,
    unnormalised_sites,
)
from pyro_ebm.estimators._particles import Execution, ParticleELBO, Particles, Program
from pyro_ebm.estimators._sites import Site, Term, is_point_mass, sample_sites
from pyro_ebm.estimators.baselines import Baseline, NoBaseline

Loops: TypeAlias = tuple[tuple[str, int], ...]


class ScoreFunctionELBO(ParticleELBO):
    r"""Estimate the gradient of the ELBO from values of its integrand alone.

    .. math::

        \nabla_\phi\mathcal L \approx \frac1K \sum_{k=1}^K
        \bigl(\log p_\theta(x, z_k) - \log q_\phi(z_k \mid x) - b_k\bigr)
        \nabla_\phi \log q_\phi(z_k \mid x),
        \qquad
        \nabla_\theta\mathcal L \approx \frac1K \sum_{k=1}^K \nabla_\theta \log p_\theta(x, z_k).

    Unbiased for discrete and continuous latents, whether or not the integrand has a
    derivative in ``z``: draws are constants, and no pathwise derivative is used even where
    there is one (``AutoNormal``, ``AutoMultivariateNormal``, flows with an inverse).

    The signal in the brackets follows the plates. A draw inside ``pyro.plate`` is charged
    with the log densities of its own datum and with those outside of the plate; a draw outside
    of all plates is charged with everything; particle ``k`` only with its own. As everywhere in
    Pyro, the plates promise that data are independent given what is outside of the plate.

    ``Delta`` sites draw nothing and have no score. They are differentiated as the functions
    that they are: ``AutoDelta`` gets its exact gradient, the Jacobian terms of the automatic
    guides count as log densities. A ``Delta`` that moves a continuous draw by learned
    parameters (``AutoStructured``) would bring the pathwise derivative back and is refused.

    Args:
        baseline: control variate; :class:`NoBaseline` when None.
        num_particles: number :math:`K` of draws for the one minibatch.
        vectorize_particles: draw them in one run, inside an outermost plate.
        max_plate_nesting: number of plate dimensions of model and guide; guessed when None.

    Raises:
        ValueError: fewer particles than the baseline needs.
        ModelError: the guide moves draws by learned maps, a latent is not in the guide, or the
            energy of an ``EnergyDistribution`` depends on a draw. The last is looked for once
            for each model and guide, by gradients, which integers do not have.
        NonFiniteError: a log density or a gradient is NaN or infinite.

    References:
        Neural variational inference and learning in belief networks (Mnih & Gregor, 2014),
        appendix B; seed 001, last formula. Plates: Black box variational inference (Ranganath,
        Gerrish & Blei, 2014).

    >>> import pyro, torch, pyro.distributions as dist
    >>> from pyro.infer import SVI
    >>> from pyro.infer.autoguide import AutoNormal
    >>> def model(x):
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> from pyro_ebm.estimators import LeaveOneOut
    >>> elbo = ScoreFunctionELBO(LeaveOneOut(), num_particles=8)
    >>> svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), loss=elbo)
    >>> loss = svi.step(torch.tensor(1.0))
    """

    def __init__(
        self,
        baseline: Baseline | None = None,
        num_particles: int = 1,
        *,
        vectorize_particles: bool = True,
        max_plate_nesting: int | None = None,
    ) -> None:
        super().__init__(
            num_particles,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )
        self.baseline: Baseline = NoBaseline() if baseline is None else baseline
        if self.num_particles < self.baseline.minimum_particles:
            raise ValueError(
                f"{self.baseline!r} needs num_particles of at least "
                f"{self.baseline.minimum_particles}, but num_particles={num_particles}."
            )
        self._approved: tuple[Program, set[str]] | None = None
        self._constants: tuple[list[Program], list[tuple[str, ...]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_approved": None, "_constants": None}

    def _settings(self) -> dict[str, object]:
        return {"baseline": self.baseline}

    def _guide_context(self) -> AbstractContextManager[Any]:
        constant: AbstractContextManager[Any] = ConstantDraws()
        return constant

    def _check_run(self, model: Execution, guide: Execution) -> None:
        self._check_unnormalised(model, guide)
        sites = sample_sites(guide.trace)
        moved = [site["name"] for site in sites if _is_outside_path(site)]
        attached = {site["name"] for site in sites if is_point_mass(site) and needs_grad(site)}
        if attached and self._approved != (guide.program, attached):
            moved += sorted(attached & moved_draws(guide.rerun))
        if moved:
            raise ModelError(
                f"The guide's sites {moved} move draws by learned parameters, so that only the "
                "pathwise derivative knows how they depend on them; give the guide one "
                "distribution for the result (dist.TransformedDistribution, AutoNormal, "
                "AutoMultivariateNormal), or use ReparameterizedELBO."
            )
        self._approved = guide.program, attached

    def _check_unnormalised(self, *executions: Execution) -> None:
        # Draws are constants here, so that these densities cannot see what they depend on.
        names = [unnormalised_sites(execution.trace) for execution in executions]
        key = [execution.program for execution in executions], names
        if any(names) and self._constants != key:
            for execution in executions:
                check_constants(execution.rerun)
            self._constants = key

    def _surrogate(self, particles: Particles) -> Tensor:
        # A draw's own log q is left out of the differentiated part: its gradient has mean zero
        # and would keep the estimate noisy where the integrand is constant, at the posterior.
        costs = [term.cost for part in particles for term in part if term.score is None]
        total = torch.as_tensor(sum(cost.sum() for cost in costs))
        for signals, scores in _charged(particles):
            advantage = signals - self.baseline(signals)
            total = total + (advantage.detach() * scores).sum()
        return total


def _charged(particles: Particles) -> Iterator[tuple[Tensor, Tensor]]:
    """Signals and scores ``(particle, *batch)`` of each draw of the guide."""
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for terms in particles:
        groups = _grouped_costs(terms)
        for term in terms:
            if term.score is not None:
                pair = _signal(term, groups), _keep(term.score, term.plates)
                rows.setdefault(term.name, []).append(pair)
    for name, pairs in rows.items():
        shapes = {tuple(signal.shape[1:]) for signal, _ in pairs}
        if len(shapes) > 1:
            raise ShapeError(
                f"The learning signal of site {name!r} has shapes {sorted(shapes)} in different "
                "particles; plates must have the same size in all of them."
            )
        yield torch.cat([signal for signal, _ in pairs]), torch.cat([score for _, score in pairs])


def _grouped_costs(terms: Iterable[Term]) -> dict[tuple[frozenset[Any], Loops], Tensor]:
    """Costs summed over the sites that share their plates and positions in loops."""
    groups: dict[tuple[frozenset[Any], Loops], Tensor] = {}
    for term in terms:
        key = term.plates, tuple(sorted(term.loops.items()))
        cost = _keep(term.cost.detach(), term.plates)
        groups[key] = groups[key] + cost if key in groups else cost
    return groups


def _signal(term: Term, groups: Mapping[tuple[frozenset[Any], Loops], Tensor]) -> Tensor:
    """Everything that the draw at ``term`` can have changed, separately for each datum."""
    charged = (
        _keep(cost, plates & term.plates)
        for (plates, loops), cost in groups.items()
        if all(term.loops.get(name, position) == position for name, position in loops)
    )
    return torch.as_tensor(sum(charged))


def _keep(values: Tensor, plates: Iterable[Any]) -> Tensor:
    """Sum ``(particle, *batch)`` over the batch axes that are none of ``plates``."""
    kept = {frame.dim for frame in plates}
    others = [dim for dim in range(1 - values.ndim, 0) if dim not in kept]
    return values.sum(dim=others, keepdim=True) if others else values


def _is_outside_path(site: Site) -> bool:
    """Whether a guide's factor declares a reparameterised draw made outside of Pyro."""
    return (
        site_is_factor(site)
        and getattr(site["fn"], "has_rsample", None) is True
        and bool(site["fn"].log_factor.requires_grad)
    )
