"""Many chains from one function: batched, looped, never stale, and one bad chain alone."""

from __future__ import annotations

import math
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ebm.core.checks import ModelError, NonFiniteError, ShapeError
from pyro_ebm.potentials import ModelPotential


def branching():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("kink", -z if z > 0 else 3.0 * z)


def read_out():
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    for _ in range(1 + int(z[0].item() > 0)):
        pyro.factor(f"turn_{_}", -z.square().sum())


def choosing_a_branch_for_all():
    """``_is_all_true`` looks at all chains at once, so the branch of one would be another's."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("f", -z if torch._is_all_true(z > 0) else 3.0 * z)


def ordered_by_a_value():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    for name in ("a", "b") if z > 0 else ("b", "a"):
        pyro.sample(name, dist.Normal(z, 1.0 if name == "a" else 2.0))


def by_mask():
    z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.factor("f", -z[z > 0].sum())


def through_numpy():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("f", -z * bool(z.detach().numpy() > 0))


def in_place():
    z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    x = torch.zeros(3)
    x[0] = z[0]
    x[1:] = 2.0 * z[1:]
    pyro.factor("f", -x.square().sum())


UNBATCHABLE = [
    (branching, "data-dependent control flow"),
    (read_out, r"\.item\(\)"),
    (choosing_a_branch_for_all, "depends on a latent value|data-dependent|batching rule"),
    (ordered_by_a_value, "data-dependent control flow"),
    (by_mask, "dynamic shape"),
    (through_numpy, "storage"),
    (in_place, "inplace arithmetic"),
]


def one_by_one(potential, q):
    """The truth: the model executed at each position, without batching and without graphs."""
    values, grads = [], []
    for row in q:
        leaf = row.clone().requires_grad_()
        value = potential.at(leaf).potential_energy()
        values.append(value.detach())
        grads.append(torch.autograd.grad(value, leaf)[0])
    return torch.stack(values), torch.stack(grads)


def assert_true(potential, q):
    values, grads = one_by_one(potential, q)
    value, grad = potential.value_and_grad(q)
    torch.testing.assert_close(value, values)
    torch.testing.assert_close(grad, grads)
    torch.testing.assert_close(potential(q), values)


@pytest.mark.parametrize(("model", "reason"), UNBATCHABLE, ids=lambda x: getattr(x, "__name__", ""))
def test_models_that_cannot_be_batched_are_looped_with_one_warning(model, reason):
    potential = ModelPotential(model)
    q = potential.initial(9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_true(potential, q)
        assert_true(potential, q[:4])
        potential.constrain(q)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert model.__name__ in message
    assert "one chain after another" in message
    with pytest.warns(UserWarning, match=reason):
        ModelPotential(model).value_and_grad(q)


@pytest.mark.parametrize("model", [branching, in_place])
def test_compiling_needs_batching(model):
    potential = ModelPotential(model).compiled()
    with pytest.raises(ModelError, match="cannot be batched over chains, so it cannot be compiled"):
        potential.value_and_grad(potential.initial(2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of torch.compile
def test_compiled_values_are_equal():
    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(loc, scale), obs=y)

    potential = ModelPotential(model, torch.tensor([1.0, 2.0, -0.3]))
    q = potential.initial(5)
    for ours, expected in zip(
        potential.compiled().value_and_grad(q), potential.value_and_grad(q), strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_numbers_read_from_data_do_not_stop_batching():
    def model(y, count):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if (y > 0).any():
            z = 2.0 * z
        for i in range(int(count.max())):
            pyro.sample(f"y_{i}", dist.Normal(z, 1.0), obs=y[i])

    potential = ModelPotential(model, torch.ones(3), torch.tensor([1, 3]))
    assert_true(potential, potential.initial(5))


def test_numbers_read_from_parameters_are_not_stale():
    def model():
        scale = pyro.param("scale", torch.tensor(2.0))
        pyro.sample("z", dist.Normal(0.0, scale.item() if scale > 1.5 else 10.0 * scale))

    potential = ModelPotential(model)
    q = torch.tensor([[1.0], [2.0]])
    assert potential.value_and_grad(q)[1].flatten().tolist() == [0.25, 0.5]
    with torch.no_grad():
        pyro.param("scale").fill_(0.1)
    assert potential.value_and_grad(q)[1].flatten().tolist() == [1.0, 2.0]


def correlated(is_looped):
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        covariance = torch.eye(2) + z * (1.0 - torch.eye(2))
        if is_looped and z.item() > 100.0:
            covariance = torch.eye(2)
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), covariance), obs=torch.ones(2))

    return model


@pytest.mark.parametrize("is_looped", [False, True])
@pytest.mark.filterwarnings("ignore:.*one chain after another:UserWarning")
def test_a_matrix_that_is_not_positive_definite_concerns_its_chain_only(is_looped):
    potential = ModelPotential(correlated(is_looped))
    q = torch.tensor([[0.5], [2.0], [-0.3]])
    value, grad = potential.value_and_grad(q)
    assert torch.isfinite(value).tolist() == [True, False, True]
    assert torch.isfinite(grad[::2]).all()
    torch.testing.assert_close(potential(q), value, equal_nan=True)
    z = q[0, 0].item()
    expected = 0.5 * z**2 + 1.0 / (1.0 + z) + 0.5 * math.log(1.0 - z**2)
    assert value[0].item() == pytest.approx(expected + 1.5 * math.log(2.0 * math.pi))
    assert "'x'" in potential.explain_nonfinite(q[1])


def test_infeasible_points_of_distributions_made_elsewhere_do_not_raise():
    """They keep the validation they were made with, unless it is taken away."""
    prior = dist.Normal(torch.zeros(2), 1.0, validate_args=True).to_event(1).mask(True)
    likelihood = dist.Uniform(0.0, 1.0, validate_args=True)

    def model():
        z = pyro.sample("z", prior)
        pyro.sample("inside", likelihood, obs=z.sum())

    potential = ModelPotential(model)
    q = torch.tensor([[0.5, 0.2], [3.0, 0.0], [-0.3, 0.7]])
    value, grad = potential.value_and_grad(q)
    assert torch.isfinite(value).tolist() == [True, False, True]
    torch.testing.assert_close(grad[::2], q[::2])
    assert likelihood._validate_args is True
    assert "'inside' is -inf" in potential.explain_nonfinite(q[1])


@pytest.mark.parametrize("counts", [[3, 1, 5, 3]])
def test_number_of_chains_and_type_may_change(counts):
    def model(y):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z.sum(), 1.0), obs=y)

    potential = ModelPotential(model, torch.tensor(0.3))
    for count in counts:
        assert_true(potential, potential.initial(count))
    single = potential.initial(4).float()
    value, _ = potential.value_and_grad(single)
    torch.testing.assert_close(value.double(), potential(single.double()), rtol=1e-5, atol=1e-5)
    value, grad = potential.value_and_grad(torch.zeros(2))
    assert (value.shape, grad.shape) == ((), (2,))
    value, grad = potential.value_and_grad(torch.zeros(3, 4, 2))
    assert (value.shape, grad.shape) == ((3, 4), (3, 4, 2))
    value, grad = potential.value_and_grad(torch.zeros(0, 2))
    assert (value.shape, grad.shape) == ((0,), (0, 2))
    assert potential(torch.zeros(0, 2)).shape == (0,)
    assert potential.constrain(torch.zeros(3, 0, 2))["z"].shape == (3, 0, 2)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_exist_in_every_grad_mode(context):
    def model():
        pyro.sample("z", dist.Normal(1.0, 2.0))

    with context():
        value, grad = ModelPotential(model).value_and_grad(torch.tensor([[1.0], [3.0]]))
    assert grad.tolist() == [[0.0], [0.5]]
    assert not value.requires_grad


def test_graph_is_not_changed_by_what_it_computes():
    """In-place operations on fresh constants must not add up from call to call."""

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        weights = torch.tensor([1.0, 2.0]).mul_(2.0)
        weights += torch.ones(2)
        pyro.factor("f", -(weights * z).sum())

    potential = ModelPotential(model)
    q = potential.initial(4)
    first = potential.value_and_grad(q)[0]
    assert torch.equal(potential.value_and_grad(q)[0], first)
    assert_true(potential, q)


def test_long_loops():
    def model(y):
        rate = pyro.sample("rate", dist.LogNormal(torch.zeros(2), 0.2).to_event(1))
        x = torch.ones(2)
        for _ in range(60):
            flow = x.prod()
            x = x + 0.01 * torch.stack([rate[0] * x[0] - flow, flow - rate[1] * x[1]])
        pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)

    potential = ModelPotential(model, torch.ones(2))
    assert_true(potential, potential.initial(3))


def module_level_model(y):
    pyro.sample("z", dist.Normal(y, 1.0))


def test_pickles_with_and_without_a_graph():
    potential = ModelPotential(module_level_model, torch.tensor(1.0))
    q = potential.initial(3)
    for _ in range(2):
        twin = pickle.loads(pickle.dumps(potential))
        torch.testing.assert_close(twin(q), potential(q))
        for ours, theirs in zip(twin.value_and_grad(q), potential.value_and_grad(q), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("full"), ModelError("no"), ShapeError("no"), NonFiniteError("no")],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_the_loop_would_not_mend_pass_through(error):
    is_broken = []

    class Fails(dist.Normal):
        def log_prob(self, value):
            if is_broken:
                raise error
            return super().log_prob(value)

    def model():
        pyro.sample("z", Fails(0.0, 1.0))

    potential = ModelPotential(model)
    q = torch.zeros(3, 1)
    is_broken.append(True)
    for method in (potential._batcher.value_and_grad, potential):
        with pytest.raises(type(error)) as caught:
            batcher_call(potential, method, q)
        assert caught.value is error
    is_broken.clear()
    assert_true(potential, q)
    assert potential._batcher.is_batchable


def batcher_call(potential, method, q):
    """Without the check that comes before batching and would meet the error first."""
    potential._batcher.prepare = lambda row: None
    return method(q)


def test_cancellation_in_single_precision_does_not_stop_batching():
    """Two terms of size 1e9 cancel, so that the rest is rounding, another in each order."""
    x = 1e3 * torch.randn(300, 37, dtype=torch.float32)

    def model():
        z = pyro.sample("z", dist.Normal(x.new_zeros(37), 1.0).to_event(1))
        pyro.factor("plus", (x @ z).square().sum())
        pyro.factor("minus", -(z @ (x.T @ (x @ z))))

    potential = ModelPotential(model)
    potential.value_and_grad(potential.initial(5))
    assert potential._batcher.is_batchable


def test_a_frozen_branch_is_seen_beside_large_terms():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", torch.tensor(-5.0) if torch._is_all_true(z > 0) else torch.tensor(3.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    potential = ModelPotential(model, 3.0 * torch.randn(10_000))
    with pytest.warns(UserWarning, match="one chain after another"):
        assert_true(potential, torch.tensor([[1.0], [-1.0]]))


def test_the_warning_says_whose_gradient_is_missing():
    with pytest.warns(UserWarning, match=r"\.item\(\) or numpy.*MALA stays exact, unadjusted"):
        ModelPotential(through_numpy).value_and_grad(torch.zeros(2, 1))
