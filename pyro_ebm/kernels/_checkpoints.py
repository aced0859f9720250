"""Momenta that the U-turn tests of sub-trees need, each kept for as long as one needs it.

Leaves of a sub-tree are numbered ``0, 1, ...``. Inside it, the balanced sub-trees of ``2^j``
leaves begin where the number is a multiple of ``2^j`` and end ``2^j - 1`` later. Each level
``j`` has one slot, written at the first leaf of such a sub-tree and read at its last. A leaf
begins one sub-tree on average and ends one, so the work is ``O(chains * dim)`` a step, whatever
the largest depth. Level 1, two neighbours, needs no slot.

References:
    Phan, Pradhan and Jankowiak (2019), Composable effects for flexible and accelerated
    probabilistic programming in NumPyro (iterative sub-trees); Lao et al. (2020), tfp.mcmc.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FIRST_LEVEL = 2


def empty_checkpoints(momentum: Tensor, max_tree_depth: int) -> Tensor:
    """Room ``(C, level, 2, dim)`` for the levels inside the largest sub-tree."""
    num_chains, dim = momentum.shape
    num_levels = max(0, max_tree_depth - _FIRST_LEVEL)
    return momentum.new_zeros(num_chains, num_levels, 2, dim)


def has_turned(left: Tensor, right: Tensor, momentum_sum: Tensor) -> Tensor:
    r"""Whether a trajectory has turned: :math:`p \cdot (\rho - (p_l + p_r) / 2) \le 0` at an end.

    Args:
        left: Momentum at one end, ``(n, dim)``.
        right: Momentum at the other.
        momentum_sum: :math:`\rho`, the sum over all points, both ends included.
    """
    inner = torch.sub(momentum_sum, left + right, alpha=0.5)
    return ((inner * left).sum(dim=-1) <= 0) | ((inner * right).sum(dim=-1) <= 0)


def pair_has_turned(left: Tensor, right: Tensor) -> Tensor:
    """:func:`has_turned` of two neighbours, where the inner sum is the mean of the two."""
    product = (left * right).sum(dim=-1)
    return (left.square().sum(dim=-1) <= -product) | (right.square().sum(dim=-1) <= -product)


# One operation for compilers: the number of sub-trees that end differs from step to step, and a
# loop over all slots of all chains would take longer than everything else together.
@torch.library.custom_op("pyro_ebm::subtree_has_turned", mutates_args={"checkpoints"})
def subtree_has_turned(
    checkpoints: Tensor, leaf: Tensor, depth: Tensor, momentum: Tensor, momentum_sum: Tensor
) -> Tensor:
    """Whether a sub-tree of four or more leaves that ends at the new leaf has turned, ``(C,)``.

    Reads the slots of the sub-trees that end, and writes, in place, those of the sub-trees that
    begin.

    Args:
        checkpoints: Slots, see :func:`empty_checkpoints`.
        leaf: Number ``(C,)`` of the new leaf in the sub-tree that is growing.
        depth: Depth ``(C,)`` of that sub-tree, which has ``2^depth`` leaves when complete.
        momentum: Momentum ``(C, dim)`` of the new leaf.
        momentum_sum: Sum over the leaves so far, the new one included.
    """
    level = torch.arange(checkpoints.shape[1], device=leaf.device) + _FIRST_LEVEL
    last = (1 << level) - 1
    place = leaf.unsqueeze(-1) & last
    inner = torch.sub(momentum_sum, momentum, alpha=0.5)

    chain, slot = (place == last).nonzero(as_tuple=True)
    left, before = checkpoints[chain, slot].unbind(dim=1)
    between = inner[chain] - before
    turns = (between * left).sum(dim=-1) <= 0
    turns |= (between * momentum[chain]).sum(dim=-1) <= 0
    turned = torch.zeros_like(leaf, dtype=torch.bool)
    turned[chain[turns]] = True

    chain, slot = ((place == 0) & (level <= depth.unsqueeze(-1))).nonzero(as_tuple=True)
    checkpoints[chain, slot] = torch.stack([momentum[chain], inner[chain]], dim=1)
    return turned


@subtree_has_turned.register_fake
def _(
    checkpoints: Tensor, leaf: Tensor, depth: Tensor, momentum: Tensor, momentum_sum: Tensor
) -> Tensor:
    del checkpoints, depth, momentum, momentum_sum
    return torch.empty_like(leaf, dtype=torch.bool)
