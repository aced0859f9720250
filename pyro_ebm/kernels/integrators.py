"""Symplectic integrators: how trajectories of ``HMC``, ``ChEESHMC`` and ``NUTS`` are stepped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._hamiltonian import Phase
from pyro_ebm.kernels._metric import Metric


@dataclass(frozen=True)
class Integrator:
    r"""A symmetric splitting of Hamilton's equations, which kicks and drifts in turn.

    .. math:: p \leftarrow p - b_i \epsilon L^\top \nabla U(x); \quad
              x \leftarrow x + a_i \epsilon L p, \qquad i = 1, \ldots, n,

    and one last kick :math:`b_{n+1}`, in coordinates :math:`x = L z` of unit mass. Each step
    keeps volume, and reads the same from both ends, so that it is reversible: kernels that accept
    by the energy are exact with every integrator. A step takes :math:`n` gradients, since the last
    kick is at the point where the next step begins. Its error is :math:`O(\epsilon^2)` at the
    least.

    Args:
        drifts: :math:`a_1, \ldots, a_n`, which sum to one.
        kicks: :math:`b_1, \ldots, b_{n+1}`, which sum to one.

    Raises:
        ValueError: If there is not one kick more than there are drifts, if either do not sum to
            one, or if either are not the same forwards and backwards.

    References:
        Leimkuhler and Reich (2004), Simulating Hamiltonian dynamics, chapter 4; Blanes, Casas and
        Sanz-Serna (2014), Numerical integrators for the hybrid Monte Carlo method.

    >>> b = 0.21178  # of Blanes, Casas and Sanz-Serna, for two stages
    >>> Integrator(drifts=(0.5, 0.5), kicks=(b, 1 - 2 * b, b)).num_gradients
    2
    """

    drifts: tuple[float, ...]
    kicks: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.kicks) != len(self.drifts) + 1:
            raise ValueError(
                f"An integrator begins and ends with a kick, but {self} has {len(self.drifts)} "
                f"drifts and {len(self.kicks)} kicks: give one kick more than drifts."
            )
        for name, parts in (("drifts", self.drifts), ("kicks", self.kicks)):
            _check_parts(name, parts)

    @property
    def num_gradients(self) -> int:
        """Gradients that a step takes."""
        return len(self.drifts)

    def step(
        self, potential: Potential, start: Phase, stride: Tensor, metric: Metric
    ) -> tuple[Phase, Tensor]:
        """One step by the signed step sizes ``stride`` ``(C, 1)``.

        Returns:
            The end, and the potential ``(C,)`` there.
        """
        position, momentum, grad = start
        for drift, kick in zip(self.drifts, self.kicks[:-1], strict=True):
            momentum = torch.addcmul(momentum, stride, metric.to_momentum(grad), value=-kick)
            position = torch.addcmul(position, stride, metric.to_position(momentum), value=drift)
            potential_energy, grad = potential.value_and_grad(position)
        last = -self.kicks[-1]
        momentum = torch.addcmul(momentum, stride, metric.to_momentum(grad), value=last)
        return Phase(position, momentum, grad), potential_energy


def _check_parts(name: str, parts: tuple[float, ...]) -> None:
    """Raise if parts of a step do not make up a whole one, or depend on the direction of time."""
    if not math.isclose(math.fsum(parts), 1.0, abs_tol=1e-12):
        raise ValueError(
            f"{name}={parts} sum to {math.fsum(parts)}, but the parts of a step sum to 1."
        )
    if any(abs(a - b) > 1e-12 for a, b in zip(parts, reversed(parts), strict=True)):
        raise ValueError(
            f"{name}={parts} are not the same forwards and backwards, so that a step would not "
            "be reversible and no kernel exact."
        )


LEAPFROG = Integrator(drifts=(1.0,), kicks=(0.5, 0.5))
r"""Velocity Verlet: one gradient. Stable on a Gaussian of precision :math:`\Lambda` for
:math:`\epsilon^2 \Lambda < 4`."""

_LEAST_ERROR = 0.1931833275037836
r""":math:`\tfrac12 - \tfrac{r}{12} + \tfrac{1}{6 r}` with :math:`r^3 = 2 \sqrt{326} + 36`: the
error of order :math:`\epsilon^2` consists of two terms, and this makes the sum of their squares
least."""

TWO_STAGE = Integrator(drifts=(0.5, 0.5), kicks=(_LEAST_ERROR, 1 - 2 * _LEAST_ERROR, _LEAST_ERROR))
r"""Two gradients, and an error far below that of two leapfrogs of half the step.

Stable on a Gaussian of precision :math:`\Lambda` for :math:`\epsilon^2 \Lambda < 6.51`. Steps of
the same acceptance are about twice as long as leapfrogs, in many dimensions longer, so that noise,
bookkeeping and storage are needed half as often. Near its limit of stability it is accurate
still: a step that turns a Gaussian direction by half a period is accepted, and moves nothing but
the sign. So give ``ChEESHMC`` a ``target_accept_prob`` of 0.9 with it; and ``NUTS``, which does not
see that a trajectory turns if it goes round in three steps, is better without on what is close to
a Gaussian.

McLachlan (1995), On the numerical integration of ordinary differential equations by symmetric
composition methods; Omelyan, Mryglod and Folk (2003), Symplectic analytically integrable
decomposition algorithms."""
