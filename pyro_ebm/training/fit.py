"""Fit an energy to data."""

from __future__ import annotations

import inspect
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError, check_count, check_data
from pyro_ebm.core.files import check_writable
from pyro_ebm.core.interrupts import uninterrupted
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Objective
from pyro_ebm.training.checkpoint import TrainingState, load, save

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
    finite raises before it can spoil the parameters. Both write the checkpoint first.

    The checkpoint is written before the first step, every 10 seconds and at the end. A file
    that is there already is replaced only by a training that resumes from it. A resumed
    training equals an uninterrupted one as long as its optimiser has the same
    hyper-parameters; they are those of the optimiser given, so that a rate can be lowered.

    Args:
        energy: Energy with parameters; trained in place.
        objective: Loss such as ``ContrastiveDivergence``.
        x: Data ``(*batch, *event)``.
        num_steps: Optimiser steps, those of a resumed run included.
        batch_size: Data of each step, drawn with replacement; at most as many as there are.
        optimizer: Optimiser over the energy's parameters; by default Adam with rate 1e-3.
        progress: Show a progress bar.
        checkpoint: File to save parameters, optimiser, RNG, step and history to.
        resume: Checkpoint to continue from; may be the same file.
        generator: Source of randomness; by default seeded from torch's global one.

    Returns:
        History with the coordinate ``step``: ``loss`` (not a likelihood), ``energy_data``
        (mean energy of the batch after the step), ``grad_norm``.

    Raises:
        ModelError: If the energy has no parameter to train, the optimiser is not over its
            parameters or needs a closure, the loss has no gradient in the parameters, or
            ``resume`` is a checkpoint of another energy or optimiser.
        ShapeError: If data are not points of the energy's event and type, or the loss is not
            a scalar.
        NonFiniteError: If data, loss or gradient are not finite.
        OSError: If the checkpoint cannot be written or exists, or there is none to resume.

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
    data = check_data(energy, x)
    batch_size = min(check_count("batch_size", batch_size), len(data))
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        continued = None if resume is None else Path(resume)
        check_writable(path, continued, advice=f"resume={str(path)!r}")
    state = TrainingState(
        energy, _optimizer(energy, optimizer), own_generator(generator, data.device)
    )
    if resume is not None:
        load(state, Path(resume))
        _warn_if_done(state.step, num_steps)
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
        self._save()
        try:
            while self.state.step < num_steps:
                self._step()
                if time.perf_counter() - self._saved > _SECONDS_BETWEEN_SAVES:
                    self._save()
        except KeyboardInterrupt:
            warnings.warn(
                f"training was interrupted after {self.state.step} of {num_steps} steps; what was "
                "learned is kept.",
                stacklevel=3,
            )
        finally:
            self._save()

    def _step(self) -> None:
        batch = self._batch()
        try:
            loss, norm = self._gradient(batch)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"step {self.state.step + 1}: {error} The parameters of the step before are kept."
            ) from error
        with uninterrupted():
            self.state.optimizer.step()
            self._record(loss, norm, batch)
        self._show()

    def _batch(self) -> Tensor:
        generator = self.state.generator
        shape = (self.batch_size,)
        index = torch.randint(len(self.data), shape, generator=generator, device=generator.device)
        return self.data[index]

    def _gradient(self, batch: Tensor) -> tuple[float, float]:
        """Fill the gradients, and return the loss and the norm of its gradient."""
        state = self.state
        state.optimizer.zero_grad()
        loss = self.objective(state.energy, batch, generator=state.generator)
        _check_loss(loss, self.objective)
        loss.backward()
        norms = [p.grad.norm() for p in _parameters(state.optimizer) if p.grad is not None]
        if not norms:
            raise ModelError(_no_gradient(self.objective))
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise NonFiniteError(
                f"the loss is {loss.item():.6g} and the norm of its gradient {norm.item():.6g}: "
                "lower the learning rate or the kernel's step size."
            )
        return loss.item(), norm.item()

    def _record(self, loss: float, norm: float, batch: Tensor) -> None:
        with torch.no_grad():
            energy_data = self.state.energy(batch).mean().item()
        numbers = {"loss": loss, "energy_data": energy_data, "grad_norm": norm}
        for name, number in numbers.items():
            self.state.history[name].append(number)
        self.state.mark()

    def _show(self) -> None:
        if self.state.step % _STEPS_BETWEEN_REFRESHES == 0:
            last = {name: f"{numbers[-1]:.3g}" for name, numbers in self.state.history.items()}
            self.bar.set_postfix(last, refresh=False)
        self.bar.update()

    def _save(self) -> None:
        if self.path is not None:
            with uninterrupted():
                save(self.state, self.path)
        self._saved = time.perf_counter()


def _optimizer(energy: nn.Module, optimizer: torch.optim.Optimizer | None) -> torch.optim.Optimizer:
    if not isinstance(energy, nn.Module):
        raise ModelError(
            f"{energy!r} is not a torch.nn.Module, so it has no parameters to fit: make it one."
        )
    parameters = [p for p in energy.parameters() if p.requires_grad]
    if not parameters:
        raise ModelError(
            f"{energy!r} has no parameter that requires grad, so there is nothing to fit: unfreeze "
            "it with energy.requires_grad_(True)."
        )
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=1e-3)
    if {id(p) for p in parameters}.isdisjoint(id(p) for p in _parameters(optimizer)):
        raise ModelError(
            f"the optimizer holds no trainable parameter of {energy!r}, so that nothing would be "
            "learned: make it over energy.parameters() of this energy."
        )
    _check_closure(optimizer)
    return optimizer


def _check_closure(optimizer: torch.optim.Optimizer) -> None:
    arguments = inspect.signature(optimizer.step).parameters
    if "closure" in arguments and arguments["closure"].default is inspect.Parameter.empty:
        raise ModelError(
            f"{type(optimizer).__name__} needs a closure that computes the loss again, but each "
            "loss is one random estimate: use an optimizer such as torch.optim.Adam."
        )


def _check_loss(loss: object, objective: Objective) -> None:
    if not isinstance(loss, Tensor) or loss.ndim > 0:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ShapeError(
            f"{objective!r} returned {came}, but one scalar tensor is wanted: take the mean over "
            "the batch."
        )
    if not loss.requires_grad:
        raise ModelError(_no_gradient(objective))


def _no_gradient(objective: Objective) -> str:
    return (
        f"the loss of {objective!r} has no gradient in the parameters that the optimizer holds: "
        "compute it from energy(x), without detach(), item() or torch.no_grad()."
    )


def _warn_if_done(step: int, num_steps: int) -> None:
    if step >= num_steps:
        warnings.warn(
            f"num_steps={num_steps} counts those of the resumed training too, which has made "
            f"{step} already, so nothing is trained: give a larger num_steps.",
            stacklevel=3,
        )


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _as_dataset(history: dict[str, list[float]]) -> xr.Dataset:
    steps = np.arange(1, len(history["loss"]) + 1)
    variables = {name: ("step", np.array(values)) for name, values in history.items()}
    return xr.Dataset(variables, coords={"step": steps})
