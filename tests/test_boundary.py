"""Every kernel at the boundary: what it refuses, by name, and what it must not let through."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import compiled
from kernel_calls import CALLS, KernelCall, call, kernel_names, kernels_in_table

pytestmark = pytest.mark.usefixtures("target")

KERNELS = sorted(CALLS)
ARRAYS = [(label, name) for label in KERNELS for name in call(label).arrays()]
WRONG_DTYPES = [
    (label, name, wrong)
    for label, name in ARRAYS
    for wrong in ("float32", "float64", "int64", "int32", "complex128", "bool", "swapped", "object")
    if wrong != call(label).arguments[name].dtype.name
    and not (name in call(label).either_float and wrong.startswith("float"))
]
SECOND_ORDER = [
    (label, name) for label, name in ARRAYS if not np.asfortranarray(call(label).arguments[name]).flags.c_contiguous
]
WITH_GAPS = [(label, name) for label, name in ARRAYS if call(label).arguments[name].size > 1]
OUTPUTS = [(label, name) for label in KERNELS for name in call(label).outputs]
FLOAT_INPUTS = [
    (label, name)
    for label in KERNELS
    for name, value in call(label).arrays().items()
    if value.dtype.kind == "f" and (name not in call(label).outputs or name in call(label).read_outputs)
]


def run_refused(error: type[Exception], case: KernelCall, *names: str) -> None:
    """Run, expect the error, and that it names the argument; outputs stay as they were."""
    before = {name: value.copy() for name, value in case.arrays().items()}
    with pytest.raises(error) as caught:
        case.run()
    words = set(re.findall(r"\w+", str(caught.value)))
    assert words & set(names), f"{caught.value} names none of {names}"
    for name, value in case.arrays().items():
        assert value.tobytes() == before[name].tobytes(), f"{name} was written although the call was refused"


def shifted_in_memory(array: NDArray[Any], offset_bytes: int) -> NDArray[Any]:
    """Return a copy of the array that starts ``offset_bytes`` past a 64-byte boundary."""
    buffer = np.zeros(array.nbytes + 128 + offset_bytes, dtype=np.uint8)
    start = -buffer.ctypes.data % 64 + offset_bytes
    place = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    place[...] = array
    return place


def same_bits(left: dict[str, NDArray[Any]], right: dict[str, NDArray[Any]]) -> bool:
    return all(left[name].tobytes() == right[name].tobytes() for name in left)


def names_to_expect(case: KernelCall, name: str) -> tuple[str, ...]:
    return tuple(case.arguments) if case.one_chooses_for_all else (name,)


@pytest.mark.cpu_only
def test_every_kernel_is_in_the_table() -> None:
    assert kernel_names() == kernels_in_table()


@pytest.mark.parametrize("wrong", ["ridge", "Softmax", ""])
@pytest.mark.parametrize("kernel", [label for label in KERNELS if "loss" in call(label).arguments])
def test_a_loss_has_one_name_in_every_family(kernel: str, wrong: str) -> None:
    case = call(kernel)
    assert case.arguments["loss"] in ("softmax", "logistic", "squared")
    case.arguments["loss"] = wrong
    run_refused(ValueError, case, "loss")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_valid_call_writes_every_output_and_no_input(kernel: str) -> None:
    case = call(kernel)
    for name in set(case.outputs) - set(case.read_outputs):
        case.arguments[name].reshape(-1).view(np.uint8)[...] = 0xA5
    untouched = {name: case.arguments[name].copy() for name in case.outputs}
    before = {name: value.copy() for name, value in case.inputs().items()}
    outputs = case.run()
    for name, value in outputs.items():
        assert value.tobytes() != untouched[name].tobytes(), f"{name} was not written"
    for name, value in case.inputs().items():
        assert value.tobytes() == before[name].tobytes(), f"{name} was written"


@pytest.mark.parametrize(("kernel", "name", "dtype"), WRONG_DTYPES)
def test_a_wrong_dtype_is_refused(kernel: str, name: str, dtype: str) -> None:
    case = call(kernel)
    value = case.arguments[name]
    wrong = value.dtype.newbyteorder() if dtype == "swapped" else np.dtype(dtype)
    run_refused(TypeError, case.replaced(**{name: value.astype(wrong)}), *names_to_expect(case, name))


@pytest.mark.parametrize(("kernel", "name"), ARRAYS)
def test_what_is_not_an_array_is_refused(kernel: str, name: str) -> None:
    case = call(kernel)
    for wrong in [1.5, [1.0, 2.0], "text", *([] if name in case.optional else [None])]:
        with pytest.raises(TypeError):
            case.replaced(**{name: wrong}).run()


@pytest.mark.parametrize(("kernel", "name"), ARRAYS)
def test_a_wrong_rank_is_refused(kernel: str, name: str) -> None:
    case = call(kernel)
    value = case.arguments[name]
    names = names_to_expect(case, name)
    run_refused(ValueError, case.replaced(**{name: value[None]}), *names)
    if name not in case.one_rank_less:
        run_refused(ValueError, case.replaced(**{name: np.asarray(value[0])}), *names)


@pytest.mark.parametrize(("kernel", "name"), SECOND_ORDER)
def test_fortran_order_is_refused(kernel: str, name: str) -> None:
    case = call(kernel)
    value = np.asfortranarray(case.arguments[name])
    run_refused(ValueError, case.replaced(**{name: value}), name)


@pytest.mark.parametrize(("kernel", "name"), WITH_GAPS)
def test_gaps_and_reversals_are_refused(kernel: str, name: str) -> None:
    case = call(kernel)
    value = case.arguments[name]
    axis = max(i for i in range(value.ndim) if value.shape[i] > 1)
    gaps = np.moveaxis(np.moveaxis(np.repeat(value, 2, axis=axis), axis, 0)[::2], 0, axis)
    backwards = np.flip(np.ascontiguousarray(np.flip(value, axis)), axis)
    for view in (gaps, backwards):
        assert view.shape == value.shape
        assert not view.flags.c_contiguous
        run_refused(ValueError, case.replaced(**{name: view}), name)
    if value.shape[0] > 1:
        run_refused(ValueError, case.replaced(**{name: np.broadcast_to(value[:1], value.shape)}), name)


@pytest.mark.parametrize(("kernel", "name"), ARRAYS)
def test_memory_off_its_alignment_is_refused(kernel: str, name: str) -> None:
    case = call(kernel)
    value = case.arguments[name]
    run_refused(ValueError, case.replaced(**{name: shifted_in_memory(value, 1)}), name)


@pytest.mark.parametrize(("kernel", "name"), OUTPUTS)
def test_a_read_only_output_is_refused(kernel: str, name: str) -> None:
    case = call(kernel)
    value = case.arguments[name].copy()
    value.flags.writeable = False
    run_refused(ValueError, case.replaced(**{name: value}), name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_read_only_inputs_are_fine(kernel: str) -> None:
    expected = call(kernel).run()
    case = call(kernel)
    for value in case.inputs().values():
        value.flags.writeable = False
    assert same_bits(case.run(), expected)


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize(("kernel", "name"), ARRAYS)
def test_lengths_that_disagree_are_refused(kernel: str, name: str, change: int) -> None:
    case = call(kernel)
    value = case.arguments[name]
    for axis in range(value.ndim):
        if (name, axis) in case.free:
            continue
        shape = [length + change * (i == axis) for i, length in enumerate(value.shape)]
        if min(shape) < 0:
            continue
        wrong = np.resize(value, shape)
        run_refused(ValueError, case.replaced(**{name: wrong}), *case.arguments)


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_items_is_no_work(kernel: str) -> None:
    case = call(kernel, n=0)
    for threads in (0, 1, 4):
        case.run(threads=threads)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_item_is_as_good_as_many(kernel: str) -> None:
    call(kernel, n=1).run(threads=3)


@pytest.mark.parametrize(("kernel", "name"), FLOAT_INPUTS)
def test_nan_never_looks_private(kernel: str, name: str) -> None:
    case = call(kernel)
    outputs = case.replaced(**{name: np.full_like(case.arguments[name], np.nan)}).run()
    assert case.nan_is_refused(outputs), f"NaN in {name} came out as {outputs}"


@pytest.mark.cpu_only
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [1, 37, 200])
def test_the_bits_do_not_depend_on_the_thread_count(kernel: str, n: int) -> None:
    expected = call(kernel, n=n).run(threads=1)
    for threads in (2, 3, 7, 0):
        assert same_bits(call(kernel, n=n).run(threads=threads), expected), f"threads={threads}"


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_bits_do_not_depend_on_where_arrays_lie(kernel: str) -> None:
    expected = call(kernel).run()
    case = call(kernel)
    moved = case.replaced(
        **{name: shifted_in_memory(value, value.dtype.itemsize) for name, value in case.arrays().items()}
    )
    assert same_bits(moved.run(), expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_written_past_an_output(kernel: str) -> None:
    case = call(kernel)
    guarded = {}
    for name in case.outputs:
        value = case.arguments[name]
        buffer = np.full(value.nbytes + 256, 0x5A, dtype=np.uint8)
        start = 128 + (-buffer.ctypes.data) % 8
        guarded[name] = (buffer, start, value.nbytes)
        case.arguments[name] = buffer[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
        case.arguments[name][...] = value
    case.run(threads=3)
    for name, (buffer, start, size) in guarded.items():
        assert (buffer[:start] == 0x5A).all(), f"written before {name}"
        assert (buffer[start + size :] == 0x5A).all(), f"written past {name}"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_wrong_number_of_arguments_is_refused(kernel: str, target: Any) -> None:
    function = getattr(target.module, call(kernel).kernel)
    with pytest.raises(TypeError):
        function()
    with pytest.raises(TypeError):
        function(*call(kernel).arguments.values(), 1, 1, 1)


# --- scalars -----------------------------------------------------------------------------------


class RaisesAsInteger:
    """An object that claims to be an integer and is none."""

    def __index__(self) -> int:
        raise RuntimeError("no integer after all")


def one_label(kernel: str) -> str:
    return next(label for label in KERNELS if label.split(":")[0] == kernel)


# One call of every kernel: its scalars by name.
SCALARS = [
    (label, name, value)
    for label in map(one_label, sorted(kernels_in_table()))
    for name, value in call(label).arguments.items()
    if not (isinstance(value, np.ndarray) or value is None)
]
NO_NUMBER = (None, "1", b"1", 1j, np.complex64(1), np.str_("1"), np.array("1"), [1], (), object(), RaisesAsInteger())
SEVERAL = (np.array([1]), np.array([1, 2]), np.array([[1.0]]), np.zeros(0), np.array([True, False]))
TRUTHS = (True, np.bool_(True), np.array(True))
WRONG_KINDS: dict[type, tuple[object, ...]] = {
    int: (*NO_NUMBER, *SEVERAL, *TRUTHS, 1.0, 1.5, float("nan"), np.float64(1), np.float32(1.5), np.array(1.0)),
    float: (*NO_NUMBER, *SEVERAL, *TRUTHS, np.longdouble(1), np.datetime64(1, "s")),
    bool: (*NO_NUMBER, *SEVERAL, 0, 1, 1.0, np.int64(1), np.array(1), np.float32(0)),
    str: (None, 1, b"ridge", ["ridge"], np.array("ridge")),
}
UNSIGNED = {"seed", "chain", "step", "first_chain", "first_step"}
SIZES = {"n_steps", "rank", "groups", "n_groups", "kind", "loss"}


@pytest.mark.parametrize(("kernel", "name"), [(label, name) for label, name, _ in SCALARS])
def test_a_scalar_of_another_kind_is_refused(kernel: str, name: str) -> None:
    case = call(kernel)
    for wrong in WRONG_KINDS.get(type(case.arguments[name]), (None, 1.0, {}, object())):
        run_refused(TypeError, case.replaced(**{name: wrong}), name)


@pytest.mark.parametrize(("kernel", "name"), [(label, name) for label, name, v in SCALARS if type(v) is int])
def test_an_integer_out_of_range_is_refused(kernel: str, name: str) -> None:
    case = call(kernel)
    wrong = [2**64, -(2**63) - 1, 10**5000, -(10**5000)]
    wrong += [-1] * (name in UNSIGNED | SIZES) + [np.int64(-2)] * (name != "early") + [2**32] * ("step" in name)
    for value in wrong:
        if (kernel.split(":")[0], name) == ("norm_layer_grad_norms", "n_groups") and -(2**63) <= value < 2**63:
            continue  # counts where it means something: a layer's test
        if name == "n_steps" and value == 2**32:
            continue  # steps that were taken, not a counter of 32 bits
        run_refused(ValueError, case.replaced(**{name: value}), name)


@pytest.mark.parametrize(("kernel", "name"), [(label, name) for label, name, v in SCALARS if type(v) is float])
def test_an_integer_beyond_float64_is_refused(kernel: str, name: str) -> None:
    run_refused(ValueError, call(kernel).replaced(**{name: 10**400}), name)


@pytest.mark.parametrize(("kernel", "name"), [(label, name) for label, name, v in SCALARS if type(v) is str])
def test_text_that_names_nothing_is_refused(kernel: str, name: str) -> None:
    for wrong in ("", "Ridge", "ridge\0", "\ud800"):
        run_refused(ValueError, call(kernel).replaced(**{name: wrong}), name)


@pytest.mark.parametrize(
    ("kernel", "name"), [(label, name) for label, name, v in SCALARS if type(v) in (bool, int, float)]
)
def test_numpys_scalars_are_those_of_python(kernel: str, name: str) -> None:
    expected = call(kernel).run()
    value = call(kernel).arguments[name]
    same = {bool: (np.bool_,), int: (np.int64,), float: (np.float64,)}[type(value)]
    equal = [kind(value) for kind in same] + [np.array(value)]
    if type(value) is int and 0 <= value < 128:
        equal += [np.int16(value), np.uint8(value)]
    if type(value) is float and value == int(value):
        equal += [int(value), np.float32(value), np.int8(value)]
    for other in equal:
        assert same_bits(call(kernel).replaced(**{name: other}).run(), expected), f"{name}={other!r}"


SETTING: dict[str, Any] = {
    "step_size": 0.1,
    "noise_std": 0.1,
    "unlearn_steps": 3.0,
    "unlearn_noise_std": 0.0,
    "solve_steps": False,
    "epsilon": 1.0,
    "log_delta": -11.5,
    "mu": 0.25,
    "tolerance": 1e-9,
}


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", SETTING)
def test_a_ridge_setting_of_another_kind_is_refused(name: str, target: Any) -> None:
    target.module.RidgeSetting(**SETTING)
    for wrong in WRONG_KINDS[type(SETTING[name])]:
        with pytest.raises(TypeError, match=f"^{name} must be "):
            target.module.RidgeSetting(**SETTING | {name: wrong})


@pytest.mark.parametrize("kernel", [one_label(kernel) for kernel in sorted(kernels_in_table())])
def test_a_number_of_threads_or_a_stream_of_another_kind_is_refused(kernel: str, target: Any) -> None:
    case = call(kernel)
    name = "threads" if target.name == "cpu" else "stream"
    given = {**case.arguments, **compiled.EXTRA_ARGUMENTS.get(case.kernel, lambda _: {})(case.arguments)}
    if name == "stream":
        given |= target.workspace(case.kernel, given)
    else:
        given = dict(case.arguments)
    function = getattr(target.module, case.kernel)
    for wrong in WRONG_KINDS[int]:
        with pytest.raises(TypeError, match=f"^{name} must be an integer, got "):
            function(**given, **{name: wrong})
    for value in (-1, 2**64, 10**5000):
        with pytest.raises(ValueError, match=f"^{name} must be "):
            function(**given, **{name: value})


# --- memory that is shared, lengths that are 0 or long ---------------------------------------------


SHARING = [
    (label, output, other)
    for label in map(one_label, sorted(kernels_in_table()))
    for output in call(label).outputs
    for other in call(label).arrays()
    if other not in {output, *compiled.ON_HOST}
]


@pytest.mark.parametrize(("kernel", "output", "other"), SHARING)
def test_an_output_that_shares_memory_is_refused(kernel: str, output: str, other: str, target: Any) -> None:
    if target.name == "cuda":
        pytest.skip("arrays are copied to the GPU one by one")
    case = call(kernel)
    written, beside = case.arguments[output], case.arguments[other]
    for behind in (True, False):  # the output begins at the last entry of the other, or ends at its first
        buffer = np.zeros(written.nbytes + beside.nbytes + 64, dtype=np.uint8)
        base = -buffer.ctypes.data % 64
        step = max(written.itemsize, beside.itemsize)
        last = [(value.nbytes - 1) // step * step for value in (beside, written)]
        places = (last[0], 0) if behind else (0, last[1])
        views = {}
        for name, value, place in zip((output, other), (written, beside), places, strict=True):
            views[name] = buffer[base + place : base + place + value.nbytes].view(value.dtype).reshape(value.shape)
        views[other][...] = beside
        run_refused(ValueError, case.replaced(**views), output, *set(case.outputs) & {other})
        run_refused(ValueError, case.replaced(**views), other, *set(case.outputs) & {other})


# The axes of every array by letter; those of a convolution are bound together by its geometry (test_grad_norms.py).
QUOTES = dict.fromkeys(("value", "epsilon_out", "log_delta_pq", "log_delta_qp", "error", "rank_out"), "n")
AXES: dict[str, dict[str, str]] = {
    "gdp_delta": {"mu": "n", "epsilon": "n", "out": "n"},
    "gdp_epsilon": {"mu": "n", "delta": "n", "out": "n"},
    "gdp_mu": {"epsilon": "n", "delta": "n", "out": "n"},
    "shifted_mu": {"sensitivity": "nt", "contraction": "nt", "noise_std": "nt", "out": "n"},
    "sampled_gaussian_rdp": {"order": "n", "noise_multiplier": "n", "sampling_probability": "n", "out": "n"},
    "pair_delta": {
        **{"excess": "nm", "squared_shift": "nm"},
        **dict.fromkeys(("epsilon", "delta", "error", "converged"), "n"),
    },
    "pair_epsilon": {"excess": "nm", "squared_shift": "nm", "delta": "n", "out": "n"},
    "pair_renyi": {"excess": "nm", "squared_shift": "nm", "order": "n", "out": "n"},
    "ridge_exact_quotes": {"eigenvalues": "p", "projected": "np", "residuals": "ntq", **QUOTES},
    "ridge_gaussian_pairs": {
        **{"eigenvalues": "p", "projected": "np", "residuals": "ntq", "rest": "n", "count": "n"},
        **{"excess_variance": "np", "squared_shift": "np"},
    },
    "ridge_solve_reduced": {"eigenvalues": "p", "difference": "pp", "shift": "pq", **dict.fromkeys(QUOTES, "1")},
    "ridge_shifted_quotes": {"sensitivity": "nt", "contraction": "n", "value": "n", "mu": "n"},
    "ridge_smallest_eigenvalues": {"eigenvalues": "p", "projected": "np", "out": "n"},
    "random_words": {"out": "n4"},
    "standard_normals": {"out": "n"},
    "langevin_gram": {"X": "np", "targets": "nq", "gram": "pP", "moment": "qp"},
    "langevin_row_norms": {"X": "np", "out": "n"},
    "langevin_chains": {
        **{"X": "np", "targets": "nq", "step_size": "t", "noise_std": "t", "theta0": "cpq", "record": "r"},
        **{"out": "rcpq", "row_norm": "n"},
    },
    "langevin_tail": {"theta": "cqp", "gradient": "cqp", "moment": "qp"},
    "langevin_residuals": {"linear": "cqn", "targets": "qn", "row_norm": "n"},
    "residual_pass": {
        **{"X": "np", "targets": "nq", "labels": "n", "weights": "n", "theta": "qp", "gradient": "qp", "sums": "3"},
        "residuals": "nq",
    },
    "residual_leverages": {"X": "np", "K": "nqqp", "leverages": "nqq", "squares": "nqq", "norms": "n"},
    "linear_grad_norms": {"activations": "nki", "output_grads": "nko", "out": "n"},
    "linear_grad_dots": {
        **{"activations_1": "nki", "output_grads_1": "nko", "activations_2": "nli", "output_grads_2": "nlo"},
        "out": "n",
    },
    "embedding_grad_norms": {"indices": "nk", "output_grads": "nkd", "out": "n"},
    "embedding_linear_grad_dots": {
        **{"indices": "nk", "embedding_grads": "nkd", "row_factors": "nlr", "column_factors": "nld", "out": "n"},
    },
    "norm_layer_grad_norms": {"activations": "nkw", "output_grads": "nkw", "out": "n"},
    "probe_grad_norms": {"X": "nd", "weights": "kdc", "y": "n", "checkpoint_weights": "k", "proxies": "n3"},
    "recurrent_states": {
        **{"gates": "nsg", "weight": "gw", "bias": "g", "hidden": "nw", "cells": "nw"},
        **{"before": "nsw", "outputs": "snw", "kept": "nsw"},
    },
    "recurrent_grads": {
        **{"output_grads": "nsw", "gates": "nsg", "weight": "gw", "before": "nsw", "cells": "nw", "kept": "nsw"},
        **{"gate_grads": "nsg", "state_gate_grads": "nsg", "hidden_grads": "nw", "cell_grads": "nw"},
    },
}


def resized(kernel: str, lengths: dict[str, int]) -> KernelCall:
    """Return the kernel's call with these lengths of its axes, its values repeated, outputs full of garbage."""
    case = call(kernel, n=3)
    changes: dict[str, Any] = {}
    axes = AXES[case.kernel]
    if case.kernel == "probe_grad_norms":
        summed = case.arguments["checkpoint_weights"] is not None
        axes = {**axes, "out": "n" if summed else "nk", "y": "n" if "squared" not in kernel else "nc"}
    sizes: dict[str, int] = {}
    for name, letters in axes.items():
        value = case.arguments.get(name)
        if value is not None:
            sizes |= {letter: length for letter, length in zip(letters, value.shape, strict=True) if letter != "P"}
    sizes |= {letter: length for letter, length in lengths.items() if letter in sizes}
    sizes |= {"P": (sizes.get("p", 0) + 7) // 8 * 8}
    for name, letters in axes.items():
        value = case.arguments.get(name)
        if value is None:
            continue
        shape = tuple(sizes[letter] for letter in letters)
        changes[name] = np.empty(shape, value.dtype) if 0 in shape else np.resize(value, shape)
        if name in case.outputs and name not in case.read_outputs:
            changes[name].reshape(-1).view(np.uint8)[...] = 0xA5
    if case.kernel == "ridge_gaussian_pairs":
        changes["rank"] = sizes["p"]
    return case.replaced(**changes)


def letters_of(kernel: str) -> list[str]:
    return sorted({*"".join(AXES[kernel.split(":")[0]].values())} - {*"P134"})


EMPTY = [
    (label, empty)
    for label in KERNELS
    if label.split(":")[0] in AXES
    for count in ((1, 2) if label == one_label(label.split(":")[0]) else (1,))
    for empty in itertools.combinations(letters_of(label), count)
]


def run_or_refuse(case: KernelCall) -> None:
    """Run: every output is written, or the call is refused by the name of an argument."""
    refusal = None
    try:
        outputs = case.run()
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert set(re.findall(r"\w+", refusal)) & set(case.arguments), f"{refusal} names no argument"
        return
    for name, value in outputs.items():
        if name not in case.read_outputs and value.size:
            garbage = np.full(1, 0xA5, np.uint8).repeat(value.itemsize).view(value.dtype)[0]
            untouched = value.view(np.uint8).reshape(value.size, -1) == 0xA5
            padding = (case.kernel, name) == ("langevin_gram", "gram")  # columns behind p are of no account
            assert padding or not untouched.all(axis=1).any(), f"{name} holds {garbage} still"


@pytest.mark.cpu_only
def test_axes_of_every_kernel_are_written_down() -> None:
    assert kernels_in_table() - set(AXES) == {"conv_grad_norms"}
    for kernel, axes in AXES.items():
        assert set(call(one_label(kernel)).arrays()) <= {*axes, "out"}


@pytest.mark.parametrize(("kernel", "empty"), EMPTY)
def test_axes_of_length_0_leave_no_output_unwritten(kernel: str, empty: tuple[str, ...]) -> None:
    run_or_refuse(resized(kernel, dict.fromkeys(empty, 0)))


# An axis of length 0, and one that only arrays with that axis have.
UNBACKED = [
    (label, empty[0], long)
    for label, empty in EMPTY
    for long in letters_of(label)
    if len(empty) == 1
    and long != empty[0]
    and all(empty[0] in letters for letters in AXES[label.split(":")[0]].values() if long in letters)
    and not label.startswith("probe_grad_norms")  # targets depend on the loss
    and not (label.startswith("residual_leverages") and long == "q")  # NumPy has no array of q x q
]


@pytest.mark.parametrize(("kernel", "empty", "long"), UNBACKED)
def test_long_axes_that_no_memory_stands_behind_are_refused_or_cost_nothing(kernel: str, empty: str, long: str) -> None:
    for length in (2**31, 2**40, 2**52):
        run_or_refuse(resized(kernel, {empty: 0, long: length}))
