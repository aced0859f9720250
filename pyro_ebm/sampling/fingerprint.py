"""What a run was made of, in strings: enough to say what differs when it is to be continued."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_ebm.core.types import Potential

Fingerprint = dict[str, str]

_MOST_ENTRIES = 100
"""Of longer lists and dicts all entries together have one line."""


_NUMBERS = (bool, int, float, complex, str, type(None), np.generic)


def of_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Fingerprint:
    """Digests of the arguments of a run: tensors, arrays, modules, numbers, strings and containers.

    Of other objects only the type is known.

    >>> of_arguments((1.5,), {"names": ["a"]})
    {'argument 0': '1.5', 'names[0]': "'a'"}
    """
    lines: Fingerprint = {}
    for index, value in enumerate(args):
        lines |= _lines(f"argument {index}", value)
    for name, value in kwargs.items():
        lines |= _lines(name, value)
    return lines


def of_sites(potential: Potential) -> Fingerprint:
    """Names, shapes and types of the unconstrained sites.

    >>> from pyro_ebm.potentials.energy import EnergyPotential
    >>> of_sites(EnergyPotential(lambda x: x.square().sum(-1), event_shape=(2,)))
    {'x': '(2,) torch.float32'}
    """
    zero = torch.zeros(potential.dim, dtype=potential.dtype, device=potential.device)
    sites = potential.unflatten(zero)
    return {name: f"{tuple(value.shape)} {value.dtype}" for name, value in sites.items()}


def of_kernel(kernel: Any) -> Fingerprint:
    """Class and hyper-parameters of a kernel, of those inside it too; not its target.

    >>> from pyro_ebm.kernels import MALA
    >>> of_kernel(MALA(step_size=0.5))["step_size"]
    '0.5'
    """
    lines = {"class": type(kernel).__qualname__}
    for field in dataclasses.fields(kernel):
        if field.init and field.name != "target":
            value = getattr(kernel, field.name)
            inner = of_kernel(value) if _is_kernel(value) else _lines("", value)
            lines |= {_joined(field.name, name): line for name, line in inner.items()}
    return lines


def tuned(kernel: Any, recipe: Any) -> dict[str, Any]:
    """Hyper-parameters of ``kernel`` that are not those of the ``recipe`` it was made from.

    >>> from pyro_ebm.kernels import MALA
    >>> tuned(MALA(step_size=0.5), MALA())
    {'step_size': 0.5}
    """
    changes = {}
    for field in dataclasses.fields(kernel):
        new, old = getattr(kernel, field.name), getattr(recipe, field.name)
        if field.init and new is not old:
            changes[field.name] = tuned(new, old) if _is_kernel(new) else new
    return changes


def completed(recipe: Any, changes: dict[str, Any]) -> Any:
    """The kernel of which :func:`tuned` gave the ``changes``."""
    inner = {name: getattr(recipe, name) for name in changes}
    return dataclasses.replace(
        recipe,
        **{k: completed(inner[k], v) if _is_kernel(inner[k]) else v for k, v in changes.items()},
    )


def differences(saved: Fingerprint, given: Fingerprint) -> str:
    """What is not the same, in words; empty if nothing.

    >>> differences({"a": "1"}, {"a": "2", "b": "3"})
    'a is 1 there and 2 here; b is missing there and 3 here'
    """
    names = [name for name in {**saved, **given} if saved.get(name) != given.get(name)]
    return "; ".join(
        f"{name} is {saved.get(name, 'missing')} there and {given.get(name, 'missing')} here"
        for name in names
    )


def _lines(name: str, value: Any) -> Fingerprint:
    if isinstance(value, dict) and value:
        return _entries(name, {f"[{key!r}]": entry for key, entry in value.items()})
    if isinstance(value, (list, tuple)) and value:
        return _entries(name, {f"[{index}]": entry for index, entry in enumerate(value)})
    return {name: _line(value)}


def _entries(name: str, entries: dict[str, Any]) -> Fingerprint:
    lines: Fingerprint = {}
    for key, entry in entries.items():
        lines |= _lines(name + key, entry)
    if len(lines) <= _MOST_ENTRIES:
        return lines
    return {name: f"{len(entries)} entries with digest {_digest(str(lines).encode())}"}


def _line(value: Any) -> str:
    if isinstance(value, Tensor) and value.layout == torch.strided:
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"a {value.dtype} {tuple(value.shape)} with digest {_digest(numbers)}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        numbers = np.ascontiguousarray(value)
        return f"a {value.dtype} array {value.shape} with digest {_digest(numbers)}"
    if isinstance(value, (*_NUMBERS, dict, list, tuple)):
        return repr(value)
    kind = f"a {type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, nn.Module):
        return f"{kind} with digest {_digest(str(_lines('', dict(value.state_dict()))).encode())}"
    return kind


def _digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _is_kernel(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _joined(name: str, inner: str) -> str:
    return name + inner if inner.startswith("[") or not inner else f"{name}.{inner}"
