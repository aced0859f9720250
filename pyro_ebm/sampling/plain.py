"""Between objects and what a file may hold: tensors, numbers, strings, None, lists and dicts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_ebm.core.checks import ModelError

_PLAIN = (bool, int, float, str, type(None))


def plain(value: Any) -> Any:
    """The same value as plain ones; tensors are not copied and keep their layout.

    >>> plain((1, "a", {"x": [2.0]}))
    [1, 'a', {'x': [2.0]}]

    Raises:
        ModelError: If it holds anything else.
    """
    if type(value) in _PLAIN or isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    raise ModelError(
        f"{value!r} cannot go into a checkpoint, which holds tensors, numbers, strings, lists and "
        "dicts only: give its owner methods state_dict() and load_state_dict()."
    )


def attributes(owner: Any) -> dict[str, Any]:
    """What an object remembers, copied, so that it stays what it is at this moment.

    Objects that it holds are followed. Those with a ``state_dict`` are asked for it, and must not
    change the tensors in it later.
    """
    if hasattr(owner, "state_dict"):
        return dict(owner.state_dict())
    return {name: _copied(value) for name, value in vars(owner).items()}


def set_attributes(owner: Any, content: dict[str, Any]) -> None:
    """Put back what :func:`attributes` gave into a fresh object of the same type.

    Raises:
        ModelError: If the fresh object lacks one that it held then.
    """
    if hasattr(owner, "load_state_dict"):
        owner.load_state_dict(content)
        return
    for name, value in content.items():
        current = vars(owner).get(name)
        if _is_object(current):
            set_attributes(current, value)
        elif isinstance(value, dict) and not isinstance(current, dict):
            raise ModelError(
                f"{type(owner).__name__} cannot be put back, because a fresh one has no {name}: "
                "give it methods state_dict() and load_state_dict()."
            )
        else:
            setattr(owner, name, value)


def _copied(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, (list, tuple)):
        return [_copied(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _copied(entry) for key, entry in value.items()}
    return attributes(value) if _is_object(value) else plain(value)


def _is_object(value: Any) -> bool:
    """Whether a value is none that a file can hold, and has attributes that may be."""
    return (
        hasattr(value, "__dict__") and not isinstance(value, (Tensor, type)) and not callable(value)
    )
