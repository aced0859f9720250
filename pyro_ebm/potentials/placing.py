"""Run a Pyro model with its latent sites placed at given values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials.enumeration import DrawnValues, Enumeration
from pyro_ebm.potentials.likelihoods import BERNOULLI_BY_SOFTPLUS
from pyro_ebm.potentials.observations import fill_masked
from pyro_ebm.potentials.replacing import Replacing
from pyro_ebm.potentials.sites import LatentSite, is_enumerated, is_latent, is_sampled, split
from pyro_ebm.potentials.supports import bijection_to
from pyro_ebm.potentials.validation import unvalidated, without_validation


class Placed(NamedTuple):
    """A model's execution at one point."""

    trace: Trace
    log_jacobian: Tensor | float
    transforms: dict[str, Transform]
    enumeration: Enumeration | None = None
    """The discrete sites that have all their values in this execution."""

    def potential_energy(self) -> Tensor:
        """Minus the log density of the unconstrained values: a scalar."""
        value: Tensor = -(self.log_density() + self.log_jacobian)
        return value

    def log_density(self) -> Tensor:
        """Log density of the constrained values, the discrete sites summed out: a scalar."""
        if self.enumeration is not None:
            return self.enumeration.log_density(self.trace)
        value: Tensor = self.trace.log_prob_sum()
        return value

    def rounding(self) -> Tensor:
        """Bound of the rounding error of the sum over all terms of the potential energy."""
        terms = [s["log_prob"] for s in self.trace.nodes.values() if s["type"] == "sample"]
        if isinstance(self.log_jacobian, Tensor):
            terms.append(self.log_jacobian)
        # What is impossible under some value of a discrete site carries no rounding.
        sizes = [term.detach().abs().masked_fill(term == -torch.inf, 0.0) for term in terms]
        bounds = [_precision(size) * size.sum() for size in sizes]
        # A term may be a number on the CPU.
        return sum((bound.double() for bound in bounds), torch.zeros_like(sizes[0].sum()))

    def explain_nonfinite(self) -> str:
        """Say which site's log density is not finite."""
        for name, site in self.trace.nodes.items():
            if site["type"] == "sample" and not math.isfinite(self._best(site)):
                return f"the log density of site {name!r} is {self._best(site)}"
        if self.enumeration is not None and not bool(torch.isfinite(self.log_density())):
            return f"no values of the discrete sites {list(self.enumeration.values)} are possible"
        return "the log density of every site is finite, but its Jacobian or gradient is not"

    def _best(self, site: dict[str, Any]) -> float:
        """Log density of a site, at its best under the values of discrete sites."""
        if self.enumeration is None:
            return float(site["log_prob_sum"])
        return float(self.enumeration.best_log_prob(site))


class _PlaceUnconstrained(Messenger):
    """Set latent sites from unconstrained values and sum up the log-Jacobians.

    The transform is the one of the support *in this execution*, so that supports that depend
    on other latent values are right.
    """

    def __init__(self, unconstrained: dict[str, Tensor], enumeration: Enumeration | None) -> None:
        super().__init__()
        self.unconstrained, self.enumeration = unconstrained, enumeration
        self.log_jacobian: Tensor | float = 0.0
        self.transforms: dict[str, Transform] = {}
        self._observed: set[str] = set()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["fn"] = without_validation(msg["fn"])
        if not is_latent(msg):
            self._observed.add(msg["name"])
            return
        self._make_proper(msg)
        if is_enumerated(msg):
            return
        unconstrained = _value_of(msg, self.unconstrained)
        transform = bijection_to(msg["fn"].support)
        msg["value"] = transform(unconstrained)
        msg["done"] = True
        _check_shape(msg, self.enumeration)
        self.transforms[msg["name"]] = transform
        jacobian = transform.log_abs_det_jacobian(unconstrained, msg["value"])
        self.log_jacobian = self.log_jacobian + jacobian.sum()

    def _make_proper(self, msg: dict[str, Any]) -> None:
        """Give all of an imputed site its density.

        With ``obs_mask`` Pyro also makes latent values where data are known. Nothing uses them,
        and masked they would be flat: chains would wander there for ever. With their density they
        are predictions, and the law of everything else is the same: a density to the power of a
        scale would not integrate to one, so that scales are for what is not known.
        """
        name, suffix, _ = msg["name"].rpartition("_unobserved")
        if suffix and f"{name}_observed" in self._observed and msg["mask"] is not None:
            is_unknown, msg["mask"] = msg["mask"], None
            if isinstance(msg["scale"], Tensor) or msg["scale"] != 1.0:
                like = next(iter(self.unconstrained.values()))
                scale = torch.as_tensor(msg["scale"], dtype=like.dtype, device=like.device)
                is_unknown = torch.as_tensor(is_unknown, device=like.device)
                msg["scale"] = torch.where(is_unknown, scale, torch.ones_like(scale))


class _PlaceConstrained(Messenger):
    """Set latent sites to values and note the unconstrained ones."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.unconstrained: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["fn"] = without_validation(msg["fn"])
        if is_sampled(msg):
            msg["value"] = _value_of(msg, self.values)
            msg["done"] = True
            transform = bijection_to(msg["fn"].support)
            self.unconstrained[msg["name"]] = transform.inv(msg["value"])


class PlacedModel:
    """A model with its arguments, executable at any point; picklable if the model is.

    Args:
        model: A callable in Pyro syntax.
        args: Its arguments.
        kwargs: Its keyword arguments.
        enumeration: The discrete sites to sum out, if there are any.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        enumeration: Enumeration | None = None,
    ) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.enumeration = enumeration

    def at(self, q: Tensor, sites: tuple[LatentSite, ...]) -> Placed:
        """Execute at the unconstrained position ``(dim,)`` with all values of discrete sites."""
        if self.enumeration is None:
            return self.fixed_at(q, sites)
        return self._placed(q, sites, self.enumeration.trying_all(), self.enumeration)

    def fixed_at(self, q: Tensor, sites: tuple[LatentSite, ...], *, tracks: bool = False) -> Placed:
        """The same with one value of each discrete site, whose effects may be tracked."""
        return self._placed(q, sites, self._fixing(tracks=tracks), None)

    def unconstrained_at(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unconstrained values of a full set of constrained ones, by name."""
        placer = _PlaceConstrained(values)
        self._trace(placer, self._fixing(tracks=False))
        return placer.unconstrained

    def run(self) -> Trace:
        """Execute under the handlers that are active now, discrete sites drawn at random."""
        with DrawnValues():
            return poutine.trace(self.model).get_trace(*self.args, **self.kwargs)

    def _placed(
        self,
        q: Tensor,
        sites: tuple[LatentSite, ...],
        discrete: Messenger,
        enumeration: Enumeration | None,
    ) -> Placed:
        placer = _PlaceUnconstrained(split(q, sites), enumeration)
        trace = self._trace(placer, discrete)
        _check_all_placed(placer.transforms, sites)
        return Placed(trace, placer.log_jacobian, placer.transforms, enumeration)

    def _fixing(self, *, tracks: bool) -> Messenger:
        return Messenger() if self.enumeration is None else self.enumeration.fixing(tracks=tracks)

    def _trace(self, placer: Messenger, discrete: Messenger) -> Trace:
        likelihoods = Replacing(BERNOULLI_BY_SOFTPLUS)
        with poutine.block(), unvalidated(), likelihoods, _own_errors(), placer, discrete:
            trace = poutine.trace(self.model).get_trace(*self.args, **self.kwargs)
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


def _check_shape(msg: dict[str, Any], enumeration: Enumeration | None) -> None:
    batch_shape, event_shape = msg["fn"].batch_shape, msg["fn"].event_shape
    if enumeration is not None:
        _check_fixed_batch(msg, enumeration)
        return
    wanted = torch.Size(batch_shape + event_shape)
    if msg["value"].shape != wanted:
        raise ModelError(
            f"the latent site {msg['name']!r} had shape {tuple(msg['value'].shape)} when the model "
            f"was first run, but has shape {tuple(wanted)} at other latent values, so the density "
            "has no fixed dimension: keep the shapes fixed."
        )


def _check_fixed_batch(msg: dict[str, Any], enumeration: Enumeration) -> None:
    """The law of a site may depend on discrete ones, but not its support or its shape."""
    value, event_dim = msg["value"], msg["fn"].event_dim
    own = msg["fn"].batch_shape[enumeration.first_dim + 1 :] if enumeration.first_dim < -1 else ()
    wanted = _without_leading_ones(own) + tuple(msg["fn"].event_shape)
    split_at = value.ndim - event_dim
    has = _without_leading_ones(value.shape[:split_at]) + tuple(value.shape[split_at:])
    if has != wanted:
        raise ModelError(
            f"the latent site {msg['name']!r} has shape {has} for single values of the discrete "
            f"sites {list(enumeration.values)} and {wanted} when all are tried at once: its shape "
            f"or its support, {msg['fn'].support}, depends on them, so the density has no fixed "
            "dimension or domain. Keep both fixed, or condition on the discrete site."
        )


def _without_leading_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(dropwhile(lambda size: size == 1, shape))
