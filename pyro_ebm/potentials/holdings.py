"""What a model holds, and where: a replaced tensor, module or number makes graphs stale."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import pyro
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution

_CONTAINERS = (dict, list, tuple)

_CONSTANTS = (int, float, complex, str)
"""Compared by value: equal ones are often made anew."""

_MOST_DEPTH = 8
"""How far to follow, so that an odd argument cannot lead through all of Python."""

_MOST_ENTRIES = 1000
"""Longer lists and dicts are taken to be data."""

_MODULE_BOOKKEEPING = frozenset(vars(nn.Module())) - {"training"}
"""Hooks, and the tables that are followed anyway."""

_LIBRARIES = {"torch", "pyro", "numpy", "builtins", "functools", "pyro_ebm"}


class Holdings:
    """Places that hold tensors, modules and numbers, reached from a model and its arguments.

    Followed are modules, arguments and their defaults, closures, globals that a function or one
    defined inside it names, attributes of instances and their classes, and what containers hold.

    >>> settings = {"scale": 1.0}
    >>> held = Holdings((settings,))
    >>> before = held.now()
    >>> settings["scale"] = 10.0
    >>> same(before, held.now())
    False
    """

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self._roots = roots
        self._readers: list[Callable[[], Any]] | None = None

    def now(self) -> tuple[Any, ...]:
        """What is in these places at this moment."""
        if self._readers is None:
            places = {(id(t), key): (t, key) for t, key in _walk(self._roots, set(), _MOST_DEPTH)}
            self._readers = [_reader(table, key) for table, key in places.values()]
        return tuple([read() for read in self._readers])

    def look_again(self) -> None:
        """Find the places anew, since what was put into one may hold others."""
        self._readers = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": None}


def same(held: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether the same objects are held, or equal numbers and strings.

    >>> same((1000.0, "a"), (float("1e3"), "a")), same((1,), (2,)), same(([],), ([],))
    (True, False, False)
    """
    if len(held) != len(other):
        return False
    return all(map(operator.is_, held, other)) or all(map(_is_same, held, other))


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, _CONSTANTS) and bool(one == other)


def stored_parameters(names: tuple[str, ...]) -> tuple[Any, ...]:
    """The unconstrained tensors that Pyro's parameter store holds now, None where missing."""
    if not names:
        return ()
    store = dict(pyro.get_param_store().named_parameters())
    return tuple(store.get(name) for name in names)


def _walk(item: Any, seen: set[int], depth: int) -> Iterator[tuple[Any, Any]]:
    for table, key in _places(item):
        value = _read(table, key)
        if not isinstance(value, ModuleType):
            yield table, key
        if depth > 0 and id(value) not in seen and not isinstance(value, Tensor):
            seen.add(id(value))
            yield from _walk(value, seen, depth - 1)


def _places(item: Any) -> Iterator[tuple[Any, Any]]:
    """Where an object keeps other objects."""
    if isinstance(item, nn.Module):
        for table in (item._parameters, item._buffers, item._modules):
            entries = table if isinstance(table, dict) else dict(table.items())  # TorchScript's
            yield from ((entries, key) for key in entries)
    elif isinstance(item, _CONTAINERS):
        keys = item if isinstance(item, dict) else range(len(item))
        yield from ((item, key) for key in keys if len(item) <= _MOST_ENTRIES)
    elif isinstance(item, (MethodType, partial)):
        parts = _parts(item)
        yield from ((parts, index) for index in range(len(parts)))
    elif isinstance(item, FunctionType):
        yield from _places_of_function(item)
    if _is_users(item):
        yield from _places_of_instance(item)


def _parts(item: MethodType | partial[Any]) -> tuple[Any, ...]:
    if isinstance(item, partial):
        return item.func, item.args, item.keywords
    return item.__self__, item.__func__


def _places_of_instance(item: Any) -> Iterator[tuple[Any, Any]]:
    skipped = _MODULE_BOOKKEEPING if isinstance(item, nn.Module) else frozenset()
    yield from ((vars(item), key) for key in vars(item) if key not in skipped)
    for cls in type(item).__mro__:
        if not _is_library(cls.__module__):
            yield from ((cls, key) for key in vars(cls) if not _is_bookkeeping(key))


def _places_of_function(function: FunctionType) -> Iterator[tuple[Any, Any]]:
    yield from ((cell, None) for cell in function.__closure__ or ())
    if not _is_library(function.__module__):
        defaults = ("__defaults__", "__kwdefaults__")
        yield from ((function, name) for name in defaults if getattr(function, name))
        names = dict.fromkeys(_names(function.__code__))
        yield from ((function.__globals__, name) for name in names if name in function.__globals__)


def _names(code: CodeType) -> Iterator[str]:
    """Names of globals, those in functions defined inside included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_users(item: Any) -> bool:
    """Whether an object has attributes of the user's making."""
    if isinstance(item, (type, FunctionType, *_CONTAINERS)) or not hasattr(item, "__dict__"):
        return False
    return isinstance(item, (Messenger, Distribution, nn.Module)) or not _is_library(
        type(item).__module__
    )


def _is_library(module: str | None) -> bool:
    return module is None or module.partition(".")[0] in _LIBRARIES


def _is_bookkeeping(name: str) -> bool:
    return name.startswith("__") and name != "__call__"


def _read(table: Any, key: Any) -> Any:
    return _reader(table, key)()


def _reader(table: Any, key: Any) -> Callable[[], Any]:
    """What reads one place; made once, since all places are read for each gradient."""
    if isinstance(table, CellType):
        return partial(_read_cell, table)
    if isinstance(table, dict):
        return partial(table.get, key)
    if isinstance(table, type):
        return partial(vars(table).get, key)
    if isinstance(table, FunctionType):
        return partial(getattr, table, key)
    return partial(_read_entry, table, key)


def _read_cell(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _read_entry(entries: Any, index: int) -> Any:
    return entries[index] if index < len(entries) else None
