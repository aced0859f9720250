"""Run a Pyro model with its latent sites placed at given values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from pyro_ebm.potentials.sites import LatentSite, is_latent, split
from pyro_ebm.potentials.tracing import unvalidated


class Placed(NamedTuple):
    """A model's execution at one point."""

    trace: Trace
    log_jacobian: Tensor | float
    transforms: dict[str, Transform]

    def potential_energy(self) -> Tensor:
        """Minus the log density of the unconstrained values: a scalar."""
        value: Tensor = -(self.trace.log_prob_sum() + self.log_jacobian)
        return value


class _PlaceUnconstrained(Messenger):
    """Set latent sites from unconstrained values and sum up the log-Jacobians.

    The transform is the one of the support *in this execution*, so that supports that depend
    on other latent values are right.
    """

    def __init__(self, unconstrained: dict[str, Tensor]) -> None:
        super().__init__()
        self.unconstrained = unconstrained
        self.log_jacobian: Tensor | float = 0.0
        self.transforms: dict[str, Transform] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not is_latent(msg):
            return
        transform = biject_to(msg["fn"].support)
        unconstrained = self.unconstrained[msg["name"]]
        msg["value"] = transform(unconstrained)
        msg["done"] = True
        self.transforms[msg["name"]] = transform
        jacobian = transform.log_abs_det_jacobian(unconstrained, msg["value"])
        self.log_jacobian = self.log_jacobian + jacobian.sum()


class _PlaceConstrained(Messenger):
    """Set latent sites to values and note the unconstrained ones."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.unconstrained: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_latent(msg):
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True
            transform = biject_to(msg["fn"].support)
            self.unconstrained[msg["name"]] = transform.inv(msg["value"])


class PlacedModel:
    """A model with its arguments, executable at any point; picklable if the model is."""

    def __init__(
        self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs

    def at(self, q: Tensor, sites: tuple[LatentSite, ...]) -> Placed:
        """Execute at the unconstrained position ``(dim,)``."""
        placer = _PlaceUnconstrained(split(q, sites))
        trace = self._trace(placer)
        return Placed(trace, placer.log_jacobian, placer.transforms)

    def unconstrained_at(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unconstrained values of a full set of constrained ones, by name."""
        placer = _PlaceConstrained(values)
        self._trace(placer)
        return placer.unconstrained

    def run(self) -> Trace:
        """Execute under the handlers that are active now."""
        return poutine.trace(self.model).get_trace(*self.args, **self.kwargs)

    def _trace(self, placer: Messenger) -> Trace:
        with poutine.block(), unvalidated(), placer:
            trace = self.run()
            trace.compute_log_prob()
            return trace
