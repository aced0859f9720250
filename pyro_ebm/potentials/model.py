"""Pyro models as batched potentials."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_ebm.core.checks import ModelError, ShapeError, check_event
from pyro_ebm.core.randomness import forked_rng, kept_rng
from pyro_ebm.potentials.batching import ChainBatcher
from pyro_ebm.potentials.compose import Summable
from pyro_ebm.potentials.enumeration_guards import check_enumeration, find_enumeration
from pyro_ebm.potentials.guards import (
    check_deterministic,
    check_no_randomness,
    check_signature,
    check_supports,
    check_trace,
)
from pyro_ebm.potentials.holdings import Holdings, stored_parameters
from pyro_ebm.potentials.placing import Placed, PlacedModel
from pyro_ebm.potentials.sites import (
    LatentSite,
    find_latent_sites,
    first_trace,
    is_data,
    is_deterministic,
    is_latent,
    split,
)
from pyro_ebm.potentials.starts import uniform_starts
from pyro_ebm.potentials.validation import unvalidated

_CHUNK_NUMBERS = 2**24
"""Numbers that the sites of one chunk of replayed draws may hold (128 MiB in float64)."""


class ModelPotential(Summable):
    r"""A Pyro model with continuous latent sites as a batched potential.

    .. math:: U(q) = -\log p(x, T(q)) - \sum_\text{sites} \log |\det \partial T / \partial q|,

    with :math:`T` the transform of each site's support. The model is run once to find its
    sites, batched over chains with ``torch.func.vmap``, and traced once into a flat graph of
    tensor operations, so that no Pyro code runs per gradient. The graph is made again when the
    number of chains, the type, or a tensor, module or number that the model holds is replaced;
    parameters that an optimiser changes in place are followed. NumPy arrays are taken as they
    are at the first gradient.

    Discrete sites with ``infer={"enumerate": "parallel"}`` are summed out exactly in each
    evaluation; they are in no draw, and neither are ``pyro.deterministic`` sites that depend on
    them. ``pyro.infer.infer_discrete`` gives their values for given draws.

    A model that cannot be batched (control flow on a latent value, ``.item()``) is run chain
    after chain, with one warning that names the reason.

    Args:
        model: A callable in Pyro syntax.
        *args: Arguments of the model, data included.
        **kwargs: Keyword arguments of the model.

    Raises:
        ModelError: If the model has no continuous latent site, a discrete one that is not or
            cannot be summed out, random operations outside sample sites, or subsampled plates;
            on use, if its latent or deterministic sites depend on latent values.
        NonFiniteError: If observed data hold NaN.
        ShapeError: If a site does not fit its plates.

    >>> import pyro
    >>> def model():
    ...     pyro.sample("z", pyro.distributions.Normal(1.0, 2.0))
    >>> value, grad = ModelPotential(model).value_and_grad(torch.tensor([[1.0], [3.0]]))
    >>> grad.tolist()
    [[0.0], [0.5]]
    """

    def __init__(self, model: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        check_signature(model, args, kwargs)
        with kept_rng(), poutine.block(), unvalidated():
            self.prototype: Trace = first_trace(model, args, kwargs)
            self.sites: tuple[LatentSite, ...] = find_latent_sites(self.prototype)
            check_trace(model, self.prototype, [site.stop - site.start for site in self.sites])
            enumeration = find_enumeration(self.prototype)
            self.placed = PlacedModel(model, args, kwargs, enumeration)
            point = self.initial(1)[0].requires_grad_()
            self._left_out = check_enumeration(self.placed, point, self.sites)
        check_no_randomness(model, lambda: self._scalar(point))
        second = self.at(point)
        check_supports(self.prototype, second.trace)
        self._point = point.detach()
        """Where the model has been executed without an error."""
        self._has_static_supports = _same_transforms(self.sites, second.transforms, self.device)
        self._holdings = Holdings((model, args, kwargs))
        self._param_names = _param_names(self.prototype)
        self._batcher = self._new_batcher(compiles=False)

    @property
    def dim(self) -> int:
        return self.sites[-1].stop

    @property
    def dtype(self) -> torch.dtype:
        dtype = self.sites[0].dtype
        for site in self.sites:
            dtype = torch.promote_types(dtype, site.dtype)
        return dtype

    @property
    def device(self) -> torch.device:
        """That of the data if they are on a GPU: priors may be made of plain numbers."""
        nodes = self.prototype.nodes.values()
        values = [node["value"] for node in nodes if is_latent(node) or is_data(node)]
        devices: list[torch.device] = [v.device for v in values if isinstance(v, Tensor)]
        return next((device for device in devices if device.type != "cpu"), devices[0])

    def __call__(self, q: Tensor) -> Tensor:
        check_event("the position", q, torch.Size((self.dim,)))
        values: Tensor = self._each(self._scalar, q.reshape(-1, self.dim))
        return values.reshape(q.shape[:-1])

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        check_event("the position", q, torch.Size((self.dim,)))
        value, grad = self._batcher.value_and_grad(q.detach().reshape(-1, self.dim))
        return value.reshape(q.shape[:-1]), grad.reshape(q.shape)

    def initial(self, num_chains: int, *, generator: torch.Generator | None = None) -> Tensor:
        return uniform_starts(self, num_chains, generator)

    def initial_from(
        self, strategy: Callable[..., Any], num_chains: int, generator: torch.Generator
    ) -> Tensor:
        """Starting points by one of Pyro's strategies, which is run once for each chain."""
        with forked_rng(generator), poutine.block(), InitMessenger(strategy):
            traces = [self.placed.run() for _ in range(num_chains)]
        with torch.no_grad():  # strategies may give parameters of a guide
            return self.unconstrain(
                {
                    site.name: torch.stack([trace.nodes[site.name]["value"] for trace in traces])
                    for site in self.sites
                }
            )

    def constrain(self, q: Tensor) -> dict[str, Tensor]:
        check_event("the position", q, torch.Size((self.dim,)))
        if self.deterministic_names or not self._has_static_supports:
            return self.evaluate(self._replayed, q)
        transforms = self._transforms_now()
        return self.evaluate(lambda row: _transformed(split(row, self.sites), transforms), q)

    def unconstrain(self, sites: dict[str, Tensor]) -> Tensor:
        shapes = {site.name: self._value_shape(site.name) for site in self.sites}
        self._check_sites(sites, shapes)
        chains = _chains_shape(sites, shapes)
        num_chains = chains.numel()  # which reshape cannot find out if a site has no numbers
        rows = {name: sites[name].reshape((num_chains, *shape)) for name, shape in shapes.items()}
        unconstrained = self._each(self.placed.unconstrained_at, rows)
        return self.flatten({k: v.reshape(chains + v.shape[1:]) for k, v in unconstrained.items()})

    def flatten(self, sites: dict[str, Tensor]) -> Tensor:
        shapes = {site.name: site.unconstrained_shape for site in self.sites}
        self._check_sites(sites, shapes)
        chains = _chains_shape(sites, shapes)
        parts = [
            sites[name].reshape((*chains, shape.numel())).to(self.dtype)
            for name, shape in shapes.items()
        ]
        return torch.cat(parts, dim=-1)

    def unflatten(self, q: Tensor) -> dict[str, Tensor]:
        check_event("the position", q, torch.Size((self.dim,)))
        return split(q, self.sites)

    def transforms(self) -> dict[str, Transform]:
        if not self._has_static_supports:
            raise ModelError(
                f"a support of {self!r} depends on a latent value, so there is no fixed transform "
                "(one frozen at the first trace would give wrong draws): sample it with "
                "pyro_ebm.MCMC."
            )
        return self._transforms_now()

    def explain_nonfinite(self, q: Tensor) -> str:
        return self.at(q).explain_nonfinite()

    @property
    def deterministic_names(self) -> list[str]:
        """Names of the ``pyro.deterministic`` sites that depend on no discrete site."""
        names = [name for name, site in self.prototype.nodes.items() if is_deterministic(site)]
        return [name for name in names if name not in self._left_out]

    @property
    def has_parameters(self) -> bool:
        """Whether ``pyro.param`` is part of it, whose values others change."""
        return bool(self._param_names)

    @property
    def enumerated_names(self) -> list[str]:
        """Names of the discrete sites that are summed out."""
        return [] if self.placed.enumeration is None else list(self.placed.enumeration.values)

    def at(self, q: Tensor) -> Placed:
        """Execute the model at the unconstrained position ``(dim,)``."""
        placed = self.placed.at(q, self.sites)
        check_deterministic(self.prototype, placed.trace, self._left_out)
        return placed

    def evaluate(self, read: Callable[[Tensor], dict[str, Tensor]], q: Tensor) -> dict[str, Tensor]:
        """Apply ``read`` to every position of ``q``, in chunks that bound the memory."""
        rows = q.detach().reshape(-1, self.dim)
        size = max(1, _CHUNK_NUMBERS // max(1, _numbers(self.prototype)))
        with torch.no_grad():
            parts = [self._each(read, chunk) for chunk in rows.split(size)]
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {name: v.reshape(q.shape[:-1] + v.shape[1:]) for name, v in whole.items()}

    def compiled(self) -> ModelPotential:
        """The same potential, value and gradient compiled by ``torch.compile``; slow to start.

        Raises:
            ModelError: On first use, if the model cannot be batched.
        """
        other = copy.copy(self)
        other._batcher = other._new_batcher(compiles=True)
        return other

    def _new_batcher(self, *, compiles: bool) -> ChainBatcher:
        return ChainBatcher(
            self._scalar, self._held, repr(self), self._prepare, self._rounding, compiles=compiles
        )

    def _prepare(self, q: Tensor) -> None:
        """Look at the model again: modules may be new, or in training mode."""
        self._holdings.look_again()
        point = q.clone().requires_grad_()
        check_no_randomness(self.placed.model, lambda: self._scalar(point))

    def _held(self) -> tuple[Any, ...]:
        return self._holdings.now() + stored_parameters(self._param_names)

    def _each(self, function: Callable[..., Any], rows: Any) -> Any:
        if None in stored_parameters(self._param_names):
            self._scalar(torch.zeros(self.dim, dtype=self.dtype, device=self.device))
        return self._batcher.each(function, rows)

    def _scalar(self, q: Tensor) -> Tensor:
        return self.at(q).potential_energy()

    def _rounding(self, q: Tensor) -> Tensor:
        return self.at(q).rounding()

    def _transforms_now(self) -> dict[str, Transform]:
        """Those of one execution: a support may hold a parameter or datum that has changed."""
        with torch.no_grad():
            return self.placed.fixed_at(self._point, self.sites).transforms

    def _replayed(self, q: Tensor) -> dict[str, Tensor]:
        trace = self.placed.fixed_at(q, self.sites).trace
        check_deterministic(self.prototype, trace)
        nodes = trace.nodes
        names = [*(site.name for site in self.sites), *self.deterministic_names]
        return {name: torch.as_tensor(nodes[name]["value"]) for name in names}

    def _value_shape(self, name: str) -> torch.Size:
        shape: torch.Size = self.prototype.nodes[name]["value"].shape
        return shape

    def _check_sites(self, sites: dict[str, Tensor], shapes: dict[str, torch.Size]) -> None:
        if set(sites) != set(shapes):
            missing, unknown = sorted(set(shapes) - set(sites)), sorted(set(sites) - set(shapes))
            raise ShapeError(
                f"values were given for the sites {sorted(sites)}, but {self!r} has the latent "
                f"sites {sorted(shapes)}: missing {missing}, unknown {unknown}."
            )
        for name, shape in shapes.items():
            check_event(name, sites[name], shape)

    def __repr__(self) -> str:
        name = getattr(self.placed.model, "__name__", None) or type(self.placed.model).__name__
        return f"ModelPotential({name}, sites={[site.name for site in self.sites]}, dim={self.dim})"


def _same_transforms(
    sites: tuple[LatentSite, ...], others: dict[str, Transform], device: torch.device
) -> bool:
    """Whether the supports are the same in two executions at different points."""
    for site in sites:
        size = site.unconstrained_shape.numel()
        y = torch.linspace(-1.0, 1.0, size, dtype=site.dtype, device=device)
        y = y.reshape(site.unconstrained_shape)
        if not torch.equal(site.transform(y), others[site.name](y)):
            return False
    return True


def _param_names(trace: Trace) -> tuple[str, ...]:
    return tuple(name for name, site in trace.nodes.items() if site["type"] == "param")


def _numbers(trace: Trace) -> int:
    values = (site.get("value") for site in trace.nodes.values())
    return sum(value.numel() for value in values if isinstance(value, Tensor))


def _chains_shape(sites: dict[str, Tensor], shapes: dict[str, torch.Size]) -> torch.Size:
    """The common leading axes; sites that disagree would be chains that do not exist."""
    leading = {name: sites[name].shape[: sites[name].ndim - len(s)] for name, s in shapes.items()}
    if len(set(leading.values())) != 1:
        raise ShapeError(
            f"the sites have the leading axes { {k: tuple(v) for k, v in leading.items()} }, but "
            "all must have the same chain axes."
        )
    return next(iter(leading.values()))


def _transformed(values: dict[str, Tensor], transforms: dict[str, Transform]) -> dict[str, Tensor]:
    return {name: transforms[name](value) for name, value in values.items()}
