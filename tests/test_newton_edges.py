"""Edges of the Newton estimators: ids and weights that mean nothing, fits that fail, files with NumPy's numbers."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.datasets import load_digits

from expunge import NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier, NoiseWarning
from expunge._files import FileFormatError
from expunge.certificates import VerificationError
from expunge.certificates.residual import verify
from expunge.estimators import _storage
from expunge.estimators.newton import working
from expunge.runs.residual import InverseHessian, Rows, newton

X = np.random.default_rng(11).normal(size=(40, 3)) / 2
LABELS = (X[:, 0] > 0).astype(int)


def logistic(**more: Any) -> NewtonLogisticRegression:
    return NewtonLogisticRegression(classes=[0, 1], **more)


@pytest.mark.parametrize("names", [np.arange(100, 140), [f"p{i}" for i in range(40)]], ids=["numbers", "text"])
def test_records_are_added_again_and_again_under_ids_of_their_own(names, tmp_path):
    """No id is made up for a model whose records have ids: a number could be that of another record."""
    given = [7, 8] if isinstance(names, np.ndarray) else ["x", "y"]
    model = logistic().fit(X, LABELS, record_ids=names)
    once = model.add(X[:1], LABELS[:1], given[:1]).model
    for one in (once, NewtonLogisticRegression.load(once.save(tmp_path / "m.npz"))):
        assert one.add(X[:1], LABELS[:1], given[1:]).model.ids_.tolist()[-2:] == given
        with pytest.raises(ValueError, match="record_ids must be given, as they were to fit"):
            one.add(X[:1], LABELS[:1])


@pytest.mark.parametrize("size", [1e150, 1e200, 1e250, 1e300])
def test_targets_too_large_are_refused_as_such_and_not_with_an_infinite_noise(size):
    """Of features of size 1 nothing needs scaling."""
    with pytest.raises(ValueError, match="scale the features and targets by a constant") as caught:
        NewtonRidge(noise_std=0.1).fit(X, X[:, 0] * size)
    assert "inf" not in str(caught.value)
    with pytest.raises(ValueError, match="scale the features by a constant"):
        logistic().fit(X * 1e150, LABELS)


@pytest.mark.parametrize(
    ("ids", "got"),
    [
        (True, "True"),
        (np.True_, "True"),
        (7.0, r"7\.0"),
        (np.float64(7), r"7\.0"),
        (b"7", "b'7'"),
        ({1, 2}, "set"),
        ([1, True], "True"),
        (np.arange(40) < 3, "dtype bool"),
        ([7.0], r"7\.0"),
        (float("nan"), "a missing value"),
    ],
)
def test_what_is_no_id_deletes_nobody(ids, got):
    """True is not record 1, and a mask is no list of ids."""
    model = logistic().fit(X, LABELS)
    for change in (model.unlearn, model.quote, lambda bad: model.amend(bad, y=[1])):
        with pytest.raises(TypeError, match=f"^ids must hold integers or strings, got .*{got}"):
            change(ids)
    with pytest.raises(ValueError, match=r"^ids must hold at least one id, got none"):
        model.unlearn([])


@pytest.mark.parametrize("estimator", [NewtonLogisticRegression, NewtonRidgeClassifier])
@pytest.mark.parametrize(("key", "shown"), [("1", "'1'"), (7, "7"), (0.5, "0.5")])
def test_weights_of_no_class_are_refused(estimator, key, shown):
    """A key that is the text of a class, or that of no class, would change no weight at all."""
    with pytest.raises(ValueError, match=rf"^class_weight must be for the classes \[0, 1\], got a weight for {shown}"):
        estimator(classes=[0, 1], class_weight={key: 50.0}).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"^class_weight must leave a record that counts"):
        estimator(classes=[0, 1], class_weight={0: 0.0, 1: 0.0}).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"^class_weight must leave a record that counts"):
        estimator(classes=[0, 1], class_weight={1: 0.0}).fit(X, LABELS, sample_weight=1.0 * LABELS)


def test_weights_may_be_for_a_class_without_records():
    model = NewtonLogisticRegression(classes=[0, 1, 2], class_weight={2: 3.0}, random_state=0).fit(X, LABELS)
    plain = NewtonLogisticRegression(classes=[0, 1, 2], random_state=0).fit(X, LABELS)
    assert_array_equal(model.coef_, plain.coef_)


def test_weights_with_numbers_of_numpy_are_saved(tmp_path):
    model = logistic(class_weight={np.int64(1): np.float32(2.0)}).fit(X, LABELS)
    again = NewtonLogisticRegression.load(model.save(tmp_path / "m.npz"))
    assert again.class_weight == {1: 2.0}
    assert_array_equal(again.coef_, model.coef_)


@pytest.mark.parametrize(
    ("model", "y", "bad"),
    [
        (logistic(), LABELS, LABELS + 5),
        (NewtonRidgeClassifier(classes=[0, 1]), LABELS, LABELS + 5),
        (NewtonRidge(), X[:, 1], np.full(40, np.nan)),
    ],
    ids=["logistic", "ridge classifier", "ridge"],
)
def test_a_fit_that_fails_leaves_the_model_as_it_was(model, y, bad):
    """The columns of the data that were refused do not pick the parameters of the model that stays."""
    before = model.fit(X, y).coef_
    attributes = dict(vars(model))
    for columns in (2, 4):
        rows = np.hstack([X, X])[:, :columns]
        with pytest.raises(ValueError, match=r"^(y must hold|Input y contains NaN)"):
            model.fit(rows, bad)
        assert vars(model) == attributes
        assert model.n_features_in_ == 3
        assert_array_equal(model.coef_, before)
        with pytest.raises(ValueError, match="expecting 3 features"):
            model.predict(rows)


@pytest.mark.parametrize("names", [(0, 1), (False, True), (-1.0, 2.0), (2**60, 2**60 + 1), ("no", "yes")], ids=str)
@pytest.mark.parametrize("estimator", [NewtonLogisticRegression, NewtonRidgeClassifier])
def test_labels_of_any_kind_stay_where_only_features_are_corrected(estimator, names):
    y = np.array(names)[LABELS]
    model = estimator(classes=names).fit(X, y)
    rows, weights = X.copy(), np.ones(40)
    rows[[4, 9]], weights[[4, 9]] = X[[1, 2]], 0.5
    result = model.amend([4, 9], X=X[[1, 2]], sample_weight=[0.5, 0.5])
    report = verify(result.certificate, rows, y, evidence=result.evidence, released=result.model, sample_weight=weights)
    assert report.certified


@pytest.mark.parametrize("scale", [1e-150, 1e-162, 1e-163, 1e150])
def test_distances_of_before_and_after_do_not_vanish(scale):
    """Squares of the smallest numbers are 0, and their root would have said that nothing moved."""
    y = X @ [1.0, 2.0, 3.0]
    y[3] = 50.0
    before = NewtonRidge(noise_std=1e-7 * scale).fit(X, y * scale)
    after = before.unlearn(3)
    apart = (after.evidence.theta - before.evidence_.theta) / scale
    assert after.before_after.mu >= np.linalg.norm(apart) / 1e-7 * (1 - 1e-9)
    assert after.before_after.mu <= np.linalg.norm(apart) / 1e-7 * 1.1 + 1.0


def test_features_too_large_for_any_bound_are_refused_with_the_remedy():
    """Not with a noise that is to be infinite."""
    model = logistic().fit(X, LABELS)
    for change in (lambda: model.add(X[:1] * 1e200, [1]), lambda: logistic().fit(X * 1e200, LABELS)):
        with pytest.raises(ValueError, match="too large for a bound in float64: scale the features by a constant"):
            change()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"theta": 1.0}, "bound must be within"),
        ({"bound": (-1.0).hex()}, "bound must be within"),
        ({"action": "nothing"}, "action must be one of"),
        ({"next_number": 39}, "next_number must exceed the ids of all records, got 39"),
    ],
    ids=str,
)
def test_a_file_made_by_somebody_else_claims_nothing_that_does_not_hold(changed, message, tmp_path):
    """Parameters with another gradient are not those that a further release could be certified from."""
    path = logistic().fit(X, LABELS).unlearn(3).model.save(tmp_path / "m.npz")
    header, arrays = _storage.read(path)
    if "theta" in changed:
        arrays["theta"] = arrays["theta"] + changed["theta"]
    path.write_bytes(
        _storage.sealed_bytes({**header, **{key: value for key, value in changed.items() if key != "theta"}}, arrays)
    )
    with pytest.raises(FileFormatError, match=message):
        NewtonLogisticRegression.load(path)


def test_the_root_before_is_that_of_the_certificate_in_files_too(tmp_path):
    model = logistic().fit(X, LABELS)
    after = model.unlearn(3).model
    again = NewtonLogisticRegression.load(after.save(tmp_path / "m.npz"))
    assert again.certificate_.digests.data_before == model.certificate_.digests.data
    assert again.evidence_.to_bytes() == after.evidence_.to_bytes()


@pytest.mark.parametrize("multi_class", ["auto", "ovr"])
def test_what_is_left_of_the_gradient_points_at_nobody(multi_class):
    """Whoever holds the new model, and looks where its parameters stop short, hardly finds who was deleted."""
    rows, y = load_digits(return_X_y=True)
    rows, y = rows[:600] / 64, y[:600] % 3
    extended = np.hstack([rows, np.ones((600, 1))])
    extended /= np.linalg.norm(extended, axis=1)[:, np.newaxis]
    near = 0
    for gone in np.random.default_rng(5).choice(600, 120, replace=False):
        # One fit for each: what is left after deletions from one model is of one kind.
        model = NewtonLogisticRegression(classes=[0, 1, 2], multi_class=multi_class).fit(rows, y)
        state = model.unlearn(rows=int(gone)).model._state
        left = state.objective.gradient(state.theta, state.objective.sums(state.theta))
        likeness = np.linalg.norm(extended @ left.T, axis=1)
        near += int((likeness > likeness[gone]).sum() < 40)
        assert not np.array_equal(state.inverse.theta, model._state.theta)
    # 8 by chance, about 28 as it is, 69 to 84 without noise on the start of the search.
    assert near <= 60


def test_parameters_after_a_deletion_are_no_fingerprint_of_the_record():
    """Whoever holds the new model and guesses a record can repeat its deletion, and learns nothing from what is left.

    All but the noise on the start of the search is known: data, the release before, the rule.
    """
    rng = np.random.default_rng(3)
    n, p = 600, 20
    rows, y = rng.standard_normal((n, p)) / p**0.5, np.arange(n) % 2
    model = NewtonLogisticRegression(classes=[0, 1], fit_intercept=False).fit(rows, y)
    before, after = model._state, model.unlearn(rows=7).model._state

    def repeated(record: Rows) -> float:
        """Return how far the parameters are from those after a record's deletion."""
        objective = after.objective.with_rows(record)
        theta = newton.polish(objective, np.zeros_like(after.theta), target=before.claim.allowance).theta
        guess = dataclasses.replace(
            before,
            objective=objective,
            theta=theta,
            inverse=InverseHessian.of(objective, before.released),
            gradient=objective.gradient(theta, objective.sums(theta)),
        )
        state, _ = guess.changed("unlearn", after.objective, after.tree, n_changed=1, gone=record, new=None)
        return float(np.linalg.norm(state.theta - after.theta))

    others = [
        repeated(Rows(rng.standard_normal((1, p)) / p**0.5, labels=np.array([guess % 2], dtype=np.int64)))
        for guess in range(15)
    ]
    assert repeated(before.objective.take(np.array([7]))) > 0.1 * np.median(others)


@pytest.mark.parametrize("gone", [[3], list(range(60))])
@pytest.mark.parametrize("action", ["unlearn", "amend"])
def test_curvatures_are_kept_at_what_was_released(gone, action, monkeypatch):
    """Also where a search takes them anew at parameters without noise, which would tell of later deletions."""
    monkeypatch.setattr(newton, "_ENOUGH", 1e9)  # no chord step is good enough,
    monkeypatch.setattr(working, "_BLUR", 100.0)  # and one alone does not get there
    rows, y = load_digits(return_X_y=True)
    model = NewtonLogisticRegression(classes=[0, 1], fit_intercept=False).fit(rows[:300] / 64, y[:300] % 2)
    released = [model._state.released]
    for _ in range(2):
        before = model
        if action == "unlearn":
            model = model.unlearn(rows=gone).model
        else:
            model = model.amend(rows=gone, X=rows[-len(gone) :] / 64).model
        released.append(model._state.released)
        state = model._state
        assert model.evidence_.refreshes >= 1
        assert any(np.array_equal(state.inverse.theta, one) for one in released)
        assert not np.array_equal(state.inverse.theta, before._state.theta)
        fresh = InverseHessian.of(state.objective, state.inverse.theta)
        assert_allclose(state.inverse.matrices, fresh.matrices, rtol=0, atol=1e-10)


def test_with_noise_that_hides_everything_no_curvatures_are_kept():
    rows, y = load_digits(return_X_y=True)
    model = NewtonLogisticRegression(classes=[0, 1], noise_std=1e4).fit(rows[:100] / 64, y[:100] % 2)
    changed = model.unlearn(3).model
    assert changed._state.inverse is None
    assert changed.unlearn(5).status == "certified"


@pytest.mark.parametrize("weights", [[3.0], [3.0, 0.5, 1.0], []])
def test_new_weights_are_one_for_each_record(weights):
    model = NewtonRidge().fit(np.eye(4), np.arange(4.0))
    message = f"sample_weight must have length 2, got {len(weights)}"
    with pytest.raises(ValueError, match=message):
        model.amend([1, 2], sample_weight=weights)
    with pytest.raises(ValueError, match=message):
        model.add(np.eye(4)[:2], [1.0, 2.0], sample_weight=weights)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("from_file", [False, True])
def test_a_deletion_whose_noise_saturates_every_row_takes_hardly_more_passes_than_a_fit(classes, from_file, tmp_path):
    """Released parameters are then no place to search from: every curvature there is 0."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        rows, labels = 2e4 * rng.standard_normal((52, 2)), rng.integers(0, classes, 52)
        settings = {"classes": range(classes), "alpha": 1e-3, "noise_std": 5.0, "random_state": seed}
        model = NewtonLogisticRegression(**settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoiseWarning)
            model.fit(rows, labels)
        passes = model.evidence_.passes
        if from_file:
            model = NewtonLogisticRegression.load(model.save(tmp_path / f"{seed}.npz"))
        result = model.unlearn(rows=range(12))
        assert result.evidence.passes <= 30 + 3 * passes
        kept = slice(12, None)
        verify(result.certificate, rows[kept], labels[kept], evidence=result.evidence, released=result.model)


@pytest.mark.parametrize(
    "form",
    [
        sparse.csr_matrix,
        sparse.csc_array,
        pd.DataFrame,
        lambda rows: pd.DataFrame(rows).astype("Float64"),
        lambda rows: rows.astype(object),
    ],
    ids=["matrix", "array", "frame", "nullable", "objects"],
)
def test_verification_takes_what_a_fit_takes(form):
    rows = np.maximum(np.random.default_rng(0).normal(size=(30, 3)), 0.0)
    y = rows @ [1.0, 2.0, 3.0]
    model = NewtonRidge().fit(form(rows), y)
    assert verify(model.certificate_, form(rows), y, evidence=model.evidence_, released=model.release()).certified
    rows[4, 1] += 1.0
    with pytest.raises(VerificationError, match=r"digests\.data"):
        verify(model.certificate_, form(rows), y, evidence=model.evidence_)
