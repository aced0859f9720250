"""Symplectic integrators: how trajectories of ``HMC``, ``ChEESHMC`` and ``NUTS`` are stepped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._hamiltonian import Phase
from pyro_ebm.kernels._motion import Motion


@dataclass(frozen=True)
class Integrator:
    r"""A symmetric splitting of Hamilton's equations, which kicks and drifts in turn.

    .. math:: p \leftarrow p - b_i \epsilon L^\top \nabla U(x); \quad
              x \leftarrow x + a_i \epsilon L p, \qquad i = 1, \ldots, n,

    and one last kick :math:`b_{n+1}`, in coordinates :math:`x = L z` of unit mass. Each step
    keeps volume, and reads the same from both ends, so that it is reversible: kernels that accept
    by the energy are exact with every integrator. A step takes :math:`n` gradients, since the last
    kick is at the point where the next step begins. It is of second order in :math:`\epsilon`, or
    of a higher one.

    With ``rotates`` drifts follow the Gaussian of the target's mean :math:`\mu` and covariance
    :math:`L L^\top` instead of going straight on, and kicks are those of the rest of the potential,

    .. math:: p \leftarrow p - b_i \epsilon (L^\top \nabla U(x) - z); \quad
              z + i p \leftarrow e^{-i a_i \epsilon} (z + i p), \qquad x = \mu + L z,

    so that steps are the longer the closer the target is to that Gaussian, up to a quarter of a
    period. By Stein's identity no other Gaussian leaves a smaller mean square of the kicks in these
    coordinates. Until both :math:`\mu` and :math:`L` are known, by warm-up or since they are given,
    drifts go straight on.

    Args:
        drifts: :math:`a_1, \ldots, a_n`, which sum to one.
        kicks: :math:`b_1, \ldots, b_{n+1}`, which sum to one.
        rotates: Whether drifts follow a Gaussian.

    Raises:
        ValueError: If there is not one kick more than there are drifts, if either do not sum to
            one, or if either are not the same forwards and backwards.

    References:
        Leimkuhler and Reich (2004), Simulating Hamiltonian dynamics, chapter 4; Blanes, Casas and
        Sanz-Serna (2014), Numerical integrators for the hybrid Monte Carlo method; Shahbaba, Lan,
        Johnson and Neal (2014), Split Hamiltonian Monte Carlo; Casas, Sanz-Serna and Shaw (2022),
        Split Hamiltonian Monte Carlo revisited (the rotation, in coordinates of unit covariance).

    >>> b = 0.21178  # of Blanes, Casas and Sanz-Serna, for two stages
    >>> Integrator(drifts=(0.5, 0.5), kicks=(b, 1 - 2 * b, b)).num_gradients
    2
    """

    drifts: tuple[float, ...]
    kicks: tuple[float, ...]
    rotates: bool = False

    def __post_init__(self) -> None:
        for name in ("drifts", "kicks"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if len(self.kicks) != len(self.drifts) + 1:
            raise ValueError(
                f"An integrator begins and ends with a kick, but {self} has {len(self.drifts)} "
                f"drifts and {len(self.kicks)} kicks: give one kick more than drifts."
            )
        _check_parts("drifts", self.drifts)
        _check_parts("kicks", self.kicks)

    @property
    def num_gradients(self) -> int:
        """Gradients that a step takes."""
        return len(self.drifts)

    @property
    def largest_step_size(self) -> float:
        """A quarter of a period where drifts rotate, in which positions and momenta change places.

        On what is a Gaussian nothing is gained by longer steps, and all are accepted.
        """
        return math.pi / 2 if self.rotates else math.inf

    def step(
        self, potential: Potential, start: Phase, stride: Tensor, motion: Motion
    ) -> tuple[Phase, Tensor]:
        """One step by the signed step sizes ``stride`` ``(C, 1)``.

        Returns:
            The end, and the potential ``(C,)`` there.
        """
        position, momentum, grad = start
        place = motion.enter(position)
        for stage, (drift, kick) in enumerate(zip(self.drifts, self.kicks[:-1], strict=True)):
            momentum = torch.addcmul(momentum, stride, motion.kick(place, grad), value=-kick)
            moved, momentum = motion.drift(place, momentum, drift * stride)
            # Not where a gradient within the step that is not finite leads: energies may raise
            # there. The momentum stays so, and tells that the trajectory diverges.
            place = moved if stage == 0 else torch.where(moved.isfinite(), moved, place)
            position = motion.leave(place)
            potential_energy, grad = potential.value_and_grad(position)
        last = -self.kicks[-1]
        momentum = torch.addcmul(momentum, stride, motion.kick(place, grad), value=last)
        return Phase(position, momentum, grad), potential_energy


def check_integrator(integrator: object) -> None:
    """Raise if a kernel is given something else."""
    if not isinstance(integrator, Integrator):
        raise TypeError(
            f"integrator={integrator!r}, but LEAPFROG, MCLACHLAN or another Integrator of "
            "pyro_ebm.kernels is wanted."
        )


def _check_parts(name: str, parts: tuple[float, ...]) -> None:
    """Raise if parts of a step do not make up a whole one, or depend on the direction of time."""
    if not math.isclose(sum(parts), 1.0, rel_tol=1e-12):
        raise ValueError(f"{name}={parts} sum to {sum(parts)}, but the parts of a step sum to 1.")
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

MCLACHLAN = Integrator(drifts=(0.5, 0.5), kicks=(_LEAST_ERROR, 1 - 2 * _LEAST_ERROR, _LEAST_ERROR))
r"""Two gradients, with an error 0.37 times that of two leapfrogs of half the step, and less on a
Gaussian. Also known as the second-order integrator of minimal norm.

Stable on a Gaussian of precision :math:`\Lambda` for :math:`\epsilon^2 \Lambda < 6.52`, which is
:math:`4 / (1 - 2 b)` with the outer kicks :math:`b`. Steps of the same acceptance are about twice
as long as leapfrogs, in many dimensions longer, so that noise, bookkeeping and storage are needed
half as often. Near its limit of stability it is accurate still: in few dimensions a step that turns
a Gaussian direction by half a period, which moves nothing but its sign, is accepted four times in
five. So tune ``HMC`` and ``ChEESHMC`` to ``target_accept_prob=0.9`` with it, and use ``LEAPFROG``
where one or two directions limit the step, as in one or two dimensions. ``NUTS`` looks at the ends
of steps only, and does not see that a trajectory turns which goes round in three: with it use
``LEAPFROG`` on what is close to a Gaussian, and a ``target_accept_prob`` of 0.75 elsewhere. Far
from the target, where leapfrogs err by losing energy and are accepted, its steps are small: where
starts are far out, warm-up takes longer.

McLachlan (1995), On the numerical integration of ordinary differential equations by symmetric
composition methods; Omelyan, Mryglod and Folk (2003), Symplectic analytically integrable
decomposition algorithms.
"""

ROTATIONS = Integrator(drifts=(1.0,), kicks=(0.5, 0.5), rotates=True)
r"""One gradient, and round the centre instead of straight on: kick, rotate, kick.

Exact on the Gaussian of the kernel's ``center`` and ``scale``, so that steps are limited by what
is *not* that Gaussian: with ``full_mass=True`` by what is not Gaussian in the target, and with one
standard deviation for each coordinate by correlations, too, as leapfrogs are. On posteriors that
the data tell much of they are up to twice as long as leapfrogs, on funnels and on modes far apart
about as long. Many widths out on heavy tails, where slopes vanish and leapfrogs are exact, a
rotation errs, and chains that start there may stay longer. Give no ``step_size`` above a quarter of
a period, :math:`\pi / 2`, which warm-up does not exceed: half a period is accepted, and moves
nothing but signs.
"""
