"""A run's folder: ``run.json``, a file of values per column, and either the state to go on from or the final weights.

Every file is whole or absent, carries a digest that is compared when it is read, and is for its owner alone: norms and
weights reveal something about single records. The folder holds no intermediate weights but the last state, which is
removed when the run ends, unless weights are to be kept: they still contain every record they were trained on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from expunge._files import FileFormatError, read_json, write_atomic
from expunge._files.sealed import read_sealed, sealed

__all__ = ["RunFolder", "describe_model"]

FORMAT = 2  # 1 had no digests
_RUN, _STATE, _FINAL = "run.json", "state.pt", "final.pt"
_OWNER_ONLY, _OWNERS_FOLDER = 0o600, 0o700


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Return what tells one model from another, weights aside."""
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "tensors": {
            name: f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")
            for name, value in model.state_dict().items()
        },
    }


class RunFolder:
    """Reads and writes one run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def begin(self, description: dict[str, Any], *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """Make the folder ready; return what was saved of the same run if it is to go on, else None.

        Raises
        ------
        FileExistsError
            If there is something in the folder and neither ``resume`` nor ``overwrite`` says what to do with it.
        ValueError
            If the folder is another run's: another model, dataset or setting, which is named.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"folder: {self.path} is a file")
        if self.path.is_dir():
            for leftover in self.path.rglob(".*.tmp"):  # of a run that was killed while it wrote
                leftover.unlink()
        held = any(self.path.iterdir()) if self.path.is_dir() else False
        there = (self.path / _RUN).exists()
        if held and not there:
            raise FileExistsError(f"folder: {self.path} holds files that are not a training run's; choose another")
        if there and resume:
            saved = self.read()
            _same(saved, description, self.path)
            return saved
        if there and not overwrite:
            raise FileExistsError(
                f"folder: {self.path} holds a run already; pass resume=True to go on with it or overwrite=True"
            )
        if there:
            self._clear()
        self.path.mkdir(mode=_OWNERS_FOLDER, parents=True, exist_ok=True)
        self.write(description)
        return None

    def _clear(self) -> None:
        # run.json goes last: without it the rest would be foreign files.
        for pattern in ("columns/*.npz", "weights/*.pt", _STATE, _FINAL, _RUN):
            for file in self.path.glob(pattern):
                file.unlink()

    def read(self) -> dict[str, Any]:
        """Return the description."""
        saved = read_json(self.path / _RUN, what="training run")
        if not isinstance(saved, dict) or saved.get("format") not in (1, FORMAT):
            raise FileFormatError(f"folder: {self.path / _RUN} is not a training run of format {FORMAT}")
        if saved["format"] == 1:
            warnings.warn(
                f"{self.path / _RUN} carries no digest (an earlier version wrote it): damage goes unnoticed",
                stacklevel=3,
            )
        elif saved.pop("digest", None) != _digest(saved):
            raise FileFormatError(f"folder: {self.path / _RUN} is damaged: its values do not match its digest")
        return saved

    def write(self, description: dict[str, Any]) -> None:
        """Replace the description."""
        values = {**description, "format": FORMAT}
        text = json.dumps({**values, "digest": _digest(values)}, indent=1) + "\n"
        write_atomic(self.path / _RUN, text.encode(), overwrite=True, mode=_OWNER_ONLY)

    def write_arrays(self, name: str, values: dict[str, NDArray[Any]]) -> None:
        """Keep arrays under a name: a number for the values at one of the places they are collected."""
        (self.path / "columns").mkdir(mode=_OWNERS_FOLDER, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **values)  # type: ignore[arg-type]
        _write(self.path / "columns" / f"{name}.npz", buffer)

    def read_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the arrays `write_arrays` kept."""
        file = self.path / "columns" / f"{name}.npz"
        try:
            with np.load(io.BytesIO(read_sealed(file)), allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except FileFormatError:
            raise
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise FileFormatError(f"folder: {file} is truncated or damaged ({error})") from None

    def write_weights(self, index: int, model: nn.Module) -> None:
        """Keep the weights at one of the places."""
        (self.path / "weights").mkdir(mode=_OWNERS_FOLDER, exist_ok=True)
        self._put(self.path / "weights" / f"{index:05d}.pt", _on_cpu(model))

    def read_weights(self, index: int) -> dict[str, torch.Tensor]:
        """Return the weights `write_weights` kept."""
        return self._get(self.path / "weights" / f"{index:05d}.pt")

    def write_state(self, model: nn.Module, numbers: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Replace the state to go on from."""
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        self._put(self.path / _STATE, {"model": _on_cpu(model), "arrays": tensors, **numbers})

    def read_state(self) -> dict[str, Any] | None:
        """Return the state, its arrays as NumPy's; None if none was written yet."""
        if not (self.path / _STATE).exists():
            return None
        state = self._get(self.path / _STATE)
        state["arrays"] = {name: value.numpy() for name, value in state["arrays"].items()}
        return state

    def finish(self, description: dict[str, Any], model: nn.Module) -> None:
        """Keep the final weights and drop the state."""
        self._put(self.path / _FINAL, _on_cpu(model))
        self.write({**description, "finished": True})
        (self.path / _STATE).unlink(missing_ok=True)

    def read_final(self) -> dict[str, torch.Tensor]:
        """Return the final weights."""
        return self._get(self.path / _FINAL)

    def _put(self, file: Path, value: Any) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        _write(file, buffer)

    def _get(self, file: Path) -> Any:
        try:
            return torch.load(io.BytesIO(read_sealed(file)), map_location="cpu", weights_only=True)
        except FileFormatError:
            raise
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            raise FileFormatError(f"folder: {file} is truncated or damaged ({error})") from None


def _write(file: Path, buffer: io.BytesIO) -> None:
    write_atomic(file, sealed(buffer.getvalue()), overwrite=True, mode=_OWNER_ONLY)


def _digest(values: dict[str, Any]) -> str:
    """Return the digest of a description, the same before it is written and after it is read."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(values)), sort_keys=True).encode()).hexdigest()


def _on_cpu(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}


def _same(saved: dict[str, Any], description: dict[str, Any], path: Path) -> None:
    """Refuse to go on with another run, naming the first thing that differs."""
    old, new = saved.get("dataset", {}), description["dataset"]
    if old.get("n_records") != new["n_records"]:
        raise ValueError(
            f"dataset: its length changed: the run in {path} has {old.get('n_records')} records, "
            f"this dataset has {new['n_records']}"
        )
    if old != new:
        raise ValueError(f"dataset: its content is not that of the run in {path}")
    old, new = saved.get("model", {}), description["model"]
    if old != new:
        a, b = old.get("tensors", {}), new["tensors"]
        name = next((k for k in [*a, *b] if a.get(k) != b.get(k)), None)
        what = f"{name} was {a.get(name, 'absent')} and is {b.get(name, 'absent')}" if name else "its class differs"
        raise ValueError(f"model: the run in {path} is of another model: {what}")
    for name, value in description["settings"].items():
        if saved.get("settings", {}).get(name) != value:
            was = saved.get("settings", {}).get(name)
            raise ValueError(f"{name}: the run in {path} was started with {_short(was)}, got {_short(value)}")


def _short(value: Any) -> str:
    """Return a setting as it is told in an error, whose lists may be as long as the data."""
    said = repr(value)
    return said if len(said) <= 300 else f"{said[:140]} ... {said[-140:]}"
