"""Arrays that NumPy reads only in part, or reads as something else, are refused by name everywhere."""

import numpy as np
import pytest
from scipy import sparse

from expunge._validate import number, real_array, row_indices
from expunge.accounting import (
    GaussianPair,
    RenyiFilter,
    composition_rdp,
    contraction_rdp,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    privacy_loss,
    quadrature_weights,
    rdp_to_epsilon,
    sampled_gaussian_rdp,
    shifted_mu,
)

STEP = {"noise_std": 1.0, "step_size": 0.1, "sampling_probability": 0.5, "batch_size": 1.0}
CALLS = {
    "gdp_delta": (lambda x: gdp_delta(x, 1.0), "mu"),
    "gdp_epsilon": (lambda x: gdp_epsilon(x, 0.1), "mu"),
    "gdp_mu": (lambda x: gdp_mu(x, 0.1), "epsilon"),
    "pair": (lambda x: GaussianPair(x, [[1.0], [1.0]]), "excess_variance"),
    "pair delta": (lambda x: GaussianPair([0.1], [[1.0]]).delta(x), "epsilon"),
    "shifted": (lambda x: shifted_mu(x, 1.0, 1.0), "sensitivity"),
    "sampled": (lambda x: sampled_gaussian_rdp(2.0, x, 0.1), "noise_multiplier"),
    "to epsilon": (lambda x: rdp_to_epsilon(x, 2.0, 1e-5), "rdp"),
    "contraction": (
        lambda x: contraction_rdp(x, order=2.0, log_sobolev=1.0, contraction=1.0, noise_std=1.0, n_steps=1),
        "rdp",
    ),
    "filter": (lambda x: RenyiFilter(2.0, 1.0, n_records=2, **STEP).charge(x), "grad_norms"),
    "loss": (lambda x: privacy_loss([[1.0, 1.0]], order=2.0, steps=x, n_steps=9, **STEP), "steps"),
    "weights": (lambda x: quadrature_weights(x, n_steps=9), "steps"),
    "composition": (lambda x: composition_rdp([x, x], order=2.0, l2_bound=9.0, **STEP), "grad_norms"),
    "rows": (lambda x: row_indices("rows", x, 9), "rows"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mask", [[0, 1], [0, 0]])
def test_masked_arrays_are_refused(name, mask):
    call, argument = CALLS[name]
    with pytest.raises(TypeError, match=f"{argument}.*masked.*compressed"):
        call(np.ma.array([1, 2], mask=mask))


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"composition"}))
def test_sparse_arrays_are_refused(name):
    call, argument = CALLS[name]
    with pytest.raises(TypeError, match=f"{argument}.*sparse.*toarray"):
        call(sparse.csr_array(np.eye(2)))


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0, None], dtype=object),
        np.array([1 + 2j, 1]),
        np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]"),
        np.array(["1", "2"]),
        np.array([np.timedelta64(1, "s")] * 2),
    ],
    ids=["object", "complex", "dates", "text", "durations"],
)
@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"composition"}))
def test_what_is_no_number_is_refused(name, values):
    call, argument = CALLS[name]
    with pytest.raises(TypeError, match=argument):
        call(values)


def test_masks_inside_lists_are_found():
    with pytest.raises(TypeError, match="x must not be a masked array"):
        real_array("x", [np.ma.array([1.0, 2.0], mask=[0, 1])] * 2)
    with pytest.raises(TypeError, match="x must not be a masked array"):
        real_array("x", [[[np.ma.masked]]])
    with pytest.raises(TypeError, match="x must not be a masked array"):
        number("x", np.ma.masked)


def test_ragged_lists_and_missing_values_of_tables_are_named():
    with pytest.raises(ValueError, match="x must be an array, got list"):
        real_array("x", [[1.0], [1.0, 2.0]])
    pandas = pytest.importorskip("pandas")
    with pytest.raises((TypeError, ValueError), match=r"x must (hold numbers|be finite), got (dtype object|nan)"):
        real_array("x", pandas.array([1, pandas.NA], dtype="Int64"))
    with pytest.raises(TypeError, match="x must hold numbers, got dtype object, such as <NA>"):
        real_array("x", pandas.Series([1, pandas.NA]))
    assert real_array("x", pandas.Series([1, 2])).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("n", [5, 5000])
@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [np.inf, np.nan]])
def test_no_number_that_is_not_finite_hides_among_many(n, bad):
    values = np.ones(n)
    values[n - 1 - len(bad) : n - 1] = bad
    with pytest.raises(ValueError, match=f"values must be finite, got .* at index {n - 1 - len(bad)}"):
        real_array("values", values)


def test_many_finite_numbers_whose_sum_is_not_are_finite():
    for values in (np.full(5000, 1e308), np.tile([1e308, 1e308, -1e308, -1e308], 2000)):
        assert real_array("values", values) is values
