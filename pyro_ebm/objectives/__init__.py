"""Losses that fit energies to data."""

from pyro_ebm.objectives.contrastive_divergence import (
    ContrastiveDivergence as ContrastiveDivergence,
)
from pyro_ebm.objectives.maximum_likelihood import MaximumLikelihood as MaximumLikelihood
