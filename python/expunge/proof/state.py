"""Stages of a proof, kept in a folder as they are computed, so that an interrupted proof goes on where it stopped.

A matrix of balls is kept to the bit: midpoints and radii as whole numbers and powers of two. What is kept holds the
products of the data, and whoever can write it can make a proof of anything: a folder that others can write is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx
from numpy.typing import NDArray

from expunge._files import CONFIDENTIAL, FileFormatError, read_json, sync_folder, write_atomic
from expunge._files.destroying import destroy
from expunge._files.headed import headed_bytes, read_headed
from expunge.proof.balls import versions

__all__ = ["ProofState", "Stages", "digest_of"]

_FORMAT, _VERSION = "expunge-proof-state", 1
_MARKER, _ENDING = "proof-state.json", ".balls"
_RADIUS_BITS = 30
_ELSEWHERE = "name an empty folder, or one that does not exist yet"


def digest_of(run: Mapping[str, Any], *arrays: NDArray[np.float64]) -> str:
    """Return a digest of a run, as JSON values, of arrays of numbers with their shapes, and of the libraries."""
    digest = hashlib.sha256(b"expunge-proof-state-v1\0")
    values = {"run": dict(run), "libraries": versions(), "shapes": [list(one.shape) for one in arrays]}
    digest.update(json.dumps(values, sort_keys=True, allow_nan=False).encode("ascii"))
    for one in arrays:
        digest.update(np.ascontiguousarray(one, dtype="<f8").tobytes())
    return digest.hexdigest()


class ProofState:
    """A folder with what an interrupted proof has computed.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist; otherwise empty, or the state of the same proof.
    key : str
        Digest of all that the stages depend on but the precision, as `digest_of` returns it.

    Raises
    ------
    ValueError
        If the folder holds something else or another proof's state, or others can write it.
    FileNotFoundError
        If the folder that it is to lie in does not exist.
    """

    def __init__(self, folder: str | os.PathLike[str], *, key: str) -> None:
        self._folder, self._key = Path(folder), key
        if os.path.lexists(self._folder) and not self._folder.is_dir():
            raise ValueError(f"state: {self._folder} must be a folder; {_ELSEWHERE}")
        if not self._folder.parent.is_dir():
            raise FileNotFoundError(f"state: the folder {self._folder.parent} does not exist")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        _refuse_others(self._folder)
        marker = self._folder / _MARKER
        if marker.exists() and _finished(marker):
            self._remove()  # what an earlier proof was about to remove when it was killed
            self._folder.mkdir(mode=0o700, exist_ok=True)
        if not marker.exists():
            if any(not name.endswith(".tmp") for name in os.listdir(self._folder)):
                raise ValueError(f"state: {self._folder} holds other files; {_ELSEWHERE}")
            self._mark(finished=False)
        _refuse_others(marker)
        self._check(marker, _values_of(marker))

    def _mark(self, *, finished: bool) -> None:
        values = {"format": _FORMAT, "version": _VERSION, "key": self._key, "finished": finished}
        # Replaced rather than linked: a link that was cut off would leave the file two names.
        write_atomic(self._folder / _MARKER, json.dumps(values).encode("ascii"), overwrite=True, mode=CONFIDENTIAL)

    def _check(self, path: Path, values: Any) -> None:
        needed = {"format": _FORMAT, "version": _VERSION}
        if not isinstance(values, dict) or {name: values.get(name) for name in needed} != needed:
            raise ValueError(f"state: {path} is not of a proof that this version can go on with; {_ELSEWHERE}")
        if values.get("key") != self._key:
            raise ValueError(
                f"state: {path} is of another proof (other data, another run or other libraries); {_ELSEWHERE}"
            )

    def _path(self, name: str) -> Path:
        return self._folder / f"{int(ctx.prec)}-{name.replace(' ', '-')}{_ENDING}"

    def holds(self, name: str) -> bool:
        """Return whether a stage is kept, of the present precision."""
        return self._path(name).exists()

    def read(self, name: str) -> arb_mat | None:
        """Return the matrix of a stage as it was written, or None if there is none.

        Raises
        ------
        ValueError
            Naming the file, if it is damaged, was not written here, or can be written by others.
        """
        path = self._path(name)
        if not path.exists():
            return None
        _refuse_others(path)
        try:
            header, arrays = read_headed(path, what="state of a proof", versions=(_VERSION,))
        except FileFormatError as error:
            raise ValueError(f"state: {error}; remove the file, and its stage is computed again") from None
        self._check(path, header)
        if header.get("stage") != path.name:
            raise ValueError(f"state: {path} holds the stage {header.get('stage')!r}; remove the file")
        return _matrix(arrays)

    def write(self, name: str, matrix: arb_mat) -> None:
        """Keep the matrix of a stage; one that is not finite, or has exponents beyond 64 bits, is not kept."""
        path = self._path(name)
        try:
            arrays = _arrays(matrix)
        except (ValueError, OverflowError):
            return
        header = {"format": _FORMAT, "version": _VERSION, "key": self._key, "stage": path.name}
        write_atomic(path, headed_bytes(header, arrays), overwrite=True, mode=CONFIDENTIAL)

    def clear(self) -> None:
        """Overwrite and remove what was kept, and the folder, if nothing else is in it."""
        self._mark(finished=True)
        self._remove()

    def _remove(self) -> None:
        cut_off = [path for name in (_ENDING, _MARKER) for path in self._folder.glob(f".*{name}.*.tmp")]
        for path in (*cut_off, *self._folder.glob(f"*{_ENDING}")):
            destroy(path)
        os.unlink(self._folder / _MARKER)  # last, and at once: it says what is to be removed
        sync_folder(self._folder)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()


def _finished(marker: Path) -> bool:
    values = _values_of(marker)
    return isinstance(values, dict) and values.get("format") == _FORMAT and values.get("finished") is True


def _values_of(marker: Path) -> Any:
    try:
        return read_json(marker, what="state of a proof")
    except FileFormatError as error:
        raise ValueError(f"state: {error}; {_ELSEWHERE}") from None


def _refuse_others(path: Path) -> None:
    """Refuse what another user can write: a proof would be worth what they wrote."""
    if not hasattr(os, "geteuid"):
        return
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ValueError(
            f"state: {path} must belong to you and be writable by nobody else (chmod go-w), or others could forge a "
            f"proof; got mode {found.st_mode & 0o777:03o} of user {found.st_uid}"
        )


def _arrays(matrix: arb_mat) -> dict[str, NDArray[Any]]:
    """Return the midpoints and radii of a matrix as whole numbers and exponents of 2.

    Raises
    ------
    ValueError, OverflowError
        If an entry is not finite, or an exponent does not fit 64 bits.
    """
    entries = matrix.entries()
    if not all(one.is_finite() for one in entries):
        raise ValueError("matrix must be finite")
    middles = [one.mid().man_exp() for one in entries]
    radii = [one.rad().man_exp() for one in entries]
    numbers = [int(man) for man, _ in middles]
    width = max((man.bit_length() for man in numbers), default=0) // 8 + 1
    packed = b"".join(man.to_bytes(width, "little", signed=True) for man in numbers)
    return {
        "shape": np.array([matrix.nrows(), matrix.ncols()], dtype=np.int64),
        "middles": np.frombuffer(packed, dtype=np.uint8).reshape(len(numbers), width),
        "exponents": np.array([int(exp) for _, exp in middles], dtype=np.int64),
        "radii": np.array([int(man) for man, _ in radii], dtype=np.int64),
        "radius_exponents": np.array([int(exp) for _, exp in radii], dtype=np.int64),
    }


def _matrix(arrays: dict[str, NDArray[Any]]) -> arb_mat:
    """Return the matrix of `_arrays`, to the bit."""
    rows, columns = arrays["shape"].tolist()
    packed, width = arrays["middles"].tobytes(), arrays["middles"].shape[1]
    parts = zip(*(arrays[name].tolist() for name in ("exponents", "radii", "radius_exponents")), strict=True)
    entries = []
    for i, (exponent, radius, radius_exponent) in enumerate(parts):
        man = int.from_bytes(packed[i * width : (i + 1) * width], "little", signed=True)
        if radius.bit_length() < _RADIUS_BITS:
            one = arb((man, exponent), (radius, radius_exponent))
        else:  # a radius of all its bits is rounded up to the next number, even if it is one: half a unit less
            one = arb((man, exponent), (2 * radius - 1, radius_exponent - 1))
        entries.append(one)
    found = arb_mat(rows, columns, entries)
    if any(not np.array_equal(values, arrays[name]) for name, values in _arrays(found).items() if name != "middles"):
        raise ArithmeticError("a ball that was kept did not come back to the bit")
    return found


class Stages:
    """Stages of a proof by name: each is announced as it begins, and what a state holds is not computed again."""

    def __init__(self, begin: Callable[[str], object], state: ProofState | None = None) -> None:
        self._begin, self._state = begin, state

    def matrix(self, name: str, compute: Callable[[], arb_mat]) -> arb_mat:
        """Return the matrix of a stage, computed unless it is kept, and kept from then on."""
        found = None if self._state is None else self._state.read(name)
        if found is None:
            self._begin(name)
            found = compute()
            if self._state is not None:
                self._state.write(name, found)
        return found

    def hold(self, *names: str) -> bool:
        """Return whether all these stages are kept."""
        return self._state is not None and all(self._state.holds(name) for name in names)
