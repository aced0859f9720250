"""The product of two matrices by oneDNN, as an operation that can be compiled."""

from __future__ import annotations

import torch
from torch import Tensor


def _product(one: Tensor, two: Tensor) -> Tensor:
    """``one @ two``: of torch's own name for it the compiler wants constants on the right."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(one, two.mT, None, "none", [], "")
    return result


def _shaped(one: Tensor, two: Tensor) -> Tensor:
    return one.new_empty(one.shape[0], two.shape[1])


_LIBRARY = torch.library.Library("pyro_ebm", "FRAGMENT")
_LIBRARY.define("product(Tensor one, Tensor two) -> Tensor", tags=(torch.Tag.flexible_layout,))
_LIBRARY.impl("product", _product, "CPU")
_LIBRARY.impl("product", _shaped, "Meta")

PRODUCT = torch.ops.pyro_ebm.product.default
"""``aten.mm`` by oneDNN, in float32 on a CPU; not all layouts are right, or fast, in it."""


def is_onednn_there() -> bool:
    """Whether torch has both libraries, and may use this one."""
    wanted = torch.backends.mkldnn.enabled and torch.backends.mkldnn.is_available()
    has_product = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return bool(wanted and torch.backends.mkl.is_available() and has_product)
