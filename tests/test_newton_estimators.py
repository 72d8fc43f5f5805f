"""Newton estimators: they fit the optimum, release it with noise, and change with their records."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from expunge import NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier
from expunge.accounting import gdp_mu
from expunge.certificates import CONDITIONS
from expunge.certificates.residual import verify
from expunge.data import exact_ids
from expunge.estimators._conditions import SEED_CONDITION

GENERATOR = np.random.default_rng(3)
X = GENERATOR.uniform(-1.0, 1.0, size=(90, 4))
TWO = np.where(X[:, 0] + 0.3 * GENERATOR.standard_normal(90) > 0, "yes", "no")
THREE = GENERATOR.integers(0, 3, 90)
NUMBERS = X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * GENERATOR.standard_normal(90)

# Estimator, answers and settings of every form.
FORMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "binary": (NewtonLogisticRegression, TWO, {"classes": ["no", "yes"]}),
    "softmax": (NewtonLogisticRegression, THREE, {"classes": [0, 1, 2]}),
    "one against the rest": (NewtonLogisticRegression, THREE, {"classes": [0, 1, 2], "multi_class": "ovr"}),
    "ridge": (NewtonRidge, NUMBERS, {}),
    "ridge of two": (NewtonRidge, np.stack([NUMBERS, X[:, 1]], axis=1), {}),
    "ridge classifier": (NewtonRidgeClassifier, THREE, {"classes": [0, 1, 2]}),
}
on_every_form = pytest.mark.parametrize("form", FORMS)


def fitted(form: str, **more: Any) -> Any:
    cls, y, options = FORMS[form]
    fit = {key: more.pop(key) for key in ("record_ids", "sample_weight", "conditions") if key in more}
    return cls(**{**options, **more}).fit(X, y, **fit)


def checked(model: Any, rows: Any, y: Any, **more: Any) -> Any:
    """Verify the last release of a model on the data as they now stand."""
    return verify(model.certificate_, rows, y, evidence=model.evidence_, released=model, **more)


@parametrize_with_checks(
    [
        NewtonLogisticRegression(),
        NewtonLogisticRegression(multi_class="ovr"),
        NewtonRidge(),
        NewtonRidgeClassifier(),
    ]
)
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


# --- what is fitted ----------------------------------------------------------------------------


def test_the_optimum_is_that_of_scikit_learn():
    model = NewtonLogisticRegression(alpha=2.0, fit_intercept=False).fit(X, TWO)
    theirs = LogisticRegression(C=0.5, fit_intercept=False, solver="newton-cholesky", tol=1e-12).fit(X, TWO)
    assert_allclose(model.evidence_.theta, theirs.coef_, rtol=0, atol=1e-4)
    ridge = NewtonRidge(alpha=2.0, fit_intercept=False).fit(X, NUMBERS)
    assert_allclose(ridge.evidence_.theta[0], Ridge(alpha=2.0, fit_intercept=False).fit(X, NUMBERS).coef_, atol=1e-4)
    softmax = NewtonLogisticRegression(alpha=2.0, fit_intercept=False).fit(X, THREE)
    theirs = LogisticRegression(C=0.5, fit_intercept=False, solver="newton-cholesky", tol=1e-12).fit(X, THREE)
    assert_allclose(softmax.evidence_.theta, theirs.coef_, rtol=0, atol=1e-3)


@on_every_form
def test_the_intercept_is_penalised_as_a_constant_column(form):
    model, with_ones = fitted(form), np.column_stack([X, np.ones(90)])
    cls, y, options = FORMS[form]
    same = cls(**options, fit_intercept=False).fit(with_ones, y)
    both = model.certificate_.mu * model.noise_std * 2  # each within noise_std mu of the optimum
    assert np.linalg.norm(model.evidence_.theta - same.evidence_.theta) <= both
    assert_allclose(same.intercept_, np.zeros(np.shape(same.intercept_)))


@on_every_form
def test_every_release_is_verified_on_the_data_as_they_stand(form):
    model = fitted(form)
    y = FORMS[form][1]
    report = checked(model, X, y)
    assert report.certified
    gone = [5, 17, 60]
    after = model.unlearn(gone).model
    left = np.delete(np.arange(90), gone)
    assert checked(after, X[left], y[left]).certified
    amended = after.amend([0, 1], X=X[[2, 3]], y=y[[2, 3]]).model
    rows, answers = X[left].copy(), y[left].copy()
    rows[:2], answers[:2] = X[[2, 3]], y[[2, 3]]
    assert checked(amended, rows, answers).certified
    added = amended.add(X[gone], y[gone]).model
    rows, answers = np.concatenate([rows, X[gone]]), np.concatenate([answers, y[gone]])
    assert checked(added, rows, answers).certified
    again = added.release_again().model
    assert checked(again, rows, answers).certified
    assert [m.certificate_.release for m in (model, after, amended, added, again)] == [1, 2, 3, 4, 5]
    assert added.ids_.tolist() == [*left.tolist(), 90, 91, 92]


@on_every_form
def test_coefficients_are_those_released(form):
    model = fitted(form)
    private = model.evidence_.theta
    noise = np.column_stack([np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)]) - private
    size = np.linalg.norm(noise) / model.noise_std
    # chi with as many degrees of freedom as parameters: within 6 standard deviations of its root.
    assert abs(size - np.sqrt(private.size)) < 6
    assert np.abs(noise).min() > 0


@on_every_form
def test_noise_is_fresh_after_a_seeded_fit(form):
    one, other = fitted(form, random_state=4), fitted(form, random_state=4)
    assert_array_equal(one.coef_, other.coef_)
    assert SEED_CONDITION in one.conditions_
    after = one.unlearn(3).model
    assert (np.asarray(after.coef_) != other.unlearn(3).model.coef_).all()
    assert after.conditions_ == ()
    again = one.release_again().model
    assert (np.asarray(again.coef_) != one.coef_).all()
    assert again.conditions_ == ()


# --- records -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(data=st.data(), form=st.sampled_from(list(FORMS)))
def test_any_sequence_of_changes_is_verified(data, form):
    """The state after any changes is that of the data as they stand: hashes, order, residual, release."""
    y = FORMS[form][1]
    model = fitted(form)
    rows, answers, ids, number = X.copy(), y.copy(), list(range(90)), 90
    for _ in range(data.draw(st.integers(1, 4))):
        what = data.draw(st.sampled_from(["unlearn", "amend", "add"]))
        if what == "unlearn":
            gone = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=3, unique=True))
            by_id = data.draw(st.booleans())
            model = (model.unlearn([ids[i] for i in gone]) if by_id else model.unlearn(rows=gone)).model
            rows, answers = np.delete(rows, gone, axis=0), np.delete(answers, gone, axis=0)
            ids = [one for i, one in enumerate(ids) if i not in gone]
        elif what == "amend":
            place = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=3, unique=True))
            new = data.draw(st.lists(st.integers(0, 89), min_size=len(place), max_size=len(place)))
            model = model.amend([ids[i] for i in place], X=X[new], y=y[new]).model
            rows[place], answers[place] = X[new], y[new]
        else:
            new = data.draw(st.lists(st.integers(0, 89), min_size=1, max_size=3))
            model = model.add(X[new], y[new]).model
            rows, answers = np.concatenate([rows, X[new]]), np.concatenate([answers, y[new]])
            ids += range(number, number + len(new))
            number += len(new)
    assert model.ids_.tolist() == ids
    assert checked(model, rows, answers).certified
    order = np.random.default_rng(0).permutation(len(ids))
    assert checked(model, rows[order], answers[order], ids=[ids[i] for i in order]).certified


@on_every_form
def test_nothing_of_a_deleted_record_stays(form, tmp_path):
    """No byte of its features in file, pickle, certificate or evidence, nor of what its inverse Hessian made of it."""
    y = FORMS[form][1]
    model = fitted(form, record_ids=[f"customer number {i}" for i in range(90)])
    inverse = model._state.inverse
    row = np.append(X[41], 1.0)
    # Class by class: what moves all classes of softmax alike meets 1/alpha alone, and 1.0 lies anywhere.
    shadow = np.concatenate(
        [np.ravel(matrix @ np.kron(np.eye(len(matrix) // len(row)), row).T) for matrix in inverse.matrices]
    )
    traces = [value.tobytes() for value in np.concatenate([X[41], shadow])] + [repr(value).encode() for value in X[41]]
    traces += [b"customer number 41", "customer number 41".encode("utf-32-le")]
    traces += [model._state.tree.salts[41].tobytes(), model._state.tree.contents[41].tobytes()]

    def holds(content: bytes) -> list[bytes]:
        return [trace for trace in traces if trace in content]

    before = model.save(tmp_path / "before.npz").read_bytes() + pickle.dumps(model)
    assert len(holds(before)) >= 4  # the search finds what is there
    result = model.unlearn("customer number 41")
    for name, content in {
        "file": result.model.save(tmp_path / "after.npz").read_bytes(),
        "pickle": pickle.dumps(result.model),
        "result": pickle.dumps((result.certificate, result.evidence)),
        "certificate": result.certificate.to_json().encode(),
        "evidence": result.evidence.to_bytes(),
        "released": pickle.dumps(result.model.release()),
    }.items():
        assert holds(content) == [], name
    # Also in memory that the model reaches: arrays and what they are views of.
    for array in _arrays(result.model._state):
        assert holds(array.tobytes()) == []
    assert y.shape[0] == 90


def _arrays(value: Any, seen: set[int] | None = None) -> list[Any]:
    seen = set() if seen is None else seen
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return [value, *([] if value.base is None else _arrays(value.base, seen))]
    if isinstance(value, (list, tuple)):
        return [array for one in value for array in _arrays(one, seen)]
    if hasattr(value, "__dict__"):
        return [array for one in vars(value).values() for array in _arrays(one, seen)]
    return []


@on_every_form
def test_the_preconditioner_is_that_of_the_remaining_records(form):
    """A downdated inverse holds nothing of the record: it is what the other records give at the same parameters."""
    from expunge.runs.residual import InverseHessian

    model = fitted(form)
    after = model.unlearn([7]).model._state
    fresh = InverseHessian.of(after.objective, after.inverse.theta)
    assert_allclose(after.inverse.matrices, fresh.matrices, rtol=0, atol=1e-12)


def test_ids_name_persons_and_positions_name_rows():
    names = [f"p{i // 2}" for i in range(90)]
    model = fitted("binary", record_ids=names)
    result = model.unlearn("p3")
    assert len(result.model.ids_) == 88
    assert "p3" not in result.model.ids_
    assert result.evidence.n_changed == 2
    with pytest.raises(ValueError, match="'p3', which none has"):
        result.model.unlearn("p3")
    with pytest.raises(TypeError, match="ids must be text, as the ids of this model"):
        model.unlearn(3)
    with pytest.raises(TypeError, match="one of ids and rows, got neither"):
        model.unlearn()
    with pytest.raises(TypeError, match="one of ids and rows, got both"):
        model.unlearn("p3", rows=3)
    with pytest.raises(ValueError, match="several rows: say rows="):
        model.amend("p3", y=["yes"])
    assert model.amend(rows=[6], y=["yes"]).evidence.n_changed == 1
    with pytest.raises(ValueError, match="record_ids must be given, as they were to fit"):
        model.add(X[:1], TWO[:1])
    assert model.add(X[:1], TWO[:1], "new").model.ids_[-1] == "new"
    with pytest.raises(ValueError, match="this model numbers its records"):
        fitted("binary").add(X[:1], TWO[:1], [5])


def test_numbers_of_records_are_never_given_twice():
    model = fitted("ridge").unlearn([89]).model
    assert model.add(X[:1], NUMBERS[:1]).model.ids_[-1] == 90
    assert model.add(X[:1], NUMBERS[:1]).model.unlearn(90).model.add(X[:1], NUMBERS[:1]).model.ids_[-1] == 91


def test_large_ids_stay_exact(tmp_path):
    names = [2**70 + i for i in range(90)]
    model = fitted("ridge", record_ids=names).unlearn(2**70 + 3).model
    again = NewtonRidge.load(model.save(tmp_path / "m.npz"))
    assert again.ids_.tolist() == [one for one in names if one != 2**70 + 3]
    assert exact_ids(again.ids_).dtype == object


def test_amended_records_are_taken_in_the_order_given():
    model = fitted("ridge")
    one = model.amend([9, 2], X=X[[20, 30]], y=[7.0, -7.0]).model
    rows, answers = X.copy(), NUMBERS.copy()
    rows[9], rows[2], answers[9], answers[2] = X[20], X[30], 7.0, -7.0
    assert checked(one, rows, answers).certified
    weighed = model.amend(rows=[9, 2], sample_weight=[3.0, 0.5]).model
    weights = np.ones(90)
    weights[[9, 2]] = 3.0, 0.5
    assert checked(weighed, X, NUMBERS, sample_weight=weights).certified
    with pytest.raises(TypeError, match="amend needs new X, y or sample_weight"):
        model.amend([9])


def test_tables_sparse_matrices_and_pipelines():
    table = pd.DataFrame(X, columns=list("abcd"), index=[f"row {i}" for i in range(90)])
    model = NewtonLogisticRegression(classes=["no", "yes"], random_state=0).fit(table, TWO)
    assert model.ids_[5] == "row 5"
    assert model.feature_names_in_.tolist() == list("abcd")
    after = model.unlearn("row 5").model
    assert after.predict(table).shape == (90,)
    assert after.release().feature_names_in_.tolist() == list("abcd")
    thin = scipy.sparse.csr_array(np.where(np.abs(X) > 0.5, X, 0.0))
    sparse = NewtonLogisticRegression(classes=["no", "yes"], random_state=0).fit(thin, TWO)
    dense = NewtonLogisticRegression(classes=["no", "yes"], random_state=0).fit(thin.toarray(), TWO)
    assert_array_equal(sparse.coef_, dense.coef_)
    assert_array_equal(sparse.predict(thin), dense.predict(thin.toarray()))
    assert checked(sparse, thin.toarray(), TWO).residual_bound <= sparse._state.claim.allowance
    pipe = make_pipeline(FunctionTransformer(lambda rows: rows / 2), NewtonLogisticRegression()).fit(X, TWO)
    assert pipe.score(X, TWO) > 0.8


def test_sparse_rows_of_several_blocks_have_one_tree(monkeypatch):
    monkeypatch.setattr("expunge.estimators.newton.records.block_rows", lambda n_features: 500)
    wide = scipy.sparse.random_array((1300, 3), density=0.4, rng=np.random.default_rng(1), format="csr")
    y = np.arange(1300) % 2
    model = NewtonLogisticRegression(classes=[0, 1]).fit(wide, y)
    assert len(model._state.objective.blocks) == 3
    assert checked(model, wide.toarray(), y).certified


# --- answers -----------------------------------------------------------------------------------


@on_every_form
def test_a_model_and_its_release_answer_alike_from_files_too(form, tmp_path):
    model = fitted(form).unlearn([1]).model
    again = type(model).load(model.save(tmp_path / "model.npz"))
    public = again.release()
    back = type(public).load(public.save(tmp_path / "public.npz"))
    copy = pickle.loads(pickle.dumps(model))
    for other in (again, public, back, copy):
        for method in ("predict", "decision_function", "predict_proba"):
            if hasattr(model, method) and hasattr(other, method):
                assert_array_equal(getattr(other, method)(X), getattr(model, method)(X))
    assert again.certificate_ == model.certificate_
    after = again.unlearn([2]).model
    keep = np.delete(np.arange(90), [1, 2])
    assert checked(after, X[keep], FORMS[form][1][keep]).certified


@pytest.mark.parametrize("form", ["binary", "softmax", "one against the rest"])
def test_chances_add_up_and_follow_the_answers(form):
    model = fitted(form)
    chances = model.predict_proba(X)
    assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-14)
    assert (chances >= 0).all()
    assert_array_equal(model.classes_[np.argmax(chances, axis=1)], model.predict(X))
    assert_allclose(np.exp(model.predict_log_proba(X)), chances, rtol=1e-14)


def test_class_weights_are_constants_and_count_as_sample_weights():
    by_class = fitted("binary", class_weight={"yes": 3.0}, random_state=0)
    by_record = fitted("binary", sample_weight=np.where(TWO == "yes", 3.0, 1.0), random_state=0)
    assert_array_equal(by_class.coef_, by_record.coef_)
    with pytest.raises(ValueError, match=r"class_weight must be a dictionary of constants, got 'balanced'"):
        fitted("binary", class_weight="balanced")


def test_digits_reach_the_accuracy_of_the_design():
    """One against the rest, alpha 1, pixels / 16 with a column of ones, all divided by 4: .9494 without noise."""
    digits, y = load_digits(return_X_y=True)
    rows = np.column_stack([digits / 16, np.ones(len(digits))]) / 4
    options = {"multi_class": "ovr", "fit_intercept": False, "classes": range(10)}
    exact = NewtonLogisticRegression(noise_std=1e-5, **options).fit(rows, y)
    assert exact.score(rows, y) == pytest.approx(0.9494, abs=6e-5)
    scores = [NewtonLogisticRegression(**options, random_state=i).fit(rows, y).score(rows, y) for i in range(5)]
    assert np.mean(scores) == pytest.approx(0.9489, abs=0.002)


# --- claim and budget --------------------------------------------------------------------------


def test_the_budget_of_releases_is_enforced():
    model = fitted("binary", releases=3)
    assert model.certificate_.mu <= gdp_mu(1.0, 1e-5) / np.sqrt(3)
    assert model.releases_left_ == 2
    model = model.release_again().model.unlearn([1]).model
    assert model.releases_left_ == 0
    for change in (lambda: model.unlearn([2]), lambda: model.release_again(), lambda: model.add(X[:1], TWO[:1])):
        with pytest.raises(RuntimeError, match="the budget of 3 releases is spent"):
            change()


def test_the_budget_is_kept_in_the_file(tmp_path):
    model = fitted("binary", releases=2).unlearn([1]).model
    again = NewtonLogisticRegression.load(model.save(tmp_path / "m.npz"))
    with pytest.raises(RuntimeError, match=r"the budget of 2 releases is spent.*begins another claim"):
        again.unlearn([2])


def test_changes_keep_the_constants_of_the_fit():
    """Parameters set after the fit do not change a claim that has begun."""
    model = fitted("binary")
    model.set_params(alpha=50.0, noise_std=9.0, epsilon=7.0)
    after = model.unlearn([1])
    assert (after.certificate.alpha, after.certificate.noise_std, after.certificate.epsilon) == (1.0, 0.01, 1.0)


@on_every_form
def test_before_and_after_are_measured(form):
    """The joint mu is that of both distances: to the optimum before, and the release's own."""
    model = fitted(form)
    result = model.unlearn([4])
    distance = np.linalg.norm(result.evidence.theta - model.evidence_.theta)
    mu = model.certificate_.mu
    low, high = ((max(distance + sign * 2 * 0.01 * mu, 0) / 0.01) ** 2 + mu**2 for sign in (-1, 1))
    assert np.sqrt(low) <= result.before_after.mu <= np.sqrt(high) * (1 + 1e-12)
    assert result.before_after == result.evidence.before_after
    assert model.release_again().before_after is None


@settings(max_examples=1)
@given(seed=st.just(0))
def test_the_bound_is_never_below_the_distance_to_the_optimum(seed):
    """2,000 random problems of all scales: |theta - optimum| <= bound / alpha, the optimum polished to rounding."""
    from expunge.runs.residual import Objective, Rows, blocks_of, polish

    rng = np.random.default_rng(seed)
    for _ in range(2000):
        n, p = rng.integers(1, 9), rng.integers(1, 4)
        loss, q = [("squared", 1), ("logistic", 1), ("logistic", 3), ("softmax", 3)][rng.integers(4)]
        features = rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-2, 1)
        labels = rng.integers(0, max(q, 2), n)
        rows = Rows(
            features, None if loss == "squared" else labels, labels[:, None] * 1.0 if loss == "squared" else None
        )
        alpha = 10.0 ** rng.uniform(-3, 2)
        this = Objective(blocks_of(rows), loss, int(p), q, alpha)
        best = polish(this, np.zeros((q, p)), target=max(1e-10 * alpha, 1e-10))
        theta = best.theta + rng.standard_normal((q, p)) * 10.0 ** rng.uniform(-8, 1)
        assert np.linalg.norm(theta - best.theta) <= (this.residual_bound(theta) + best.bound) / alpha


def test_releases_cannot_be_told_from_those_of_the_optimum():
    """100,000 releases a side, from the farthest point that the residual allows, told apart along the difference."""
    from scipy.stats import beta

    from expunge.runs.exact_noise import with_exact_noise
    from expunge.runs.residual import polish

    state = fitted("binary", releases=2).unlearn([4]).model._state
    claim, best = state.claim, polish(state.objective, state.theta, target=1e-12).theta
    direction = np.linalg.eigh(state.inverse.matrices[0])[1][:, -1][np.newaxis]  # where the curvature is least
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        inside = state.objective.residual_bound(best + middle * direction) <= claim.allowance
        low, high = (middle, high) if inside else (low, middle)
    farthest = best + low * direction
    assert low > 0.1 * claim.noise_std * claim.mu
    n = 100_000
    sides = [with_exact_noise(np.repeat(at, n, axis=0), noise_std=claim.noise_std) for at in (farthest, best)]
    left, right = (side @ direction[0] for side in sides)
    seen = 0
    for one, other, sign in ((left, right, 1.0), (right, left, -1.0)):
        for threshold in np.quantile(left, np.linspace(0.01, 0.99, 25)):
            hits, misses = (int((sign * values > sign * threshold).sum()) for values in (one, other))
            least = 0.0 if hits == 0 else float(beta.ppf(1e-6, hits, n - hits + 1))
            most = 1.0 if misses == n else float(beta.ppf(1 - 1e-6, misses + 1, n - misses))
            assert least <= np.exp(claim.epsilon) * most + claim.delta
            seen += hits > misses
    assert seen > 10  # the two sides do differ


@on_every_form
def test_quotes_hold_for_the_deletion_itself(form):
    """Sensitivity and before/after epsilon bound what a deletion measures; passes are of its order."""
    model = fitted(form, record_ids=[f"p{i}" for i in range(90)])
    quote = model.quote()
    assert quote.ids.tolist() == model.ids_.tolist()
    for row in (3, 40, 88):
        result = model.unlearn(f"p{row}")
        apart = np.linalg.norm(result.evidence.theta - model.evidence_.theta)
        slack = 2 * model.noise_std * model.certificate_.mu  # each theta is that near its optimum
        assert apart <= quote.sensitivity[row] + slack
        assert quote.sensitivity[row] <= 20 * (apart + slack)
        most = np.hypot((quote.sensitivity[row] + 2 * slack) / model.noise_std, model.certificate_.mu)
        assert result.before_after.mu <= most * (1 + 1e-12)
        assert quote.before_after_epsilon[row] >= 0
        assert result.evidence.passes <= quote.passes[row] + 4
    some = model.quote(["p40", "p3"])
    assert some.ids.tolist() == ["p3", "p40"]
    assert_array_equal(some.sensitivity, quote.sensitivity[[3, 40]])
    assert model.quote(rows=[5]).ids.tolist() == ["p5"]
    assert "90 records" in repr(quote)
    with pytest.raises(TypeError, match="got both"):
        model.quote("p3", rows=[3])


@on_every_form
def test_quotes_by_id_hold_for_the_deletion_of_all_rows_of_somebody(form):
    names = [f"p{i // 3}" for i in range(90)]
    model = fitted(form, record_ids=names)
    quote = model.quote(by_id=True)
    assert quote.ids.tolist() == list(dict.fromkeys(names))
    assert quote.n_records.tolist() == [3] * 30
    assert (quote.unit, "30 ids" in repr(quote)) == ("id", True)
    for one in (1, 13, 29):
        result = model.unlearn(f"p{one}")
        apart = np.linalg.norm(result.evidence.theta - model.evidence_.theta)
        slack = 2 * model.noise_std * model.certificate_.mu
        assert apart <= quote.sensitivity[one] + slack
        most = np.hypot((quote.sensitivity[one] + 2 * slack) / model.noise_std, model.certificate_.mu)
        assert result.before_after.mu <= most * (1 + 1e-12)
        assert result.evidence.passes <= quote.passes[one] + 4
    some = model.quote(["p13", "p2"], by_id=True)
    assert some.ids.tolist() == ["p2", "p13"]
    np.testing.assert_allclose(some.sensitivity, quote.sensitivity[[2, 13]], rtol=1e-9)
    assert model.quote(rows=[4, 3], by_id=True).ids.tolist() == ["p1"]  # both are of one person
    frame = quote.to_frame()
    assert frame["n_records"].tolist() == [3] * 30
    assert frame.attrs["unit"] == "id"


def test_an_id_that_has_everything_is_refused():
    model = NewtonRidge().fit(np.eye(3), np.ones(3), record_ids=["a", "a", "a"])
    with pytest.raises(ValueError, match="ids must leave at least one record, got 'a'"):
        model.quote(by_id=True)


def test_quotes_by_id_of_single_records_are_those_of_records():
    model = NewtonRidge().fit(np.eye(4), np.arange(4.0), record_ids=[4, 3, 2, 2**70])
    assert_array_equal(model.quote(by_id=True).sensitivity, model.quote().sensitivity)
    assert model.quote(by_id=True).ids.tolist() == [4, 3, 2, 2**70]


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"noise_std": 0.0}, "noise_std must be"),
        ({"noise_std": float("inf")}, "noise_std must be"),
        ({"epsilon": -1.0}, "epsilon must be"),
        ({"delta": 0.0}, "delta must be"),
        ({"delta": 1.0}, "delta must be"),
        ({"releases": 0}, "releases must be"),
        ({"multi_class": "multinomial"}, "multi_class must be"),
        ({"classes": ["no", "maybe"]}, "y must hold only the classes given, got 'yes'"),
        ({"random_state": -1}, "random_state must be"),
        ({"class_weight": {"yes": -1.0}}, r"class_weight\['yes'\] must be"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        fitted("binary", **options)


def test_noise_below_the_floor_is_refused_with_the_floor():
    with pytest.raises(ValueError, match=r"noise_std must be at least [0-9.e-]+ for these data") as caught:
        fitted("binary", noise_std=1e-14)
    floor = float(str(caught.value).split("at least ")[1].split(" ")[0])
    assert fitted("binary", noise_std=1.1 * floor).certificate_.status == "certified"


def test_classes_taken_from_the_data_make_certificates_conditional():
    model = fitted("softmax", classes=None)
    assert CONDITIONS["classes"] in model.conditions_
    assert model.unlearn([1]).status == "conditional"
    lonely = np.where(np.arange(90) == 40, 7, THREE)
    model = NewtonLogisticRegression().fit(X, lonely)
    with pytest.raises(ValueError, match=r"no record of class 7.*fit with classes= given"):
        model.unlearn([40])
    with pytest.raises(ValueError, match=r"no record of class 7"):
        model.amend([40], y=[1])
    given = NewtonLogisticRegression(classes=[0, 1, 2, 7]).fit(X, lonely)
    assert given.unlearn([40]).status == "certified"


def test_what_is_stated_about_constants_is_in_every_certificate():
    model = fitted("binary", conditions=["scale"])
    assert model.conditions_ == (CONDITIONS["scale"],)
    assert model.unlearn([3]).certificate.conditions == (CONDITIONS["scale"],)


def test_bad_records_are_refused_and_change_nothing():
    model = fitted("binary")
    before = pickle.dumps(model)
    cases = [
        (lambda: model.add(np.full((1, 4), np.nan), ["yes"]), "NaN"),
        (lambda: model.add(X[:1], ["maybe"]), "y must hold the classes"),
        (lambda: model.add(X[:2], ["yes"]), "one entry for each of 2 records"),
        (lambda: model.add(X[:1, :3], ["yes"]), "features"),
        (lambda: model.amend([3], X=X[:2]), "a row for each of 1 records"),
        (lambda: model.amend([3], y=["maybe"]), "y must hold the classes"),
        (lambda: model.unlearn([90]), "90, which none has"),
        (lambda: model.unlearn(rows=[90]), "rows"),
        (lambda: model.unlearn(list(range(90))), "at least one record"),
        (lambda: model.amend([3], sample_weight=[-1.0]), "sample_weight"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            change()
    assert pickle.dumps(model) == before


def test_damaged_files_are_refused(tmp_path):
    path = fitted("softmax").save(tmp_path / "m.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="path: the model at"):
        NewtonLogisticRegression.load(path)
    other = fitted("ridge").save(tmp_path / "r.npz")
    with pytest.raises(ValueError, match="expected a working NewtonLogisticRegression"):
        NewtonLogisticRegression.load(other)


def test_breast_cancer_scores_like_scikit_learn():
    rows, y = load_breast_cancer(return_X_y=True)
    rows = rows / 1000
    ours = NewtonLogisticRegression(alpha=0.01, classes=[0, 1]).fit(rows, y)
    theirs = LogisticRegression(C=100, max_iter=10_000).fit(rows, y)
    assert abs(ours.score(rows, y) - theirs.score(rows, y)) < 0.02
