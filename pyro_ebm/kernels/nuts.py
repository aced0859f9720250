"""The No-U-Turn sampler; one step adds one leaf to the tree of every chain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.checks import check_count
from pyro_ebm.core.noise import (
    NormalNoise,
    normal_noise,
    normal_of,
    normal_or_seed,
    uniform_noise,
)
from pyro_ebm.core.positions import choose, select
from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._checkpoints import (
    empty_checkpoints,
    has_turned,
    pair_has_turned,
    subtree_has_turned,
)
from pyro_ebm.kernels._hamiltonian import (
    Phase,
    Point,
    is_off,
    point_acceptance,
    total_energy,
)
from pyro_ebm.kernels._recipe import known_step_size
from pyro_ebm.kernels._trajectories import TrajectoryRecipe


class NUTSNoise(NamedTuple):
    """Randomness of one step; uniforms are ``(C,)`` in float64."""

    normal: NormalNoise
    """Standard normal ``(C, dim)``: momenta of the chains that begin a trajectory."""
    leaf: Tensor
    """Decides whether the sub-tree proposes its new leaf."""
    subtree: Tensor
    """Decides whether the tree proposes what its new sub-tree does."""
    direction: Tensor
    """Decides at which end the next sub-tree grows."""


class Tree(NamedTuple):
    """Leaves of one trajectory, summed up."""

    proposal: Point
    """The leaf that has been chosen so far."""
    momentum_sum: Tensor
    """Sum of the momenta ``(C, dim)``."""
    log_weight: Tensor
    """Log of the sum of ``exp(H0 - H)``, ``(C,)`` in float64."""


class NUTSState(NamedTuple):
    """Chains in the middle of their trajectories."""

    tree: Tree
    """The tree without the sub-tree that grows; its proposal is the chain's position."""
    subtree: Tree
    """The sub-tree that grows, until it is as large as the tree."""
    front: Phase
    """The end of the trajectory where leaves are added."""
    back: Phase
    """The other end."""
    stride: Tensor
    """Step size ``(C, 1)`` of the trajectory, negative when it goes backwards in time."""
    energy: Tensor
    """Energy ``H0`` that the trajectory began with, ``(C,)`` in float64."""
    depth: Tensor
    """Doublings so far ``(C,)``."""
    num_leaves: Tensor
    """Leaves of the sub-tree so far ``(C,)``."""
    num_steps: Tensor
    """Steps of the trajectory so far ``(C,)``."""
    acceptance_sum: Tensor
    """Sum over them of ``min(1, exp(H0 - H))``, ``(C,)`` in float64."""
    checkpoints: Tensor
    """Scratch memory of the sub-tree ``(C, level, 2, dim)``."""

    @property
    def position(self) -> Tensor:
        return self.tree.proposal.position

    @property
    def potential_energy(self) -> Tensor:
        return self.tree.proposal.potential_energy

    @property
    def grad(self) -> Tensor:
        return self.tree.proposal.grad


class NUTSInfo(NamedTuple):
    """Report of one step; the statistics are those of the trajectory that it ends."""

    finished: Tensor
    step_acceptance: Tensor
    lp: Tensor
    acceptance_rate: Tensor
    step_size: Tensor
    diverging: Tensor
    energy: Tensor
    """Potential plus kinetic energy that the trajectory began with."""
    n_steps: Tensor
    """Steps of the trajectory, each ``Integrator.num_gradients`` gradients."""
    tree_depth: Tensor
    reached_max_treedepth: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class NUTS(TrajectoryRecipe[NUTSState]):
    r"""No-U-Turn sampler with multinomial weights: leaves :math:`e^{-U}` invariant exactly.

    A trajectory (of leapfrogs, see :class:`HMC`) is doubled, forwards or backwards in time at
    random, until it or one of its balanced sub-trees turns,
    :math:`p \cdot (\rho - (p_l + p_r) / 2) \le 0` at one of its ends with :math:`\rho` the sum of
    its momenta, or until it diverges. The draw is chosen among its points with probabilities
    :math:`\propto e^{-H}` in a sub-tree and with a bias to the newer half between the two.

    **No chain waits for another.** One step is one leapfrog, one gradient, of every chain (or one
    step of another ``integrator``), whatever stage of its tree it is in; a chain that ends a
    trajectory reports its draw in ``Info.finished`` and begins the next in the same step. ``MCMC``
    keeps a number of draws that is fixed beforehand: whoever stops at a time instead keeps too
    many from short trajectories.

    Energies are compared in float64. The memory is about ``(2 * max_tree_depth + 8) * dim`` numbers
    for each chain.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`\epsilon`; None to have warm-up tune it.
        scale: Standard deviations or Cholesky factor of a covariance, the inverse mass; None to
            have warm-up estimate it.
        target_accept_prob: Mean of :math:`\min(1, e^{H_0 - H})` over the points of a trajectory
            that warm-up tunes to.
        full_mass: Whether warm-up estimates the whole covariance instead of its diagonal.
        max_tree_depth: Largest number of doublings; ``2^max_tree_depth - 1`` steps.
        integrator: How a step of a trajectory is made: ``LEAPFROG``; ``ROTATIONS`` for longer steps
            where the target is like a Gaussian; ``MCLACHLAN`` for longer ones of two gradients
            (give ``target_accept_prob=0.75`` with it); or another
            :class:`~pyro_ebm.kernels.integrators.Integrator`.
        center: Mean ``(dim,)`` of the target, round which an integrator that rotates steps; None to
            have warm-up estimate it. Until it and ``scale`` are known, steps go straight on.

    References:
        Hoffman and Gelman (2014), The No-U-Turn sampler; Betancourt (2017), A conceptual
        introduction to Hamiltonian Monte Carlo, appendix A; Phan, Pradhan and Jankowiak (2019),
        Composable effects in NumPyro (the iterative form).

    >>> NUTS(step_size=0.5, max_tree_depth=8).target_accept_prob
    0.8
    """

    shortest_warmup: ClassVar[int] = 50
    steps_per_call: ClassVar[int] = 1

    max_tree_depth: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("max_tree_depth", self.max_tree_depth)

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> NUTSState:
        return self._begin(Point(position, *potential.value_and_grad(position)), generator)

    def restart(self, state: NUTSState, generator: torch.Generator | None) -> NUTSState:
        return self._begin(state.tree.proposal, generator)

    def noise(self, state: NUTSState, generator: torch.Generator | None) -> NUTSNoise:
        x = state.front.momentum
        return NUTSNoise(normal_or_seed(x, generator), *uniform_noise(x, 3, generator))

    def step(
        self, potential: Potential, state: NUTSState, noise: NUTSNoise
    ) -> tuple[NUTSState, NUTSInfo]:
        step_size = known_step_size(self)
        front, potential_energy = self.leap(potential, state.front, state.stride)
        log_ratio = state.energy - total_energy(potential_energy, front.momentum)
        diverging = is_off(log_ratio)
        acceptance = point_acceptance(log_ratio, diverging)

        leaf = Point(front.position, potential_energy, front.grad)
        subtree = _grown(state.subtree, leaf, front.momentum, log_ratio, noise.leaf)
        broken = diverging | _subtree_turns(state, front, subtree)
        num_leaves = state.num_leaves + 1
        ended = broken | (num_leaves == 1 << state.depth)
        merges = ended & ~broken
        tree = _merged(state.tree, subtree, merges, noise.subtree)
        depth = state.depth + merges
        turns = has_turned(state.back.momentum, front.momentum, tree.momentum_sum)
        full = depth >= self.max_tree_depth
        finished = ended & (broken | turns | full)

        moved = state._replace(
            tree=tree,
            subtree=_emptied(subtree, ended),
            front=front,
            depth=depth,
            num_leaves=num_leaves.masked_fill(ended, 0),
            num_steps=state.num_steps + 1,
            acceptance_sum=state.acceptance_sum + acceptance,
        )
        info = _info(moved, finished, acceptance, diverging, full & ~turns)
        turned_round = _turned_round(moved, ended & (noise.direction < 0.5))
        momentum = normal_of(noise.normal, front.momentum)
        return _begun(turned_round, finished, momentum, step_size), info

    def _begin(self, start: Point, generator: torch.Generator | None) -> NUTSState:
        momentum = normal_noise(start.position, generator)
        end = Phase(start.position, momentum, start.grad)
        nothing = torch.zeros_like(start.potential_energy, dtype=torch.float64)
        none = torch.zeros_like(nothing, dtype=torch.int32)
        step_size = math.nan if self.step_size is None else self.step_size
        return NUTSState(
            tree=Tree(start, momentum, nothing),
            subtree=Tree(start, torch.zeros_like(momentum), nothing - torch.inf),
            front=end,
            back=end,
            stride=start.position.new_full((len(momentum), 1), step_size),
            energy=total_energy(start.potential_energy, momentum),
            depth=none,
            num_leaves=none,
            num_steps=none,
            acceptance_sum=nothing,
            checkpoints=empty_checkpoints(momentum, self.max_tree_depth),
        )


def _grown(
    subtree: Tree, leaf: Point, momentum: Tensor, log_ratio: Tensor, uniform: Tensor
) -> Tree:
    """The sub-tree with one more leaf, which is proposed with its share of the weight."""
    log_weight = torch.logaddexp(subtree.log_weight, log_ratio)
    return Tree(
        select(uniform.log() < log_ratio - log_weight, leaf, subtree.proposal),
        subtree.momentum_sum + momentum,
        log_weight,
    )


def _subtree_turns(state: NUTSState, front: Phase, subtree: Tree) -> Tensor:
    """Whether a balanced sub-tree that ends at the new leaf has turned."""
    is_odd = state.num_leaves % 2 == 1
    pair = is_odd & pair_has_turned(state.front.momentum, front.momentum)
    return pair | subtree_has_turned(
        state.checkpoints, state.num_leaves, state.depth, front.momentum, subtree.momentum_sum
    )


def _merged(tree: Tree, subtree: Tree, merges: Tensor, uniform: Tensor) -> Tree:
    """The tree with the sub-tree, whose proposal is taken with the ratio of the weights."""
    adopts = merges & (uniform.log() < subtree.log_weight - tree.log_weight)
    both = torch.logaddexp(tree.log_weight, subtree.log_weight)
    return Tree(
        select(adopts, subtree.proposal, tree.proposal),
        choose(merges, tree.momentum_sum + subtree.momentum_sum, tree.momentum_sum),
        torch.where(merges, both, tree.log_weight),
    )


def _emptied(subtree: Tree, ended: Tensor) -> Tree:
    """The sub-tree, without leaves where it has ended."""
    return subtree._replace(
        momentum_sum=subtree.momentum_sum.masked_fill(ended.unsqueeze(-1), 0.0),
        log_weight=subtree.log_weight.masked_fill(ended, -torch.inf),
    )


def _turned_round(state: NUTSState, swaps: Tensor) -> NUTSState:
    """Go on at the other end, in the other direction of time."""
    return state._replace(
        front=select(swaps, state.back, state.front),
        back=select(swaps, state.front, state.back),
        stride=choose(swaps, -state.stride, state.stride),
    )


def _begun(state: NUTSState, begins: Tensor, momentum: Tensor, step_size: float) -> NUTSState:
    """A new trajectory from its proposal for the chains that have ended one."""
    proposal = state.tree.proposal
    start = Phase(proposal.position, momentum, proposal.grad)
    energy = total_energy(proposal.potential_energy, momentum)
    # The direction of the first doubling, too, is random.
    stride = torch.copysign(torch.zeros_like(state.stride) + step_size, state.stride)
    return state._replace(
        tree=Tree(
            proposal,
            choose(begins, momentum, state.tree.momentum_sum),
            state.tree.log_weight.masked_fill(begins, 0.0),
        ),
        front=select(begins, start, state.front),
        back=select(begins, start, state.back),
        stride=choose(begins, stride, state.stride),
        energy=torch.where(begins, energy, state.energy),
        depth=state.depth.masked_fill(begins, 0),
        num_steps=state.num_steps.masked_fill(begins, 0),
        acceptance_sum=state.acceptance_sum.masked_fill(begins, 0.0),
    )


def _info(
    state: NUTSState, finished: Tensor, acceptance: Tensor, diverging: Tensor, full: Tensor
) -> NUTSInfo:
    return NUTSInfo(
        finished=finished,
        step_acceptance=acceptance,
        lp=-state.potential_energy,
        acceptance_rate=state.acceptance_sum / state.num_steps,
        step_size=state.stride.squeeze(-1).abs(),
        diverging=diverging,
        energy=state.energy,
        n_steps=state.num_steps,
        tree_depth=state.depth,
        reached_max_treedepth=full,
    )
