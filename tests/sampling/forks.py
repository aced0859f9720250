"""Processes of their own, which start at once."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from typing import Any


def forked(function: Callable[..., Any], *args: Any) -> Any:
    """A process that has begun to run the function."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        process.start()
    return process
