"""Particles: the guide is run, the model is run against it, and both become ELBO terms."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from pyro.util import check_if_enumerated, check_model_guide_match
from torch import Tensor

from pyro_ebm.core.checks import ModelError, NonFiniteError, check_count
from pyro_ebm.core.randomness import forked_rng
from pyro_ebm.estimators._broadcasting import guess_nesting
from pyro_ebm.estimators._sites import (
    Term,
    elbo_terms,
    nonfinite_error,
    sample_sites,
)
from pyro_ebm.potentials.sites import is_latent

Program: TypeAlias = Callable[..., Any]
Particles: TypeAlias = Sequence[Sequence[Term]]


class Execution(NamedTuple):
    """One run of the model or of the guide."""

    program: Program
    trace: Any
    rerun: Callable[[Messenger], Any]
    """Runs it again under a messenger and returns the trace; nothing else notices."""


# The name that Pyro gives to the plate of particles.
_PARTICLES = "num_particles_vectorized"


class SharedMinibatch(Messenger):
    """Every particle sees the minibatch that the first one picked."""

    def __init__(self) -> None:
        super().__init__()
        self._picked: dict[tuple[Any, ...], Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and _key(msg) in self._picked:
            msg["value"] = self._picked[_key(msg)]
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self._picked.setdefault(_key(msg), msg["value"])


def _key(msg: Any) -> tuple[Any, ...]:
    """Name and sizes of the plate that picks its rows at ``msg``."""
    return msg["name"], getattr(msg["fn"], "size", None), getattr(msg["fn"], "subsample_size", None)


class ParticleELBO(ELBO):
    """What the estimators share: particles, values, checks. Derived classes give the gradient.

    Args:
        num_particles: number of draws from the guide, all for the same minibatch.
        vectorize_particles: draw them in one run inside an outermost plate, as Pyro does;
            needs a model and guide that broadcast. Otherwise they are drawn one by one.
        max_plate_nesting: number of plate dimensions of model and guide; guessed from one run
            when None (that run leaves the global random state as it was).
    """

    def __init__(
        self, num_particles: int, *, vectorize_particles: bool, max_plate_nesting: int | None
    ) -> None:
        super().__init__(
            num_particles=check_count("num_particles", num_particles),
            vectorize_particles=vectorize_particles,
            max_plate_nesting=math.inf if max_plate_nesting is None else max_plate_nesting,
        )
        self._plate_nesting = max_plate_nesting
        self._guess: tuple[object, object, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_guess": None}

    def __repr__(self) -> str:
        settings = {**self._settings(), "num_particles": self.num_particles}
        if not self.vectorize_particles:
            settings["vectorize_particles"] = False
        if self._plate_nesting is not None:
            settings["max_plate_nesting"] = self._plate_nesting
        arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        return f"{type(self).__name__}({arguments})"

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Estimate of minus the ELBO."""
        return -self._elbo(self._run(model, guide, args, kwargs)[0]).item()

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Scalar with the value of :meth:`loss`; its backward is the gradient estimate."""
        return self._value_with_gradient(self._run(model, guide, args, kwargs)[0])

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Value of :meth:`loss`; adds the gradient estimate to ``grad`` of the parameters."""
        particles, parameters = self._run(model, guide, args, kwargs)
        loss = self._value_with_gradient(particles)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
            _check_gradients(parameters)
        return loss.item()

    @abstractmethod
    def _surrogate(self, particles: Particles) -> Tensor:
        """Scalar whose gradient estimates that of the ELBO, summed over particles."""

    def _settings(self) -> dict[str, object]:
        return {}

    def _guide_context(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _check_run(self, model: Execution, guide: Execution) -> None:
        """Refuse programs that the gradient would be wrong for."""

    def _elbo(self, particles: Particles) -> Tensor:
        terms = [term for particle in particles for term in particle]
        elbo = torch.as_tensor(sum(term.cost.detach().sum() for term in terms))
        if not bool(torch.isfinite(elbo)):
            raise nonfinite_error(terms)
        return elbo / float(self.num_particles)

    def _value_with_gradient(self, particles: Particles) -> Tensor:
        value = self._elbo(particles)
        surrogate = self._surrogate(particles) / float(self.num_particles)
        if not bool(torch.isfinite(surrogate)):
            raise nonfinite_error(term for particle in particles for term in particle)
        return -(value + (surrogate - surrogate.detach()))

    def _run(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[list[list[Term]], dict[str, Tensor]]:
        vectorized = self.vectorize_particles and self.num_particles > 1
        nesting = self._nesting(model, guide, args, kwargs) if vectorized else None
        programs = self._in_plate(model, nesting), self._in_plate(guide, nesting)
        shared = SharedMinibatch()
        parameters: dict[str, Tensor] = {}
        particles = []
        for _ in range(1 if vectorized else self.num_particles):
            with shared:
                traces = self._get_trace(*programs, args, kwargs)
                replayed = poutine.replay(programs[0], trace=traces[1])
                self._check_run(
                    Execution(model, traces[0], partial(_rerun, replayed, args, kwargs)),
                    Execution(guide, traces[1], partial(_rerun, programs[1], args, kwargs)),
                )
            particles.append(self._terms(*traces, nesting))
            parameters.update(item for trace in traces for item in _parameters(trace))
        return particles, parameters

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Any, Any]:
        with self._guide_context():
            guide_trace, effect = _trace_guide(guide, args, kwargs)
        if effect is not None:
            model_trace, guide_trace = effect.get_traces()
            return model_trace, guide_trace
        replayed = poutine.replay(model, trace=guide_trace)
        return poutine.trace(replayed).get_trace(*args, **kwargs), guide_trace

    def _in_plate(self, program: Program, nesting: int | None) -> Program:
        # Inside of replay, not around it: a replayed site is not broadcast any more.
        if nesting is None:
            return program
        plate: Program = pyro.plate(_PARTICLES, self.num_particles, dim=-nesting - 1)(program)
        return plate

    def _nesting(self, model: Program, guide: Program, args: Any, kwargs: Any) -> int:
        if self._plate_nesting is not None:
            return self._plate_nesting
        if self._guess is None or self._guess[:2] != (model, guide):
            self._guess = (model, guide, self._guess_nesting(model, guide, args, kwargs))
        return self._guess[2]

    def _guess_nesting(self, model: Program, guide: Program, args: Any, kwargs: Any) -> int:
        def run(nesting: int | None) -> tuple[Any, Any]:
            programs = self._in_plate(model, nesting), self._in_plate(guide, nesting)
            return self._get_trace(*programs, args, kwargs)

        def replay(values: Any) -> Any:
            return poutine.trace(poutine.replay(model, trace=values)).get_trace(*args, **kwargs)

        with forked_rng(_side_stream()), poutine.block(), SharedMinibatch():
            return guess_nesting(run, replay, self.num_particles)

    def _terms(self, model_trace: Any, guide_trace: Any, nesting: int | None) -> list[Term]:
        if is_validation_enabled():
            limit = math.inf if nesting is None else nesting + 1
            check_model_guide_match(model_trace, guide_trace, limit)
            check_if_enumerated(guide_trace)
        _check_all_guided(model_trace, guide_trace)
        rows = self.num_particles if nesting is not None else None
        return elbo_terms(sample_sites(model_trace), sample_sites(guide_trace), rows, nesting)


def _side_stream() -> torch.Generator:
    """A stream that the seed of the global generator fixes, and that takes nothing from it."""
    return torch.Generator().manual_seed(torch.initial_seed())


def _trace_guide(guide: Program, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The trace of the guide; for an effect-based guide also the guide itself."""
    effect = poutine.unwrap(guide)
    if isinstance(effect, GuideMessenger):
        guide(*args, **kwargs)
        return effect.get_traces()[1], effect
    return poutine.trace(guide).get_trace(*args, **kwargs), None


def _rerun(program: Program, args: Any, kwargs: Any, messenger: Messenger) -> Any:
    with forked_rng(_side_stream()), poutine.block(), messenger:
        return _trace_guide(program, args, kwargs)[0]


def _check_all_guided(model_trace: Any, guide_trace: Any) -> None:
    missing = [
        site["name"]
        for site in sample_sites(model_trace)
        if is_latent(site) and site["name"] not in guide_trace
    ]
    if missing:
        raise ModelError(
            f"The model's latent sites {missing} are not in the guide, so that log p - log q is "
            "not an ELBO; add them to the guide, observe them, or sum discrete ones out with "
            "pyro.infer.TraceEnum_ELBO."
        )


def _parameters(trace: Any) -> Iterator[tuple[str, Tensor]]:
    for name, site in trace.nodes.items():
        if site["type"] == "param" and site["value"] is not None:
            yield name, site["value"].unconstrained()


def _check_gradients(parameters: Mapping[str, Tensor]) -> None:
    bad = [
        name
        for name, parameter in parameters.items()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
    if bad:
        for parameter in parameters.values():
            parameter.grad = None
        raise NonFiniteError(
            f"The ELBO is finite but its gradient in {bad} is not (a square root at 0, a "
            "saturated transform or an overflow). No step was taken and the gradients of all "
            "parameters were cleared."
        )
