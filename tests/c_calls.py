"""The table of expunge.h as ctypes sees it: every function, and arguments by their names."""

from __future__ import annotations

import ctypes
import re
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import expunge
from expunge._kernels import backend

HEADER = Path(expunge.get_include()) / "expunge.h"
CONSTANTS = {name: int(value) for name, value in re.findall(r"^#define EXPUNGE_(\w+) (\d+)$", HEADER.read_text(), re.M)}


class Array(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("strides", POINTER(c_int64)))


_C_TYPES = {"size_t": c_size_t, "int32_t": c_int32, "int64_t": c_int64, "double": c_double, "expunge_array": Array}


def _members(text: str) -> list[tuple[str, Any]]:
    """Return the members of a structure, as the header declares them."""
    fields: list[tuple[str, Any]] = []
    for kind, names in re.findall(r"(?:const )?(\w+) ([^;]+);", re.sub(r"/\*.*?\*/", "", text, flags=re.S)):
        for name in names.split(","):
            pointer, word, length = re.fullmatch(r"\s*(\*?)(\w+)(?:\[(\d)\])?\s*", name).groups()  # type: ignore[union-attr]
            plain = _C_TYPES[kind]
            fields.append((word, c_void_p if pointer else plain * int(length) if length else plain))
    return fields


# Name of the function -> its structure.
STRUCTURES: dict[str, Any] = {
    name: type(name, (ctypes.Structure,), {"_fields_": _members(body)})
    for body, name in re.findall(r"typedef struct \{([^}]*)\} expunge_(\w+);", HEADER.read_text())
    if name not in ("array", "api")
}


class Table(ctypes.Structure):
    _fields_ = (
        ("version", c_uint32),
        ("size", c_uint32),
        ("last_error", ctypes.CFUNCTYPE(c_char_p)),
        ("default_threads", ctypes.CFUNCTYPE(c_int)),
        *((name, ctypes.CFUNCTYPE(c_int, POINTER(structure))) for name, structure in STRUCTURES.items()),
    )


def table() -> Table:
    """Return the table that the capsule holds."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = c_void_p, (ctypes.py_object, c_char_p)
    return Table.from_address(get(backend.core._c_api, b"expunge._core._c_api"))


class RefusedError(Exception):
    """A status other than EXPUNGE_OK, with the error's text."""


def as_c(array: NDArray[Any] | None) -> Array:
    """Return an array as C is given it: with its strides, or without where they are plain."""
    if array is None:
        return Array(None, None)
    strides = (c_int64 * array.ndim)(*(stride // array.itemsize for stride in array.strides))
    plain = array.flags.c_contiguous
    return Array(array.ctypes.data, None if plain else ctypes.cast(strides, POINTER(c_int64)))


def call(name: str, shape: tuple[int, ...], *, apart: bool = False, threads: int = 1, **arguments: Any) -> Any:
    """Call a function of the table on arrays and numbers; return its output, and that of the bias where `apart`.

    Nothing is checked here: what is wrong reaches the function. Outputs must stay as they are where it refuses.
    """
    structure = STRUCTURES[name]
    given = structure(size=ctypes.sizeof(structure), threads=threads)
    outputs = [np.full(shape, -7.0), np.full(shape, -7.0)]
    given.out = outputs[0].ctypes.data
    if apart:
        given.bias_out = outputs[1].ctypes.data
    kept = []  # memory that the call reads
    for argument, value in arguments.items():
        kind = dict(structure._fields_)[argument]
        if kind is Array:
            kept.append(value)
            value = value if isinstance(value, Array) else as_c(value)
        elif isinstance(value, tuple):
            value = kind(*value)
        elif isinstance(value, np.ndarray):
            kept.append(value)
            value = value.ctypes.data
        setattr(given, argument, value)
    functions = table()
    status = getattr(functions, name)(ctypes.byref(given))
    text = functions.last_error().decode()
    if status != CONSTANTS["OK"]:
        assert all((output == -7.0).all() for output in outputs), "a refused call wrote"
        assert text, "a refusal says nothing"
        raise RefusedError(text)
    assert text == ""
    return (outputs[0], outputs[1]) if apart else outputs[0]
