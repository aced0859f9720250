"""Training state on disk: plain tensors, written atomically."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class TrainingState(NamedTuple):
    """Everything that the next step depends on."""

    energy: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    history: dict[str, list[float]]

    @property
    def step(self) -> int:
        """Number of steps made."""
        return len(self.history["loss"])


def check_writable(path: Path) -> None:
    """Refuse a path that no checkpoint can be written to, before any work is done.

    Raises:
        OSError: If the folder is missing or not writable, or the path is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"the checkpoint path {path} is a folder: give a file name in it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the checkpoint {path} cannot be written: the folder {path.parent} does not exist. "
            "Create it first."
        )
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            f"the checkpoint {path} cannot be written: no permission to write into {path.parent}. "
            "Give another path."
        )


def save(state: TrainingState, path: Path) -> None:
    """Write the state next to ``path`` and move it there, so that no half file is ever left."""
    content = {
        "energy": state.energy.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "generator": state.generator.get_state(),
        "history": {k: torch.tensor(v, dtype=torch.float64) for k, v in state.history.items()},
    }
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.replace(path)


def load(state: TrainingState, path: Path) -> None:
    """Put a saved state into the energy, the optimiser, the generator and the history.

    Raises:
        FileNotFoundError: If there is no such file.
        RuntimeError: If the parameters do not fit the energy.
    """
    content: dict[str, Any] = torch.load(path, weights_only=True)
    state.energy.load_state_dict(content["energy"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.generator.set_state(content["generator"])
    saved: dict[str, Tensor] = content["history"]
    for name, values in state.history.items():
        values[:] = saved[name].tolist()
