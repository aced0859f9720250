"""Annealed Langevin dynamics: down a ladder of noise levels, one anneal for each draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_ebm.core.checks import ModelError, StepSizeError, check_count
from pyro_ebm.core.noise import normal_of, normal_or_seed
from pyro_ebm.core.positions import choose, select
from pyro_ebm.core.types import Adaptation, Potential
from pyro_ebm.kernels._annealing import (
    AnnealedState,
    Stage,
    at_level,
    check_levels,
    is_conditional,
)
from pyro_ebm.kernels._metric import Metric
from pyro_ebm.kernels._metropolis import LangevinState, langevin_init
from pyro_ebm.kernels._recipe import known_step_size, step_and_metric
from pyro_ebm.kernels._tempered import (
    TemperedInfo,
    TemperedMove,
    TemperedNoise,
    TemperedRecipe,
    drifted,
    tempered_move,
)

_NOISE_LEVELS = tuple(round(0.01 ** (i / 9), 6) for i in range(10))
"""From 1 to 0.01 in equal ratios, as in the paper."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnealedLangevin(TemperedRecipe):
    r"""Langevin dynamics down a ladder of noise levels: biased, one anneal for each draw.

    For the levels :math:`\sigma_1 > \dots > \sigma_K`, a number of steps each,

    .. math:: x' = \mathrm{clip}_b\Bigl\{x - \frac{\alpha_i}{2}\, C\,
              \mathrm{clip}_c(\nabla U_{\sigma_i}(x)) + \sqrt{\alpha_i T}\, L \xi\Bigr\},
              \qquad \alpha_i = \alpha\, \sigma_i^2 / \sigma_K^2,

    with :math:`\alpha` (``step_size``), :math:`s = \sqrt{\alpha T}`, :math:`T` and the clips as
    in :class:`SGLD`. What :math:`U_\sigma` is depends on the target:

    - a ``NoiseConditionalPotential`` is evaluated at each level, :math:`U_\sigma = E(x, \sigma)`,
      minus the log density of data with noise of that size, as denoising score matching
      learns it;
    - any other target is tempered, :math:`U_\sigma = U\, \sigma_K^2 / \sigma^2`: the drift is
      the same at all levels and the noise cools to that of the target.

    **It is no sampler of the model unless each level has equilibrated**, and nothing reports
    whether it has. With :math:`E(x, \sigma) = x^2 / 2 (S + \sigma^2)` the variance obeys
    :math:`v \leftarrow (1 - \alpha_i / 2 (S + \sigma_i^2))^2 v + \alpha_i`: for
    :math:`S = 0.5`, levels 1, 0.3, 0.1 of 50 steps, :math:`\alpha = 0.002` and a start of
    variance 4 it is 0.749 at the end, where 0.51 is right.

    A draw is the end of one complete anneal. The first begins where the chains are put, each of
    the others at a fresh :math:`N(0, \sigma_1^2 C)`, so that draws do not depend on each other and
    warm-up is of no use: ``MCMC`` makes none by default. One step is one gradient of every chain;
    :attr:`num_steps` of them make a draw, since coming to a level takes one too. In an
    objective or an ``EnergyDistribution`` give that number of steps, or chains return no draw.

    ``acceptance_rate`` is the mean over the moves of the acceptance that a Metropolis test for
    :math:`e^{-U_\sigma / T}` would have had; no test is made, and no step size is tuned. A
    move to a non-finite energy is not made; ``diverging`` says whether any move of the anneal
    was such a one.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`\alpha`, of the last level; it must be given.
        scale: :math:`L`, standard deviations or a Cholesky factor; None for none, but for
            warm-up, which estimates it.
        target_accept_prob: Of no use here.
        noise_scale: :math:`s`, of the last level; by default :math:`\sqrt{\alpha T}`.
        temperature: :math:`T`, in place of ``noise_scale``; by default 1.
        grad_clip: :math:`c`, largest size of each element of the gradient of :math:`U_\sigma`.
        position_bounds: Least and largest value of each unconstrained coordinate.
        noise_levels: :math:`\sigma_1 > \dots > \sigma_K`; by default ten in equal ratios from
            1 to 0.01.
        steps_per_level: Langevin moves at each level.
        denoise: Whether to end with :math:`x - \sigma_K^2 \nabla E(x, \sigma_K)`, the mean of
            the data behind a noisy point (Tweedie); for noise-conditional targets.

    Raises:
        ValueError: If the levels do not fall, both noise and temperature are given, or a number
            is out of range.
        StepSizeError: In warm-up, if the step size is open.
        ModelError: In ``init``, if a noise-conditional target has another last level, or if
            a target of one level shall be denoised.

    References:
        Song and Ermon (2019), Generative modeling by estimating gradients of the data
        distribution, algorithm 1; Li, Chen and Sommer (2019), Learning energy-based models in
        high-dimensional spaces with multi-scale denoising score matching (tempering).

    >>> AnnealedLangevin(step_size=0.1, noise_levels=(3.0, 1.0), steps_per_level=20).num_steps
    42
    """

    shortest_warmup: ClassVar[int] = 0

    noise_levels: tuple[float, ...] = _NOISE_LEVELS
    steps_per_level: int = 100
    denoise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps_per_level", self.steps_per_level)
        check_levels(self.noise_levels)

    @property
    def num_steps(self) -> int:
        """Steps, which is gradients, that one anneal takes."""
        return len(self.noise_levels) * (self.steps_per_level + 1) + self.denoise

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> AnnealedState:
        del generator
        self._check_levels_of(potential)
        levels = position.new_tensor(self.noise_levels).expand(len(position), -1)
        first = at_level(potential, levels[:, 0], levels[:, -1])
        draw = langevin_init(potential, position)
        walker = LangevinState(position, *first.value_and_grad(position))
        return self._begun(draw, walker, first_stage=1)

    def restart(self, state: Any, generator: torch.Generator | None) -> Any:
        del generator
        return self._begun(state.draw, state.walker, first_stage=0)

    def adaptation(self) -> Adaptation[Any] | None:
        if self.step_size is None:
            raise StepSizeError(
                "AnnealedLangevin has no step size, and warm-up cannot tune one: the chains are "
                "not in equilibrium at any level. Give it one, as in "
                "AnnealedLangevin(step_size=2e-5), and run it with warmup_steps=0."
            )
        return None

    def noise(self, state: AnnealedState, generator: torch.Generator | None) -> TemperedNoise:
        return TemperedNoise(normal_or_seed(state.walker.position, generator))

    def step(
        self, potential: Potential, state: AnnealedState, noise: TemperedNoise
    ) -> tuple[AnnealedState, TemperedInfo]:
        step_size, metric = step_and_metric(self, state.position)
        stage = self._stage(state, step_size)
        normal = normal_of(noise.normal, state.walker.position)
        position = self._position(state, stage, normal, metric)
        target = at_level(potential, stage.noise_level, state.noise_levels[:, -1])
        move = tempered_move(self, target, state.walker, position, stage.stride, metric)
        moved = _moved(state, stage, move)
        info = self._info(moved, stage, move)
        return _next_stage(moved, stage.finishes), info

    def _stage(self, state: AnnealedState, step_size: float) -> Stage:
        stage, length = state.stage, self.steps_per_level + 1
        num_levels = len(self.noise_levels)
        level = (stage // length).clamp(max=num_levels - 1)
        noise_level = state.noise_levels.gather(1, level.unsqueeze(-1))
        return Stage(
            noise_level=noise_level.squeeze(-1),
            stride=step_size * (noise_level / state.noise_levels[:, -1:]).square(),
            starts=stage == 0,
            moves=stage % length != 0,
            denoises=stage == num_levels * length,
            finishes=stage == self.num_steps - 1,
            num_moves=(stage - level).clamp(1, num_levels * self.steps_per_level),
        )

    def _position(
        self, state: AnnealedState, stage: Stage, normal: Tensor, metric: Metric
    ) -> Tensor:
        """Where the chains go, bounds aside: those that come to a new level stay."""
        walker, noise_level = state.walker, stage.noise_level.unsqueeze(-1)
        moved = drifted(self, walker, normal, stage.stride, metric)
        position = choose(stage.moves, moved, walker.position)
        if self.denoise:
            denoised = walker.position - noise_level.square() * walker.grad
            position = choose(stage.denoises, denoised, position)
        return choose(stage.starts, metric.to_position(noise_level * normal), position)

    def _info(self, state: AnnealedState, stage: Stage, move: TemperedMove) -> TemperedInfo:
        diverging = _diverges(stage, move)
        return TemperedInfo(
            finished=stage.finishes,
            step_acceptance=move.acceptance.masked_fill(~stage.moves, 1.0),
            lp=-state.potential_energy,
            acceptance_rate=state.acceptance_sum / stage.num_moves,
            step_size=torch.zeros_like(move.acceptance) + known_step_size(self),
            diverging=diverging | (stage.finishes & state.has_diverged),
            temperature=torch.full_like(move.acceptance, self.effective_temperature),
        )

    def _begun(self, draw: LangevinState, walker: LangevinState, first_stage: int) -> AnnealedState:
        none = torch.zeros_like(draw.potential_energy, dtype=torch.float64)
        levels = draw.position.new_tensor(self.noise_levels)
        return AnnealedState(
            draw=draw,
            walker=walker,
            noise_levels=levels.expand(len(draw.position), -1),
            stage=torch.full_like(none, first_stage, dtype=torch.int64),
            acceptance_sum=none,
            has_diverged=torch.zeros_like(none, dtype=torch.bool),
        )

    def _check_levels_of(self, potential: object) -> None:
        last = self.noise_levels[-1]
        if is_conditional(potential) and potential.noise_level != last:
            raise ModelError(
                f"noise_levels of AnnealedLangevin end at {last!r}, but the target is the law at "
                f"noise level {potential.noise_level!r}: give it noise_level={last!r}."
            )
        if self.denoise and not is_conditional(potential):
            raise ModelError(
                f"denoise=True, but {potential!r} knows of no noise that could be taken away: give "
                "a NoiseConditionalPotential, or denoise=False."
            )


def _diverges(stage: Stage, move: TemperedMove) -> Tensor:
    # Where the level changes, energies are of two levels and cannot be compared.
    return torch.where(stage.moves, move.diverging, ~move.finite)


def _moved(state: AnnealedState, stage: Stage, move: TemperedMove) -> AnnealedState:
    """The chains after the step; those whose anneal is complete have a new draw."""
    # A start or level without finite energy is kept: nothing known is left to fall back to.
    is_made = move.finite | ~(stage.moves | stage.denoises)
    walker = select(is_made, move.end, state.walker)
    return state._replace(
        draw=select(stage.finishes, walker, state.draw),
        walker=walker,
        acceptance_sum=state.acceptance_sum + move.acceptance * stage.moves,
        has_diverged=state.has_diverged | _diverges(stage, move),
    )


def _next_stage(state: AnnealedState, finishes: Tensor) -> AnnealedState:
    return state._replace(
        stage=(state.stage + 1).masked_fill(finishes, 0),
        acceptance_sum=state.acceptance_sum.masked_fill(finishes, 0.0),
        has_diverged=state.has_diverged & ~finishes,
    )
