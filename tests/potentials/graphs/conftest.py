"""Settings of torch that graphs must respect."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def less_precise():
    """The user is content with half of the digits of products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)
