"""The reparameterised ("pathwise") gradient of the ELBO."""

from __future__ import annotations

import torch
from pyro.distributions.distribution import Distribution
from pyro.distributions.util import is_identically_zero
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.estimators._particles import Execution, ParticleELBO, Particles
from pyro_ebm.estimators._sites import Site, is_draw, is_outside_draw, sample_sites


class ReparameterizedELBO(ParticleELBO):
    r"""Estimate the gradient of the ELBO along the path of the draws.

    With draws :math:`z_k = T_\phi(\epsilon_k)`,

    .. math::

        \nabla\mathcal L \approx \frac1K \sum_{k=1}^K \nabla_{\theta,\phi}
        \bigl[\log p_\theta(x, z_k) - \log q_\phi(z_k)\bigr].

    Unbiased when :math:`\log p_\theta(x, z) - \log q_\phi(z)` is absolutely continuous along
    the path (no jumps in ``z``). Only the pathwise derivative is used, so every draw of the
    guide must have one; ``Delta`` sites are differentiated as the functions that they are.

    Args:
        num_particles: number :math:`K` of draws for the one minibatch.
        vectorize_particles: draw them in one run, inside an outermost plate.
        max_plate_nesting: number of plate dimensions of model and guide; guessed when None.

    Raises:
        ModelError: a guide site has no pathwise derivative, or a latent is not in the guide.
        NonFiniteError: a log density or a gradient is NaN or infinite.

    References:
        Auto-encoding variational Bayes (Kingma & Welling, 2014). Stochastic backpropagation
        and approximate inference in deep generative models (Rezende, Mohamed & Wierstra, 2014).

    >>> import pyro, torch, pyro.distributions as dist
    >>> from pyro.infer import SVI
    >>> from pyro.infer.autoguide import AutoNormal
    >>> def model(x):
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> elbo = ReparameterizedELBO(num_particles=8)
    >>> svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), loss=elbo)
    >>> loss = svi.step(torch.tensor(1.0))
    """

    def __init__(
        self,
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

    def _check_run(self, model: Execution, guide: Execution) -> None:
        del model
        rough = [site["name"] for site in sample_sites(guide.trace) if not _is_pathwise(site)]
        if rough:
            raise ModelError(
                f"The guide's sites {rough} have no pathwise derivative (discrete, or not "
                "reparameterised); use ScoreFunctionELBO, or pyro.infer.Trace_ELBO to mix both."
            )

    def _surrogate(self, particles: Particles) -> Tensor:
        return torch.as_tensor(sum(term.cost.sum() for part in particles for term in part))


def _is_pathwise(site: Site) -> bool:
    if not is_draw(site):
        return not is_outside_draw(site)
    if not site["fn"].has_rsample:
        return False
    # Rejection samplers have a path only in part, and say so in their score parts.
    if type(site["fn"]).score_parts is Distribution.score_parts:
        return True
    score = site["fn"].score_parts(site["value"]).score_function
    return bool(is_identically_zero(score))
