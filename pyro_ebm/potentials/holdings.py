"""The tensors and modules that a model holds, and where: a replaced one makes graphs stale."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import pyro
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution

_CONTAINERS = (dict, list, tuple)

_MOST_DEPTH = 8
"""How far to follow, so that an odd argument cannot lead through all of Python."""

_MOST_ENTRIES = 1000
"""Longer lists and dicts are taken to be data."""

_LIBRARIES = {"torch", "pyro", "numpy", "builtins", "functools", "pyro_ebm"}


class Holdings:
    """Places that hold tensors and modules, reached from a model and its arguments.

    Followed are modules, arguments, closures, globals that a function names, attributes of
    instances, and what containers hold.

    >>> import torch
    >>> weights = {"w": torch.zeros(2)}
    >>> held = Holdings((weights,))
    >>> [tensor is weights["w"] for tensor in held.now()]
    [True]
    """

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self._roots = roots
        self._slots: list[tuple[Any, Any]] | None = None

    def now(self) -> tuple[Any, ...]:
        """The tensors and modules in these places at this moment."""
        if self._slots is None:
            self._slots = list(_walk(self._roots, set(), _MOST_DEPTH))
        return tuple(_read(table, key) for table, key in self._slots)

    def look_again(self) -> None:
        """Find the places anew, since what was put into one may hold others."""
        self._slots = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_slots": None}


def stored_parameters(names: tuple[str, ...]) -> tuple[Any, ...]:
    """The unconstrained tensors that Pyro's parameter store holds now, None where missing."""
    if not names:
        return ()
    store = dict(pyro.get_param_store().named_parameters())
    return tuple(store.get(name) for name in names)


def _walk(item: Any, seen: set[int], depth: int) -> Iterator[tuple[Any, Any]]:
    for table, key in _places(item):
        value = _read(table, key)
        if isinstance(value, (Tensor, nn.Module)):
            yield table, key
        if depth > 0 and id(value) not in seen and not isinstance(value, Tensor):
            seen.add(id(value))
            yield from _walk(value, seen, depth - 1)


def _places(item: Any) -> Iterator[tuple[Any, Any]]:
    """Where an object keeps other objects."""
    if isinstance(item, nn.Module):
        for table in (item._parameters, item._buffers, item._modules):
            yield from ((table, key) for key in table)
    elif isinstance(item, _CONTAINERS):
        keys = item if isinstance(item, dict) else range(len(item))
        yield from ((item, key) for key in keys if len(item) <= _MOST_ENTRIES)
    elif isinstance(item, MethodType):
        yield from (((item.__self__, item.__func__), index) for index in range(2))
    elif isinstance(item, partial):
        yield from (((item.func, item.args, item.keywords), index) for index in range(3))
    elif isinstance(item, FunctionType):
        yield from _places_of_function(item)
    if _is_users(item):
        yield from ((vars(item), key) for key in vars(item))


def _places_of_function(function: FunctionType) -> Iterator[tuple[Any, Any]]:
    yield from ((cell, None) for cell in function.__closure__ or ())
    if not _is_library(function.__module__):
        names = function.__code__.co_names
        yield from ((function.__globals__, name) for name in names if name in function.__globals__)


def _is_users(item: Any) -> bool:
    """Whether an object has attributes of the user's making."""
    if isinstance(item, (type, FunctionType, *_CONTAINERS)) or not hasattr(item, "__dict__"):
        return False
    return isinstance(item, (Messenger, Distribution)) or not _is_library(type(item).__module__)


def _is_library(module: str | None) -> bool:
    return module is None or module.partition(".")[0] in _LIBRARIES


def _read(table: Any, key: Any) -> Any:
    if isinstance(table, CellType):
        try:
            return table.cell_contents
        except ValueError:
            return None
    if isinstance(table, dict):
        return table.get(key)
    return table[key] if key < len(table) else None
