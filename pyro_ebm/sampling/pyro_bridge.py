"""Our kernels in Pyro's driver."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_ebm.core.checks import ShapeError
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Energy, Info, Kernel, Potential
from pyro_ebm.potentials.starts import check_starts, finite_starts
from pyro_ebm.potentials.targets import as_potential
from pyro_ebm.sampling.kernel_checks import check_kernel
from pyro_ebm.sampling.pyro_processes import (
    GivenStarts,
    is_for_another_process,
    pack,
    take_one_thread,
)
from pyro_ebm.sampling.recording import RECORD, DrawRecorder
from pyro_ebm.sampling.warmup import WarmUp
from pyro_ebm.sampling.watch import EscapeWatch

_NOT_STORED = ("finished", "step_acceptance")
"""What a step reports that is no statistic of a draw."""


class PyroKernel(MCMCKernel):
    """One of our kernels behind Pyro's kernel interface: made by :func:`as_pyro_kernel`.

    Pyro never announces the end of warm-up, so the steps are counted; it cleans up twice and
    starts each chain on the same object, so ``setup`` begins from nothing.

    Args:
        kernel: A kernel with a target.
        save_warmup: Keep the steps of warm-up too.

    >>> from pyro_ebm.energies import QuarticEnergy
    >>> from pyro_ebm.kernels import MALA
    >>> PyroKernel(MALA(QuarticEnergy(), step_size=0.5))
    PyroKernel(MALA(target=QuarticEnergy(...), step_size=0.5, ...))
    """

    def __init__(self, kernel: Kernel[Any, Any], *, save_warmup: bool = False) -> None:
        check_kernel(kernel)
        self.kernel = kernel
        self.save_warmup = save_warmup
        self._home = os.getpid()
        self.potential: Potential | None = None
        self.transforms: dict[str, Transform] | None = None
        if self.model is None:
            self._take_potential(as_potential(kernel.target))
        self._given = GivenStarts()
        self._initial: dict[str, Tensor] | None = None
        self._state: Any = None

    @property
    def model(self) -> object | None:
        """The target if it is a Pyro model.

        Where Pyro runs chains in processes of their own, a model here makes it call ``setup``
        once more for the transforms; without it the draws would stay unconstrained.
        """
        target = self.kernel.target
        return None if isinstance(target, (Potential, Energy)) else target

    @property
    def initial_params(self) -> dict[str, Tensor]:
        if self._initial is None:
            potential = self._potential()
            position = finite_starts(potential, 1, self._generator)
            self._initial = potential.unflatten(position[0])
        return self._initial

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._given.add(params)
        self._initial = params

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        take_one_thread(self._home)
        potential = as_potential(self.kernel.target, *args, **kwargs)
        self._take_potential(potential)
        self._generator = own_generator(None, potential.device)
        self._recorder = DrawRecorder(warmup_steps, saves_warmup=self.save_warmup)
        self._warm_up = WarmUp(self.kernel, potential, self._generator)
        self._warm_up.begin(warmup_steps)
        self._warmup_left = warmup_steps
        self._params: dict[str, Tensor] | None = None
        self._acceptance, self._num_counted = 0.0, 0
        self._divergences: list[int] = []
        self._initial = self._given.mine(self._home)
        if self._initial is not None:
            check_starts(potential, self._start(self._initial))

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        if params is not self._params:
            start = self._start(params)
            self._state = self._warm_up.kernel.init(self._potential(), start, self._generator)
            self._watch = EscapeWatch.of_warm_up(start)
        info = self._step()
        self._watch.step(self._state, info)
        self._params = self._potential().unflatten(self._state.position[0])
        stats = {k: v.item() for k, v in info._asdict().items() if k not in _NOT_STORED}
        self._recorder.add(stats, self._params)
        self._count(stats)
        return self._params

    def logging(self) -> OrderedDict[str, str]:
        step_size = self._warm_up.kernel.step_size
        mean = self._acceptance / max(1, self._num_counted)
        return OrderedDict({"step size": f"{step_size:.2e}", "acc. prob": f"{mean:.3f}"})

    def diagnostics(self) -> dict[str, Any]:
        return {
            "divergences": self._divergences,
            "acceptance rate": self._acceptance / max(1, self._num_counted),
            RECORD: self._recorder.record(),
        }

    def cleanup(self) -> None:
        self._given, self._initial, self._state = GivenStarts(), None, None

    def _take_potential(self, potential: Potential) -> None:
        self.potential = potential
        self.transforms = {name: t.inv for name, t in potential.transforms().items()}

    def _step(self) -> Info:
        """Steps until the chain has finished a draw, or a transition of warm-up."""
        move = self._warm_up.step if self._warmup_left > 0 else self._move
        while True:
            self._state, info = move(self._state)
            if bool(info.finished):
                return info

    def _move(self, state: Any) -> tuple[Any, Info]:
        kernel = self._warm_up.kernel
        moved: tuple[Any, Info] = kernel.step(
            self._potential(), state, kernel.noise(state, self._generator)
        )
        return moved

    def _count(self, stats: dict[str, Any]) -> None:
        is_draw = self._warmup_left == 0
        if is_draw and stats["diverging"]:
            self._divergences.append(self._num_counted)
        self._acceptance += stats["acceptance_rate"]
        self._num_counted += 1
        if self._warmup_left == 1:
            # The mean acceptance starts anew with the draws, as Pyro's does.
            self._acceptance, self._num_counted = 0.0, 0
        self._warmup_left -= not is_draw

    def _start(self, params: dict[str, Tensor]) -> Tensor:
        potential = self._potential()
        position = potential.flatten(params).to(potential.device, potential.dtype)
        if position.ndim != 1:
            raise ShapeError(
                f"initial_params hold positions of shape {tuple(position.shape)} for one chain, "
                f"but ({potential.dim},) is wanted: with num_chains > 1 every site has one leading "
                "axis of num_chains, with one chain it has none."
            )
        return position.detach().unsqueeze(0)

    def _potential(self) -> Potential:
        if self.potential is None:
            raise RuntimeError("the kernel is not set up yet: run it in pyro.infer.MCMC.")
        return self.potential

    def __reduce_ex__(self, protocol: Any) -> Any:
        return pack(self) if is_for_another_process() else super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"PyroKernel({self.kernel!r})"


def as_pyro_kernel(kernel: Kernel[Any, Any], *, save_warmup: bool = False) -> PyroKernel:
    """Hand one of our kernels to ``pyro.infer.MCMC``.

    Chains run one after another, each tuned on its own acceptance and variance; with many
    chains use :class:`pyro_ebm.sampling.mcmc.MCMC`, which advances them as one batch. The law
    is that of the kernel.

    Where there are more cores than chains Pyro runs each chain in a process of its own, here
    with one thread and the parameters of the main process. With ``mp_context="spawn"`` the kernel
    must pickle, with ``"fork"`` it need not. Randomness comes from torch's global generator,
    which Pyro seeds in each process with the seed of the main process plus the number of the
    chain: two runs without a new ``pyro.set_rng_seed`` between them give the same draws.

    Args:
        kernel: A kernel with a target: a Pyro model, an energy or a potential.
        save_warmup: Keep the steps of warm-up too, for ``to_arviz(mcmc, warmup=True)``.

    Raises:
        ModelError: If the kernel has no target; in ``MCMC.run`` also if a support depends on a
            latent value, because Pyro applies one frozen transform to all draws, if the target
            does not pickle for processes that are spawned, and if the kernel tunes itself on
            many chains (``ChEESHMC`` without a ``trajectory_length``).

    >>> from pyro.infer import MCMC
    >>> from pyro_ebm.energies import QuarticEnergy
    >>> from pyro_ebm.kernels import MALA
    >>> mcmc = MCMC(as_pyro_kernel(MALA(QuarticEnergy())), 100, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples()["x"].shape
    torch.Size([100])
    """
    return PyroKernel(kernel, save_warmup=save_warmup)
