"""Sums of potentials: the energy-calibrated posterior in closed form."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ebm.core.checks import NonFiniteError, ShapeError
from pyro_ebm.energies import GaussianEnergy, QuarticEnergy
from pyro_ebm.potentials import EnergyPotential, ModelPotential, ProximalPotential, SumPotential

A = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.0]])
X = torch.tensor([0.4, -1.0, 2.0])
NOISE, SCALE = 0.6, 0.3
ANCHOR = torch.tensor([1.5, -0.5])
PRECISION = torch.eye(2) + A.T @ A / NOISE**2 + torch.eye(2) / SCALE**2
MEAN = torch.linalg.solve(PRECISION, A.T @ X / NOISE**2 + ANCHOR / SCALE**2)


def linear_gaussian():
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(A @ z, NOISE).to_event(1), obs=X)


class SeedsSign(ProximalPotential):
    """The last line of seed 000, section 4: minus ``(q - anchor) / scale^2``."""

    def value_and_grad(self, q):
        value, grad = super().value_and_grad(q)
        return value, -grad


def finite_differences(potential, q, step=1e-5):
    shifts = step * torch.eye(q.shape[-1])
    pairs = [potential(q + shift) - potential(q - shift) for shift in shifts]
    return torch.stack(pairs, dim=-1) / (2 * step)


def test_posterior_and_anchor_in_closed_form():
    calibrated = ModelPotential(linear_gaussian) + ProximalPotential(ANCHOR, SCALE)
    q = calibrated.initial(7)
    value, grad = calibrated.value_and_grad(q)
    torch.testing.assert_close(grad, (q - MEAN) @ PRECISION)
    quadratic = 0.5 * ((q - MEAN) @ PRECISION * (q - MEAN)).sum(-1)
    torch.testing.assert_close(value - value[0], quadratic - quadratic[0])
    torch.testing.assert_close(calibrated(q), value)
    hessian = torch.autograd.functional.hessian(calibrated, q[0])
    torch.testing.assert_close(hessian, PRECISION)


def test_gradient_sign():
    calibrated = ModelPotential(linear_gaussian) + ProximalPotential(ANCHOR, SCALE)
    q = calibrated.initial(7)
    _, grad = calibrated.value_and_grad(q)
    torch.testing.assert_close(grad, finite_differences(calibrated, q), rtol=1e-7, atol=1e-6)


def test_seeds_sign_is_a_mutant_that_differences_reject():
    mutant = ModelPotential(linear_gaussian) + SeedsSign(ANCHOR, SCALE)
    q = mutant.initial(7)
    _, grad = mutant.value_and_grad(q)
    error = grad - finite_differences(mutant, q)
    torch.testing.assert_close(error, -2 * (q - ANCHOR) / SCALE**2, rtol=1e-6, atol=1e-6)
    assert torch.linalg.eigvalsh(PRECISION - 2 * torch.eye(2) / SCALE**2).min() < 0


def test_anchor_vanishes_with_a_wide_scale():
    posterior = ModelPotential(linear_gaussian)
    q = posterior.initial(3)
    wide = (posterior + ProximalPotential(ANCHOR, 1e6)).value_and_grad(q)
    torch.testing.assert_close(wide, posterior.value_and_grad(q))


def test_sums_nest_and_keep_the_sites_of_the_first():
    posterior = ModelPotential(linear_gaussian)
    energy = EnergyPotential(QuarticEnergy(2), name="other")
    total = posterior + energy + ProximalPotential(ANCHOR, SCALE)
    q = posterior.initial(4)
    parts = (posterior, energy, ProximalPotential(ANCHOR, SCALE))
    torch.testing.assert_close(total(q), sum(part(q) for part in parts))
    assert list(total.constrain(q)) == ["z"]
    assert list(total.transforms()) == ["z"]
    assert (total.dim, total.dtype, total.device) == (2, q.dtype, q.device)
    torch.testing.assert_close(total.unconstrain(total.constrain(q)), q)
    assert torch.equal(total.flatten(total.unflatten(q)), q)


def test_explanation_finds_the_term():
    bad = EnergyPotential(lambda x: x.sum(-1).sqrt(), 2)
    q = torch.tensor([-1.0, -1.0])
    good = EnergyPotential(GaussianEnergy.standard(2))
    assert "the term EnergyPotential" in (good + bad).explain_nonfinite(q)
    assert "is nan at x=" in (bad + good).explain_nonfinite(q)


def test_vectors_of_different_length_do_not_add():
    posterior = ModelPotential(linear_gaussian)
    with pytest.raises(ShapeError, match=r"function of 2 unconstrained numbers.*of 3"):
        posterior + ProximalPotential(torch.zeros(3), SCALE)
    with pytest.raises(ShapeError, match="of the same vector"):
        SumPotential(EnergyPotential(QuarticEnergy(3)), ProximalPotential(ANCHOR, SCALE))


def test_anchors_that_are_refused():
    for anchor in (torch.zeros(4, 2), torch.zeros(())):
        with pytest.raises(ShapeError, match="different anchors have different targets"):
            ProximalPotential(anchor, SCALE)
    for bad in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="anchor holds 1 values"):
            ProximalPotential(torch.tensor([0.0, bad]), SCALE)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="scale"):
            ProximalPotential(ANCHOR, scale)


def test_anchor_is_a_constant():
    anchor = torch.zeros(2, requires_grad=True)
    term = ProximalPotential(2 * anchor, SCALE)
    assert not term.anchor.requires_grad
    assert not term(torch.ones(3, 2)).requires_grad


def test_anchors_of_another_kind_are_named():
    with pytest.raises(ShapeError, match=r"anchor is \[0\.0, 0\.0\].*torch\.tensor"):
        ProximalPotential([0.0, 0.0], 1.0)
    with pytest.raises(ShapeError, match=r"anchor has dtype torch\.int64"):
        ProximalPotential(torch.tensor([1, 2]), 1.0)


def test_anchor_takes_the_type_of_the_positions():
    term = ProximalPotential(ANCHOR.double(), SCALE)
    q = torch.ones(3, 2, dtype=torch.float32)
    assert term(q).dtype == torch.float32
    assert [part.dtype for part in term.value_and_grad(q)] == [torch.float32] * 2
    torch.testing.assert_close(term(q).double(), term(q.double()), rtol=1e-5, atol=1e-5)


def test_positions_of_another_length_are_named():
    term = ProximalPotential(torch.zeros(1), 1.0)
    for method in (term, term.value_and_grad):
        with pytest.raises(ShapeError, match=r"\(4, 3\).*event shape \(1,\)"):
            method(torch.zeros(4, 3))


def test_what_is_no_term_is_named():
    for other in (3, ANCHOR, QuarticEnergy(2)):
        with pytest.raises(TypeError, match=r"cannot be added.*a term needs dim, __call__"):
            ModelPotential(linear_gaussian) + other
