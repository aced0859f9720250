"""Sums over groups that are known beforehand, without a loop that adds here and there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from pyro_ebm.potentials.graphs.sums import is_precise

_aten = torch.ops.aten

_FEW = 100
"""Groups: a product takes time for each number and each group."""

_LARGEST = 2**24
"""Numbers of the matrix of a product."""

_MOST_PLACES = 2
"""Places for each member: groups of very different sizes would leave most places empty."""


def sum_by_group(module: fx.GraphModule) -> None:
    """Rewrite additions at constant indices: as products, or with groups that fetch their members.

    The gradient of ``intercepts[group]`` adds numbers where the constant ``group`` points to. A
    compiler makes that a loop over the numbers, in which threads must guard every addition: two
    took longer than one. Numbers ``(C, N)`` of few groups are multiplied with a matrix of ones and
    zeros ``(groups, N)`` (which makes NaN of all sums of a chain in which a number is infinite);
    otherwise each group fetches its own. Only on a CPU.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> group, zeros = torch.tensor([0, 1, 0, 1]), torch.zeros(3, 2)
    >>> module = make_fx(lambda x: zeros.index_add(1, group, x))(torch.zeros(3, 4))
    >>> sum_by_group(module)
    >>> [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    ['aten.permute.default', 'aten.mm.default', 'aten.permute.default', 'aten.add.Tensor']
    >>> module(torch.arange(12.0).view(3, 4))[0]
    tensor([2., 4.])
    """
    rewriter = _Rewriter(module)
    for node in list(module.graph.nodes):
        if _adds_on_cpu(node):
            rewriter.rewrite(node)
    module.graph.eliminate_dead_code()
    module.recompile()


class _Rewriter:
    """Puts operations and constants in place of additions.

    What is made of an index is made once: the steps of a graph have it in common.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._names: dict[tuple[str, bytes], str] = {}
        self._members: dict[tuple[int, bytes], Tensor | None] = {}

    def rewrite(self, node: Any) -> None:
        index = _known(self._module, node.args[2])
        if index is None or index.ndim != 1 or len(index) == 0:
            return
        with self._module.graph.inserting_before(node):
            sums = self._multiplied(node, index) or self._fetched(node, index)
            if sums is None:
                return
            total = self._call(_aten.add.Tensor, node.args[0], sums)
        total.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(total)
        self._module.graph.erase_node(node)

    def _multiplied(self, node: Any, index: Tensor) -> fx.Node | None:
        target, dim, _, values = node.args
        like = target.meta["val"]
        num_groups, dtype = like.shape[dim], like.dtype
        is_matrix = like.ndim == 2 and dim % 2 == 1 and is_precise(dtype)
        if not is_matrix or num_groups > _FEW or num_groups * len(index) > _LARGEST:
            return None
        ones = self._constant(
            f"ones_{num_groups}_{dtype}",
            index,
            lambda: (torch.arange(num_groups).unsqueeze(-1) == index).to(dtype),
        )
        turned = self._call(_aten.permute.default, values, [1, 0])
        turned.meta["val"] = values.meta["val"].mT
        product = self._call(_aten.mm.default, ones, turned)
        product.meta["val"] = like.mT
        return self._call(_aten.permute.default, product, [1, 0])

    def _fetched(self, node: Any, index: Tensor) -> fx.Node | None:
        target, dim, _, values = node.args
        shape = list(target.meta["val"].shape)
        members = self._members_of(index, shape[dim])
        if members is None:
            return None
        dim %= len(shape)
        name, after = f"of_{shape[dim]}", [1] * len(shape[dim + 1 :])
        places = self._constant(f"places_{name}", index, lambda: members.clamp(min=0).flatten())
        found = self._call(_aten.index_select.default, values, dim, places)
        if bool((members < 0).any()):
            empty = self._constant(
                f"empty_{name}_{len(after)}", index, lambda: (members < 0).reshape(-1, *after)
            )
            found = self._call(_aten.masked_fill.Scalar, found, empty, 0.0)
        shape[dim : dim + 1] = members.shape
        found = self._call(_aten.view.default, found, shape)
        return self._call(_aten.sum.dim_IntList, found, [dim + 1])

    def _call(self, operation: OpOverload[..., Any], *args: Any) -> fx.Node:
        return self._module.graph.call_function(operation, args)

    def _members_of(self, index: Tensor, num_groups: int) -> Tensor | None:
        key = num_groups, index.numpy().tobytes()
        if key not in self._members:
            self._members[key] = _members(index, num_groups)
        return self._members[key]

    def _constant(self, kind: str, index: Tensor, make: Callable[[], Tensor]) -> fx.Node:
        key = kind, index.numpy().tobytes()
        if key not in self._names:
            self._names[key] = f"_group_sums_{len(self._names)}"
            self._module.register_buffer(self._names[key], make())
        constant: fx.Node = self._module.graph.get_attr(self._names[key])
        constant.meta["val"] = getattr(self._module, self._names[key])
        return constant


def _adds_on_cpu(node: Any) -> bool:
    if node.target is not _aten.index_add.default or node.kwargs:
        return False
    target = node.args[0].meta.get("val")
    is_there = isinstance(target, Tensor) and target.device.type == "cpu"
    return is_there and target.ndim > 0 and target.dtype in {torch.float32, torch.float64}


def _known(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The value of a node that is made of constants only."""
    if node.op == "get_attr":
        value: Tensor = getattr(module, str(node.target))
        is_fixed = value.device.type == "cpu" and all(map(_is_pure, node.users))
        return value if is_fixed else None
    if not _is_pure(node):
        return None
    parts = {part: _known(module, part) for part in node.all_input_nodes}
    if not parts or any(value is None for value in parts.values()):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), parts.__getitem__)
    result: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]  # it is an operation
    return result


def _is_pure(node: fx.Node) -> bool:
    """Whether an operation writes to nothing and draws no random numbers."""
    if not isinstance(node.target, OpOverload) or node.target._schema.is_mutable:
        return False
    return torch.Tag.nondeterministic_seeded not in node.target.tags


def _members(index: Tensor, num_groups: int) -> Tensor | None:
    """Places of each group's members ``(group, member)``; -1 where there is none."""
    counts = torch.bincount(index, minlength=num_groups)
    largest = int(counts.max())
    if num_groups * largest > _MOST_PLACES * len(index):
        return None
    is_member = torch.arange(largest) < counts.unsqueeze(-1)
    members = torch.full_like(is_member, -1, dtype=torch.int64)
    members[is_member] = index.argsort(stable=True)
    return members
