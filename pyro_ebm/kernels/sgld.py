"""Stochastic gradient Langevin dynamics as energy-based models are trained with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.core.checks import StepSizeError
from pyro_ebm.core.noise import normal_of, normal_or_seed
from pyro_ebm.core.positions import select
from pyro_ebm.core.types import Potential
from pyro_ebm.kernels._metropolis import LangevinState, langevin_init
from pyro_ebm.kernels._recipe import step_and_metric
from pyro_ebm.kernels._tempered import (
    TemperedInfo,
    TemperedNoise,
    TemperedRecipe,
    drifted,
    tempered_move,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class SGLD(TemperedRecipe):
    r"""Langevin dynamics with step, noise and clips of one's choice: biased, in several ways.

    .. math:: x' = \mathrm{clip}_b\Bigl\{x - \frac\alpha2 C\, \mathrm{clip}_c(\nabla U(x))
              + s L \xi\Bigr\}, \qquad C = L L^\top, \quad \xi \sim N(0, I)

    Mind the convention: ``step_size`` is :math:`\alpha`, the factor of the *drift*, as in the
    literature on energy-based models; :class:`Langevin` takes the standard deviation of the
    noise, :math:`\epsilon = \sqrt\alpha`. So ``SGLD(step_size=0.01)`` is
    ``Langevin(step_size=0.1)``.

    What it targets is not :math:`e^{-U}` but, up to a bias of order :math:`\alpha`,
    :math:`e^{-U / T}` with the effective temperature :math:`T = s^2 / \alpha`, which is shown
    by ``repr``, is the attribute ``effective_temperature``, and is stored with every draw as
    ``temperature``. On a Gaussian of precision :math:`\Lambda` the variance is
    :math:`s^2 / (\alpha \Lambda (1 - \alpha \Lambda / 4))`. The recipes in use are very cold:
    :math:`x - 10 \nabla U + 0.005\, \xi` is ``SGLD(step_size=20.0, noise_scale=0.005)``, at
    :math:`T = 1.25 \cdot 10^{-6}`, hardly more than gradient descent.

    Clips move the law further. In one dimension, and where :math:`U` is a sum over coordinates
    and :math:`C` is diagonal, clipped gradients are those of a Huberised potential, linear where
    the gradient is larger than :math:`c`, whose tails are heavier: on a standard Gaussian with
    :math:`c = 0.5` the variance is 8.08. Elsewhere the clipped field is no gradient and no law
    is known. Bounds are a projection: probability mass piles up on the boundary. With gradients
    of mini-batches, whose variance is :math:`V`, the noise grows by :math:`\alpha^2 V / 4`.

    A move to a non-finite energy is not made and is flagged as diverging, as are energy errors
    above 1000, which do not depend on :math:`T`.

    ``acceptance_rate`` is the probability with which a Metropolis test for
    :math:`e^{-U / T}` inside the bounds *would* accept the move (zero for one that ends on the
    boundary). Warm-up tunes it to ``target_accept_prob``; with a ``noise_scale``, which makes the
    temperature depend on the step size, or with clips, which leave another law that the test knows
    nothing of, the step size must be given.

    Args:
        target: What to sample, or None for a recipe.
        step_size: :math:`\alpha`; None to have warm-up tune it.
        scale: :math:`L`, standard deviations or a Cholesky factor; None to have warm-up estimate
            it, and for no preconditioning where there is no warm-up, as in objectives.
        target_accept_prob: Would-be acceptance that warm-up tunes to.
        noise_scale: :math:`s`; by default :math:`\sqrt{\alpha T}`.
        temperature: :math:`T`, in place of ``noise_scale``; by default 1.
        grad_clip: :math:`c`, largest size of each element of the gradient.
        position_bounds: Least and largest value of each unconstrained coordinate.

    Raises:
        ValueError: If both noise and temperature are given, or a number is out of range.
        StepSizeError: If the step size is open where it cannot be tuned.

    References:
        Welling and Teh (2011), Bayesian learning via stochastic gradient Langevin dynamics;
        Du and Mordatch (2019), Implicit generation and modeling with energy-based models (noise
        and clips as they are used).

    >>> kernel = SGLD(step_size=0.1, noise_scale=0.05, position_bounds=(0.0, 1.0))
    >>> round(kernel.effective_temperature, 6)
    0.025
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is None and (self.grad_clip or self.position_bounds):
            raise StepSizeError(
                "SGLD has clips and no step_size: with clips the law is not exp(-U / T), so that "
                "no acceptance tells how large a step may be: give step_size, or no clips."
            )

    def init(
        self, potential: Potential, position: Tensor, generator: torch.Generator | None = None
    ) -> LangevinState:
        del generator
        return langevin_init(potential, position)

    def noise(self, state: LangevinState, generator: torch.Generator | None) -> TemperedNoise:
        return TemperedNoise(normal_or_seed(state.position, generator))

    def step(
        self, potential: Potential, state: LangevinState, noise: TemperedNoise
    ) -> tuple[LangevinState, TemperedInfo]:
        step_size, metric = step_and_metric(self, state.position)
        normal = normal_of(noise.normal, state.position)
        position = drifted(self, state, normal, step_size, metric)
        move = tempered_move(self, potential, state, position, step_size, metric)
        state = select(move.finite, move.end, state)
        return state, TemperedInfo(
            finished=torch.ones_like(move.finite),
            step_acceptance=move.acceptance,
            lp=-state.potential_energy,
            acceptance_rate=move.acceptance,
            step_size=torch.zeros_like(move.acceptance) + step_size,
            diverging=move.diverging,
            temperature=torch.full_like(move.acceptance, self.effective_temperature),
        )
