"""The certificate: a claim about a deletion and the inputs to recompute it, with methods to issue and verify it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import ArrayLike

from expunge.certificates import issue, verification
from expunge.certificates.document import Digests, Document, Signature
from expunge.certificates.policy import Policy
from expunge.certificates.report import VerificationReport
from expunge.certificates.statement import ProofStatement
from expunge.certificates.work import DEFAULT_BUDGET
from expunge.data.blocks import Records
from expunge.runs.base import Run

__all__ = ["Certificate", "Digests", "Signature"]

Self = TypeVar("Self", bound="Certificate")


class Certificate(Document):
    """A claim that records were deleted from a run, and all that is needed to recompute it.

    P is the law of the released parameters, Q that of the same run on data that never held the deleted rows. The claim
    is P(S) <= e^epsilon Q(S) + delta and Q(S) <= e^epsilon P(S) + delta for every S. A certificate is confidential: the
    noise depends on the deleted record, and so does the certificate. Make one with `create`, read one with `load`.

    Attributes
    ----------
    epsilon, delta : float
        The claim.
    delta_pq, delta_qp : float
        delta(P|Q) and delta(Q|P) as computed at ``epsilon``; neither exceeds ``delta``. After earlier deletions they
        may be larger than what the data of the first fit give, which the model no longer held whole.
    delta_s : float or None
        Failure probability of the method's bounds; None where it has none ("exact").
    neighbouring_relation : str
        ``"REMOVE_ONE"`` or ``"REMOVE_GROUP"``.
    method : str
        How the deltas are computed: for a ridge run ``"exact"``, ``"shifted"`` or ``"uniform"``.
    status : str
        ``"certified"``, ``"conditional"`` (it rests on ``conditions``) or ``"estimate"`` (no certificate). That of a
        version 1 certificate is as it was issued; `standing` says what it is worth.
    conditions : tuple of str
        What a conditional certificate rests on: among them every constant of the run that was taken from the data.
    notes : tuple of str
        What else a reader must know.
    run : Run
        Record of the run, an `expunge.runs.ridge.RidgeRun` for instance.
    digests : Digests
        Of X, y, the records of the last request (salted) and the released parameters.
    salt : str
        64 hexadecimal characters; without it the record's digest cannot be guessed.
    library_version, issued_at : str
        Who issued it, and when (UTC, ISO 8601).
    signature : Signature or None
        Over the canonical JSON of everything else.
    version : int
        Version of the format: 2, or 1 for a certificate issued before constants had sources.

    Raises
    ------
    CertificateError
        On construction, naming the field that breaks the format; NaN and infinity always do.
    """

    @classmethod
    def create(
        cls: type[Self],
        *,
        X: ArrayLike,
        y: ArrayLike,
        model: object,
        run: Run[Any],
        epsilon: float,
        delta: float,
        method: str = "exact",
        delta_s: float | None = None,
        status: str | None = None,
        conditions: Sequence[str] = (),
    ) -> Self:
        """Return a certificate whose claim has been computed from the data, or refuse.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            Features of the first fit, deleted rows included.
        y : array-like of shape (n_records,) or (n_records, n_outputs)
            Targets or labels of the first fit.
        model : fitted estimator or array-like
            What is released: for a ridge run an estimator with ``coef_`` and ``intercept_``, or its parameters
            (n_columns, n_outputs) in the layout of `expunge.certificates.model_digest`.
        run : Run
            Record of the run, an `expunge.runs.ridge.RidgeRun` for instance.
        epsilon, delta : float
            What is claimed.
        method : str, default="exact"
            How the deltas are computed, one of ``run.methods``: for a ridge run "exact", "shifted" or "uniform".
        delta_s : float, optional
            For methods that have a failure probability, in (0, delta); the run's choice if not given: a tenth of delta
            for a ridge run.
        status : {"certified", "conditional", "estimate"}, optional
            "certified" has no conditions, "conditional" at least one; if not given, whichever fits.
        conditions : sequence of str
            What the claim rests on, besides the constants that the run says were taken from the data: those are
            always added.

        Returns
        -------
        Certificate
            Unsigned. Its claim has passed the checks of `verify`.

        Raises
        ------
        VerificationError
            If an assumption fails, a computed delta exceeds the claimed one (by more than a relative 1e-9), or the
            model cannot have come from the run (``field == "model"``, see `verify`).
        TypeError, ValueError
            If an argument is of the wrong kind or out of range.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge.certificates import Certificate, Phase, RidgeRun, Sources
        >>> phases = (Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
        >>> run = RidgeRun(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
        ...                n_records=3, n_features=3, n_outputs=1, phases=phases, deleted=(0,),
        ...                sources=Sources(step_size="given", noise_std="given", classes="none"))
        >>> certificate = Certificate.create(X=np.eye(3), y=np.ones(3), model=np.zeros((3, 1)), run=run,
        ...                                  epsilon=1.0, delta=1e-3)
        >>> certificate.verify(np.eye(3), np.ones(3)).certified
        True
        """
        return issue.issue(
            cls,
            X=X,
            y=y,
            model=model,
            run=run,
            epsilon=epsilon,
            delta=delta,
            method=method,
            delta_s=delta_s,
            status=status,
            conditions=conditions,
        )

    def verify(
        self,
        X: ArrayLike | Records,
        y: ArrayLike | None = None,
        model: object = None,
        *,
        public_key: Ed25519PublicKey | None = None,
        policy: Policy | None = None,
        budget: float = DEFAULT_BUDGET,
        proof: bool = False,
        state: str | os.PathLike[str] | None = None,
        statement: ProofStatement | None = None,
    ) -> VerificationReport:
        """Recompute the claim from the data and check everything else that can be checked.

        The recomputed deltas decide, not the recorded ones. Without a signature, changes to fields that nothing is
        recomputed from (status, conditions, time, version) and changes that only weaken the claim go undetected; with
        one, no change does.

        Parameters
        ----------
        X, y : array-like, or Records
            As given to the first fit, deleted rows included, in the same order; or, for a ridge run, the table of it,
            with its targets, that is read once (``y`` is omitted). Copies of the deleted rows are not looked for then.
        model : fitted estimator or array-like, optional
            The released model - with ``coef_`` and ``intercept_``, or its parameters in the layout of
            `expunge.certificates.model_digest` - to be compared with the certificate, and with P, the law of what the
            run releases: below a two-sided p-value of 1e-12 it cannot have come from the run and is refused.
        public_key : Ed25519PublicKey, optional
            Key whose signature is required. Without it a signature, if there is one, is checked against the key that
            comes with it, which shows that nothing has changed since but not who signed.
        policy : Policy, optional
            What the certificate must be to be accepted; without one every true claim is.
        budget : float, default=1e12
            Largest amount of work, in estimated floating-point operations (about a minute of one core); more is
            refused, as ``field == "budget"``, before any is done.
        proof : bool, default=False
            Whether to prove the claim in ball arithmetic too (needs the extra ``proof``); a table is read again. It
            passes if the upper ends of both enclosures are at most the claimed delta, without tolerance; an
            `UndecidedError` says what could not be decided. Not part of ``budget``.
        state : path-like, optional
            With a proof by the method "exact": a folder that keeps its stages, so that a proof which is interrupted
            goes on where it stopped, to the same enclosures; removed when the proof has ended. It holds the products
            of the data, and others must not be able to write it.
        statement : ProofStatement, optional
            A statement that this certificate's claim was proved. It must be about this certificate; it is shown, and
            with ``proof=True`` its enclosures are held against those of the proof. By itself it proves nothing.

        Returns
        -------
        VerificationReport
            With the recomputed deltas; ``certified`` is True only for status "certified".

        Raises
        ------
        VerificationError
            With ``field`` naming what refutes the certificate.
        """
        return verification.verify(
            self,
            X,
            y,
            model,
            public_key=public_key,
            policy=policy,
            budget=budget,
            proof=proof,
            state=state,
            statement=statement,
        )
