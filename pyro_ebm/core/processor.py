"""What the processor can do, where code that is fastest on one is not on another."""

from __future__ import annotations

import torch


def has_avx512() -> bool:
    """Whether torch uses the instructions of 512 bits, as it does wherever they are.

    ``ATEN_CPU_CAPABILITY=avx2`` in the environment forbids them to torch's own loops; MKL and
    oneDNN do not heed it.
    """
    return bool(torch.backends.cpu.get_cpu_capability() == "AVX512")
