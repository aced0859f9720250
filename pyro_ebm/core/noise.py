"""Random numbers of the steps: standard normal for coordinates, uniform for decisions."""

from __future__ import annotations

import math
import sys
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_ebm.core.positions import is_wide
from pyro_ebm.core.processor import has_avx512

MANY = 2**16 if has_avx512() else sys.maxsize
"""Numbers from which on noise is a seed: torch draws on one core, at 2.6 nanoseconds a number.

With fewer, thirty operations in place of one would matter to steps that are not compiled. Without
AVX-512 products of integers of 64 bits are so slow that drawing is faster.
"""


class Seed(NamedTuple):
    """Stands for very many standard normal numbers, which a step makes when it needs them."""

    number: Tensor
    """Uniform on the integers of 64 bits, a scalar."""


NormalNoise: TypeAlias = Tensor | Seed
"""Standard normal numbers ``(C, dim)``, or their seed; :func:`normal_of` gives the numbers."""


def normal_or_seed(x: Tensor, generator: torch.Generator | None) -> NormalNoise:
    """Standard normal numbers of the shape and type of ``x`` ``(C, n)``; a seed for very many.

    Which of the two is decided by shape, device and processor alone. A compiled step makes the
    numbers of a seed on all cores, in the loops that need them; accelerators draw in parallel.
    """
    if x.device.type == "cpu" and x.numel() >= MANY:
        return Seed(torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=x.device))
    return normal_noise(x, generator)


def normal_of(noise: NormalNoise, x: Tensor) -> Tensor:
    """The numbers themselves, of the shape and type of ``x`` ``(C, n)``."""
    if isinstance(noise, Tensor):
        return noise
    numbers = _normal(_random_bits(noise.number, -(-x.numel() // 2)), x.dtype)
    return _like(x, numbers[: x.numel()])


def normal_noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the shape and type of ``x`` ``(C, n)``.

    The same numbers however ``x`` lies: they are drawn in the order of
    :func:`pyro_ebm.core.positions.laid_out`.
    """
    numbers = torch.randn(x.numel(), generator=generator, dtype=x.dtype, device=x.device)
    return _like(x, numbers)


def uniform_noise(
    x: Tensor, num_numbers: int, generator: torch.Generator | None
) -> tuple[Tensor, ...]:
    """Numbers uniform on [0, 1) in float64, each ``(C,)``, for the chains of ``x``."""
    shape = (num_numbers, len(x))
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=x.device).unbind()


def _like(x: Tensor, numbers: Tensor) -> Tensor:
    """The numbers in the shape of ``x``: the first of them are neighbours when it is laid out."""
    if is_wide(x):
        return numbers.view(x.shape)
    numbers = numbers.view(x.mT.shape).mT
    return numbers.contiguous() if x.is_contiguous() else numbers


_GOLDEN_RATIO, _FIRST_FACTOR, _SECOND_FACTOR = (
    0x9E3779B97F4A7C15 - 2**64,
    0xBF58476D1CE4E5B9 - 2**64,
    0x94D049BB133111EB - 2**64,
)
_LOW_HALF = 2**32 - 1


def _random_bits(seed: Tensor, count: int) -> Tensor:
    """The mixing function of SplitMix64 at so many counters, ``(count,)`` of 64 bits each.

    With the seed 0 the sequence from the state 0; any other flips bits of the counters. Steele,
    Lea and Flood (2014), Fast splittable pseudorandom number generators, with the shifts and
    factors of Stafford's variant 13.
    """
    # Not a sum: compilers may assume that what grows with a loop's counter does not overflow.
    z = torch.arange(1, count + 1, device=seed.device).bitwise_xor_(seed).mul_(_GOLDEN_RATIO)
    z.bitwise_xor_(_shifted(z, 30)).mul_(_FIRST_FACTOR)
    z.bitwise_xor_(_shifted(z, 27)).mul_(_SECOND_FACTOR)
    return z.bitwise_xor_(_shifted(z, 31))


def _shifted(z: Tensor, num_bits: int) -> Tensor:
    """To the right, with zeros from the left: integers of torch keep their sign otherwise."""
    return (z >> num_bits).bitwise_and_((1 << (64 - num_bits)) - 1)


def _normal(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Two standard normal numbers of each 64 bits (Box and Muller 1958), ``(2 count,)``."""
    precise = torch.promote_types(dtype, torch.float32)  # half precision has too few numbers
    angle = (bits >> 32).to(precise).mul_(2.0 * math.pi * 2.0**-32)
    # Half a unit keeps the logarithm finite: no number is larger than 6.8.
    uniform = (bits & _LOW_HALF).to(precise).mul_(2.0**-32).add_(2.0**-33)
    radius = uniform.log_().mul_(-2.0).sqrt_()
    return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)]).to(dtype)
