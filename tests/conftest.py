"""Tests run in float64 and must leave every global default as they found it."""

from __future__ import annotations

import signal

import pyro
import pytest
import torch

from pyro_ebm.core import noise
from pyro_ebm.potentials.graphs import onednn

# At import already, so that constants of test modules and parameters of tests are float64 too.
torch.set_default_dtype(torch.float64)


def _global_state() -> dict[str, object]:
    settings = {f"pyro.settings[{name!r}]": value for name, value in pyro.settings.get().items()}
    return settings | {
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_default_device()": torch.get_default_device(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
    }


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_can_be_pressed():
    """Shells have their background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _unchanged_defaults(_owned_randomness):
    settings = pyro.settings.get()
    before = _global_state()
    yield
    after = _global_state()
    changed = [f"{k}: {before[k]} -> {after[k]}" for k in before if before[k] != after[k]]
    if changed:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        pyro.settings.set(**settings)
        pytest.fail("The test changed global defaults and left them so: " + "; ".join(changed))


@pytest.fixture
def seeded_noise(monkeypatch):
    """Normal numbers that the step makes itself, as for many chains where that is fast."""
    monkeypatch.setattr(noise, "MANY", 1)


@pytest.fixture
def onednn_is_faster(monkeypatch):
    """As on a processor with AVX-512; whether torch has it is another matter."""
    monkeypatch.setattr(onednn, "has_avx512", lambda: True)


@pytest.fixture(params=[True, False], ids=["oneDNN", "BLAS"])
def either_product(request, monkeypatch):
    """Large products as on processors with and without AVX-512."""
    monkeypatch.setattr(onednn, "has_avx512", lambda: request.param)


@pytest.fixture(params=["drawn", "seeded"])
def either_noise(request):
    """These, and numbers that are drawn before the step."""
    if request.param == "seeded":
        request.getfixturevalue("seeded_noise")
