"""What every kernel of the library does."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from contextlib import nullcontext

import pyro
import pytest
import torch

import pyro_ebm.kernels
from pyro_ebm.core import noise
from pyro_ebm.core.checks import StepSizeError
from pyro_ebm.core.positions import map_fields
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, ReplicaExchange
from pyro_ebm.potentials.energy import EnergyPotential
from tests.contracts.kernel_rows import FACTORIES
from tests.kernels.transitions import assert_invariant
from tests.statistics import Rejected
from tests.targets import asymmetric_target

EVENTS = {"flat": (6,), "image": (1, 2, 3)}

ROWS = [
    pytest.param(factory, id=f"{cls.__name__}-{name}")
    for cls, factories in FACTORIES.items()
    for name, factory in factories.items()
]
every_kernel = pytest.mark.parametrize("factory", ROWS)
every_class = pytest.mark.parametrize("cls", FACTORIES)
every_event = pytest.mark.parametrize("event_shape", EVENTS.values(), ids=EVENTS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
every_number = pytest.mark.parametrize("num_chains", [1, 7, 4096])


class Curved:
    """Correlated, asymmetric, and with tails that no kernel explodes on."""

    def __init__(self, event_shape=(6,)):
        self.event_shape = torch.Size(event_shape)

    def __call__(self, x):
        flat = x.flatten(-len(self.event_shape))
        return (0.5 * flat.square() + 0.3 * torch.sin(flat.cumsum(-1))).sum(-1)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _new(cls, target=None, **hyperparameters):
    """A kernel with that target, or one that goes around such a kernel."""
    if cls is ReplicaExchange:
        return cls(MALA(target), **hyperparameters)
    return cls(target, **hyperparameters)


def _start(kernel, num_chains=7, dtype=torch.float64, event_shape=(6,)):
    potential = EnergyPotential(Curved(event_shape))
    position = torch.randn((num_chains, 6), generator=_generator(1), dtype=dtype)
    return potential, kernel.init(potential, position, _generator(2))


def _rows(fields, rows):
    """Those chains of a State, Noise or Info, each of which is tensors with chains first."""
    return map_fields(lambda field: field[rows], fields)


def _tensors(fields):
    """All tensors of a nested NamedTuple."""
    return [t for f in fields for t in ([f] if isinstance(f, torch.Tensor) else _tensors(f))]


def _assert_equal(first, second):
    assert type(first) is type(second)
    pairs = zip(_tensors(first), _tensors(second), strict=True)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _run(kernel, generator, num_steps=5):
    potential, state = _start(kernel)
    for _ in range(num_steps):
        state, info = kernel.step(potential, state, kernel.noise(state, generator))
    return state, info


def _classes():
    members = inspect.getmembers(pyro_ebm.kernels, inspect.isclass)
    return {cls for _, cls in members if hasattr(cls, "noise")}


def test_every_exported_kernel_has_a_row():
    assert _classes() == set(FACTORIES)


@every_class
def test_hyperparameters_are_keyword_only_and_target_leads(cls):
    target, *others = inspect.signature(cls).parameters.values()
    wraps = cls is ReplicaExchange
    leading = ("kernel", inspect.Parameter.empty) if wraps else ("target", None)
    assert (target.name, target.default) == leading
    assert target.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {parameter.kind for parameter in others} == {inspect.Parameter.KEYWORD_ONLY}
    assert {"step_size", "scale", "target_accept_prob"} <= {p.name for p in others}
    assert all(not isinstance(parameter.default, torch.Tensor) for parameter in others)


@every_class
def test_recipes_need_nothing_and_say_what_they_lack(cls):
    kernel = _new(cls)
    assert (kernel.target, kernel.step_size, kernel.scale) == (None, None, None)
    assert 0 < kernel.target_accept_prob < 1
    potential, state = _start(kernel)
    with pytest.raises(StepSizeError, match=cls.__name__):
        kernel.step(potential, state, kernel.noise(state, None))


@every_class
def test_a_target_is_carried_along(cls):
    energy = GaussianEnergy.standard((6,))
    assert _new(cls, energy).target is energy


@every_kernel
def test_is_frozen_and_has_identity(factory):
    kernel = factory()
    with pytest.raises(dataclasses.FrozenInstanceError):
        kernel.step_size = 1.0
    assert kernel == kernel  # noqa: PLR0124 (comparing tensors would raise)
    assert kernel != factory()
    assert len({kernel, kernel}) == 1


@every_kernel
def test_replaced_hyperparameters_are_checked(factory):
    assert dataclasses.replace(factory(), step_size=0.2).step_size == 0.2
    with pytest.raises(ValueError, match="step_size"):
        dataclasses.replace(factory(), step_size=-0.2)


@every_kernel
def test_prints_its_hyperparameters(factory):
    kernel = factory()
    text = repr(kernel)
    assert text.startswith(f"{type(kernel).__name__}(target=None, step_size={kernel.step_size}")
    assert "_=" not in text


@every_kernel
@pytest.mark.parametrize("duplicate", [lambda k: pickle.loads(pickle.dumps(k)), copy.deepcopy])
def test_copies_move_chains_alike(factory, duplicate):
    kernel = factory()
    twin = duplicate(kernel)
    assert type(twin) is type(kernel)
    for first, second in zip(_run(kernel, _generator()), _run(twin, _generator()), strict=True):
        _assert_equal(first, second)


@every_kernel
@every_event
@every_dtype
@every_number
def test_shapes_and_dtypes(factory, event_shape, dtype, num_chains):
    kernel = factory()
    potential, start = _start(kernel, num_chains, dtype, event_shape)
    state, info = kernel.step(potential, start, kernel.noise(start, None))
    for fields in (start, state):
        assert type(fields) is type(start)
        assert fields.position.shape == fields.grad.shape == (num_chains, 6)
        assert fields.potential_energy.shape == (num_chains,)
        dtypes = {fields.position.dtype, fields.potential_energy.dtype, fields.grad.dtype}
        assert dtypes == {dtype}
        assert {len(tensor) for tensor in _tensors(fields)} == {num_chains}
    assert {tuple(field.shape) for field in info} == {(num_chains,)}
    assert info.finished.dtype == info.diverging.dtype == torch.bool
    assert info.lp.dtype == dtype
    assert potential.constrain(state.position)["x"].shape == (num_chains, *event_shape)


@every_kernel
def test_report_carries_the_statistics_of_arviz(factory):
    kernel = factory()
    potential, start = _start(kernel, 500)
    state, info = kernel.step(potential, start, kernel.noise(start, None))
    fields = info._asdict()
    assert {"lp", "acceptance_rate", "step_size", "diverging"} <= set(fields)
    assert torch.equal(info.lp, -state.potential_energy)
    for rate in (info.acceptance_rate, info.step_acceptance):
        assert bool(((rate >= 0) & (rate <= 1)).all())
        assert 0 < float(rate.mean()) < 1
    assert bool((info.step_size == kernel.step_size).all())
    assert not bool(info.diverging.any())


@every_kernel
def test_state_belongs_to_its_position(factory):
    kernel = factory()
    potential, state = _start(kernel, 100)
    for _ in range(10):
        value, grad = potential.value_and_grad(state.position)
        torch.testing.assert_close(state.potential_energy, value)
        torch.testing.assert_close(state.grad, grad)
        state, _ = kernel.step(potential, state, kernel.noise(state, None))


def _with_numbers(drawn, x):
    """The same noise of positions ``x``, with the numbers in place of their seed."""
    if isinstance(drawn, noise.Seed):
        return noise.normal_of(drawn, x.flatten(0, -2)).reshape(x.shape)
    if isinstance(drawn, torch.Tensor):
        return drawn
    return type(drawn)(*(_with_numbers(field, x) for field in drawn))


@pytest.mark.usefixtures("seeded_noise")
@every_kernel
@every_dtype
def test_a_seed_stands_for_its_numbers(factory, dtype):
    """Very many numbers are made within the step; here, few are."""
    kernel, generator, finished = factory(), _generator(), 0
    potential, state = _start(kernel, dtype=dtype)
    x = state.inner.position if isinstance(kernel, ReplicaExchange) else state.position
    while finished < 3:
        drawn = kernel.noise(state, generator)
        numbers = _with_numbers(drawn, x)
        assert max(t.numel() for t in _tensors(numbers)) == x.numel()
        assert max(t.numel() for t in _tensors(drawn)) < x.numel()
        moved = kernel.step(potential, state, drawn)
        _assert_equal(moved, kernel.step(potential, state, numbers))
        state, info = moved
        finished += bool(info.finished.any())


@every_kernel
def test_nothing_is_attached_to_a_graph(factory):
    kernel = factory()
    potential, start = _start(kernel)
    state, info = kernel.step(potential, start, kernel.noise(start, None))
    assert not any(t.requires_grad for t in _tensors((start, state, info)))


@every_kernel
def test_step_is_a_pure_function(factory):
    kernel = factory()
    potential, start = _start(kernel)
    noise = kernel.noise(start, None)
    # Memory that consecutive states share is the one thing that a step may write to.
    kept = copy.deepcopy((_owned(start), noise))
    state_of_torch = torch.get_rng_state()
    first, second = (kernel.step(potential, start, noise) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state_of_torch)
    for before, after in ((kept[0], _owned(start)), (kept[1], noise)):
        _assert_equal(before, after)
    for one, other in zip(first, second, strict=True):
        _assert_equal(one, other)


def _owned(state):
    if hasattr(state, "inner"):
        return state._replace(inner=_owned(state.inner))
    return state._replace(checkpoints=state.position) if hasattr(state, "checkpoints") else state


@every_kernel
def test_a_state_can_be_stepped_again(factory):
    """In all stages of a trajectory, and with the same result."""
    kernel = factory()
    potential, state = _start(kernel)
    for _ in range(20):
        noise = kernel.noise(state, None)
        first, second = (copy.deepcopy(kernel.step(potential, state, noise)) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            _assert_equal(one, other)
        state, _ = kernel.step(potential, state, noise)


@every_kernel
def test_step_compiles_to_one_graph(factory):
    """No branch on a value and nothing but tensor operations, so that steps can be captured."""
    kernel = factory()

    class Bowl:
        def value_and_grad(self, q):
            return 0.5 * q.square().sum(-1), q

    state = kernel.init(Bowl(), torch.randn(7, 6), None)
    noise = kernel.noise(state, None)

    def step(state, noise):
        return kernel.step(Bowl(), state, noise)

    torch._dynamo.reset()
    # The first compilation in a process turns the validation of all distributions off.
    with pyro.settings.context(validate_distributions_torch=True):
        results = torch.compile(step, backend="eager", fullgraph=True)(state, noise)
    for actual, expected in zip(results, step(state, noise), strict=True):
        for one, other in zip(_tensors(actual), _tensors(expected), strict=True):
            torch.testing.assert_close(one, other)


@every_kernel
def test_the_generator_decides_and_the_global_one_is_left_alone(factory):
    kernel = factory()
    state_of_torch = torch.get_rng_state()
    first, second, third = (_run(kernel, _generator(seed))[0] for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state_of_torch)
    _assert_equal(first, second)
    assert not torch.equal(first.position, third.position)


@every_kernel
def test_the_global_seed_decides_without_a_generator(factory):
    kernel = factory()
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(_run(kernel, None)[0])
    _assert_equal(*states)


@every_kernel
def test_chains_do_not_meet(factory):
    """A chain goes where it goes, whatever the others do, and alone as in company."""
    kernel = factory()
    potential, start = _start(kernel)
    noise = kernel.noise(start, None)
    state, info = kernel.step(potential, start, noise)
    other = kernel.init(potential, 3 * torch.randn(7, 6), None)
    for kept in range(7):
        mask = torch.arange(7) == kept
        company = (_mixed(mask, start, other), _mixed(mask, noise, kernel.noise(other, None)))
        alone = (_rows(start, [kept]), _rows(noise, [kept]))
        for arguments, row in ((company, [kept]), (alone, [0])):
            moved, report = kernel.step(potential, *arguments)
            for actual, expected in ((moved, state), (report, info)):
                pairs = zip(_tensors(_rows(actual, row)), _tensors(expected), strict=True)
                for one, all_chains in pairs:
                    torch.testing.assert_close(one, all_chains[[kept]], rtol=1e-12, atol=1e-12)


def _mixed(mask, one, other):
    return map_fields(
        lambda a, b: torch.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b), one, other
    )


@every_kernel
def test_a_chain_in_a_hole_does_not_harm_the_others(factory):
    """Beyond the hole's edge energies are NaN: the move is not made, and is flagged."""
    kernel = factory()
    curved = Curved()

    def energy(x):
        lost = (x[..., 0] > 50).unsqueeze(-1)
        return curved(torch.where(lost, torch.nan, x))

    _, start = _start(kernel)
    start.position[2, 0] = 49.0
    potential = EnergyPotential(energy, (6,))
    start = kernel.init(potential, start.position, _generator(2))
    noise = kernel.noise(start, None)
    _thrown(start, noise)[2, ..., 0] = 1e3
    expected, _ = kernel.step(EnergyPotential(curved), start, noise)
    state, info = kernel.step(potential, start, noise)
    others = torch.arange(7) != 2
    assert info.diverging.tolist() == (~others).tolist()
    assert float(info.acceptance_rate[2]) == 0
    assert torch.equal(state.position[2], start.position[2])
    assert torch.equal(state.potential_energy[2], start.potential_energy[2])
    assert torch.equal(state.grad[2], start.grad[2])
    assert torch.equal(state.position[others], expected.position[others])


def _thrown(state, noise):
    """The momenta of the step."""
    if hasattr(noise, "inner"):
        return _thrown(state.inner, noise.inner)
    return state.front.momentum if hasattr(state, "front") else noise.normal


# Hot replicas begin where the cold one does, which is not a start from the product law.
@pytest.mark.parametrize("cls", [cls for cls in FACTORIES if cls is not ReplicaExchange])
def test_adjusted_kernels_and_only_they_leave_the_law_as_it_is(cls):
    kernel = dataclasses.replace(FACTORIES[cls]["plain"](), step_size=0.8)
    expectation = nullcontext() if kernel.is_adjusted else pytest.raises(Rejected)
    with expectation:
        assert_invariant(kernel, asymmetric_target())


@every_class
def test_documents_its_law(cls):
    words = " ".join(cls.__doc__.split())
    assert ("biased" in words) != cls.is_adjusted
    assert ("invariant exactly" in words) == cls.is_adjusted
    assert "References:" in words
