"""Seeding for every test and doctest: a fork of the global generators for each of them."""

from __future__ import annotations

import hashlib
import os

import pyro
import pytest
import torch

from pyro_ebm.core.randomness import kept_rng

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

_SEED = pytest.StashKey[int]()


def pytest_addoption(parser):
    parser.addoption(
        "--seed-offset",
        type=int,
        default=0,
        help="Rotates the seed of every test; a test that fails at some offset has found a bug.",
    )


def _seed_of(item: pytest.Item) -> int:
    """Doctests print what a reader gets after ``torch.manual_seed(0)``."""
    if isinstance(item, pytest.DoctestItem):
        return 0
    offset = item.config.getoption("--seed-offset")
    digest = hashlib.sha256(f"{item.nodeid}+{offset}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


@pytest.fixture(autouse=True)
def _owned_randomness(request):
    request.node.stash[_SEED] = seed = _seed_of(request.node)
    pyro.clear_param_store()
    with kept_rng():
        pyro.set_rng_seed(seed)
        yield


@pytest.fixture(autouse=True)
def _doctests_in_float32(request):
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    original = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(original)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and _SEED in item.stash:
        offset = item.config.getoption("--seed-offset")
        report.sections.append(
            ("Seed", f"pyro.set_rng_seed({item.stash[_SEED]}), with --seed-offset={offset}")
        )
    del call
    return report
