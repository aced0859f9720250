"""Ctrl-C at a time of our choosing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that no half of an update is ever left.

    Signals reach the main thread only; in others there is nothing to hold back.

    >>> with uninterrupted():
    ...     pass
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    original = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if original is None else original)
        if held:
            signal.raise_signal(signal.SIGINT)
