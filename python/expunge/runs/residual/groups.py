"""Quotes of groups: what deleting several records at once would cost, all rows of a person for instance.

The theory is that of one record (`one_step`): U holds the rows of the group in the place of each output, W a block for
each row, and the rows' products with one another are all there is to add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.runs.residual.derivatives import Derivatives, Part, derivatives_of
from expunge.runs.residual.objective import Objective
from expunge.runs.residual.one_step import Others, PartQuotes, quote_part
from expunge.runs.residual.products import Products, products_of, side_by_side, solution_error
from expunge.runs.residual.proved_inverse import LARGEST_ALPHA, LEAST_ALPHA, proved
from expunge.runs.residual.quotes import RecordQuotes, quotes_of

__all__ = ["group_quotes"]

Float64 = NDArray[np.float64]
Positions = NDArray[np.int64]

_SLACK = 1.0 + 2.0**-40
_COLUMNS = 1024  # of U: with more, the group's own matrices would outgrow the data
_SOLUTIONS = 1 << 22  # numbers that are in memory at a time
_MATRICES = 1 << 20


@ieee_arithmetic
def group_quotes(
    objective: Objective,
    theta: Float64,
    groups: Sequence[Positions],
    *,
    noise_std: float,
    mu: float,
    delta: float,
    progress: Callable[[int], object] | None = None,
) -> RecordQuotes:
    """Return what deleting each of some groups of records would cost, the records of a group together.

    Parameters
    ----------
    objective : Objective
        All records behind the model.
    theta : ndarray of float64, shape (q, p)
        Parameters of the model, without noise.
    groups : sequence of ndarray of int64
        Positions of the records of each group, sorted, at least one each.
    noise_std, mu, delta : float
        As for `record_quotes`.
    progress : callable, optional
        Called with the number of groups done.

    Returns
    -------
    RecordQuotes
        One number of each kind for every group, in their order. ``rows`` holds the first record of each.

    See Also
    --------
    record_quotes : Each record by itself.

    Notes
    -----
    Certified, as `record_quotes` is. Of a group of more than 1,024 rows (times outputs, for softmax) the products of
    its rows with one another are not taken: its bounds are those of the penalty alone, far from the truth.
    """
    alpha = _validate.number("alpha", objective.alpha, low=LEAST_ALPHA, high=LARGEST_ALPHA)
    found = derivatives_of(objective, theta)
    inverse = proved(found, alpha=alpha, inverse=None)
    kinds = [
        _Kind(matrix, float(defect), float(norm), objective.loss, alpha)
        for matrix, defect, norm in zip(inverse.matrices, inverse.defects, inverse.norms, strict=True)
    ]
    others = [
        kind.others(part, one, found.norms)
        for kind, part, one in zip(kinds, found.parts, products_of(objective, inverse.matrices), strict=True)
    ]
    parts = found.by_output(loss=objective.loss, alpha=alpha)
    if objective.loss == "squared":  # the Hessians of all outputs are equal
        kinds, others = kinds * len(parts), others * len(parts)
    every = [_empty(len(groups)) for _ in parts]
    k = parts[0].residuals.shape[1]
    most = max(1, _SOLUTIONS // max(1, k * k * objective.n_features))  # rows whose solutions fit
    large = [number for number, rows in enumerate(groups) if len(rows) * k > _COLUMNS]
    for number in large:
        gradient = _gradient_of(objective, found, groups[number], most)
        for place, part, kind, other in zip(every, parts, kinds, others, strict=True):
            _put(place, [number], kind.of_penalty(part, groups[number], gradient[part.outputs], found, other))
        if progress is not None:
            progress(1)
    small = [number for number, rows in enumerate(groups) if len(rows) * k <= _COLUMNS]
    for numbers in _chunks(small, groups, most):
        rows = _Taken.of(objective, [groups[number] for number in numbers])
        for some in _alike(numbers, groups, k):
            chosen = np.stack([groups[number] for number in some])
            for place, part, kind, other in zip(every, parts, kinds, others, strict=True):
                _put(place, some, kind.together(part, rows, chosen, found, other))
            if progress is not None:
                progress(len(some))
    costs = quotes_of(found, every, np.arange(len(groups)), alpha=alpha, noise_std=noise_std, mu=mu, delta=delta)
    return replace(costs, rows=np.array([rows[0] for rows in groups], dtype=np.int64))


@dataclass(frozen=True)
class _Taken:
    """Records of some groups, read together."""

    positions: Positions
    X: Float64

    @classmethod
    def of(cls, objective: Objective, groups: Sequence[Positions]) -> _Taken:
        positions = np.unique(np.concatenate(groups))
        return cls(positions, objective.take(positions).X)

    def places(self, chosen: Positions) -> Positions:
        return np.searchsorted(self.positions, chosen)


@dataclass(frozen=True)
class _Kind:
    """An inverse Hessian with its bounds, and what quotes need beside it."""

    matrix: Float64
    defect: float
    norm: float
    loss: str
    alpha: float

    def quote(self, part: Part, products: Products, norms: Float64, others: Others | None) -> PartQuotes:
        return quote_part(
            part,
            products,
            norms,
            loss=self.loss,
            alpha=self.alpha,
            defect=self.defect,
            norm=self.norm,
            others=others,
        )

    def others(self, part: Part, products: Products, norms: Float64) -> Others:
        against = self.quote(part, products, norms, None).against
        weight = float(np.einsum("naa->", part.curvatures))
        return Others(float(norms.max(initial=0.0)), float(against.max(initial=0.0)), weight)

    def together(self, part: Part, rows: _Taken, chosen: Positions, found: Derivatives, others: Others) -> PartQuotes:
        """Return the quotes of groups of equal size, rows of positions."""
        g, m = chosen.shape
        p, order = rows.X.shape[1], len(self.matrix)
        k = order // p
        with np.errstate(all="ignore"):
            X = rows.X[rows.places(chosen)]
            solutions = np.matmul(X.reshape(g * m, p), side_by_side(self.matrix, p)).reshape(g, m * k, k, p)
            flat = solutions.reshape(g, m * k, order)
            squares = np.matmul(flat, flat.transpose(0, 2, 1))
            leverages = np.empty((g, m, k, m * k))
            for a in range(k):
                np.matmul(X, solutions[:, :, a].transpose(0, 2, 1), out=leverages[:, :, a])
            lengths = np.einsum("gmp,gmp->gm", X, X)
            error = _root_of_sum(solution_error(self.matrix, lengths, p))
            products = Products(leverages.reshape(g, m * k, m * k), squares, lengths.sum(axis=1), error, order)
            return self.quote(_stacked(part, chosen), products, _root_of_sum(found.norms[chosen]), others)

    def of_penalty(
        self, part: Part, group: Positions, gradient: Float64, found: Derivatives, others: Others
    ) -> PartQuotes:
        """Return the quote of a large group from sizes alone, and estimates from the sum of its gradients."""
        with np.errstate(all="ignore"):
            chosen = group[None]
            size = np.sqrt(np.einsum("gmk,gmk->gm", part.residuals[chosen], part.residuals[chosen]))
            whole = replace(
                _stacked(part, chosen, blocks=False),
                residuals=_root_of_sum(size)[:, None],
                curvatures=part.curvature_bound[chosen].max(axis=1)[:, None, None],
            )
            nothing = np.zeros((1, 1, 1))
            products = Products(nothing, nothing, np.zeros(1), np.full(1, np.inf), len(self.matrix))
            quoted = self.quote(whole, products, _root_of_sum(found.norms[chosen]), others)
            step = np.linalg.norm(self.matrix @ gradient.ravel())
            return replace(
                quoted, step=np.array([step]), gradient=np.array([np.linalg.norm(gradient)]), rate=np.full(1, 0.5)
            )


def _gradient_of(objective: Objective, found: Derivatives, group: Positions, most: int) -> Float64:
    """Return the sum of a group's gradients, shape (q, p), whose rows are read so many at a time."""
    total = np.zeros(found.theta.shape)
    for begin in range(0, len(group), most):
        some = group[begin : begin + most]
        total += found.residuals[some].T @ objective.take(some).X
    return total


def _put(place: PartQuotes, numbers: list[int], quoted: PartQuotes) -> None:
    for field in fields(PartQuotes):
        getattr(place, field.name)[numbers] = getattr(quoted, field.name)


def _stacked(part: Part, chosen: Positions, *, blocks: bool = True) -> Part:
    """Return a part with one row for each group: the residuals of its rows in turn, and a block of curvature each."""
    g, m = chosen.shape
    k = part.residuals.shape[1]
    curvatures = np.zeros((g, m, k, m, k) if blocks else (g, 1, 1))
    if blocks:
        for i in range(m):
            curvatures[:, i, :, i] = part.curvatures[chosen[:, i]]
    return Part(
        part.outputs,
        part.residuals[chosen].reshape(g, m * k),
        _root_of_sum(part.residual_error[chosen]),
        curvatures.reshape(g, m * k, m * k) if blocks else curvatures,
        part.curvature_error[chosen].max(axis=1),
        part.curvature_bound[chosen].max(axis=1),
        None,
        part.gradient_bound,
    )


def _root_of_sum(values: Float64) -> Float64:
    """Return at least the root of the sum of squares along rows; nothing overflows or vanishes on the way."""
    largest = values.max(axis=1, initial=0.0)
    scale = np.where((largest > 0.0) & (largest < np.inf), largest, 1.0)
    found = scale * np.sqrt(np.einsum("gm,gm->g", values / scale[:, None], values / scale[:, None]))
    return np.asarray(found * _SLACK)


def _empty(size: int) -> PartQuotes:
    return PartQuotes(*(np.empty(size) for _ in fields(PartQuotes)))


def _chunks(numbers: list[int], groups: Sequence[Positions], most: int) -> Iterator[list[int]]:
    """Yield numbers of groups, in order, that hold no more rows together; a group of more is alone."""
    some: list[int] = []
    rows = 0
    for number in numbers:
        if some and rows + len(groups[number]) > most:
            yield some
            some, rows = [], 0
        some.append(number)
        rows += len(groups[number])
    if some:
        yield some


def _alike(numbers: list[int], groups: Sequence[Positions], k: int) -> Iterator[list[int]]:
    """Yield those of equal size together, as many as fit."""
    sizes: dict[int, list[int]] = {}
    for number in numbers:
        sizes.setdefault(len(groups[number]), []).append(number)
    for size, some in sizes.items():
        step = max(1, _MATRICES // (size * k) ** 2)
        for begin in range(0, len(some), step):
            yield some[begin : begin + step]
