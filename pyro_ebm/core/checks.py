"""Checks of what users bring, and the exceptions they raise.

Every message says what came, what was wanted and what to do.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor, nn


class ShapeError(ValueError):
    """A tensor of the wrong shape or type."""


class NonFiniteError(ValueError):
    """A number that had to be finite is not."""


class StepSizeError(ValueError):
    """No step size is given, or none can be found."""


class ModelError(ValueError):
    """A model, guide or energy that cannot be used in this way."""


def check_count(name: str, value: object, *, minimum: int = 1) -> int:
    """Return ``value`` as an int if it is a whole number of at least ``minimum``.

    >>> check_count("num_chains", 4)
    4
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(
            f"{name}={value!r}, but {name} must be a whole number of at least {minimum}."
        )
    return int(value)


def check_positive(name: str, value: object) -> float:
    """Return ``value`` as a float if it is finite and above zero.

    >>> check_positive("step_size", 0.1)
    0.1
    """
    number = _as_number(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name}={value!r}, but {name} must be a finite number above zero.")
    return number


def check_probability(name: str, value: object) -> float:
    """Return ``value`` as a float if it lies strictly between 0 and 1."""
    number = _as_number(value)
    if not 0 < number < 1:
        raise ValueError(f"{name}={value!r}, but {name} must lie strictly between 0 and 1.")
    return number


def check_scale(scale: object) -> Tensor:
    """Return ``scale`` if it holds standard deviations ``(dim,)`` or a factor ``(dim, dim)``."""
    if not isinstance(scale, Tensor):
        raise ShapeError(
            f"scale is {scale!r}, but a tensor of shape (dim,) is wanted: torch.tensor(scale)."
        )
    if not (scale.ndim == 1 or (scale.ndim == 2 and scale.shape[0] == scale.shape[1])):
        raise ShapeError(
            f"scale has shape {tuple(scale.shape)}, but one standard deviation for each "
            "coordinate of the unconstrained position is wanted: a vector of shape (dim,), or a "
            "lower triangular factor of their covariance, (dim, dim)."
        )
    if scale.ndim == 2 and bool((scale.triu(diagonal=1) != 0).any() & scale.isfinite().all()):
        raise ShapeError(
            "scale is a matrix with entries above its diagonal, but a lower triangular factor of "
            "the covariance is wanted: torch.linalg.cholesky(covariance)."
        )
    deviations = scale if scale.ndim == 1 else scale.diagonal()
    if not bool(torch.isfinite(scale).all() & (deviations > 0).all()):
        raise NonFiniteError(
            f"scale is {scale.tolist()}, but every standard deviation must be finite and above "
            "zero: give None to have warm-up estimate it."
        )
    return scale


def check_center(center: object) -> Tensor:
    """Return ``center`` if it is a finite vector ``(dim,)``."""
    if not isinstance(center, Tensor) or center.ndim != 1:
        raise ShapeError(
            f"center is {center!r}, but a tensor of shape (dim,) is wanted: the mean of each "
            "coordinate of the unconstrained position, or None to have warm-up estimate it."
        )
    return check_finite("center", center)


def check_floating(name: str, x: Tensor) -> Tensor:
    """Return ``x`` if it is real floating point."""
    if not x.is_floating_point():
        raise ShapeError(
            f"{name} has dtype {x.dtype}, but gradients need a real floating-point tensor: "
            f"convert it with {name}.to(torch.get_default_dtype())."
        )
    return x


def check_event(name: str, x: Tensor, event_shape: torch.Size) -> Tensor:
    """Return ``x`` if it is floating point and its trailing axes are ``event_shape``."""
    check_floating(name, x)
    trailing = x.shape[x.ndim - len(event_shape) :] if x.ndim >= len(event_shape) else None
    if trailing != event_shape:
        raise ShapeError(
            f"{name} has shape {tuple(x.shape)}, but its trailing axes must be the event shape "
            f"{tuple(event_shape)}: (*batch, *event)."
        )
    return x


def check_finite(name: str, x: Tensor) -> Tensor:
    """Return ``x`` if all of it is finite."""
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise NonFiniteError(
            f"{name} holds {bad} values that are NaN or infinite among {x.numel()}; "
            "remove or impute them first, nothing is replaced silently."
        )
    return x


def check_event_shape(energy: object) -> torch.Size:
    """Return the event shape of an energy."""
    event_shape = getattr(energy, "event_shape", None)
    if event_shape is None:
        raise ModelError(
            f"{energy!r} has no event_shape, so the shape of one point is unknown: give it an "
            "event_shape attribute, as in f.event_shape = torch.Size([2])."
        )
    return torch.Size(event_shape)


def check_data(energy: object, x: Tensor) -> Tensor:
    """Return ``x`` as ``(N, *event)`` if it holds finite points of the energy's event and type."""
    event_shape = check_event_shape(energy)
    _check_dtype(energy, check_event("x", x, event_shape))
    data = check_finite("x", x).reshape(-1, *event_shape)
    if len(data) == 0:
        raise ShapeError(f"x has shape {tuple(x.shape)}, but at least one datum is wanted.")
    return data


def _check_dtype(energy: object, x: Tensor) -> None:
    tensors = [*energy.parameters(), *energy.buffers()] if isinstance(energy, nn.Module) else []
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if types and x.dtype not in types:
        wanted = " and ".join(sorted(str(dtype) for dtype in types))
        raise ShapeError(
            f"x has dtype {x.dtype}, but the parameters of the energy have {wanted}: convert "
            f"one of them, with x.to({wanted.split()[0]}) or energy.to({x.dtype})."
        )


def check_energies(values: object, batch_shape: torch.Size, source: str) -> Tensor:
    """Return ``values`` if there is exactly one real number for each point of the batch."""
    if not isinstance(values, Tensor):
        raise ShapeError(
            f"{source} returned {type(values).__name__}, but a tensor with one number for each "
            "point is wanted: (*batch, *event) -> (*batch,)."
        )
    if values.shape != batch_shape:
        raise ShapeError(
            f"{source} returned shape {tuple(values.shape)} for a batch of shape "
            f"{tuple(batch_shape)}, but one number for each point is wanted: "
            "(*batch, *event) -> (*batch,). " + _shape_advice(values.shape, batch_shape)
        )
    return check_floating(f"the output of {source}", values)


def _as_number(value: object) -> float:
    """The value as a float; NaN for what is not a number (True and "0.1" among them)."""
    return math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)


def _shape_advice(came: torch.Size, wanted: torch.Size) -> str:
    if came == (*wanted, 1):
        return "Drop the trailing axis with .squeeze(-1)."
    if len(came) < len(wanted):
        return "Sum over the event axes only, not over the batch."
    return "Sum over the event axes."
