"""Files of plain tensors that are whole or not there, whatever stops the process."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from pyro_ebm.core.checks import ModelError


def check_writable(path: Path, continued: Path | None, *, advice: str) -> None:
    """Refuse a path that no file can or should be written to, before any work is done.

    Args:
        path: Where a file is to be written, again and again.
        continued: The file that was read to go on from, which may be replaced.
        advice: How to go on from a file that is there already.

    Raises:
        OSError: If the folder is missing or refuses new files, the path is a folder, or there
            is another file.
    """
    if path.is_dir():
        raise IsADirectoryError(f"the checkpoint path {path} is a folder: give a file name in it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the checkpoint {path} cannot be written: the folder {path.parent} does not exist. "
            "Create it first."
        )
    if path.exists() and not _is_same_file(path, continued):
        raise FileExistsError(
            f"the checkpoint {path} is there already and would be overwritten: continue it with "
            f"{advice}, give another path, or delete it."
        )
    _try_to_write(path)


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write next to ``path`` and move it there: a reader finds the old file or the new one.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder, "x.pt"), {"x": torch.ones(2)})
    ...     read_tensors(Path(folder, "x.pt"))
    {'x': tensor([1., 1.])}
    """
    partial = _partial(path)
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def read_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """What such a file holds, or None if it is no archive of tensors at all.

    Args:
        path: The file.
        device: Where its tensors shall be.

    Raises:
        ModelError: If it is damaged, or holds more than tensors and plain values.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        # torch does not look at the checksums itself.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file leads to
        raise ModelError(f"{path} is not a checkpoint: it cannot be read ({error}).") from error
    if damaged is not None:
        raise ModelError(f"{path} is damaged: the checksum of its record {damaged} is wrong.")
    return content


def _is_same_file(path: Path, other: Path | None) -> bool:
    return other is not None and other.exists() and path.samefile(other)


def _try_to_write(path: Path) -> None:
    partial = _partial(path)
    try:
        partial.open("ab").close()
        partial.unlink()
    except OSError as error:
        raise type(error)(
            f"the checkpoint {path} cannot be written, because the file {partial}, which is later "
            f"moved there, cannot be made ({error.strerror}). Give a path in a folder that you "
            "may write to."
        ) from error


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _sync_folder(folder: Path) -> None:
    """Make the move last through a power failure, where folders can be synchronised."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
