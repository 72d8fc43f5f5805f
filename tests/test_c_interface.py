"""The C interface: the header describes the table, every function gives what Python gives, and C code can call it."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import math
import os
import shlex
import shutil
import subprocess
import sysconfig
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import c_calls
import expunge
import oracles
from c_calls import CONSTANTS, HEADER, STRUCTURES, RefusedError, call, table
from expunge import grad_norms

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "c_interface" / "norms_in_c.c"
DTYPES = ("float32", "float64")
MODES = ("zeros", "circular", "reflect", "replicate")


def plain(array: NDArray[Any]) -> NDArray[Any]:
    return array


def reversed_axes(array: NDArray[Any]) -> NDArray[Any]:
    return np.asfortranarray(array)


def every_second(array: NDArray[Any]) -> NDArray[Any]:
    """Return the same values in every second place of every axis, the first axis backwards: strides of both signs."""
    room = np.zeros(tuple(2 * n for n in array.shape), dtype=array.dtype)
    view = room[(slice(None, None, -2), *(slice(None, None, 2),) * (array.ndim - 1))]
    view[...] = array
    return view


LAYOUTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "plain": plain,
    "reversed axes": reversed_axes,
    "every second": every_second,
}


def dtype_number(dtype: str) -> int:
    return CONSTANTS[dtype.upper()]


def normal(rng: np.random.Generator, dtype: str, *shape: int) -> NDArray[Any]:
    return rng.standard_normal(shape).astype(dtype)


# Each case gives a call of the table, its result in Python, and arrays that may have any strides.
Case = Callable[[np.random.Generator, str], tuple[str, dict[str, NDArray[Any]], dict[str, Any], tuple[int, ...], Any]]
CASES: dict[str, Case] = {}


def case(label: str) -> Callable[[Case], Case]:
    return lambda build: CASES.setdefault(label, build)


def _linear(positions: int, d_in: int, d_out: int) -> Case:
    def build(rng: np.random.Generator, dtype: str) -> Any:
        n = 300 if positions == 1 else 19
        a, g = normal(rng, dtype, n, positions, d_in), normal(rng, dtype, n, positions, d_out)
        sizes = {"examples": n, "positions": positions, "d_in": d_in, "d_out": d_out, "bias": 1}
        return (
            "linear_grad_norms", {"activations": a, "output_grads": g}, sizes, (n,), grad_norms.linear_grad_norms(a, g)
        )  # fmt: skip

    return build


case("linear, one position")(_linear(1, 300, 200))
case("linear, product")(_linear(40, 9, 7))
case("linear, Gram")(_linear(3, 40, 50))


@case("linear dots")
def _linear_dots(rng: np.random.Generator, dtype: str) -> Any:
    arrays = {
        "activations_1": normal(rng, dtype, 11, 5, 19),
        "output_grads_1": normal(rng, dtype, 11, 5, 8),
        "activations_2": normal(rng, dtype, 11, 3, 19),
        "output_grads_2": normal(rng, dtype, 11, 3, 8),
    }
    sizes = {"examples": 11, "positions_1": 5, "positions_2": 3, "d_in": 19, "d_out": 8}
    return "linear_grad_dots", arrays, sizes, (11,), grad_norms.linear_grad_dots(*arrays.values())


def _conv(axes: int, mode: str) -> Case:
    def build(rng: np.random.Generator, dtype: str) -> Any:
        lengths, kernel, stride, padding, dilation = (7, 6, 5)[:axes], (3, 2, 2)[:axes], (1, 2, 1), (2, 1, 1), (2, 1, 1)
        settings = {"stride": stride[:axes], "padding": padding[:axes], "dilation": dilation[:axes]}
        x = normal(rng, dtype, 9, 4, *lengths)
        spread = zip(lengths, padding, dilation, kernel, stride, strict=False)
        outputs = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in spread)
        g = normal(rng, dtype, 9, 6, *outputs)
        given = {"length": lengths, "output_length": outputs, "kernel_size": kernel, "stride": settings["stride"]}
        given |= {"dilation": settings["dilation"], "padding_before": settings["padding"]}
        given |= {"padding_after": settings["padding"], "padding_mode": CONSTANTS[f"PAD_{mode.upper()}"], "axes": axes}
        given |= {"examples": 9, "channels": 4, "out_channels": 6, "groups": 2, "bias": 1, "squared": 1}
        expected = grad_norms.conv_grad_norms(
            x, g, kernel_size=kernel, padding_mode=mode, groups=2, squared=True, **settings
        )
        return "conv_grad_norms", {"activations": x, "output_grads": g}, given, (9,), expected

    return build


for _mode in MODES:
    for _axes in (1, 2, 3):
        case(f"convolution, {_axes} axes, {_mode}")(_conv(_axes, _mode))


@case("embedding")
def _embedding(rng: np.random.Generator, dtype: str) -> Any:
    tokens, g = rng.integers(0, 5, size=(23, 12)), normal(rng, dtype, 23, 12, 9)
    sizes = {"examples": 23, "n_tokens": 12, "width": 9, "padding_token": 3}
    expected = grad_norms.embedding_grad_norms(tokens, g, padding_idx=3)
    return "embedding_grad_norms", {"tokens": tokens, "output_grads": g}, sizes, (23,), expected


@case("embedding and head")
def _embedding_dots(rng: np.random.Generator, dtype: str) -> Any:
    arrays = {
        "tokens": rng.integers(0, 6, size=(10, 7)),
        "embedding_grads": normal(rng, dtype, 10, 7, 5),
        "row_factors": normal(rng, dtype, 10, 4, 6),
        "column_factors": normal(rng, dtype, 10, 4, 5),
    }
    sizes = {"examples": 10, "n_tokens": 7, "positions": 4, "rows": 6, "width": 5, "padding_token": -1}
    expected = grad_norms.embedding_linear_grad_dots(*arrays.values())
    return "embedding_linear_grad_dots", arrays, sizes, (10,), expected


def _norm_layer(kind: str) -> Case:
    def build(rng: np.random.Generator, dtype: str) -> Any:
        shape = (13, 6, 10) if kind == "group" else (13, 10, 6)
        x, g = normal(rng, dtype, *shape), normal(rng, dtype, *shape)
        groups = {"num_groups": 3} if kind == "group" else {}
        sizes = {"examples": 13, "positions": 10, "width": 6, "eps": 1e-5, "weight": 1, "bias": int(kind != "rms")}
        sizes |= {"kind": CONSTANTS[f"{kind.upper()}_NORM"], **groups}
        expected = grad_norms.norm_layer_grad_norms(x, g, kind=kind, **groups)
        return "norm_layer_grad_norms", {"activations": x, "output_grads": g}, sizes, (13,), expected

    return build


for _kind in ("layer", "rms", "group"):
    case(f"{_kind} norm")(_norm_layer(_kind))


def _probe(loss: str, weighted: bool) -> Case:
    def build(rng: np.random.Generator, dtype: str) -> Any:
        n, classes, checkpoints = 150, 1 if loss == "logistic" else 4, 3
        x, stack = normal(rng, dtype, n, 40), normal(rng, dtype, checkpoints, 40, classes) / 8
        y = normal(rng, dtype, n, classes) if loss == "squared" else rng.integers(0, max(classes, 2), size=n)
        weights = np.array([0.5, 1.0, 2.0]) if weighted else None
        sizes: dict[str, Any] = {"examples": n, "d": 40, "classes": classes, "checkpoints": checkpoints, "alpha": 0.5}
        sizes |= {"loss": CONSTANTS[loss.upper()], "squared": int(weighted)}
        sizes |= {"checkpoint_weights": weights} if weighted else {}
        expected = grad_norms.probe_grad_norms(
            x, stack, y, loss=loss, alpha=0.5, checkpoint_weights=weights, squared=weighted
        )
        return "probe_grad_norms", {"x": x, "weights": stack, "y": y}, sizes, expected.shape, expected

    return build


for _loss in ("softmax", "logistic", "squared"):
    for _weighted in (False, True):
        case(f"probe, {_loss}{', weighted' if _weighted else ''}")(_probe(_loss, _weighted))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label", CASES)
def test_every_function_gives_the_bits_that_python_gives(label: str, dtype: str, layout: str) -> None:
    name, arrays, settings, shape, expected = CASES[label](np.random.default_rng(0), dtype)
    given = {key: LAYOUTS[layout](array) for key, array in arrays.items()}
    for threads in (1, 2):
        found = call(name, shape, dtype=dtype_number(dtype), threads=threads, **given, **settings)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("label", [*{label.split(",")[0]: label for label in CASES}.values(), "probe, softmax"])
def test_copies_are_made_block_by_block(label: str) -> None:
    # Several times the room that a thread holds: results of later blocks have their own places.
    name, arrays, settings, shape, expected = CASES[label](np.random.default_rng(1), "float64")
    again = 3 * 2**20 // min(array.nbytes for key, array in arrays.items() if key not in ("weights", "tokens", "y")) + 1
    given = {
        key: array if key == "weights" else reversed_axes(np.concatenate([array] * again))
        for key, array in arrays.items()
    }
    settings = settings | {"examples": again * shape[0], "dtype": CONSTANTS["FLOAT64"]}
    found = call(name, (again * shape[0], *shape[1:]), threads=2, **given, **settings)
    np.testing.assert_array_equal(found, np.concatenate([expected] * again))


@pytest.mark.parametrize("label", ["linear, product", "convolution, 2 axes, circular", "group norm", "layer norm"])
def test_norms_of_the_bias_come_apart_and_squares_add_up(label: str) -> None:
    name, arrays, settings, shape, _ = CASES[label](np.random.default_rng(2), "float64")
    given = {**arrays, **settings, "dtype": CONSTANTS["FLOAT64"], "squared": 1}
    both = call(name, shape, **given)
    weight, bias = call(name, shape, apart=True, **given)
    assert (bias > 0).all()
    np.testing.assert_allclose(weight + bias, both, rtol=1e-13)


def test_norms_are_those_of_the_stored_gradients() -> None:
    name, arrays, settings, shape, _ = CASES["linear, Gram"](np.random.default_rng(3), "float64")
    found = call(name, shape, dtype=CONSTANTS["FLOAT64"], **arrays, **settings)
    expected = oracles.linear_grad_norms(arrays["activations"], arrays["output_grads"], bias=True)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", STRUCTURES)
def test_no_examples_are_no_work_and_need_no_memory(name: str) -> None:
    label = next(label for label in CASES if CASES[label](np.random.default_rng(0), "float64")[0] == name)
    _, arrays, settings, _, _ = CASES[label](np.random.default_rng(0), "float64")
    nothing = dict.fromkeys(arrays) | ({"weights": arrays["weights"]} if "weights" in arrays else {})
    assert call(name, (0,), dtype=CONSTANTS["FLOAT64"], **nothing, **settings | {"examples": 0}).shape == (0,)


# Case -> arguments that are wrong, and what the message must say.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("linear, Gram", {"size": 8}, r"size must be sizeof of the structure, \d+, got 8"),
    ("linear, Gram", {"dtype": 0}, "dtype must be EXPUNGE_FLOAT32 or EXPUNGE_FLOAT64, got 0"),
    ("linear, Gram", {"threads": -1}, "threads must be from 0 .* got -1"),
    ("linear, Gram", {"examples": -1}, "examples must be at least 0, got -1"),
    ("linear, Gram", {"d_in": 2**60}, "d_in must be at least 0, got 1152921504606846976"),
    ("linear, Gram", {"examples": 2**40, "d_in": 2**40}, "activations must have fewer than"),
    ("linear, Gram", {"examples": 0, "positions": 2**40, "d_in": 2**40}, "activations must have fewer than"),
    ("linear, Gram", {"activations": None}, "activations must be given, got NULL"),
    ("linear, Gram", {"bias": 2}, "bias must be 0 or 1, got 2"),
    ("linear, Gram", {"squared": -1}, "squared must be 0 or 1, got -1"),
    ("linear, Gram", {"out": None}, "out must be given, got NULL"),
    ("linear, Gram", {"output_grads": c_calls.Array(4097, None)}, "output_grads must be aligned"),
    ("linear, Gram", {"out": 4097}, "out must be aligned"),
    ("linear, Gram", {"bias_out": 4097}, "bias_out must be aligned"),
    ("probe, squared", {"checkpoint_weights": 4097}, "checkpoint_weights must be aligned"),
    ("linear dots", {"output_grads_2": None}, "output_grads_2 must be given"),
    ("convolution, 2 axes, zeros", {"axes": 4}, "axes must be 1, 2 or 3, got 4"),
    ("convolution, 2 axes, zeros", {"padding_mode": 0}, "padding_mode must be one of EXPUNGE_PAD_.*, got 0"),
    ("convolution, 2 axes, zeros", {"groups": 0}, "groups must be a divisor"),
    ("convolution, 2 axes, zeros", {"groups": 4}, "groups must be a divisor"),
    ("convolution, 2 axes, zeros", {"stride": (1, 0)}, "stride must be at least 1, got 0"),
    ("convolution, 2 axes, zeros", {"dilation": (0, 1)}, "dilation must be at least 1, got 0"),
    ("convolution, 2 axes, zeros", {"kernel_size": (3, 9)}, "kernel_size must be at most the padded length"),
    ("convolution, 2 axes, zeros", {"output_length": (7, 5)}, r"output_length must be 4 along axis 1, got 5"),
    ("convolution, 2 axes, zeros", {"length": (2**31, 6)}, "length must be below"),
    ("convolution, 2 axes, circular", {"length": (1, 6), "output_length": (1, 4)}, "padding must be at most the len"),
    ("convolution, 2 axes, reflect", {"length": (2, 6), "output_length": (2, 4)}, "padding must be below the length"),
    ("embedding", {"tokens": np.full((23, 12), -1)}, "tokens must be within .*, got -1"),
    ("embedding", {"padding_token": -2}, "padding_token must be a token, or -1 for none, got -2"),
    ("embedding and head", {"rows": 5}, r"tokens must be within \[0, 5\), got 5"),
    ("embedding", {"reserved": 1}, "reserved must be 0, got 1"),
    ("layer norm", {"reserved": 1}, "reserved must be 0, got 1"),
    ("layer norm", {"kind": 0}, "kind must be one of .* got 0"),
    ("layer norm", {"eps": math.nan}, "eps must be finite and at least 0, got nan"),
    ("layer norm", {"eps": math.inf}, "eps must be finite and at least 0, got inf"),
    ("group norm", {"eps": -1e-9}, "eps must be finite and at least 0, got -"),
    ("group norm", {"num_groups": 4}, "num_groups must be a divisor of width, got 4"),
    ("probe, softmax", {"loss": 4}, "loss must be one of .* got 4"),
    ("probe, softmax", {"classes": 1}, "classes must be at least 2 for EXPUNGE_SOFTMAX, got 1"),
    ("probe, softmax", {"y": np.full(150, 4)}, r"y must be within \[0, 4\), got 4"),
    ("probe, logistic", {"classes": 2}, "classes must be 1 for EXPUNGE_LOGISTIC, got 2"),
    ("probe, squared", {"alpha": -1.0}, "alpha must be finite and at least 0"),
    ("probe, squared", {"alpha": math.inf}, "alpha must be finite and at least 0, got inf"),
]


@pytest.mark.parametrize(("label", "wrong", "text"), WRONG, ids=[f"{label}, {next(iter(w))}" for label, w, _ in WRONG])
def test_what_is_wrong_is_refused_by_name_and_nothing_is_written(label: str, wrong: dict[str, Any], text: str) -> None:
    name, arrays, settings, shape, _ = CASES[label](np.random.default_rng(0), "float64")
    with pytest.raises(RefusedError, match=text):
        call(name, shape, **{"dtype": CONSTANTS["FLOAT64"], **arrays, **settings, **wrong})


def test_norms_of_a_bias_that_does_not_count_are_refused() -> None:
    name, arrays, settings, shape, _ = CASES["linear, Gram"](np.random.default_rng(0), "float64")
    with pytest.raises(RefusedError, match="bias_out must be NULL unless bias is 1"):
        call(name, shape, apart=True, dtype=CONSTANTS["FLOAT64"], **arrays, **settings | {"bias": 0})


def test_no_structure_is_refused() -> None:
    for name in STRUCTURES:
        assert getattr(table(), name)(None) == CONSTANTS["INVALID_ARGUMENT"]


def test_header_and_table_are_of_one_version() -> None:
    found = table()
    assert found.version == CONSTANTS["API_VERSION"]
    assert found.size == ctypes.sizeof(c_calls.Table)


# --- what a compiler makes of the header ----------------------------------------------------------------


def layout(structures: dict[str, Any]) -> list[str]:
    """Return where the members of the structures lie, one a line."""
    lines = [f"{name} {ctypes.sizeof(kind)}" for name, kind in structures.items()]
    for name, kind in structures.items():
        lines += [f"{name}.{member} {getattr(kind, member).offset}" for member, _ in kind._fields_]
    return lines


ALL = {**STRUCTURES, "array": c_calls.Array, "api": c_calls.Table}


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the layout written down is that of 64-bit machines")
def test_the_layout_of_a_version_never_changes() -> None:
    digest = hashlib.sha256("\n".join(layout({**STRUCTURES, "array": c_calls.Array})).encode()).hexdigest()[:16]
    needed = "a changed layout needs another EXPUNGE_API_VERSION"
    assert (CONSTANTS["API_VERSION"], digest) == (1, "b27a58e01b1ac39f"), needed
    first = ["version", "size", "last_error", "default_threads", "linear_grad_norms", "linear_grad_dots"]
    first += ["conv_grad_norms", "embedding_grad_norms", "embedding_linear_grad_dots", "norm_layer_grad_norms"]
    assert [name for name, _ in c_calls.Table._fields_][:11] == [*first, "probe_grad_norms"], needed


def compiler(variable: str, *names: str) -> list[str]:
    """Return the words of a compiler's command, or skip the test."""
    said = shlex.split(sysconfig.get_config_var(variable) or "")[:1]
    for name in (*names, *said):
        if shutil.which(name):
            return [name]
    pytest.skip(f"no compiler: none of {', '.join((*names, *said))} is installed")


def run(*words: str | Path) -> str:
    own = {
        name: value for name, value in os.environ.items() if name != "LD_PRELOAD"
    }  # sanitizers are not for compilers
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, env=own)
    assert done.returncode == 0, done.stderr
    return done.stdout


def include_flags(folder: str | Path) -> list[str]:
    python = sysconfig.get_paths()["include"]
    if not (Path(python) / "Python.h").is_file():
        pytest.skip(f"no Python.h in {python}: install Python's development files")
    return ["-I", python, "-I", str(folder)]


def build_example(target: Path, folder: str | Path) -> types.ModuleType:
    """Compile the example with the header in a folder, and import it."""
    cc = compiler("CC", "cc", "gcc", "clang")
    shared = ["-shared"] if not shutil.which("sw_vers") else ["-bundle", "-undefined", "dynamic_lookup"]
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-fPIC", *shared]
    library = target / f"norms_in_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    run(*cc, *flags, *include_flags(folder), "-o", library, EXAMPLE)
    spec = importlib.util.spec_from_file_location("norms_in_c", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> types.ModuleType:
    return build_example(tmp_path_factory.mktemp("example"), expunge.get_include())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arrange", LAYOUTS.values(), ids=LAYOUTS)
def test_an_extension_in_c_gives_the_norms_of_the_stored_gradients(
    example: types.ModuleType, dtype: str, arrange: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    rng = np.random.default_rng(4)
    a, g = normal(rng, dtype, 17, 6, 5), normal(rng, dtype, 17, 6, 4)
    found = example.linear(arrange(a), arrange(g), 0)
    expected = oracles.linear_grad_norms(a, g, bias=True)
    np.testing.assert_allclose(found, expected, rtol=1e-13 if dtype == "float64" else 1e-5)
    assert found == example.linear(a, g, 1)


def test_an_extension_passes_the_message_on(example: types.ModuleType) -> None:
    with pytest.raises(ValueError, match=r"threads must be from 0 \(every core\) to 4096, got -3"):
        example.linear(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), -3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#define EXPUNGE_API_VERSION 1", "#define EXPUNGE_API_VERSION 2"),
        ("} expunge_api;", "  int (*later)(void);\n} expunge_api;"),
    ],
    ids=["another version", "a longer table"],
)
def test_an_extension_compiled_for_other_kernels_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = HEADER.read_text()
    assert text.count(old) == 1
    (tmp_path / "expunge.h").write_text(text.replace(old, new))
    with pytest.raises(ImportError, match=r"compiled for version \d .* compile again with the header"):
        build_example(tmp_path, tmp_path)


@pytest.mark.parametrize("python", [False, True], ids=["alone", "with Python.h"])
@pytest.mark.parametrize("language", ["c99", "c++17"])
def test_the_header_compiles_without_a_warning(language: str, python: bool, tmp_path: Path) -> None:
    name = compiler("CC", "cc", "gcc", "clang") if language == "c99" else compiler("CXX", "c++", "g++", "clang++")
    source = tmp_path / ("use.c" if language == "c99" else "use.cpp")
    source.write_text(("#include <Python.h>\n" if python else "") + '#include "expunge.h"\nint unused;\n')
    flags = [f"-std={language}", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    flags += [] if python else ["-pedantic"]  # Python's own headers are not
    run(*name, *flags, *include_flags(expunge.get_include()), source)


def test_a_compiler_lays_the_structures_out_as_the_table_expects(tmp_path: Path) -> None:
    lines = [f'printf("{name} %zu\\n", sizeof(expunge_{name}));' for name in ALL]
    for name, kind in ALL.items():
        lines += [f'printf("{name}.{m} %zu\\n", offsetof(expunge_{name}, {m}));' for m, _ in kind._fields_]
    source = tmp_path / "layout.c"
    body = "\n".join(lines)
    source.write_text(f'#include <stdio.h>\n#include "expunge.h"\nint main(void) {{\n{body}\nreturn 0;\n}}\n')
    run(*compiler("CC", "cc", "gcc", "clang"), "-I", expunge.get_include(), "-o", tmp_path / "layout", source)
    assert run(tmp_path / "layout").splitlines() == layout(ALL)
