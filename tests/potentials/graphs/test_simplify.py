"""Simplified graphs compute what was recorded, up to the order of a sum."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal
from torch.nn.functional import silu

from pyro_ebm.potentials import ModelPotential
from pyro_ebm.potentials.graphs.direct import call_directly
from pyro_ebm.potentials.graphs.recording import OperationRecorder
from pyro_ebm.potentials.graphs.tracing import batched, trace
from pyro_ebm.potentials.validation import unvalidated
from tests.models import all_models
from tests.operations import OperationLog

UNBATCHABLE = {"discrete_hmm", "ordered"}
ROWS = torch.tensor([0, 2, 2, -1])
ONE = torch.tensor(1.0)


def recording_of(function, example):
    with torch.no_grad(), OperationRecorder(example) as recorder:
        results = function(example)
    return recorder.recording(results)


def recorded(function, example):
    """The truth: all operations as they were recorded."""
    module = recording_of(function, example.clone()).graph_module()

    def run(q):
        with torch.no_grad():
            return module(q.clone())

    return run


def assert_close(ours, truths):
    for our, truth in zip(ours, truths, strict=True):
        finite = truth[truth.isfinite()].abs()
        size = finite.max().item() if len(finite) else 0.0
        torch.testing.assert_close(our, truth, rtol=1e-15, atol=3e-15 * size, equal_nan=True)


def operations(graph):
    return [node for node in graph.nodes if node.op.startswith("call")]


@pytest.mark.parametrize("row", all_models(), ids=lambda row: row.name)
def test_models_keep_their_values_and_gradients(row):
    if row.name in UNBATCHABLE:
        pytest.skip("not batched, so never recorded")
    potential = ModelPotential(row.model, *row.args, **row.kwargs)
    q = potential.initial(5)
    with unvalidated():
        truth = recorded(batched(potential._scalar), q)
        function = trace(batched(potential._scalar), q, potential._held()).function
    for scale in (1.0, 0.5, 3.0, 20.0):
        assert_close(function(scale * q), truth(scale * q))


@pytest.mark.parametrize("row", all_models(), ids=lambda row: row.name)
def test_functions_call_the_operations_that_they_replace(row):
    if row.name in UNBATCHABLE:
        pytest.skip("not batched, so never recorded")
    potential = ModelPotential(row.model, *row.args, **row.kwargs)
    q = potential.initial(3)
    with unvalidated():
        module = recording_of(batched(potential._scalar), q.clone()).graph_module()
    names = []
    for _ in range(2):
        with torch.no_grad(), OperationLog() as log:
            results = module(q.clone())
        # From torch 2.15 on a slice of everything has either name.
        slices = ["slice" if name == "alias" else name for name in log.names]
        names.append((slices, [result.tolist() for result in results]))
        call_directly(module.graph)
        module.recompile()
    assert names[0] == names[1]


def into_a_copy(x):
    """The copy changes nothing yet, but is written to later."""
    y = (x * 1.0).clone()
    y.add_(1.0)
    return y, x * 1.0


def into_an_operand(x):
    y = x.exp()
    before = y * 1.0
    y.mul_(2.0)
    return before, y.clone()


def twice_around_a_write(x):
    y = x.exp()
    first = y.sin()
    y.add_(1.0)
    return first, y.sin()


def through_a_view(x):
    y = x.exp()
    first = y.sum(1)
    y[0].zero_()
    return first, y.sum(1)


def into_equal_constants(x):
    a, b = torch.zeros(2, 3), torch.zeros(2, 3)
    a[0] = x[0]
    return a * 2.0, b + x


def shape_in_place(x):
    y = x.exp().unsqueeze(0)
    z = y.detach()
    z.squeeze_(0)
    return y.sum(0), z.sum(0)


def padded_then_written(x):
    """What a padded part is made of changes before the sum."""
    y = x.exp()
    pad = torch.ops.aten.slice_backward.default
    first, second = pad(y, [2, 6], 1, 0, 3, 1), pad(x, [2, 6], 1, 3, 6, 1)
    y.zero_()
    return first + second, y.clone()


def padded_then_written_with_a_rest(x):
    y = x.exp()
    pad = torch.ops.aten.slice_backward.default
    first, second = pad(y, [2, 6], 1, 0, 3, 1), pad(x, [2, 6], 1, 3, 6, 1)
    y.zero_()
    return first + second + x.sum(), y.clone()


WRITING = [
    into_a_copy,
    into_an_operand,
    twice_around_a_write,
    through_a_view,
    into_equal_constants,
    shape_in_place,
    padded_then_written,
    padded_then_written_with_a_rest,
]


def overlapping_parts(x):
    pad = torch.ops.aten.slice_backward.default
    return (pad(x, [2, 5], 1, 0, 3, 1) + pad(2.0 * x, [2, 5], 1, 2, 5, 1),)


def parts_with_gaps_and_a_rest(x):
    pad = torch.ops.aten.slice_backward.default
    parts = pad(x, [2, 9], 1, 1, 4, 1) + pad(2.0 * x, [2, 9], 1, -3, 2**62, 1)
    return (parts + x.sum(), parts.exp())


def reading_without_a_check(x):
    return (torch.ops.aten._unsafe_index(x, [None, ROWS.abs()]),)


def parts_with_a_number(x):
    pad = torch.ops.aten.slice_backward.default
    parts = pad(2.0 * x, [2, 9], 1, 3, 6, 1) + pad(3.0 * x, [2, 9], 1, 6, 9, 1)
    return ((pad(x, [2, 9], 1, 0, 3, 1) + 2.0) + parts,)


def signs_and_factors(x):
    c = torch.tensor([3.0, -0.0, 5.0])
    return -(x * c), -(c / x), (-x) / c, c * (x * 2.0), x - c - 1e10, (c - x) - 1.0, 1.0 - x - 2.0


def counting(x):
    return x.sum(1).sum(0), x.unsqueeze(0).sum((0, 1)), (x > 0).sum(1).sum(0), x.mean(1).sum(0)


def types(x):
    return x.float().double(), (x > 0).long() * 1, torch.zeros(2, 3, dtype=torch.long) + x


def indices(x):
    gradient = torch.ops.aten.index_put.default(x, [None, ROWS], x[:, ROWS], True)
    mask = torch.tensor([True, False, True])
    return x[:, ROWS], x[torch.tensor([1, 0, -1])], gradient, x[:, mask]


def complex_numbers(x):
    z = torch.complex(x, -x)
    return (z.conj() * z).real, z.conj().imag, torch.view_as_real(z.conj().resolve_conj())


def strange_layouts(x):
    transposed, wide = x.T * 1.0, x.expand(4, 2, 3) * 1.0
    return transposed.contiguous().view(6), wide.view(4, 6), x.T.exp().T.view(-1)


def expanded_in_another_layout(x):
    """Pointwise results lie as their first operand that is not expanded."""
    first = x[:, :1].expand(2, 3).exp()
    other = (torch.eye(3) @ x.T).T
    return ((first * other).view(6),)


def expanded(x):
    wide = x.unsqueeze(-1).expand(2, 3, 5)
    y = torch.arange(5.0)
    return (wide.exp() * 2.0 - y).sum(-1), (wide / wide.square()).view(-1), wide.log().T


def constant_results(x):
    return torch.ones(3) * 2.0, x.detach(), ONE, ONE.view(1), x * 1.0


@pytest.mark.parametrize(
    "function",
    [
        *WRITING,
        overlapping_parts,
        parts_with_gaps_and_a_rest,
        parts_with_a_number,
        reading_without_a_check,
        expanded_in_another_layout,
        signs_and_factors,
        counting,
        types,
        indices,
        complex_numbers,
        strange_layouts,
        expanded,
        constant_results,
    ],
)
@pytest.mark.filterwarnings("ignore:The use of `x.T`:UserWarning")
def test_functions_keep_their_results(function):
    example = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7]])
    truth, ours = recorded(function, example), trace(function, example, (ROWS, ONE)).function
    extreme = torch.tensor([[0.0, -0.0, torch.nan], [torch.inf, -torch.inf, 1e300]])
    for x in (example, -2.0 * example, extreme, example):
        for result, expected in zip(ours(x.clone()), truth(x.clone()), strict=True):
            torch.testing.assert_close(result, expected, rtol=2e-15, atol=1e-15, equal_nan=True)
            assert result.dtype == expected.dtype


@pytest.mark.parametrize("function", [*WRITING, constant_results, types])
def test_results_belong_to_the_caller(function):
    """Who changes a result in place changes neither the input nor the next result."""
    x = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7]])
    before = x.clone()
    ours = trace(function, x, (ONE,)).function
    expected = [result.clone() for result in ours(x)]
    for result in ours(x):
        result.zero_()
    assert torch.equal(x, before)
    assert ONE.item() == 1.0
    for result, truth in zip(ours(x), expected, strict=True):
        assert torch.equal(result, truth)
    results = ours(x)
    results[0].fill_(9.0)
    for result, truth in zip(results[1:], expected[1:], strict=True):
        assert torch.equal(result, truth)


def count(function, x=None):
    x = torch.rand(2, 3) if x is None else x
    return len(operations(trace(function, x, (ROWS,)).function.changing.graph))


@pytest.mark.parametrize(
    ("function", "number"),
    [
        (lambda x: (x.exp() + x.exp(),), 2),
        (lambda x: ((x * 1.0 / 1.0 - 0.0 + 0.0).exp() ** 1,), 1),
        (lambda x: (x.exp().neg().neg(),), 1),
        (lambda x: (x.exp().view(6).view(3, 2).view(6).unsqueeze(0),), 2),
        (lambda x: (x.exp().expand(2, 3).t().t(),), 1),
        (lambda x: (x.exp() * torch.ones(3) - torch.zeros_like(x),), 1),
        (lambda x: (x.exp() - torch.full_like(x, 4.0).log().sum() - 0.9,), 2),
        (lambda x: (-(x.exp()) / (2.0 * torch.tensor(3.0)) ** 2,), 2),
        (lambda x: (x[:, ROWS],), 1),
        (lambda x: (torch.cat([x[:, :1], x[:, 1:]], 1).exp(),), 4),
    ],
)
def test_what_is_left(function, number):
    assert count(function) == number


def test_gradients_of_sites_are_joined():
    def function(q):
        return (q[:2].square().sum() + q[2].exp() - q[3:].sum().sin()).sum()

    example = torch.rand(4, 7)
    traced = trace(batched(function), example).function
    names = [node.name for node in operations(traced.changing.graph)]
    assert sum(name.startswith("cat") for name in names) == 1
    assert_close(traced(example), recorded(batched(function), example)(example))


def test_gradient_of_silu_is_one_operation():
    example = torch.randn(4, 7)
    traced = trace(batched(lambda q: silu(q).square().sum()), example).function
    names = [node.name.partition("_default")[0] for node in operations(traced.changing.graph)]
    assert names.count("silu_backward") == 1
    assert "fill__scalar" not in names
    truth = recorded(batched(lambda q: silu(q).square().sum()), example)
    for x in (example, 30.0 * example, torch.full((4, 7), torch.nan)):
        for ours, expected in zip(traced(x), truth(x), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-14, atol=1e-15, equal_nan=True)


def test_scales_of_plates_are_not_expanded_first():
    def function(q):
        return Normal(q[0], q[1].exp(), validate_args=False).log_prob(torch.arange(500.0)).sum()

    example = torch.rand(4, 2)
    traced = trace(batched(function), example).function
    with torch.no_grad(), OperationLog() as log:
        traced(example)
    assert log.sizes["log"] == {4}
    assert_close(traced(example), recorded(batched(function), example)(example))
