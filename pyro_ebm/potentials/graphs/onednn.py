"""The product of two matrices by oneDNN, as operations that can be compiled."""

from __future__ import annotations

import torch
from torch import Tensor


def _product(one: Tensor, two: Tensor) -> Tensor:
    """``one @ two``: of torch's own name for it the compiler wants constants on the right."""
    return _linear(one, two, None)


def _biased(bias: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """``bias + one @ two``, with one number of the bias for each column."""
    return _linear(one, two, bias.contiguous())  # others are read as if they were


def _linear(one: Tensor, two: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(one, two.mT, bias, "none", [], "")
    return result


def _shaped(one: Tensor, two: Tensor) -> Tensor:
    return one.new_empty(one.shape[0], two.shape[1])


_LIBRARY = torch.library.Library("pyro_ebm", "FRAGMENT")
_TAGS = (torch.Tag.flexible_layout,)
_LIBRARY.define("product(Tensor one, Tensor two) -> Tensor", tags=_TAGS)
_LIBRARY.impl("product", _product, "CPU")
_LIBRARY.impl("product", _shaped, "Meta")
_LIBRARY.define("biased_product(Tensor bias, Tensor one, Tensor two) -> Tensor", tags=_TAGS)
_LIBRARY.impl("biased_product", _biased, "CPU")
_LIBRARY.impl("biased_product", lambda bias, one, two: _shaped(one, two), "Meta")

PRODUCT = torch.ops.pyro_ebm.product.default
"""``aten.mm`` by oneDNN, in float32 on a CPU; not all layouts are right, or fast, in it."""

BIASED_PRODUCT = torch.ops.pyro_ebm.biased_product.default
"""``aten.addmm`` likewise; the bias must be a vector, one number for each column."""


def is_onednn_there() -> bool:
    """Whether torch has both libraries, and may use this one."""
    wanted = torch.backends.mkldnn.enabled and torch.backends.mkldnn.is_available()
    has_product = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return bool(wanted and torch.backends.mkl.is_available() and has_product)
