"""Owned randomness: one generator for each run, and the global one left alone.

Everything stochastic takes ``generator=None``. With a generator, torch's global generator
is untouched; without one, a single seed is taken from it at the start, so that
``torch.manual_seed`` and ``pyro.set_rng_seed`` reproduce runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

_SEED_RANGE = 2**63 - 1


def own_generator(
    generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return ``generator``, or a new one on ``device`` seeded by one draw of the global one.

    >>> first = own_generator(torch.Generator().manual_seed(0))
    >>> torch.rand((), generator=first).item() < 1
    True
    """
    if generator is not None:
        return generator
    seed = int(torch.randint(_SEED_RANGE, (), device="cpu").item())
    return torch.Generator(device=device).manual_seed(seed)


def kept_rng() -> AbstractContextManager[None]:
    """Restore the global states of the CPU and of all GPUs in use.

    A GPU that is not in use must not become so here: processes forked later could not use it.
    """
    in_use = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    kept: AbstractContextManager[None] = torch.random.fork_rng(devices=range(in_use))
    return kept


@contextmanager
def forked_rng(generator: torch.Generator) -> Iterator[None]:
    """Run Pyro's own sampling statements from ``generator`` and restore the global state.

    >>> state = torch.get_rng_state()
    >>> with forked_rng(torch.Generator().manual_seed(0)):
    ...     _ = torch.rand(3)
    >>> bool((torch.get_rng_state() == state).all())
    True
    """
    seed = int(torch.randint(_SEED_RANGE, (), generator=generator, device=generator.device).item())
    with kept_rng():
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        yield
