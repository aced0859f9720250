"""The driver with Pyro's surface: many chains in one batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import check_count, check_positive
from pyro_ebm.core.files import check_writable, write_tensors
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Chains, Kernel
from pyro_ebm.potentials.targets import as_potential
from pyro_ebm.sampling.chains import ChainRun, Hook
from pyro_ebm.sampling.checkpoint import Checkpoint, SavedRun, content_of
from pyro_ebm.sampling.compiler import Compiler
from pyro_ebm.sampling.fingerprint import of_arguments
from pyro_ebm.sampling.kernel_checks import check_kernel, check_tunable
from pyro_ebm.sampling.progress import Progress
from pyro_ebm.sampling.ranks import gathered, ranks_of_a_run, sources, total
from pyro_ebm.sampling.results import Results, resampled
from pyro_ebm.sampling.starting import starts
from pyro_ebm.sampling.steps import steps_of_a_run
from pyro_ebm.sampling.storage import DrawStorage
from pyro_ebm.sampling.streaming import DrawStore, StreamedStorage, check_free, import_zarr
from pyro_ebm.sampling.warmup import enough_transitions

_SETTINGS = (
    "num_samples",
    "warmup_steps",
    "num_chains",
    "thinning",
    "save_warmup",
    "compile",
    "stream_memory",
)
"""What a saved run is made again with."""


class MCMC:
    """Run many chains of a kernel as one batch, with the surface of ``pyro.infer.MCMC``.

    What the kernel leaves open (``step_size=None``, ``scale=None``) is tuned in warm-up on
    statistics pooled over the chains and then frozen; draws are kept only afterwards. Ctrl-C
    ends the run and keeps the draws made so far; an exception is raised again after a warning
    that says how many were kept. Chains that a whole window of warm-up leaves far out are put
    where others are, and counted in ``num_restarted``: those that accept next to nothing and, of
    16 chains or more, those with an energy far above all others'.

    Args:
        kernel: A kernel with a target: a Pyro model, an energy or a potential.
        num_samples: Draws to keep of each chain.
        warmup_steps: Transitions of warm-up. By default few if there are many chains to learn from:
            ``kernel.shortest_warmup``, at least, and 20 times as many for a single chain.
        initial_params: Unconstrained starts by site with a leading chain axis (which may be
            missing if there is one chain), as in Pyro.
        num_chains: Number of chains.
        hook_fn: Called after each step of all chains, which for trajectories is the
            integrator's, as ``hook_fn(kernel, params, stage, i)``.
        init_strategy: One of ``pyro.infer.autoguide.init_to_*``, for Pyro models. By default
            starts are uniform on [-2, 2] in unconstrained coordinates, tried again where the
            density is not finite.
        thinning: Keep every ``thinning``-th draw.
        save_warmup: Keep warm-up, too: of each chain as many transitions as the slowest made.
        disable_progbar: Show no progress bar.
        generator: Source of randomness; by default seeded from torch's global one.
        compile: Compile potential, transition and storage into graphs of one or several steps.
            Takes a C++ compiler and 15 to 50 seconds (``compile_seconds``), few when the same run
            was compiled before; pays for long runs. With a hook or stream each step is a call.
        checkpoint: File to save the run to, for :meth:`load`: before the first step, as it goes
            on, and when it ends, is interrupted or fails. It is whole at any moment.
        checkpoint_every: Seconds between two saves; more where saving takes more than 1/20 of it.
        stream: Folder to write the draws to as they are made, a zarr store that
            ``xarray.open_datatree`` and ArviZ read; they are not kept in memory then.
        stream_memory: Bytes that draws on their way to the store may take.
        distributed: Share the chains among the ranks of ``torch.distributed``'s default process
            group, each of which makes the same calls. Warm-up pools over all; at the end every
            rank has the draws of all chains. If the run is cut short each keeps its own.

    Raises:
        ValueError: If a count is below 1, the chains cannot be shared evenly, or a distributed run
            is to be saved or streamed.
        RuntimeError: If there is no process group.
        ModelError: If the kernel has no target.
        StepSizeError: If the kernel has no step size, and there is no warm-up to tune one.
        OSError: If the checkpoint or the store cannot be written, or is there already.
        ModuleNotFoundError: If zarr is wanted and not installed.

    >>> from pyro_ebm.energies import QuarticEnergy
    >>> from pyro_ebm.kernels import MALA
    >>> mcmc = MCMC(MALA(QuarticEnergy()), 100, num_chains=8, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples(group_by_chain=True)["x"].shape
    torch.Size([8, 100])
    """

    def __init__(  # noqa: PLR0913  # Pyro's signature
        self,
        kernel: Kernel[Any, Any],
        num_samples: int,
        warmup_steps: int | None = None,
        initial_params: dict[str, Tensor] | None = None,
        num_chains: int = 1,
        *,
        hook_fn: Hook | None = None,
        init_strategy: Callable[..., Any] | None = None,
        thinning: int = 1,
        save_warmup: bool = False,
        disable_progbar: bool = False,
        generator: torch.Generator | None = None,
        compile: bool = False,  # as in torch
        checkpoint: str | Path | None = None,
        checkpoint_every: float = 30.0,
        stream: str | Path | None = None,
        stream_memory: int = 2**28,
        distributed: bool = False,
    ) -> None:
        check_kernel(kernel)
        self.kernel = self._recipe = kernel
        self.num_samples = check_count("num_samples", num_samples)
        self.num_chains = check_count("num_chains", num_chains)
        self.thinning = check_count("thinning", thinning)
        if warmup_steps is None:
            warmup_steps = enough_transitions(kernel.shortest_warmup, self.num_chains)
        self.warmup_steps = check_count("warmup_steps", warmup_steps, minimum=0)
        self.initial_params, self.init_strategy = initial_params, init_strategy
        self.hook_fn, self.save_warmup, self.compile = hook_fn, save_warmup, compile
        self.disable_progbar, self.generator = disable_progbar, generator
        self._compiler: Compiler | None = None
        self._ranks = ranks_of_a_run(
            self.num_chains,
            distributed=distributed,
            keeps_files=bool(checkpoint or stream or save_warmup),
        )
        check_tunable(kernel, self.warmup_steps)
        self._chains: Chains | None = None
        self.warmup_chains: Chains | None = None
        self._results: Results | None = None
        self.num_restarted = 0
        self._run: ChainRun | None = None
        self._saved: SavedRun | None = None
        self.stream = None if stream is None else Path(stream)
        self.stream_memory = check_count("stream_memory", stream_memory)
        if self.stream is not None:
            import_zarr()
            check_free(self.stream)
        self._checkpoint: Checkpoint | None = None
        if checkpoint is not None:
            every = check_positive("checkpoint_every", checkpoint_every)
            self._checkpoint = Checkpoint(Path(checkpoint), every)
            self._checkpoint.check_free()

    @classmethod
    def load(
        cls,
        path: str | Path,
        kernel: Kernel[Any, Any],
        num_samples: int | None = None,
        *,
        hook_fn: Hook | None = None,
        disable_progbar: bool = False,
        stream: str | Path | None = None,
    ) -> MCMC:
        """A run that was saved, to be continued with ``run(...)`` on the same arguments.

        What follows is the same to the bit as without the stop, on the same versions, threads,
        processor and device. A run that saved itself goes on doing so, into the same file.

        Args:
            path: File written by :meth:`save` or by ``checkpoint=``.
            kernel: The kernel that the run was made with, as it was given to ``MCMC``.
            num_samples: Draws to keep of each chain, if they shall be more now. What chains drew
                beyond their last one (the fast ones, or all if compiled) is made anew, so that
                the new draws are others than those of one longer run.
            hook_fn: As in ``MCMC``; called for the steps that are still to be made. Runs with
                ``compile=True`` are the same to the bit only if there was one before.
            disable_progbar: As in ``MCMC``.
            stream: Where the store of draws is now, if it has been moved.

        Raises:
            FileNotFoundError: If there is no such file; in ``run(...)``, if its store is gone.
            ModelError: If it is no run or damaged, or the kernel is another one; in
                ``run(...)``, if the model, the data or the device are.
            ValueError: If there are to be less draws than before, or none were streamed.
        """
        check_kernel(kernel)
        saved = SavedRun(Path(path), kernel)
        settings = saved.settings
        if num_samples is not None:
            fewest = settings["num_samples"]
            settings["num_samples"] = check_count("num_samples", num_samples, minimum=fewest)
        mcmc = cls(kernel, **settings, hook_fn=hook_fn, disable_progbar=disable_progbar)
        mcmc._saved, mcmc.stream = saved, saved.place_of_store(stream)
        if saved.seconds is not None:
            check_writable(saved.path, saved.path, advice="")
            mcmc._checkpoint = Checkpoint(saved.path, saved.seconds)
        return mcmc

    def save(self, path: str | Path) -> None:
        """Save the run, for :meth:`load`; a file that is there is replaced.

        A run that was interrupted or failed is saved as it was between its last two steps, also
        from inside a hook.

        Raises:
            RuntimeError: If nothing has been run yet.
        """
        write_tensors(Path(path), self._content())

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Sample; arguments go to the Pyro model. A second run tunes anew and replaces the draws.

        Raises:
            FileExistsError: If the checkpoint or the store is that of an earlier run.
            NonFiniteError: If no finite start is found, or half of the chains go to infinity.
            StepSizeError: If warm-up finds no step size.
        """
        if self._checkpoint is not None and self._saved is None:
            self._checkpoint.check_free()
        self._run = self._chains = self.warmup_chains = self._results = None
        self.kernel = self._recipe
        self.potential = as_potential(self.kernel.target, *args, **kwargs)
        self._arguments = args, kwargs
        self._run = chain_run = self._resumed(self._saved) if self._saved else self._begun()
        self._saved = None  # only now: a call with other data by mistake loses nothing
        try:
            self._advance(chain_run)
        except KeyboardInterrupt:
            if not self._keep(chain_run, is_complete=False):
                raise
        except Exception:
            self._keep(chain_run, is_complete=False)
            raise
        else:
            self._keep(chain_run, is_complete=True)

    def get_samples(
        self,
        num_samples: int | None = None,
        group_by_chain: bool = False,  # noqa: FBT001, FBT002  # Pyro's signature
        *,
        deterministic: bool = True,
    ) -> dict[str, Tensor]:
        """Draws by site in the constrained space, ``pyro.deterministic`` sites included.

        For ``Predictive`` on *new* arguments leave the deterministic sites out: Pyro conditions
        on every site that it is given, and would predict from those of the old arguments.

        Args:
            num_samples: Draw this many again with replacement (of each chain, if grouped).
            group_by_chain: Shapes ``(chain, draw, *event)`` instead of ``(draw, *event)``.
            deterministic: Whether ``pyro.deterministic`` sites are among them.
        """
        samples = self._drawn().samples(by_chain=group_by_chain, deterministic=deterministic)
        if num_samples is None:
            return samples
        return resampled(samples, num_samples, 1 if group_by_chain else 0, self.generator)

    def summary(self, prob: float = 0.9) -> None:
        """Print ArviZ's table (rank-normalised R-hat, bulk and tail ESS) and the divergences.

        Raises:
            ValueError: If there are fewer than 4 draws in each chain.
        """
        print(self._drawn().table(prob))  # noqa: T201
        if self.num_restarted:
            print(f"Chains restarted in warm-up: {self.num_restarted}")  # noqa: T201

    def diagnostics(self) -> dict[str, Any]:
        """R-hat and ESS of each site by ArviZ, divergences and acceptance of each chain."""
        return self._drawn().diagnostics()

    def _new_run(self, generator: torch.Generator) -> ChainRun:
        compiler = self._compiler = Compiler() if self.compile else None
        storage = self._new_storage()
        # Nobody sees what is between the steps of one call.
        store_into = None if self.hook_fn or self.stream else storage
        return ChainRun(
            self._recipe,
            self.potential,
            generator,
            storage=storage,
            warmup_storage=DrawStorage(self.warmup_steps) if self.save_warmup else None,
            hook=self.hook_fn,
            ranks=self._ranks,
            steps=steps_of_a_run(self._recipe, self.potential, compiler, store_into),
        )

    @property
    def compile_seconds(self) -> float:
        """Time that compiling took in the last run."""
        return 0.0 if self._compiler is None else self._compiler.seconds

    def _new_storage(self) -> DrawStorage:
        room = self.num_samples, self.thinning
        if self.stream is None:
            return DrawStorage(*room)
        return StreamedStorage(*room, DrawStore(self.stream, self.potential), self.stream_memory)

    def _begun(self) -> ChainRun:
        if self.stream is not None:
            check_free(self.stream)
        common, own = sources(self._ranks, own_generator(self.generator, self.potential.device))
        position = starts(
            self.potential,
            self.num_chains,
            common,
            initial_params=self.initial_params,
            init_strategy=self.init_strategy,
        )
        run = self._new_run(own)
        run.begin(position.chunk(self._ranks.size)[self._ranks.rank], self.warmup_steps)
        return run

    def _resumed(self, saved: SavedRun) -> ChainRun:
        run = self._new_run(torch.Generator(self.potential.device))
        saved.resume(run, of_arguments(*self._arguments), self.warmup_steps)
        return run

    def _advance(self, run: ChainRun) -> None:
        """Run, and save now and then if that is wanted."""
        total = self.warmup_steps + self.num_samples * self.thinning
        with Progress(total, disable=self.disable_progbar or self._ranks.rank > 0) as progress:
            if self._checkpoint is None:
                run.run(progress)
                return
            with self._checkpoint.during(self._content) as save_if_due:
                run.run(progress, save_if_due)

    def _content(self) -> dict[str, Any]:
        if self._run is None:
            raise RuntimeError("there is nothing to save yet: call run(...) first.")
        if self._ranks.size > 1:
            raise RuntimeError(
                "a distributed run cannot be saved: save what to_arviz(mcmc) returns."
            )
        settings = {name: getattr(self, name) for name in _SETTINGS}
        settings["stream"] = None if self.stream is None else str(self.stream.absolute())
        seconds = None if self._checkpoint is None else self._checkpoint.seconds
        return content_of(
            self._run, self._recipe, of_arguments(*self._arguments), settings, seconds
        )

    def _keep(self, run: ChainRun, *, is_complete: bool) -> bool:
        """Take over what was drawn; say so if the run was cut short."""
        self.kernel, self.num_restarted = run.kernel, run.num_restarted
        run.storage.close()
        if self.stream is None:
            self._chains = run.storage.chains()
        if run.warmup_storage is not None:
            self.warmup_chains = run.warmup_storage.chains()
        if is_complete and self._chains is not None:
            self._chains = gathered(self._ranks, self._chains)
            self.num_restarted = total(self._ranks, run.num_restarted, self.potential.device)
            self._drawn().settle()
        num_drawn = run.storage.num_complete
        if num_drawn and not is_complete:
            warnings.warn(
                f"the run was cut short: kept {num_drawn} of {self.num_samples} draws of each of "
                f"the {self.num_chains} chains.",
                stacklevel=3,
            )
        return num_drawn > 0

    @property
    def chains(self) -> Chains | None:
        """Draws in unconstrained coordinates and their statistics; None before a run.

        Raises:
            RuntimeError: If they were streamed.
        """
        if self.stream is not None and self._run is not None:
            raise RuntimeError(
                f"the draws are not in memory, but in the store {self.stream}: open it with "
                f"xarray.open_datatree({str(self.stream)!r}, engine='zarr', consolidated=False)."
            )
        return self._chains

    def _drawn(self) -> Results:
        if self.chains is None:
            raise RuntimeError("there are no draws yet: call run(...) first.")
        if self._results is None:
            self._results = Results(self.potential, self.chains)
        return self._results

    def __getstate__(self) -> dict[str, Any]:
        """All but the run itself, which holds functions: draws in memory are kept."""
        return self.__dict__ | {"_run": None, "_compiler": None}

    def __repr__(self) -> str:
        kept = 0 if self._chains is None else self._chains.positions.shape[1]
        drawn = kept if self._run is None else self._run.storage.num_complete
        return (
            f"MCMC({self.kernel!r}, num_samples={self.num_samples}, "
            f"warmup_steps={self.warmup_steps}, num_chains={self.num_chains}, drawn={drawn})"
        )
