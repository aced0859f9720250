"""Training state on disk: plain tensors, written atomically."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.files import read_tensors, write_tensors

_CONTENT = {"energy", "optimizer", "optimizer_class", "generator", "history"}


def _empty_history() -> dict[str, list[float]]:
    return {"loss": [], "energy_data": [], "grad_norm": []}


@dataclass
class TrainingState:
    """Everything that the next step depends on, and the history of those made."""

    energy: Any
    """A module and an energy, which mypy cannot say."""
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    history: dict[str, list[float]] = field(default_factory=_empty_history)

    def __post_init__(self) -> None:
        self.mark()

    @property
    def step(self) -> int:
        """Number of steps made."""
        return len(self.history["loss"])

    def mark(self) -> None:
        """Note that a step is complete: what an unfinished one draws is not saved."""
        self.generator_state: Tensor = self.generator.get_state()


def save(state: TrainingState, path: Path) -> None:
    """Write the state next to ``path`` and move it there, so that no half file is ever left."""
    write_tensors(path, _content(state))


def load(state: TrainingState, path: Path) -> None:
    """Put a saved state into the energy, the optimiser, the generator and the history.

    The hyper-parameters of the optimiser stay as they are. Nothing is changed if anything
    does not fit.

    Raises:
        FileNotFoundError: If there is no such file.
        ModelError: If it is not a checkpoint, or is one of another energy or optimiser.
    """
    content = _read(path)
    given = _content(state)
    _check_fits("energy", _tensors(content), _tensors(given))
    _check_fits("optimizer", _groups(content), _groups(given))
    state.energy.load_state_dict(content["energy"])
    groups = given["optimizer"]["param_groups"]
    state.optimizer.load_state_dict({**content["optimizer"], "param_groups": groups})
    state.generator.set_state(content["generator"])
    state.history.update({name: values.tolist() for name, values in content["history"].items()})
    state.mark()


def _content(state: TrainingState) -> dict[str, Any]:
    return {
        "energy": state.energy.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "optimizer_class": type(state.optimizer).__name__,
        "generator": state.generator_state,
        "history": {k: torch.tensor(v, dtype=torch.float64) for k, v in state.history.items()},
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path} to resume from: check the path, or leave resume out to "
            "start anew."
        )
    content = read_tensors(path)
    if not isinstance(content, dict) or not content.keys() >= _CONTENT:
        raise ModelError(f"{path} is not a checkpoint of fit_energy: give one to resume from.")
    return content


def _tensors(content: dict[str, Any]) -> dict[str, str]:
    """What each tensor of the energy looks like."""
    tensors = content["energy"].items()
    return {k: f"{tuple(v.shape)} {v.dtype}" for k, v in tensors if isinstance(v, Tensor)}


def _groups(content: dict[str, Any]) -> dict[str, Any]:
    """The optimiser's class, and what it optimises."""
    sizes = [len(group["params"]) for group in content["optimizer"]["param_groups"]]
    return {"class": content["optimizer_class"], "parameters in each group": sizes}


def _check_fits(what: str, saved: dict[str, Any], given: dict[str, Any]) -> None:
    names = [name for name in {**saved, **given} if saved.get(name) != given.get(name)]
    if names:
        differences = "; ".join(
            f"{name} is {saved.get(name)} there and {given.get(name)} here" for name in names
        )
        raise ModelError(
            f"the checkpoint is one of another {what}: {differences}. Build the {what} as it was "
            "when the checkpoint was written."
        )
