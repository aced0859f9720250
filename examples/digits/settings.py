"""How long everything runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Sizes of one run; ``SMOKE`` only shows that everything runs."""

    svi_steps: int = 1300
    gradient_repeats: int = 100
    num_chains: int = 64
    num_samples: int = 500
    thinning: int = 5
    warmup_steps: int = 500
    nuts_samples: int = 200
    nuts_warmup: int = 100
    energy_steps: int = 600
    prior_draws: int = 10_000
    prior_steps: int = 500


FULL = Settings()
SMOKE = Settings(
    svi_steps=20,
    gradient_repeats=5,
    num_chains=8,
    num_samples=20,
    thinning=1,
    warmup_steps=40,
    nuts_samples=10,
    nuts_warmup=10,
    energy_steps=10,
    prior_draws=400,
    prior_steps=20,
)
