"""What the processor can do is what the operating system says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyro_ebm.core.processor import has_avx512

CPUINFO = Path("/proc/cpuinfo")
NEEDED = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}


def _flags():
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


@pytest.mark.skipif(not _flags(), reason="the processor is no x86, or the system no Linux")
@pytest.mark.skipif("ATEN_CPU_CAPABILITY" in os.environ, reason="torch is told what to use")
def test_avx512_is_used_where_the_processor_has_it():
    assert has_avx512() == (_flags() >= NEEDED)
