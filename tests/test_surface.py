"""The shape of the library: exports, documentation, signatures, stubs, and who may use whom."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import compiled
import conftest
import expunge
import oracles
from absent import run_without
from expunge._kernels import backend
from kernel_calls import HOST_ALONE, QUESTIONS, kernel_names, kernels_in_table

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "python" / "expunge"
CSRC = ROOT / "csrc"
FAMILIES = ("columns", "ensemble", "grad_norms", "langevin", "noise", "privacy", "residual", "ridge")

# Unit of the package -> units it may import. A unit is a module or sub-package directly below expunge.
MAY_USE: dict[str, set[str]] = {
    "_core": set(),
    "_cuda": set(),
    "_cuda_emul": set(),
    "_errors": set(),
    "_former_names": set(),
    "_types": set(),
    "_validate": set(),
    "_version": set(),
    "_files": {"_validate"},
    "_kernels": {"_core", "_cuda", "_cuda_emul", "_errors", "_validate"},
    "grad_norms": {"_types", "_kernels", "_validate", "data"},
    "langevin": {"_types", "_kernels", "_validate"},
    "accounting": {"_types", "_errors", "_kernels", "_validate"},
    "calibration": {"accounting", "_validate"},
    "data": {"_types", "_errors", "_files", "_kernels", "_validate"},
    "runs": {"_types", "_errors", "_kernels", "_validate", "accounting", "calibration", "data", "langevin"},
    "proof": {"_types", "_errors", "_files", "_validate", "accounting", "data", "runs"},
    "certificates": {"_types", "_errors", "_files", "_kernels", "_validate", "_version", "data", "proof", "runs"},
    "ledger": {"_errors", "_files", "certificates"},
    "estimators": {
        "_types",
        "_errors",
        "_files",
        "_validate",
        "accounting",
        "calibration",
        "certificates",
        "data",
        "langevin",
        "runs",
    },
    "plotting": {"_errors", "_files", "_validate"},
    "forget_sets": {"_types", "_files", "_validate"},
    "evaluation": {"_types", "_errors", "_files", "_validate", "accounting", "plotting", "runs"},
    "scoring": {
        "_types",
        "_errors",
        "_files",
        "_kernels",
        "_validate",
        "_version",
        "accounting",
        "data",
        "grad_norms",
        "plotting",
    },
    "torch": {
        "_types",
        "_errors",
        "_files",
        "_kernels",
        "_validate",
        "accounting",
        "data",
        "evaluation",
        "forget_sets",
        "grad_norms",
        "langevin",
    },
    "distributed": {"_errors", "_kernels", "_validate", "_version", "accounting", "data", "runs", "scoring"},
    "jax": {"_errors", "_validate"},
    "integrations": {"_errors", "_validate", "accounting", "torch"},
    "experiments": {
        "_types",
        "_errors",
        "_files",
        "_kernels",
        "_validate",
        "_version",
        "accounting",
        "data",
        "evaluation",
        "forget_sets",
        "grad_norms",
        "langevin",
        "plotting",
        "runs",
        "torch",
    },
    "cli": {
        "_errors",
        "_files",
        "_validate",
        "_version",
        "certificates",
        "data",
        "distributed",
        "estimators",
        "experiments",
        "ledger",
        "plotting",
        "runs",
        "scoring",
    },
    "__main__": {"cli"},
    "__init__": {"_errors", "_former_names", "_kernels", "_version", "certificates", "estimators"},
}

COMPILED = ("_core", "_cuda", "_cuda_emul")

# What lies directly in the package and is not for users: everything else private belongs to a room.
PRIVATE = {
    "_core",
    "_cuda",
    "_cuda_emul",
    "_errors",
    "_files",
    "_former_names",
    "_kernels",
    "_types",
    "_validate",
    "_version",
}

# Settings go by keyword: a positional parameter annotated as one of these is one, but for the names below.
SETTINGS = re.compile(r"^(float|int|bool|str)( \| (float|int|bool|str|None))*$")
SUBJECTS = {"data", "record", "record_id", "index", "n_blocks", "shape", "message", "field", "name", "text"}

# Packages that may import torch; nothing outside them ever does.
NEED_TORCH = (
    "expunge.torch",
    "expunge.evaluation.networks",
    "expunge.experiments",
    *(f"expunge.integrations.{name}" for name in ("_visits", "lightning", "opacus", "transformers")),
)
# Packages of optional extras -> what they import.
NEED = {
    **dict.fromkeys(NEED_TORCH, "torch"),
    "expunge.jax": "jax",
    "expunge.proof": "flint",
    **{f"expunge.integrations.{name}": name for name in ("lightning", "opacus", "transformers")},
    "expunge.distributed": "distributed",
}


def modules() -> Iterator[Any]:
    yield expunge
    for found in pkgutil.walk_packages(expunge.__path__, "expunge."):
        missing = [package for name, package in NEED.items() if found.name.startswith(name)]
        if any(not importlib.util.find_spec(package) for package in missing):
            continue  # the optional extra is not installed
        if found.name.removeprefix("expunge.") not in COMPILED and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def public_objects() -> dict[str, Any]:
    """Return what the package and the units directly below it export, by the name of the place that defines it.

    Modules inside a unit are its own business; the command line is documented by its ``--help``.
    """
    found: dict[str, Any] = {}
    for module in modules():
        parts = module.__name__.split(".")
        if len(parts) > 2 or any(part.startswith("_") or part == "cli" for part in parts):
            continue
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith("expunge"):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


PUBLIC = public_objects()


def callables() -> Iterator[tuple[str, Any]]:
    """Yield public functions, and the public methods (and constructors) of public classes defined here."""
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            yield name, value
            continue
        for attribute, member in vars(value).items():
            plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            made = attribute == "__init__" and not dataclasses.is_dataclass(value)  # a record's is not written by hand
            if inspect.isfunction(plain) and (made or not attribute.startswith("_")):
                yield f"{name}.{attribute}", plain


CALLABLES = dict(callables())


def test_every_module_is_importable_and_documented() -> None:
    for module in modules():
        assert module.__doc__, f"{module.__name__} has no docstring"


@pytest.mark.parametrize("module", [m for m in modules() if hasattr(m, "__all__")], ids=lambda m: m.__name__)
def test_exports_exist_once(module: Any) -> None:
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), f"{module.__name__}.__all__ names {name}, which is not there"


def test_the_package_says_what_is_public() -> None:
    assert "__version__" in expunge.__all__
    assert len(PUBLIC) >= 8, "the public surface is not found"


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_public_callables_are_documented(name: str) -> None:
    if name.endswith(".__init__"):
        return  # NumPy style documents the constructor in the class
    assert inspect.getdoc(CALLABLES[name]), f"{name} has no docstring"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_objects_have_a_docstring_with_an_example(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert text, f"{name} has no docstring"
    kind = PUBLIC[name]
    if inspect.isclass(kind) and (issubclass(kind, (Exception, tuple)) or dataclasses.is_dataclass(kind)):
        return  # results are shown in the example of what returns them
    assert ">>>" in text, f"{name} has no example"


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_settings_are_keyword_only(name: str) -> None:
    settings = [
        p.name
        for p in inspect.signature(CALLABLES[name]).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        and SETTINGS.match(str(p.annotation))
        and p.name not in SUBJECTS
    ]
    assert not settings, f"{name} takes {settings} by position"


def test_threads_is_keyword_only_and_optional_wherever_it_appears() -> None:
    for name, function in CALLABLES.items():
        parameter = inspect.signature(function).parameters.get("threads")
        if parameter is not None:
            assert parameter.kind is parameter.KEYWORD_ONLY, name
            assert parameter.default is None, name


def stub(name: str) -> dict[str, list[str]]:
    """Return what a stub declares: the names of the arguments of each function, none for a class."""
    tree = ast.parse((SOURCES / name).read_text())
    found: dict[str, list[str]] = {
        node.name: [] for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"
    }
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found.update({alias.name: [] for alias in node.names if alias.asname == alias.name})
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return found


def exported(module: Any) -> set[str]:
    return {name for name in vars(module) if not name.startswith("_")}


def test_the_stub_lists_exactly_what_the_module_exports() -> None:
    assert set(stub("_core.pyi")) == exported(backend.core)


CUDA_MODULES = [name for name in ("_cuda", "_cuda_emul") if compiled.built(name)]


@pytest.mark.parametrize("name", CUDA_MODULES)
def test_the_stub_of_the_cuda_kernels_lists_exactly_what_they_export(name: str) -> None:
    module = compiled.built(name)
    assert set(stub("_cuda.pyi")) == exported(module)
    for function, names in stub("_cuda.pyi").items():
        if inspect.isclass(getattr(module, function)):
            continue
        signature = getattr(module, function).__doc__.partition("\n")[0]
        assert re.findall(r"[(*,] ?(\w+):", signature) == names, signature


def test_cuda_and_cpu_kernels_have_the_same_names_and_arguments() -> None:
    cpu, cuda = stub("_core.pyi"), stub("_cuda.pyi")
    questions = QUESTIONS | {"device_count", "synchronize"}
    classes = {name for name, value in vars(backend.core).items() if inspect.isclass(value)}
    kernels = set(cpu) - questions - classes
    sizes = {name for name in cuda if name.endswith("_workspace")}
    assert set(cuda) - questions - sizes - classes == kernels
    assert {name.removesuffix("_workspace") for name in sizes} <= kernels
    for name in kernels:
        ours = [a for a in cuda[name] if a not in ("workspace", "stream", *ONLY_ON_DEVICES.get(name, ()))]
        assert ours == [a for a in cpu[name] if a not in ("threads", *ONLY_ON_CPU.get(name, ()))], name
        assert cuda[name][-1] == "stream", name
        assert ("workspace" in cuda[name]) == (f"{name}_workspace" in sizes), name


# The product of matrices is made by the library of the arrays on a device.
ONLY_ON_DEVICES = {"probe_grad_norms": ("logits",)}
# Scores of data sets stream through the CPU.
ONLY_ON_CPU = {"probe_grad_norms": ("proxies", "early")}


def test_every_kernel_has_a_call_in_the_table_and_a_slow_twin() -> None:
    assert kernel_names(), "the compiled module exports no kernel"
    assert kernels_in_table() == kernel_names(), "tests/kernel_calls.py and the compiled module disagree"
    assert set(vars(backend.core)) >= HOST_ALONE
    missing = {
        name for name in kernel_names() | HOST_ALONE if not callable(getattr(oracles, TWINS.get(name, name), None))
    }
    assert not missing, f"no twin in tests/oracles.py for {sorted(missing)}"


# Kernel -> name of its twin, where it is not the same.
TWINS = {
    "embedding_grad_norms": "embedding_gradients",
    "embedding_linear_grad_dots": "embedding_gradients",
    "gdp_delta": "gdp_delta_mpmath",
    "langevin_chains": "langevin_chain",
    "linear_grad_dots": "linear_gradients",
    "norm_layer_grad_norms": "normalised",
    "pair_delta": "pair_profile",
    "pair_renyi": "gaussian_renyi",
    "probe_grad_norms": "probe_gradients",
    "random_words": "stream_words",
    "residual_pass": "residual_sums",
    "ridge_exact_quotes": "ridge_noise",
    "ridge_gaussian_pairs": "ridge_law_pair",
    "ridge_shifted_quotes": "shifted_mu",
    "ridge_solve_reduced": "ridge_noise",
    "standard_normals": "normals",
}


def imports_in(text: str, path: Path) -> set[str]:
    """Return the full dotted names imported by ``text``, a module of expunge at ``path``."""
    found: set[str] = set()
    package = ["expunge", *path.relative_to(SOURCES).parent.parts]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found.update([f"{stem}.{alias.name}" for alias in node.names] if stem == "expunge" else [stem])
    return found


def imports_of(path: Path) -> set[str]:
    return imports_in(path.read_text(), path)


def unit(path: Path) -> str:
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return parts[0]


PYTHON_FILES = sorted(SOURCES.rglob("*.py"))


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda p: str(p.relative_to(SOURCES)))
def test_imports_point_one_way(path: Path) -> None:
    assert unit(path) in MAY_USE, f"say in MAY_USE what {unit(path)} may import"
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("expunge.")}
    used -= {unit(path)}
    assert used <= MAY_USE[unit(path)], f"{path.name} imports {sorted(used - MAY_USE[unit(path)])}"


def test_the_import_rules_name_units_that_exist() -> None:
    units = {unit(path) for path in PYTHON_FILES} | {"_core", "_cuda", "_cuda_emul"}
    assert set(MAY_USE) <= units
    for name, used in MAY_USE.items():
        assert used <= units, name


def test_files_marked_as_kernel_tests_exist() -> None:
    tests = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    assert tests >= conftest.KERNEL_FILES


def module_name(path: Path) -> str:
    return ".".join(("expunge", *path.relative_to(SOURCES).with_suffix("").parts)).removesuffix(".__init__")


def module_graph() -> dict[str, set[str]]:
    """Return which module imports which, in functions and for type checkers too; a package is its ``__init__``."""
    names = {module_name(path) for path in PYTHON_FILES} | {
        f"expunge.{name}" for name in ("_core", "_cuda", "_cuda_emul")
    }
    graph: dict[str, set[str]] = {}
    for path in PYTHON_FILES:
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= inside & names or {node.module}
        graph[module_name(path)] = {name for name in found & names if name != module_name(path)}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return the names along a circle, or nothing."""
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> list[str]:
        if name in above:
            return [*above[above.index(name) :], name]
        if name not in done:
            for below in sorted(graph.get(name, ())):
                if found := visit(below, (*above, name)):
                    return found
            done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, ()))), [])


def test_circles_are_found() -> None:
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_the_import_rules_have_no_circle() -> None:
    assert circle_in(MAY_USE) == []


def test_modules_do_not_import_in_circles() -> None:
    graph = module_graph()
    assert graph["expunge.estimators.ridge"]
    assert circle_in(graph) == []


def test_private_modules_lie_in_rooms() -> None:
    assert {
        name for path in PYTHON_FILES if (name := unit(path)).startswith("_") and name not in ("__init__", "__main__")
    } <= PRIVATE


def test_only_the_backend_imports_compiled_modules() -> None:
    compiled_names = {"_core", "_cuda", "_cuda_emul"}
    users = {
        module_name(path) for path in PYTHON_FILES if any(compiled_names & {*n.split(".")} for n in imports_of(path))
    }
    assert users == {"expunge._kernels.backend"}
    named = re.compile(r"\bimport .*\bcore\b|\bbackend\.core\b")
    back_doors = [path.name for path in PYTHON_FILES if named.search(path.read_text())]
    assert not back_doors, "kernels are run by a place"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda p: str(p.relative_to(SOURCES)))
def test_only_the_torch_packages_import_torch(path: Path) -> None:
    name = ".".join(["expunge", *path.relative_to(SOURCES).with_suffix("").parts])
    # What a function imports when it is called is its own business: a command that needs the extra, say.
    tree = ast.parse(path.read_text())
    inside = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for node in inside:
        node.body = [ast.Pass()]
    found = imports_in(ast.unparse(tree), path)
    uses = {module for module in found if module.split(".")[0] == "torch" or module.startswith(NEED_TORCH)}
    assert not uses or name.startswith(NEED_TORCH), f"{name} imports {sorted(uses)}"


KINDS_OF_PLACE = re.compile(r"isinstance\([^)]*\b(DevicePlace|_Host)\b")


def test_only_the_door_asks_what_kind_of_place_it_is() -> None:
    asking = [
        str(path.relative_to(SOURCES))
        for path in sorted(SOURCES.rglob("*.py"))
        if KINDS_OF_PLACE.search(path.read_text()) and path.relative_to(SOURCES).parts[0] != "_kernels"
    ]
    assert not asking, f"{asking} must ask place.on_host, or the place for what it does differently"


def test_every_form_of_import_is_seen() -> None:
    text = "import expunge.a.b\nfrom expunge import c\nfrom expunge.d import e\nfrom ..f import g\nfrom .. import h\n"
    found = imports_in(text, SOURCES / "accounting" / "sample.py")
    assert found == {"expunge.a.b", "expunge.c", "expunge.d", "expunge.f", "expunge.h"}


INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
# Quotes are privacy arithmetic of ridge runs, as `runs` uses `accounting`: the one header that a family lends another.
LENT = {"ridge": {"privacy/gaussian_profile.hpp"}}
CPP_FILES = sorted(p for p in CSRC.rglob("*") if p.suffix in {".cpp", ".hpp", ".cu", ".cuh"})


@pytest.mark.parametrize("path", CPP_FILES, ids=lambda p: str(p.relative_to(CSRC)))
def test_includes_point_one_way(path: Path) -> None:
    folder = path.relative_to(CSRC).parts[0]
    includes = INCLUDE.findall(path.read_text())
    if folder != "bindings":
        assert not [i for i in includes if i.startswith(("pybind11", "Python.h", "numpy", "bindings/"))]
        allowed = {"common"} if folder == "common" else {"common", folder}
        foreign = [i for i in includes if i.split("/")[0] in {*FAMILIES, "bindings"} - allowed]
        foreign = [i for i in foreign if i not in LENT.get(folder, set())]
        assert not foreign, f"{path.name} includes {foreign}"


# The privacy kernels are tested through the accounting modules they serve.
TESTS_OF = {"privacy": ["gdp", "shifted", "gaussian_pair"], "residual": ["residual_gradients"]}


def test_every_family_has_its_places() -> None:
    for family in FAMILIES:
        for place in (
            CSRC / family / f"{family}.hpp",
            *(
                [] if family in ("columns", "ensemble", "noise") else [CSRC / family / f"{family}.cuh"]
            ),  # on the host alone
            CSRC / "bindings" / f"bind_{family}.cpp",
            *(ROOT / "tests" / f"test_{stem}.py" for stem in TESTS_OF.get(family, [family])),
            ROOT / "bench" / f"bench_{family}.py",
        ):
            assert place.is_file(), f"{place.relative_to(ROOT)} is missing"


def test_the_installed_package_is_the_one_in_this_repository() -> None:
    # A stale installation would make every other result meaningless.
    installed = Path(expunge.__file__).parent
    for path in PYTHON_FILES:
        assert (installed / path.relative_to(SOURCES)).read_text() == path.read_text(), (
            f"{path.name} differs from what is installed: install again"
        )


@pytest.mark.parametrize(
    ("package", "module", "needed"), [("torch", "torch", "PyTorch"), ("flint", "proof", "python-flint")]
)
def test_a_missing_extra_is_named(package: str, module: str, needed: str) -> None:
    result = run_without(package, f"import expunge.{module}")
    assert result.returncode
    advice = f"pip install '.[{module}]' in a checkout of Expunge"
    assert f"ImportError: expunge.{module} needs {needed}: {advice}" in result.stderr


def test_no_error_advises_to_install_from_a_package_index() -> None:
    # Expunge is on none: `expunge._errors.how_to_install` says what works.
    for path in SOURCES.rglob("*.py"):
        assert not re.search(r"pip install ['\"]?expunge", path.read_text(encoding="utf-8")), path
