"""Bijections between unconstrained vectors and supports, matrices included."""

from __future__ import annotations

import math

import torch
from pyro.distributions.transforms import CholeskyTransform
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

from pyro_ebm.core.checks import ModelError


class TriangularTransform(Transform):
    r"""From vectors of length :math:`n(n+1)/2` to factors of positive definite matrices.

    The vector holds the lower triangle row by row, its diagonal as logarithms, so that
    :math:`\log |\det| = \sum_i \log L_{ii}`.

    >>> TriangularTransform()(torch.tensor([0.0, 3.0, 0.0]))
    tensor([[1., 0.],
            [3., 1.]])
    """

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        size = _size(x.shape[-1])
        rows, columns = torch.tril_indices(size, size, device=x.device)
        index = torch.full((size, size), x.shape[-1], device=x.device)
        index[rows, columns] = torch.arange(x.shape[-1], device=x.device)
        matrix = torch.cat([x, torch.zeros_like(x[..., :1])], dim=-1)[..., index]
        return matrix.tril(-1) + matrix.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        size = y.shape[-1]
        rows, columns = torch.tril_indices(size, size, device=y.device)
        diagonal = y.diagonal(dim1=-2, dim2=-1).log().diag_embed()
        return (y.tril(-1) + diagonal)[..., rows, columns]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log-determinant ``(*batch,)`` of the map from ``x`` to the triangle of ``y``."""
        return y.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the factors of vectors of this shape."""
        size = _size(shape[-1])
        return torch.Size((*shape[:-1], size, size))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the vectors of factors of this shape."""
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))


def bijection_to(support: Constraint) -> Transform:
    """Return torch's ``biject_to(support)``, or a bijection of our own to matrices.

    Raises:
        ModelError: If there is none.

    >>> bijection_to(constraints.positive_definite).inverse_shape((3, 3))
    torch.Size([6])
    """
    if isinstance(support, constraints.independent):
        base = bijection_to(support.base_constraint)
        return IndependentTransform(base, support.reinterpreted_batch_ndims)
    if support is constraints.lower_cholesky:
        return TriangularTransform()
    if support is constraints.positive_definite:
        return ComposeTransform([TriangularTransform(), CholeskyTransform().inv])
    try:
        transform: Transform = biject_to(support)
    except NotImplementedError as error:
        raise ModelError(
            f"there is no bijection from unconstrained numbers to the support {support}: use a "
            "distribution with another one (for a correlation matrix, LKJCholesky for its factor)."
        ) from error
    return transform


def _size(length: int) -> int:
    return (math.isqrt(8 * length + 1) - 1) // 2
