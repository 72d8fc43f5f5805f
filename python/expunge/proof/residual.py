"""The proof of a claim by residual: the gradient enclosed in ball arithmetic, in one pass over the data as they are.

The penalised loss is alpha-strongly convex, so the parameters lie within |gradient| / alpha of its minimum, and noise
of standard deviation sigma around them is mu-GDP, in both directions, if |gradient| <= alpha sigma mu. The releases of
a budget are jointly sqrt(releases) mu, twice that against a model made by the same rule: its delta is enclosed as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from flint import arb, arb_mat
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge.proof.balls import ball, enclosure, precision, versions
from expunge.proof.gdp import delta_ball
from expunge.proof.matrices import exact_matrix, frobenius
from expunge.runs.enclosures import Enclosure, Proof
from expunge.runs.residual.claim import REFERENCES
from expunge.runs.residual.objective import Rows

__all__ = ["gradient_norm", "prove_residual"]

Float64 = NDArray[np.float64]
# Precision of each attempt. The products of three floats that bound a gradient are exact from the first on.
ATTEMPTS = (192, 384)
_ROWS = 2048


def _one(logits: Sequence[arb], label: int) -> list[arb]:
    """Return derivatives of the logistic losses of one class against the rest, or of class 1 for a single output."""
    truth = [label] if len(logits) == 1 else [int(label == c) for c in range(len(logits))]
    return [1 / (1 + (-u).exp()) - t for u, t in zip(logits, truth, strict=True)]


def _softmax(logits: Sequence[arb], label: int) -> list[arb]:
    """Return derivatives of -log softmax of the true class: differences of logits, so that no exponential overflows."""
    top = max(logits, key=lambda one: float(one.mid()))
    grown = [(u - top).exp() for u in logits]
    total = sum(grown[1:], grown[0])
    return [g / total - int(label == c) for c, g in enumerate(grown)]


def _block_gradient(rows: Rows, theta: Float64, loss: str) -> arb_mat:
    """Return the gradient summed over some rows, shape (q, p), without the penalty."""
    design = exact_matrix(rows.X)
    logits = design * exact_matrix(np.ascontiguousarray(theta.T))
    if loss == "squared":
        assert rows.targets is not None
        derivatives = logits - exact_matrix(rows.targets)
    else:
        assert rows.labels is not None
        of_row, q = (_softmax if loss == "softmax" else _one), len(theta)
        found = [
            one
            for i, label in enumerate(rows.labels.tolist())
            for one in of_row([logits[i, c] for c in range(q)], label)
        ]
        derivatives = arb_mat(len(rows), q, found)
    if rows.weights is not None:
        weights = [ball(one) for one in rows.weights.tolist()]
        q = len(theta)
        derivatives = arb_mat(len(rows), q, [derivatives[i, c] * w for i, w in enumerate(weights) for c in range(q)])
    return derivatives.transpose() * design


def gradient_norm(
    parts: Iterable[Rows], theta: Float64, *, loss: str, alpha: float, seen: Callable[[int], object] | None = None
) -> arb:
    """Return a ball that contains the norm of the gradient of a penalised loss, with the present precision.

    Parameters
    ----------
    parts : iterable of Rows
        All rows, each once; their floats count with their exact values.
    theta : ndarray of float64, shape (q, p)
        Where the gradient is taken.
    loss : {"squared", "logistic", "softmax"}
        As for `expunge.runs.residual.gradient_sums`.
    alpha : float
        Strength of the penalty ``alpha/2 |theta|^2``.
    seen : callable, optional
        Called with the number of rows done since the last call.
    """
    total = exact_matrix(theta) * ball(alpha)
    for rows in parts:
        for start in range(0, len(rows), _ROWS):
            some = rows.take(np.arange(start, min(start + _ROWS, len(rows))))
            total = total + _block_gradient(some, theta, loss)
            if seen is not None:
                seen(len(some))
    return frobenius(total)


def prove_residual(
    parts: Callable[[], Iterable[Rows]],
    theta: Float64,
    *,
    loss: str,
    alpha: float,
    noise_std: float,
    mu: float,
    epsilon: float,
    delta: float,
    releases: int,
    reference: str,
    n_records: int | None = None,
) -> Proof:
    """Return the proof of a claim by residual, with as much precision as it takes to decide it.

    Parameters
    ----------
    parts : callable
        Returns the rows of the data as they now stand, constant column included, in parts; asked once an attempt.
    theta : ndarray of float64, shape (q, p)
        Parameters without noise.
    loss, alpha, noise_std, mu, epsilon, delta, releases, reference
        The claim, as a `ResidualCertificate` has it.
    n_records : int, optional
        Rows in all, for the progress bar.

    Returns
    -------
    Proof
        Both deltas are that of the whole budget; ``enclosures`` hold the norm of the gradient, what is allowed of it,
        and the mu of the budget.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.proof.residual import prove_residual
    >>> from expunge.runs.residual import Rows
    >>> rows = Rows(np.eye(2), targets=np.array([[2.0], [4.0]]))  # minimised by (1, 2) with alpha = 1
    >>> claim = dict(loss="squared", alpha=1.0, noise_std=0.01, mu=0.02, epsilon=1.0, delta=1e-5, releases=100)
    >>> prove_residual(lambda: [rows], np.array([[1.0, 2.0]]), **claim, reference="optimum").outcome
    'proved'
    """
    started = time.perf_counter()
    result: Proof | None = None
    for bits in ATTEMPTS:
        with precision(bits), tqdm(total=n_records, desc="proof", unit="row", delay=1.0, leave=False) as bar:
            size = gradient_norm(parts(), theta, loss=loss, alpha=alpha, seen=bar.update)
            allowed = ball(alpha) * ball(noise_std) * ball(mu)
            whole = ball(mu) * REFERENCES[reference] * arb(releases).sqrt()
            budget = delta_ball(whole, ball(epsilon))
            outcome, reason = _outcome(size, allowed, budget, delta)
            both, seconds = enclosure(budget, low=0.0, high=1.0), time.perf_counter() - started
            result = Proof(
                both,
                both,
                delta,
                outcome,
                reason,
                bits,
                seconds,
                enclosures={
                    "gradient": enclosure(size, low=0.0),
                    "gradient allowed": enclosure(allowed, low=0.0),
                    "mu of all releases": enclosure(whole, low=0.0),
                },
                versions=versions(),
            )
        if outcome != "undecided":
            break
    assert result is not None
    return result


def _outcome(size: arb, allowed: arb, budget: arb, delta: float) -> tuple[str, str]:
    if size > allowed:
        return "refuted", f"the norm of the gradient is at least {_low(size)!r}, allowed {_low(allowed)!r}"
    if budget > ball(delta):
        return "refuted", f"delta of all releases is at least {_low(budget)!r}, claimed {delta!r}"
    if not size <= allowed:
        return "undecided", f"the norm of the gradient may exceed {_low(allowed)!r}: enclosed by {_ends(size)}"
    if not budget <= ball(delta):
        return "undecided", f"delta of all releases may exceed {delta!r}: enclosed by {_ends(budget)}"
    return "proved", ""


def _low(value: arb) -> float:
    return enclosure(value).lower


def _ends(value: arb) -> str:
    found: Enclosure = enclosure(value)
    return f"{found.lower!r} and {found.upper!r}"
