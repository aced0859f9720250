"""Sums over groups that are known beforehand, without a loop that adds here and there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pyro_ebm.potentials.graphs.sums import is_precise

_aten = torch.ops.aten

_FEW = 100
"""Groups: a product takes time for each number and each group."""

_MOST_PLACES = 2
"""Places for each member: groups of very different sizes would leave most places empty."""


def sum_by_group(module: fx.GraphModule) -> None:
    """Rewrite additions at constant indices: as products, or with groups that fetch their members.

    The gradient of ``intercepts[group]`` adds numbers where the constant ``group`` points to. A
    compiler makes that a loop over the numbers, in which threads must guard every addition: two
    took longer than one. Numbers ``(C, N)`` of few groups are multiplied with a matrix of ones and
    zeros ``(N, groups)`` (which makes NaN of all sums of a chain in which a number is infinite);
    otherwise each group fetches its own. Only on a CPU.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> group, zeros = torch.tensor([0, 1, 0, 1]), torch.zeros(3, 2)
    >>> module = make_fx(lambda x: zeros.index_add(1, group, x))(torch.zeros(3, 4))
    >>> sum_by_group(module)
    >>> [str(node.target) for node in module.graph.nodes][3:-1]
    ['aten.mm.default', 'aten.add.Tensor']
    >>> module(torch.arange(12.0).view(3, 4))[0]
    tensor([2., 4.])
    """
    for node in list(module.graph.nodes):
        if _adds_at_constant(node):
            index = getattr(module, node.args[2].target)
            sums = _multiplied(module, node, index) or _fetched(module, node, index)
            if sums is not None:
                _replace(module, node, sums)
    module.graph.eliminate_dead_code()
    module.recompile()


def _adds_at_constant(node: Any) -> bool:
    if node.target is not _aten.index_add.default or node.kwargs or node.args[2].op != "get_attr":
        return False
    target = node.args[0].meta.get("val")
    return isinstance(target, Tensor) and target.ndim > 0 and target.device.type == "cpu"


def _multiplied(module: fx.GraphModule, node: Any, index: Tensor) -> fx.Node | None:
    target, dim, _, values = node.args
    like = target.meta["val"]
    is_matrix = like.ndim == 2 and dim % 2 == 1 and like.shape[1] <= _FEW
    if not (is_matrix and like.dtype in {torch.float32, torch.float64} and is_precise(like.dtype)):
        return None
    belongs = index.unsqueeze(-1) == torch.arange(like.shape[1], device=index.device)
    with module.graph.inserting_before(node):
        ones = _constant(module, node, "ones", belongs.to(like.dtype))
        product: fx.Node = module.graph.call_function(_aten.mm.default, (values, ones))
    product.meta["val"] = like
    return product


def _fetched(module: fx.GraphModule, node: Any, index: Tensor) -> fx.Node | None:
    target, dim, _, values = node.args
    shape = list(target.meta["val"].shape)
    members = _members(index, shape[dim])
    if members.numel() > _MOST_PLACES * index.numel():
        return None
    dim %= len(shape)
    graph, is_empty = module.graph, members < 0
    with graph.inserting_before(node):
        places = _constant(module, node, "places", members.clamp(min=0).flatten())
        found = graph.call_function(_aten.index_select.default, (values, dim, places))
        if bool(is_empty.any()):
            mask = is_empty.reshape(-1, *(1 for _ in shape[dim + 1 :]))
            empty = _constant(module, node, "empty", mask)
            found = graph.call_function(_aten.masked_fill.Scalar, (found, empty, 0.0))
        shape[dim : dim + 1] = members.shape
        found = graph.call_function(_aten.view.default, (found, shape))
        return graph.call_function(_aten.sum.dim_IntList, (found, [dim + 1]))


def _members(index: Tensor, num_groups: int) -> Tensor:
    """Places of each group's members ``(group, member)``; -1 where there is none."""
    counts = torch.bincount(index, minlength=num_groups)
    is_member = torch.arange(int(counts.max()), device=index.device) < counts.unsqueeze(-1)
    members = torch.full_like(is_member, -1, dtype=torch.int64)
    members[is_member] = index.argsort(stable=True)
    return members


def _replace(module: fx.GraphModule, node: Any, sums: fx.Node) -> None:
    with module.graph.inserting_before(node):
        total = module.graph.call_function(_aten.add.Tensor, (node.args[0], sums))
    total.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(total)
    module.graph.erase_node(node)


def _constant(module: fx.GraphModule, node: fx.Node, name: str, value: Tensor) -> fx.Node:
    module.register_buffer(f"_{node.name}_{name}", value)
    constant: fx.Node = module.graph.get_attr(f"_{node.name}_{name}")
    constant.meta["val"] = value
    return constant
