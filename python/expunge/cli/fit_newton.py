"""``expunge fit --model logistic|softmax|ridge``: a model at a proved optimum, released with fixed noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.cli.learned import say_learned
from expunge.cli.newton import say_release, write_release
from expunge.cli.outputs import Outputs
from expunge.cli.reading import Records
from expunge.cli.streaming import Streamed
from expunge.estimators import NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from expunge.cli.files import Newton
    from expunge.data import Task

__all__ = ["fit_newton"]

_FORMS = {"auto": "auto", "logistic": "ovr", "softmax": "softmax"}


def fit_newton(
    records: Records | Streamed,
    found: Task,
    *,
    kind: str,
    classes: list[Any] | None,
    conditions: tuple[str, ...],
    settings: dict[str, Any],
    outputs: Outputs,
    key: Ed25519PrivateKey | None,
    ledger: str | None,
) -> None:
    """Find the optimum, release it, write model, certificate and evidence, and say so."""
    common = {name: settings[name] for name in ("alpha", "noise_std", "epsilon", "delta", "releases", "random_state")}
    common["fit_intercept"] = not settings["no_intercept"]
    model: Newton
    if not found.classify:
        model = NewtonRidge(**common)
    elif kind == "ridge":
        model = NewtonRidgeClassifier(classes=classes, **common)
    else:
        model = NewtonLogisticRegression(classes=classes, multi_class=_FORMS[kind], **common)
    if isinstance(records, Streamed):
        model.fit(records.table, sample_weight=records.weights, conditions=conditions)
    else:
        model.fit(records.X, found.y, record_ids=records.ids, sample_weight=records.weights, conditions=conditions)
    say_learned(model, records, found, f"as {type(model).__name__}, {model.certificate_.loss} loss")
    proof = write_release(model, outputs=outputs, ledger=ledger, action="fit", key=key)
    say_release(proof, outputs, ledger=ledger, model=model)
