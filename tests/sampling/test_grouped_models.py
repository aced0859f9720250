"""Data in groups: compiled runs add up gradients by group, in models and in energies."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ebm.kernels import MALA
from pyro_ebm.sampling import MCMC, compiler

GROUP = torch.tensor([2, 0, 1, 1, 2, 0])
DATA = torch.linspace(-1.0, 1.0, 6)
_aten = torch.ops.aten


def model():
    with pyro.plate("groups", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(z[GROUP], 1.0), obs=DATA)


class Grouped:
    """The posterior of the model as an energy."""

    event_shape = torch.Size([3])

    def __call__(self, x):
        misfit = DATA - x[..., GROUP]
        return 0.5 * (x.square().sum(-1) + misfit.square().sum(-1))


def _draws(target, *, compile_):
    mcmc = MCMC(
        MALA(target, step_size=0.5, scale=torch.ones(3)),
        20,
        0,
        num_chains=4,
        disable_progbar=True,
        generator=torch.Generator().manual_seed(0),
        compile=compile_,
    )
    mcmc.run()
    return mcmc.chains.positions


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("target", [model, Grouped()], ids=["model", "energy"])
def test_compiled_runs_sum_by_group(target, monkeypatch):
    targets = []
    rewrite = compiler.sum_by_group

    def watched(module):
        rewrite(module)
        targets.extend(node.target for node in module.graph.nodes)

    monkeypatch.setattr(compiler, "sum_by_group", watched)
    compiled = _draws(target, compile_=True)
    assert _aten.mm.default in targets
    assert _aten.index_add.default not in targets
    torch.testing.assert_close(compiled, _draws(target, compile_=False))
