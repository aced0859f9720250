"""Owned randomness: one generator decides, and the global one is left alone."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ebm.core.randomness import forked_rng, own_generator


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_generator_given_is_the_one_used():
    generator, before = _generator(), torch.get_rng_state()
    assert own_generator(generator) is generator
    assert torch.equal(generator.get_state(), _generator().get_state())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("set_seed", [torch.manual_seed, pyro.set_rng_seed])
def test_the_global_seed_decides_without_one(set_seed):
    def draw(seed):
        set_seed(seed)
        return torch.rand(3, generator=own_generator(None))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_runs_without_a_generator_differ():
    first, second = (torch.rand(3, generator=own_generator(None)) for _ in range(2))
    assert not torch.equal(first, second)


def test_a_new_generator_is_apart_from_the_global_one():
    generator, before = own_generator(None), torch.get_rng_state()
    torch.rand(3, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)


def _forked_draws(generator):
    with forked_rng(generator):
        return torch.cat([torch.rand(2), dist.Normal(0.0, 1.0).sample((2,))])


def test_the_same_generator_gives_the_same_draws_inside():
    torch.manual_seed(1)
    first = _forked_draws(_generator(3))
    torch.manual_seed(2)
    assert torch.equal(_forked_draws(_generator(3)), first)
    assert not torch.equal(_forked_draws(_generator(4)), first)


def test_blocks_of_one_generator_differ():
    generator = _generator()
    assert not torch.equal(_forked_draws(generator), _forked_draws(generator))


def test_the_global_state_is_restored():
    before = torch.get_rng_state()
    _forked_draws(_generator())
    assert torch.equal(torch.get_rng_state(), before)


def _draw_and_fail():
    with forked_rng(_generator()):
        torch.rand(3)
        raise ValueError("own")


def test_the_global_state_is_restored_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="own"):
        _draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_may_be_nested():
    with forked_rng(_generator(1)):
        expected = torch.rand(2)
    with forked_rng(_generator(1)):
        _forked_draws(_generator(2))
        assert torch.equal(torch.rand(2), expected)
