"""Large products of matrices, made by oneDNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from pyro_ebm.potentials.graphs.sums import is_precise

_aten = torch.ops.aten

_LARGE = 2**21
"""Multiplications: a call of oneDNN takes some ten microseconds more than one of BLAS."""

_LARGEST_COPY = 2**24
"""Numbers of a constant that may be held a second time, transposed."""

_TRANSPOSES = {_aten.t.default, _aten.permute.default, _aten.transpose.int}


def _product(one: Tensor, two: Tensor, bias: Tensor | None = None) -> Tensor:
    """``one @ two + bias``: of torch's own name for it the compiler wants constants only."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(one, two.mT, bias, "none", [], "")
    return result


def _shaped(one: Tensor, two: Tensor, bias: Tensor | None = None) -> Tensor:
    return one.new_empty(one.shape[0], two.shape[1])


_LIBRARY = torch.library.Library("pyro_ebm", "FRAGMENT")
_LIBRARY.define(
    "product(Tensor one, Tensor two, Tensor? bias=None) -> Tensor",
    tags=(torch.Tag.flexible_layout,),
)
_LIBRARY.impl("product", _product, "CPU")
_LIBRARY.impl("product", _shaped, "Meta")

_PRODUCT = torch.ops.pyro_ebm.product.default


def use_onednn(graph: fx.Graph, tensors: Mapping[fx.Node, Tensor]) -> None:
    """Let oneDNN make the large products in float32 on a CPU.

    It has code for what a processor can do, whoever made it. MKL, which torch asks otherwise,
    makes products on other processors than Intel's at half of the speed, and at a tenth where a
    matrix has few rows or columns. The results are as precise as those of MKL.

    Args:
        graph: Where the products are.
        tensors: Examples of what the nodes are.

    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> weight, x = torch.ones(300, 100), torch.ones(100, 100)
    >>> with OperationRecorder(x) as recorder:
    ...     y = weight @ x
    >>> recording = recorder.recording((y,))
    >>> use_onednn(recording.graph, recording.tensors)
    >>> [str(node.target) for node in recording.graph.nodes if node.op == "call_function"]
    ['pyro_ebm.product.default']
    """
    if not (torch.backends.mkldnn.is_available() and is_precise(torch.float32)):
        return
    for node in graph.nodes:
        factors = _factors(node)
        values = [tensors[part] for part in factors if part in tensors]
        if len(values) == len(factors) > 0 and _is_worth_it(*values):
            node.target, node.args = _PRODUCT, factors


def _factors(node: Any) -> tuple[Any, ...]:
    if node.target is _aten.mm.default:
        return tuple(node.args)
    if node.target is _aten.addmm.default and not node.kwargs:
        bias, one, two = node.args
        return one, two, bias
    return ()


def _is_worth_it(one: Tensor, two: Tensor, bias: Tensor | None = None) -> bool:
    is_large = one.shape[0] * one.shape[1] * two.shape[1] >= _LARGE
    is_matrix = min(one.shape[0], two.shape[1]) > 1
    is_simple = bias is None or bias.shape == two.shape[1:]
    return is_large and is_matrix and is_simple and _is_plain(one) and _is_plain(two)


def _is_plain(matrix: Tensor) -> bool:
    """Float32 on a CPU, one row or column after the other."""
    if matrix.device.type != "cpu" or matrix.dtype != torch.float32:
        return False
    if matrix.layout is not torch.strided:
        return False
    (rows, columns), (down, right) = matrix.shape, matrix.stride()
    return (right == 1 and down >= columns) or (down == 1 and right >= rows)


def straighten_weights(module: fx.GraphModule) -> None:
    """Turn constants that large products take transposed, which oneDNN would do at each call.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> weight, x = torch.ones(100, 300), torch.ones(100, 100)
    >>> module = make_fx(lambda x: torch.ops.pyro_ebm.product(weight.mT, x))(x)
    >>> straighten_weights(module)
    >>> [node.name for node in module.graph.nodes]
    ['x_1', '_straight__tensor_constant0', 'product', 'output']
    """
    for node in list(module.graph.nodes):
        if node.target is _PRODUCT and _is_turned_constant(module, node.args[0]):
            turned = node.args[0]
            name = f"_straight_{turned.args[0].target}"
            module.register_buffer(name, getattr(module, turned.args[0].target).mT.contiguous())
            with module.graph.inserting_before(node):
                node.replace_input_with(turned, module.graph.get_attr(name))
    module.graph.eliminate_dead_code()
    module.recompile()


def _is_turned_constant(module: fx.GraphModule, node: Any) -> bool:
    if node.target not in _TRANSPOSES or node.args[0].op != "get_attr":
        return False
    constant = getattr(module, node.args[0].target)
    return bool(constant.is_contiguous() and constant.numel() <= _LARGEST_COPY)
