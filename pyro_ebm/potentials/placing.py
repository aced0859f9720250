"""Run a Pyro model with its latent sites placed at given values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials.observations import fill_masked
from pyro_ebm.potentials.sites import LatentSite, is_latent, split
from pyro_ebm.potentials.supports import bijection_to
from pyro_ebm.potentials.tracing import unvalidated, without_validation


class Placed(NamedTuple):
    """A model's execution at one point."""

    trace: Trace
    log_jacobian: Tensor | float
    transforms: dict[str, Transform]

    def potential_energy(self) -> Tensor:
        """Minus the log density of the unconstrained values: a scalar."""
        value: Tensor = -(self.trace.log_prob_sum() + self.log_jacobian)
        return value

    def rounding(self) -> Tensor:
        """Bound of the rounding error of the sum over all terms of the potential energy."""
        terms = [s["log_prob"] for s in self.trace.nodes.values() if s["type"] == "sample"]
        terms.append(torch.as_tensor(self.log_jacobian))
        bounds = [_precision(term) * term.detach().abs().sum() for term in terms]
        return torch.stack([bound.double() for bound in bounds]).sum()


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
        self._observed: set[str] = set()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["fn"] = without_validation(msg["fn"])
        if not is_latent(msg):
            self._observed.add(msg["name"])
            return
        self._make_proper(msg)
        unconstrained = _value_of(msg, self.unconstrained)
        transform = bijection_to(msg["fn"].support)
        msg["value"] = transform(unconstrained)
        msg["done"] = True
        _check_shape(msg)
        self.transforms[msg["name"]] = transform
        jacobian = transform.log_abs_det_jacobian(unconstrained, msg["value"])
        self.log_jacobian = self.log_jacobian + jacobian.sum()

    def _make_proper(self, msg: dict[str, Any]) -> None:
        """Give all of an imputed site its density.

        With ``obs_mask`` Pyro also makes latent values where data are known. Nothing uses them,
        and masked they would be flat: chains would wander there for ever. With their density they
        are predictions, and the law of everything else is the same.
        """
        name, suffix, _ = msg["name"].rpartition("_unobserved")
        if suffix and f"{name}_observed" in self._observed:
            msg["mask"] = None


class _PlaceConstrained(Messenger):
    """Set latent sites to values and note the unconstrained ones."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.unconstrained: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["fn"] = without_validation(msg["fn"])
        if is_latent(msg):
            msg["value"] = _value_of(msg, self.values)
            msg["done"] = True
            transform = bijection_to(msg["fn"].support)
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
        _check_all_placed(placer.transforms, sites)
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
        with poutine.block(), unvalidated(), _own_errors(), placer:
            trace = self.run()
            fill_masked(trace)
            trace.compute_log_prob()
            return trace


def _precision(term: Tensor) -> float:
    """A hundred last bits, since sums are over many numbers and in another order when batched.

    In double precision it is 1e-6: far below what any branch of a model changes, and far above
    the errors of factors of matrices.
    """
    return max(1e-6, 100.0 * torch.finfo(term.dtype).eps)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Let our errors through as they are: Pyro wraps them in a list of all shapes."""
    try:
        yield
    except ValueError as error:
        if isinstance(error.__cause__, ModelError):
            raise error.__cause__ from None
        raise


def _value_of(msg: dict[str, Any], values: dict[str, Tensor]) -> Tensor:
    if msg["name"] not in values:
        raise ModelError(
            f"the latent site {msg['name']!r} was not there when the model was first run, but is "
            "at other latent values: make it a site of every execution, for instance by "
            "multiplying its effect by an indicator."
        )
    return values[msg["name"]]


def _check_all_placed(placed: dict[str, Transform], sites: tuple[LatentSite, ...]) -> None:
    missing = [site.name for site in sites if site.name not in placed]
    if missing:
        raise ModelError(
            f"the latent sites {missing} were there when the model was first run, but are not at "
            "other latent values, so the density has no fixed dimension: make them sites of every "
            "execution."
        )


def _check_shape(msg: dict[str, Any]) -> None:
    wanted = torch.Size(msg["fn"].batch_shape + msg["fn"].event_shape)
    if msg["value"].shape != wanted:
        raise ModelError(
            f"the latent site {msg['name']!r} had shape {tuple(msg['value'].shape)} when the model "
            f"was first run, but has shape {tuple(wanted)} at other latent values, so the density "
            "has no fixed dimension: keep the shapes fixed."
        )
