"""The equations of the seeds, each as a test, and ``docs/equations.md`` kept to the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_ebm.energies import GaussianEnergy, MLPEnergy
from pyro_ebm.energies.quadrature import tabulate
from pyro_ebm.kernels import Langevin
from pyro_ebm.kernels.langevin import LangevinNoise
from pyro_ebm.objectives import ContrastiveDivergence, MaximumLikelihood
from pyro_ebm.potentials import ModelPotential, ProximalPotential

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\|(?P<cells>.*`(?P<symbol>pyro_ebm\.[\w.]+)`.*`(?P<test>tests/\S+)`.*)\|$")
MENTION = re.compile(r"[Ss]eed (00\d)((?:(?![Ss]eed 0)[^;.])*)")
NUMBERS = re.compile(r"(equation|section)s? (\d\w?(?:(?:, | and )\d\w?)*)")


@dataclass(frozen=True)
class Row:
    """One row of the page."""

    cells: tuple[str, ...]
    symbol: str
    test: str

    @property
    def seed(self) -> str:
        return self.cells[0]

    @property
    def labels(self) -> set[str]:
        return set(self.cells[1].split(", "))


def read_rows() -> list[Row]:
    lines = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8").splitlines()
    matches = [match for line in lines if (match := ROW.match(line))]
    tables = [line for line in lines if line.startswith("|") and "tests/" in line]
    assert len(matches) == len(tables), "a row of docs/equations.md cannot be read"
    return [
        Row(
            tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", match["cells"])),
            match["symbol"],
            match["test"],
        )
        for match in matches
    ]


def labels_of(tail: str) -> set[str]:
    """Labels as the page writes them: ``(14)`` for equations, ``§4`` for sections."""
    found = {words for words in ("derivation", "last formula") if words in tail}
    for kind, numbers in NUMBERS.findall(tail):
        each = re.split(r", | and ", numbers)
        found |= {f"({n})" if kind == "equation" else f"§{n}" for n in each}
    return found


def mentions(text: str | None) -> list[tuple[str, set[str]]]:
    flat = " ".join((text or "").split())
    return [(seed, labels_of(tail)) for seed, tail in MENTION.findall(flat)]


def find_symbol(path: str) -> object:
    parts = path.split(".")
    for stop in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:stop]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[stop:], module)
    raise ModuleNotFoundError(path)


def find_test(node_id: str) -> ast.FunctionDef:
    path, name = node_id.split("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return functions[name]


def documented() -> list[tuple[str, str, set[str]]]:
    """Every mention of a seed in a docstring of the library: name, seed, labels."""
    found = []
    for path in sorted((ROOT / "pyro_ebm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                name = getattr(node, "name", path.stem)
                found += [(name, *mention) for mention in mentions(ast.get_docstring(node))]
    return found


ROWS = read_rows()
SEED_ROWS = [row for row in ROWS if re.fullmatch(r"00\d", row.seed)]
DOCUMENTED = documented()


def _id(row: Row) -> str:
    return f"{row.seed}-{row.cells[1]}"


def test_there_is_something_to_keep_together():
    assert {row.seed for row in SEED_ROWS} == {"000", "001", "002", "003"}
    assert len(DOCUMENTED) >= 5


@pytest.mark.parametrize("row", ROWS, ids=_id)
def test_symbols_exist(row):
    assert inspect.getdoc(find_symbol(row.symbol))


@pytest.mark.parametrize("row", ROWS, ids=_id)
def test_named_tests_exist(row):
    assert find_test(row.test).name.startswith("test_")


@pytest.mark.parametrize("row", SEED_ROWS, ids=_id)
def test_rows_are_referred_to_by_code_or_test(row):
    texts = [inspect.getdoc(find_symbol(row.symbol)), ast.get_docstring(find_test(row.test))]
    cited = [labels for text in texts for seed, labels in mentions(text) if seed == row.seed]
    assert row.labels <= set().union(*cited), (row.labels, cited)


@pytest.mark.parametrize(("name", "seed", "labels"), DOCUMENTED)
def test_docstrings_have_rows(name, seed, labels):
    rows = [row for row in SEED_ROWS if row.seed == seed and row.symbol.endswith(f".{name}")]
    assert rows, f"{name} names seed {seed}, but no row of docs/equations.md does"
    assert labels <= set().union(*(row.labels for row in rows))


# Seed 000: a decoder g on 2 latent numbers, 3 pixels.

SIGMA = 0.6
WEIGHT = torch.tensor([[1.0, -0.5], [0.3, 0.8], [-0.2, 0.4]])
PIXELS = torch.tensor([0.5, -0.3, 1.1])
ANCHOR = torch.tensor([0.7, -1.2])


def decode(z):
    return torch.tanh(z @ WEIGHT.T)


def latent_model(x, decoder):
    z = pyro.sample("z", dist.Normal(0.0, torch.ones(2)).to_event(1))
    pyro.sample("x", dist.Normal(decoder(z), SIGMA).to_event(1), obs=x)


def jacobian(z):
    return torch.stack([torch.autograd.functional.jacobian(decode, row) for row in z])


def residual_term(z):
    """Gradient of the log-likelihood, as a vector-Jacobian product."""
    return torch.einsum("cpd,cp->cd", jacobian(z), PIXELS - decode(z)) / SIGMA**2


def test_posterior_is_the_joint():
    """Seed 000, sections 1, 2a, 2b and 2c: the constant dropped is one in z."""
    z = torch.randn(6, 2)
    squares = (PIXELS - decode(z)).square().sum(-1) / (2 * SIGMA**2) + z.square().sum(-1) / 2
    dropped = ModelPotential(latent_model, PIXELS, decode)(z) - squares
    constant = 3 * math.log(SIGMA) + 5 / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(dropped, torch.full((6,), constant))


def test_gradient_of_the_joint():
    """Seed 000, sections 3a, 3b and 3c; potentials have the opposite sign."""
    z = torch.randn(6, 2)
    _, grad = ModelPotential(latent_model, PIXELS, decode).value_and_grad(z)
    torch.testing.assert_close(-grad, residual_term(z) - z)


def test_distance_term_has_a_plus_sign():
    """Seed 000, section 4: the expanded gradient ends with + (z - anchor) / sigma_z^2."""
    z, scale = torch.randn(6, 2), 0.5
    posterior = ModelPotential(latent_model, PIXELS, decode)
    _, grad = (posterior + ProximalPotential(ANCHOR, scale)).value_and_grad(z)
    pull = (z - ANCHOR) / scale**2
    torch.testing.assert_close(grad, -residual_term(z) + z + pull)
    printed = -residual_term(z) + z - pull
    torch.testing.assert_close(grad - printed, 2 * pull)


def test_distance_term_tilts_the_posterior():
    """Seed 000, section 4, in a linear model: precision and mean of the tilted Gaussian."""
    scale = 0.5
    posterior = ModelPotential(latent_model, PIXELS, lambda z: z @ WEIGHT.T)
    tilted = posterior + ProximalPotential(ANCHOR, scale)
    likelihood = WEIGHT.T @ WEIGHT / SIGMA**2
    precision = torch.eye(2) + likelihood + torch.eye(2) / scale**2
    mean = torch.linalg.solve(precision, WEIGHT.T @ PIXELS / SIGMA**2 + ANCHOR / scale**2)
    z = torch.randn(6, 2)
    _, grad = tilted.value_and_grad(z)
    torch.testing.assert_close(grad, (z - mean) @ precision)


# Seed 001: a categorical q over 4 states.


def test_score_has_mean_zero_and_gives_the_gradient():
    """Seed 001, derivation and last formula, by enumeration."""
    logits = torch.tensor([0.3, -0.4, 0.9, 0.0], requires_grad=True)
    log_joint = torch.tensor([-1.0, -2.5, -0.3, -1.7])
    log_q = logits.log_softmax(0)
    elbo = (log_q.exp() * (log_joint - log_q)).sum()
    (gradient,) = torch.autograd.grad(elbo, logits, retain_graph=True)
    scores = torch.func.jacrev(lambda w: w.log_softmax(0))(logits.detach())
    weights, signals = log_q.detach().exp(), (log_joint - log_q).detach()
    torch.testing.assert_close(weights @ scores, torch.zeros(4))
    torch.testing.assert_close((weights * signals) @ scores, gradient)


# Seed 002 and seed 003: energies on the line, expectations by quadrature.


def test_gradient_of_the_log_partition_function():
    """Seed 002, derivation; seed 003, equations 1 and 2: minus the mean gradient of the energy."""
    energy = MLPEnergy((), hidden=(3,))
    density = tabulate(lambda x: energy(x).detach(), -12.0, 12.0)
    mean_energy = (density.masses * energy(density.points)).sum()
    for parameter, slope in _slopes(mean_energy, energy):
        numerical = _difference(
            lambda: tabulate(lambda x: energy(x).detach(), -12.0, 12.0).log_partition, parameter
        )
        torch.testing.assert_close(numerical, -slope, rtol=1e-6, atol=1e-7)


def _slopes(value, module):
    parameters = list(module.parameters())
    grads = torch.autograd.grad(value, parameters)
    return [(p.data.view(-1), g.reshape(-1)) for p, g in zip(parameters, grads, strict=True)]


def _difference(function, parameter, h=1e-5):
    slopes = torch.zeros_like(parameter)
    for i in range(len(parameter)):
        kept = float(parameter[i])
        parameter[i] = kept + h
        above = function()
        parameter[i] = kept - h
        slopes[i] = (above - function()) / (2 * h)
        parameter[i] = kept
    return slopes


@dataclass(frozen=True, eq=False)
class Enumerated(Langevin):
    """Langevin whose noise is +1 and -1 for each datum: exact for quadratic energies."""

    def noise(self, state, generator):
        signs = torch.tensor([1.0, -1.0]).repeat(len(state.position) // 2)
        return LangevinNoise(signs.reshape(-1, 1))


def test_positive_and_negative_phase():
    """Seed 003, equations 2, 3, 7 and 16: both phases, with the chains constant in theta."""
    energy, x = MLPEnergy(2, hidden=(3,)), torch.randn(4, 2)
    objective = ContrastiveDivergence(Enumerated(step_size=0.3), num_steps=1)
    q = x.clone().requires_grad_()
    (drift,) = torch.autograd.grad(energy(q).sum(), q)
    chains = x - 0.3**2 / 2 * drift + 0.3 * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    descent = energy(x).mean() - energy(chains).mean()
    expected = torch.autograd.grad(descent, list(energy.parameters()), allow_unused=True)
    objective(energy, x).backward()
    for parameter, grad in zip(energy.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


@pytest.mark.parametrize(("step_size", "precision"), [(0.1, 1.0025125787), (0.5, 1.0717967697)])
def test_contrastive_divergence_is_biased_by_its_kernel(step_size, precision):
    """Seed 003, equations 3, 7 and 14: on N(0, 1) the fixed point is not the precision 1."""
    energy = GaussianEnergy(torch.zeros(1), precision=nn.Parameter(torch.full((1,), precision)))
    x = torch.tensor([1.0, 1.0, -1.0, -1.0]).reshape(-1, 1)
    ContrastiveDivergence(Enumerated(step_size=step_size), num_steps=1)(energy, x).backward()
    torch.testing.assert_close(energy.precision.grad, torch.zeros(1), rtol=0, atol=1e-10)


def test_contrastive_divergence_does_not_see_the_weights_of_far_modes():
    """Seed 003, equation 7: "the bias is always small" is wrong; here it is all there is."""
    balance = nn.Parameter(torch.zeros(()))
    x = torch.cat([torch.full((90, 1), -3.0), torch.full((10, 1), 3.0)])

    class TwoModes(nn.Module):
        event_shape = torch.Size([1])

        def forward(self, x):
            wells = torch.stack([2 * (x + 3).square() - balance, 2 * (x - 3).square() + balance])
            return -torch.logsumexp(-wells.squeeze(-1), dim=0)

    likelihood_gradient = 0.9 - 0.1  # of the mean energy; the model's own is zero at balance 0
    ContrastiveDivergence(Enumerated(step_size=0.1), num_steps=1)(TwoModes(), x).backward()
    assert abs(float(balance.grad)) < 1e-6 * likelihood_gradient


def test_maximum_likelihood_with_stationary_chains():
    """Seed 002, last formula; seed 003, equation 2: the phases, with moments known exactly."""
    step_size, model_variance = 0.5, 1 / 1.2
    stationary = model_variance / (1 - step_size**2 * 1.2 / 4)
    energy = GaussianEnergy(torch.zeros(1), precision=nn.Parameter(torch.full((1,), 1.2)))
    start = _Fixed(math.sqrt(stationary) * torch.tensor([1.0, 1.0, -1.0, -1.0]).reshape(-1, 1))
    objective = MaximumLikelihood(Enumerated(step_size=step_size), 1, initial=start)
    objective(energy, 2.0 * torch.tensor([1.0, 1.0, -1.0, -1.0]).reshape(-1, 1)).backward()
    expected = 0.5 * (4.0 - stationary)
    torch.testing.assert_close(energy.precision.grad, torch.full((1,), expected))


class _Fixed(torch.distributions.Distribution):
    def __init__(self, points):
        super().__init__(event_shape=points.shape[1:], validate_args=False)
        self.points = points

    def sample(self, sample_shape=()):
        del sample_shape
        return self.points
