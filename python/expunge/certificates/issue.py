"""Issuing a certificate: a claim is computed from the data, or refused."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from expunge import _validate
from expunge._version import __version__
from expunge.certificates import verification
from expunge.certificates.digest import features_digest, model_digest, record_digest, targets_digest
from expunge.certificates.document import Digests, Document, check_kind
from expunge.certificates.evidence import requested
from expunge.certificates.schema import VerificationError, refuting
from expunge.certificates.work import stages
from expunge.runs.base import Problem, Run

__all__ = ["issue"]

D = TypeVar("D", bound=Document)


def issue(
    document: type[D],
    *,
    X: Any,
    y: Any,
    model: object,
    run: Run[Any],
    epsilon: float,
    delta: float,
    method: str,
    delta_s: float | None,
    status: str | None,
    conditions: Sequence[str],
    check: Callable[..., Problem] | None = None,
    digests: tuple[str, str] | None = None,
    request: tuple[ArrayLike, ArrayLike] | None = None,
) -> D:
    """Return a document whose claim has been computed from the data, or refuse; `Certificate.create` describes it.

    ``check`` does what ``run.check`` does, for a caller that knows a quicker way. ``digests`` are those of the features
    and targets of the first fit, for a caller that no longer holds them: of ``X`` and ``y`` only the rows of the last
    request are looked at then, or those given as ``request``, beside which ``X`` and ``y`` may be None.

    Raises
    ------
    VerificationError
        Naming the field that fails.
    TypeError, ValueError
        If an argument is of the wrong kind or out of range.
    """
    check_kind(run)
    rows = list(requested(run))
    salt = secrets.token_bytes(32)
    with stages(run, method=method) as begin:
        begin("data")
        if request is not None and digests is None:
            raise TypeError("digests must be given with a request, got None")
        features, targets = (features_digest(X), targets_digest(y)) if digests is None else digests
        if request is None and np.shape(y)[:1] != np.shape(X)[:1]:
            raise VerificationError(
                "run.n_records", f"X has shape {np.shape(X)} but y {np.shape(y)}: both need one row per record"
            )
        with refuting():
            parameters = run.parameters(model)
        if request is None:
            matrix = _validate.plain_array("X", X)
            if run.deleted and not 0 <= min(run.deleted) <= max(run.deleted) < len(matrix):
                raise VerificationError("run.deleted", f"must be within [0, {len(matrix)}), got {run.deleted!r}")
            request = matrix[rows], np.asarray(y)[rows]
        record = record_digest(*request, salt=salt)
        rests_on = (*run.conditions(), *(c for c in conditions if c not in run.conditions()))
        draft = document(
            epsilon=epsilon,
            delta=delta,
            delta_pq=0.0,
            delta_qp=0.0,
            delta_s=run.failure_probability(method=method, delta=delta) if delta_s is None else delta_s,
            neighbouring_relation="REMOVE_ONE" if len(run.deleted) == 1 else "REMOVE_GROUP",
            method=method,
            status=("conditional" if rests_on else "certified") if status is None else status,
            conditions=rests_on,
            notes=run.notes(),
            run=run,
            digests=Digests(X=features, y=targets, record=record, model=model_digest(parameters)),
            salt=salt.hex(),
            library_version=__version__,
            issued_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        verification.check_status(draft, allow_estimate=True)
        # The digests have just been computed from these data.
        begin("assumptions")
        with refuting():
            problem = (run.check if check is None else check)(X, y, conditions=draft.conditions)
        begin("claim")
        deltas = verification.claimed(draft, problem)
        result = replace(draft, delta_pq=deltas.pq, delta_qp=deltas.qp)
        begin("model")
        verification.plausible(result, problem, parameters)
    return result
