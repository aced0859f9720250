"""Fit an energy to data."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_ebm.core.checks import (
    ModelError,
    NonFiniteError,
    ShapeError,
    check_count,
    check_event,
    check_finite,
)
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Objective
from pyro_ebm.training.checkpoint import TrainingState, check_writable, load, save

_SECONDS_BETWEEN_SAVES = 10.0
_STEPS_BETWEEN_REFRESHES = 20


def fit_energy(  # noqa: PLR0913  # a driver
    energy: nn.Module,
    objective: Objective,
    x: Tensor,
    *,
    num_steps: int = 1000,
    batch_size: int = 256,
    optimizer: torch.optim.Optimizer | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    resume: str | Path | None = None,
    generator: torch.Generator | None = None,
) -> xr.Dataset:
    """Minimise an objective over random batches of the data, in place.

    Ctrl-C ends the training and keeps what was learned so far; a loss or gradient that is not
    finite raises before it can spoil the parameters. Both write the checkpoint first. A
    resumed training equals an uninterrupted one.

    Args:
        energy: Energy with parameters; trained in place.
        objective: Loss such as ``ContrastiveDivergence``.
        x: Data ``(*batch, *event)``.
        num_steps: Optimiser steps, those of a resumed run included.
        batch_size: Data of each step, drawn with replacement.
        optimizer: Optimiser over the energy's parameters; by default Adam with rate 1e-3.
        progress: Show a progress bar.
        checkpoint: File to save parameters, optimiser, RNG, step and history to.
        resume: Checkpoint to continue from.
        generator: Source of randomness; by default seeded from torch's global one.

    Returns:
        History with the coordinate ``step``: ``loss`` (not a likelihood), ``energy_data``
        (mean energy of the batch), ``grad_norm``.

    Raises:
        ModelError: If the energy has no parameter to train.
        NonFiniteError: If data, loss or gradient are not finite.
        OSError: If the checkpoint cannot be written.

    >>> from pyro_ebm import MALA, MLPEnergy
    >>> from pyro_ebm.objectives import ContrastiveDivergence
    >>> objective = ContrastiveDivergence(MALA(step_size=0.5), num_steps=2)
    >>> history = fit_energy(
    ...     MLPEnergy(2), objective, torch.randn(100, 2), num_steps=3, progress=False
    ... )
    >>> history.loss.shape
    (3,)
    """
    check_count("num_steps", num_steps)
    data = _check_data(energy, x)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        check_writable(path)
    state = TrainingState(
        energy=energy,
        optimizer=optimizer or torch.optim.Adam(_trainable(energy), lr=1e-3),
        generator=own_generator(generator, data.device),
        history={"loss": [], "energy_data": [], "grad_norm": []},
    )
    if resume is not None:
        load(state, Path(resume))
    batch_size = min(check_count("batch_size", batch_size), len(data))
    with tqdm(total=num_steps, initial=state.step, desc="Fit", disable=not progress) as bar:
        _Trainer(state, objective, data, batch_size, path, bar).run(num_steps)
    return _as_dataset(state.history)


class _Trainer:
    def __init__(  # private, built in one place
        self,
        state: TrainingState,
        objective: Objective,
        data: Tensor,
        batch_size: int,
        path: Path | None,
        bar: tqdm[None],
    ) -> None:
        self.state, self.objective, self.data = state, objective, data
        self.batch_size, self.path, self.bar = batch_size, path, bar

    def run(self, num_steps: int) -> None:
        """Train until ``num_steps`` steps are made in all, saving now and then."""
        saved = time.perf_counter()
        try:
            while self.state.step < num_steps:
                self._step()
                if time.perf_counter() - saved > _SECONDS_BETWEEN_SAVES:
                    self._save()
                    saved = time.perf_counter()
        except KeyboardInterrupt:
            warnings.warn(
                f"training was interrupted after {self.state.step} of {num_steps} steps; what was "
                "learned is kept.",
                stacklevel=3,
            )
        finally:
            self._save()

    def _step(self) -> None:
        state = self.state
        index = torch.randint(
            len(self.data),
            (self.batch_size,),
            generator=state.generator,
            device=state.generator.device,
        )
        batch = self.data[index]
        state.optimizer.zero_grad()
        loss = self.objective(state.energy, batch, generator=state.generator)
        loss.backward()  # type: ignore[no-untyped-call]  # of torch
        norm = self._check(loss.detach())
        state.optimizer.step()
        self._record(float(loss.detach()), norm, batch)

    def _check(self, loss: Tensor) -> Tensor:
        grads = [p.grad for p in _trainable(self.state.energy) if p.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.stack([grad.norm() for grad in grads]))
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise NonFiniteError(
                f"step {self.state.step}: the loss is {loss.item():.6g} and the norm of its "
                f"gradient {norm.item():.6g}. The parameters of the step before are kept; lower "
                "the learning rate or the kernel's step size."
            )
        return norm

    def _record(self, loss: float, norm: Tensor, batch: Tensor) -> None:
        history = self.state.history
        with torch.no_grad():
            energy_data = float(self.state.energy(batch).mean())
        history["energy_data"].append(energy_data)
        history["grad_norm"].append(float(norm))
        history["loss"].append(loss)
        if self.state.step % _STEPS_BETWEEN_REFRESHES == 0:
            self.bar.set_postfix(loss=f"{loss:.3g}", E=f"{energy_data:.3g}", refresh=False)
        self.bar.update()

    def _save(self) -> None:
        if self.path is not None:
            save(self.state, self.path)


def _trainable(energy: nn.Module) -> list[nn.Parameter]:
    parameters = [p for p in energy.parameters() if p.requires_grad]
    if not parameters:
        raise ModelError(
            f"{energy!r} has no parameter that requires grad, so there is nothing to fit: unfreeze "
            "it with energy.requires_grad_(True)."
        )
    return parameters


def _check_data(energy: nn.Module, x: Tensor) -> Tensor:
    event_shape = getattr(energy, "event_shape", None)
    if event_shape is None:
        raise ModelError(
            f"{energy!r} has no event_shape, so the shape of one datum is unknown: give the module "
            "an event_shape attribute."
        )
    check_finite("x", check_event("x", x, torch.Size(event_shape)))
    data = x.reshape(-1, *event_shape)
    if len(data) == 0:
        raise ShapeError(f"x has shape {tuple(x.shape)}, but at least one datum is wanted.")
    return data


def _as_dataset(history: dict[str, list[float]]) -> xr.Dataset:
    steps = np.arange(1, len(history["loss"]) + 1)
    variables = {name: ("step", np.array(values)) for name, values in history.items()}
    return xr.Dataset(variables, coords={"step": steps})
