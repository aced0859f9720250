r"""Discrete sites of a Pyro model, summed out exactly.

Every value of a site with ``infer={"enumerate": "parallel"}`` is tried in one execution, along an
axis of its own to the left of all plates, and the log densities of all sites are contracted by
Pyro's plated variable elimination:

.. math:: \log p(x, z) = \log \sum_k p(x, z, k).

Pyro's own handler and its operations in log space cannot be batched over chains; these can.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.ops.provenance import track_provenance
from pyro.ops.rings import LogRing
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_ebm.core.checks import ModelError
from pyro_ebm.potentials.sites import is_deterministic, is_enumerated


@dataclass(frozen=True)
class Enumeration:
    """The discrete sites of a model that are summed out.

    Args:
        values: One value of each site, as in the first execution.
        first_dim: The first axis that neither plates nor batches use, counted from the right.
    """

    values: dict[str, Tensor]
    first_dim: int

    def trying_all(self) -> Messenger:
        """A handler that gives the sites all their values at once."""
        return _AllValues(first_available_dim=self.first_dim)

    def fixing(self, *, tracks: bool = False) -> Messenger:
        """A handler that gives the sites their one value, and may mark what depends on it."""
        if not tracks:
            return _FixedValues(self.values)
        marks = {name: frozenset({name}) for name in self.values}
        return _FixedValues({k: track_provenance(v, marks[k]) for k, v in self.values.items()})

    def log_density(self, trace: Trace) -> Tensor:
        """Log density of an execution with all values, the discrete sites summed out."""
        trace.symbolize_dims()
        factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        total: Tensor | float = 0.0
        for site in sites_with_density(trace):
            if self.is_independent(site):
                total = total + site["log_prob"].sum()
            else:
                frames = (frame.name for frame in site["cond_indep_stack"] if frame.vectorized)
                plates = frozenset(trace.plate_to_symbol[name] for name in frames)
                factors.setdefault(plates, []).append(self.packed_log_prob(site))
        symbols = set(trace.symbol_to_dim) - set(trace.plate_to_symbol.values())
        return total + self._summed_out(factors, symbols) if factors else torch.as_tensor(total)

    def is_independent(self, site: dict[str, Any]) -> bool:
        """Whether the log density of a site is the same for all values of the discrete ones."""
        shape: torch.Size = site["log_prob"].shape
        return shape[: self._num_extra(site)].numel() == 1

    def packed_log_prob(self, site: dict[str, Any]) -> Tensor:
        """The log density of a site with Pyro's symbols for its axes, batch axes summed up."""
        dims = site["infer"]["_dim_to_symbol"]
        log_prob: Tensor = site["log_prob"]
        batch = [d for d in range(self.first_dim + 1, 0) if d not in dims and -d <= log_prob.ndim]
        log_prob = log_prob.sum(batch, keepdim=True) if batch else log_prob
        try:
            result: Tensor = packed.pack(log_prob, dims)
        except ValueError as error:
            raise ModelError(
                f"the log density of site {site['name']!r} has shape {tuple(log_prob.shape)} when "
                f"all values of {list(self.values)} are tried at once, which does not fit its "
                "plates: what depends on a site in a plate must be in that plate, too."
            ) from error
        return result

    def best_log_prob(self, site: dict[str, Any]) -> Tensor:
        """Log density of a site for its best discrete values: not finite if none is possible."""
        log_prob: Tensor = site["log_prob"]
        extra = tuple(range(self._num_extra(site)))
        return log_prob.amax(dim=extra).sum() if extra else log_prob.sum()

    def _num_extra(self, site: dict[str, Any]) -> int:
        """Number of axes to the left of all plates."""
        return max(0, int(site["log_prob"].ndim) + self.first_dim + 1)

    def _summed_out(
        self, factors: OrderedDict[frozenset[str], list[Tensor]], symbols: set[str]
    ) -> Tensor:
        try:
            total: Tensor = contract_to_tensor(factors, symbols, ring=_LogSumExpRing())
        except NotImplementedError as error:
            raise ModelError(
                f"the discrete sites {list(self.values)} cannot be summed out: {error}"
            ) from error
        smallest = torch.finfo(total.dtype).min
        return torch.where(total <= 0.5 * smallest, -torch.inf, total)


class _AllValues(EnumMessenger):
    """Pyro's handler, without the ``.data`` that ``torch.func.vmap`` refuses."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        value = msg["value"]
        if value is not None:
            msg["value"] = torch.empty(()).expand(torch.as_tensor(value).shape)
        super()._pyro_post_sample(msg)
        msg["value"] = value


class _FixedValues(Messenger):
    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_enumerated(msg) and not msg["done"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class DrawnValues(Messenger):
    """Draw the discrete sites that are summed out from their distributions."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_enumerated(msg) and not msg["done"]:
            msg["value"], msg["done"] = msg["fn"].sample(), True


class _LogSumExpRing(LogRing):
    """Pyro's sums and products of log densities, without underflow and without NaN.

    Pyro multiplies numbers that were each shifted by their own maximum: where no value is likely
    under two factors at once, all is lost. Sums here are over products. What is impossible
    under one value of another discrete site gets the smallest number, whose gradient is zero.
    """

    def sumproduct(self, terms: Iterable[Tensor], dims: Iterable[str]) -> Tensor:
        factors, left = list(terms), set(dims)
        while left:
            dim = min(sorted(left), key=partial(_joint_size, factors))
            left.remove(dim)
            chosen = [factor for factor in factors if dim in _dims(factor)]
            factors = [factor for factor in factors if dim not in _dims(factor)]
            factors.append(_sum_out(_product(chosen), dim))
        return _product(factors)


def _joint_size(terms: list[Tensor], dim: str) -> int:
    """Numbers in the product of the terms that have an axis."""
    chosen = [term for term in terms if dim in _dims(term)]
    sizes = {d: n for term in chosen for d, n in zip(_dims(term), term.shape, strict=True)}
    return torch.Size(sizes.values()).numel()


def _product(terms: list[Tensor]) -> Tensor:
    first, *others = packed.broadcast_all(*terms)
    total: Tensor = first[...]
    for other in others:
        total = total + other
    return _named(total, _dims(first))


def _sum_out(term: Tensor, dim: str) -> Tensor:
    possible = term.clamp(min=torch.finfo(term.dtype).min)
    summed = possible.logsumexp(dim=_dims(term).index(dim))
    return _named(summed, _dims(term).replace(dim, ""))


def _dims(term: Any) -> str:
    dims: str = term._pyro_dims
    return dims


def _named(term: Any, dims: str) -> Tensor:
    """Pyro keeps the symbols of the axes on the tensor."""
    term._pyro_dims = dims
    named: Tensor = term
    return named


def sites_with_density(trace: Trace) -> list[dict[str, Any]]:
    """The sites of an execution that carry a density of the model."""
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample" and not is_deterministic(site) and not site_is_subsample(site)
    ]
