"""The estimators: scikit-learn's contract, and what a person who deletes a record relies on."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.utils.estimator_checks import estimator_checks_generator

from expunge import LangevinRidge, LangevinRidgeClassifier, ReleasedRidge, ReleasedRidgeClassifier
from expunge.accounting import gdp_delta
from expunge.certificates import CONDITIONS
from expunge.langevin import langevin_chains
from expunge.runs.noise import os_normals
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.law import Phase

# Laws of deletions from few records, where noise costs much; the warning has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

TARGET = {"epsilon": 1.0, "delta": 1e-5}


# A list: releases of scikit-learn differ in what their own decorator hands to pytest.
CONTRACT = [
    pytest.param(estimator, check, id=f"{kind.__name__}-{getattr(check, 'func', check).__name__}")
    for kind in (LangevinRidge, LangevinRidgeClassifier)
    for estimator, check in estimator_checks_generator(kind(random_state=0))
]


@pytest.mark.parametrize(("estimator", "check"), CONTRACT)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return 10 * X[:60], y[:60] / 100


@pytest.fixture(scope="module")
def model(diabetes):
    return LangevinRidge(alpha=0.1, n_steps=80, noise_std=0.1, random_state=3).fit(*diabetes)


@pytest.fixture(scope="module")
def classifier():
    X, y = load_iris(return_X_y=True)
    return LangevinRidgeClassifier(n_steps=50, random_state=1).fit(X, np.array(["a", "b", "c"])[y])


# --- learning -----------------------------------------------------------------------------------


def test_fit_is_the_langevin_chain_of_its_seed(diabetes, model):
    X, y = diabetes
    design = np.column_stack([X, np.ones(len(X))])
    chain = langevin_chains(
        design, y, loss="squared", alpha=0.1, step_size=model.step_size_, noise_std=0.1, n_steps=80, n_chains=1, seed=3
    )
    theta = np.r_[model.coef_, model.intercept_]
    np.testing.assert_allclose(np.ravel(chain), theta, rtol=1e-10, atol=1e-12)


def test_no_seed_differs_and_a_seed_repeats(diabetes):
    fits = [LangevinRidge(random_state=seed).fit(*diabetes).coef_ for seed in (None, None, 5, 5)]
    assert not np.array_equal(fits[0], fits[1])
    assert np.array_equal(fits[2], fits[3])


def test_without_noise_learning_converges_to_the_downdated_optimum_of_nothing(diabetes):
    X, y = diabetes
    model = LangevinRidge(alpha=1.0, n_steps=2000, noise_std=0.0, random_state=0).fit(X, y)
    keep = np.arange(len(X)) != 4
    design = np.column_stack([X, np.ones(len(X))])[keep]
    optimum = np.linalg.solve(design.T @ design + np.eye(design.shape[1]), design.T @ y[keep])
    baseline = model.downdate(4)
    np.testing.assert_allclose(np.r_[baseline.coef_, baseline.intercept_], optimum, rtol=1e-9, atol=1e-11)
    assert isinstance(baseline, ReleasedRidge)


def test_downdate_of_a_group_equals_a_fresh_solve(classifier):
    history = classifier._history
    rows = [0, 60, 120]
    keep = np.setdiff1d(np.arange(150), rows)
    design, targets = history.design[keep], history.targets[keep]
    optimum = np.linalg.solve(design.T @ design + np.eye(5), design.T @ targets)
    np.testing.assert_allclose(classifier.downdate(rows).coef_, optimum[:4].T, rtol=1e-8, atol=1e-10)


def test_step_size_and_classes_are_constants_of_the_first_fit(classifier):
    rows = np.flatnonzero(classifier._history.labels == "c")
    with pytest.raises(ValueError, match="no record of class 'c'"):
        classifier.unlearn(rows, epsilon=3.0, delta=1e-3, n_steps=5)  # the class list would tell that there was a "c"
    result = classifier.unlearn(rows[1:], epsilon=3.0, delta=1e-3, n_steps=5)
    assert result.model.step_size_ == classifier.step_size_
    assert list(result.model.classes_) == ["a", "b", "c"]
    assert result.model.coef_.shape == (3, 4)


def test_os_normals_are_standard_normal_and_fresh():
    draws = os_normals(0, (200, 100))
    assert not np.array_equal(draws, os_normals(0, (200, 100)))
    assert abs(draws.mean()) < 6 / np.sqrt(draws.size)
    assert abs(draws.var() - 1) < 6 * np.sqrt(2 / draws.size)


def test_step_size_above_one_over_l_is_refused(diabetes):
    limit = LangevinRidge(random_state=0).fit(*diabetes).step_size_
    LangevinRidge(step_size=limit * (1 + 5e-10), random_state=0).fit(*diabetes)
    with pytest.raises(ValueError, match="step_size"):
        LangevinRidge(step_size=limit * 1.001, random_state=0).fit(*diabetes)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("alpha", 0.0),
        ("alpha", np.nan),
        ("n_steps", 0),
        ("n_steps", 2.5),
        ("noise_std", -0.1),
        ("noise_std", np.inf),
        ("step_size", "fast"),
        ("step_size", -1.0),
        ("random_state", -3),
        ("random_state", "x"),
    ],
)
def test_bad_parameters_are_named(diabetes, parameter, value):
    with pytest.raises((ValueError, TypeError), match=parameter):
        LangevinRidge(**{parameter: value}).fit(*diabetes)


# --- quoting ------------------------------------------------------------------------------------


def test_quote_agrees_with_the_dense_profile(model):
    quote = model.quote(**TARGET, n_steps=10)
    assert quote.indices.tolist() == list(range(60))
    for i in (0, 7, 31):
        noise = quote.noise_std[i]
        if noise > 0:
            assert model.privacy_profile(i, n_steps=10, noise_std=noise * (1 + 1e-6)).delta(1.0) <= 1e-5
            assert model.privacy_profile(i, n_steps=10, noise_std=noise * (1 - 1e-5)).delta(1.0) > 1e-5
        else:
            assert model.privacy_profile(i).delta(1.0) <= 1e-5


def test_exact_needs_no_more_noise_than_shifted_nor_shifted_than_uniform(model):
    exact, shifted, uniform = (
        model.quote(**TARGET, n_steps=10, method=name).noise_std for name in ("exact", "shifted", "uniform")
    )
    assert np.all(exact <= shifted * (1 + 1e-6))
    assert np.all(shifted <= uniform * (1 + 1e-6))


def test_quote_keeps_the_order_of_indices_and_uniform_ignores_them(model):
    everyone = model.quote(**TARGET, n_steps=10)
    some = model.quote(**TARGET, n_steps=10, indices=[9, 2, 40])
    assert some.indices.tolist() == [9, 2, 40]
    np.testing.assert_allclose(some.noise_std, everyone.noise_std[[9, 2, 40]], rtol=1e-6)
    alone = model.quote(**TARGET, n_steps=10, method="uniform", indices=[9])
    assert alone.noise_std[0] == model.quote(**TARGET, n_steps=10, method="uniform").noise_std[0]


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_steps_for_a_noise_are_the_fewest(model, method):
    noise = float(np.median(model.quote(**TARGET, n_steps=10, method=method).noise_std))
    if noise == 0:
        noise = 0.05
    steps = model.quote(**TARGET, noise_std=noise, method=method)
    for i in (3, 20):
        k = int(steps.n_steps[i])
        if k > 1:
            fewer = model.quote(**TARGET, n_steps=k - 1, method=method, indices=[i])
            assert fewer.noise_std[0] >= noise * (1 - 1e-6)
        if k > 0:
            enough = model.quote(**TARGET, n_steps=k, method=method, indices=[i])
            assert enough.noise_std[0] <= noise * (1 + 1e-6)


def test_groups_are_quoted_together(model):
    groups = np.arange(60) // 3
    quote = model.quote(**TARGET, n_steps=10, groups=groups)
    assert quote.unit == "group"
    assert quote.indices.tolist() == list(range(20))
    noise = quote.noise_std[4]
    assert noise > 0
    profile = model.privacy_profile([12, 13, 14], n_steps=10, noise_std=noise * (1 + 1e-6))
    assert profile.delta(1.0) <= 1e-5
    assert model.privacy_profile([12, 13, 14], n_steps=10, noise_std=noise * (1 - 1e-5)).delta(1.0) > 1e-5


def test_groups_may_have_names_and_keep_the_order_of_indices(model):
    names = np.array([f"person {i // 3}" for i in range(60)], dtype=object)
    quote = model.quote(**TARGET, n_steps=10, groups=names, indices=[14, 0, 12])
    assert quote.indices.tolist() == ["person 4", "person 0"]
    numbered = model.quote(**TARGET, n_steps=10, groups=np.arange(60) // 3)
    np.testing.assert_allclose(quote.noise_std, numbered.noise_std[[4, 0]], rtol=1e-6)


def test_groups_of_one_are_records(model):
    np.testing.assert_allclose(
        model.quote(**TARGET, n_steps=10, groups=np.arange(60)).noise_std,
        model.quote(**TARGET, n_steps=10).noise_std,
        rtol=1e-5,
    )


@pytest.mark.parametrize("method", ["shifted", "uniform"])
def test_bounds_on_groups_cost_more_than_on_their_members(model, method):
    groups = np.arange(60) // 3
    group = model.quote(**TARGET, n_steps=10, method=method, groups=groups, indices=[12]).noise_std[0]
    assert group >= model.quote(**TARGET, n_steps=10, method=method, indices=[12]).noise_std[0]


def test_quote_reaches_its_epsilon_and_says_what_it_is(model):
    for method in ("exact", "shifted", "uniform"):
        quote = model.quote(**TARGET, n_steps=10, method=method)
        assert np.all(quote.epsilon <= 1.0 + 1e-6)
        assert np.all(gdp_delta(quote.mu, quote.epsilon) <= 1e-5 * (1 + 1e-6))
        assert set(quote.to_frame()["status"]) <= {"certified", "estimate"}
        if method != "exact":
            assert quote.status == "certified"


def test_a_bound_that_no_noise_meets_is_infinite_and_not_certified(model):
    quote = model.quote(epsilon=3.0, delta=1e-5, n_steps=10, method="shifted", indices=[0])
    assert quote.noise_std[0] == np.inf
    assert not quote.certified[0]


def test_quote_to_parquet_is_whole_and_labelled(model, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs expunge[parquet]")
    quote = model.quote(**TARGET, n_steps=10)
    path = quote.to_parquet(tmp_path / "quote.parquet")
    table = parquet.read_table(path)
    assert table.column("noise_std").to_pylist() == quote.noise_std.tolist()
    assert table.schema.metadata[b"expunge.method"] == b"exact"
    with pytest.raises(FileExistsError):
        quote.to_parquet(path)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": np.nan}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"n_steps": 0}, "n_steps"),
        ({"n_steps": None}, "n_steps"),
        ({"noise_std": 0.1}, "n_steps"),
        ({"method": "magic"}, "method"),
        ({"indices": [60]}, "indices"),
        ({"indices": [1, 1]}, "indices"),
        ({"indices": []}, "indices"),
        ({"indices": [0.5]}, "indices"),
        ({"groups": np.zeros(59, dtype=int)}, "groups"),
        ({"groups": np.zeros(60, dtype=int)}, "groups"),
        ({"groups": np.zeros(60)}, "groups"),
    ],
)
def test_bad_quotes_are_named(model, arguments, name):
    with pytest.raises((ValueError, TypeError), match=name):
        model.quote(**{**TARGET, "n_steps": 10, **arguments})


# --- unlearning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
@pytest.mark.parametrize("rows", [[5], [5, 6]])
def test_unlearn_certifies_and_verifies(diabetes, model, method, rows):
    before = model.coef_
    result = model.unlearn(rows, **TARGET, n_steps=10, method=method)
    assert np.array_equal(model.coef_, before)
    certificate = result.certificate
    assert certificate.status == "conditional"  # the learning seed is known
    certificate.verify(*diabetes, result.model)
    noise = result.model._history.phases[-1].noise_std
    assert model.privacy_profile(rows, n_steps=10, noise_std=noise).delta(1.0) <= 1e-5


def test_constants_computed_from_the_data_make_the_certificate_conditional(diabetes):
    model = LangevinRidge(alpha=0.1, n_steps=80, noise_std=0.02).fit(*diabetes)
    certificate = model.unlearn(0, **TARGET, n_steps=5).certificate
    assert certificate.status == "conditional"
    assert set(certificate.conditions) == {CONDITIONS["step_size"], CONDITIONS["noise_std"]}


def test_unlearn_takes_about_the_quoted_noise(model):
    quoted = model.quote(**TARGET, n_steps=10, indices=[8]).noise_std[0]
    taken = model.unlearn(8, **TARGET, n_steps=10).model._history.phases[-1].noise_std
    assert taken == pytest.approx(quoted, rel=1e-5)


def test_unlearned_model_is_the_noisy_steps_on_what_remains(model):
    """With the noise removed from the comparison by averaging: the mean of many deletions is the noise-free run."""
    result = model.unlearn(8, **TARGET, n_steps=10)
    phase = result.model._history.phases[-1]
    keep = np.arange(60) != 8
    history = model._history
    equations = NormalEquations.of(history.design[keep], history.targets[keep], alpha=history.alpha)
    silent = Phase(phase.n_steps, 0.0, phase.removed)
    still = equations.steps(model._theta, step_size=history.step_size, phase=silent, normals=os_normals)
    draws = np.stack([model.unlearn(8, **TARGET, n_steps=10).model._theta for _ in range(40)])
    # Without contraction the noise would have variance K tau^2 per coordinate; with it, less.
    standard_error = phase.noise_std * np.sqrt(10 / 40)
    assert np.all(np.abs(draws.mean(axis=0) - still) <= 6 * standard_error)
    assert draws.std() > 0


def test_sequential_deletion_is_certified_against_the_run_that_never_saw_any(diabetes, model):
    first = model.unlearn(3, **TARGET, n_steps=10)
    second = first.model.unlearn([10, 11], **TARGET, n_steps=15)
    certificate = second.certificate
    assert certificate.run.deleted == (3, 10, 11)
    assert len(certificate.run.phases) == 3
    certificate.verify(*diabetes, second.model)
    profile = first.model.privacy_profile([10, 11], n_steps=15, noise_std=certificate.run.phases[-1].noise_std)
    assert profile.delta(1.0) <= 1e-5
    quote = first.model.quote(**TARGET, n_steps=15, indices=[10])
    assert quote.certified.all()
    with pytest.raises(ValueError, match="deleted before"):
        first.model.unlearn(3, **TARGET, n_steps=10)
    with pytest.raises(ValueError, match="deleted before"):
        first.model.quote(**TARGET, n_steps=10, indices=[3])
    with pytest.raises(ValueError, match="uniform"):
        first.model.unlearn(4, **TARGET, n_steps=10, method="uniform")


def test_unreachable_target_is_refused(model):
    with pytest.raises(ValueError, match="epsilon"):
        model.unlearn(0, epsilon=3.0, delta=1e-5, n_steps=5, method="shifted")


@pytest.mark.parametrize("rows", [[60], [-1], [1, 1], [], list(range(60)), [[0]], ["a"]])
def test_bad_deletions_are_refused(model, rows):
    with pytest.raises((ValueError, TypeError), match="indices"):
        model.unlearn(rows, **TARGET, n_steps=5)
    with pytest.raises((ValueError, TypeError), match="indices"):
        model.privacy_profile(rows, n_steps=5, noise_std=0.1)


# --- letting go ---------------------------------------------------------------------------------


def leaves_of(value, seen=None):
    """Yield every array and number reachable from an object's state."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves_of(item)
    elif hasattr(value, "__dict__"):
        yield from leaves_of(vars(value))


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_released_model_holds_nothing_of_a_deleted_row(kind, model, classifier, diabetes, tmp_path):
    source = model if kind == "regressor" else classifier
    row = source._history.design[5, : source.n_features_in_]
    released = source.unlearn(5, **TARGET, n_steps=5).model.release()
    saved = released.save(tmp_path / "released.npz").read_bytes()
    for blob in (pickle.dumps(released), saved):
        for value in row[np.abs(row) > 1e-3]:
            assert value.tobytes() not in blob
            assert value.astype(">f8").tobytes() not in blob
    assert {array.size for array in leaves_of(released)} <= {released.coef_.size, np.size(released.intercept_), 3}
    again = type(released).load(tmp_path / "released.npz")
    X = source._history.design[:, : source.n_features_in_]
    assert np.array_equal(again.predict(X), released.predict(X))
    with pytest.raises(TypeError, match="released"):
        released.fit(X, released.predict(X))
    assert isinstance(released, (ReleasedRidge, ReleasedRidgeClassifier))


def test_working_model_says_that_it_is_confidential(model):
    assert "confidential" in repr(model)
    assert "60 records" in repr(model)
    assert "confidential" not in repr(LangevinRidge())


def test_forgotten_history_refuses_further_certificates(diabetes):
    model = LangevinRidge(random_state=0).fit(*diabetes)
    predictions = model.predict(diabetes[0])
    model.forget_history()
    assert np.array_equal(model.predict(diabetes[0]), predictions)
    for ask in (
        lambda: model.quote(**TARGET, n_steps=5),
        lambda: model.unlearn(0, **TARGET, n_steps=5),
        lambda: model.privacy_profile(0),
        lambda: model.downdate(0),
    ):
        with pytest.raises(RuntimeError, match="forget_history"):
            ask()
    assert diabetes[0][7].tobytes() not in pickle.dumps(model)


def test_clone_forgets(model):
    assert not hasattr(clone(model), "_theta")


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_save_and_load_is_the_identity(kind, model, classifier, tmp_path):
    source = (model if kind == "regressor" else classifier).unlearn(2, **TARGET, n_steps=5).model
    path = source.save(tmp_path / "model.npz")
    loaded = type(source).load(path)
    X = source._history.design[:, : source.n_features_in_]
    assert np.array_equal(loaded.predict(X), source.predict(X))
    assert loaded._history.phases == source._history.phases
    assert loaded.get_params() == {**source.get_params(), "random_state": None}
    ours, theirs = (
        source.privacy_profile(9, n_steps=3, noise_std=0.1),
        loaded.privacy_profile(9, n_steps=3, noise_std=0.1),
    )
    assert ours.delta(1.0) == theirs.delta(1.0)
    with pytest.raises(FileExistsError):
        source.save(path)
    source.save(path, overwrite=True)


def test_load_of_another_kind_is_refused(model, classifier, tmp_path):
    path = model.save(tmp_path / "model.npz")
    with pytest.raises(ValueError, match="LangevinRidgeClassifier"):
        LangevinRidgeClassifier.load(path)
    with pytest.raises(ValueError, match="released"):
        ReleasedRidge.load(path)
    with pytest.raises(FileNotFoundError, match="path"):
        LangevinRidge.load(tmp_path / "absent.npz")


@settings(max_examples=25)
@given(st.floats(0, 1, exclude_max=True))
def test_truncated_model_file_is_refused(model, tmp_path_factory, fraction):
    folder = tmp_path_factory.mktemp("truncated")
    data = model.save(folder / "model.npz").read_bytes()
    (folder / "cut.npz").write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(ValueError, match=r"path|model"):
        LangevinRidge.load(folder / "cut.npz")


def test_digits_end_to_end():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    model = LangevinRidgeClassifier(random_state=0).fit(X[:1200], y[:1200])
    baseline = model.score(X[1200:], y[1200:])
    result = model.unlearn(17, **TARGET, n_steps=30)
    assert baseline > 0.75
    assert result.model.release().score(X[1200:], y[1200:]) > baseline - 0.05
    result.certificate.verify(X[:1200], y[:1200], result.model)


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_a_quote_needs_little_more_memory_than_the_data(method):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((6000, 40)), rng.standard_normal((6000, 2))
    model = LangevinRidge(n_steps=25, random_state=0).fit(X, y)
    model.quote(**TARGET, n_steps=5, method=method, indices=[0])  # what is allocated once per process is not counted
    tracemalloc.start()
    try:
        model.quote(**TARGET, n_steps=5, method=method)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    residual_table = 8 * 6000 * 25 * 2
    assert peak < 2 * X.nbytes + residual_table
