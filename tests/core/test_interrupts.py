"""Ctrl-C held back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pyro_ebm.core.interrupts import uninterrupted


def _press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_block_is_finished_first():
    done = []

    def work():
        with uninterrupted():
            _press_ctrl_c()
            _press_ctrl_c()
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_may_be_nested():
    done = []

    def work():
        with uninterrupted():
            with uninterrupted():
                _press_ctrl_c()
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done


def test_errors_pass_and_the_handler_comes_back():
    with pytest.raises(RuntimeError, match="own"), uninterrupted():
        raise RuntimeError("own")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_harmless_in_other_threads():
    done = []

    def work():
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
