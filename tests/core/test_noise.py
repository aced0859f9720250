"""Normal numbers: drawn, or made of a seed when there are very many."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pyro_ebm.core import noise
from pyro_ebm.core.noise import Seed, normal_noise, normal_of, normal_or_seed
from pyro_ebm.core.positions import WIDE, laid_out
from tests.statistics import TEST_FAILURE_RATE, Rejected, assert_moments

LAYOUTS = {"innermost": 3, "rows": WIDE}
every_layout = pytest.mark.parametrize("dim", LAYOUTS.values(), ids=LAYOUTS)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _numbers(x, generator=None):
    """As a step gets them."""
    return normal_of(normal_or_seed(x, generator), x)


@pytest.mark.usefixtures("either_noise")
@pytest.mark.parametrize("dim", [2, WIDE - 1, WIDE])
def test_noise_lies_as_its_positions_do(dim):
    x = laid_out(torch.zeros(5, dim))
    assert _numbers(x).stride() == x.stride()


@pytest.mark.usefixtures("either_noise")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3), (0, WIDE), (1, 3), (5, 1), (7, WIDE + 1)])
def test_noise_has_the_shape_and_type_of_the_positions(shape, dtype):
    numbers = _numbers(laid_out(torch.zeros(shape, dtype=dtype)))
    assert numbers.shape == shape
    assert numbers.dtype == dtype
    assert len(numbers.unique()) == numbers.numel()


@pytest.mark.usefixtures("either_noise")
@every_layout
def test_noise_is_the_same_however_positions_lie(dim):
    """Runs that are compiled or continued may hold the same positions otherwise."""
    rows = torch.zeros(5, dim)
    noises = [_numbers(x, _generator()) for x in (rows, rows.mT.contiguous().mT)]
    assert torch.equal(*noises)


@every_layout
def test_few_numbers_are_those_of_torch(dim):
    numbers = _numbers(torch.zeros(5, dim), _generator())
    assert torch.equal(numbers, normal_noise(torch.zeros(5, dim), _generator()))
    flat = torch.randn(5 * dim, generator=_generator())
    assert torch.equal(numbers, flat.view(5, dim) if dim == WIDE else flat.view(dim, 5).mT)


def test_very_many_numbers_are_a_seed(monkeypatch):
    monkeypatch.setattr(noise, "MANY", 10)
    assert isinstance(normal_or_seed(torch.zeros(9, 1), None), torch.Tensor)
    assert isinstance(normal_or_seed(torch.zeros(5, 2), None), Seed)


@pytest.mark.usefixtures("seeded_noise")
def test_the_generator_alone_decides_the_seed():
    x = torch.zeros(1000, 2)
    numbers = [_numbers(x, _generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(numbers[0], numbers[1])
    assert not bool((numbers[0] == numbers[2]).any())


def test_bits_are_those_of_the_published_generator():
    """First outputs of the reference implementation (Vigna, splitmix64.c) from the state 0."""
    outputs = [16294208416658607535, 7960286522194355700, 487617019471545679]
    bits = noise._random_bits(torch.tensor(0), 3).tolist()
    assert [number % 2**64 for number in bits] == outputs


@pytest.mark.parametrize("seed", [0, 1234567, -1, -(2**63), 2**63 - 1])
def test_bits_are_those_of_whole_numbers_without_overflow(seed):
    bits = noise._random_bits(torch.tensor(seed), 20).tolist()
    wanted = [_mixed((counter ^ seed) % 2**64) for counter in range(1, 21)]
    assert [number % 2**64 for number in bits] == wanted


def _mixed(counter):
    z = counter * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_numbers_are_those_of_box_and_muller(dtype, error):
    """The lower half of the bits is the radius, the upper the angle, from minus pi to pi.

    In float32 a fraction near one is off by 3e-8, and a radius of 0.03, the least of so many, by
    that over 0.03.
    """
    bits = noise._random_bits(torch.tensor(1), 1000)
    wanted = []
    for number in bits.tolist():
        radius = math.sqrt(-2.0 * math.log((number % 2**32 + 0.5) / 2**32))
        angle = 2.0 * math.pi * (number >> 32) / 2**32
        wanted.append([radius * math.cos(angle), radius * math.sin(angle)])
    numbers = noise._normal(bits, dtype).view(2, -1).T
    torch.testing.assert_close(numbers.double(), torch.tensor(wanted), rtol=error, atol=error)


def test_half_precision_is_rounded_at_the_end():
    bits = noise._random_bits(torch.tensor(1), 1000)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(noise._normal(bits, dtype), noise._normal(bits, torch.float32).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_bits_are_infinite_or_no_number(dtype):
    extremes = torch.tensor([0, -1, 2**32 - 1, -(2**63), 2**63 - 1, -(2**32)])
    numbers = noise._normal(extremes, dtype)
    assert bool(numbers.isfinite().all())
    largest = math.sqrt(2 * 33 * math.log(2))
    assert numbers.abs().max().item() == pytest.approx(largest, rel=1e-6)


def _law(x):
    """Moments of all, of neighbours and of the two numbers of one pair; and the whole law."""
    flat = x.flatten().double()
    half = len(flat) // 2
    neighbours = flat.view(-1, 8)
    pairs = torch.stack([flat[:half], flat[half:]], dim=-1)
    laws = ((neighbours, 0.0, 1.0), (pairs, 0.0, 1.0), (pairs.square(), 1.0, 2.0))
    for draws, mean, variance in laws:
        num_columns = draws.shape[1]
        assert_moments(draws, torch.full((num_columns,), mean), variance * torch.eye(num_columns))
    if stats.kstest(flat.numpy(), "norm").pvalue < TEST_FAILURE_RATE:
        raise Rejected("not the law of a standard normal")


def _seeded(dtype, dim=8):
    return _numbers(torch.zeros(2**17 // dim, dim, dtype=dtype), _generator(3))


@pytest.mark.usefixtures("seeded_noise")
@pytest.mark.parametrize("dim", [8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_of_a_seed_are_normal_and_independent(dtype, dim):
    _law(_seeded(dtype, dim))


@pytest.mark.usefixtures("seeded_noise")
def test_numbers_of_successive_seeds_are_independent():
    generator, x = _generator(4), torch.zeros(2**13, 8)
    _law(torch.stack([_numbers(x, generator) for _ in range(2)]))


MIXED = noise._random_bits


@pytest.mark.usefixtures("seeded_noise")
@pytest.mark.parametrize(
    "bits",
    [
        lambda seed, count: torch.arange(count) * noise._GOLDEN_RATIO + seed,  # nothing is mixed
        lambda seed, count: MIXED(seed, count // 2).repeat(2),
        lambda seed, count: MIXED(seed, count) & (2**63 - 1),  # a half of the angles
        lambda seed, count: MIXED(seed, count) | (1 << 31),  # a half of the radii
    ],
    ids=["unmixed", "twice", "no sign", "short"],
)
def test_bits_that_are_not_random_are_rejected(bits, monkeypatch):
    monkeypatch.setattr(noise, "_random_bits", bits)
    with pytest.raises(Rejected):
        _law(_seeded(torch.float64))
