"""Runs of the driver on disk: the format of the file, and when it is written."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.files import check_writable, read_tensors, write_tensors
from pyro_ebm.core.interrupts import uninterrupted
from pyro_ebm.sampling.chains import ChainRun
from pyro_ebm.sampling.fingerprint import (
    Fingerprint,
    completed,
    differences,
    of_kernel,
    of_sites,
    tuned,
)
from pyro_ebm.sampling.plain import plain

_FORMAT, _VERSION = "pyro_ebm.MCMC", 1
_LARGEST_SHARE = 0.05
"""Share of the run's time that saving may take."""

Content = dict[str, Any]


class Checkpoint:
    """The file of a run: written as it goes on, whole at any moment.

    It is written every ``seconds``, or more rarely, so that it takes no more than 1/20 of the time.

    Args:
        path: The file.
        seconds: Least time between two saves.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._next = 0.0

    def check_free(self) -> None:
        """Refuse to begin a run in a file that holds one.

        Raises:
            OSError: If there is a file, or none can be written.
        """
        check_writable(self.path, None, advice=f"MCMC.load({str(self.path)!r}, kernel)")

    @contextmanager
    def during(self, content: Callable[[], Content]) -> Iterator[Callable[[], None]]:
        """Save before a run and after it, whatever ends it; gives what to call after each step."""
        self.save(content)
        try:
            yield lambda: self.save_if_due(content)
        finally:
            self.save(content)

    def save_if_due(self, content: Callable[[], Content]) -> None:
        """Write the file if the last time is long enough ago."""
        if time.perf_counter() > self._next:
            self.save(content)

    def save(self, content: Callable[[], Content]) -> None:
        """Write the file now."""
        started = time.perf_counter()
        with uninterrupted():
            write_tensors(self.path, content())
        ended = time.perf_counter()
        self._next = ended + max(self.seconds, (ended - started) / _LARGEST_SHARE)


class SavedRun:
    """A run from a file, which waits for its target and its arguments.

    A warning says so if other versions or another number of threads will continue it.

    Args:
        path: The file.
        kernel: The kernel to go on with.

    Raises:
        FileNotFoundError: If there is no such file.
        ModelError: If it is no run, one of another format or kernel, or on a missing device.
    """

    def __init__(self, path: Path, kernel: Any) -> None:
        self.path, self._recipe = path, kernel
        self._content = _read(path)
        self._check("kernel", self._content["kernel"], of_kernel(kernel))
        self.settings: dict[str, Any] = dict(self._content["settings"])
        stream = self.settings.pop("stream")
        self._store = None if stream is None else Path(stream)
        self.seconds: float | None = self._content["seconds"]

    def place_of_store(self, moved_to: str | Path | None) -> Path | None:
        """Where its store of draws is now, if it has one.

        Raises:
            ValueError: If it has none, but a place is given.
        """
        if moved_to is None:
            return self._store
        if self._store is None:
            raise ValueError(
                f"stream={str(moved_to)!r}, but the run in {self.path} keeps its draws in memory: "
                "leave stream out."
            )
        return Path(moved_to)

    def resume(self, run: ChainRun, arguments: Fingerprint, warmup_steps: int) -> None:
        """Put the fresh ``run`` to where the saved one was.

        Raises:
            ModelError: If sites, data, parameters or the device are not the same.
        """
        content, potential = self._content, run.potential
        self._check("model", content["sites"], of_sites(potential))
        self._check("data", content["arguments"], arguments)
        self._check("device", {"device": content["device"]}, {"device": str(potential.device)})
        kernel = completed(self._recipe, content["tuned"])
        run.resume(kernel, content["run"], warmup_steps)

    def _check(self, what: str, saved: Fingerprint, given: Fingerprint) -> None:
        difference = differences(saved, given)
        if difference:
            raise ModelError(
                f"the checkpoint {self.path} is of a run with another {what}: {difference}. Give "
                "the same as when it was saved."
            )


def content_of(
    run: ChainRun,
    recipe: Any,
    arguments: Fingerprint,
    settings: dict[str, Any],
    seconds: float | None,
) -> Content:
    """What the file of a run holds.

    Args:
        run: The run.
        recipe: The kernel that it was begun with.
        arguments: Fingerprint of the arguments of the model.
        settings: Of the driver.
        seconds: Time between two saves, if it saves itself.
    """
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "made_by": _made_by(),
        "settings": settings,
        "seconds": seconds,
        "kernel": of_kernel(recipe),
        "sites": of_sites(run.potential),
        "arguments": arguments,
        "device": str(run.potential.device),
        "tuned": tuned(run.mark.kernel, recipe),
        "run": run.state_dict(),
    }
    return cast("Content", plain(content))


def _read(path: Path) -> Content:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path} to load: check the path.")
    content = _checked(path, read_tensors(path))
    if content["device"] != "cpu":
        content = _checked(path, read_tensors(path, content["device"]))
    warning = differences(content["made_by"], _made_by())
    if warning:
        warnings.warn(
            f"{path}: {warning}. The run can go on, but its draws will not be the same to the bit "
            "as those of a run that was never stopped.",
            stacklevel=4,
        )
    return content


def _checked(path: Path, content: Any) -> Content:
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ModelError(
            f"{path} is not a checkpoint of MCMC: give a file that mcmc.save(path) or "
            "MCMC(..., checkpoint=path) has written."
        )
    if content["version"] != _VERSION:
        raise ModelError(
            f"{path} has version {content['version']} of the format, but this pyro_ebm reads "
            f"version {_VERSION}: load it with pyro_ebm {content['made_by']['pyro_ebm']}."
        )
    return content


def _made_by() -> Fingerprint:
    """What the last bits of a result depend on, beside the run itself."""
    return {
        "torch": str(torch.__version__),
        "pyro_ebm": _own_version(),
        "the number of threads": str(torch.get_num_threads()),
        "the instructions of the processor": torch.backends.cpu.get_cpu_capability(),
    }


def _own_version() -> str:
    try:
        return version("pyro-ebm")
    except PackageNotFoundError:
        return "not installed"
