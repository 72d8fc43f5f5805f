"""Questions to a learned model: what a deletion would cost, and what it would hide."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import count, number
from expunge.accounting import GaussianPair
from expunge.data.blocks import Records
from expunge.estimators._fitting import FittedRidge
from expunge.estimators._history import History
from expunge.estimators._records import selected_rows
from expunge.estimators._table_deletion import read_rows
from expunge.estimators._table_pass import TablePass
from expunge.estimators._table_quotes import quote_table
from expunge.estimators.quotes import Quote, claim_of, quote
from expunge.runs.ridge import LearningLaw
from expunge.runs.ridge.law import Phase

__all__ = ["AskedRidge"]

Array = NDArray[np.float64]


class AskedRidge(FittedRidge):
    """A learned model that quotes deletions."""

    def _law(self, history: History) -> LearningLaw | None:
        """Return the law shared by all first deletions, or None once there is a deletion behind the model."""
        if len(history.phases) > 1:
            return None
        if self._law_cache is None:
            phase = history.phases[0]
            run = {"alpha": history.alpha, "step_size": history.step_size, "noise_std": phase.noise_std}
            if history.sums is not None:
                self._law_cache = LearningLaw.of_sums(history.sums, n_steps=phase.n_steps, **run)
            else:
                self._law_cache = LearningLaw(*history.rows("its law"), n_steps=phase.n_steps, **run)
        return self._law_cache

    def quote(
        self,
        table: Records | None = None,
        *,
        epsilon: float,
        delta: float,
        n_steps: int | None = None,
        noise_std: float | None = None,
        method: str = "exact",
        indices: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        by_id: bool = False,
        groups: ArrayLike | None = None,
        threads: int | None = None,
    ) -> Quote:
        """Return what forgetting each record would cost.

        Parameters
        ----------
        table : Records, optional
            The table of a model made by `fit_statistics`, as `expunge.data.open_records` returns it: as it was, or
            without the records deleted since. It is refused if its records are not those of the model, and read once; a
            further pass finds out whose the rows are for ``by_id``, and one more the worst of all records for rows that
            go together. Rows that wait for others of their group take at most a gigabyte: of groups that are scattered
            over a larger table, the others are quoted in further passes. Models that hold their records take none.
        epsilon, delta : float
            Target of the deletion: epsilon >= 0, 0 < delta < 1.
        n_steps : int, optional
            Unlearning steps (>= 1); the smallest noise per step is returned.
        noise_std : float, optional
            Noise per unlearning step (> 0); the fewest steps are returned. Give exactly one of the two.
        method : {"exact", "shifted", "uniform"}
            Exact Gaussian laws; the per-record bound by shifted interpolation ([BAC26, arXiv 2602.15602], section 3,
            repaired); or the worst case over all training records, whichever are quoted.
            After a deletion only "exact" is left: the bounds need every step of the run, with the rows that are gone.
            The last two spend delta/10 on the high-probability bound of the residuals and need
            e^epsilon < 10; their noise is ``inf`` above that.
        ids : int, str or sequence of them, optional
            People to quote: ids of the first fit (or of the table), all rows of one id together. Give at most one of
            ``ids``, ``rows`` and ``indices``; with none, all remaining records are quoted.
        rows : array-like of int, optional
            Rows to quote: positions in the first fit.
        indices : array-like of int, optional
            The same as ``rows``; rejected if the model has ids, since a number could mean either.
        by_id : bool, default False
            Quote all rows of one id together, one entry per id among those asked for; ``ids`` always does.
        groups : array-like of int or str, shape (n,), optional
            One group per row of the first fit (exact integers or strings); rows of one group are quoted together, and
            the quote has one entry per group among those asked for.
        threads : int, optional
            Maximum number of cores; ``EXPUNGE_NUM_THREADS`` or all of them by default.

        Returns
        -------
        Quote
            In the order asked for. Exact quotes come from truncated Krylov spaces and say *estimate*, with their
            error; `unlearn` never truncates.

        Raises
        ------
        ValueError
            On an argument out of range.
        RuntimeError
            After `forget_history`.

        See Also
        --------
        unlearn : Delete records, with a certificate.
        privacy_profile : Every epsilon and delta of one deletion, exactly.

        Notes
        -----
        ==========================================================  ==========================
        Edge case                                                   Result
        ==========================================================  ==========================
        a row of zeros with target 0, no intercept                  ``noise_std`` 0
        the same, with ``noise_std`` given                          ``n_steps`` 0
        ``epsilon=3.0`` with ``method="shifted"``                   ``noise_std`` inf
        learning without noise                                      finite: unlearning adds it
        ``rows=[]``, a row twice, or a row that does not exist      ValueError
        neither or both of ``n_steps`` and ``noise_std``            ValueError
        ==========================================================  ==========================

        Examples
        --------
        >>> from expunge import LangevinRidge
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = LangevinRidge(n_steps=1000, noise_std=0.02, random_state=0).fit(X, y / 100)
        >>> quote = model.quote(epsilon=1.0, delta=1e-5, n_steps=20)
        >>> len(quote)
        442
        """
        history = self._require_history()
        target = {"epsilon": epsilon, "delta": delta, "n_steps": n_steps, "noise_std": noise_std}
        named: dict[str, Any] = {"indices": indices, "ids": ids, "rows": rows, "by_id": by_id, "groups": groups}
        if history.sums is not None:
            found = self._table_pass(table, history)
            claim = claim_of(history, method=method, **target)  # type: ignore[arg-type]
            return quote_table(history, found, claim, law=self._law(history), threads=threads, **named)
        self._refuse_table(table, history)
        return quote(history, **target, method=method, law=self._law(history), threads=threads, **named)  # type: ignore[arg-type]

    def _table_pass(self, table: Records | None, history: History) -> TablePass:
        """Return a pass over the table of a model that holds no rows."""
        if table is None:
            raise TypeError("table must be given: this model was made from statistics and holds no records")
        if not isinstance(table, Records):
            raise TypeError(f"table must be Records, as open_records returns them, got {type(table).__name__}")
        classes = tuple(self.classes_.tolist()) if hasattr(self, "classes_") else None
        return TablePass(table, history, self._fitted["fit_intercept"], classes)

    def _refuse_table(self, table: Records | None, history: History) -> None:
        if table is not None and history.sums is None:
            raise TypeError("table must be omitted: this model holds its records")

    def _rows_to_delete(self, history: History, indices: Any, ids: Any, rows: Any) -> NDArray[np.int64]:
        n, removed = len(history.design), history.removed
        found = selected_rows(history.ids, n=n, removed=removed, indices=indices, ids=ids, rows=rows)
        if len(found) + len(removed) >= n:
            name = "indices" if indices is not None else "ids" if ids is not None else "rows"
            raise ValueError(f"{name} must leave at least one record, got all that remain")
        return found

    def privacy_profile(
        self,
        indices: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        n_steps: int = 0,
        noise_std: float = 0.0,
        table: Records | None = None,
    ) -> GaussianPair:
        """Return the exact Gaussian pair of deleting records, by dense float64 algebra.

        Parameters
        ----------
        indices, ids, rows : int, str or sequence of them
            Records to delete together, as for `unlearn`.
        n_steps : int
            Unlearning steps; 0 is the pair at the end of learning.
        noise_std : float
            Noise per unlearning step; 0 is the pair at the end of learning.
        table : Records, optional
            The table of a model made by `fit_statistics`, as for `quote`, read once.

        Returns
        -------
        GaussianPair
            ``.delta(epsilon)``, ``.epsilon(delta)``, ``.renyi(order)``; P is this model's law, Q the law of the run
            that never saw the rows (nor any deleted before).

        Raises
        ------
        ValueError
            If there is no noise at all, or if records do not exist, are repeated or were already deleted.

        See Also
        --------
        quote : What the deletion of each record needs.

        Examples
        --------
        >>> from expunge import LangevinRidge
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = LangevinRidge(n_steps=1000, noise_std=0.02, random_state=0).fit(X, y / 100)
        >>> pair = model.privacy_profile(3, n_steps=20, noise_std=0.05)
        >>> bool(pair.delta(1.0) < pair.delta(0.1) < 1)
        True
        """
        history = self._require_history()
        self._refuse_table(table, history)
        if history.sums is not None:
            held = read_rows(self._table_pass(table, history), indices=indices, ids=ids, rows=rows)
            history, chosen = history.holding(held.numbers, held.design, held.targets), held.numbers
        else:
            chosen = self._rows_to_delete(history, indices, ids, rows)
        deleted = tuple(sorted({*history.removed, *chosen.tolist()}))
        last = Phase(count("n_steps", n_steps), number("noise_std", noise_std, low=0), deleted)
        deletion = history.deletion(deleted)
        return deletion.pair(deletion.run(deletion.effective_phases((*history.phases, last))))
