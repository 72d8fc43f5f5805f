"""Every way this tool breaks a source file: one small change each, as text, so that all else stays as it is."""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

COMPARISONS = {
    ast.Lt: ("<", "<=", ">="),
    ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<="),
    ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
SWAPPED_CALLS = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "fmin": "fmax",
    "fmax": "fmin",
    "floor": "ceil",
    "ceil": "floor",
    "any": "all",
    "all": "any",
}
# Calls whose only work is to move a number outward: the change is to leave the number as it was.
ROUNDING = re.compile(r"(^|_)(nextafter|up|down|upward|downward|outward|rounded)(_|$)")


@dataclass(frozen=True)
class Mutant:
    """One changed source file.

    ``key`` names it by content: file, function, the changed lines before and after, never a line number.
    """

    file: str
    line: int
    function: str
    change: str
    before: str
    after: str
    nth: int
    span: tuple[int, int] = field(repr=False)  # the lines of the statement it is in
    source: str = field(repr=False)

    @property
    def key(self) -> str:
        parts = (self.file, self.function, self.change, self.before, self.after, str(self.nth))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def diff(self, original: str) -> str:
        lines = difflib.unified_diff(
            original.splitlines(keepends=True), self.source.splitlines(keepends=True), self.file, self.file, n=1
        )
        return "".join(lines)


class _Source:
    """A source file whose syntax nodes are found in its text; columns of ``ast`` count bytes."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.starts = [0]
        for line in text.encode().splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def start(self, node: ast.AST) -> int:
        return self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def of(self, node: ast.AST) -> str:
        return self.text[self.start(node) : self.end(node)].decode()

    def gap(self, left: ast.AST, right: ast.AST, symbol: str) -> tuple[int, int] | None:
        """Return where the operator ``symbol`` stands between two operands, comments blanked out."""
        low = self.end(left)
        between = re.sub(rb"#[^\n]*", lambda m: b" " * len(m[0]), self.text[low : self.start(right)])
        pattern = rb"\s+".join(re.escape(word).encode() for word in symbol.split())
        found = re.search(pattern, between)
        return (low + found.start(), low + found.end()) if found else None


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _header(node: ast.stmt) -> tuple[int, int]:
    """Return the lines of a statement; of a compound one those before its body."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        return node.lineno, max(node.lineno, body[0].lineno - 1)
    return node.lineno, node.end_lineno or node.lineno


# Keywords of what is shown to people: which line a warning names, what a progress bar says.
_SHOWN = {"stacklevel", "desc", "unit", "dynamic_ncols", "leave"}


class _Finder:
    def __init__(self, text: str) -> None:
        self.source = _Source(text)
        self.found: list[tuple[int, int, str, str, str, tuple[int, int]]] = []
        self.function: list[str] = []
        self.span = (1, 1)

    def edit(self, low: int, high: int, new: str, change: str) -> None:
        self.found.append((low, high, new, change, ".".join(self.function), self.span))

    def replace(self, node: ast.AST, new: str, change: str) -> None:
        self.edit(self.source.start(node), self.source.end(node), new, change)

    def walk(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            if _is_docstring(node) or self.is_plumbing(node):
                return
            self.span = _header(node)
        scope = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if scope:
            self.function.append(node.name)  # type: ignore[attr-defined]
        self.visit(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params", "exc", "cause", "op", "ops"):
                continue  # messages of errors are for people; types and decorators are checked by mypy
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.keyword) and child.arg in _SHOWN:
                    continue
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                    before = self.span
                    self.walk(child)
                    self.span = before
        if scope:
            self.function.pop()

    @staticmethod
    def is_plumbing(node: ast.stmt) -> bool:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return True
        return isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets)

    def visit(self, node: ast.AST) -> None:
        method = getattr(self, f"visit_{type(node).__name__.lower()}", None)
        if method is not None:
            method(node)

    def visit_compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for i, op in enumerate(node.ops):
            symbol, *others = COMPARISONS[type(op)]
            place = self.source.gap(operands[i], operands[i + 1], symbol)
            for other in others if place else ():
                self.edit(*place, other, f"{symbol} -> {other}")  # type: ignore[misc]

    def visit_binop(self, node: ast.BinOp) -> None:
        if type(node.op) not in ARITHMETIC or (
            isinstance(node.left, (ast.Constant, ast.JoinedStr)) and isinstance(getattr(node.left, "value", ""), str)
        ):
            return
        symbol, other = ARITHMETIC[type(node.op)]
        if place := self.source.gap(node.left, node.right, symbol):
            self.edit(*place, other, f"{symbol} -> {other}")

    def visit_augassign(self, node: ast.AugAssign) -> None:
        if type(node.op) in ARITHMETIC:
            symbol, other = ARITHMETIC[type(node.op)]
            if place := self.source.gap(node.target, node.value, f"{symbol}="):
                self.edit(*place, f"{other}=", f"{symbol}= -> {other}=")

    def visit_boolop(self, node: ast.BoolOp) -> None:
        symbol, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            if place := self.source.gap(left, right, symbol):
                self.edit(*place, other, f"{symbol} -> {other}")

    def visit_unaryop(self, node: ast.UnaryOp) -> None:
        removed = {ast.Not: "not", ast.USub: "-", ast.Invert: "~"}.get(type(node.op))
        if removed:
            self.replace(node, f"({self.source.of(node.operand)})", f"{removed} removed")

    def visit_constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace(node, str(not value), f"{value} -> {not value}")
        elif isinstance(value, int):
            self.replace(node, str(value + 1), f"{value} -> {value + 1}")
        elif isinstance(value, float):
            new = 1.0 if value == 0 else 0.0 if abs(value) < 1e-3 else 2 * value
            self.replace(node, repr(new), f"{self.source.of(node)} -> {new}")

    def visit_attribute(self, node: ast.Attribute) -> None:
        if node.attr == "inf":
            self.replace(node, f"(-{self.source.of(node)})", "inf -> -inf")

    def visit_call(self, node: ast.Call) -> None:
        name = _called(node)
        if name in SWAPPED_CALLS:
            new = self.source.of(node.func)[: -len(name)] + SWAPPED_CALLS[name]
            self.replace(node.func, new, f"{name} -> {SWAPPED_CALLS[name]}")
        if ROUNDING.search(name) and node.args and not isinstance(node.args[0], ast.Starred):
            self.replace(node, f"({self.source.of(node.args[0])})", f"{name}(x) -> x")
        for i, keyword in enumerate(node.keywords):
            if keyword.arg is None or keyword.arg in _SHOWN:
                continue
            low, high = self.source.start(keyword), self.source.end(keyword)
            others = [*node.args, *node.keywords]
            position = len(node.args) + i
            if position + 1 < len(others):
                high = self.source.start(others[position + 1])
            elif position:
                low = self.source.end(others[position - 1])
            self.edit(low, high, "", f"{keyword.arg}= dropped")

    def visit_raise(self, node: ast.Raise) -> None:
        self.replace(node, "pass", "raise removed")

    def visit_return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.replace(node, "return None", "return None")

    def visit_expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.replace(node, "pass", f"call of {_called(node.value) or 'a function'} removed")


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """Yield the mutants of one source file in the order of their places; each compiles and differs from the source."""
    finder = _Finder(text)
    original = ast.parse(text)
    finder.walk(original)
    same = ast.dump(original)
    raw = text.encode()
    seen: dict[tuple[str, ...], int] = {}
    for low, high, new, change, function, span in sorted(finder.found):
        changed = (raw[:low] + new.encode() + raw[high:]).decode()
        try:
            tree = ast.parse(changed)
        except SyntaxError:
            continue
        if ast.dump(tree) == same:
            continue
        line = raw.count(b"\n", 0, low) + 1
        last = raw.count(b"\n", 0, high) + 1
        before = " ".join(part.strip() for part in text.splitlines()[line - 1 : last])
        kept = last - line + 1 - (raw[low:high].count(b"\n") - new.count("\n"))
        after = " ".join(part.strip() for part in changed.splitlines()[line - 1 : line - 1 + kept])
        content = (function, change, before, after)
        seen[content] = seen.get(content, -1) + 1
        yield Mutant(file, line, function, change, before, after, seen[content], span, changed)


def thinned(found: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return at most ``count`` mutants of each line; a line keeps its own while it is not edited."""
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for mutant in found:
        lines.setdefault((mutant.file, mutant.line), []).append(mutant)
    return [
        mutant
        for of_line in lines.values()
        for mutant in sorted(of_line, key=lambda m: hashlib.sha256(f"{seed} {m.key}".encode()).digest())[:count]
    ]
