"""The product of two matrices by oneDNN, as operations that can be compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ebm.core.processor import has_avx512


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


def is_onednn_faster() -> bool:
    """Whether it is there, and uses instructions that MKL leaves unused on AMD's processors.

    1024 x 128 by 128 x 128 on one core: 90 billion operations a second by MKL and 200 by oneDNN
    with AVX-512; 75 by either with AVX2, with which a call of oneDNN takes 40 microseconds more.
    On Intel's with AVX-512 the two have not been compared.
    """
    return is_onednn_there() and has_avx512()
