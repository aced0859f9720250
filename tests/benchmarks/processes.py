"""Start a worker, wait for it, read its answer or the reason why there is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.roster import Engine
from tests.benchmarks.targets import Target, save


class Limits(NamedTuple):
    """What all workers share. After ``budget`` seconds no further run is started."""

    runs: int
    threads: int
    budget: float
    timeout: float


def run_worker(
    engine: Engine, target: Target, num_chains: int, limits: Limits, folder: Path
) -> dict[str, Any]:
    """The worker's answer, or ``{"failure": reason}``."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["--entry", engine.entry, "--builder", target.builder]
    command += ["--data", str(save(target, folder)), "--out", str(folder)]
    command += ["--chains", str(num_chains), "--draws", str(target.num_draws)]
    command += ["--runs", str(limits.runs), "--threads", str(limits.threads)]
    command += ["--budget", str(limits.budget)]
    command += ["--is-energy"] if target.is_energy else []
    command += ["--packages", *engine.packages]
    answer = run_module("tests.benchmarks.worker", command, limits, folder)
    return {"engine": engine.key, "target": target.name, "chains": num_chains} | answer


def run_module(module: str, arguments: list[str], limits: Limits, folder: Path) -> dict[str, Any]:
    """The JSON object that the module prints last, or ``{"failure": reason}``."""
    command = [sys.executable, "-m", module, *arguments]
    return _answer(command, environment(limits.threads, folder), limits.timeout)


def environment(threads: int, folder: Path) -> dict[str, str]:
    """The same number of threads for every library, and caches that are cold."""
    pools = ("OMP", "MKL", "OPENBLAS", "NUMBA", "RAYON", "VECLIB")
    caches = folder / "caches"
    return (
        os.environ
        | {f"{pool}_NUM_THREADS": str(threads) for pool in pools}
        | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={threads}",
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTENSOR_FLAGS": f"base_compiledir={caches / 'pytensor'}",
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "NUMBA_CACHE_DIR": str(caches / "numba"),
        }
    )


def _answer(command: list[str], env: dict[str, str], timeout: float) -> dict[str, Any]:
    process = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"failure": f"no result within {timeout:.0f} s"}
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode != 0:
        return {"failure": reason(errors, process.returncode)}
    answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return answer


def reason(errors: str, code: int) -> str:
    """The last line of a traceback, or the signal that ended the process."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in errors.splitlines() if ":" in line and not line[0].isspace()]
    return lines[-1][:200] if lines else f"ended with the exit code {code}"
