"""The certificate's JSON schema and the strict check of a value against it."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from typing import Any

from expunge._types import JsonObject
from expunge.runs.base import RunError
from expunge.runs.registry import FIRST_KIND, run_class

__all__ = [
    "VERSIONS",
    "CertificateError",
    "VerificationError",
    "certificate_schema",
    "check",
    "check_one_line",
    "refuting",
]


class CertificateError(ValueError):
    """A certificate does not conform to its format.

    Attributes
    ----------
    field : str
        The field at fault, as a path: ``"claim.delta"``, ``"run.phases[1].noise_std"``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field

    def __reduce__(self) -> tuple[type[CertificateError], tuple[str, str]]:  # workers send it to whoever asked
        return type(self), (self.field, str(self).removeprefix(f"{self.field}: "))


class VerificationError(CertificateError):
    """A certificate does not hold: ``field`` names what refutes it, the message what came and what was needed."""


@contextmanager
def refuting() -> Iterator[None]:
    """Raise what refutes a run as a refutation of the certificate about it, under the same field."""
    try:
        yield
    except RunError as error:
        raise VerificationError(error.field, error.message) from None


VERSIONS = (1, 2)


@lru_cache(maxsize=len(VERSIONS))
def _schema_text(version: int) -> str:
    name = f"certificate-v{version}.schema.json"
    return resources.files("expunge.certificates").joinpath(name).read_text(encoding="utf-8")


def certificate_schema(*, version: int = VERSIONS[-1], kind: str = FIRST_KIND) -> JsonObject:
    """Return the JSON schema (draft 2020-12) of certificates about a kind of run, as a new dictionary.

    Parameters
    ----------
    version : int, default=2
        Version of the format; version 1 is read, but no longer issued.
    kind : str, default="ridge"
        The kind of run; version 1 has only this one.

    Raises
    ------
    ValueError
        If there is no such version, or no such kind in it.

    Examples
    --------
    >>> certificate_schema()["properties"]["version"]
    {'const': 2}
    """
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {VERSIONS}, got {version!r}")
    schema: dict[str, Any] = json.loads(_schema_text(version))
    if version == 1:
        if kind != FIRST_KIND:
            raise ValueError(f"kind must be {FIRST_KIND!r} in version 1, got {kind!r}")
        return schema
    known = run_class(kind)
    properties = schema["properties"]
    for values, name, narrowed in (
        (properties, "kind", {"const": known.kind}),
        (properties, "method", {"enum": list(known.methods)}),
        (properties, "run", known.schema()),
        (properties["claim"]["properties"], "reference", {"const": known.reference}),
    ):
        values[name] = narrowed
    return schema


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, float)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "number": _is_number,
    "null": lambda value: value is None,
}
_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": (">=", operator.ge),
    "exclusiveMinimum": (">", operator.gt),
    "maximum": ("<=", operator.le),
    "exclusiveMaximum": ("<", operator.lt),
}
_KEYWORDS = {
    *("$schema", "title", "description", "type", "const", "enum", "pattern", "minLength"),
    *("properties", "required", "additionalProperties", "items", "minItems"),
    *_BOUNDS,
}


def check(value: Any, schema: Mapping[str, Any], *, field: str = "", what: str = "certificate") -> None:
    """Check a JSON value against a schema of the keywords the certificate's schema uses.

    Stricter than JSON Schema in two points: a boolean is not a number, and every number must be finite in float64.

    Parameters
    ----------
    value : object
        What `json.loads` returns.
    schema : mapping
        The schema.
    field : str, default=""
        Path of ``value``, for the error.
    what : str, default="certificate"
        What ``value`` is, for the error, where there is no path.

    Raises
    ------
    CertificateError
        Naming the first field that breaks the schema.

    Examples
    --------
    >>> check({"delta": "small"}, {"type": "object", "properties": {"delta": {"type": "number"}}})
    Traceback (most recent call last):
    ...
    expunge.certificates.schema.CertificateError: delta: must be of type number, got 'small'
    """
    unknown = set(schema) - _KEYWORDS
    if unknown:
        raise ValueError(f"schema must use known keywords only, got {sorted(unknown)}")
    name = field or what
    if "const" in schema and not _same(value, schema["const"]):
        raise CertificateError(name, f"must be {_short(schema['const'])}, got {_short(value)}")
    if "enum" in schema and not any(_same(value, option) for option in schema["enum"]):
        raise CertificateError(name, f"must be one of {', '.join(map(repr, schema['enum']))}, got {_short(value)}")
    if "type" in schema:
        types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        if not any(_TYPES[kind](value) for kind in types):
            raise CertificateError(name, f"must be of type {' or '.join(types)}, got {_short(value)}")
    if isinstance(value, dict):
        _check_object(value, schema, field, name)
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            raise CertificateError(name, f"must have at least {schema['minItems']} entries, got {len(value)}")
        if "items" in schema:
            for i, item in enumerate(value):
                check(item, schema["items"], field=f"{name}[{i}]")
    elif isinstance(value, str):
        if len(value) < schema.get("minLength", 0) or not re.search(schema.get("pattern", ""), value):
            raise CertificateError(name, f"must match {schema.get('pattern', 'at least one character')}, got {value!r}")
        if value.endswith("\n") and "pattern" in schema:  # Python's $ lets one newline pass
            raise CertificateError(name, f"must match {schema['pattern']}, got {value!r}")
    elif _is_number(value):
        _check_number(value, schema, name)


def check_one_line(values: JsonObject, *names: str) -> None:
    """Check that texts which are shown to a person as they are hold nothing that could pass for something else.

    A line break would begin a line of a summary that the library never wrote, and an escape sequence erase those it
    did; ``names`` are of texts or of lists of them, a point between the names of an object and its entry.

    Raises
    ------
    CertificateError
        Naming the first text that is not printable on one line.
    """
    for name in names:
        value: Any = values
        for key in name.split("."):
            value = value[key]
        for place, text in enumerate([value] if isinstance(value, str) else value):
            if not text.isprintable():
                where = name if isinstance(value, str) else f"{name}[{place}]"
                raise CertificateError(where, f"must be printable text on one line, got {text!r}")


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], field: str, name: str) -> None:
    properties = schema.get("properties", {})
    prefix = f"{field}." if field else ""
    for key in schema.get("required", ()):
        if key not in value:
            raise CertificateError(f"{prefix}{key}", f"is missing in {name}")
    for key, item in value.items():
        if key in properties:
            check(item, properties[key], field=f"{prefix}{key}")
        elif schema.get("additionalProperties", True) is False:
            raise CertificateError(f"{prefix}{key}", f"is not a field of {name}; it has {', '.join(properties)}")


def _check_number(value: float, schema: Mapping[str, Any], name: str) -> None:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise CertificateError(name, f"must be finite, got {_short(value)}")
    for keyword, (sign, holds) in _BOUNDS.items():
        if keyword in schema and not holds(value, schema[keyword]):  # so that NaN would fail
            raise CertificateError(name, f"must be {sign} {schema[keyword]}, got {value!r}")


def _same(value: Any, constant: Any) -> bool:
    # True == 1 == 1.0 in Python, not here.
    return type(value) is type(constant) and bool(value == constant)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
