"""Deletion of a group of records reduced to its block Krylov space; see `exact_group_quotes`."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from expunge.runs.ridge.spectral import EPS, Float64, Int64, LearningLaw


def _geometric_sums(rate: Float64, n: int) -> Float64:
    """Return the sums of a^{2j} over j < n for a = 1 - rate."""
    v = np.minimum(rate, 2.0 - rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        sums: Float64 = -np.expm1(2.0 * n * np.log1p(-v)) / (v * (2.0 - v))
    return np.where(v == 0.0, float(n), sums)


def _covariance_differences(rate: Float64, other: Float64, n: int) -> Float64:
    """Return the divided differences F[u, v] of F(u) = sum of (1 - u)^{2j} over j < n, for all pairs of two vectors."""
    u, v = rate[:, None], other[None, :]
    fu, fv = _geometric_sums(u, n), _geometric_sums(v, n)
    gap = u - v
    with np.errstate(divide="ignore", invalid="ignore"):
        direct = (fu - fv) / gap
    near = np.abs(fu - fv) <= 0.1 * np.maximum(fu, fv)
    # close values: F[u, v] as the mean of F' over [u, v], exact to rounding with 8 Gauss points once F varies by < 10%
    nodes, weights = np.polynomial.legendre.leggauss(8)
    i, j = np.nonzero(near)
    points = 0.5 * (rate[i] + other[j]) + 0.5 * (rate[i] - other[j]) * nodes[:, None]
    direct[i, j] = 0.5 * weights @ _geometric_slopes(points, n)
    return direct


def _geometric_slopes(rate: Float64, n: int) -> Float64:
    """Return the derivative -2 sum of j (1 - rate)^{2j-1} of the geometric sum with respect to the rate."""
    a = 1.0 - rate
    out = np.zeros_like(a)
    # Horner in a^2 for sum_{j=1}^{n-1} j x^{j-1}: backward stable for |a| <= 1, n operations per pair
    x = a * a
    for j in range(n - 1, 0, -1):
        out *= x
        out += j
    slopes: Float64 = -2.0 * a * out
    return slopes


def krylov_basis(law: LearningLaw, projected: Float64, steps: int) -> Float64 | None:
    """Return an orthonormal basis (p, r) of the block Krylov space of a group's rows, or None for the whole space."""
    p = law.n_features
    if steps * min(projected.shape) >= p:
        return None
    block, triangle, _ = scipy.linalg.qr(projected.T, mode="economic", pivoting=True)
    sizes = np.abs(np.diag(triangle))
    block = block[:, sizes > p * EPS * sizes[0]]
    basis: Float64 = block
    for _ in range(steps - 1):
        block = law.eigenvalues[:, None] * block
        scale = np.linalg.norm(block, axis=0)
        for _ in range(2):
            block = block - basis @ (basis.T @ block)
        block, triangle, _ = scipy.linalg.qr(block, mode="economic", pivoting=True)
        alive = np.abs(np.diag(triangle)) > p * EPS * max(float(scale.max(initial=0.0)), 1e-300)
        block = block[:, alive]
        if block.shape[1] == 0:
            break
        block, _ = scipy.linalg.qr(block - basis @ (basis.T @ block), mode="economic")
        basis = np.hstack([basis, block])
    return basis


def group_reduction(
    law: LearningLaw, rows: Int64, projected: Float64, residuals: Float64, basis: Float64 | None
) -> tuple[Float64, Float64, Float64]:
    """Return eigenvalues of H' = H - X_G^T X_G, covariance difference and mean shift, in ``basis`` (None: in full)."""
    if basis is None:
        theta, vectors, small = law.eigenvalues, None, projected
    else:
        theta, vectors = scipy.linalg.eigh(basis.T @ (law.eigenvalues[:, None] * basis), check_finite=False)
        small = projected @ basis @ vectors
    # in the eigenbasis of H (restricted): H' is a diagonal minus the group's outer products
    without = np.diag(theta) - small.T @ small
    eigenvalues, turned = scipy.linalg.eigh(without, check_finite=False)
    overlap = turned
    weights = small.T @ (small @ turned)
    slopes = _covariance_differences(law.step_size * theta, law.step_size * eigenvalues, law.n_steps) * law.step_size
    difference = law.noise_std**2 * (overlap.T @ (weights * slopes))
    difference = 0.5 * (difference + difference.T)
    rate = law.step_size * eigenvalues
    powers = (1.0 - rate)[:, None] ** np.arange(law.n_steps - 1, -1, -1)
    pushed = ((small @ turned).T @ residuals.reshape(rows.size, -1)).reshape(-1, law.n_steps, law.n_outputs)
    shift = -law.step_size * np.einsum("rt,rtq->rq", powers, pushed)
    return np.ascontiguousarray(eigenvalues), np.ascontiguousarray(difference), np.ascontiguousarray(shift)
