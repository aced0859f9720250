"""Metropolis-adjusted Langevin algorithm with a dense preconditioner."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_ebm.kernels._adjusted_langevin import AdjustedLangevin


@dataclass(frozen=True, eq=False, kw_only=True)
class PreconditionedMALA(AdjustedLangevin):
    r"""MALA in the metric of a whole covariance: leaves :math:`e^{-U}` invariant exactly.

    .. math:: x' = x - \frac{\epsilon^2}{2} C \nabla U(x) + \epsilon L \xi,
              \qquad C = L L^\top, \quad \xi \sim N(0, I),

    accepted by each chain with probability

    .. math:: \min\Bigl(1, \exp\bigl\{U - U' + \tfrac12 d^\top(g + g')
              + \tfrac{\epsilon^2}{8}(g^\top C g - g'^\top C g')\bigr\}\Bigr),

    :math:`d = x' - x`, :math:`g = \nabla U(x)`: the inverse of :math:`C` is not needed. One
    gradient and two products with :math:`L` a step, :math:`O(\text{dim}^2)` for each chain;
    where the coordinates are not correlated :class:`MALA` does the same for less.

    Warm-up pools the covariance over all chains and steps; it is worth having from some ten times
    as many of them as coordinates. :math:`C` is one constant matrix: a target
    whose correlations change from place to place needs shorter steps whatever it is.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`\epsilon`; None to have warm-up tune it.
        scale: :math:`L`, lower triangular Cholesky factor ``(dim, dim)`` of a covariance, or one
            standard deviation for each coordinate ``(dim,)``; None to have warm-up estimate
            the factor.
        target_accept_prob: Acceptance that warm-up tunes to; 0.574 is optimal in high
            dimension.

    References:
        Roberts and Stramer (2002), Langevin diffusions and Metropolis-Hastings algorithms (a
        constant preconditioner); Haario, Saksman and Tamminen (2001), An adaptive Metropolis
        algorithm (the covariance of the chains).

    >>> PreconditionedMALA(step_size=0.5).full_mass
    True
    """

    full_mass = True
