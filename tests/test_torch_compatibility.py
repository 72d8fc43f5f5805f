"""What is used of PyTorch beyond its promises is listed, there, and behaves as it is used; other versions say so."""

import ast
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import expunge.torch  # noqa: E402
from expunge.torch import GradNorms, UntestedVersionWarning, _compatibility  # noqa: E402
from expunge.torch._compatibility import PRIVATE, TESTED, look_at_version, missing  # noqa: E402

SOURCES = Path(expunge.torch.__file__).parent
FILES = [path for path in SOURCES.rglob("*.py") if path.name != "_compatibility.py"]
OWN = re.compile(r"^__.*__$")
PYTHON = {"_asdict", "_fields", "_getframe", "_make", "_replace"}


def last(name):
    return re.split(r"[.:]", name)[-1]


def private_names(path):
    """Names with a leading underscore that a file asks objects for, in code or as text given to getattr."""
    tree = ast.parse(path.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            used |= {arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            used |= {alias.name for alias in node.names}
    return {name for name in used if name.startswith("_") and not OWN.match(name)}


def defined_here():
    """Names that this package gives to its own classes, functions and attributes."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, (ast.Name, ast.Attribute)):
                found.add(getattr(node.target, "id", getattr(node.target, "attr", "")))
    return found


def test_everything_private_is_listed():
    listed = {part for name in PRIVATE for part in re.split(r"[.:]", name)}
    for path in FILES:
        unknown = private_names(path) - listed - defined_here() - PYTHON
        assert not unknown, f"{path.name} uses {sorted(unknown)} of torch: list it in _compatibility.PRIVATE"


@pytest.mark.parametrize("name", PRIVATE)
def test_what_is_listed_is_used_where_it_is_said_to_be(name):
    text = SOURCES.joinpath(*PRIVATE[name].split(".")).with_suffix(".py").read_text()
    assert last(name) in text


def test_this_version_has_all_of_it():
    lacks = missing()
    assert not lacks, f"torch {torch.__version__} lacks {lacks}"


def test_a_version_that_lacks_something_is_refused_by_name():
    names = (
        "torch._C._current_graph_task_id",
        "torch.utils.checkpoint._recomputation_hook",
        "Module:_compiled_call_impl",
    )
    code = "import torch, torch.utils.checkpoint\n"
    code += "".join(f"del {name.replace('Module:', 'torch.nn.Module.')}\n" for name in names) + "import expunge.torch"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    listed = ", ".join(f"{name} (used in expunge.torch.{PRIVATE[name]})" for name in names)
    assert f"ImportError: torch {torch.__version__} lacks {listed}: install torch >=2.13,<2.15" in done.stderr


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("2.13.0", True), ("2.13.0+cpu", True), ("2.14.1+cu130", True), ("2.12.1", False), ("2.15.0a0+git1", False),
        ("3.13.0", False), ("nightly", False),
    ],
)  # fmt: skip
def test_untested_versions_are_warned_of_once(version, tested, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(_compatibility, "_warned", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GradNorms(nn.Linear(1, 1))
        GradNorms(nn.Linear(1, 1))
        look_at_version()
    assert [w.category for w in caught] == ([] if tested else [UntestedVersionWarning])
    for warning in caught:
        assert version in str(warning.message)
        assert "check=True" in str(warning.message)
        assert warning.filename == __file__


def test_the_range_of_the_extra_is_the_tested_one():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    (first, low), (last_, high) = TESTED[0], TESTED[-1]
    assert f'torch = ["torch>={first}.{low},<{last_}.{high + 1}"]' in text


# --- how it behaves -----------------------------------------------------------------------------------


def test_nodes_are_numbered_as_they_are_made():
    x = torch.ones(1, requires_grad=True)
    numbers = [x.view_as(x).grad_fn._sequence_nr() for _ in range(3)]
    assert numbers == sorted(set(numbers))


def test_a_graph_task_has_a_number_while_backward_runs():
    found = []
    x = torch.ones(1, requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: found.append(torch._C._current_graph_task_id()))
    y.backward()
    assert torch._C._current_graph_task_id() == -1
    assert found[0] != -1


def test_recomputation_is_told_by_its_hooks():
    seen = []

    class Layer(nn.Module):
        def forward(self, x):
            hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
            seen.append("" if hooks is None else hooks[0].__qualname__)
            return x.sin()

    checkpoint(Layer(), torch.ones(1, requires_grad=True), use_reentrant=False).backward()
    assert "_recomputation_hook" not in seen[0]
    assert "_recomputation_hook" in seen[1]


def test_steps_in_place_give_an_alias_another_node():
    p = nn.Parameter(torch.ones(1))
    alias = torch.ops.aten.alias.default(p)
    node, version = alias.grad_fn, alias._version
    with torch.no_grad():
        p.add_(1.0)
    assert alias._version != version
    assert alias.grad_fn is not node


def test_overrides_are_off_where_they_are_disabled():
    calls = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(1)
    with Mode():
        with torch._C.DisableTorchFunction():
            x.sin()
        assert not calls
        x.sin()
    assert calls == [torch.Tensor.sin]
