"""Deletions: noisy steps on what remains, their certificate, and the noise-free baseline."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import choice, count, number
from expunge.certificates import Certificate, RidgeRun
from expunge.certificates.issue import issue
from expunge.data.blocks import Records
from expunge.data.constants import CONDITIONS
from expunge.data.exact_products import Pair
from expunge.estimators._asking import AskedRidge
from expunge.estimators._history import History
from expunge.estimators._programs import of_laws, program_of, release_of, steps_of
from expunge.estimators._progress import dense_work, parts
from expunge.estimators._table_deletion import TableDeletion, read_deletion
from expunge.estimators.noise_warning import REHEARSALS, Training, TrainingSums, check_loss, warn_of_forgetting
from expunge.estimators.released import Released
from expunge.runs.methods import METHODS
from expunge.runs.noise import os_normals
from expunge.runs.ridge import Program, exact_quotes, shifted_quotes
from expunge.runs.ridge.clipping import residual_failure
from expunge.runs.ridge.cost import LARGEST_NOISE, DeletionCost, chosen_noise
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.kept_law import KeptLaw, ResumedDeletion
from expunge.runs.ridge.run import RidgeProblem

__all__ = ["DeletingRidge", "Unlearned"]

Array = NDArray[np.float64]
Self = TypeVar("Self", bound="DeletingRidge")
Model = TypeVar("Model", bound="DeletingRidge", covariant=True)

NO_NOISE = "no noise was added: this model has no privacy claim"


@dataclass(frozen=True)
class Unlearned(Generic[Model]):
    """The result of a deletion.

    Attributes
    ----------
    model : LangevinRidge or LangevinRidgeClassifier
        A new working model without the deleted rows (confidential: it holds the rows that remain, and the law of the
        run so far in place of the others). Publish ``model.release()``.
    certificate : Certificate
        The claim and everything needed to check it (confidential: its noise depends on the deleted record).
    before, after : float
        Training accuracy, or R^2, on the records that remain: of the model that was asked, and of the new one.
    noise_free : float
        The same of the ridge optimum of the records that remain: what forgetting without noise would leave.
    """

    model: Model
    certificate: Certificate
    before: float
    after: float
    noise_free: float

    @property
    def status(self) -> str:
        """Standing of the certificate: "certified" or "conditional"."""
        return self.certificate.status


class DeletingRidge(AskedRidge):
    """A learned model that forgets records."""

    def unlearn(
        self: Self,
        indices: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        epsilon: float,
        delta: float,
        n_steps: int,
        noise_std: float | None = None,
        noise_grid: ArrayLike | str | None = None,
        method: str = "exact",
        last_of_class: str = "refuse",
        max_loss: float | None = None,
        table: Records | None = None,
    ) -> Unlearned[Self]:
        """Forget records: noisy steps on the remaining data, whose noise certifies (epsilon, delta).

        Parameters
        ----------
        indices : int or array-like of int
            Row or rows of the first fit to delete together, if positions are the only numbers that records have: a
            model fitted with ``record_ids``, or on a table whose index is not 0..n-1, rejects them, since 7 could mean
            the id or the position. Give exactly one of ``indices``, ``ids`` and ``rows``.
        ids : int, str or sequence of them
            People to delete: ids of the first fit, all remaining rows of each. An id named twice counts once.
        rows : int or array-like of int
            Positions in the first fit.
        epsilon, delta : float
            The claim: epsilon >= 0, 0 < delta < 1, both directions.
        n_steps : int
            Unlearning steps, >= 1.
        noise_std : float, optional
            Noise per step, fixed before the record was known: a constant that the certificate takes as *given*.
            Rejected if it does not suffice; the error says what does.
        noise_grid : sequence of float, or "powers", optional
            Public values, or all powers of 2^(1/4); the smallest that suffices is used. Which one that is depends on
            the deleted record, and the certificate notes it. At most one of ``noise_std`` and ``noise_grid``; with
            neither, the smallest noise of all is used, and the certificate is *conditional*: the noise level was
            calibrated to the deleted records.
        method : {"exact", "shifted", "uniform"}
            How the noise is calibrated, as for `quote`, but never truncated.
        last_of_class : {"refuse", "conditional"}
            What happens when no record of a class is left whose name came from the data (no ``classes=`` at fit): the
            release would name the class of the deleted record. "conditional" deletes all the same, and the certificate
            says so.
        max_loss : float, optional
            Refuse if forgetting leaves the model worse than the noise-free optimum by more than this (accuracy or R^2
            on the records that remain). Decided on rehearsals with noise of their own before the real noise is drawn:
            choosing among real draws would change the law that the certificate is about.
        table : Records, optional
            The table of a model made by `fit_statistics`, with its ids where ``ids`` are named: as it was, or without
            the records deleted since. It is read once, by the method "uniform" twice; the new model is one of the
            table without the records. Scores are then R^2 for classifiers too.

        Returns
        -------
        Unlearned
            ``.model``, a new working model, ``.certificate``, and what it cost: ``.before``, ``.after`` and
            ``.noise_free``. This model is unchanged. A later `unlearn` on the result is certified against the run that
            never saw any of the deleted records.

        Raises
        ------
        ValueError
            If an argument is out of range, an id or row does not exist or was deleted before, ``indices`` could be
            ids, the last record of a class would go, the loss exceeds ``max_loss``, or the given noise, or any noise,
            does not reach the target.
        TypeError
            If none or several of ``indices``, ``ids`` and ``rows`` are given, or ids are of another kind (7 is not
            "7").
        RuntimeError
            After `forget_history`.

        Warns
        -----
        NoiseWarning
            If the new model is worse than the noise-free optimum by more than 5 points of accuracy, or .05 of R^2.

        See Also
        --------
        quote : What the deletion of each record needs.
        downdate : The optimum without the records: no noise, no claim.

        Notes
        -----
        ==========================================================  ==========================================
        Edge case                                                   Result
        ==========================================================  ==========================================
        a row of zeros with target 0, no intercept                  a certificate with noise 0
        the same record again                                       ValueError: deleted before
        all records that remain                                     ValueError
        ``noise_std=0.0`` where the record needs noise              ValueError with the noise that suffices
        ``delta=0.0`` or ``n_steps=0``                              ValueError
        ``ids`` of a model without ids                              ValueError
        ==========================================================  ==========================================

        The steps' noise is drawn from the operating system's randomness and not kept, whatever ``random_state`` is.
        Noise is never below 2^-30 of the largest noise-free parameter, where float64 would lose it.

        The sums of a new model of a table are those that the pass forms over the rows that remain, to the bit: nothing
        is subtracted, and no rounding tells of the others. The laws that the claim compares are made of the sums before
        and, less the products of the deleted rows, of those after; both are formed with proved errors of about one
        rounding of the result, as for models in memory. Noise of the two agrees to the tolerance of its search, 1e-9.

        Examples
        --------
        >>> from expunge import LangevinRidge
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = LangevinRidge(noise_std=0.02, n_steps=1000, step_size=0.002).fit(X, y / 100)
        >>> result = model.unlearn(3, epsilon=1.0, delta=1e-5, n_steps=20, noise_std=0.05)
        >>> result.certificate.status
        'certified'
        >>> report = result.certificate.verify(X, y / 100, result.model)

        With ids, and the noise calibrated to the person:

        >>> names = [f"customer {i // 2}" for i in range(442)]
        >>> model = LangevinRidge(noise_std=0.02, n_steps=1000, step_size=0.002).fit(X, y / 100, record_ids=names)
        >>> result = model.unlearn(ids="customer 7", epsilon=1.0, delta=1e-5, n_steps=20)
        >>> result.certificate.run.deleted
        (14, 15)
        >>> result.certificate.conditions
        ('the noise level was calibrated to the deleted records',)
        """
        history = self._require_history()
        self._refuse_table(table, history)
        epsilon = number("epsilon", epsilon, low=0)
        delta = number("delta", delta, low=0, high=1, open_low=True, open_high=True)
        n_steps = count("n_steps", n_steps, low=1)
        choice("method", method, METHODS)
        choice("last_of_class", last_of_class, ("refuse", "conditional"))
        max_loss = None if max_loss is None else number("max_loss", max_loss, low=0)
        noise_std = None if noise_std is None else number("noise_std", noise_std, low=0, high=LARGEST_NOISE)
        if noise_std is not None and noise_grid is not None:
            raise ValueError("unlearn takes at most one of noise_std and noise_grid, got both")
        read: TableDeletion | None = None
        if history.sums is not None:
            history.require_method(method)
            found = self._table_pass(table, history)
            read = read_deletion(found, indices=indices, ids=ids, rows=rows)
            chosen = read.records.numbers
            history = history.holding(chosen, read.records.design, read.records.targets)
            history = replace(history, digests=read.digests, parts=found.rows)
        else:
            chosen = self._rows_to_delete(history, indices, ids, rows)
        condition = self._lost_class(history, chosen, None if read is None else read.left.target_sums, last_of_class)
        start = self._first_guess(history, chosen, epsilon=epsilon, delta=delta, n_steps=n_steps, method=method)
        # The search tries fewer than ten noises.
        rows_at_hand = history.design.shape[0] if read is None else len(chosen)
        work = dense_work(rows_at_hand, history.design.shape[1], decompositions=len(history.phases) + 10)
        with parts("unlearn", work=work) as begin:
            begin("laws of the run")
            share = of_laws(history, delta)
            cost = DeletionCost(history, chosen.tolist(), method=method, epsilon=epsilon, delta=share)
            cost.begin = begin
            noise = chosen_noise(cost, n_steps, start=start, noise_std=noise_std, noise_grid=noise_grid)
        phase = cost.phase(n_steps, noise.noise_std)
        data: Training
        if read is not None:
            data = TrainingSums(read.left, self._fitted["fit_intercept"])
            equations = NormalEquations.of_sums(read.left, alpha=history.alpha)
        else:
            keep = np.setdiff1d(np.arange(len(history.design)), np.array(cost.deleted, dtype=np.int64))
            data = self._training_data(history.design[keep], history.targets[keep])
            equations = NormalEquations.remaining(history.products, cost.deleted, alpha=history.alpha)
        noise_free = data.score(equations.optimum())
        extended = history.after(phase, noise_source=noise.source, condition=condition)
        program = program_of(extended, epsilon=epsilon, delta=delta)
        steps = partial(equations.steps, self._theta, step_size=history.step_size, phase=phase, normals=os_normals)
        if max_loss is not None:
            check_loss(data, steps(copies=REHEARSALS), noise_free, max_loss=max_loss, phase=phase)
        released = rest = None
        if program is None:
            theta = steps()
        else:
            assert self._theta_rest is not None  # of a history with a program
            theta, rest = stepped = steps_of(history, Pair(self._theta, self._theta_rest), phase)
            released = release_of(stepped, program)
        before, after = data.score(self._parameters), data.score(theta if released is None else released)
        extended = replace(extended, digests=history.digests_of_fit(self.n_features_in_))
        law = cost.law_after(phase)
        if read is None:
            later = extended.without_deleted(law, n_features=self.n_features_in_)
        else:
            later = extended.without_rows(law, read.left)
        model = self._successor(later, theta, rest, released)
        certificate = self._certificate(extended, model, cost, read, epsilon=epsilon, delta=delta, program=program)
        warn_of_forgetting(data, before=before, after=after, noise_free=noise_free, phase=phase)
        return Unlearned(model, certificate, before, after, noise_free)

    def _first_guess(self, history: History, chosen: NDArray[np.int64], *, method: str, **target: Any) -> float:
        """Return where to start the search for noise: at the quote, if there is a law to quote from."""
        plain = max(history.phases[0].noise_std, 1e-3)
        law = self._law_cache
        # The law is that of a first fit; a group's quote, and the worst case over all, take longer than the search.
        if law is None or len(history.phases) > 1 or len(chosen) > 1 or method == "uniform":
            return plain
        if history.sums is not None:
            law, chosen = law.beside(history.design[chosen], history.targets[chosen]), np.zeros(1, dtype=np.int64)
        quoted = float((exact_quotes if method == "exact" else shifted_quotes)(law, chosen, **target).noise_std[0])
        return quoted if 0 < quoted <= LARGEST_NOISE else plain

    def _lost_class(
        self, history: History, chosen: NDArray[np.int64], left: Array | None, last_of_class: str
    ) -> str | None:
        """Return the condition of a deletion that leaves no record of a class of the data, or refuse it.

        ``left`` are the numbers of records of each class that remain, of a table.
        """
        if history.sources.classes != "data":
            return None
        if left is None:
            left = history.targets[np.setdiff1d(history.remaining, chosen)].sum(axis=0)
        lost = np.flatnonzero((left == 0) & history.targets[chosen].any(axis=0))
        if not lost.size:
            return None
        if last_of_class == "refuse":
            raise ValueError(
                f"the deletion leaves no record of class {self.classes_.tolist()[lost[0]]!r}, but the model and its "
                "release would still name it: fit with classes= given, or ask for last_of_class='conditional'"
            )
        return CONDITIONS["last_of_class"]

    def _successor(self: Self, history: History, theta: Array, rest: Array | None, published: Array | None) -> Self:
        model = type(self)(**{**self.get_params(), **self._fitted})
        for name in ("step_size_", "n_iter_", "n_features_in_", "_single_output", "_reading"):
            setattr(model, name, getattr(self, name))
        for name in ("classes_", "feature_names_in_"):
            if hasattr(self, name):
                setattr(model, name, getattr(self, name).copy())
        model._theta, model._history, model._fitted = theta, history, dict(self._fitted)
        model._theta_rest, model._published = rest, published
        model._rests_on = history.rests_on
        model._no_history_reason, model._law_cache = "", None
        return model

    def _certificate(
        self,
        history: History,
        model: Any,
        cost: DeletionCost,
        read: TableDeletion | None,
        *,
        epsilon: float,
        delta: float,
        program: Program | None,
    ) -> Certificate:
        """Return the certificate of a run that holds the rows it deletes last."""
        n, p = history.design.shape
        run = RidgeRun(
            estimator=self._kind,
            alpha=history.alpha,
            fit_intercept=self._fitted["fit_intercept"],
            step_size=history.step_size,
            classes=tuple(self.classes_.tolist()) if hasattr(self, "classes_") else None,
            n_records=n,
            n_features=p - self._fitted["fit_intercept"],
            n_outputs=history.targets.shape[1],
            phases=history.phases,
            deleted=cost.deleted,
            sources=history.sources,
            program=program,
        )
        deletion = cost.deletion

        def check(X: Any, y: Any, *, conditions: Collection[str] | None) -> RidgeProblem:
            if history.sums is not None:
                return run.check_sums(deletion, history.sums, conditions=conditions)
            if isinstance(deletion, ResumedDeletion):
                return run.check_resumed(deletion, conditions=conditions)
            return run.check(X, y, conditions=conditions, deletion=deletion)

        return issue(
            Certificate,
            X=None if read is not None else history.rows("a certificate")[0][:, : run.n_features],
            y=None if read is not None else history.labels,
            model=model,
            run=run,
            method=cost.method,
            epsilon=epsilon,
            delta=delta,
            # That of the noise search, which left the program its share of delta.
            delta_s=None if program is None or cost.method == "exact" else residual_failure(cost.delta),
            status=None,
            conditions=history.conditions,
            check=check,
            digests=history.digests_of_fit(run.n_features),
            request=None if read is None else (read.records.design[:, : run.n_features], read.records.y),
        )

    def purge(self: Self) -> Self:
        """Drop what a model read from an older file still holds of deleted records, and return the model.

        `unlearn` leaves none of them in the model it returns; files written before it did may hold their rows. The
        exact law of the run so far, mean and covariance, takes their place: further deletions are certified from it, by
        the method "exact". Ids and labels of deleted records go too. A model without deletions is left as it is.

        Returns
        -------
        self

        Raises
        ------
        RuntimeError
            After `forget_history`.

        See Also
        --------
        forget_history : Drop the law and all data too.

        Notes
        -----
        Only this object and what is saved from it afterwards are free of the deleted rows: the file it was read from is
        not (``expunge purge`` rewrites it), nor are copies, backups and models from before the deletion. The law was
        computed from the deleted rows too and stays confidential.

        Examples
        --------
        >>> from expunge import LangevinRidge
        >>> import numpy as np
        >>> model = LangevinRidge(noise_std=0.5, step_size=0.25, fit_intercept=False).fit(np.eye(3), np.ones(3))
        >>> later = model.unlearn(0, epsilon=1.0, delta=1e-5, n_steps=5).model.purge()
        >>> later.unlearn(1, epsilon=1.0, delta=1e-5, n_steps=5).certificate.run.deleted
        (0, 1)
        """
        history = self._require_history()
        if history.removed and history.law is None:
            deletion = history.deletion(history.removed)
            law = KeptLaw.of(deletion, deletion.run(history.phases))
            self._history, self._law_cache = history.without_deleted(law, n_features=self.n_features_in_), None
        return self

    def downdate(
        self,
        indices: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        table: Records | None = None,
    ) -> Released:
        """Return the ridge optimum without some records, solved exactly: the zero-noise baseline.

        No dynamics, no noise and no privacy claim; the model that forgetting should stay close to.

        Parameters
        ----------
        indices, ids, rows : int, str or sequence of them
            Records to leave out, as for `unlearn` (earlier deletions stay out).
        table : Records, optional
            The table of a model made by `fit_statistics`, as for `unlearn`, read once.

        Returns
        -------
        ReleasedRidge
            A predict-only estimator with the coefficients of the optimum; ``conditions_`` says that it has no claim.

        Examples
        --------
        >>> from expunge import LangevinRidge
        >>> import numpy as np
        >>> X, y = np.eye(3), np.ones(3)
        >>> LangevinRidge(random_state=0, fit_intercept=False).fit(X, y).downdate(0).coef_.round(12).tolist()
        [0.0, 0.5, 0.5]
        """
        history = self._require_history()
        self._refuse_table(table, history)
        if history.sums is not None:
            read = read_deletion(self._table_pass(table, history), indices=indices, ids=ids, rows=rows)
            return self._release(NormalEquations.of_sums(read.left, alpha=history.alpha).optimum(), (NO_NOISE,))
        chosen = self._rows_to_delete(history, indices, ids, rows)
        keep = np.setdiff1d(history.remaining, chosen)
        equations = NormalEquations.of(history.design[keep], history.targets[keep], alpha=history.alpha)
        return self._release(equations.optimum(), (NO_NOISE,))
