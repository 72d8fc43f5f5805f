"""Verification of a certificate by residual: one gradient on the data as they now stand, and no deleted row."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._errors import counted
from expunge.certificates.digest import model_digest
from expunge.certificates.residual.agreed_noise import AgreedNoise
from expunge.certificates.residual.certificate import ResidualCertificate, noise_text
from expunge.certificates.residual.evidence import ResidualEvidence
from expunge.certificates.residual.format import ResidualNoise, check_format
from expunge.certificates.residual.records import check_records
from expunge.certificates.residual.table import table_bound, table_rows
from expunge.certificates.schema import CertificateError, VerificationError
from expunge.certificates.statement import ProofStatement
from expunge.certificates.verification import UndecidedError, check_statement
from expunge.data.blocks import Records
from expunge.runs.base import LEAST_P_VALUE
from expunge.runs.enclosures import Proof
from expunge.runs.exact_noise import with_exact_noise
from expunge.runs.residual.answers import Answers, answers_of
from expunge.runs.residual.claim import release_p_value
from expunge.runs.residual.gradients import GradientSums, gradient_sums
from expunge.runs.residual.objective import Rows

__all__ = ["ResidualReport", "released_parameters", "verify"]

# Rows with a constant column are made block by block, 64 MB at a time.
_BLOCK = 2**23


@dataclass(frozen=True)
class ResidualReport:
    """Findings of a verification by residual.

    Attributes
    ----------
    epsilon, delta, mu, noise_std : float
        The claim that holds.
    status : str
        ``"certified"`` or ``"conditional"``.
    conditions, notes : tuple of str
        As in the certificate.
    n_records : int
        Records compared with the certificate.
    residual_bound, residual_allowed : float
        Recomputed bound on the norm of the gradient, and what the claim allows. The first is confidential: it depends
        on what happened.
    p_value : float or None
        Two-sided p-value of the released parameters around those without noise, uniform on (0, 1) for an honest
        release; None without them.
    noise : ResidualNoise or None
        As in the certificate: how the noise was drawn, and the grid that the released model, if given, lies on.
    certificate : str
        Digest of the certificate.
    signature : str
        ``"none"``, ``"unknown key"`` (nothing was changed since somebody signed) or ``"trusted key"``.
    proof : Proof or None
        The claim proved in ball arithmetic, where that was asked for; confidential like ``residual_bound``.
    statement : ProofStatement or None
        A statement about the certificate that was given: it says that the claim was proved, and who says so. Only
        ``proof`` is a proof; where there is one too, the statement agrees with it.
    """

    epsilon: float
    delta: float
    mu: float
    noise_std: float
    status: str
    conditions: tuple[str, ...]
    notes: tuple[str, ...]
    n_records: int
    residual_bound: float
    residual_allowed: float
    p_value: float | None
    noise: ResidualNoise | None
    certificate: str
    signature: str
    proof: Proof | None = None
    statement: ProofStatement | None = None

    @property
    def certified(self) -> bool:
        """True if the claim holds without conditions."""
        return self.status == "certified"

    def summary(self) -> str:
        """Return a few lines for a person."""
        model = "not compared" if self.p_value is None else f"as certified (p-value {self.p_value:.3g})"
        lines = [
            f"holds ({self.status}): epsilon = {self.epsilon:g}, delta = {self.delta:g}",
            f"  recomputed |gradient| <= {self.residual_bound:.3g}, allowed {self.residual_allowed:.3g}",
            f"  noise: {noise_text(self.noise)}",
            *(f"  but: {text}" for text in self.conditions),
            *(f"  note: {text}" for text in self.notes),
            f"  {counted(self.n_records, 'record')} as certified; model {model}; signature: {self.signature}",
            *([] if self.proof is None else [f"  {self.proof.summary()}"]),
            *([] if self.statement is None else [f"  {self.statement.line(self.proof)}"]),
        ]
        return "\n".join(lines)


def released_parameters(certificate: ResidualCertificate, released: object) -> NDArray[np.float64]:
    """Return the parameters (n_outputs, n_columns) of a released model, or of an array of them.

    Raises
    ------
    VerificationError
        Naming ``digests.released`` or ``model.classes``, if they are not those of the certificate.
    """
    model = certificate.model
    try:
        if hasattr(released, "coef_"):
            weights = _validate.real_array("released.coef_", released.coef_)
            intercept = _validate.real_array("released.intercept_", getattr(released, "intercept_", 0.0)).ravel()
            if weights.shape not in ((model.n_outputs, model.n_features), (model.n_features,)):
                needed = (model.n_outputs, model.n_features)
                raise ValueError(f"released.coef_ must have shape {needed}, got {weights.shape}")
            weights = weights.reshape(model.n_outputs, model.n_features)
            if model.fit_intercept:
                found = np.hstack([weights, intercept.reshape(model.n_outputs, 1)])
            elif np.any(intercept != 0):
                raise ValueError("released.intercept_ must be 0, because none was fitted")
            else:
                found = weights
        else:
            found = _validate.real_array("released", released, ndim=2)
        if found.shape != model.shape:
            raise ValueError(f"released must have shape {model.shape}, got {found.shape}")
    except (TypeError, ValueError) as error:
        raise VerificationError("digests.released", f"the released model is not what was certified: {error}") from None
    labels = getattr(released, "classes_", None)
    if labels is not None and model.classes is not None and list(labels) != list(model.classes):
        raise VerificationError(
            "model.classes", f"must be the model's {np.asarray(labels).tolist()!r}, got {list(model.classes)!r}"
        )
    digest = model_digest(found.T)
    if not hmac.compare_digest(digest, certificate.digests.released):
        raise VerificationError(
            "digests.released",
            f"the released model must have the digest {certificate.digests.released}, got {digest}",
        )
    return found


def verify(
    certificate: ResidualCertificate,
    X: ArrayLike | Records,
    y: ArrayLike | None = None,
    *,
    evidence: ResidualEvidence,
    released: object = None,
    ids: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    public_key: Ed25519PublicKey | None = None,
    threads: int | None = None,
    proof: bool = False,
    statement: ProofStatement | None = None,
) -> ResidualReport:
    """Verify a certificate on the data as they now stand; no deleted row is needed.

    Checks the format, the arithmetic of the claim, the signature, that these are the certified records and nothing
    else, that the gradient at the evidence's parameters is as small as the claim needs - one pass over the data, with a
    proved bound on rounding - and that the released model is these parameters and that noise, on the grid that the
    certificate names.

    Parameters
    ----------
    certificate : ResidualCertificate
        What is claimed.
    X, y : array-like
        The data as they now stand, without a constant column; a sparse ``X`` is made dense. Or a table of records as
        ``X`` alone, with its own targets and ids, which is read once, block by block.
    evidence : ResidualEvidence
        The certificate's confidential part.
    released : fitted estimator or array-like of shape (n_outputs, n_columns), optional
        The released model: one with ``coef_`` and ``intercept_``, or its parameters, the constant column last.
    ids : array-like of shape (n_records,), optional
        Ids of the records. With them the records may come in any order; without, in that of the evidence.
    sample_weight : array-like of shape (n_records,), optional
        Weights of the records, those of classes included; 1 if omitted.
    public_key : Ed25519PublicKey, optional
        Key whose signature is required. Without it a signature, if there is one, is checked against its own key.
    threads : int, optional
        Most cores to use.
    proof : bool, default False
        Whether to prove the claim in ball arithmetic too, in one more pass (needs the extra ``proof``): the gradient,
        what is allowed of it, and the delta of all releases. It passes if upper ends are at most what is claimed,
        without tolerance.
    statement : ProofStatement, optional
        A statement that this certificate's claim was proved. It must be about this certificate; it is shown, and with
        ``proof=True`` its enclosures are held against those of the proof. By itself it proves nothing.

    Returns
    -------
    ResidualReport

    Raises
    ------
    VerificationError
        With ``field`` naming what refutes the certificate: ``"digests.data"`` names records that are missing, too many
        or changed; ``"claim.mu"`` or ``"claim.delta"`` what a proof refutes.
    UndecidedError
        If a proof neither proves nor refutes the claim.
    TypeError, ValueError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.certificates.residual import *
    >>> X, y, theta = np.eye(2), [2.0, 4.0], np.array([[1.0, 2.0]])  # minimises |X theta - y|^2/2 + |theta|^2/2
    >>> tree = RecordTree.of(X, y)
    >>> noisy = theta + 0.01 * np.array([[1.0, -0.5]])
    >>> certificate = ResidualCertificate.create(
    ...     tree=tree, released=noisy, model=ResidualModel("NewtonRidge", 2, 1, False), loss="squared", alpha=1.0,
    ...     noise_std=0.01, epsilon=1.0, delta=1e-5, releases=100, release=1)
    >>> evidence = ResidualEvidence.of(tree, theta=theta, residual_bound=1e-15, passes=1, refreshes=0, action="fit",
    ...     n_changed=2, certificate=certificate.digest())
    >>> verify(certificate, X, y, evidence=evidence, released=noisy).certified
    True
    """
    c = certificate
    if proof:
        import expunge.proof  # noqa: F401  # says what is missing before any work is done
    for name, value, kind in (
        ("certificate", certificate, ResidualCertificate),
        ("evidence", evidence, ResidualEvidence),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
    try:
        check_format(c.to_dict())
    except CertificateError as error:
        raise VerificationError(error.field, str(error).removeprefix(f"{error.field}: ")) from None
    c.check_claim()
    if public_key is not None:
        c.verify_signature(public_key)
    check_statement(statement, c)
    if evidence.certificate != c.digest():
        raise VerificationError(
            "evidence.certificate", f"must be the certificate's digest {c.digest()}, got {evidence.certificate}"
        )
    if evidence.theta.shape != c.model.shape:
        raise VerificationError("evidence.theta", f"must have shape {c.model.shape}, got {evidence.theta.shape}")
    if isinstance(X, Records):
        if y is not None or ids is not None:
            raise TypeError("y and ids must be omitted for a table of records, which has its own")
        bound = table_bound(c, evidence, X, sample_weight=sample_weight, threads=threads)
        parts: Callable[[], Iterable[Rows]] = partial(table_rows, c, X, sample_weight=sample_weight)
    else:
        if y is None:
            raise TypeError("y must be given, unless X is a table of records")
        rows, answers, weights = _data(c, X, y, sample_weight)
        check_records(c, evidence, rows, answers, y, ids=ids, weights=weights)
        weighed = None if sample_weight is None else weights
        bound = _residual_bound(c, evidence.theta, rows, answers, weighed, threads)
        parts = partial(_parts, c, rows, answers, weighed)
    if not bound <= c.residual_allowed:  # NaN lands here
        raise VerificationError(
            "claim.mu",
            f"the gradient must be at most alpha * noise_std * mu = {c.residual_allowed:.6g}, got a bound of "
            f"{bound:.6g}",
        )
    found = _proved(c, evidence.theta, parts) if proof else None
    if statement is not None and found is not None:
        statement.compare(found)
    agreed = _agreed(c, evidence)
    chance = None
    if released is not None:
        parameters = released_parameters(c, released)
        c.check_grid(parameters)
        if agreed is not None:
            _check_drawn(parameters, c, evidence, agreed)
        chance = release_p_value(parameters, evidence.theta, noise_std=c.noise_std)
        if not chance >= LEAST_P_VALUE:
            raise VerificationError(
                "released",
                f"cannot be the evidence's parameters with noise {c.noise_std:g}: its p-value is {chance:.3g}, refused "
                f"below {LEAST_P_VALUE:g}",
            )
    return ResidualReport(
        epsilon=c.epsilon,
        delta=c.delta,
        mu=c.mu,
        noise_std=c.noise_std,
        status=c.status,
        conditions=c.conditions,
        notes=c.notes,
        n_records=c.n_records,
        residual_bound=bound,
        residual_allowed=c.residual_allowed,
        p_value=chance,
        noise=c.noise,
        certificate=c.digest(),
        signature="trusted key" if public_key is not None else "none" if c.signature is None else "unknown key",
        proof=found,
        statement=statement,
    )


def _agreed(c: ResidualCertificate, evidence: ResidualEvidence) -> AgreedNoise | None:
    """Return the noise that two parties agreed on, which the evidence has to hold the seeds of; None of other noise."""
    agreement = None if c.noise is None else c.noise.agreement
    if agreement is None:
        return None
    if evidence.seeds is None:
        raise VerificationError(
            "evidence.seeds",
            "must be there, as the noise was drawn from two seeds: give the evidence that came with the release, which "
            "working models do not keep",
        )
    try:
        return AgreedNoise(agreement, evidence.seeds)
    except ValueError as error:
        raise VerificationError("evidence.seeds", str(error).removeprefix("seeds ")) from None


def _check_drawn(
    parameters: NDArray[np.float64], c: ResidualCertificate, evidence: ResidualEvidence, agreed: AgreedNoise
) -> None:
    """Refute a release that is not, to the bit, what the two seeds make of the evidence's parameters."""
    try:
        drawn = with_exact_noise(evidence.theta, noise_std=c.noise_std, words=agreed.words())
    except ValueError as error:
        raise VerificationError("released", f"cannot be drawn again from the two seeds: {error}") from None
    if not np.array_equal(drawn, parameters):
        raise VerificationError(
            "released", "is not what the two seeds make of the evidence's parameters: noise was chosen"
        )


def _proved(c: ResidualCertificate, theta: NDArray[np.float64], parts: Callable[[], Iterable[Rows]]) -> Proof:
    """Return the proof of a claim, or refuse the claim."""
    from expunge.proof.residual import prove_residual

    claim = {name: getattr(c, name) for name in ("alpha", "noise_std", "mu", "epsilon", "delta", "releases")}
    found = prove_residual(parts, theta, loss=c.loss, reference=c.reference, n_records=c.n_records, **claim)
    if found.outcome == "refuted":
        field = "claim.mu" if "gradient" in found.reason else "claim.delta"
        raise VerificationError(field, f"refuted in ball arithmetic: {found.reason}")
    if found.outcome != "proved":
        raise UndecidedError(found)
    return found


def _data(
    c: ResidualCertificate, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[NDArray[np.float64], Answers, NDArray[np.float64]]:
    """Return the data as the certificate's model reads them."""
    try:
        rows = _validate.real_array("X", _numbers(X), ndim=2)
        answers = answers_of(y, loss=c.loss, classes=c.model.classes, n_outputs=c.model.n_outputs)
        weights = np.ones(len(rows))
        if sample_weight is not None:
            weights = _validate.real_array("sample_weight", sample_weight, ndim=1, low=0.0)
    except (TypeError, ValueError) as error:
        raise VerificationError("digests.data", f"the data are not what was certified: {error}") from None
    if rows.shape[1] != c.model.n_features:
        raise VerificationError("model.n_features", f"must be that of X, {rows.shape[1]}, got {c.model.n_features}")
    given = answers.labels if answers.targets is None else answers.targets
    for name, length in (("y", len(given if given is not None else ())), ("sample_weight", len(weights))):
        if length != len(rows):
            raise ValueError(f"{name} must have one entry for each of {len(rows)} records, got {length}")
    return rows, answers, weights


def _numbers(X: ArrayLike) -> ArrayLike:
    """Return a sparse matrix, or numbers among Python's objects (nullable columns), as fits take them: in float64."""
    _validate.refuse_masks("X", X)
    dense = X.toarray() if hasattr(X, "toarray") else X
    if hasattr(dense, "iloc") or np.asarray(dense).dtype.kind == "O":
        return np.asarray(dense, dtype=np.float64)
    return dense


def _residual_bound(
    c: ResidualCertificate,
    theta: NDArray[np.float64],
    rows: NDArray[np.float64],
    answers: Answers,
    weights: NDArray[np.float64] | None,
    threads: int | None,
) -> float:
    """Return a proved bound on the norm of the gradient at theta, in one pass over the data."""

    def part(some: Rows) -> GradientSums:
        return gradient_sums(
            some.X,
            theta,
            loss=c.loss,
            targets=some.targets,
            labels=some.labels,
            weights=some.weights,
            threads=threads,
        )

    return reduce(add, map(part, _parts(c, rows, answers, weights))).norm_bound(theta, alpha=c.alpha)


def _parts(
    c: ResidualCertificate, rows: NDArray[np.float64], answers: Answers, weights: NDArray[np.float64] | None
) -> Iterator[Rows]:
    """Yield the rows as the model sees them, in parts where a constant column has to be added."""
    size = max(1, _BLOCK // c.model.shape[1]) if c.model.fit_intercept else len(rows)
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        some = rows[block]
        if c.model.fit_intercept:
            some = np.hstack([some, np.ones((len(some), 1))])
        yield Rows(
            some,
            None if answers.labels is None else answers.labels[block],
            None if answers.targets is None else answers.targets[block],
            None if weights is None else weights[block],
        )
