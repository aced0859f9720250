"""Moments of the benchmarks' targets without sampling: closed forms and quadrature."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tests.benchmarks.engines.torch_targets import energy_of
from tests.benchmarks.targets import eight_schools, funnel, gaussian, hierarchical, mlp

_DTYPE = torch.float64
_NEGLIGIBLE = 1e-8
"""Of all mass, at the edge of a grid."""


def exact_moments(name: str) -> Tensor:
    """Means of the unconstrained coordinates, and then of their squares, ``(2 dim,)``."""
    means, squares = MOMENTS[name]()
    return torch.cat([means, squares])


def _gaussian() -> tuple[Tensor, Tensor]:
    second = _tensor(gaussian().data["scale"]).square()
    return torch.zeros_like(second), second


def _funnel() -> tuple[Tensor, Tensor]:
    dim, scale = (_tensor(funnel().data[key]) for key in ("dim", "scale"))
    others = torch.exp(scale.square() / 2)  # E exp(v) of v ~ N(0, scale^2)
    second = torch.cat([scale.square()[None], others.expand(int(dim) - 1)])
    return torch.zeros_like(second), second


class _Regression(NamedTuple):
    """Of data ``y = B (scales * u) + noise * e`` with standard normal ``u`` and ``e``.

    Given scales and noise the coefficients ``u`` are Gaussian.
    """

    gram: Tensor
    cross: Tensor
    square: Tensor
    count: int

    def given(self, scales: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log evidence ``(G,)``, mean ``(G, k)`` and covariance ``(G, k, k)`` of ``u``."""
        precise = scales / noise[:, None]
        identity = torch.eye(len(self.gram), dtype=_DTYPE)
        precision = identity + precise[:, :, None] * self.gram * precise[:, None, :]
        covariance = torch.linalg.inv(precision)
        weighted = precise * self.cross / noise[:, None]
        mean = (covariance @ weighted[..., None]).squeeze(-1)
        misfit = self.square / noise.square() - (weighted * mean).sum(-1)
        log_evidence = -0.5 * (misfit + torch.logdet(precision)) - self.count * noise.log()
        return log_evidence, mean, covariance


def _regression(design: Tensor, y: Tensor) -> _Regression:
    return _Regression(design.mT @ design, design.mT @ y, y @ y, len(y))


def _eight_schools() -> tuple[Tensor, Tensor]:
    """A grid of log tau; the mean and the effects are Gaussian given it."""
    data = {key: _tensor(value) for key, value in eight_schools().data.items()}
    log_tau = torch.linspace(-30, 15, 1501, dtype=_DTYPE)
    tau = log_tau.exp()
    design = torch.cat([torch.ones(8, 1, dtype=_DTYPE), torch.eye(8, dtype=_DTYPE)], dim=1)
    regression = _regression(design / data["errors"][:, None], data["effects"] / data["errors"])
    scales = torch.cat([torch.full_like(tau, 5.0)[:, None], tau[:, None].expand(-1, 8)], dim=1)
    log_evidence, mean, covariance = regression.given(scales, torch.ones_like(tau))
    log_prior = log_tau - torch.log1p((tau / 5).square())  # of log tau, tau ~ HalfCauchy(5)
    masses = _masses(log_evidence + log_prior)
    units = torch.tensor([5.0, *[1.0] * 8], dtype=_DTYPE)  # eta are coefficients themselves
    mu_eta = _mixed(masses, units * mean, units.square() * covariance.diagonal(dim1=1, dim2=2))
    return _with(mu_eta, {1: _mixed(masses, log_tau[:, None])})


def _hierarchical() -> tuple[Tensor, Tensor]:
    """A grid of log tau and log sigma; mean, slope and intercepts are Gaussian given them."""
    data = hierarchical().data
    group = torch.as_tensor(data["group"])
    x, y = _tensor(data["x"]), _tensor(data["y"])
    log_tau, log_sigma = torch.cartesian_prod(
        torch.linspace(-1.2, 0.6, 61, dtype=_DTYPE), torch.linspace(-0.7, 0.3, 61, dtype=_DTYPE)
    ).unbind(1)
    tau, sigma = log_tau.exp(), log_sigma.exp()
    ones = torch.ones(len(y), 1, dtype=_DTYPE)
    members = torch.nn.functional.one_hot(group, 50).to(_DTYPE)
    regression = _regression(torch.cat([ones, x[:, None], members], dim=1), y)
    fixed = torch.tensor([5.0, 2.5], dtype=_DTYPE).expand(len(tau), 2)
    scales = torch.cat([fixed, tau[:, None].expand(-1, 50)], dim=1)
    log_evidence, mean, covariance = regression.given(scales, sigma)
    # Both HalfNormal(2), with the Jacobian of the logarithm.
    log_prior = log_tau + log_sigma - (tau.square() + sigma.square()) / 8
    masses = _masses((log_evidence + log_prior).reshape(61, 61)).flatten()
    mean = scales * mean
    covariance = scales[:, :, None] * covariance * scales[:, None, :]
    mean = torch.cat([mean[:, :2], mean[:, :1] + mean[:, 2:]], dim=1)  # mu + tau u_j
    variance = covariance.diagonal(dim1=1, dim2=2)
    shifted = variance[:, :1] + variance[:, 2:] + 2 * covariance[:, 0, 2:]
    variance = torch.cat([variance[:, :2], shifted], dim=1)
    others = {1: _mixed(masses, log_tau[:, None]), 3: _mixed(masses, log_sigma[:, None])}
    return _with(_mixed(masses, mean, variance), others)


def _mlp_2() -> tuple[Tensor, Tensor]:
    axis = torch.linspace(-14, 14, 561, dtype=_DTYPE)
    points = torch.cartesian_prod(axis, axis)
    energy = energy_of(mlp(2, 1)).double()
    with torch.no_grad():
        energies = torch.cat([energy(part) for part in points.split(20_000)])
    masses = _masses(-energies.reshape(len(axis), len(axis)))
    return _mixed(masses.flatten(), points)


def _masses(log_density: Tensor) -> Tensor:
    """By the trapezoidal rule, exact for what vanishes smoothly at the edges of the grid."""
    masses = log_density.flatten().softmax(0).reshape(log_density.shape)
    for axis in range(masses.ndim):
        edges = masses.movedim(axis, 0)[[0, -1]].sum()
        assert edges < _NEGLIGIBLE, f"a grid ends where there is mass: {float(edges):.2g}"
    return masses


def _mixed(masses: Tensor, mean: Tensor, variance: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean and mean square over a grid of Gaussians."""
    return masses @ mean, masses @ (variance + mean.square())


def _with(
    moments: tuple[Tensor, Tensor], others: dict[int, tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Further coordinates, each at its place."""
    for place, other in sorted(others.items()):
        one, two = (
            torch.cat([now[:place], new, now[place:]])
            for now, new in zip(moments, other, strict=True)
        )
        moments = one, two
    return moments


def _tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=_DTYPE)


MOMENTS = {
    "gaussian": _gaussian,
    "funnel": _funnel,
    "eight_schools": _eight_schools,
    "hierarchical": _hierarchical,
    "mlp_2": _mlp_2,
}
