"""The Gaussian energy: everything about it is known exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_ebm.core.checks import ShapeError, check_finite, check_floating
from pyro_ebm.core.randomness import own_generator
from pyro_ebm.energies.compose import EnergyAlgebra
from pyro_ebm.energies.events import as_event_shape, flatten_event

_LOG_TWO_PI = math.log(2 * math.pi)


class GaussianEnergy(EnergyAlgebra, nn.Module):
    r"""The energy of a Gaussian, zero at its mean.

    .. math::
        E(x) = \tfrac12 (x - \mu)^\top \Lambda (x - \mu), \qquad
        \log Z = \tfrac n2 \log 2\pi - \tfrac12 \log \det \Lambda

    with :math:`n` the number of coordinates of one point. The precision :math:`\Lambda` is what
    is stored, because the energy is linear in it. ``loc`` and ``precision`` are trained when
    they are given as :class:`torch.nn.Parameter`, and are copied to buffers otherwise; nothing
    keeps a trained precision positive. Points of another dtype are promoted by torch's rules.

    Give exactly one of the last three arguments. Their shape says what they are: ``(n, n)`` is
    a matrix over the flattened coordinates, the event shape is the diagonal, ``()`` is the
    same number for each coordinate.

    Args:
        loc: Mean, of the event shape.
        covariance: Covariance matrix, or variances.
        scale: Standard deviations: the event shape or ``()``.
        precision: Inverse of the covariance.

    Raises:
        ValueError: Not exactly one of the three is given; the one given is not positive
            definite; or it would be trained but is not the precision.
        ShapeError: Shapes or dtypes do not fit each other, or are not floating point.
        NonFiniteError: A number is NaN or infinite.

    Example:
        >>> energy = GaussianEnergy(torch.zeros(2), scale=torch.tensor([1.0, 2.0]))
        >>> energy(torch.tensor([1.0, 2.0]))
        tensor(1.)
        >>> energy.variance
        tensor([1., 4.])
    """

    loc: Tensor
    precision: Tensor

    def __init__(
        self,
        loc: Tensor,
        covariance: Tensor | None = None,
        *,
        scale: Tensor | None = None,
        precision: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_finite("loc", check_floating("loc", loc))
        self.event_shape = loc.shape
        hold(self, "loc", loc)
        hold(self, "precision", _precision_from(loc, covariance, scale, precision))

    @classmethod
    def standard(cls, event_shape: int | Sequence[int]) -> GaussianEnergy:
        """Build the energy of N(0, I), in torch's default dtype.

        >>> GaussianEnergy.standard((8, 8)).log_partition / 64 * 2
        tensor(1.8379)
        """
        return cls(torch.zeros(as_event_shape(event_shape)), precision=torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``(*batch,)`` of the points ``(*batch, *event)``."""
        deviation = flatten_event(x, self.event_shape) - self.loc.reshape(-1)
        precision = self.precision.to(deviation.dtype)
        if _is_matrix(precision, self.event_shape):
            return 0.5 * ((deviation @ precision) * deviation).sum(-1)
        if precision.ndim:
            precision = precision.reshape(-1)
        return 0.5 * (precision * deviation.square()).sum(-1)

    @property
    def mean(self) -> Tensor:
        """Exact mean, of the event shape."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Exact variances of the coordinates, of the event shape."""
        if not _is_matrix(self.precision, self.event_shape):
            return self.precision.reciprocal().expand(self.event_shape)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(self.precision))
        variances: Tensor = covariance.diagonal()
        return variances.reshape(self.event_shape)

    @property
    def log_partition(self) -> Tensor:
        """Exact ``log Z``, differentiable in the precision."""
        if _is_matrix(self.precision, self.event_shape):
            factor = torch.linalg.cholesky(self.precision)
            roots = factor.diagonal()
        else:
            roots = self.precision.expand(self.event_shape).sqrt()
        value: Tensor = (0.5 * _LOG_TWO_PI - roots.log()).sum()
        return value

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact independent draws ``(*sample_shape, *event)``, detached."""
        device, dtype = self.loc.device, self.loc.dtype
        generator = own_generator(generator, device)
        shape = (*sample_shape, *self.event_shape)
        noise = torch.randn(shape, generator=generator, device=device, dtype=dtype)
        if not _is_matrix(self.precision, self.event_shape):
            return self.loc + noise / self.precision.sqrt()
        factor = torch.linalg.cholesky(self.precision)
        columns = noise.reshape(-1, self.event_shape.numel()).T
        draws: Tensor = torch.linalg.solve_triangular(factor.T, columns, upper=True)
        return self.loc + draws.T.reshape(shape)

    def extra_repr(self) -> str:
        """Show the shapes."""
        return (
            f"event_shape={tuple(self.event_shape)}, precision_shape={tuple(self.precision.shape)}"
        )


def hold(module: nn.Module, name: str, value: Tensor) -> None:
    """Keep ``value`` in ``module``: parameters as they are, copies of tensors as buffers.

    >>> module = nn.Module()
    >>> hold(module, "loc", nn.Parameter(torch.zeros(2)))
    >>> [name for name, _ in module.named_parameters()]
    ['loc']
    """
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value.clone())


def _precision_from(
    loc: Tensor, covariance: Tensor | None, scale: Tensor | None, precision: Tensor | None
) -> Tensor:
    given = {"covariance": covariance, "scale": scale, "precision": precision}
    present = {name: value for name, value in given.items() if value is not None}
    if len(present) != 1:
        raise ValueError(
            f"GaussianEnergy got {', '.join(present) or 'none'} of covariance, scale and "
            "precision, but exactly one of them is wanted."
        )
    ((name, value),) = present.items()
    _check_spread(name, value, loc)
    if value is precision:
        return precision
    _check_constant(name, value)
    if value is scale:
        _check_diagonal(scale, loc.shape)
        return scale.square().reciprocal()
    if _is_matrix(value, loc.shape):
        return torch.cholesky_inverse(torch.linalg.cholesky(value))
    return value.reciprocal()


def _is_matrix(value: Tensor, event_shape: torch.Size) -> bool:
    size = event_shape.numel()
    return value.shape == (size, size) and value.shape != event_shape


def _check_spread(name: str, value: Tensor, loc: Tensor) -> None:
    size = loc.numel()
    if value.shape not in (loc.shape, torch.Size(), torch.Size([size, size])):
        raise ShapeError(
            f"{name} has shape {tuple(value.shape)} and loc {tuple(loc.shape)}, but a matrix "
            f"({size}, {size}), a diagonal {tuple(loc.shape)} or a single number () is wanted."
        )
    if value.dtype != loc.dtype:
        raise ShapeError(
            f"{name} has dtype {value.dtype} and loc {loc.dtype}: convert one of them."
        )
    check_finite(name, value.detach())
    if not _is_positive_definite(value.detach(), loc.shape):
        raise ValueError(
            f"{name} is not positive definite: every variance must be above zero, and a matrix "
            "symmetric with positive eigenvalues."
        )


def _is_positive_definite(value: Tensor, event_shape: torch.Size) -> bool:
    if not _is_matrix(value, event_shape):
        return bool((value > 0).all())
    factor, failed = torch.linalg.cholesky_ex(value)
    del factor
    return int(failed) == 0 and torch.allclose(value, value.T)


def _check_constant(name: str, value: Tensor) -> None:
    if value.requires_grad:
        raise ValueError(
            f"{name} requires grad, but it is inverted once, here, and would not be trained: "
            "give precision=nn.Parameter(...) instead, or detach it."
        )


def _check_diagonal(scale: Tensor, event_shape: torch.Size) -> None:
    if _is_matrix(scale, event_shape):
        raise ShapeError(
            f"scale has shape {tuple(scale.shape)}, but standard deviations of the event shape "
            f"{tuple(event_shape)} are wanted: give a matrix as covariance or precision."
        )
