"""Every kernel at the boundary: what it refuses, by name, and what it must not let through."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

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
