"""Sums over numbers that lie far apart, written as products with ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten

_LONG = 32
"""Terms: a shorter sum takes less time in one loop with what is summed."""

_LARGEST = 2**24
"""Numbers: those of a product lie in memory, those of a loop need not."""


def multiply_by_ones(module: fx.GraphModule) -> None:
    """Write sums over the far dimension of matrices ``(N, C)`` as products ``1 @ matrix``.

    A compiler sums one chain after the other and jumps over all the rest in between, while a
    product goes through memory in order; and what is summed can share a loop with what else is
    made of the same numbers. Only on a CPU, and not in float32 if torch may make products less
    precise than sums (``torch.set_float32_matmul_precision``).

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> module = make_fx(lambda x: x.exp().sum(0))(torch.zeros(40, 3))
    >>> multiply_by_ones(module)
    >>> [node.name for node in module.graph.nodes]
    ['x_1', 'exp', '_ones_40_float32', 'mm_default', 'select_int', 'output']
    """
    for node in list(module.graph.nodes):
        if _is_far_sum(node) and is_precise(node.args[0].meta["val"].dtype):
            _multiply(module, node)
    module.recompile()


def _is_far_sum(node: Any) -> bool:
    is_plain = node.target is _aten.sum.dim_IntList and len(node.args) == 2 and not node.kwargs
    matrix = node.args[0].meta.get("val") if is_plain else None
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or len(node.args[1] or ()) != 1:
        return False
    summed = node.args[1][0] % 2
    is_far = matrix.stride(1 - summed) == 1 < matrix.stride(summed)
    is_real = matrix.dtype in {torch.float32, torch.float64} and matrix.device.type == "cpu"
    is_long = matrix.shape[summed] >= _LONG and matrix.numel() <= _LARGEST
    return is_real and is_far and is_long


def is_precise(dtype: torch.dtype) -> bool:
    """Whether products of matrices are as precise as sums."""
    if dtype == torch.float64:
        return True
    # Newer versions of torch refuse the old question where precision was set in the new way.
    products = getattr(torch.backends.mkldnn, "matmul", None)
    if products is None:
        return torch.get_float32_matmul_precision() == "highest"
    return products.fp32_precision in {"none", "ieee"}


def _multiply(module: fx.GraphModule, node: Any) -> None:
    source, (axis,) = node.args
    matrix = source.meta["val"]
    ones = torch.ones(1, matrix.shape[axis], dtype=matrix.dtype, device="cpu")
    name = f"_ones_{len(ones[0])}_{matrix.dtype}".replace("torch.", "")
    module.register_buffer(name, ones)
    with module.graph.inserting_before(node):
        if axis % 2:
            source = module.graph.call_function(_aten.permute.default, (source, [1, 0]))
        factors = module.graph.get_attr(name), source
        product = module.graph.call_function(_aten.mm.default, factors)
        total = module.graph.call_function(_aten.select.int, (product, 0, 0))
    total.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(total)
    module.graph.erase_node(node)
