"""Public signatures say what they take and return: no annotation is, or contains, ``Any``."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from test_surface import SOURCES, modules

# Signatures that may say ``Any``, each with its reason.
MAY_SAY_ANY: dict[str, str] = {
    "expunge.accounting.estimate.Estimate": "hands arguments through to numpy.ndarray, whose own stubs say Any",
}

# What a run of any kind prepares is that kind's own.
MAY_BE_SAID = ("Run[Any]",)

# Packages and the modules directly below expunge are public; these too.
ALSO_PUBLIC = ("expunge.cli.files",)
NEED_EXTRAS = (
    "expunge.distributed.cluster",
    "expunge.distributed.machine",
    "expunge.integrations.lightning",
    "expunge.integrations.transformers",
)


@cache
def tree_of(module: str) -> ast.Module:
    if not module.startswith("expunge"):
        return ast.parse(Path(str(importlib.import_module(module).__file__)).read_text())
    place = SOURCES.joinpath(*module.split(".")[1:])  # read, also where an extra is missing that it needs
    return ast.parse((place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text())


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield statements of a module, also those for type checkers alone."""
    for node in tree.body:
        if isinstance(node, ast.If):
            yield from node.body
            yield from node.orelse
        yield node


@cache
def definition(module: str, name: str) -> tuple[str, ast.expr] | None:
    """Return the module that gives ``name`` its meaning, and that meaning, if it is an alias of a type."""
    for node in top_level(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("expunge"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(str(node.module), alias.name)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return module, node.value
    return None


def says_any(annotation: ast.expr, module: str, above: frozenset[int] = frozenset()) -> bool:
    """Return whether an annotation is or contains ``Any``, also by an alias or in quotes."""
    seen = above | {id(annotation)}
    allowed = {
        id(inner) for node in ast.walk(annotation) if ast.unparse(node) in MAY_BE_SAID for inner in ast.walk(node)
    }
    for node in ast.walk(annotation):
        if id(node) in allowed:
            continue
        if isinstance(node, ast.Name):
            if node.id == "Any":
                return True
            meaning = definition(module, node.id)
            if meaning is not None and id(meaning[1]) not in seen and says_any(meaning[1], meaning[0], seen):
                return True
        if isinstance(node, ast.Attribute) and node.attr == "Any":
            return True
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                quoted = ast.parse(node.value, mode="eval").body
            except SyntaxError:
                continue
            if not isinstance(quoted, ast.Constant) and says_any(quoted, module, seen):
                return True
    return False


def annotations_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """Yield the annotated parameters of a function and its result."""
    parts = node.args
    optional = [part for part in (parts.vararg, parts.kwarg) if part is not None]
    for argument in (*parts.posonlyargs, *parts.args, *parts.kwonlyargs, *optional):
        if argument.annotation is not None:
            yield argument.arg, argument.annotation
    if node.returns is not None:
        yield "return", node.returns


def complaints(statement: ast.stmt, module: str, name: str) -> Iterator[str]:
    """Yield what says ``Any`` in a public function, or in the fields and public methods of a class."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for part, annotation in annotations_of(statement):
            if says_any(annotation, module):
                yield f"{module}.{name}({part}: {ast.unparse(annotation)})"
    elif isinstance(statement, ast.ClassDef):
        for member in statement.body:
            if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if member.name == "__init__" or not member.name.startswith("_"):
                    yield from complaints(member, module, f"{name}.{member.name}")
            elif (
                isinstance(member, ast.AnnAssign)
                and not ast.unparse(member.target).startswith("_")
                and says_any(member.annotation, module)
            ):
                yield f"{module}.{name}.{ast.unparse(member.target)}: {ast.unparse(member.annotation)}"


def statement_of(module: str, name: str) -> list[ast.stmt]:
    """Return the definition of a function or class, with its overloads."""
    return [
        node
        for node in top_level(tree_of(module))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name
    ]


def public_definitions() -> dict[str, tuple[str, str]]:
    """Return what public modules export and what its classes inherit here: (module, name) by full name."""
    found: dict[str, tuple[str, str]] = {}
    for name in NEED_EXTRAS:
        exports = definition(name, "__all__")
        assert exports is not None
        found.update({f"{name}.{one}": (name, one) for one in ast.literal_eval(exports[1])})
    for module in modules():
        parts = module.__name__.split(".")
        inner = len(parts) > 2 and not hasattr(module, "__path__") and module.__name__ not in ALSO_PUBLIC
        if inner or module.__name__ in NEED_EXTRAS or any(part.startswith("_") for part in parts):
            continue
        for exported in getattr(module, "__all__", ()):
            value = inspect.unwrap(getattr(module, exported)) if exported != "__version__" else None
            for one in value.__mro__ if inspect.isclass(value) else (value,):
                home = getattr(one, "__module__", "") or ""
                if home.startswith("expunge") and (inspect.isfunction(one) or inspect.isclass(one)):
                    found[f"{home}.{one.__qualname__}"] = (home, one.__qualname__)
    return found


PUBLIC = public_definitions()


def test_public_definitions_are_found() -> None:
    assert {"expunge.cli.files.load_model", "expunge.estimators.ridge.LangevinRidge"} <= set(PUBLIC)
    assert "expunge.estimators._fitting.FittedRidge" in PUBLIC, "what is inherited counts"
    assert all(statement_of(*place) for place in PUBLIC.values())


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - set(MAY_SAY_ANY)))
def test_public_signatures_do_not_say_any(name: str) -> None:
    module, own = PUBLIC[name]
    found = [one for statement in statement_of(module, own) for one in complaints(statement, module, own)]
    assert not found, "\n".join(found)


def test_every_exception_is_needed() -> None:
    for name in MAY_SAY_ANY:
        module, own = PUBLIC[name]
        assert any(True for statement in statement_of(module, own) for _ in complaints(statement, module, own)), name


def test_any_is_seen_through_aliases_and_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample_of_any.py").write_text(
        "from typing import Any, TypeAlias\nimport typing\nfrom collections.abc import Callable\n"
        "Hidden: TypeAlias = dict[str, Any]\nTwice = list['Hidden']\nPlain = dict[str, int]\n"
        "def f(a: Any, b: 'int | Any', c: Twice, d: typing.Any, e: Callable[[Any], int], g: Plain, *h: Any) -> Hidden:"
        " ...\nclass C:\n    field: Any\n    _private: Any\n    def __init__(self, x: Any) -> None: ...\n"
        "    def method(self) -> Twice: ...\n    def _own(self) -> Any: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        (function,) = statement_of("sample_of_any", "f")
        found = list(complaints(function, "sample_of_any", "f"))
        assert [one.partition("(")[2].partition(":")[0] for one in found] == ["a", "b", "c", "d", "e", "h", "return"]
        (made,) = statement_of("sample_of_any", "C")
        assert len(list(complaints(made, "sample_of_any", "C"))) == 3
    finally:
        sys.modules.pop("sample_of_any", None)
