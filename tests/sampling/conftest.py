"""Compiled runs without a compiler."""

from __future__ import annotations

import pytest

from pyro_ebm.sampling import compiler


def without_cpp(graph, examples, options):
    """The graphs, run by Python, which needs no C++ compiler and no time."""
    del examples, options
    return graph


@pytest.fixture
def interpreted(monkeypatch):
    """Compile to such graphs."""
    monkeypatch.setattr(compiler._inductor, "compile", without_cpp)
