"""Models on disk: one ``.npz`` of plain arrays with a JSON header; nothing is ever unpickled.

The file carries the SHA-256 digest of its own bytes, so that a flipped bit is found. Version 1 had no digest, and in
versions 1 and 2 deleted rows stayed; both are still read, and models without deletions are still written as version 2.
Version 4 is of models made from statistics, with sums in place of rows; version 5 is of runs whose releases are private
as the program that ran, and holds what their parameters were rounded by and what was released. All others are written
as versions 2 and 3.
Whatever a file says is checked before a model is made of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._files import CONFIDENTIAL, PUBLIC, FileFormatError, write_atomic
from expunge._files.headed import headed_bytes, read_headed
from expunge.data.constants import Sources
from expunge.estimators import _stored, _stored_sums
from expunge.estimators._history import History
from expunge.estimators._records import ROW_NUMBERS, RecordIds
from expunge.runs.ridge.held_rows import HeldRows
from expunge.runs.ridge.kept_law import KeptLaw
from expunge.runs.ridge.law import Phase

__all__ = [
    "expect",
    "load_any",
    "load_released",
    "load_working",
    "pack_labels",
    "plain",
    "read",
    "released_bytes",
    "said",
    "save_released",
    "save_working",
    "sealed_bytes",
    "unpack_labels",
    "working_bytes",
    "working_of",
]

_VERSION, _WITHOUT_DELETED, _OF_SUMS, _OF_PROGRAM, _VERSIONS = 2, 3, 4, 5, (1, 2, 3, 4, 5)
_UNKNOWN = "saved by an earlier version, which did not record what its constants were computed from"


def sealed_bytes(header: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    return headed_bytes({"version": _VERSION, **header}, arrays)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    return read_headed(path, what="model", versions=_VERSIONS, first_sealed=2)


def expect(header: Mapping[str, Any], path: str | Path, *, kind: str, form: str) -> None:
    if (header.get("kind"), header.get("form")) != (kind, form):
        raise FileFormatError(
            f"path: the model at {path} holds a {header.get('form')} {header.get('kind')}, expected a {form} {kind}"
        )


def pack_labels(name: str, labels: NDArray[Any], arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> None:
    """Store labels as an array, or, for Python objects, as JSON strings or numbers."""
    if labels.dtype.kind == "O":
        values = labels.tolist()
        if not all(isinstance(value, (str, int, float, bool)) for value in values):
            raise TypeError(f"{name} must hold strings or numbers to be saved without pickle")
        header[name] = values
    else:
        arrays[name] = labels


def unpack_labels(name: str, arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> NDArray[Any] | None:
    if name not in header:
        return arrays.pop(name, None)
    values = header[name]
    if not isinstance(values, list) or not all(isinstance(value, (str, int, float)) for value in values):
        raise ValueError(f"{name} must be a list of strings or numbers")
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def _written_ids(ids: RecordIds) -> dict[str, Any]:
    # Integers as text: JSON numbers are exact in Python, but not everywhere.
    texts = [None if one is None else str(one) for one in ids.values]
    values = {} if ids.origin == ROW_NUMBERS else {"values": texts}
    return {"origin": ids.origin, "kind": ids.kind, **values}


def plain(value: Any) -> Any:
    """Return a constructor's parameter as a JSON value."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple, range)):
        return [plain(one) for one in value]
    return value


def working_bytes(model: Any) -> bytes:
    """Return the file of a working estimator, history included."""
    history: History | None = model._history
    arrays = {"theta": model._theta}
    for name in ("theta_rest", "published"):
        if (own := getattr(model, f"_{name}", None)) is not None:  # pickles of earlier versions have none
            arrays[name] = own
    header: dict[str, Any] = {
        "kind": model._kind,
        "form": "working",
        "params": {key: plain(value) for key, value in model._fitted.items()},
        "rests_on": list(model._rests_on),
        "step_size": float(model.step_size_).hex(),
        "n_features": int(model.n_features_in_),
        "n_iter": int(model.n_iter_),
        "single_output": bool(model._single_output),
        "no_history_reason": model._no_history_reason,
        "has_history": history is not None,
    }
    if hasattr(model, "classes_"):
        pack_labels("classes", model.classes_, arrays, header)
    if hasattr(model, "feature_names_in_"):
        header["feature_names"] = model.feature_names_in_.tolist()
    if model._reading is not None:
        header["reading"] = model._reading.to_dict()
    if history is not None:
        if history.sums is None:
            arrays["design"], arrays["targets"] = history.rows("a file")
            pack_labels("labels", history.labels, arrays, header)
        header["alpha"] = history.alpha.hex()
        header["conditions"] = list(history.conditions)
        header["sources"] = history.sources.to_dict()
        header["salt"] = history.salt.hex()
        if history.ids is not None:
            header["ids"] = _written_ids(history.ids)
        header["phases"] = [
            {"n_steps": phase.n_steps, "noise_std": phase.noise_std.hex(), "removed": list(phase.removed)}
            for phase in history.phases
        ]
        if (law := history.law) is not None:
            arrays |= {"law_mean": law.mean, "law_covariance": law.covariance, "law_mean_error": law.mean_error}
            header["law"] = {"covariance_error": law.covariance_error.hex(), "digests": list(history.digests or ())}
            header["version"] = _WITHOUT_DELETED
        if history.program is not None:
            header |= {"program": history.program.hex(), "version": _OF_PROGRAM}
        if history.sums is not None:
            header["sums"], own = _stored_sums.written(history.sums)
            arrays |= own
            header |= {"n_records": len(history.design), "version": _OF_SUMS}
    return sealed_bytes(header, arrays)


def save_working(model: Any, path: str | Path, *, overwrite: bool) -> Path:
    """Write a working estimator, history included, readable by its owner only."""
    write_atomic(path, working_bytes(model), overwrite=overwrite, mode=CONFIDENTIAL)
    return Path(path)


def load_working(cls: type[Any], path: str | Path) -> Any:
    """Read a working estimator of class ``cls``."""
    header, arrays = read(path)
    expect(header, path, kind=cls._kind, form="working")
    return working_of(cls, path, header, arrays)


def working_of(cls: type[Any], path: str | Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Any:
    try:
        params = {key: tuple(value) if isinstance(value, list) else value for key, value in header["params"].items()}
        model = cls(**params)
        model._fitted = {key: value for key, value in model.get_params().items() if key != "random_state"}
        model._theta = arrays["theta"]
        own = arrays if header["version"] == _OF_PROGRAM else {}
        model._theta_rest, model._published = own.get("theta_rest"), own.get("published")
        model.step_size_ = float.fromhex(header["step_size"])
        model.n_features_in_ = _stored.whole("n_features", header["n_features"], low=1)
        model.n_iter_ = _stored.whole("n_iter", header.get("n_iter", params["n_steps"]), low=1)
        model._single_output = _stored.flag("single_output", header["single_output"])
        model._no_history_reason = _stored.text("no_history_reason", header["no_history_reason"])
        model._law_cache, model._history = None, None
        classes = unpack_labels("classes", arrays, header)
        if classes is not None:
            model.classes_ = classes
        if "feature_names" in header:
            model.feature_names_in_ = _stored.feature_names(header["feature_names"], model.n_features_in_)
        model._reading = _stored.reading(header.get("reading"), model.n_features_in_)
        if _stored.flag("has_history", header["has_history"]):
            phases = tuple(_phase(phase) for phase in header["phases"])
            version = header["version"]
            has_law = version == _WITHOUT_DELETED or (version in (_OF_SUMS, _OF_PROGRAM) and "law" in header)
            law = _kept(header["law"], arrays) if has_law else {}
            rows = _of_sums(header, arrays, phases) if version == _OF_SUMS else _of_rows(header, arrays)
            model._history = History(
                alpha=float.fromhex(header["alpha"]),
                step_size=model.step_size_,
                phases=phases,
                conditions=_stored.texts("conditions", header["conditions"]),
                sources=_sources(header, classify=classes is not None),
                salt=_stored.salt(header["salt"]) if "salt" in header else secrets.token_bytes(32),
                program=float.fromhex(header["program"]) if version == _OF_PROGRAM else None,
                **rows,
                **law,
            )
        known = (_UNKNOWN,) if model._history is None else model._history.rests_on
        model._rests_on = _stored.texts("rests_on", header.get("rests_on", list(known)))
        if model._history is not None and set(model._rests_on) != set(known):
            raise ValueError(f"rests_on must be what the history rests on, {list(known)}, got {list(model._rests_on)}")
        _stored.check_working(model)
        if "sources" in header:  # without it, parameters are those of the moment, which need not be those of the fit
            _stored.check_settings(model)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FileFormatError(f"path: the model at {path} lacks or misstates a field: {said(error)}") from None
    return model


def _of_rows(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the rows of a history, their labels and ids."""
    labels = unpack_labels("labels", arrays, header)
    if labels is None:
        raise KeyError("labels")
    ids = _stored.ids(header["ids"], len(arrays["design"])) if "ids" in header else None
    return {"design": arrays["design"], "targets": arrays["targets"], "labels": labels, "ids": ids}


def _of_sums(header: dict[str, Any], arrays: dict[str, NDArray[Any]], phases: tuple[Phase, ...]) -> dict[str, Any]:
    """Return the sums of a history that has no rows, and the shapes of these."""
    n, sums = _stored.whole("n_records", header["n_records"], low=1), _stored_sums.read(header["sums"], arrays)
    gone = phases[-1].removed if "law" in header and phases else ()
    columns, outputs = arrays["theta"].shape
    design, targets = HeldRows((n, columns), gone=gone), HeldRows((n, outputs), gone=gone)
    return {"design": design, "targets": targets, "labels": np.zeros(0), "sums": sums}


def _kept(stored: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what stands for deleted rows."""
    error = float.fromhex(stored["covariance_error"])
    law = KeptLaw(arrays["law_mean"], arrays["law_covariance"], arrays["law_mean_error"], error)
    return {"law": law, "digests": _stored.digests(stored["digests"])}


def _sources(header: dict[str, Any], *, classify: bool) -> Sources:
    """Return where constants come from; version 1 did not say, and only a step size could be given then."""
    if "sources" in header:
        return Sources(**header["sources"])
    return Sources(
        step_size="data" if isinstance(header["params"]["step_size"], str) else "given",
        noise_std="data" if len(header["phases"]) > 1 else "given",
        classes="data" if classify else "none",
    )


def _phase(stored: dict[str, Any]) -> Phase:
    removed = tuple(_stored.whole("removed", row) for row in stored["removed"])
    return Phase(
        _stored.whole("n_steps of a phase", stored["n_steps"], low=1), float.fromhex(stored["noise_std"]), removed
    )


def said(error: Exception) -> str:
    return f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)


def released_bytes(model: Any) -> bytes:
    """Return the file of a released model."""
    arrays = {"coef": model.coef_, "intercept": np.asarray(model.intercept_)}
    header: dict[str, Any] = {"kind": type(model).__name__, "form": "released", "conditions": list(model.conditions_)}
    if hasattr(model, "classes_"):
        pack_labels("classes", model.classes_, arrays, header)
    if hasattr(model, "softmax_"):
        header["softmax"] = model.softmax_
    if hasattr(model, "feature_names_in_"):
        header["feature_names"] = model.feature_names_in_.tolist()
    if model._reading is not None:
        header["reading"] = model._reading.to_dict()
    return sealed_bytes(header, arrays)


def save_released(model: Any, path: str | Path, *, overwrite: bool) -> Path:
    """Write a released model."""
    write_atomic(path, released_bytes(model), overwrite=overwrite, mode=PUBLIC)
    return Path(path)


def load_released(cls: type[Any], path: str | Path) -> Any:
    """Read a released model of class ``cls``."""
    header, arrays = read(path)
    expect(header, path, kind=cls.__name__, form="released")
    return _released(cls, path, header, arrays)


def _released(cls: type[Any], path: str | Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Any:
    try:
        classes = unpack_labels("classes", arrays, header)
        intercept = arrays["intercept"]
        logistic = cls.__name__ == "ReleasedLogisticRegression"
        needs_classes = logistic or cls.__name__.endswith("Classifier")
        _stored.check_released(
            arrays["coef"], intercept, classes, needs_classes=needs_classes, one_output_for_two=logistic
        )
        return cls._from_parts(
            arrays["coef"],
            float(intercept) if intercept.ndim == 0 else intercept,
            conditions=_stored.texts("conditions", header.get("conditions", [_UNKNOWN])),
            classes=classes,
            feature_names=_stored.feature_names(header.get("feature_names"), arrays["coef"].shape[-1]),
            softmax=_stored.flag("softmax", header["softmax"]) if logistic else None,
            reading=_stored.reading(header.get("reading"), arrays["coef"].shape[-1]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"path: the model at {path} lacks or misstates a field: {said(error)}") from None


def load_any(path: str | Path, *, working: Mapping[str, type[Any]], released: Mapping[str, type[Any]]) -> Any:
    """Read a model of any of the given kinds, by name.

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `load_working` and `load_released`; also for a form of which no kind is given.
    """
    header, arrays = read(path)
    kind, form = header.get("kind"), header.get("form")
    if form == "released" and not released:
        raise FileFormatError(f"path: {path} holds a released model, which has no history: give the working model")
    if form == "working" and isinstance(kind, str) and kind in working:
        return working[kind]._of_file(path, header, arrays)
    if form == "released" and isinstance(kind, str) and kind in released:
        return _released(released[kind], path, header, arrays)
    raise FileFormatError(f"path: the model at {path} holds a {form} {kind}, which is not known here")
