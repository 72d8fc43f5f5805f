"""Newton estimators on disk: the records as they now stand, their salts, and the parameters; no inverse Hessian."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge._files import CONFIDENTIAL, FileFormatError, write_atomic
from expunge._types import AnyArray
from expunge.certificates.digest import model_digest
from expunge.certificates.residual import RecordTree, ResidualCertificate
from expunge.certificates.residual.evidence import ACTIONS
from expunge.data.identifiers import exact_ids
from expunge.estimators import _storage, _stored
from expunge.estimators.newton.records import blocks_and_tree
from expunge.estimators.newton.tables import Form, TableObjective, TableRows
from expunge.estimators.newton.working import Claim, Work, Working
from expunge.runs.residual import Objective, Rows
from expunge.runs.residual.answers import Answers
from expunge.runs.residual.claim import BeforeAfter

__all__ = ["load", "save", "working", "working_bytes", "working_parts"]

_FORMAT = "newton-1"
_OF_TABLES = "newton-tables-1"  # without the records, which stay in their tables


def save(model: Any, path: str | Path, *, overwrite: bool) -> Path:
    """Write a working model, readable by its owner only."""
    write_atomic(path, working_bytes(model), overwrite=overwrite, mode=CONFIDENTIAL)
    return Path(path)


def load(cls: type[Any], path: str | Path) -> Any:
    """Read a working model of class ``cls``."""
    header, arrays = _storage.read(path)
    _storage.expect(header, path, kind=cls._kind, form="working")
    return working(cls, path, header, arrays)


def working_bytes(model: Any) -> bytes:
    """Return the file of a working model."""
    return _storage.sealed_bytes(*working_parts(model))


def working_parts(model: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the header and the arrays of the file of a working model."""
    state: Working = model._state
    work: Work = model._work
    tree, layout = state.tree, state.layout
    tables = isinstance(state.objective, TableObjective)
    params = dict(model._fitted)
    params.pop("random_state")  # a generator cannot be written, and a seed must not be kept
    weights_by_class = params.pop("class_weight", None)
    arrays: dict[str, NDArray[Any]] = {
        "theta": state.theta,
        "released": state.released,
        "salts": tree.salts,
    }
    given: dict[str, NDArray[Any] | None]
    if isinstance(state.objective, TableObjective):
        given = {"contents": tree.contents, "weights": state.objective.blocks.weights()}
    else:
        all_rows = state.objective.take(np.arange(len(state.objective)))
        arrays["X"] = np.ascontiguousarray(all_rows.X[:, : layout.n_features])
        given = {"labels": all_rows.labels, "targets": all_rows.targets, "weights": all_rows.weights}
    arrays |= {name: part for name, part in given.items() if part is not None}
    header: dict[str, Any] = {
        "kind": model._kind,
        "form": "working",
        "of": _OF_TABLES if tables else _FORMAT,
        "params": {key: _storage.plain(value) for key, value in params.items()},
        "class_weight": None
        if weights_by_class is None
        else [[_storage.plain(label), float(weight)] for label, weight in weights_by_class.items()],
        "single_output": bool(getattr(model, "_single_output", False)),
        "next_number": model._next_number,
        "n_features": layout.n_features,
        "bound": state.bound.hex(),
        "conditions": list(state.conditions),
        "own_conditions": list(state.own_conditions),
        "tree_key": tree.key.hex(),
        "ledger_salt": state.ledger_salt.hex(),
        "ids_are": "text" if tree.ids.dtype.kind == "U" else "numbers",
        "certificate": model.certificate_.to_json(),
        "action": work.action,
        "n_changed": work.n_changed,
        "passes": work.passes,
        "refreshes": work.refreshes,
        "before_after": None if work.before_after is None else [value.hex() for value in work.before_after],
    }
    # Integers of any size travel as text.
    arrays["ids"] = np.array([str(one) for one in tree.ids.tolist()]) if tree.ids.dtype.kind == "O" else tree.ids
    if hasattr(model, "classes_"):
        _storage.pack_labels("classes", model.classes_, arrays, header)
    if hasattr(model, "feature_names_in_"):
        header["feature_names"] = model.feature_names_in_.tolist()
    if model._reading is not None:
        header["reading"] = model._reading.to_dict()
    return header, arrays


def working(cls: type[Any], path: str | Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Any:
    """Return the working model of a file that has been read.

    Raises
    ------
    FileFormatError
        If something is missing, of the wrong kind, or contradicts the certificate in the file.
    """
    try:
        if header["of"] not in (_FORMAT, _OF_TABLES):
            raise ValueError(
                f"of must be {_FORMAT!r} or {_OF_TABLES!r}, which this version reads, got {header['of']!r}"
            )
        return _model(cls, header, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise FileFormatError(f"path: the model at {path} lacks or misstates a field: {_storage.said(error)}") from None


def _model(cls: type[Any], header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Any:
    params = {key: tuple(value) if isinstance(value, list) else value for key, value in header["params"].items()}
    if header["class_weight"] is not None:
        params["class_weight"] = {label: float(weight) for label, weight in header["class_weight"]}
    model = cls(**params)
    model._fitted = model.get_params(deep=False)
    certificate = ResidualCertificate.from_json(_stored.text("certificate", header["certificate"]))
    certificate.check_claim()
    layout = certificate.model
    if layout.estimator != cls._kind:
        raise ValueError(f"certificate must be that of a {cls._kind}, got one of a {layout.estimator}")
    claim = Claim(
        epsilon=certificate.epsilon,
        delta=certificate.delta,
        noise_std=certificate.noise_std,
        alpha=certificate.alpha,
        releases=certificate.releases,
    )
    classes = _storage.unpack_labels("classes", arrays, header)
    if (None if classes is None else tuple(classes.tolist())) != layout.classes:
        raise ValueError("classes must be those of the certificate")
    for name in ("theta", "released"):
        if arrays[name].dtype != np.float64 or arrays[name].shape != layout.shape:
            raise ValueError(f"{name} must be float64 of shape {layout.shape}, got {arrays[name].shape}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} must be finite")
    if model_digest(arrays["released"].T) != certificate.digests.released:
        raise ValueError("released must be the parameters of the certificate")
    objective, tree = (_of_tables if header["of"] == _OF_TABLES else _of_arrays)(header, arrays, certificate, classes)
    if tree.root != certificate.digests.data:
        raise ValueError("X, y, ids and salts must be those of the certificate")
    model.n_features_in_ = layout.n_features
    if classes is not None:
        model.classes_ = classes
    else:
        model._single_output = _stored.flag("single_output", header["single_output"])
    if "feature_names" in header:
        model.feature_names_in_ = _stored.feature_names(header["feature_names"], layout.n_features)
    model._reading = _stored.reading(header.get("reading"), layout.n_features)
    model._next_number = _next_number(header, tree)
    both = header["before_after"]
    model._work = Work(
        action=_validate.choice("action", header["action"], ACTIONS),
        n_changed=_stored.whole("n_changed", header["n_changed"]),
        passes=_stored.whole("passes", header["passes"]),
        refreshes=_stored.whole("refreshes", header["refreshes"]),
        before_root=certificate.digests.data_before,
        before_after=None if both is None else BeforeAfter(*map(float.fromhex, both)),
    )
    conditions = tuple(_stored.texts(name, header[name]) for name in ("conditions", "own_conditions"))
    if (*conditions[0], *conditions[1]) != certificate.conditions:
        raise ValueError("conditions must be those of the certificate")
    bound = float.fromhex(header["bound"])
    proved = bound if bound >= 0 else math.nan
    if not isinstance(objective, TableObjective):  # whose records are compared when they are attached
        # A release of these parameters would be certified by what is said here: one pass sees that it holds.
        proved = max(proved, objective.residual_bound(arrays["theta"]))
    if not proved <= claim.allowance:
        raise ValueError(f"bound must be within the {claim.allowance!r} that the claim allows, got {proved!r}")
    model._state = Working(
        claim=claim,
        layout=layout,
        objective=objective,
        tree=tree,
        theta=arrays["theta"],
        released=arrays["released"],
        bound=bound,
        release=certificate.release,
        conditions=conditions[0],
        own_conditions=conditions[1],
        noise=certificate.noise,
        ledger_salt=_stored.salt(header["ledger_salt"]),
    )
    model.certificate_ = certificate
    return model


def _of_arrays(
    header: dict[str, Any], arrays: dict[str, NDArray[Any]], certificate: ResidualCertificate, classes: AnyArray | None
) -> tuple[Objective, RecordTree]:
    """Return the records of a model that holds them."""
    layout = certificate.model
    rows = Rows(arrays["X"], arrays.get("labels"), arrays.get("targets"), arrays.get("weights"))
    answers, y = _answers(rows, classes)
    blocks, tree = blocks_and_tree(
        rows.X,
        y,
        answers,
        weights=rows.weights,
        ids=_ids(header, arrays),
        fit_intercept=layout.fit_intercept,
        classes=layout.classes,
        key=bytes.fromhex(header["tree_key"]),
        salts=arrays["salts"],
    )
    return Objective(blocks, certificate.loss, layout.shape[1], layout.n_outputs, certificate.alpha), tree


def _of_tables(
    header: dict[str, Any], arrays: dict[str, NDArray[Any]], certificate: ResidualCertificate, classes: AnyArray | None
) -> tuple[Objective, RecordTree]:
    """Return the hashes of records that stay in their tables."""
    layout = certificate.model
    tree = RecordTree.of_hashes(
        ids=_ids(header, arrays),
        key=bytes.fromhex(header["tree_key"]),
        contents=arrays["contents"],
        salts=arrays["salts"],
        classes=layout.classes,
        takes_records=True,
    )
    weights = arrays.get("weights")
    if weights is not None and weights.shape != (tree.n_records,):
        raise ValueError(f"weights must have length {tree.n_records}, got shape {weights.shape}")
    form = Form(certificate.loss, layout.classes, layout.n_outputs, layout.fit_intercept)
    rows = TableRows([], tree, form, weights=weights)
    return TableObjective(rows, certificate.loss, layout.shape[1], layout.n_outputs, certificate.alpha), tree


def _next_number(header: dict[str, Any], tree: RecordTree) -> int:
    """Return the number of the next record that comes without an id, or -1; none is given twice."""
    number = _stored.whole("next_number", header["next_number"], low=-1)
    taken = tree.ids.dtype.kind == "U" or max(tree.ids.tolist()) >= number
    if number >= 0 and taken:
        raise ValueError(f"next_number must exceed the ids of all records, got {number}")
    return number


def _answers(rows: Rows, classes: AnyArray | None) -> tuple[Answers, AnyArray]:
    """Return the answers as the loss takes them, and as hashes take them."""
    if classes is None:
        if rows.targets is None:
            raise KeyError("targets")
        return Answers(rows.targets, None), rows.targets
    numbers = rows.labels if rows.targets is None else np.argmax(rows.targets, axis=1)
    if numbers is None:
        raise KeyError("labels")
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise ValueError("labels must be numbers of classes")
    return Answers(rows.targets, rows.labels), classes[numbers]


def _ids(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> AnyArray:
    ids = arrays["ids"]
    if header["ids_are"] == "numbers" and ids.dtype.kind == "U":
        return exact_ids([int(one) for one in ids.tolist()])
    return exact_ids(ids)
