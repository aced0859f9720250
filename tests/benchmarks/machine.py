"""What the numbers were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_STEAL = 8
"""Place in the first line of ``/proc/stat``, see ``man proc``."""


def description() -> dict[str, str]:
    """Processor, cores, memory, system and Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "Processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "Cores": str(cores),
        "Memory": _memory(),
        "System": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }


def load() -> float:
    """Processes that want to run, averaged over a minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def stolen_seconds() -> float:
    """Processor time since the start that other guests of a virtual machine had, of all cores.

    0 where the system does not say.
    """
    try:
        ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(ticks[_STEAL]) / os.sysconf("SC_CLK_TCK")


def _memory() -> str:
    found = _field("/proc/meminfo", "MemTotal")
    return f"{int(found.split()[0]) / 2**20:.0f} GiB" if found else "unknown"


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
