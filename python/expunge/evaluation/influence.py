"""Influence of each record: how far the optimum of a penalised linear model moves when the record leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from expunge._types import Float64
from expunge._validate import choice, count, number, real_array, row_indices
from expunge.accounting import Estimate
from expunge.runs.residual import (
    NoiseFloorError,
    Objective,
    Polished,
    Rows,
    answers_of,
    blocks_of,
    group_quotes,
    polish,
)
from expunge.runs.residual.gradients import LOSSES
from expunge.runs.residual.quotes import RecordQuotes, objective_quotes

__all__ = ["influence"]

_NEAR = 1e-9  # of the gradient at zero: how near the optimum the parameters are


def influence(
    X: ArrayLike,
    y: ArrayLike,
    *,
    loss: str,
    alpha: float,
    groups: Sequence[ArrayLike] | None = None,
    n_classes: int | None = None,
) -> Estimate:
    """Return the distance between the optima with and without each record, in closed form: an *estimate*.

    The optimum minimises ``sum_i loss_i + alpha/2 |theta|^2`` over all parameters, an intercept's too: append a
    constant column for one. A score like privacy losses and gradient norms, and of the same use: to rank records, and
    to choose forget sets from.

    Parameters
    ----------
    X : array_like of float, shape (n, p)
        Features, finite.
    y : array_like
        Targets, shape (n,) or (n, q), for the squared loss; numbers of classes from 0, shape (n,), for the others.
    loss : {"squared", "logistic", "softmax"}
        Of ridge: half the squared distance from the targets; of logistic regression, for two classes or for each of
        more against the rest; or of softmax regression.
    alpha : float
        Strength of the penalty, within [1e-30, 1e30], in the sum form: scikit-learn's ``1 / C``.
    groups : sequence of array_like of int, optional
        Rows that leave together, distinct within a group. By default each row by itself.
    n_classes : int, optional
        Number of classes, at least 2; the largest number in ``y`` plus one if omitted. Not for the squared loss.

    Returns
    -------
    Estimate of shape (n,) or (number of groups,)
        Euclidean distances, in the units of the parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, not finite or out of range, or a group is all records.
    RuntimeError
        If the optimum cannot be reached: rows much longer than 1, or alpha too small; or, for the squared loss, if a
        leverage cannot be told from 1, as where there are more columns than rows and hardly a penalty. The message has
        the remedy.

    See Also
    --------
    expunge.runs.residual.record_quotes : Proved bounds on the same distance.
    expunge.evaluation.networks.last_layer_influence : Of the last layer of a network.
    expunge.forget_sets.top_forget_set : The records of highest score.

    Notes
    -----
    With H the Hessian of all records, ``G = X_g H^-1 X_g^T`` and first and second derivatives r and W of the losses of
    what leaves, the value is the length of the Newton step ``H^-1 X_g^T (I - W G)^-1 r`` on what remains, from the
    optimum of all (Cook, *Detection of influential observation in linear regression*, Technometrics 19 (1977); Guo et
    al., arXiv 1911.03030, for the step). For the squared loss that is the distance itself, but for rounding: about the
    condition number of H times 1e-16, over 1 less the leverage, or over the least eigenvalue of ``I - G``. For the
    others it is the distance to first order. Not rounded outward, so never certified.

    Examples
    --------
    >>> from expunge.evaluation import influence
    >>> X = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    >>> influence(X, [1.0, 2.0, 3.0], loss="squared", alpha=1.0).round(6).tolist()
    [0.0, 0.5, 1.5]
    >>> influence(X, [1.0, 2.0, 3.0], loss="squared", alpha=1.0, groups=[[0, 1]]).round(6).tolist()
    [1.0]
    >>> influence(X, [0, 1, 1], loss="logistic", alpha=1.0).round(3).tolist()
    [0.4, 0.4, 0.401]
    """
    features = real_array("X", X, ndim=2)
    if len(features) < 2 or not features.shape[1]:
        raise ValueError(f"X must have at least two rows and one column, got shape {features.shape}")
    objective = _objective(features, y, choice("loss", loss, LOSSES), number("alpha", alpha), n_classes)
    members = None if groups is None else _members(groups, len(features))
    theta = _optimum(objective).theta
    scale = {"noise_std": 1.0, "mu": 1.0, "delta": 0.5}  # of what else quotes hold
    if members is None:
        return _resolved(objective, objective_quotes(objective, theta, rows=np.arange(len(features)), **scale))
    if objective.loss == "squared":
        _refuse_unresolved(features, objective.alpha, members)
    with tqdm(total=len(members), unit="group", desc="influence", disable=None, leave=False) as bar:
        return Estimate.of(group_quotes(objective, theta, members, progress=bar.update, **scale).sensitivity_estimate)


def _resolved(objective: Objective, quotes: RecordQuotes) -> Estimate:
    """Return the distances, unless rounding decides them: with alpha above 0 a ridge's leverages are below 1."""
    if objective.loss == "squared" and not (quotes.leverage_bound < 1.0).all():
        first = int(np.argmin(quotes.leverage_bound < 1.0))
        raise RuntimeError(
            f"alpha must be larger for float64 to tell how far row {first} moves the optimum: its leverage cannot be "
            f"told from 1 with alpha = {objective.alpha:g}"
        )
    return Estimate.of(quotes.sensitivity_estimate)


def _refuse_unresolved(X: Float64, alpha: float, members: Sequence[NDArray[np.int64]]) -> None:
    """Refuse groups without which so little holds the optimum that rounding decides how far it moves."""
    values, vectors = np.linalg.eigh(X.T @ X + alpha * np.eye(X.shape[1]))
    values = np.maximum(values, alpha)  # which they are but for rounding
    error = 16.0 * len(values) * float(np.finfo(np.float64).eps) * float(values[-1] / values[0])
    whitened = (X @ vectors) / np.sqrt(values)
    for k, rows in enumerate(members):
        left = 1.0 - float(np.linalg.norm(whitened[rows], 2)) ** 2  # 1 minus the largest leverage of a combination
        if not left > error:
            raise RuntimeError(
                f"alpha must be larger for float64 to tell how far groups[{k}] moves the optimum: its leverage cannot "
                f"be told from 1 with alpha = {alpha:g}"
            )


def _objective(X: Float64, y: ArrayLike, loss: str, alpha: float, n_classes: int | None) -> Objective:
    if loss == "squared":
        if n_classes is not None:
            raise ValueError(f"n_classes must be omitted for the squared loss, got {n_classes}")
        targets = real_array("y", y)
        n_outputs = targets.shape[1] if targets.ndim == 2 else 1
        answers = answers_of(targets, loss=loss, classes=None, n_outputs=n_outputs)
    else:
        numbers = np.asarray(real_array("y", y, ndim=1, low=0.0))
        seen = max(2, int(numbers.max(initial=0)) + 1)
        known = seen if n_classes is None else count("n_classes", n_classes, low=2)
        n_outputs = 1 if loss == "logistic" and known == 2 else known
        answers = answers_of(y, loss=loss, classes=range(known), n_outputs=n_outputs)
    given = answers.labels if answers.targets is None else answers.targets
    if given is None or len(given) != len(X):
        raise ValueError(f"y must have one answer for each of {len(X)} rows, got shape {np.shape(y)}")
    rows = Rows(X, answers.labels, answers.targets)
    return Objective(blocks_of(rows), loss, X.shape[1], n_outputs, alpha)


def _members(groups: Sequence[ArrayLike], n: int) -> list[NDArray[np.int64]]:
    members = [np.sort(row_indices(f"groups[{k}]", rows, n)) for k, rows in enumerate(groups)]
    if not members:
        raise ValueError("groups must hold at least one group, got none")
    if max(map(len, members)) == n:
        raise ValueError(f"groups must leave at least one record, got one of all {n}")
    return members


def _optimum(objective: Objective) -> Polished:
    """Return the optimum, as near as asked for or as rounding lets it be known."""
    start = np.zeros((objective.n_outputs, objective.n_features))
    target = _NEAR * float(np.linalg.norm(objective.sums(start).gradient)) or 1e-300
    try:
        return polish(objective, start, target=target)
    except NoiseFloorError as error:
        return polish(objective, start, target=4.0 * error.floor)
