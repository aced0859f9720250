"""Pyro's own NUTS and HMC with the per-draw statistics that ArviZ wants."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pyro.infer import HMC, NUTS
from torch import Tensor

RECORD = "record"
"""Key of a kernel's ``diagnostics()`` under which its :class:`ChainRecord` travels.

Only ``diagnostics()`` crosses the process boundary of ``pyro.infer.MCMC``.
"""

Statistics = dict[str, np.ndarray[Any, Any]]


class ChainRecord(NamedTuple):
    """What one chain of ``pyro.infer.MCMC`` has recorded; arrays, so that it pickles."""

    stats: Statistics
    """Per-draw statistics ``(draw,)`` under ArviZ's names."""
    warmup_stats: Statistics | None
    """The same for the steps of warm-up, if they were kept."""
    warmup_params: Statistics | None
    """Unconstrained values ``(draw, *event)`` by site of the steps of warm-up."""


class DrawRecorder:
    """Collects the draws of one chain, warm-up apart.

    Args:
        warmup_steps: Number of steps that come before the draws.
        saves_warmup: Whether to keep these steps.

    >>> recorder = DrawRecorder(warmup_steps=1, saves_warmup=False)
    >>> for lp in (-3.0, -2.0, -1.0):
    ...     recorder.add({"lp": lp}, {})
    >>> recorder.record().stats["lp"].tolist()
    [-2.0, -1.0]
    """

    def __init__(self, warmup_steps: int, *, saves_warmup: bool) -> None:
        self._warmup_left = warmup_steps
        self._stats: list[dict[str, Any]] = []
        self._warmup_stats: list[dict[str, Any]] | None = [] if saves_warmup else None
        self._warmup_params: list[dict[str, Tensor]] = []

    def add(self, stats: dict[str, Any], params: dict[str, Tensor]) -> None:
        """Take in one step: its statistics, and the unconstrained values by site."""
        if self._warmup_left == 0:
            self._stats.append(stats)
            return
        self._warmup_left -= 1
        if self._warmup_stats is not None:
            self._warmup_stats.append(stats)
            self._warmup_params.append({k: v.detach().clone() for k, v in params.items()})

    def record(self) -> ChainRecord:
        """Everything so far, as arrays."""
        if self._warmup_stats is None:
            return ChainRecord(_stacked(self._stats), None, None)
        params = [{k: v.cpu().numpy() for k, v in row.items()} for row in self._warmup_params]
        return ChainRecord(_stacked(self._stats), _stacked(self._warmup_stats), _stacked(params))


class RecordingHMC(HMC):
    r"""``pyro.infer.HMC`` that keeps the statistics of each draw.

    Sampling is Pyro's own, draw for draw; the record is in ``diagnostics()`` and is read by
    ``to_arviz`` and ``mixing_report``. Recorded are ``lp`` (log density of the draw in
    unconstrained space), ``energy`` (:math:`U(q) + K(p)` at the start of the trajectory, after
    the momentum was drawn), ``acceptance_rate``, ``step_size``, ``n_steps`` and ``diverging``
    (which Pyro notes after warm-up only, so it is missing in the record of warm-up).

    Args:
        *args: As of ``pyro.infer.HMC``.
        save_warmup: Keep the steps of warm-up too.
        **kwargs: As of ``pyro.infer.HMC``.

    >>> from pyro.infer import MCMC
    >>> from pyro_ebm.energies import QuarticEnergy
    >>> from pyro_ebm.potentials import as_potential_fn
    >>> start = as_potential_fn(QuarticEnergy(), num_chains=1)
    >>> kernel = RecordingHMC(potential_fn=start.potential_fn, num_steps=3)
    >>> mcmc = MCMC(kernel, 5, initial_params=start.initial_params, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.diagnostics()["record"]["chain 0"].stats["energy"].shape
    (5,)
    """

    def __init__(self, *args: Any, save_warmup: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_warmup = save_warmup
        self._kinetic: float | None = None

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        super().setup(warmup_steps, *args, **kwargs)
        self._recorder = DrawRecorder(warmup_steps, saves_warmup=self.save_warmup)

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        self._kinetic = None
        potential_energy = float(self._potential_energy_last)
        step_size, num_steps = float(self.step_size), self.num_steps
        mean, divergences = self._mean_accept_prob, len(self._divergences)
        is_warmup = self._t < self._warmup_steps
        params = super().sample(params)
        stats = {
            "lp": -float(self._potential_energy_last),
            "energy": potential_energy + (self._kinetic or 0.0),
            "acceptance_rate": self._last_acceptance(mean),
            "step_size": step_size,
            **self._path_statistics(num_steps),
        }
        if not is_warmup:
            stats["diverging"] = len(self._divergences) > divergences
        self._recorder.add(stats, params)
        return params

    def diagnostics(self) -> dict[str, Any]:
        diagnostics: dict[str, Any] = super().diagnostics()
        return diagnostics | {RECORD: self._recorder.record()}

    def _sample_r(self, name: str) -> tuple[dict[Any, Tensor], dict[Any, Tensor]]:
        momentum, unscaled = super()._sample_r(name)
        # Later momenta of the same step belong to Pyro's search for a step size.
        if self._kinetic is None:
            self._kinetic = float(self._kinetic_energy(unscaled))
        return momentum, unscaled

    def _path_statistics(self, num_steps: int) -> dict[str, Any]:
        return {"n_steps": num_steps}

    def _last_acceptance(self, mean_before: float) -> float:
        """The last term of Pyro's running mean, which restarts with the first draw."""
        is_drawing = self._t > self._warmup_steps
        count = self._t - self._warmup_steps if is_drawing else self._t
        if count == 1:
            return float(self._mean_accept_prob)
        last = mean_before + count * (self._mean_accept_prob - mean_before)
        return float(min(max(last, 0.0), 1.0))


class RecordingNUTS(RecordingHMC, NUTS):
    """``pyro.infer.NUTS`` that keeps the statistics of each draw.

    As :class:`RecordingHMC`, and ``tree_depth`` (number of completed doublings),
    ``reached_max_treedepth``, and ``diverging`` in warm-up too. ``n_steps`` counts leapfrog
    steps.

    Args:
        *args: As of ``pyro.infer.NUTS``.
        save_warmup: Keep the steps of warm-up too.
        **kwargs: As of ``pyro.infer.NUTS``.

    >>> import pyro
    >>> def model():
    ...     pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
    >>> mcmc = pyro.infer.MCMC(RecordingNUTS(model), num_samples=5, disable_progbar=True)
    >>> mcmc.run()
    >>> sorted(mcmc.diagnostics()["record"]["chain 0"].stats)
    ['acceptance_rate', 'diverging', 'energy', 'lp', 'n_steps', 'reached_max_treedepth', \
'step_size', 'tree_depth']
    """

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        self._leapfrogs, self._depth, self._tree_diverged = 0, 0, False
        moved: dict[str, Tensor] = super().sample(params)
        return moved

    def _build_tree(  # noqa: PLR0913, PLR0917  # Pyro's signature
        self,
        z: Any,
        r: Any,
        z_grads: Any,
        log_slice: Any,
        direction: int,
        tree_depth: int,
        energy_current: Any,
    ) -> Any:
        tree = super()._build_tree(z, r, z_grads, log_slice, direction, tree_depth, energy_current)
        # The recursion ends with the whole tree, so its values are the ones that stay.
        is_complete = not (tree.turning or tree.diverging)
        self._leapfrogs += tree_depth == 0
        self._depth = tree_depth + is_complete
        self._tree_diverged = bool(tree.diverging)
        return tree

    def _path_statistics(self, num_steps: int) -> dict[str, Any]:
        del num_steps
        return {
            "n_steps": self._leapfrogs,
            "tree_depth": self._depth,
            "reached_max_treedepth": self._depth >= self._max_tree_depth,
            "diverging": self._tree_diverged,
        }


def _stacked(rows: list[dict[str, Any]]) -> Statistics:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}
