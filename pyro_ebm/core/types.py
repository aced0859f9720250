"""The vocabulary: every contract of the library on one page.

Shapes are written in four notations, the same everywhere:

- ``(*chains, *event)``: positions of parallel chains;
- ``(*batch, *event)``: data;
- ``(chain, draw, *event)``: stored draws;
- ``(*batch,)`` or ``(*chains,)``: one number for each datum or chain.

Energies and potentials are minus log densities up to a constant: low means probable.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.distributions.transforms import Transform


@runtime_checkable
class Energy(Protocol):
    """A function ``E`` with density proportional to ``exp(-E(x))``.

    Anything callable with an ``event_shape`` is an energy; there is nothing to inherit.
    The output has one number for each datum: ``(*batch, *event) -> (*batch,)``.
    """

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one point."""
        ...

    def __call__(self, x: Tensor, /) -> Tensor:
        """Energies ``(*batch,)`` of the points ``x`` of shape ``(*batch, *event)``."""
        ...


class PotentialTerm(Protocol):
    """A function ``U(q)`` of unconstrained vectors that can be added to a potential."""

    @property
    def dim(self) -> int:
        """Length of one position vector."""
        ...

    def __call__(self, q: Tensor, /) -> Tensor:
        """Values ``(*chains,)`` at positions ``(*chains, dim)``; differentiable."""
        ...

    def value_and_grad(self, q: Tensor, /) -> tuple[Tensor, Tensor]:
        """Detached values ``(*chains,)`` and gradients ``(*chains, dim)``."""
        ...


@runtime_checkable
class Potential(PotentialTerm, Protocol):
    """What chains sample: minus the log density of one unconstrained vector.

    The named sites of the target are flattened to one vector ``q`` of length ``dim``, and
    the log-Jacobian of the map to the constrained space is part of ``U``.
    Chains are independent: row ``c`` of every output depends on row ``c`` of the input only.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Type of the positions."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the positions."""
        ...

    def initial(self, num_chains: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Over-dispersed starting points ``(num_chains, dim)``; not checked for finiteness."""
        ...

    def constrain(self, q: Tensor) -> dict[str, Tensor]:
        """Named values ``(*chains, *event)`` in the space the user wrote them in."""
        ...

    def unconstrain(self, sites: dict[str, Tensor]) -> Tensor:
        """Inverse of :meth:`constrain`: positions ``(*chains, dim)``."""
        ...

    def flatten(self, sites: dict[str, Tensor]) -> Tensor:
        """Positions ``(*chains, dim)`` of named *unconstrained* values ``(*chains, ...)``."""
        ...

    def unflatten(self, q: Tensor) -> dict[str, Tensor]:
        """Inverse of :meth:`flatten`."""
        ...

    def transforms(self) -> dict[str, Transform]:
        """Maps from unconstrained to constrained values, where they are fixed."""
        ...

    def explain_nonfinite(self, q: Tensor) -> str:
        """Say in the user's names which term is not finite at the position ``(dim,)``."""
        ...


class State(Protocol):
    """What a kernel needs for its next step; a NamedTuple of tensors, chains first.

    A State belongs to one potential with fixed parameters (after an optimiser step,
    ``kernel.init`` again).
    """

    @property
    def position(self) -> Tensor:
        """Positions ``(C, dim)``: the draws of chains that have just finished one.

        Between two draws, the last draw or what is proposed so far.
        """
        ...

    @property
    def potential_energy(self) -> Tensor:
        """Values ``(C,)`` of the potential at ``position``."""
        ...

    @property
    def grad(self) -> Tensor:
        """Gradients ``(C, dim)`` of the potential at ``position``."""
        ...


InfoT = TypeVar("InfoT", bound="Info")


class Info(Protocol):
    """What a step reports; a NamedTuple of tensors ``(C,)``.

    ``finished`` marks the chains that completed a draw in this step, ``step_acceptance`` is
    what warm-up pools; every other field is a per-draw statistic under ArviZ's name and is
    stored with the draw of the chains that finished one.
    """

    @property
    def finished(self) -> Tensor:
        """Chains that completed a draw, boolean."""
        ...

    @property
    def step_acceptance(self) -> Tensor:
        """Probability in [0, 1] of accepting the point that this step came to."""
        ...

    @property
    def lp(self) -> Tensor:
        """Log density of the new position, up to a constant, in unconstrained space."""
        ...

    @property
    def acceptance_rate(self) -> Tensor:
        """Probability of the Metropolis test in [0, 1], the mean over a trajectory's points.

        Kernels that make no test report the one that a test would have had.
        """
        ...

    @property
    def step_size(self) -> Tensor:
        """Step size of the move."""
        ...

    @property
    def diverging(self) -> Tensor:
        """Moves to a non-finite energy or gradient, or whose energy error exceeds 1000."""
        ...

    def _asdict(self) -> dict[str, Any]: ...

    def _replace(self: InfoT, *_: Any, **changes: Any) -> InfoT: ...


StateT = TypeVar("StateT", bound=State)
KernelT = TypeVar("KernelT")
NoiseT = TypeVar("NoiseT")


class Kernel(Protocol[StateT, NoiseT]):
    """A recipe for moving chains: hyper-parameters only, frozen.

    ``step_size`` and ``moments`` are kept when given and tuned in warm-up when ``None``.
    ``scale`` holds one standard deviation for each coordinate, or the Cholesky factor of a
    covariance; kernels precondition with its square. Without a ``target`` a kernel is a recipe,
    which is how objectives and distributions take it.
    """

    @property
    def target(self) -> object | None:
        """A potential, an energy, or a Pyro model; None in a recipe."""
        ...

    @property
    def step_size(self) -> float | None:
        """Step size; None to have warm-up tune it."""
        ...

    @property
    def scale(self) -> Tensor | None:
        """Standard deviations ``(dim,)`` or lower triangular factor ``(dim, dim)``.

        None to have warm-up estimate it.
        """
        ...

    @property
    def target_accept_prob(self) -> float:
        """Acceptance probability that warm-up tunes the step size to."""
        ...

    @property
    def is_adjusted(self) -> bool:
        """Whether steps make a Metropolis test, so that ``exp(-U)`` is left invariant.

        While it looks for their step size, warm-up makes the test for kernels that do not, so
        that chains cannot fly off meanwhile.
        """
        ...

    @property
    def full_mass(self) -> bool:
        """Whether warm-up estimates a factor of the whole covariance instead of a diagonal."""
        ...

    @property
    def keeps_momentum(self) -> bool:
        """Whether a momentum lives on from draw to draw, so that energies change slowly."""
        ...

    @property
    def shortest_warmup(self) -> int:
        """Transitions of warm-up that are enough when very many chains pool what they learn."""
        ...

    @property
    def tuned_numbers(self) -> dict[str, float | None]:
        """Numbers that warm-up may change at every transition; ``step`` may get tensors."""
        ...

    @property
    def moments(self) -> dict[str, Tensor | None]:
        """Moments of the target that the kernel uses: ``scale``, and the mean as ``center``.

        Warm-up estimates those that are None at the end of its windows.
        """
        ...

    @property
    def largest_step_size(self) -> float:
        """Longer steps are of no use, however many are accepted; infinite where they are."""
        ...

    @property
    def steps_per_call(self) -> int:
        """How many steps to compile together; more is faster where a step is little work."""
        ...

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> StateT:
        """State at the given positions ``(C, dim)``; auxiliary momenta are drawn exactly."""
        ...

    def restart(self, state: StateT, generator: torch.Generator | None) -> StateT:
        """The state in which every chain begins anew at its position, with this kernel.

        Trajectories under way are given up, so hyper-parameters may have changed.
        """
        ...

    def noise(self, state: StateT, generator: torch.Generator | None) -> NoiseT:
        """Draw everything random that one step needs, or seeds of it."""
        ...

    def step(self, potential: Potential, state: StateT, noise: NoiseT) -> tuple[StateT, Info]:
        """Advance every chain; a pure function of tensors.

        Consecutive states may share scratch memory: a state can be stepped again, with the
        same result, until the state that followed from it is stepped.
        """
        ...

    def rejected(self, state: StateT) -> StateT:
        """The state that follows when a move from ``state`` is not made.

        The same state, but for kernels that keep a momentum: it is reversed.
        """
        ...

    def adaptation(self) -> Adaptation[Any] | None:
        """A fresh tuner of what warm-up tunes beside step size and moments, if there is any."""
        ...


class Adaptation(Protocol[KernelT]):
    """Tunes, in warm-up, what only one kind of kernel has."""

    @property
    def tunes(self) -> frozenset[str]:
        """The hyper-parameters that it changes."""
        ...

    def update(self, kernel: KernelT, state: Any, info: Any) -> KernelT:
        """Take in one step of all chains; return the kernel to go on with."""
        ...

    def finish(self, kernel: KernelT) -> KernelT:
        """The kernel to keep after warm-up."""
        ...


class Objective(Protocol):
    """A loss that fits an energy to data.

    ``backward()`` of the result is the gradient estimator that its page documents. The
    value is a mean over the batch and in general *not* a likelihood.
    """

    def __call__(
        self, energy: Energy, x: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Scalar loss of ``energy`` on the batch ``x`` of shape ``(*batch, *event)``."""
        ...


class Chains(NamedTuple):
    """Draws of parallel chains, as the driver stores them."""

    positions: Tensor
    """Unconstrained positions ``(chain, draw, dim)``."""
    stats: dict[str, Tensor]
    """Per-draw statistics ``(chain, draw)`` under ArviZ's names."""
