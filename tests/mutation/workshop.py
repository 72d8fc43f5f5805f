"""Running tests on a changed copy of the package: one forked process for each mutant, killed when it takes too long."""

from __future__ import annotations

import ast
import builtins
import compileall
import contextlib
import gc
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from mutation.mutants import Mutant

MEMORY = 8 << 30  # a mutant must not take the machine with it
_PRELOADED = "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning"
_LISTENER = "_mutation_listener"
_SLOWER, _GRACE = 5, 12  # a mutant's tests may take so many times their seconds, and so many seconds


def preload() -> None:
    """Import what the tests need, but nothing of this package: children inherit it and start at once."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # mutants run side by side
    for name in ("numpy", "scipy.linalg", "scipy.special", "scipy.optimize", "scipy.stats", "sklearn.datasets"):
        __import__(name)
    for name in ("hypothesis", "mpmath", "pandas", "pyarrow", "matplotlib", "click", "tqdm", "cryptography"):
        with contextlib.suppress(ImportError):
            __import__(name)


def make_tree(root: Path, package: Path, place: Path) -> Path:
    """Copy the sources, the tests and the compiled modules (of the installed package) to ``place``."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so", ".hypothesis", "mutation")
    shutil.copytree(root / "python", place / "python", ignore=ignore)
    shutil.copytree(root / "tests", place / "tests", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        if (root / name).is_file():
            shutil.copy2(root / name, place / name)
    for compiled in package.glob("*.so"):
        shutil.copy2(compiled, place / "python" / "expunge" / compiled.name)
    compileall.compile_dir(place, quiet=2)
    return place


def instrumented(file: str, text: str) -> str:
    """Return a source whose functions note each of their lines as they run; nothing else is slowed down.

    Line numbers are those of ``text``. Where nobody listens (in processes that tests start), nothing is noted.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for inner in ast.walk(node):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(inner, name, None)
                if isinstance(block, list) and not isinstance(inner, ast.ClassDef):
                    setattr(inner, name, [new for one in block for new in _noted(file, one)])
    return ast.unparse(ast.fix_missing_locations(tree))


def _noted(file: str, one: ast.stmt) -> list[ast.stmt]:
    text = isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
    if text or getattr(one, "noted", False):
        return [one]
    one.noted = True  # type: ignore[attr-defined]
    call = f"getattr(__import__('builtins'), '{_LISTENER}', id)({f'{file}:{one.lineno}'!r})"
    (note,) = ast.parse(call).body
    note.noted = True  # type: ignore[attr-defined]
    return [note, one]


class _Lines:
    """Notes the lines of the package that each test runs, how long it took, and whether it passed."""

    def __init__(self) -> None:
        self.lines: dict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self._hit: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._hit = set()
        setattr(builtins, _LISTENER, self._hit.add)
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            delattr(builtins, _LISTENER)
            self.seconds[item.nodeid] = time.perf_counter() - start
            for spot in self._hit:
                self.lines[spot].add(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self.failed.append(report.nodeid)


class _Chosen:
    """Runs the chosen tests only, in their order, and notes the first that fails."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: i for i, test in enumerate(tests)}
        self.killer = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.killer:
            self.killer = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.killer:
            self.killer = f"import of {report.nodeid}"


def _in_child(tree: Path, log: Path, work: Callable[[], tuple[int, Any]], answer: Path) -> int:
    """Fork; the child moves into ``tree``, works there and writes what it found to ``answer``."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.chdir(tree)
        gc.freeze()  # what was preloaded stays: collecting it again and again is slow
        sys.path[:] = [str(tree / "python"), *(p for p in sys.path if p)]
        # An editable install would answer before the path does.
        sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in type(finder).__name__]
        os.environ.update(PYTHONPATH=str(tree / "python"), PYTHONDONTWRITEBYTECODE="1", MPLBACKEND="Agg")
        sys.dont_write_bytecode = True
        status, found = work()
        answer.write_text(json.dumps(found))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        sys.stdout.flush()
        os._exit(status)


def _arguments(tests: Iterable[str]) -> list[str]:
    # Assertions as they stand: rewriting them for better messages takes longer than most tests.
    return ["-q", "--no-header", "-p", "no:cacheprovider", "--assert=plain", "--tb=line", "-W", _PRELOADED, *tests]


@dataclass
class Baseline:
    """What the tests do on the unchanged package: seconds of each that passes, and the tests of every line."""

    seconds: dict[str, float]
    lines: dict[str, list[str]]
    failed: list[str]

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that run the mutant's statement; where none does (code run at import), those of its file."""
        spots = (f"{mutant.file}:{line}" for line in range(mutant.span[0], mutant.span[1] + 1))
        found = {test for spot in spots for test in self.lines.get(spot, ())}
        if not found:
            prefix = f"{mutant.file}:"
            found = {test for spot, tests in self.lines.items() if spot.startswith(prefix) for test in tests}
        return sorted(test for test in found if test in self.seconds)

    def by_file(self, files: Iterable[str]) -> dict[str, Baseline]:
        """Return the parts of each of ``files``, which are the paths that node ids begin with."""
        parts = {file: Baseline({}, {}, []) for file in files}

        def of(test: str) -> Baseline:
            return parts[test.partition("::")[0]]

        for test, seconds in self.seconds.items():
            of(test).seconds[test] = seconds
        for line, tests in self.lines.items():
            for test in tests:
                of(test).lines.setdefault(line, []).append(test)
        for test in self.failed:
            of(test).failed.append(test)
        return parts

    @classmethod
    def joined(cls, parts: Iterable[Baseline]) -> Baseline:
        """Return one baseline of several that share no test."""
        whole = cls({}, {}, [])
        for part in parts:
            whole.seconds.update(part.seconds)
            whole.failed.extend(part.failed)
            for line, tests in part.lines.items():
                whole.lines.setdefault(line, []).extend(tests)
        return whole


def measure(tree: Path, tests: list[str], files: Iterable[str]) -> Baseline:
    """Run ``tests`` on the unchanged package in ``tree``, noting which of them run which lines of ``files``."""
    originals = {tree / "python" / "expunge" / file: file for file in files}
    texts = {path: path.read_text(encoding="utf-8") for path in originals}
    for path, file in originals.items():
        path.write_text(instrumented(file, texts[path]), encoding="utf-8")
    try:
        return _measured(tree, tests)
    finally:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                compiled.unlink()


def _measured(tree: Path, tests: list[str]) -> Baseline:
    log, answer = tree / "log.txt", tree / "answer.json"

    def work() -> tuple[int, Any]:
        notes = _Lines()
        code = pytest.main(_arguments(tests), plugins=[notes])
        import expunge

        if not str(expunge.__file__).startswith(str(tree)):
            raise RuntimeError(f"the tests ran {expunge.__file__}, not the copy in {tree}")
        seconds = {name: value for name, value in notes.seconds.items() if name not in notes.failed}
        return int(code), [seconds, {line: sorted(names) for line, names in notes.lines.items()}, notes.failed]

    child = _in_child(tree, log, work, answer)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise RuntimeError(f"the tests do not run on the unchanged package:\n{log.read_text()[-3000:]}")
    return Baseline(*json.loads(answer.read_text()))


@dataclass
class _Running:
    mutant: Mutant
    tree: Path
    started: float
    limit: float


class Workshop:
    """Copies of the project side by side, each of which tests one mutant at a time.

    A mutant's tests run with those first that killed others of its function, then the quickest. With ``seconds``, the
    later ones that would take the unchanged package longer than that in all are left out (one test runs always).
    """

    def __init__(self, trees: list[Path], baseline: Baseline, *, seconds: float = math.inf) -> None:
        self.free = trees
        self.baseline = baseline
        self.seconds = seconds
        self.killers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.originals: dict[str, str] = {}
        self.running: dict[int, _Running] = {}

    def _write(self, tree: Path, file: str, text: str) -> None:
        path = tree / "python" / "expunge" / file
        path.write_text(text, encoding="utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()

    def tests_of(self, mutant: Mutant) -> list[str]:
        kills, known = self.killers[mutant.file, mutant.function], self.baseline.seconds
        tests = sorted(self.baseline.tests_of(mutant), key=lambda test: (-kills[test], known[test]))
        spent = list(accumulate(known[test] for test in tests))
        return [test for i, test in enumerate(tests) if i == 0 or spent[i] <= self.seconds]

    def _start(self, mutant: Mutant) -> None:
        tree = self.free.pop()
        path = tree / "python" / "expunge" / mutant.file
        self.originals.setdefault(mutant.file, path.read_text(encoding="utf-8"))
        self._write(tree, mutant.file, mutant.source)
        chosen = self.tests_of(mutant)
        answer = tree / "answer.json"
        answer.unlink(missing_ok=True)

        def work() -> tuple[int, Any]:
            plugin = _Chosen(chosen)
            files = sorted({test.partition("::")[0] for test in chosen})
            code = pytest.main(["-x", *_arguments(files)], plugins=[plugin])
            return int(code), plugin.killer

        child = _in_child(tree, tree / "log.txt", work, answer)
        limit = _SLOWER * sum(self.baseline.seconds[test] for test in chosen) + _GRACE
        self.running[child] = _Running(mutant, tree, time.monotonic(), limit)

    def _verdict(self, code: int, tree: Path) -> dict[str, Any]:
        answer = tree / "answer.json"
        if code == 0:
            return {"verdict": "survived"}
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            return {"verdict": "no tests"}
        killer = json.loads(answer.read_text()) if answer.exists() else ""
        return {"verdict": "killed", "by": killer or f"exit {code}"}

    def _collect(self) -> Iterator[tuple[Mutant, dict[str, Any]]]:
        for child in list(self.running):
            state = self.running[child]
            done, status = os.waitpid(child, os.WNOHANG)
            late = time.monotonic() - state.started > state.limit
            if not done and not late:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # and what its tests started
            if not done:
                os.waitpid(child, 0)
            verdict = {"verdict": "killed", "by": "time limit"}
            if done:
                verdict = self._verdict(os.waitstatus_to_exitcode(status), state.tree)
            self.killers[state.mutant.file, state.mutant.function].update([verdict.get("by", "")])
            self._write(state.tree, state.mutant.file, self.originals[state.mutant.file])
            del self.running[child]
            self.free.append(state.tree)
            yield state.mutant, {**verdict, "seconds": round(time.monotonic() - state.started, 2)}

    def run(self, mutants: Iterable[Mutant]) -> Iterator[tuple[Mutant, dict[str, Any]]]:
        """Yield each mutant with its verdict, in the order they end."""
        try:
            for mutant in mutants:
                while not self.free:
                    yield from self._collect()
                    time.sleep(0.02)
                self._start(mutant)
            while self.running:
                yield from self._collect()
                time.sleep(0.02)
        finally:
            for child in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)


@contextlib.contextmanager
def trees(root: Path, package: Path, count: int) -> Iterator[list[Path]]:
    """Make ``count`` copies of the project for as long as they are needed."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        yield [make_tree(root, package, Path(name) / str(i)) for i in range(count)]
