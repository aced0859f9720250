"""Chains of one run in several processes, which learn together in warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch import distributed as group

from pyro_ebm.core.types import Chains


class Ranks(Protocol):
    """The processes that share a run."""

    @property
    def rank(self) -> int:
        """Number of this process."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def gather(self, part: Tensor) -> Tensor:
        """The parts ``(n, ...)`` of all, one after another ``(size n, ...)``; the same on all."""
        ...


class OneProcess:
    """A run that is not shared."""

    rank, size = 0, 1

    def gather(self, part: Tensor) -> Tensor:
        return part


class DefaultGroup:
    """The ranks of ``torch.distributed``'s default group.

    Raises:
        RuntimeError: If there is no group.
    """

    def __init__(self) -> None:
        if not (group.is_available() and group.is_initialized()):
            raise RuntimeError(
                "distributed=True shares the chains among the ranks of torch.distributed, but "
                "there is no process group: call torch.distributed.init_process_group('gloo') "
                "first ('nccl' on GPUs) and start the script with torchrun "
                "--nproc-per-node=2 script.py."
            )
        self.rank, self.size = group.get_rank(), group.get_world_size()

    def gather(self, part: Tensor) -> Tensor:
        sent = part.detach().contiguous()
        # Not every backend sends booleans.
        sent = sent.to(torch.uint8) if part.dtype == torch.bool else sent
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        group.all_gather(parts, sent)
        return torch.cat(parts).to(part.dtype)


def ranks_of_a_run(num_chains: int, *, distributed: bool, keeps_files: bool) -> Ranks:
    """The processes that share a run of so many chains.

    Raises:
        RuntimeError: If there is no process group.
        ValueError: If the chains cannot be shared evenly, or files are wanted.
    """
    ranks: Ranks = DefaultGroup() if distributed else OneProcess()
    if num_chains % ranks.size != 0:
        raise ValueError(
            f"num_chains={num_chains} cannot be shared evenly among {ranks.size} ranks: give a "
            f"multiple of {ranks.size}."
        )
    if distributed and keeps_files:
        raise ValueError(
            "checkpoint, stream and save_warmup are for runs in one process: leave them out, or "
            "run without distributed=True."
        )
    return ranks


class Sources(NamedTuple):
    """Generators of a shared run."""

    common: torch.Generator
    """Draws the same on all ranks: where the chains start."""
    own: torch.Generator
    """Draws other numbers on each."""


def sources(ranks: Ranks, generator: torch.Generator) -> Sources:
    """What the generator of a run becomes on each rank; one process goes on with its own."""
    if ranks.size == 1:
        return Sources(generator, generator)
    device = generator.device
    own = torch.randint(2**62, (1,), generator=generator, device=device)
    seed = int(ranks.gather(own)[0])
    first, second = (torch.Generator(device) for _ in range(2))
    return Sources(first.manual_seed(seed), second.manual_seed(seed + 1 + ranks.rank))


def gather_together(ranks: Ranks, parts: Sequence[Tensor]) -> list[Tensor]:
    """Gather several parts, each ``(n, ...)``, in one message: it is the number that takes time.

    They travel in float64, which holds all numbers of up to 53 bits.
    """
    if ranks.size == 1:
        return list(parts)
    columns = [part.reshape(len(part), -1).double() for part in parts]
    everywhere = ranks.gather(torch.cat(columns, dim=-1))
    split = everywhere.split([column.shape[-1] for column in columns], dim=-1)
    return [
        found.reshape(len(everywhere), *part.shape[1:]).to(part.dtype)
        for found, part in zip(split, parts, strict=True)
    ]


def gathered(ranks: Ranks, chains: Chains) -> Chains:
    """The chains of all ranks."""
    stats = {name: ranks.gather(values) for name, values in chains.stats.items()}
    return Chains(ranks.gather(chains.positions), stats)


def total(ranks: Ranks, number: int, device: torch.device) -> int:
    """The sum of a number over all ranks."""
    return int(ranks.gather(torch.tensor([number], device=device)).sum())
