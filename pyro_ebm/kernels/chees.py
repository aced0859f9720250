"""HMC of many chains in lockstep, with a trajectory length that they find together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.checks import check_count, check_positive
from pyro_ebm.core.noise import (
    NormalNoise,
    normal_noise,
    normal_of,
    normal_or_seed,
    uniform_noise,
)
from pyro_ebm.core.positions import choose, select
from pyro_ebm.core.types import Adaptation, Potential
from pyro_ebm.kernels._hamiltonian import (
    Phase,
    Point,
    TrajectoryInfo,
    is_off,
    point_acceptance,
    total_energy,
)
from pyro_ebm.kernels._recipe import known_step_size
from pyro_ebm.kernels._trajectories import TrajectoryRecipe
from pyro_ebm.kernels._trajectory_length import UNIT_LENGTH, TrajectoryLengthTuner


class ChEESNoise(NamedTuple):
    """Randomness of one step."""

    normal: NormalNoise
    """Standard normal ``(C, dim)``: momenta of the trajectories that begin."""
    accept: Tensor
    """Decides whether the end of a trajectory is accepted, uniform ``(C,)`` in float64."""


class ChEESState(NamedTuple):
    """Chains in the middle of their trajectories, all at the same step."""

    draw: Point
    """The last draw, where the trajectory began."""
    front: Phase
    """Where the trajectory is now; where it was last finite if it diverges."""
    stride: Tensor
    """Step size of the trajectory ``(C, 1)``, known from its first step on."""
    energy: Tensor
    """Energy that the trajectory began with, ``(C,)`` in float64."""
    share: Tensor
    """Length of the trajectory in units of the longest, a Halton point ``(C,)`` in float64."""
    num_steps: Tensor
    """Steps of the trajectory so far ``(C,)``."""
    has_diverged: Tensor
    """Whether the trajectory is to be rejected, ``(C,)``."""
    start: Tensor
    """Positions ``(C, dim)`` where the trajectory of the last step began."""
    end: Phase
    """Where the last step led, before the next trajectory began."""

    @property
    def position(self) -> Tensor:
        return self.draw.position

    @property
    def potential_energy(self) -> Tensor:
        return self.draw.potential_energy

    @property
    def grad(self) -> Tensor:
        return self.draw.grad


@dataclass(frozen=True, eq=False, kw_only=True)
class ChEESHMC(TrajectoryRecipe[ChEESState]):
    r"""Hamiltonian Monte Carlo of tuned length: leaves :math:`e^{-U}` invariant exactly.

    Trajectories are those of :class:`HMC`, of :math:`L = \lceil u T / \epsilon \rceil` steps
    with :math:`u` the next point of the van der Corput sequence, the same for all chains. They
    end together, so no chain waits for another. In warm-up :math:`T` climbs the criterion

    .. math:: \tfrac14 E\bigl[(|z' - E z'|^2 - |z - E z|^2)^2\bigr],

    the change of squared distance from the centre along a trajectory from :math:`z` to
    :math:`z'`, in coordinates of unit scale. The expectations are averages *over chains*: use 64
    or more. With fewer than 8 there is nothing to average over; give a ``trajectory_length``
    then, or use ``NUTS``.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`\epsilon`; None to have warm-up tune it.
        scale: Standard deviations or Cholesky factor of a covariance, the inverse mass; None to
            have warm-up estimate it.
        target_accept_prob: Mean of :math:`\min(1, e^{H_0 - H})` over the points of a trajectory
            that warm-up tunes to; 0.8 of that is about the 0.65 of the paper, the harmonic mean
            over the ends of trajectories.
        full_mass: Whether warm-up estimates the whole covariance instead of its diagonal.
        trajectory_length: :math:`T`, of the longest trajectory, in coordinates of unit scale; None
            to have warm-up tune it, and without warm-up 2.25, the best for a standard normal.
        max_num_steps: Largest number of steps of a trajectory.
        integrator: How a step of a trajectory is made: ``LEAPFROG``; ``ROTATIONS`` for longer steps
            where the target is like a Gaussian; ``MCLACHLAN`` for longer ones of two gradients
            (give ``target_accept_prob=0.9`` with it); or another
            :class:`~pyro_ebm.kernels.integrators.Integrator`.
        center: Mean ``(dim,)`` of the target, round which an integrator that rotates steps; None to
            have warm-up estimate it. Until it and ``scale`` are known, steps go straight on.

    Raises:
        ModelError: In warm-up, if there are fewer than 8 chains and no ``trajectory_length``.

    References:
        Hoffman, Radul and Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths
        in Hamiltonian Monte Carlo, algorithm 1.

    >>> ChEESHMC(step_size=0.5).trajectory_length is None
    True
    """

    shortest_warmup: ClassVar[int] = 100

    trajectory_length: float | None = None
    max_num_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trajectory_length is not None:
            check_positive("trajectory_length", self.trajectory_length)
        check_count("max_num_steps", self.max_num_steps)

    @property
    def steps_per_call(self) -> int:  # type: ignore[override]  # of which most kernels have one
        """As many as take at most four gradients, and one at least."""
        return max(1, 4 // self.integrator.num_gradients)

    @property
    def tuned_numbers(self) -> dict[str, float | None]:
        return super().tuned_numbers | {"trajectory_length": self._longest}

    @property
    def _longest(self) -> float:
        return UNIT_LENGTH if self.trajectory_length is None else self.trajectory_length

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> ChEESState:
        draw = Point(position, *potential.value_and_grad(position))
        share = torch.full_like(draw.potential_energy, 0.5, dtype=torch.float64)
        return self._begun(draw, normal_noise(position, generator), share)

    def restart(self, state: ChEESState, generator: torch.Generator | None) -> ChEESState:
        return self._begun(state.draw, normal_noise(state.position, generator), state.share)

    def noise(self, state: ChEESState, generator: torch.Generator | None) -> ChEESNoise:
        x = state.front.momentum
        return ChEESNoise(normal_or_seed(x, generator), *uniform_noise(x, 1, generator))

    def step(
        self, potential: Potential, state: ChEESState, noise: ChEESNoise
    ) -> tuple[ChEESState, TrajectoryInfo]:
        # Chains are in lockstep, so that a new step size need not wait for the next trajectory.
        stride = torch.zeros_like(state.stride) + known_step_size(self)
        stride = choose(state.num_steps == 0, stride, state.stride)
        front, potential_energy = self.leap(potential, state.front, stride)
        log_ratio = state.energy - total_energy(potential_energy, front.momentum)
        has_diverged = state.has_diverged | is_off(log_ratio)
        acceptance = point_acceptance(log_ratio, has_diverged)
        # What has diverged stays where it was: energies of what lies beyond may raise.
        end = select(has_diverged, state.front, front)

        num_steps = state.num_steps + 1
        finished = num_steps >= self._num_steps(state.share, stride)
        last = Point(end.position, potential_energy, end.grad)
        draw = select(finished & (noise.accept < acceptance), last, state.draw)
        info = TrajectoryInfo(
            finished=finished,
            step_acceptance=acceptance,
            lp=-draw.potential_energy,
            acceptance_rate=acceptance,
            step_size=stride.squeeze(-1),
            diverging=has_diverged,
            energy=state.energy,
            n_steps=num_steps,
        )
        momentum = normal_of(noise.normal, front.momentum)
        begun = self._begun(draw, momentum, next_halton(state.share))
        # The last two are references, not copies: what adaptation looks at when all have finished.
        return ChEESState(
            draw=draw,
            front=select(finished, begun.front, end),
            stride=stride,
            energy=torch.where(finished, begun.energy, state.energy),
            share=torch.where(finished, begun.share, state.share),
            num_steps=num_steps.masked_fill(finished, 0),
            has_diverged=has_diverged & ~finished,
            start=state.position,
            end=end,
        ), info

    def adaptation(self) -> Adaptation[Any] | None:
        return TrajectoryLengthTuner() if self.trajectory_length is None else None

    def _num_steps(self, share: Tensor, stride: Tensor) -> Tensor:
        """Steps of the trajectory, rounded up."""
        steps = (share * self._longest / stride.squeeze(-1)).ceil()
        return steps.clamp(min=1, max=self.max_num_steps)

    def _begun(self, draw: Point, momentum: Tensor, share: Tensor) -> ChEESState:
        front = Phase(draw.position, momentum, draw.grad)
        return ChEESState(
            draw=draw,
            front=front,
            stride=momentum.new_zeros(len(momentum), 1),
            energy=total_energy(draw.potential_energy, momentum),
            share=share,
            num_steps=torch.zeros_like(share, dtype=torch.int64),
            has_diverged=torch.zeros_like(share, dtype=torch.bool),
            start=draw.position,
            end=front,
        )


def next_halton(point: Tensor) -> Tensor:
    r"""The successor in the Halton sequence of base 2 (van der Corput): 1/2, 1/4, 3/4, 1/8, ...

    Von Neumann's and Kakutani's odometer, :math:`x - 1 + 3 \cdot 2^{-n-1}` for :math:`x` in
    :math:`[1 - 2^{-n}, 1 - 2^{-n-1})`; exact in binary numbers.

    >>> next_halton(torch.tensor([0.5, 0.25, 0.75]))
    tensor([0.2500, 0.7500, 0.1250])
    """
    ones = torch.floor(-torch.log2(1.0 - point))
    return point - 1.0 + 1.5 * torch.exp2(-ones)
