"""Replica exchange: copies of each chain at higher temperatures, which swap places."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.core.checks import ModelError, check_count, check_probability
from pyro_ebm.core.positions import choose, held, laid_out
from pyro_ebm.core.types import Adaptation, Potential
from pyro_ebm.kernels._hamiltonian import Point
from pyro_ebm.kernels._ladder import LadderTuner, check_betas, check_stretches, geometric_betas
from pyro_ebm.kernels._recipe import Recipe, known_step_size
from pyro_ebm.kernels._replicas import (
    ReplicaState,
    TemperedPotential,
    by_chain,
    coldest,
    flat,
    next_sweep,
    points_of,
    put_at,
    sources,
    swap_acceptance,
    taken_from,
    tempered,
)

_NOT_GIVEN = object()


class ReplicaNoise(NamedTuple):
    """Randomness of one step."""

    inner: Any
    """Noise of the inner kernel, every field ``(C, R, ...)``."""
    swap: Tensor
    """Decide the swaps of neighbours: uniform, ``(C, R - 1)`` in float64."""


class ReplicaInfo(NamedTuple):
    """Report of one step; but for ``swap_rate`` on the replica that is kept."""

    finished: Tensor
    step_acceptance: Tensor
    """Mean over the replicas that are not waiting."""
    lp: Tensor
    acceptance_rate: Tensor
    step_size: Tensor
    diverging: Tensor
    n_steps: Tensor
    """Steps of all replicas together since the last draw, one gradient each as a rule."""
    swap_rate: Tensor
    """Probability that two neighbours swap, the mean over the pairs."""
    replica: Tensor
    """Which of the replicas is the coldest now."""
    round_trip: Tensor
    """Whether it came back from the hottest place with this draw."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReplicaExchange(Recipe[ReplicaState]):
    r"""Parallel tempering around another kernel: leaves :math:`e^{-U}` invariant exactly.

    Each chain has ``R`` replicas with the laws :math:`e^{-\beta_r U}`,
    :math:`1 = \beta_1 > \dots > \beta_R > 0`. The inner kernel moves all ``R`` times ``C`` as one
    batch; then neighbours swap places with probability

    .. math:: \min\bigl(1, e^{(\beta_r - \beta_{r+1}) (U(x_r) - U(x_{r+1}))}\bigr),

    even and odd pairs in turn (not at random: replicas then travel instead of diffusing). The hot
    ones cross barriers between modes. Draws are those of :math:`\beta_1 = 1`.

    :math:`U` is the potential in *unconstrained* coordinates, its Jacobian included, so that is
    what is flattened. :math:`e^{-\beta_R U}` must be integrable, which Student tails are not for
    small :math:`\beta`.

    **Step sizes.** Replica ``r`` moves in coordinates :math:`y = x / c_r`, where its potential is
    :math:`\beta_r U(c_r y)`. With :math:`c_r = \beta_r^{-1/2}` a quadratic :math:`U` gives
    the same potential for every replica, so that one step size and one trajectory length of a
    kernel that knows nothing of temperatures suits them all: in ``x`` the steps are
    :math:`\epsilon c_r`. Warm-up tunes :math:`c_r` until all replicas accept as often.

    **Order.** The replicas of a chain make one transition each, whatever its outcome; a replica
    that is done with it waits for the others of its chain (chains do not wait for each other), and
    only then are swaps tried. To let it go on instead would favour short trajectories. ``MALA``
    never waits, the replicas of ``HMC`` wait for about a sixth of their steps, those of ``NUTS``
    for more.

    **Ladder.** Warm-up places the :math:`\beta_r` so that all pairs reject equally often; the sum
    of the rejection rates, the barrier :math:`\Lambda`, hardly depends on ``R``, and
    ``2 * barrier + 1`` replicas are about right. A warning says when some pair swaps less than one
    time in five.

    Args:
        kernel: Recipe that moves the replicas, with the target: ``MALA``, ``HMC``, ``NUTS``,
            ``PreconditionedMALA``, or ``ChEESHMC`` with a ``trajectory_length``.
        target: Instead of the kernel's.
        step_size: Step size of the coldest replica; that of the kernel by default, None to
            have warm-up tune it.
        scale: As for the inner kernel, by default that of it.
        target_accept_prob: By default that of the inner kernel.
        num_replicas: :math:`R`.
        smallest_beta: :math:`\beta_R`: where the target has lost its barriers.
        betas: Inverse temperatures ``(R,)`` that fall from 1; None to have warm-up place them.
        stretches: :math:`c_r` ``(R,)``, 1 first; None to have warm-up tune them.
        swap_rates: Acceptance of the swaps of neighbours ``(R - 1,)``; warm-up writes them here.

    Raises:
        ModelError: If the kernel does not leave its law invariant, keeps a momentum, adapts
            itself (``ChEESHMC`` without a ``trajectory_length``), or has an integrator that
            rotates.

    References:
        Geyer (1991), Markov chain Monte Carlo maximum likelihood; Syed, Bouchard-Cote,
        Deligiannidis and Doucet (2022), Non-reversible parallel tempering (the order of the
        swaps, and the ladder of section 5).

    >>> from pyro_ebm.kernels.hmc import HMC
    >>> kernel = ReplicaExchange(HMC(step_size=0.5), num_replicas=4, smallest_beta=0.125)
    >>> kernel.step_size, kernel.ladder.tolist()
    (0.5, [1.0, 0.5, 0.25, 0.125])
    """

    steps_per_call: ClassVar[int] = 1

    kernel: Recipe[Any] = field(kw_only=False)
    num_replicas: int = 8
    smallest_beta: float = 0.05
    betas: Tensor | None = None
    stretches: Tensor | None = None
    swap_rates: Tensor | None = None

    # What is not given is taken from the inner kernel.
    target: object | None = _NOT_GIVEN
    full_mass: bool = field(init=False, default=False)
    target_accept_prob: float = None  # type: ignore[assignment]

    ladder: Tensor = field(init=False, repr=False)
    """Inverse temperatures ``(R,)`` in float64, at equal ratios where none are given."""
    units: Tensor = field(init=False, repr=False)
    """Stretches ``(R,)`` in float64, ``beta^(-1/2)`` where none are given."""
    _inner: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_inner(self.kernel)
        self._take_over("full_mass")
        if self.target is _NOT_GIVEN:
            self._take_over("target")
        missing = ("step_size", "scale", "target_accept_prob")
        self._take_over(*(name for name in missing if getattr(self, name) is None))
        super().__post_init__()
        if self.betas is None:
            check_count("num_replicas", self.num_replicas, minimum=2)
            check_probability("smallest_beta", self.smallest_beta)
            ladder = geometric_betas(self.num_replicas, self.smallest_beta)
        else:
            ladder = check_betas(self.betas)
        given = self.stretches
        units = ladder.rsqrt() if given is None else check_stretches(given, ladder)
        kernel = dataclasses.replace(self.kernel, target=self.target)
        inner = dataclasses.replace(kernel, step_size=self.step_size, scale=self.scale)
        self._set(kernel=kernel, num_replicas=len(ladder), ladder=ladder, units=units, _inner=inner)

    @property
    def barrier(self) -> Tensor:
        """Sum of the rejection rates of all pairs of neighbours, NaN before warm-up."""
        if self.swap_rates is None:
            return torch.tensor(torch.nan)
        return (1.0 - self.swap_rates).sum()

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> ReplicaState:
        """State in which all replicas of a chain are at its position."""
        num_chains, num_replicas = len(position), self.num_replicas
        beta, stretch = self._at_each_chain(position)
        spread = position.unsqueeze(1) / stretch.unsqueeze(-1)
        replicated = TemperedPotential(potential, beta.flatten(), stretch.flatten())
        inner = self._inner.init(replicated, laid_out(spread.flatten(0, 1)), generator)
        none = torch.zeros_like(beta, dtype=torch.bool)
        zeros = torch.zeros_like(beta, dtype=torch.float64)
        first = none[:, 0].long()
        return ReplicaState(
            inner=by_chain(inner, num_chains),
            beta=beta,
            stretch=stretch,
            waiting=none,
            acceptance=zeros,
            diverging=none,
            swap_acceptance=zeros[:, 1:],
            replica=torch.arange(num_replicas, device=beta.device).expand(num_chains, -1),
            was_hottest=none,
            parity=first,
            num_steps=first,
        )

    def restart(self, state: ReplicaState, generator: torch.Generator | None) -> ReplicaState:
        beta, stretch = self._at_each_chain(state.position)
        everyone = torch.ones_like(state.waiting)
        inner = put_at(state.inner, everyone, tempered(points_of(state), beta, stretch))
        inner = self._inner.restart(flat(inner), generator)
        return state._replace(
            inner=by_chain(inner, len(beta)),
            beta=beta,
            stretch=stretch,
            waiting=torch.zeros_like(state.waiting),
            num_steps=torch.zeros_like(state.num_steps),
        )

    def noise(self, state: ReplicaState, generator: torch.Generator | None) -> ReplicaNoise:
        inner = self._inner.noise(flat(state.inner), generator)
        x, shape = state.swap_acceptance, state.swap_acceptance.shape
        swap = torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device)
        return ReplicaNoise(by_chain(inner, len(x)), swap)

    def step(
        self, potential: Potential, state: ReplicaState, noise: ReplicaNoise
    ) -> tuple[ReplicaState, ReplicaInfo]:
        known_step_size(self)
        moved, rates, step_size = self._moved_replicas(potential, state, noise)
        finished = moved.waiting.all(dim=-1)
        swapped = self._swapped(moved, finished, noise.swap)
        info = ReplicaInfo(
            finished=finished,
            step_acceptance=rates,
            lp=-swapped.potential_energy,
            acceptance_rate=coldest(moved.acceptance),
            step_size=step_size,
            diverging=coldest(moved.diverging),
            n_steps=moved.num_steps * self.num_replicas,
            swap_rate=swapped.swap_acceptance.mean(dim=-1),
            replica=coldest(swapped.replica),
            round_trip=finished & coldest(swapped.was_hottest),
        )
        return next_sweep(swapped, finished), info

    def adaptation(self) -> Adaptation[Any]:
        return LadderTuner(tunes_betas=self.betas is None, tunes_stretches=self.stretches is None)

    def _moved_replicas(
        self, potential: Potential, state: ReplicaState, noise: ReplicaNoise
    ) -> tuple[ReplicaState, Tensor, Tensor]:
        """One step of the inner kernel; the acceptance and the step size that it had."""
        replicated = TemperedPotential(potential, state.beta.flatten(), state.stretch.flatten())
        before = flat(state.inner)
        after, info = self._inner.step(replicated, before, flat(noise.inner))
        inner = held(state.waiting.flatten(), before, after)
        report = by_chain(info, len(state.beta))
        ends = report.finished & ~state.waiting
        moving = (~state.waiting).double()
        moved = state._replace(
            inner=by_chain(inner, len(state.beta)),
            waiting=state.waiting | ends,
            acceptance=torch.where(ends, report.acceptance_rate.double(), state.acceptance),
            diverging=torch.where(ends, report.diverging, state.diverging),
            num_steps=state.num_steps + 1,
        )
        rates = (report.step_acceptance * moving).sum(dim=-1) / moving.sum(dim=-1)
        return moved, rates, coldest(report.step_size)

    def _swapped(self, state: ReplicaState, finished: Tensor, uniform: Tensor) -> ReplicaState:
        """The replicas of finished chains, at their new places and on the kernel's ladder."""
        ends, points = finished.unsqueeze(-1), points_of(state)
        acceptance = swap_acceptance(state.beta, points.potential_energy)
        pair = torch.arange(acceptance.shape[1], device=acceptance.device)
        in_turn = pair % 2 == state.parity.unsqueeze(-1)
        source = sources(ends & in_turn & (uniform < acceptance))
        beta, stretch = self._at_each_chain(state.position)
        beta, stretch = choose(ends, beta, state.beta), choose(ends, stretch, state.stretch)
        is_new = source != torch.arange(source.shape[1], device=source.device)
        is_new = is_new | (beta != state.beta) | (stretch != state.stretch)
        taken = Point(*(taken_from(value, source) for value in points))
        return state._replace(
            inner=put_at(state.inner, is_new, tempered(taken, beta, stretch)),
            beta=beta,
            stretch=stretch,
            swap_acceptance=choose(ends, acceptance, state.swap_acceptance),
            replica=taken_from(state.replica, source),
            was_hottest=taken_from(state.was_hottest, source),
        )

    def _at_each_chain(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Betas and stretches ``(C, R)`` for positions ``(C, dim)``."""
        shape = (len(position), self.num_replicas)
        return self.ladder.to(position).expand(shape), self.units.to(position).expand(shape)

    def _take_over(self, *names: str) -> None:
        self._set(**{name: getattr(self.kernel, name) for name in names})

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _check_inner(kernel: object) -> None:
    if not isinstance(kernel, Recipe):
        raise ModelError(
            f"ReplicaExchange goes around a kernel, but it was given {kernel!r}: write "
            "ReplicaExchange(MALA(target)), with the target inside."
        )
    name = type(kernel).__name__
    if not kernel.is_adjusted or kernel.keeps_momentum:
        raise ModelError(
            f"{name} does not leave its law invariant by itself, so that swaps would not be exact: "
            "use MALA, HMC or NUTS inside ReplicaExchange."
        )
    if kernel.adaptation() is not None:
        raise ModelError(
            f"{name} tunes itself over chains that all have one law, and the replicas do not: "
            "use MALA, HMC or NUTS inside ReplicaExchange."
        )
    if "center" in kernel.moments:
        raise ModelError(
            f"{name} steps round the centre of one law, and each replica has its own: give it "
            "integrator=LEAPFROG or MCLACHLAN inside ReplicaExchange."
        )
