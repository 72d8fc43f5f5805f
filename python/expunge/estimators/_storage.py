"""Models on disk: one ``.npz`` of plain arrays with a JSON header; nothing is ever unpickled."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._files import FileFormatError, parse_json, write_atomic
from expunge.accounting.ridge_law import Phase
from expunge.estimators._history import History
from expunge.estimators._records import ROW_NUMBERS, RecordIds

__all__ = ["load_released", "load_working", "save_released", "save_working"]

_FORMAT_VERSION = 1
_HEADER = "header.json"


def _write(path: str | Path, header: dict[str, Any], arrays: Mapping[str, NDArray[Any]], *, overwrite: bool) -> Path:
    buffer = io.BytesIO()
    text = json.dumps({"version": _FORMAT_VERSION, **header}, allow_nan=False)
    # savez adds a suffix to bare names only; the header travels as bytes so that one file is the whole model.
    members: dict[str, Any] = {_HEADER: np.frombuffer(text.encode(), dtype=np.uint8), **arrays}
    np.savez(buffer, **members)
    write_atomic(path, buffer.getvalue(), overwrite=overwrite)
    return Path(path)


def _read(path: str | Path, kind: str, form: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    what = f"model at {path}"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            arrays = {name: archive[name] for name in archive.files}
        header = parse_json(arrays.pop(_HEADER).tobytes().decode(), what=f"header of the {what}")
    except FileNotFoundError:
        raise FileNotFoundError(f"path: there is no model at {path}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise FileFormatError(f"path: the {what} is truncated or not a model of this library: {error}") from None
    version = header.get("version") if isinstance(header, dict) else None
    if version != _FORMAT_VERSION:
        raise FileFormatError(f"path: the {what} has version {version!r}, this library reads version {_FORMAT_VERSION}")
    if (header.get("kind"), header.get("form")) != (kind, form):
        raise FileFormatError(
            f"path: the {what} holds a {header.get('form')} {header.get('kind')}, expected a {form} {kind}"
        )
    return header, arrays


def _pack_labels(name: str, labels: NDArray[Any], arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> None:
    """Store labels as an array, or, for Python objects, as JSON strings or numbers."""
    if labels.dtype.kind == "O":
        values = labels.tolist()
        if not all(isinstance(value, (str, int, float, bool)) for value in values):
            raise TypeError(f"{name} must hold strings or numbers to be saved without pickle")
        header[name] = values
    else:
        arrays[name] = labels


def _unpack_labels(name: str, arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> NDArray[Any]:
    return np.array(header[name], dtype=object) if name in header else arrays[name]


def _written_ids(ids: RecordIds) -> dict[str, Any]:
    # Integers as text: JSON numbers are exact in Python, but not everywhere.
    return {} if ids.origin == ROW_NUMBERS else {"values": [str(one) for one in ids.values]}


def _read_ids(stored: dict[str, Any], n: int) -> RecordIds:
    if stored["origin"] == ROW_NUMBERS:
        return RecordIds(tuple(range(n)), ROW_NUMBERS)
    values = stored["values"] if stored["kind"] == "string" else [int(text) for text in stored["values"]]
    return RecordIds(tuple(values), stored["origin"])


def save_working(model: Any, path: str | Path, *, overwrite: bool) -> Path:
    """Write a working estimator, history included."""
    history: History | None = model._history
    arrays = {"theta": model._theta}
    header: dict[str, Any] = {
        "kind": model._kind,
        "form": "working",
        "params": {
            "alpha": float(model.alpha),
            "n_steps": int(model.n_steps),
            "noise_std": float(model.noise_std),
            "step_size": model.step_size if isinstance(model.step_size, str) else float(model.step_size),
            "fit_intercept": bool(model.fit_intercept),
        },
        "step_size": float(model.step_size_).hex(),
        "n_features": int(model.n_features_in_),
        "single_output": bool(model._single_output),
        "no_history_reason": model._no_history_reason,
        "has_history": history is not None,
    }
    if hasattr(model, "classes_"):
        _pack_labels("classes", model.classes_, arrays, header)
    if hasattr(model, "feature_names_in_"):
        header["feature_names"] = model.feature_names_in_.tolist()
    if history is not None:
        arrays["design"], arrays["targets"] = history.design, history.targets
        _pack_labels("labels", history.labels, arrays, header)
        header["alpha"] = history.alpha.hex()
        header["conditions"] = list(history.conditions)
        if history.ids is not None:
            header["ids"] = {"origin": history.ids.origin, "kind": history.ids.kind, **_written_ids(history.ids)}
        header["phases"] = [
            {"n_steps": phase.n_steps, "noise_std": phase.noise_std.hex(), "removed": list(phase.removed)}
            for phase in history.phases
        ]
    return _write(path, header, arrays, overwrite=overwrite)


def load_working(cls: type[Any], path: str | Path) -> Any:
    """Read a working estimator of class ``cls``."""
    header, arrays = _read(path, cls._kind, "working")
    try:
        model = cls(**header["params"])
        model._theta = arrays["theta"]
        model.step_size_ = float.fromhex(header["step_size"])
        model.n_features_in_ = header["n_features"]
        model.n_iter_ = header["params"]["n_steps"]
        model._single_output = header["single_output"]
        model._no_history_reason = header["no_history_reason"]
        model._law_cache, model._history = None, None
        if "classes" in header or "classes" in arrays:
            model.classes_ = _unpack_labels("classes", arrays, header)
        if "feature_names" in header:
            model.feature_names_in_ = np.array(header["feature_names"], dtype=object)
        if header["has_history"]:
            phases = tuple(
                Phase(phase["n_steps"], float.fromhex(phase["noise_std"]), tuple(phase["removed"]))
                for phase in header["phases"]
            )
            model._history = History(
                arrays["design"],
                _unpack_labels("labels", arrays, header),
                arrays["targets"],
                float.fromhex(header["alpha"]),
                model.step_size_,
                phases,
                tuple(header["conditions"]),
                _read_ids(header["ids"], len(arrays["design"])) if "ids" in header else None,
            )
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"path: the model at {path} lacks or misstates a field: {error!r}") from None
    return model


def save_released(model: Any, path: str | Path, *, overwrite: bool) -> Path:
    """Write a released model."""
    arrays = {"coef": model.coef_, "intercept": np.asarray(model.intercept_)}
    header: dict[str, Any] = {"kind": type(model).__name__, "form": "released"}
    if hasattr(model, "classes_"):
        _pack_labels("classes", model.classes_, arrays, header)
    return _write(path, header, arrays, overwrite=overwrite)


def load_released(cls: type[Any], path: str | Path) -> Any:
    """Read a released model of class ``cls``."""
    header, arrays = _read(path, cls.__name__, "released")
    try:
        intercept = arrays["intercept"]
        classes = _unpack_labels("classes", arrays, header) if "classes" in header or "classes" in arrays else None
        return cls._from_parts(arrays["coef"], float(intercept) if intercept.ndim == 0 else intercept, classes)
    except KeyError as error:
        raise FileFormatError(f"path: the model at {path} lacks the field {error}") from None
