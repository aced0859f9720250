"""Which engines run, and which of them are compared with which."""

from __future__ import annotations

from typing import NamedTuple

CHAIN_COUNTS = (4, 64, 256, 1024)
MLPS = ("mlp_2", "mlp_64")
ENGINES_FOLDER = "tests.benchmarks.engines"


class Engine(NamedTuple):
    """One row of each table.

    ``entry`` is ``module:function`` under ``tests/benchmarks/engines``; only the worker process
    imports it. ``packages`` are the distributions whose versions are reported. ``targets`` are
    those that make sense; all of them if it is empty. ``is_exact`` is False of biased samplers.
    """

    key: str
    title: str
    entry: str
    packages: tuple[str, ...]
    chain_counts: tuple[int, ...] = CHAIN_COUNTS
    targets: tuple[str, ...] = ()
    is_exact: bool = True


_OURS = ("pyro-ebm", "torch", "pyro-ppl")
_JAX = ("jax", "jaxlib")

_MANY = (256, 1024)
"""What compiled kernels are made for; the search tries these alone."""

_COMPARED = ("eight_schools", "gaussian", "hierarchical")
"""Where kernels that are not compiled run, too: they take minutes."""

_CORRELATED = ("logistic_regression",)
"""Where a mass that is not diagonal pays; on eight schools NumPyro's does not mix with one."""

_LIKE_GAUSSIANS = (
    "eight_schools",
    "logistic_regression",
    "gaussian",
    "hierarchical",
    "mlp_2",
    "mlp_64",
)
"""What steps may follow the Gaussian of: not a funnel."""

OURS = (
    Engine("ours_nuts", "pyro_ebm NUTS", "ours:nuts", _OURS, _MANY, _COMPARED),
    Engine("ours_nuts_compiled", "pyro_ebm NUTS, compiled", "ours:nuts_compiled", _OURS, _MANY),
    Engine(
        "ours_nuts_dense_compiled",
        "pyro_ebm NUTS, dense mass, compiled",
        "ours:nuts_dense_compiled",
        _OURS,
        _MANY,
        _CORRELATED,
    ),
    Engine(
        "ours_nuts_mclachlan_compiled",
        "pyro_ebm NUTS, McLachlan, compiled",
        "ours:nuts_mclachlan_compiled",
        _OURS,
        _MANY,
    ),
    Engine(
        "ours_nuts_rotations_compiled",
        "pyro_ebm NUTS, rotations, compiled",
        "ours:nuts_rotations_compiled",
        _OURS,
        _MANY,
        _LIKE_GAUSSIANS,
    ),
    Engine(
        "ours_nuts_dense_rotations_compiled",
        "pyro_ebm NUTS, rotations, dense mass, compiled",
        "ours:nuts_dense_rotations_compiled",
        _OURS,
        _MANY,
        _CORRELATED,
    ),
    Engine(
        "ours_chees_compiled", "pyro_ebm ChEES-HMC, compiled", "ours:chees_compiled", _OURS, _MANY
    ),
    Engine(
        "ours_chees_mclachlan_compiled",
        "pyro_ebm ChEES-HMC, McLachlan, compiled",
        "ours:chees_mclachlan_compiled",
        _OURS,
        _MANY,
    ),
    Engine(
        "ours_chees_rotations_compiled",
        "pyro_ebm ChEES-HMC, rotations, compiled",
        "ours:chees_rotations_compiled",
        _OURS,
        _MANY,
        _LIKE_GAUSSIANS,
    ),
    Engine(
        "ours_chees_dense_rotations_compiled",
        "pyro_ebm ChEES-HMC, rotations, dense mass, compiled",
        "ours:chees_dense_rotations_compiled",
        _OURS,
        _MANY,
        _CORRELATED,
    ),
    Engine("ours_mala", "pyro_ebm MALA", "ours:mala", _OURS, _MANY, _COMPARED),
    Engine("ours_mala_compiled", "pyro_ebm MALA, compiled", "ours:mala_compiled", _OURS, _MANY),
)

_PYRO = ("eight_schools", "logistic_regression", "gaussian", "hierarchical")
"""Where Pyro, one chain for each thread, takes minutes and not longer."""

PEERS = (
    Engine("nutpie", "nutpie NUTS", "nutpie_nuts:prepare", ("nutpie", "pymc", "numba")),
    Engine(
        "nutpie_low_rank",
        "nutpie NUTS, low-rank mass",
        "nutpie_nuts:prepare_low_rank",
        ("nutpie", "pymc", "numba"),
        targets=_CORRELATED,
    ),
    Engine("numpyro", "NumPyro NUTS", "numpyro_nuts:prepare", ("numpyro", *_JAX)),
    Engine(
        "numpyro_dense",
        "NumPyro NUTS, dense mass",
        "numpyro_nuts:prepare_dense",
        ("numpyro", *_JAX),
        targets=_CORRELATED,
    ),
    Engine("blackjax_nuts", "BlackJAX NUTS", "blackjax_nuts:prepare", ("blackjax", *_JAX)),
    Engine(
        "blackjax_nuts_dense",
        "BlackJAX NUTS, dense mass",
        "blackjax_nuts:prepare_dense",
        ("blackjax", *_JAX),
        targets=_CORRELATED,
    ),
    Engine("blackjax_chees", "BlackJAX ChEES", "blackjax_chees:prepare", ("blackjax", *_JAX)),
    Engine("pyro", "Pyro NUTS", "pyro_nuts:prepare", ("pyro-ppl", "torch"), (2,), _PYRO),
    Engine(
        "pyro_dense",
        "Pyro NUTS, dense mass",
        "pyro_nuts:prepare_dense",
        ("pyro-ppl", "torch"),
        (2,),
        _CORRELATED,
    ),
    Engine(
        "torchebm",
        "torchebm HMC",
        "torchebm_hmc:prepare",
        ("torchebm", "torch"),
        targets=("gaussian", *MLPS, "funnel"),
    ),
    Engine(
        "posteriors",
        "posteriors SGLD",
        "posteriors_sgld:prepare",
        ("posteriors", "torch"),
        targets=MLPS,
        is_exact=False,
    ),
)

ENGINES = OURS + PEERS

STEP_CHAIN_COUNTS = (64, 1024, 4096)

STEP_ENGINES = (
    Engine("langevin_ours", "pyro_ebm Langevin", "ours_steps:langevin", _OURS),
    Engine(
        "langevin_ours_compiled",
        "pyro_ebm Langevin, compiled",
        "ours_steps:langevin_compiled",
        _OURS,
    ),
    Engine("mala_ours", "pyro_ebm MALA", "ours_steps:mala", _OURS),
    Engine("mala_ours_compiled", "pyro_ebm MALA, compiled", "ours_steps:mala_compiled", _OURS),
    Engine(
        "langevin_torchebm",
        "torchebm LangevinDynamics",
        "torchebm_steps:langevin",
        ("torchebm", "torch"),
    ),
    Engine("langevin_jax", "JAX scan, Langevin", "jax_steps:langevin", _JAX),
    Engine("mala_jax", "JAX scan, MALA", "jax_steps:mala", _JAX),
)
