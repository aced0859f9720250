"""Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_ebm.kernels._adjusted_langevin import AdjustedLangevin


@dataclass(frozen=True, eq=False, kw_only=True)
class MALA(AdjustedLangevin):
    r"""Metropolis-adjusted Langevin algorithm: leaves :math:`e^{-U}` invariant exactly.

    The proposal is a :class:`Langevin` step; each chain accepts its own with probability

    .. math:: \min\Bigl(1, \exp\bigl\{U - U' + \tfrac12 d^\top(g + g')
              + \tfrac{\epsilon^2}{8}(g^\top C g - g'^\top C g')\bigr\}\Bigr),

    :math:`d = x' - x`, :math:`g = \nabla U(x)`, :math:`C = \mathrm{diag}(s^2)`. One gradient a
    step: the energy and gradient of a rejected chain are kept. The ratio is computed in
    float64, so that float32 positions are accepted correctly as long as the potential itself
    is good to well below 1 in float32 (values up to about :math:`10^5`).

    Where the density has lighter tails than a Gaussian a chain can be stuck at a far point
    whose drift overshoots; smaller steps cure it, and ``mixing_report`` names such chains.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`\epsilon`, standard deviation of the noise; None to have warm-up
            tune it.
        scale: :math:`s`, one standard deviation for each coordinate, or a Cholesky factor of
            :math:`C`; None to have warm-up estimate standard deviations.
        target_accept_prob: Acceptance that warm-up tunes to; 0.574 is optimal in high
            dimension.

    References:
        Roberts and Rosenthal (1998), Optimal scaling of discrete approximations to Langevin
        diffusions (the 0.574).

    >>> MALA(step_size=0.5).target_accept_prob
    0.574
    """
