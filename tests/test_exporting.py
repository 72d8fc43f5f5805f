"""Released models and quotes in the forms of other libraries: the same numbers, and nothing of the data."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge import (
    LangevinRidge,
    LangevinRidgeClassifier,
    NewtonLogisticRegression,
    NewtonRidge,
    NewtonRidgeClassifier,
)
from expunge.estimators import ReleasedLogisticRegression, ReleasedRidge, ReleasedRidgeClassifier
from expunge.estimators.newton.quotes import NewtonQuote

RNG = np.random.default_rng(7)
X = RNG.normal(size=(60, 4))
LABELS = {
    "two": np.where(X[:, 0] > 0, "yes", "no"),
    "three": np.digitize(X[:, 0], [-0.5, 0.5]) * 10,
    "floats": np.digitize(X[:, 1], [-0.5, 0.5]).astype(float),
    "bools": X[:, 2] > 0,
}
EPS = np.finfo(float).eps


def scale(model, rows):
    """Bound on the rounding of one score: products and sums of these sizes."""
    return 4 * (rows.shape[1] + 2) * EPS * float((np.abs(rows) @ np.abs(np.atleast_2d(model.coef_)).T).max() + 1)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("kind", ["ridge", "softmax", "ovr", "langevin"])
def test_scikit_learn_s_estimator_scores_and_labels_alike(kind, labels):
    y = LABELS[labels]
    made = {
        "ridge": NewtonRidgeClassifier(),
        "softmax": NewtonLogisticRegression(),
        "ovr": NewtonLogisticRegression(multi_class="ovr"),
        "langevin": LangevinRidgeClassifier(random_state=0),
    }[kind].fit(X, y)
    model = made.release()
    other = model.to_sklearn()
    assert other.n_features_in_ == 4
    np.testing.assert_array_equal(other.classes_, model.classes_)
    fresh = np.random.default_rng(1).normal(size=(500, 4))
    close = scale(model, fresh)
    np.testing.assert_allclose(other.decision_function(fresh), model.decision_function(fresh), rtol=0, atol=2 * close)
    mine, theirs = model.predict(fresh), other.predict(fresh)
    np.testing.assert_array_equal(mine, theirs)
    assert mine.dtype == theirs.dtype
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(other.predict_proba(fresh), model.predict_proba(fresh), rtol=0, atol=8 * close)


@pytest.mark.parametrize("outputs", [None, 1, 3])
def test_a_regressor_predicts_the_same_bits(outputs):
    y = RNG.normal(size=60 if outputs is None else (60, outputs))
    model = NewtonRidge().fit(X, y).release()
    fresh = np.random.default_rng(1).normal(size=(50, 4))
    np.testing.assert_array_equal(model.to_sklearn().predict(fresh), model.predict(fresh))


def test_without_an_intercept_there_is_none():
    model = LangevinRidge(fit_intercept=False, random_state=0).fit(X, X[:, 0]).release()
    assert model.to_sklearn().predict(np.zeros((1, 4))).tolist() == [0.0]


def test_an_exported_model_shares_no_memory_and_knows_the_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    for model in (
        NewtonRidge().fit(frame, X[:, 0]).release(),
        NewtonRidgeClassifier().fit(frame, LABELS["three"]).release(),
        NewtonLogisticRegression(multi_class="ovr").fit(frame, LABELS["three"]).release(),
    ):
        before = model.predict(frame)
        other = model.to_sklearn()
        assert other.feature_names_in_.tolist() == ["a", "b", "c", "d"]
        with pytest.raises(ValueError, match="feature names"):
            other.predict(frame[["b", "a", "c", "d"]])
        for one in getattr(other, "estimators_", [other]):
            assert not np.shares_memory(one.coef_, model.coef_)
            one.coef_[...] = 0
        other.feature_names_in_[0] = "z"
        np.testing.assert_array_equal(model.predict(frame), before)


def test_a_model_of_one_class_is_refused():
    one = np.array(["only"])
    for model in (
        ReleasedRidgeClassifier._from_parts(np.ones((1, 4)), np.ones(1), conditions=(), classes=one),
        ReleasedLogisticRegression._from_parts(np.ones((1, 4)), np.ones(1), conditions=(), classes=one, softmax=False),
    ):
        with pytest.raises(ValueError, match="at least two classes, got 1"):
            model.to_sklearn()


@given(seed=st.integers(0, 2**32 - 1), d=st.integers(1, 6), q=st.integers(3, 5), softmax=st.booleans())
@settings(max_examples=25)
def test_any_logistic_coefficients_give_the_same_chances(seed, d, q, softmax):
    rng = np.random.default_rng(seed)
    model = ReleasedLogisticRegression._from_parts(
        rng.normal(size=(q, d)) * 30,
        rng.normal(size=q),
        conditions=(),
        classes=np.arange(q),
        softmax=softmax,
    )
    rows = rng.normal(size=(40, d))
    close = 16 * scale(model, rows)
    # Chances of which all are 0 are left at 0 by scikit-learn; there the scores decide.
    mine, theirs = model.predict_proba(rows), model.to_sklearn().predict_proba(rows)
    told = theirs.sum(axis=1) > 1e-280
    np.testing.assert_allclose(theirs[told], mine[told], rtol=close, atol=close)


@pytest.mark.parametrize("labels", ["two", "three"])
@pytest.mark.parametrize("kind", [NewtonRidgeClassifier, NewtonLogisticRegression])
def test_onnx_runtime_labels_alike(kind, labels):
    skl2onnx = pytest.importorskip("skl2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = kind().fit(X, LABELS[labels]).release()
    made = skl2onnx.to_onnx(model.to_sklearn(), X[:1].astype(np.float32), options={"zipmap": False})
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    fresh = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32)
    found = session.run(None, {session.get_inputs()[0].name: fresh})[0]
    scores = model.decision_function(fresh)
    sure = np.abs(scores) if scores.ndim == 1 else np.diff(np.sort(scores, axis=1)[:, -2:])[:, 0]
    told = sure > 1e-4 * np.abs(scores).max()  # the runtime computes in float32
    assert told.mean() > 0.99
    np.testing.assert_array_equal(found[told], model.predict(fresh)[told])


def test_safetensors_hold_the_numbers_and_what_they_mean(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    from safetensors import safe_open

    model = NewtonLogisticRegression().fit(X, LABELS["three"]).release()
    path = model.to_safetensors(tmp_path / "model.safetensors")
    arrays = numpy.load_file(path)
    np.testing.assert_array_equal(arrays["coef"], model.coef_)
    np.testing.assert_array_equal(arrays["intercept"], model.intercept_)
    with safe_open(path, "numpy") as file:
        notes = {name: json.loads(text) for name, text in file.metadata().items()}
    assert notes == {
        "kind": "ReleasedLogisticRegression",
        "conditions": ["the class list was taken from data that held the deleted records"],
        "classes": [0, 10, 20],
        "softmax": True,
    }
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        model.to_safetensors(path)
    assert path.read_bytes() == before
    single = ReleasedRidge._from_parts(np.ones(4), 2.0, conditions=("seeded",))
    arrays = numpy.load_file(single.to_safetensors(tmp_path / "ridge.safetensors"))
    assert (arrays["coef"].shape, arrays["intercept"].tolist()) == ((4,), [2.0])


def test_what_is_missing_is_said_with_how_to_install_it(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match="to_safetensors needs safetensors: pip install"):
        NewtonRidge().fit(X, X[:, 0]).release().to_safetensors(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="to_arrow needs pyarrow: pip install"):
        NewtonRidge().fit(X, X[:, 0]).quote().to_arrow()


def quotes():
    ids = [f"c{i}" for i in range(60)]
    yield LangevinRidge(random_state=0).fit(X, X[:, 0], record_ids=ids).quote(epsilon=1.0, delta=1e-5, n_steps=30)
    yield NewtonRidge().fit(X, X[:, 0], record_ids=ids).quote()


def test_quotes_are_arrow_tables_that_say_what_they_are():
    pyarrow = pytest.importorskip("pyarrow")
    for quote in quotes():
        table = quote.to_arrow()
        assert table.num_rows == len(quote)
        assert table.schema.metadata[b"expunge.status"].decode() == quote.status
        assert pyarrow.table(quote).equals(table)  # by the stream interface
        for name, values in quote._columns().items():
            assert table[name].to_pylist() == values.tolist()


def test_polars_and_pandas_read_quotes():
    pytest.importorskip("pyarrow")
    polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")
    for quote in quotes():
        frame = polars.DataFrame(quote)
        assert frame.height == len(quote)
        pandas.testing.assert_frame_equal(quote.to_frame(), frame.to_pandas(), check_dtype=False)


def test_a_newton_quote_is_written_whole(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    quote = NewtonRidge().fit(X, X[:, 0]).quote(rows=[3, 1])
    assert isinstance(quote, NewtonQuote)
    found = parquet.read_table(quote.to_parquet(tmp_path / "quote.parquet"))
    assert found["id"].to_pylist() == [3, 1]
    assert found.schema.metadata[b"expunge.delta"] == b"1e-05"
    assert (tmp_path / "quote.parquet").stat().st_mode & 0o777 == 0o600


def test_ids_of_more_than_64_bits_stay_distinct():
    pytest.importorskip("pyarrow")
    ids = [2**70 + i for i in range(60)]
    table = NewtonRidge().fit(X, X[:, 0], record_ids=ids).quote().to_arrow()
    assert table["id"].to_pylist() == [str(one) for one in ids]


def test_numbers_of_a_claim_by_name():
    model = NewtonRidge(epsilon=2.0).fit(X, X[:, 0])
    metrics = model.certificate_.metrics()
    assert (metrics["epsilon"], metrics["mu"]) == (2.0, model.certificate_.mu)
    assert set(metrics) == {"epsilon", "delta", "mu", "noise_std", "alpha"}
    result = LangevinRidge(random_state=0).fit(X, X[:, 0]).unlearn(rows=[0], epsilon=1.0, delta=1e-5, n_steps=30)
    assert set(result.certificate.metrics()) == {"epsilon", "delta", "delta_pq", "delta_qp"}
    assert all(type(value) is float for value in result.certificate.metrics().values())
