"""The kernels of recurrent layers: beside their twins, their gradients against differences, and their functions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracles
from kernel_calls import CELLS, recurrent_call, recurrent_grads_call

pytestmark = pytest.mark.usefixtures("target")

cells = st.sampled_from(list(CELLS))
dtypes = st.sampled_from(["float32", "float64"])
# Widths around those of vectors and register tiles; sequences around those of a tile.
widths = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 63, 64, 65, 70, 129]))
sequences = st.sampled_from([0, 1, 2, 5, 6, 7, 12, 15, 16, 17, 33])


def rounding(dtype, width):
    """What rounding may do, relative to the largest entry: sums of ``width`` terms, a few steps after one another."""
    return 40 * float(np.finfo(dtype).eps) * (8 + width)


def twin_of_states(arguments):
    a = arguments
    return oracles.recurrent_states(
        a["gates"], a["weight"], a["bias"], a["hidden"], a["cells"],
        cell=list(CELLS)[a["cell"]], backwards=a["backwards"],
    )  # fmt: skip


def twin_of_grads(arguments):
    a = arguments
    last = [a["hidden_grads"]] if a["cell_grads"] is None else [a["hidden_grads"], a["cell_grads"]]
    return oracles.recurrent_grads(
        a["output_grads"], a["gates"], a["weight"], a["before"], a["cells"], a["kept"], last,
        cell=list(CELLS)[a["cell"]], backwards=a["backwards"],
    )  # fmt: skip


def assert_near(found, expected, tolerance):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max(initial=0.0)))


def calls(seed, cell, shape, dtype, **settings):
    return recurrent_call(np.random.default_rng(seed), cell, shape, dtype, **settings)


shapes = st.tuples(sequences, st.integers(0, 5), widths)
settings = st.fixed_dictionaries({"bias": st.booleans(), "backwards": st.booleans()})


@given(st.integers(0, 2**32 - 1), cells, shapes, dtypes, settings, st.sampled_from([1, 2, 3]))
def test_states_are_those_of_one_sequence_and_one_step_at_a_time(seed, cell, shape, dtype, settings, threads):
    case = calls(seed, cell, shape, dtype, **settings)
    gates, before, outputs, kept = twin_of_states(case.arguments)
    found = case.run(threads=threads)
    tolerance = rounding(dtype, shape[2])
    assert_near(found["gates"], gates, tolerance)
    assert_near(found["before"], before, tolerance)
    assert_near(found["outputs"], outputs, tolerance)
    if CELLS[cell] > 1:
        assert_near(found["kept"], kept, tolerance)


@given(st.integers(0, 2**32 - 1), cells, shapes, dtypes, settings, st.sampled_from([1, 2, 3]))
def test_gradients_are_those_of_one_sequence_and_one_step_at_a_time(seed, cell, shape, dtype, settings, threads):
    states = calls(seed, cell, shape, dtype, **settings)
    states.run()
    case = recurrent_grads_call(np.random.default_rng(seed), states)
    of_input, of_state, first = twin_of_grads(case.arguments)
    found = case.run(threads=threads)
    tolerance = rounding(dtype, CELLS[cell] * shape[2])
    assert_near(found["gate_grads"], of_input, tolerance)
    if cell == "gru":
        assert_near(found["state_gate_grads"], of_state, tolerance)
    assert_near(found["hidden_grads"], first[0], tolerance)
    if cell == "lstm":
        assert_near(found["cell_grads"], first[1], tolerance)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("cell", "moved"),
    [*((c, m) for c in CELLS for m in ("gates", "bias", "hidden", "weight")), ("lstm", "cells")],
)
def test_gradients_are_the_slopes_of_a_loss(cell, backwards, moved):
    """Of a random linear loss of all outputs and of the last states, along a random direction of one input."""
    rng = np.random.default_rng(5)
    shape = (3, 4, 11)
    given_ = recurrent_call(rng, cell, shape, "float64", backwards=backwards)
    direction = rng.standard_normal(given_.arguments[moved].shape)
    made = given_.replaced()
    made.run()
    case = recurrent_grads_call(rng, made)
    of_outputs, of_hidden = case.arguments["output_grads"], case.arguments["hidden_grads"].copy()
    of_cells = case.arguments["cell_grads"].copy() if cell == "lstm" else None
    final = 0 if backwards else -1

    def loss(step):
        found = given_.replaced(**{moved: given_.arguments[moved] + step * direction}).run()
        total = np.sum(found["outputs"].transpose(1, 0, 2) * of_outputs) + np.sum(found["outputs"][final] * of_hidden)
        return total if of_cells is None else total + np.sum(found["kept"][:, final] * of_cells)

    found = case.run()
    of_state = found["state_gate_grads"] if cell == "gru" else found["gate_grads"]
    gradient = {
        "gates": found["gate_grads"],
        "bias": of_state,
        "hidden": found["hidden_grads"],
        "cells": found.get("cell_grads"),
        "weight": np.einsum("btr,btc->rc", of_state, made.arguments["before"]),
    }[moved]
    difference = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert np.sum(gradient * direction) == pytest.approx(difference, rel=1e-7, abs=1e-8)


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_has_the_same_bits_whatever_runs_beside_it(cell, dtype):
    together = calls(3, cell, (70, 4, 37), dtype)
    arguments = {name: None if v is None else np.copy(v) for name, v in together.arguments.items()}
    expected = together.run(threads=2)
    for first, last in [(0, 1), (1, 8), (8, 70), (13, 29)]:
        alone = {
            name: arguments[name][first:last].copy()
            for name in ("gates", "hidden", "cells", "before", "kept")
            if arguments[name] is not None
        }
        found = together.replaced(**alone, outputs=np.zeros_like(arguments["outputs"][:, first:last])).run()
        for name, value in found.items():
            whole = expected[name][:, first:last] if name == "outputs" else expected[name][first:last]
            assert value.tobytes() == np.ascontiguousarray(whole).tobytes(), name


def bends(cell, gate, values, dtype):
    """Entry ``gate`` of the gates of one step on these sums, from a state of zeros."""
    case = calls(0, cell, (1, 1, len(values)), dtype)
    case.arguments["hidden"][...] = 0
    case.arguments["bias"][...] = 0
    case.arguments["gates"][...] = 0
    case.arguments["gates"].reshape(CELLS[cell], len(values))[gate] = values
    return case.run()["gates"].reshape(CELLS[cell], len(values))[gate]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_and_tanh_are_right_to_a_few_units_in_the_last_place(dtype):
    limits = np.finfo(dtype)
    sizes = np.concatenate([np.logspace(-30, 1.9, 400), np.linspace(0, 100, 801), [limits.tiny, 709, 1e30]])
    values = np.concatenate([sizes, -sizes, [np.inf, -np.inf, 0.0, -0.0]]).astype(dtype)
    wide = values.astype(np.longdouble)
    with np.errstate(over="ignore"):
        truths = {("lstm", 0): 1 / (1 + np.exp(-wide)), ("lstm", 2): np.tanh(wide), ("tanh", 0): np.tanh(wide)}
    for (cell, gate), truth in truths.items():
        found = bends(cell, gate, values, dtype)
        # What lies below the smallest normal number may be 0.
        assert np.all(np.abs(found - truth) <= 4 * limits.eps * np.abs(truth) + limits.tiny), (cell, gate)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_nan_stays_in_its_sequence(cell, dtype):
    case = calls(1, cell, (19, 3, 21), dtype)
    clean = case.replaced().run()["outputs"]
    case.arguments["hidden"][7, 20] = np.nan
    found = case.run()["outputs"]
    assert np.isnan(found[:, 7]).all()
    np.testing.assert_array_equal(np.delete(found, 7, 1), np.delete(clean, 7, 1))


def test_what_a_cell_needs_is_asked_for_by_name():
    rng = np.random.default_rng(0)
    for cell, name, value in [
        ("lstm", "cells", None), ("lstm", "kept", None), ("gru", "kept", None),
        ("gru", "cells", np.zeros((2, 4))), ("tanh", "cells", np.zeros((2, 4))), ("relu", "kept", np.zeros((2, 3, 4))),
    ]:  # fmt: skip
        case = recurrent_call(rng, cell, (2, 3, 4), "float64")
        with pytest.raises(ValueError, match=rf"^{name} must be (None|given) for this cell"):
            case.replaced(**{name: value}).run()
    for cell, name in [
        ("lstm", "cells"), ("lstm", "kept"), ("lstm", "cell_grads"),
        ("gru", "before"), ("gru", "kept"), ("gru", "state_gate_grads"),
    ]:  # fmt: skip
        case = recurrent_call(rng, cell, (2, 3, 4), "float64")
        case.run()
        with pytest.raises(ValueError, match=rf"^{name} must be given for this cell"):
            recurrent_grads_call(rng, case).replaced(**{name: None}).run()
    for wrong in (-1, 4):
        case = recurrent_call(rng, "lstm", (2, 3, 4), "float64")
        with pytest.raises(ValueError, match=rf"^cell must be 0, 1, 2 or 3, got {wrong}"):
            case.replaced(cell=wrong).run()
