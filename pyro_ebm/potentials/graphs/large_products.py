"""Which products of a graph oneDNN is to make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from pyro_ebm.potentials.graphs.onednn import BIASED_PRODUCT, PRODUCT, is_onednn_faster
from pyro_ebm.potentials.graphs.orientation import is_transpose
from pyro_ebm.potentials.graphs.sums import is_precise

_BY_ONEDNN: dict[Any, Any] = {
    torch.ops.aten.mm.default: PRODUCT,
    torch.ops.aten.addmm.default: BIASED_PRODUCT,
}

_LARGE = 2**21
"""Multiplications: a call of oneDNN takes some ten microseconds more than one of BLAS."""

_MANY = 64
"""Columns of the right matrix, so that to copy the left one takes little of the product's time."""

_LARGEST_COPY = 2**24
"""Numbers of a constant that may be held a second time, transposed."""


def use_onednn(graph: fx.Graph, tensors: Mapping[fx.Node, Tensor]) -> None:
    """Let oneDNN make the large products in float32 on a CPU.

    It has code for what a processor can do, whoever made it. MKL, which makes products in torch,
    took twice as long on an AMD processor with AVX-512. Where the processor has no AVX-512, or
    torch has no MKL (on ARM) or is told not to use oneDNN (``torch.backends.mkldnn.enabled``),
    products stay as they are.

    Args:
        graph: Where the products are.
        tensors: Examples of what the nodes are.

    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> weight, x = torch.ones(300, 100), torch.ones(100, 100)
    >>> with OperationRecorder(x) as recorder:
    ...     y = weight @ x
    >>> recording = recorder.recording((y,))
    >>> use_onednn(recording.graph, recording.tensors)
    >>> is_taken = any(node.target is PRODUCT for node in recording.graph.nodes)
    >>> is_taken == is_onednn_faster()
    True
    """
    if not (is_onednn_faster() and is_precise(torch.float32)):
        return
    for node in graph.nodes:
        is_product = node.target in _BY_ONEDNN and not node.kwargs
        if is_product and all(part in tensors for part in node.args):
            *bias, one, two = (tensors[part] for part in node.args)
            if _is_worth_it(one, two) and all(_is_row(part, two) for part in bias):
                node.target = _BY_ONEDNN[node.target]


def _is_worth_it(one: Tensor, two: Tensor) -> bool:
    if not (_is_plain(one) and _is_plain(two)):
        return False
    (rows, inner), columns = one.shape, two.shape[1]
    is_large = rows * inner * columns >= _LARGE and min(rows, columns) > 1
    # Of other layouts on the right oneDNN has slow code only; on the left they are copied.
    is_dense = two.is_contiguous() or two.mT.is_contiguous()
    return is_large and is_dense and (one.is_contiguous() or columns >= _MANY)


def _is_plain(matrix: Tensor) -> bool:
    is_strided = matrix.layout is torch.strided and matrix.device.type == "cpu"
    return is_strided and matrix.dtype == torch.float32


def _is_row(bias: Tensor, two: Tensor) -> bool:
    """Whether there is one number for each column."""
    return _is_plain(bias) and bias.shape == two.shape[1:]


def straighten_weights(module: fx.GraphModule) -> None:
    """Turn constants that large products take transposed, which are copied at each call otherwise.

    What they are made of is copied, too, so that all places see the same numbers for ever.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> weight, x = torch.ones(100, 300), torch.ones(100, 100)
    >>> module = make_fx(lambda x: torch.ops.pyro_ebm.product(weight.mT, x))(x)
    >>> straighten_weights(module)
    >>> [node.name for node in module.graph.nodes]
    ['x_1', '_tensor_constant0_straight', 'product', 'output']
    """
    for node in list(module.graph.nodes):
        if node.target is PRODUCT and _is_turned_constant(module, node.args[0]):
            turned = node.args[0]
            name = _straightened(module, str(turned.args[0].target))
            with module.graph.inserting_before(node):
                node.replace_input_with(turned, module.graph.get_attr(name))
    module.graph.eliminate_dead_code()
    module.recompile()


def _straightened(module: fx.GraphModule, constant: str) -> str:
    """The name of a transposed copy, which is made once."""
    name = f"{constant}_straight"
    if not hasattr(module, name):
        taken = getattr(module, constant).detach().clone()
        delattr(module, constant)
        module.register_buffer(constant, taken)
        module.register_buffer(name, taken.mT.contiguous())
    return name


def _is_turned_constant(module: fx.GraphModule, node: Any) -> bool:
    if not is_transpose(node) or node.args[0].op != "get_attr":
        return False
    constant = getattr(module, node.args[0].target)
    return bool(constant.is_contiguous() and constant.numel() <= _LARGEST_COPY)
