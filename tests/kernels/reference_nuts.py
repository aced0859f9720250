"""NUTS as it is written in papers, one chain and one leaf at a time, all leaves kept in a list."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.types import Potential


class Leaf(NamedTuple):
    """A point of phase space and its weight."""

    position: Tensor
    momentum: Tensor
    grad: Tensor
    log_weight: float


class Transition(NamedTuple):
    """A draw and its statistics."""

    position: Tensor
    num_steps: int
    depth: int
    acceptance_rate: float
    diverging: bool


def leap(potential: Potential, leaf: Leaf, step_size: float, energy: float) -> Leaf:
    """The next leaf, weighted against the initial energy."""
    momentum = leaf.momentum - 0.5 * step_size * leaf.grad
    position = leaf.position + step_size * momentum
    value, grad = potential.value_and_grad(position.unsqueeze(0))
    momentum = momentum - 0.5 * step_size * grad[0]
    log_weight = energy - value.item() - 0.5 * momentum.square().sum().item()
    return Leaf(position, momentum, grad[0], log_weight)


def turns(leaves: list[Leaf]) -> bool:
    """Whether the trajectory through all of these leaves has turned."""
    first, last = leaves[0].momentum, leaves[-1].momentum
    inner = torch.stack([leaf.momentum for leaf in leaves]).sum(0) - 0.5 * (first + last)
    return bool(inner @ first <= 0) or bool(inner @ last <= 0)


def some_subtree_turns(leaves: list[Leaf]) -> bool:
    """Whether one of the balanced sub-trees that end at the last leaf has turned."""
    number, size = len(leaves), 2
    while number % size == 0:
        if turns(leaves[number - size :]):
            return True
        size *= 2
    return False


def transition(  # as the papers have it
    potential: Potential, position: Tensor, momentum: Tensor, step_size: float, uniforms: Tensor
) -> Transition:
    """One draw from ``position``; ``uniforms[step]`` holds what the step with that number uses.

    The first doubling goes forwards; each step has numbers for the leaf, the sub-tree and the
    direction of the doubling after it.
    """
    value, grad = potential.value_and_grad(position.unsqueeze(0))
    energy = value.item() + 0.5 * momentum.square().sum().item()
    tree = [Leaf(position, momentum, grad[0], 0.0)]
    proposal, depth, step, forwards, acceptance = tree[0], 0, 0, True, 0.0
    while depth < 10:
        new: list[Leaf] = []
        weight, candidate, broken, diverging = -math.inf, tree[0], False, False
        while len(new) < 2**depth and not broken:
            end = new[-1] if new else tree[-1 if forwards else 0]
            leaf = leap(potential, end, step_size if forwards else -step_size, energy)
            take, adopt, turn = uniforms[step].tolist()
            step += 1
            new.append(leaf)
            diverging = not leaf.log_weight > -1000
            acceptance += 0.0 if diverging else min(1.0, math.exp(leaf.log_weight))
            weight = float(torch.logaddexp(torch.tensor(weight), torch.tensor(leaf.log_weight)))
            candidate = leaf if math.log(take) < leaf.log_weight - weight else candidate
            broken = diverging or some_subtree_turns(new)
        if broken:
            break
        old = float(torch.logsumexp(torch.tensor([leaf.log_weight for leaf in tree]), 0))
        proposal = candidate if math.log(adopt) < weight - old else proposal
        tree = tree + new if forwards else new[::-1] + tree
        depth += 1
        if turns(tree):
            break
        forwards = forwards != (turn < 0.5)
    return Transition(proposal.position, step, depth, acceptance / step, diverging)
