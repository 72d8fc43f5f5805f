"""The certificate of a deletion by computed residual: a public claim about the data as they now stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._errors import counted
from expunge._files import PUBLIC
from expunge._types import JsonObject
from expunge._version import __version__
from expunge.certificates.digest import model_digest
from expunge.certificates.report import Standing
from expunge.certificates.residual.agreed_noise import AGREED_CONDITION
from expunge.certificates.residual.format import (
    BEFORE_AFTER,
    CANNOT_SHOW,
    FORMAT,
    MEANINGS,
    NOISE_MEANINGS,
    VERSIONS,
    ResidualDigests,
    ResidualModel,
    ResidualNoise,
    agreement_of,
    check_format,
)
from expunge.certificates.residual.tree import RecordTree
from expunge.certificates.schema import CertificateError, VerificationError
from expunge.certificates.signed import Signature, SignedDocument, json_values
from expunge.runs.residual.claim import mu_fits, release_mu, residual_allowance

__all__ = ["ResidualCertificate", "noise_text"]

Self = TypeVar("Self", bound="ResidualCertificate")


@dataclass(frozen=True, repr=False)
class ResidualCertificate(SignedDocument):
    """A public claim: what was released is as good as made of the data as they now stand, and of nothing else.

    All fields are functions of the data as they now stand, of constants, and of a salted root of the data before, so a
    certificate may be published. What depends on the records that left - passes over the data, the residual reached,
    the parameters without noise - is in the confidential `ResidualEvidence`. Make one with `create`, read one with
    `load`.

    Attributes
    ----------
    epsilon, delta : float
        The claim, about all releases together.
    mu : float
        Of this release: the gradient is at most ``alpha * noise_std * mu``.
    noise_std, alpha, loss : float, float, str
        Standard deviation of the noise, strength of the penalty, and the loss.
    reference : {"optimum", "same rule"}
        What the release cannot be told from: the noisy optimum, or a model that only reached such a residual itself,
        which doubles mu.
    model : ResidualModel
        Layout of the parameters.
    n_records : int
        Records of the data as they now stand.
    releases, release : int
        Most releases in the life of the model, and the number of this one.
    digests : ResidualDigests
        Roots of the data now and before, and the digest of what was released.
    status : {"certified", "conditional"}
        Whether the claim rests on conditions.
    conditions, notes : tuple of str
        What it rests on, and what else a reader must know.
    noise : ResidualNoise or None
        How the noise was drawn, and the grid of the release; None where that is not said, as in version 1: the claim is
        then about exact Gaussian noise, not about a program.
    version : {1, 2}
        Of the format.
    library_version, issued_at : str
        Who issued it, and when (UTC, ISO 8601).
    signature : Signature or None
        Over the canonical JSON of everything else.

    Raises
    ------
    CertificateError
        On construction, naming the field that breaks the format; NaN and infinity always do.
    """

    _signature_tag: ClassVar[bytes] = b"expunge-residual-certificate-signature-v1\0"
    _digest_tag: ClassVar[bytes] = b"expunge-residual-certificate-digest-v1\0"
    _mode: ClassVar[int] = PUBLIC

    epsilon: float
    delta: float
    mu: float
    noise_std: float
    alpha: float
    loss: str
    model: ResidualModel
    n_records: int
    releases: int
    release: int
    digests: ResidualDigests
    library_version: str
    issued_at: str
    status: str = "certified"
    conditions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reference: str = "optimum"
    noise: ResidualNoise | None = None
    version: int = VERSIONS[-1]

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta", "mu", "noise_std", "alpha"):
            value = getattr(self, name)
            if isinstance(value, (int, np.integer, np.floating)) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))  # one JSON text for one number
        for name in ("n_records", "releases", "release"):
            if isinstance(getattr(self, name), np.integer):
                object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        object.__setattr__(self, "notes", tuple(self.notes))
        if self.version == 1 and self.noise is not None:
            raise CertificateError("version", "must be 2 for a certificate that says how noise was drawn, got 1")
        check_format(self.to_dict())

    @classmethod
    def create(
        cls: type[Self],
        *,
        tree: RecordTree,
        released: ArrayLike,
        model: ResidualModel,
        loss: str,
        alpha: float,
        noise_std: float,
        epsilon: float,
        delta: float,
        releases: int,
        release: int,
        mu: float | None = None,
        data_before: str | None = None,
        reference: str = "optimum",
        conditions: Sequence[str] = (),
        notes: Sequence[str] = (),
        noise: ResidualNoise | None = None,
    ) -> Self:
        """Return an unsigned certificate whose arithmetic has been checked.

        Parameters
        ----------
        tree : RecordTree
            Of the data as they now stand.
        released : array-like of shape (n_outputs, n_columns)
            Parameters with noise, an output in each row, the constant column last.
        model : ResidualModel
            Layout of the parameters.
        loss : {"squared", "logistic", "softmax"}
            The loss.
        alpha, noise_std : float
            Strength of the penalty on every parameter, and standard deviation of the noise.
        epsilon, delta : float
            What is claimed.
        releases, release : int
            Most releases in the life of the model, and the number of this one, from 1.
        mu : float, optional
            Of this release; the largest that the budget allows if omitted.
        data_before : str, optional
            Root of the tree before the change.
        reference : {"optimum", "same rule"}, default "optimum"
            What the release is compared with.
        conditions, notes : sequence of str
            What the claim rests on (which makes it conditional), and what else a reader must know.
        noise : ResidualNoise, optional
            How the noise was drawn, and the grid of the release.

        Raises
        ------
        CertificateError
            If a field breaks the format.
        VerificationError
            If the claim's arithmetic does not hold.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge.certificates.residual import RecordTree, ResidualCertificate, ResidualModel
        >>> X, y = np.eye(3), [1.0, 2.0, 3.0]
        >>> model = ResidualModel("NewtonRidge", n_features=3, n_outputs=1, fit_intercept=False)
        >>> certificate = ResidualCertificate.create(
        ...     tree=RecordTree.of(X, y), released=np.zeros((1, 3)), model=model, loss="squared", alpha=1.0,
        ...     noise_std=0.01, epsilon=1.0, delta=1e-5, releases=100, release=1)
        >>> certificate.status, round(certificate.mu, 4)
        ('certified', 0.0268)
        """
        parameters = _validate.real_array("released", released, ndim=2)
        if parameters.shape != model.shape:
            raise ValueError(f"released must have shape {model.shape}, got {parameters.shape}")
        if mu is None:
            mu = release_mu(epsilon=epsilon, delta=delta, releases=releases, reference=reference)
        result = cls(
            epsilon=epsilon,
            delta=delta,
            mu=mu,
            noise_std=noise_std,
            alpha=alpha,
            loss=loss,
            model=model,
            n_records=tree.n_records,
            releases=releases,
            release=release,
            digests=ResidualDigests(tree.root, data_before, tree.depth, model_digest(parameters.T)),
            library_version=__version__,
            issued_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            status="conditional" if conditions else "certified",
            conditions=tuple(conditions),
            notes=tuple(notes),
            reference=reference,
            noise=noise,
        )
        result.check_claim()
        result.check_grid(parameters)
        return result

    @property
    def kind(self) -> str:
        """Kind of the certificate: ``"residual"``."""
        return "residual"

    @property
    def certified(self) -> bool:
        """True if the claim rests on no conditions."""
        return self.status == "certified"

    @property
    def residual_allowed(self) -> float:
        """Largest norm that the gradient may have: ``alpha * noise_std * mu``, rounded down."""
        return residual_allowance(alpha=self.alpha, noise_std=self.noise_std, mu=self.mu)

    def standing(self) -> Standing:
        """Return status, conditions and notes as they must be read now: the certificate's own."""
        return Standing(self.status, self.conditions, self.notes)

    def check_claim(self) -> None:
        """Check what a certificate says of itself: its arithmetic, its budget, its status, and its signature, if any.

        Needs no data; `expunge.certificates.residual.verify` does everything.

        Raises
        ------
        VerificationError
            Naming the field that is refuted.
        """
        if (self.status == "certified") != (not self.conditions):
            needed = "empty when certified" if self.conditions else "at least one when conditional"
            raise VerificationError("conditions", f"must be {needed}, got {list(self.conditions)}")
        if not self.release <= self.releases:
            raise VerificationError(
                "budget.release", f"must be within the {self.releases} releases, got {self.release}"
            )
        if not mu_fits(
            self.mu, epsilon=self.epsilon, delta=self.delta, releases=self.releases, reference=self.reference
        ):
            raise VerificationError(
                "claim.mu",
                f"must leave {counted(self.releases, 'release')} within epsilon = {self.epsilon!r} and delta = "
                f"{self.delta!r} against the reference {self.reference!r}, got {self.mu!r}",
            )
        if self.noise is not None and not self.noise.of_program and self.status == "certified":
            raise VerificationError(
                "noise.sampler", "must be 'exact' when certified, got 'float64', which is for noise of a seed"
            )
        self._check_agreement()
        self._check_own_signature()

    def _check_agreement(self) -> None:
        agreement = None if self.noise is None else self.noise.agreement
        if agreement is None:
            return
        if AGREED_CONDITION not in self.conditions:
            raise VerificationError("conditions", f"must say that {AGREED_CONDITION}, as noise from seeds needs it")
        if agreement.release != self.release:
            raise VerificationError(
                "noise.agreement", f"must be on release {self.release}, got one on release {agreement.release}"
            )

    def check_grid(self, released: NDArray[np.float64]) -> None:
        """Check that released parameters lie on the grid that the certificate names, if it does.

        Raises
        ------
        VerificationError
            Naming ``"noise.grid"``.
        """
        if self.noise is not None and not self.noise.holds(released):
            raise VerificationError(
                "noise.grid",
                f"released parameters must be multiples of {self.noise.grid!r}, which those of exact noise are",
            )

    def to_dict(self) -> JsonObject:
        """Return the certificate as JSON values, in the order of the schema."""
        classes = None if self.model.classes is None else list(self.model.classes)
        signature = self.signature
        values: JsonObject = {
            "format": FORMAT,
            "version": self.version,
            "kind": self.kind,
            "claim": {
                "epsilon": self.epsilon,
                "delta": self.delta,
                "mu": self.mu,
                "noise_std": self.noise_std,
                "alpha": self.alpha,
                "loss": self.loss,
                "reference": self.reference,
                "meaning": MEANINGS.get(self.reference, ""),
            },
            "noise": None if self.noise is None else _noise(self.noise),
            "status": self.status,
            "conditions": list(self.conditions),
            "notes": list(self.notes),
            "model": {**asdict(self.model), "classes": classes},
            "n_records": self.n_records,
            "budget": {"releases": self.releases, "release": self.release},
            "digests": asdict(self.digests),
            "cannot_show": list(CANNOT_SHOW),
            "before_after": BEFORE_AFTER,
            "library_version": self.library_version,
            "issued_at": self.issued_at,
            "signature": None if signature is None else signature.to_dict(),
        }
        if self.version == 1:  # byte for byte what was issued and signed then
            del values["noise"]
        return values

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """Return the certificate in a JSON text, which must follow the schema to the letter.

        Raises
        ------
        CertificateError
            Naming the field that is missing, unknown, of the wrong kind or out of range; ``"json"`` for a text that
            is truncated or not JSON.
        """
        values = json_values(text)
        check_format(values)
        claim, model, budget, signature = values["claim"], values["model"], values["budget"], values["signature"]
        noise = values.get("noise")
        return cls(
            epsilon=claim["epsilon"],
            delta=claim["delta"],
            mu=claim["mu"],
            noise_std=claim["noise_std"],
            alpha=claim["alpha"],
            loss=claim["loss"],
            reference=claim["reference"],
            model=ResidualModel(**{**model, "classes": model["classes"] and tuple(model["classes"])}),
            n_records=values["n_records"],
            releases=budget["releases"],
            release=budget["release"],
            digests=ResidualDigests(**values["digests"]),
            status=values["status"],
            conditions=tuple(values["conditions"]),
            notes=tuple(values["notes"]),
            library_version=values["library_version"],
            issued_at=values["issued_at"],
            signature=None if signature is None else Signature(**signature),
            noise=(
                None if noise is None else ResidualNoise(float(noise["grid"]), noise["sampler"], agreement_of(noise))
            ),
            version=values["version"],
        )

    def summary(self) -> str:
        """Return a few lines for a person."""
        rests_on = [f"  but      {condition}" for condition in self.conditions]
        told = [f"  note     {note}" for note in self.notes]
        signed = "unsigned" if self.signature is None else f"signed by {self.signature.public_key[:16]}..."
        lines = [
            f"{self.status}: {self.model.estimator} on {counted(self.n_records, 'record')} as they now stand",
            f"  claim    epsilon = {self.epsilon:g}, delta = {self.delta:g}, against the {self.reference}",
            f"  computed |gradient| <= {self.residual_allowed:.3g} with alpha = {self.alpha:g}, noise "
            f"{self.noise_std:g}, mu = {self.mu:.3g}",
            f"  noise    {noise_text(self.noise)}",
            f"  budget   release {self.release:,} of {self.releases:,}",
            *rests_on,
            *told,
            f"  issued   {self.issued_at} by expunge {self.library_version}, {signed}",
            f"  {BEFORE_AFTER}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<ResidualCertificate\n{self.summary()}>"


def _noise(noise: ResidualNoise) -> JsonObject:
    values: JsonObject = {
        "grid": noise.grid,
        "sampler": noise.sampler,
        "meaning": NOISE_MEANINGS.get(noise.sampler, ""),
    }
    if noise.agreement is not None:
        values["agreement"] = noise.agreement.to_dict()
    return values


def noise_text(noise: ResidualNoise | None) -> str:
    """Return a line on what the claim is about: a program, or noise that it stands for."""
    if noise is None:
        return "not said how it was drawn: the claim is about exact Gaussian noise, not about a program"
    if noise.sampler == "agreed":
        return (
            f"drawn exactly from the seeds of two parties, on a grid of {noise.grid:.3g}: the claim is about the "
            "program that ran"
        )
    if noise.of_program:
        return f"drawn exactly, on a grid of {noise.grid:.3g}: the claim is about the program that ran"
    return f"of float64, on a grid of {noise.grid:.3g}: the claim is about the Gaussian noise that it stands for"
