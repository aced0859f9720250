"""Hamiltonian Monte Carlo with jittered trajectories, which all chains step together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

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
from pyro_ebm.core.positions import select
from pyro_ebm.core.types import Potential
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


class HMCNoise(NamedTuple):
    """Randomness of one step; uniforms are ``(C,)`` in float64."""

    normal: NormalNoise
    """Standard normal ``(C, dim)``: momenta of the chains that begin a trajectory."""
    accept: Tensor
    """Decides whether the end of a trajectory is accepted."""
    length: Tensor
    """Decides how long the next trajectory is."""


class HMCState(NamedTuple):
    """Chains in the middle of their trajectories."""

    draw: Point
    """The last draw, where the trajectory began."""
    front: Phase
    """Where the trajectory is now."""
    stride: Tensor
    """Step size of the trajectory ``(C, 1)``."""
    energy: Tensor
    """Energy that the trajectory began with, ``(C,)`` in float64."""
    length: Tensor
    """Length of the trajectory in units of the mean, ``(C,)`` in float64."""
    num_steps: Tensor
    """Steps of the trajectory so far ``(C,)``."""

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
class HMC(TrajectoryRecipe[HMCState]):
    r"""Hamiltonian Monte Carlo: leaves :math:`e^{-U}` invariant exactly.

    From a momentum :math:`p \sim N(0, I)`, in coordinates :math:`x = L z`, leapfrog steps

    .. math:: p \leftarrow p - \tfrac\epsilon2 L^\top \nabla U; \quad
              x \leftarrow x + \epsilon L p; \quad p \leftarrow p - \tfrac\epsilon2 L^\top \nabla U

    for the time :math:`u T`, or the nearest that is a whole number of steps. The end is accepted
    with probability :math:`\min(1, e^{H_0 - H})`, :math:`H = U + |p|^2 / 2`. The factor
    :math:`u \sim U(1 - j, 1 + j)` is drawn anew for each trajectory of each chain: with a fixed
    length, coordinates of which it is half a period would never mix.

    One step is one leapfrog, one gradient, of every chain, or one step of another ``integrator``;
    chains whose trajectories are shorter do not wait for the others, and a number of draws is
    kept that is fixed beforehand. A trajectory that diverges ends at once and is rejected.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`\epsilon`; None to have warm-up tune it.
        scale: Standard deviations or Cholesky factor :math:`L` of a covariance, the inverse mass;
            None to have warm-up estimate it.
        target_accept_prob: Mean of :math:`\min(1, e^{H_0 - H})` over the points of a trajectory
            that warm-up tunes to.
        full_mass: Whether warm-up estimates the whole covariance instead of its diagonal.
        trajectory_length: :math:`T`, in coordinates of unit scale, where a quarter of a period is
            :math:`\pi / 2`.
        jitter: :math:`j` in [0, 1).
        max_num_steps: Largest number of steps of a trajectory.
        integrator: How a step of a trajectory is made: ``LEAPFROG``; ``ROTATIONS`` for longer steps
            where the target is like a Gaussian; ``MCLACHLAN`` for longer ones of two gradients
            (give ``target_accept_prob=0.9`` with it); or another
            :class:`~pyro_ebm.kernels.integrators.Integrator`.
        center: Mean ``(dim,)`` of the target, round which an integrator that rotates steps; None to
            have warm-up estimate it. Until it and ``scale`` are known, steps go straight on.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics; the jitter is its section 5.4.2.2.

    >>> HMC(step_size=0.5).jitter
    0.2
    """

    shortest_warmup: ClassVar[int] = 50
    steps_per_call: ClassVar[int] = 1

    trajectory_length: float = math.pi / 2
    jitter: float = 0.2
    max_num_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("trajectory_length", self.trajectory_length)
        check_count("max_num_steps", self.max_num_steps)
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter={self.jitter!r}, but jitter must lie in [0, 1).")

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> HMCState:
        return self._begin(Point(position, *potential.value_and_grad(position)), generator)

    def restart(self, state: HMCState, generator: torch.Generator | None) -> HMCState:
        return self._begin(state.draw, generator)

    def noise(self, state: HMCState, generator: torch.Generator | None) -> HMCNoise:
        x = state.front.momentum
        return HMCNoise(normal_or_seed(x, generator), *uniform_noise(x, 2, generator))

    def step(
        self, potential: Potential, state: HMCState, noise: HMCNoise
    ) -> tuple[HMCState, TrajectoryInfo]:
        step_size = known_step_size(self)
        front, potential_energy = self.leap(potential, state.front, state.stride)
        log_ratio = state.energy - total_energy(potential_energy, front.momentum)
        diverging = is_off(log_ratio)
        acceptance = point_acceptance(log_ratio, diverging)

        num_steps = state.num_steps + 1
        finished = diverging | (num_steps >= self._num_steps(state))
        end = Point(front.position, potential_energy, front.grad)
        draw = select(finished & (noise.accept < acceptance), end, state.draw)
        info = TrajectoryInfo(
            finished=finished,
            step_acceptance=acceptance,
            lp=-draw.potential_energy,
            acceptance_rate=acceptance,
            step_size=state.stride.squeeze(-1),
            diverging=diverging,
            energy=state.energy,
            n_steps=num_steps,
        )
        momentum = normal_of(noise.normal, front.momentum)
        begun = self._begun(draw, momentum, noise.length, step_size)
        going = state._replace(draw=draw, front=front, num_steps=num_steps)
        return select(finished, begun, going), info

    def _num_steps(self, state: HMCState) -> Tensor:
        """Steps of each chain's trajectory: the nearest whole number, and one at least."""
        steps = state.length * self.trajectory_length / state.stride.squeeze(-1)
        return steps.round().clamp(min=1, max=self.max_num_steps)

    def _begin(self, draw: Point, generator: torch.Generator | None) -> HMCState:
        step_size = math.nan if self.step_size is None else self.step_size
        (length,) = uniform_noise(draw.position, 1, generator)
        return self._begun(draw, normal_noise(draw.position, generator), length, step_size)

    def _begun(self, draw: Point, momentum: Tensor, uniform: Tensor, step_size: float) -> HMCState:
        return HMCState(
            draw=draw,
            front=Phase(draw.position, momentum, draw.grad),
            stride=draw.position.new_zeros((len(momentum), 1)) + step_size,
            energy=total_energy(draw.potential_energy, momentum),
            length=1.0 + self.jitter * (2.0 * uniform - 1.0),
            num_steps=torch.zeros_like(uniform, dtype=torch.int64),
        )
