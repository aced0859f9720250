"""Call other functions in the place of some of torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode


class Replacing(TorchFunctionMode):
    """Let torch's functions that are keys of a table be answered by those beside them.

    A replacement is called with the arguments of the function, and may call the function itself
    for those that it does not know: nothing is replaced within it.

    >>> import torch
    >>> with Replacing({torch.sin: torch.cos}):
    ...     float(torch.sin(torch.tensor(0.0)))
    1.0
    """

    def __init__(self, replacements: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self.replacements = replacements

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self.replacements.get(func, func)(*args, **(kwargs or {}))
