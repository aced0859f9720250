"""Chains on another device than the default one.

Where there is no second device the default is ``meta``, whose tensors hold nothing: one that is
made without saying where fails as it meets those of the chains, as one on the CPU does among
chains on a GPU.
"""

from __future__ import annotations

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import (
    HMC,
    MALA,
    NUTS,
    ROTATIONS,
    SGLD,
    AnnealedLangevin,
    ChEESHMC,
    Langevin,
    PreconditionedMALA,
    ReplicaExchange,
    UnderdampedLangevin,
)
from tests.sampling.runs import driver

on_gpu = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
)

KERNELS = {
    "mala": MALA,
    "preconditioned_mala": PreconditionedMALA,
    "langevin": Langevin,
    "underdamped": UnderdampedLangevin,
    "sgld": SGLD,
    "annealed": lambda target: AnnealedLangevin(
        target, step_size=1e-3, noise_levels=(3.0, 1.0), steps_per_level=3
    ),
    "hmc": HMC,
    "nuts": NUTS,
    "nuts_dense": lambda target: NUTS(target, full_mass=True),
    "nuts_rotations": lambda target: NUTS(target, integrator=ROTATIONS),
    "chees": ChEESHMC,
    "chees_dense": lambda target: ChEESHMC(target, full_mass=True),
    "chees_dense_rotations": lambda target: ChEESHMC(target, full_mass=True, integrator=ROTATIONS),
    "tempering": lambda target: ReplicaExchange(HMC(target), num_replicas=3),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
every_device = pytest.mark.parametrize("device", ["cpu", on_gpu])


def _gaussian(device):
    return GaussianEnergy(torch.zeros(3), covariance=torch.eye(3)).to(device), ()


def _regression(device):
    data = torch.linspace(-1.0, 1.0, 15).reshape(5, 3).to(device)
    mean, one, simplex = torch.zeros(3).to(device), torch.ones(()).to(device), torch.ones(3)

    def model(data):
        slope = pyro.sample("slope", dist.Normal(mean, one).to_event(1))
        noise = pyro.sample("noise", dist.HalfNormal(one))
        share = pyro.sample("share", dist.Dirichlet(simplex.to(device)))
        with pyro.plate("rows", 5, device=device):
            pyro.sample("y", dist.Normal(slope * share, noise).to_event(1), obs=data)

    return model, (data,)


def _mixture(device):
    data, mean, probs = (
        torch.tensor(v).to(device) for v in ([-2.0, 2.5, 3.0], [-1.0, 1.0], [0.3, 0.7])
    )
    one = torch.ones(()).to(device)

    def model(data):
        means = pyro.sample("means", dist.Normal(mean, one).to_event(1))
        with pyro.plate("rows", 3, device=device):
            group = pyro.sample("group", dist.Categorical(probs), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(means[group], one), obs=data)

    return model, (data,)


def _incomplete(device):
    """Scaled data, some of which are missing."""
    data = torch.tensor([0.5, -0.3, 1.2]).to(device)
    known = torch.tensor([True, False, True]).to(device)
    zero, one = torch.zeros(()).to(device), torch.ones(()).to(device)

    def model(data):
        mean = pyro.sample("mean", dist.Normal(zero, one))
        with pyro.plate("rows", 3, device=device), pyro.poutine.scale(scale=3.0):
            pyro.sample("y", dist.Normal(mean, one), obs=data, obs_mask=known)

    return model, (data,)


TARGETS = [_gaussian, _regression, _mixture, _incomplete]
every_target = pytest.mark.parametrize("target", TARGETS)


def _positions(kernel, target, device, **settings):
    what, args = target(device)
    mcmc = driver(
        kernel(what),
        num_chains=8,
        generator=torch.Generator(device).manual_seed(0),
        **settings,
    )
    with torch.device("meta") if device == "cpu" else nullcontext():
        mcmc.run(*args)
    return mcmc.chains.positions


@every_device
@every_target
@every_kernel
@pytest.mark.filterwarnings("ignore:only .* of the swaps")  # of three replicas: not asked for here
def test_every_tensor_is_made_where_the_chains_are(kernel, target, device):
    positions = _positions(kernel, target, device)
    assert positions.device.type == device
    assert bool(positions.isfinite().all())


class Astray(MALA):
    """Makes a number for each chain wherever the default device is."""

    def step(self, potential, state, noise):
        moved, info = super().step(potential, state, noise)
        return moved, info._replace(acceptance_rate=info.acceptance_rate * torch.ones(8))


@every_device
def test_a_tensor_on_another_device_is_noticed(device):
    with pytest.raises(RuntimeError, match=r"device|meta"):
        _positions(Astray, _gaussian, device)


def _plain(device):
    """Priors of Python's numbers and a plate that is told no device."""
    data = torch.tensor([0.5, -0.3, 1.2]).to(device)
    group = torch.tensor([0, 1, 1])

    def model(data):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("rows", 3):
            pyro.sample("y", dist.Normal(mean.to(data)[group], 1.0), obs=data)

    return model, (data,)


@pytest.mark.parametrize("device", [on_gpu])
def test_chains_are_where_the_data_are(device):
    assert _positions(NUTS, _plain, device).device.type == device


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # of Inductor
@pytest.mark.parametrize("device", [on_gpu])
@pytest.mark.parametrize("kernel", [MALA, NUTS, ChEESHMC])
@every_target
def test_compiled_runs_draw_the_same(kernel, target, device):
    eager, compiled = (_positions(kernel, target, device, compile=c) for c in (False, True))
    torch.testing.assert_close(eager, compiled, rtol=1e-6, atol=1e-6)
