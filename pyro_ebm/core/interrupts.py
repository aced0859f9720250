"""Ctrl-C at a time of our choosing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Hold Ctrl-C back until the block is done, so that no half of an update is ever left.

    Yields the list of what is held back: a long block can look there whether to end early. Signals
    reach the main thread only; in others there is nothing to hold back.

    >>> with uninterrupted():
    ...     pass
    """
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    original = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if original is None else original)
        if held:
            signal.raise_signal(signal.SIGINT)
