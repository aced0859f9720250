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

from pyro_ebm.core.positions import laid_out

_FIRST_LEVEL = 2

_FEW_NUMBERS = 2**18
"""Checkpoints in which selecting slots costs more than looking at all."""


def empty_checkpoints(momentum: Tensor, max_tree_depth: int) -> Tensor:
    """Room ``(C, level, 2, dim)`` for the levels inside the largest sub-tree."""
    num_chains, dim = momentum.shape
    num_levels = max(0, max_tree_depth - _FIRST_LEVEL)
    return laid_out(momentum.new_zeros(num_chains, num_levels, 2, dim))


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


def subtree_has_turned(
    checkpoints: Tensor, leaf: Tensor, depth: Tensor, momentum: Tensor, momentum_sum: Tensor
) -> Tensor:
    """Whether a sub-tree of four or more leaves that ends at the new leaf has turned, ``(C,)``.

    Args:
        checkpoints: Slots, see :func:`empty_checkpoints`; changed in place for the next leaf.
        leaf: Number ``(C,)`` of the new leaf in the sub-tree that is growing.
        depth: Depth ``(C,)`` of that sub-tree, which has ``2^depth`` leaves when complete.
        momentum: Momentum ``(C, dim)`` of the new leaf.
        momentum_sum: Sum over the leaves so far, the new one included.

    Returns:
        Whether one has turned.
    """
    # On a GPU to count those in use would be to wait for it.
    if checkpoints.numel() <= _FEW_NUMBERS or checkpoints.device.type != "cpu":
        return turned_in_all_slots(checkpoints, leaf, momentum, momentum_sum)
    turned: Tensor = turned_in_used_slots(checkpoints, leaf, depth, momentum, momentum_sum)
    return turned


def turned_in_all_slots(
    checkpoints: Tensor, leaf: Tensor, momentum: Tensor, momentum_sum: Tensor
) -> Tensor:
    """Look at every slot of every chain, which for few numbers is faster than to select."""
    slots = checkpoints.permute(1, 2, 3, 0)  # as few coordinates lie in memory
    last = _last_leaves(checkpoints).unsqueeze(-1)
    place = leaf & last
    right, inner = momentum.mT, torch.sub(momentum_sum, momentum, alpha=0.5).mT
    left, before = slots.unbind(dim=1)
    between = inner - before
    turns = ((between * left).sum(dim=1) <= 0) | ((between * right).sum(dim=1) <= 0)
    turned = (turns & (place == last)).any(dim=0)
    begins = (place == 0)[:, None, None]
    # One write for both halves: compilers would copy all slots once more between two.
    slots.copy_(torch.where(begins, torch.stack([right, inner]), slots))
    return turned


# One operation for compilers, since the number of sub-trees that end differs from step to step.
@torch.library.custom_op("pyro_ebm::turned_in_used_slots", mutates_args={"checkpoints"})
def turned_in_used_slots(
    checkpoints: Tensor, leaf: Tensor, depth: Tensor, momentum: Tensor, momentum_sum: Tensor
) -> Tensor:
    """Read the slots of the sub-trees that end, and write those of the sub-trees that begin."""
    last = _last_leaves(checkpoints)
    place = leaf.unsqueeze(-1) & last
    inner = torch.sub(momentum_sum, momentum, alpha=0.5)

    chain, slot = (place == last).nonzero(as_tuple=True)
    left, before = checkpoints[chain, slot].unbind(dim=1)
    between = inner[chain] - before
    turns = (between * left).sum(dim=-1) <= 0
    turns |= (between * momentum[chain]).sum(dim=-1) <= 0
    turned = torch.zeros_like(leaf, dtype=torch.bool)
    turned[chain[turns]] = True

    begins = (place == 0) & (last < (1 << depth).unsqueeze(-1))
    chain, slot = begins.nonzero(as_tuple=True)
    checkpoints[chain, slot] = torch.stack([momentum[chain], inner[chain]], dim=1)
    return turned


@turned_in_used_slots.register_fake
def _(
    checkpoints: Tensor, leaf: Tensor, depth: Tensor, momentum: Tensor, momentum_sum: Tensor
) -> Tensor:
    del checkpoints, depth, momentum, momentum_sum
    return torch.empty_like(leaf, dtype=torch.bool)


def _last_leaves(checkpoints: Tensor) -> Tensor:
    """``2^level - 1`` of each slot."""
    num_levels, device = checkpoints.shape[1], checkpoints.device
    level = torch.arange(num_levels, dtype=torch.int32, device=device) + _FIRST_LEVEL
    return (1 << level) - 1
