"""The driver with Pyro's surface: many chains in one batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.core.checks import (
    ModelError,
    ShapeError,
    check_count,
    check_finite,
)
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.core.types import Chains, Kernel
from pyro_ebm.potentials.model import ModelPotential
from pyro_ebm.potentials.starts import check_starts, finite_starts
from pyro_ebm.potentials.targets import as_potential
from pyro_ebm.sampling.chains import ChainRun, Hook
from pyro_ebm.sampling.kernel_checks import check_kernel
from pyro_ebm.sampling.progress import Progress
from pyro_ebm.sampling.storage import DrawStorage
from pyro_ebm.sampling.summary import site_statistics, summary_table


class MCMC:
    """Run many chains of a kernel as one batch, with the surface of ``pyro.infer.MCMC``.

    What the kernel leaves open (``step_size=None``, ``scale=None``) is tuned in warm-up on
    statistics pooled over the chains and then frozen; draws are kept only afterwards. Ctrl-C
    ends the run and keeps the draws made so far; an exception is raised again after a warning
    that says how many were kept. Chains whose starts are so far out that a whole window of
    warm-up accepts next to nothing are put where other chains are, and counted in
    ``num_restarted``.

    Args:
        kernel: A kernel with a target: a Pyro model, an energy or a potential.
        num_samples: Draws to keep of each chain.
        warmup_steps: Steps of warm-up; by default as many as draws, as in Pyro.
        initial_params: Unconstrained starts by site with a leading chain axis (which may be
            missing if there is one chain), as in Pyro.
        num_chains: Number of chains.
        hook_fn: Called after each step as ``hook_fn(kernel, params, stage, i)``.
        init_strategy: One of ``pyro.infer.autoguide.init_to_*``, for Pyro models. By default
            starts are uniform on [-2, 2] in unconstrained coordinates, tried again where the
            density is not finite.
        thinning: Keep every ``thinning``-th draw.
        save_warmup: Keep the steps of warm-up too.
        disable_progbar: Show no progress bar.
        generator: Source of randomness; by default seeded from torch's global one.

    Raises:
        ValueError: If a count is below 1.
        ModelError: If the kernel has no target.

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
    ) -> None:
        self.kernel = self._recipe = kernel
        self.num_samples = check_count("num_samples", num_samples)
        self.num_chains = check_count("num_chains", num_chains)
        self.thinning = check_count("thinning", thinning)
        steps = self.num_samples if warmup_steps is None else warmup_steps
        self.warmup_steps = check_count("warmup_steps", steps, minimum=0)
        self.initial_params, self.init_strategy = initial_params, init_strategy
        self.hook_fn, self.save_warmup = hook_fn, save_warmup
        self.disable_progbar, self.generator = disable_progbar, generator
        check_kernel(kernel, self.warmup_steps)
        self.chains: Chains | None = None
        self.warmup_chains: Chains | None = None
        self._samples: dict[str, Tensor] | None = None
        self.num_restarted = 0

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Sample; arguments go to the Pyro model. A second run tunes anew and replaces the draws.

        Raises:
            NonFiniteError: If no finite start is found, or half of the chains leave for
                infinity.
            StepSizeError: If warm-up finds no step size.
        """
        self.chains = self.warmup_chains = self._samples = None
        self.kernel = self._recipe
        self.potential = as_potential(self.kernel.target, *args, **kwargs)
        generator = own_generator(self.generator, self.potential.device)
        position = self._starts(generator)
        storage = DrawStorage(self.num_samples, self.thinning)
        warmup_storage = DrawStorage(self.warmup_steps) if self.save_warmup else None
        chain_run = ChainRun(
            self.kernel,
            self.potential,
            generator,
            storage=storage,
            warmup_storage=warmup_storage,
            hook=self.hook_fn,
        )
        try:
            with Progress(self._total_steps, disable=self.disable_progbar) as progress:
                chain_run.run(position, self.warmup_steps, progress)
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
        samples = self._constrained()
        if not deterministic:
            latent = self.potential.unflatten(self._drawn().positions[0, 0])
            samples = {name: samples[name] for name in latent}
        if not group_by_chain:
            samples = {name: value.flatten(0, 1) for name, value in samples.items()}
        if num_samples is None:
            return samples
        axis = 1 if group_by_chain else 0
        available = next(iter(samples.values())).shape[axis]
        index = torch.randint(
            available,
            (check_count("num_samples", num_samples),),
            generator=self.generator,
            device="cpu" if self.generator is None else self.generator.device,
        )
        return {name: v.index_select(axis, index.to(v.device)) for name, v in samples.items()}

    def summary(self, prob: float = 0.9) -> None:
        """Print ArviZ's table (rank-normalised R-hat, bulk and tail ESS) and the divergences.

        Raises:
            ValueError: If there are fewer than 4 draws in each chain.
        """
        print(summary_table(self._constrained(), prob).to_string())  # noqa: T201
        print(f"Number of divergences: {int(self._drawn().stats['diverging'].sum())}")  # noqa: T201
        if self.num_restarted:
            print(f"Chains restarted in warm-up: {self.num_restarted}")  # noqa: T201

    def diagnostics(self) -> dict[str, Any]:
        """R-hat and ESS of each site by ArviZ, divergences and acceptance of each chain."""
        stats = self._drawn().stats
        diverging, rates = stats["diverging"], stats["acceptance_rate"].mean(dim=1)
        divergences = {
            f"chain {c}": row.nonzero().flatten().tolist() for c, row in enumerate(diverging)
        }
        rate = {f"chain {c}": float(value) for c, value in enumerate(rates)}
        table: dict[str, Any] = dict(site_statistics(self._constrained()))
        return table | {"divergences": divergences, "acceptance rate": rate}

    @property
    def _total_steps(self) -> int:
        return self.warmup_steps + self.num_samples * self.thinning

    def _starts(self, generator: torch.Generator) -> Tensor:
        potential, num_chains = self.potential, self.num_chains
        if self.initial_params is not None:
            return check_starts(potential, self._given_starts(self.initial_params))
        if self.init_strategy is None:
            return finite_starts(potential, num_chains, generator)
        if not isinstance(potential, ModelPotential):
            raise ModelError(
                f"init_strategy needs the sites of a Pyro model, but the target is {potential!r}: "
                "give initial_params instead."
            )
        return check_starts(
            potential, potential.initial_from(self.init_strategy, num_chains, generator)
        )

    def _given_starts(self, params: dict[str, Tensor]) -> Tensor:
        _check_tensors(params)
        potential = self.potential
        position = potential.flatten(params).to(potential.device, potential.dtype)
        wanted = (self.num_chains, potential.dim)
        if position.ndim == 1 and self.num_chains == 1:
            position = position.unsqueeze(0)
        if position.shape != wanted:
            raise ShapeError(
                f"initial_params hold positions of shape {tuple(position.shape)}, but {wanted} is "
                "wanted, (num_chains, dim): give every site a leading axis of num_chains."
            )
        return position.detach().clone()

    def _keep(self, run: ChainRun, *, is_complete: bool) -> bool:
        """Take over what was drawn; say so if the run was cut short."""
        self.kernel, self.num_restarted = run.kernel, run.num_restarted
        self.chains = run.storage.chains()
        if run.warmup_storage is not None:
            self.warmup_chains = run.warmup_storage.chains()
        if self.chains is not None and not is_complete:
            warnings.warn(
                f"the run was cut short: kept {self.chains.positions.shape[1]} of "
                f"{self.num_samples} draws of each of the {self.num_chains} chains.",
                stacklevel=3,
            )
        return self.chains is not None

    def _drawn(self) -> Chains:
        if self.chains is None:
            raise RuntimeError("there are no draws yet: call run(...) first.")
        return self.chains

    def _constrained(self) -> dict[str, Tensor]:
        positions = self._drawn().positions
        if self._samples is None:
            self._samples = self.potential.constrain(positions)
        return self._samples

    def __repr__(self) -> str:
        drawn = 0 if self.chains is None else self.chains.positions.shape[1]
        return (
            f"MCMC({self.kernel!r}, num_samples={self.num_samples}, "
            f"warmup_steps={self.warmup_steps}, num_chains={self.num_chains}, drawn={drawn})"
        )


def _check_tensors(params: object) -> None:
    if not isinstance(params, dict) or not all(isinstance(v, Tensor) for v in params.values()):
        raise ShapeError(
            f"initial_params is {params!r}, but a dict of tensors is wanted: unconstrained values "
            "by site, (num_chains, *event) each."
        )
    for name, value in params.items():
        check_finite(f"initial_params[{name!r}]", value)
