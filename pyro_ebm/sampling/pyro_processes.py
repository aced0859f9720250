"""How a kernel gets into the processes that ``pyro.infer.MCMC`` starts."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from multiprocessing import current_process
from multiprocessing.context import get_spawning_popen
from typing import Any, NoReturn

import pyro
import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from pyro_ebm.core.checks import ModelError

_ADVICE = (
    "Define the model or energy at the top level of a module that can be imported (not inside a "
    'function, not as a lambda, not under `if __name__ == "__main__"`, not in a notebook), or '
    'give mp_context="fork", where nothing is pickled. pyro_ebm.MCMC needs no processes.'
)


def is_for_another_process() -> bool:
    """Whether what is pickled now goes to a process that is being started."""
    return get_spawning_popen() is not None


def pack(kernel: MCMCKernel) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Pickle a kernel by itself, with Pyro's parameters, which a new process starts without.

    Raises:
        ModelError: If its target cannot be pickled.
    """
    store = pyro.get_param_store()
    parameters = store.get_state() if len(store) > 0 else None
    try:
        content = pickle.dumps((type(kernel), vars(kernel), parameters))
    except Exception as error:  # whatever parts of models raise
        raise ModelError(_message(repr(kernel), error)) from None
    return unpack, (content, repr(kernel))


def unpack(content: bytes, name: str) -> MCMCKernel:
    """The kernel, or one that says why it cannot be here.

    An error at this place would end the process before Pyro hears of it, and Pyro would wait
    for its draws for ever.
    """
    try:
        cls, attributes, parameters = pickle.loads(content)
    except Exception as error:  # whatever imports and parts of models raise
        return LostKernel(_message(name, error))
    if parameters is not None:
        pyro.get_param_store().set_state(parameters)
    kernel: MCMCKernel = object.__new__(cls)
    vars(kernel).update(attributes)
    return kernel


def take_one_thread(home: int) -> None:
    """Compute on one thread if this is not the process ``home``.

    After a fork a second one can hang for ever, and chains that each take all cores are slow.
    """
    if os.getpid() != home:
        torch.set_num_threads(1)


class GivenStarts:
    """The starts that Pyro hands over, chain after chain.

    Before it starts processes, Pyro sets the start of each chain on the one kernel that all
    get, so that all would begin where the last chain should. What it sets are rows of one
    tensor, and it names each process after the number of its chain.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Tensor]] = []

    def add(self, params: dict[str, Tensor]) -> None:
        """Take in the start of the next chain, or of the first of a new run."""
        if self._rows and not _is_later_row(params, self._rows[-1]):
            self._rows = []
        self._rows.append(params)

    def mine(self, home: int) -> dict[str, Tensor] | None:
        """The start of the chain of this process, None if there is none."""
        name = current_process().name
        if os.getpid() != home and name.isdecimal() and int(name) < len(self._rows):
            return self._rows[int(name)]
        return self._rows[-1] if self._rows else None


class LostKernel(MCMCKernel):
    """Stands for a kernel that could not be made again in a new process.

    Args:
        message: Why.
    """

    def __init__(self, message: str) -> None:
        self.message = message

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> NoReturn:
        raise ModelError(self.message)

    def sample(self, params: Any) -> NoReturn:
        raise ModelError(self.message)


def _is_later_row(params: dict[str, Tensor], previous: dict[str, Tensor]) -> bool:
    if params.keys() != previous.keys():
        return False
    pairs = [(params[name], previous[name]) for name in params]
    return all(
        new.untyped_storage().data_ptr() == old.untyped_storage().data_ptr()
        and new.storage_offset() > old.storage_offset()
        for new, old in pairs
    )


def _message(name: str, error: Exception) -> str:
    return (
        f"{name} is pickled for the processes of its chains, which fails with "
        f"{type(error).__name__}: {error}. {_ADVICE}"
    )
