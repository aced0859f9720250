"""Planted mistakes of the classical kinds: each must be rejected by the check meant for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_ebm.core.noise import normal_of
from pyro_ebm.core.positions import choose
from pyro_ebm.kernels import MALA, _adjusted_langevin
from pyro_ebm.kernels._metric import Metric
from pyro_ebm.kernels._metropolis import acceptance_probability, langevin_log_ratio


def proposal_log_density(
    start: Any, end: Tensor, step_size: float, drift: float, metric: Metric
) -> Tensor:
    """``log N(end; start - drift / 2 C grad, step_size^2 C)`` up to a constant, C diagonal."""
    scale = metric.to_position(torch.ones_like(end))
    error = end - start.position + 0.5 * drift * scale**2 * start.grad
    return -0.5 * (error / (step_size * scale)).square().sum(dim=-1)


def _both_ways(old: Any, new: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
    """``log q(old | new)`` and ``log q(new | old)``."""
    return (
        proposal_log_density(new, old.position, *arguments),
        proposal_log_density(old, new.position, *arguments),
    )


def _dropped(old, new, step_size, metric):
    del step_size, metric
    return old.potential_energy - new.potential_energy


def _mismatched(old, new, step_size, metric):
    """Drift ``step / 2`` and variance ``step`` in the ratio, ``step^2`` in the proposal."""
    back, forth = _both_ways(old, new, step_size**0.5, step_size, metric)
    return old.potential_energy - new.potential_energy + back - forth


def _swapped(old, new, step_size, metric):
    back, forth = _both_ways(old, new, step_size, step_size**2, metric)
    return old.potential_energy - new.potential_energy + forth - back


def _reversed(old, new, step_size, metric):
    return -langevin_log_ratio(old, new, step_size, metric)


RATIOS = {
    "dropped": _dropped,
    "mismatched": _mismatched,
    "swapped": _swapped,
    "reversed": _reversed,
}
"""Ratios that take the place of MALA's."""


def _everywhere_the_mean(log_ratio, finite):
    rate = acceptance_probability(log_ratio, finite)
    return rate.mean().expand(rate.shape)


def _stale_gradient(mask, new, old):
    return type(new)(
        *(choose(mask, n, o) for n, o in zip(new[:-1], old[:-1], strict=True)), new.grad
    )


def _stale_energy(mask, new, old):
    position, energy, grad = (choose(mask, n, o) for n, o in zip(new, old, strict=True))
    del energy
    return type(new)(position, new.potential_energy, grad)


PATCHES = {f"{name}_ratio": ("langevin_log_ratio", f) for name, f in RATIOS.items()} | {
    "accept_per_batch": ("acceptance_probability", _everywhere_the_mean),
    "stale_gradient": ("select", _stale_gradient),
    "stale_energy": ("select", _stale_energy),
}
"""Names in the module of MALA's step, and what takes their place."""


@contextmanager
def patched_mala(name: str):
    """MALA with one of :data:`PATCHES`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_adjusted_langevin, *PATCHES[name])
        yield MALA


class NoAccept(MALA):
    """Every move is made."""

    def noise(self, state, generator):
        noise = super().noise(state, generator)
        return noise._replace(uniform=torch.full_like(noise.uniform, -1.0))


class WideNoise(MALA):
    """Noise of a standard deviation that the ratio does not know of."""

    def noise(self, state, generator):
        noise = super().noise(state, generator)
        return noise._replace(normal=1.1 * normal_of(noise.normal, state.position))


class SharedUniform(MALA):
    """One uniform for all chains."""

    def noise(self, state, generator):
        noise = super().noise(state, generator)
        return noise._replace(uniform=noise.uniform[:1].expand(noise.uniform.shape))


class SharedNormal(MALA):
    """One normal vector for all chains."""

    def noise(self, state, generator):
        noise = super().noise(state, generator)
        normal = normal_of(noise.normal, state.position)
        return noise._replace(normal=normal[:1].expand(normal.shape))
