"""Bounds on one exact Newton step that deletes a row, for every row at once, with all roundings carried along.

F is the penalised loss at theta, F' the same without a row, U the row in the place of each of the part's outputs, r and
W the row's first and second derivatives by the logits, ``K = H^-1 U`` and ``G = U^T K``. The step is
``K (I - W G)^-1 r = H'^-1 U r``. Whatever is put for the solution c, the step is ``K c + H'^-1 U rest`` with
``rest = r - (I - W G) c``, so that an error of c, of G or of W only moves the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge.runs.residual.derivatives import FAINT, UNIT, Part, rounding
from expunge.runs.residual.products import Products

__all__ = ["Others", "PartQuotes", "quote_part", "remainder"]

Float64 = NDArray[np.float64]

_SLACK = 1.0 + 2.0**-40  # more than the roundings of all formulas here
# Bounds of norms are raised to this, so that nothing made of them and an alpha within 1e-30 to 1e30 vanishes.
_FLOOR = 1e-60


class Others(NamedTuple):
    """All rows behind the model, which a step moves.

    Attributes
    ----------
    norm : float
        At least the largest norm of a row.
    leverage : float
        At least the largest leverage of one, `PartQuotes.against`.
    weight : float
        Sum of their curvatures' traces, for estimates.
    """

    norm: float
    leverage: float
    weight: float


@dataclass(frozen=True)
class PartQuotes:
    """One Newton step for each row, in one part's outputs. All are upper bounds but for the last three.

    Attributes
    ----------
    leverage : ndarray, shape (n,)
        Operator norm of G: ``x^T H^-1 x`` for one output.
    against : ndarray, shape (n,)
        The same of what moves logits against one another, all that matters to softmax: G less the means of its rows and
        columns. For other losses, the leverage.
    reach : ndarray, shape (n,)
        The most that the step moves a logit of any row: D of the theory. Infinite where nothing is known.
    decrement : ndarray, shape (n,)
        Norm of the gradient after the step, by the inverse of the Hessian H' of F' at theta.
    local_distance : ndarray, shape (n,)
        Norm by H' of the way from the step's end to the optimum of F'; infinite where the step goes too far.
    after_step : ndarray, shape (n,)
        Euclidean length of the same way; always finite.
    shift : ndarray, shape (n,)
        Euclidean distance from theta to the optimum of F'.
    step : ndarray, shape (n,)
        Length of the step, estimated: the shift to first order.
    gradient : ndarray, shape (n,)
        Norm of the gradient after the step, estimated.
    rate : ndarray, shape (n,)
        Factor by which a further step with the inverse before the deletion shrinks the gradient, estimated.
    """

    leverage: Float64
    against: Float64
    reach: Float64
    decrement: Float64
    local_distance: Float64
    after_step: Float64
    shift: Float64
    step: Float64
    gradient: Float64
    rate: Float64


def remainder(reach: Float64) -> Float64:
    """Return at least ``(e^D - 1 - D)/D``, also where D is small and the difference cancels."""
    with np.errstate(all="ignore"):
        small = reach / 2.0 * (1.0 + reach / 3.0 + reach**2 / 12.0 * np.exp(reach))
        large = (np.expm1(reach) - reach) / reach
    return np.asarray(np.where(reach < 0.05, small, large) * _SLACK)


def _from_decrement(decrement: Float64, scale: Float64) -> Float64:
    """Return at least ``-log(1 - h lambda)/h`` for decrement lambda and scale h; infinite where h lambda >= 1."""
    product = decrement * scale * _SLACK
    # -log(1 - z) = z + z^2/2 + ... <= z (1 + z) up to 1/2.
    factor = np.where(product < 1e-6, 1.0 + product, -np.log1p(-product) / product)
    return np.asarray(np.where(product < 1.0, decrement * factor * _SLACK, math.inf))


def quote_part(
    part: Part,
    products: Products,
    norms: Float64,
    *,
    loss: str,
    alpha: float,
    defect: float,
    norm: float,
    others: Others | None = None,
) -> PartQuotes:
    """Return bounds for every row, from the products of rows with an inverse of that defect and a norm of H^-1.

    What is deleted at once may also be several rows: U then has the columns of them all, and W a block for each. All
    rows that a step moves are `others` then; by default they are the rows quoted.
    """
    with np.errstate(all="ignore"):
        return _quote_part(part, products, norms, loss=loss, alpha=alpha, defect=defect, norm=norm, others=others)


def _quote_part(
    part: Part,
    products: Products,
    norms: Float64,
    *,
    loss: str,
    alpha: float,
    defect: float,
    norm: float,
    others: Others | None,
) -> PartQuotes:
    n, k = part.residuals.shape
    G, S, W, r = products.leverages, products.squares, part.curvatures, part.residuals
    relative = defect / (1.0 - defect) * _SLACK if defect < 0.5 else math.inf
    loose = (1.0 + (relative if relative < math.inf else 0.0)) * products.error  # error of K, beside `relative`
    norms = np.maximum(norms, _FLOOR)
    r_size, r_error = np.maximum(_length(r) * _SLACK + part.residual_error, _FLOOR), part.residual_error
    W_size, W_error = part.curvature_bound, part.curvature_error
    K_size = np.sqrt(np.einsum("naa->n", S) + FAINT) * _SLACK
    # What underflows in G is far below the last term, as K_size is at least the root of FAINT and norms are _FLOOR.
    G_error = norms * (relative * K_size + loose + rounding(products.terms) * K_size) * _SLACK
    G_computed = np.sqrt(np.einsum("nab,nab->n", G, G))
    G_size = np.fmin(G_computed * _SLACK + G_error, norms**2 * norm * _SLACK)
    against = G_size
    if loss == "softmax" and k > 1:
        against = np.fmin(_against(G) + (G_error + 4.0 * rounding(4 * k + 8) * G_computed) * _SLACK, G_size)
    kept = _kept(G_computed, G_error, W, G, W_size, W_error, norms, alpha)
    norm_after = np.minimum(1.0 / alpha, norm / kept) * _SLACK  # of H'^-1

    c = _solved(W, G, r)
    c_size = _length(c) * _SLACK
    Gc = np.einsum("nab,nb->na", G, c)
    rest = _length(r - c + np.einsum("nab,nb->na", W, Gc)) * _SLACK + r_error
    rest += (W_error * G_size + W_size * G_error) * c_size
    rest = (rest + rounding(4 * k + 8) * (r_size + c_size * (1.0 + k * W_size * G_size))) * _SLACK
    astray = norms * rest * norm_after * _SLACK  # Euclidean length of H'^-1 U rest

    cSc, cGc = np.einsum("na,nab,nb->n", c, S, c), np.einsum("na,na->n", c, Gc)
    S_error = rounding(products.terms + 4 * k + 8) * (K_size * c_size) ** 2 + FAINT
    wrong = (relative * np.sqrt(cSc + S_error) + loose * c_size) * _SLACK
    in_size = norms * r_size * np.sqrt(norm_after) * _SLACK  # by H', whatever G is
    length = np.fmin((np.sqrt(cSc + S_error) + wrong + astray) * _SLACK, norms * r_size * norm_after * _SLACK)
    length_below = np.fmax(np.sqrt(np.maximum(cSc - S_error, 0.0)) / _SLACK - wrong - astray, 0.0)
    G_off = (G_error + rounding(4 * k + 8) * k * G_size) * _SLACK
    by_hessian = np.sqrt(np.maximum(cGc, 0.0) + G_off * c_size**2 + FAINT) + norms * rest * np.sqrt(norm_after / kept)
    by_hessian = np.fmin(by_hessian, in_size / np.sqrt(kept)) * _SLACK

    rGc = np.abs(np.einsum("na,na->n", r, Gc)) + (r_error * G_size + r_size * G_off) * c_size
    square = np.fmin((rGc + r_size * norms * astray) * _SLACK + FAINT, in_size**2)  # of the step's length by H'
    # `square` exceeds the truth by 2^-41 of itself: more than the difference loses.
    curved = np.maximum(square - alpha * length_below**2 / _SLACK, 0.0) + FAINT

    spread = math.sqrt(2.0) * _SLACK if loss == "softmax" else 1.0
    if others is None:
        others = Others(norms.max(initial=0.0), against.max(initial=0.0), float(np.einsum("naa->", W)))
    largest_norm, largest, weight = max(others.norm, _FLOOR), others.leverage, others.weight
    scale = spread * np.sqrt(np.fmin(largest / kept, largest_norm**2 * norm_after)) * _SLACK
    start = part.gradient_bound * np.sqrt(norm_after) * _SLACK  # theta is not the optimum of F
    if loss == "squared":
        reach, decrement = np.zeros(n), start
        local_distance = start
        shift_local = np.sqrt(square) + start
    else:
        reach = spread * np.fmin(largest_norm * length, np.sqrt(largest) * by_hessian) * _SLACK
        decrement = (remainder(reach) * np.sqrt(curved) + start) * _SLACK
        decrement = np.where(reach < 700.0, decrement, math.inf)
        local_distance = _from_decrement(decrement * np.exp(reach) * _SLACK, scale)
        shift_local = _from_decrement(np.sqrt(square) + start, scale)
    straight = (norms * r_size + part.gradient_bound) / alpha
    after_step = np.fmin(local_distance * np.sqrt(norm_after) * _SLACK, math.inf)
    shift = np.fmin(np.fmin(straight, shift_local * np.sqrt(norm_after)), length + after_step) * _SLACK + FAINT
    after_step = np.fmin(after_step, (length + shift) * _SLACK) + FAINT

    # Estimates: the curvature changes by about half of what it can, and logits by their root mean square.
    step = np.sqrt(np.maximum(cSc, 0.0))
    typical = np.sqrt(curved / weight) if weight > 0.0 else np.zeros(n)
    stiff = np.where(step > 0.0, np.sqrt(np.maximum(cGc, 0.0)) / np.where(step > 0.0, step, 1.0), 0.0)
    gradient = np.zeros(n) if loss == "squared" else 0.25 * typical * np.sqrt(curved) * stiff
    rate = np.clip(1.0 - kept + (0.0 if loss == "squared" else 0.5 * typical), 1e-6, 0.5)
    return PartQuotes(G_size, against, reach, decrement, local_distance, after_step, shift, step, gradient, rate)


def _length(values: Float64) -> Float64:
    return np.asarray(np.sqrt(np.einsum("na,na->n", values, values)))


def _against(G: Float64) -> Float64:
    """Return the Frobenius norm of G between logits whose mean is taken off: softmax does not see it."""
    centred = G - G.mean(axis=1, keepdims=True) - G.mean(axis=2, keepdims=True) + G.mean(axis=(1, 2), keepdims=True)
    return np.asarray(np.sqrt(np.einsum("nab,nab->n", centred, centred)))


def _solved(W: Float64, G: Float64, r: Float64) -> Float64:
    """Return (I - W G)^-1 r, or r where that is not finite: the rest says what is missing."""
    k = r.shape[1]
    if k == 1:
        c: Float64 = np.asarray(r / (1.0 - W[:, :, 0] * G[:, :, 0]))
    else:
        matrices = np.eye(k) - np.matmul(W, G)
        sums: Float64 = np.asarray(np.einsum("nab->n", matrices)).reshape(-1, 1, 1)
        matrices = np.where(np.isfinite(sums), matrices, np.eye(k))
        try:
            c = np.asarray(np.linalg.solve(matrices, r[:, :, None])[:, :, 0])
        except np.linalg.LinAlgError:
            c = r
    return np.asarray(np.where(np.isfinite(c).all(axis=1, keepdims=True), c, r))


def _kept(
    G_computed: Float64,
    G_error: Float64,
    W: Float64,
    G: Float64,
    W_size: Float64,
    W_error: Float64,
    norms: Float64,
    alpha: float,
) -> Float64:
    """Return at most the share of H that H' keeps in every direction: 1 less the largest eigenvalue of W G."""
    k = W.shape[1]
    if k == 1:
        share = W_size * (G_computed + G_error)
    else:
        # The Frobenius norm of W^1/2 G W^1/2.
        WG = np.matmul(W, G)
        size = np.sqrt(np.einsum("nab,nab->n", WG, WG))
        off = W_error * (G_computed + G_error) + W_size * G_error + rounding(4 * k + 8) * k * W_size * G_computed
        off = math.sqrt(k) * off * _SLACK
        square = np.maximum(np.einsum("nab,nba->n", WG, WG), 0.0)
        share = np.sqrt((square + (2.0 * size + off) * off + rounding(4 * k + 8) * size**2) * _SLACK)
    by_products = 1.0 - share * _SLACK - 4.0 * UNIT
    # H is at least alpha plus the row's own part.
    by_penalty = alpha / (alpha + W_size * norms**2) / _SLACK
    return np.asarray(np.fmax(by_products, by_penalty))
