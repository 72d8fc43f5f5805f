"""Ridge models made from statistics: what they say of a table is what a model of the same records in memory says."""

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge.certificates import CONDITIONS
from expunge.data import RidgeStatistics, blocks, open_records
from expunge.estimators import NoiseWarning
from expunge.runs.ridge import LearningLaw, exact_quotes, shifted_quotes, spectral

SETTINGS = {"n_steps": 300, "noise_std": 1e-4, "step_size": 0.0005, "random_state": 0}
TARGET = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 10}
N = 400


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 64 rows of 5 features, and of few records that are projected together."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 64 * 8 * 5)
    monkeypatch.setattr(spectral, "_BLOCK_ROWS", 48)


def data(n=N, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    return X, X @ rng.normal(size=5) + 0.3 * rng.normal(size=n) + 1.0


def fitted(X, y, *, kind=LangevinRidge, classes=None, ids=None, **more):
    table = open_records(X, target=y, ids=ids)
    model = kind(**{**SETTINGS, **more}).fit_statistics(RidgeStatistics.of(table, classes=classes))
    return model, table


def law_of(model, X, y, monkeypatch):
    """Return the law of arrays with the products that a model was made of."""
    sums = model._history.sums
    products = sums.gram.value.copy(), sums.moment.value
    with monkeypatch.context() as patch:
        patch.setattr(LearningLaw, "_products", lambda _: products)
        design = np.column_stack([X, np.ones(len(X))]) if model.fit_intercept else X
        run = {"step_size": model.step_size_, "n_steps": model.n_steps, "noise_std": model.noise_std}
        return LearningLaw(design, y, alpha=model.alpha, **run)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_model_is_that_of_the_records(intercept, dtype):
    X, y = data()
    X = X.astype(dtype)
    model, _ = fitted(X, y, fit_intercept=intercept)
    other = LangevinRidge(**SETTINGS, fit_intercept=intercept).fit(X, y)
    assert np.allclose(model.coef_, other.coef_, rtol=1e-12, atol=1e-13)
    assert model.coef_.shape == other.coef_.shape
    assert np.isclose(model.intercept_, other.intercept_, rtol=1e-12, atol=1e-13)
    assert model.conditions_ == other.conditions_
    assert model.n_features_in_ == 5
    assert np.array_equal(model.predict(X), model.release().predict(X))


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("step_size", ["auto", "bounded"])
def test_step_sizes_are_those_of_the_records(step_size):
    X, y = data()
    bound = {"norm_bound": 9.0, "n_bound": 512} if step_size == "bounded" else {}
    model, _ = fitted(X, y, step_size=step_size, **bound)
    other = LangevinRidge(**{**SETTINGS, "step_size": step_size, **bound}).fit(X, y)
    assert model.step_size_ == pytest.approx(other.step_size_, rel=1e-14)
    assert model.conditions_ == other.conditions_


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
def test_bounds_are_checked_against_the_longest_row():
    X, y = data()
    X[123] = [3.0, 4.0, 0.0, 12.0, 0.0]
    bounds = {"step_size": "bounded", "n_bound": 512}
    fitted(X, y, norm_bound=13.0, fit_intercept=False, **bounds)
    with pytest.raises(ValueError, match=r"norm_bound must be at least the norm of every row, got 12\.9, but row 123"):
        fitted(X, y, norm_bound=12.9, fit_intercept=False, **bounds)
    with pytest.raises(ValueError, match=r"row 123, constant column included, has norm 13\.03"):
        fitted(X, y, norm_bound=13.0, **bounds)
    with pytest.raises(ValueError, match="step_size must be > 0 and at most 1/L"):
        fitted(X, y, step_size=1.0)


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("n", [2, 47, 48, 64, 97, N])
def test_exact_quotes_have_the_bits_of_one_array_with_the_same_products(n, monkeypatch):
    """Blocks of 64 rows and products of 48: rows wait for those of the next block."""
    X, y = data(n)
    model, table = fitted(X, y)
    found = model.quote(table, **TARGET)
    wanted = exact_quotes(law_of(model, X, y, monkeypatch), np.arange(len(X)), **TARGET)
    for name in ("noise_std", "n_steps", "mu", "epsilon", "error"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    assert found.indices.tolist() == list(range(len(X)))
    assert found.unit == "record"


def test_quotes_of_steps_have_the_bits_of_one_array_too(monkeypatch):
    X, y = data()
    model, table = fitted(X, y)
    target = {"epsilon": 1.0, "delta": 1e-5, "noise_std": 0.3}
    wanted = exact_quotes(law_of(model, X, y, monkeypatch), np.arange(N), **target)
    assert np.array_equal(model.quote(table, **target).n_steps, wanted.n_steps)


@pytest.mark.parametrize("uniform", [True, False])
def test_bounds_are_those_of_one_array_and_hold(uniform, monkeypatch):
    """The law of arrays allows for the roundings of plain sums over all rows: it can only be looser."""
    X, y = data()
    model, table = fitted(X, y)
    found = model.quote(table, method="uniform" if uniform else "shifted", **TARGET)
    wanted = shifted_quotes(law_of(model, X, y, monkeypatch), np.arange(N), uniform=uniform, **TARGET)
    assert np.all(found.noise_std <= wanted.noise_std)
    assert np.allclose(found.noise_std, wanted.noise_std, rtol=1e-10)
    assert found.status == "certified"
    other = LangevinRidge(**SETTINGS).fit(X, y).quote(method=found.method, **TARGET)
    assert np.allclose(found.noise_std, other.noise_std, rtol=1e-10)
    assert (len(set(found.noise_std.tolist())) == 1) == uniform


def test_some_rows_are_quoted_in_the_order_asked_for():
    X, y = data()
    model, table = fitted(X, y)
    whole = model.quote(table, **TARGET)
    rows = [399, 3, 64, 63, 200]
    for name in ("rows", "indices"):
        found = model.quote(table, **{name: rows}, **TARGET)
        assert found.indices.tolist() == rows
        assert np.allclose(found.noise_std, whole.noise_std[rows], rtol=1e-9)
    uniform = model.quote(table, method="uniform", rows=rows, **TARGET)
    assert uniform.noise_std.tolist() == [model.quote(table, method="uniform", **TARGET).noise_std[0]] * 5


@pytest.mark.parametrize("method", ["exact", "shifted"])
@pytest.mark.parametrize("kind", [str, int])
def test_people_are_quoted_with_all_their_rows(method, kind):
    X, y = data()
    names = [kind(i % 150 + 1000) for i in range(N)]
    model, table = fitted(X, y, ids=names)
    other = LangevinRidge(**SETTINGS).fit(X, y, record_ids=names)
    wanted = [kind(1149), kind(1000), kind(1077)]
    found, known = (
        one.quote(*more, ids=wanted, method=method, **TARGET) for one, more in ((model, [table]), (other, []))
    )
    assert found.unit == "id"
    assert found.indices.tolist() == wanted
    assert np.allclose(found.noise_std, known.noise_std, rtol=1e-9)
    with pytest.raises(TypeError, match="ids must hold"):
        model.quote(table, ids=[int(wanted[0]) if kind is str else str(wanted[0])], **TARGET)
    for absent in ([kind(7)], [kind(1000), kind(7)]):
        with pytest.raises(ValueError, match=r"ids must be ids of .*which no record has"):
            model.quote(table, ids=absent, **TARGET)
    with pytest.raises(ValueError, match="table must have ids"):
        model.quote(open_records(X, target=y), ids=wanted, **TARGET)


def test_classes_are_quoted_as_those_of_arrays():
    X, y = data()
    y = np.array(["low", "mid", "top"])[np.digitize(y, [0.0, 2.0])]
    model, table = fitted(X, y, kind=LangevinRidgeClassifier, classes=["top", "low", "mid"])
    other = LangevinRidgeClassifier(**SETTINGS, classes=["low", "mid", "top"]).fit(X, y)
    assert model.classes_.tolist() == other.classes_.tolist()
    assert model.conditions_ == other.conditions_
    assert model.coef_.shape == (3, 5)
    assert np.array_equal(model.predict(X), other.predict(X))
    assert np.allclose(model.quote(table, **TARGET).noise_std, other.quote(**TARGET).noise_std, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
def test_records_near_what_float64_resolves_are_asked_one_by_one():
    """Noise at the floor of the parameters: the certificate's own algebra decides, as it does for arrays."""
    X, y = data(60)
    settings = {"noise_std": 3.6e-9, "step_size": 0.002}
    model, table = fitted(X, y, **settings)
    other = LangevinRidge(**{**SETTINGS, **settings}).fit(X, y)
    found, wanted = model.quote(table, **TARGET), other.quote(**TARGET)
    assert found.certified.any()
    assert np.array_equal(found.certified, wanted.certified)
    finite = np.isfinite(wanted.noise_std)
    assert np.array_equal(finite, np.isfinite(found.noise_std))
    assert np.allclose(found.noise_std[finite], wanted.noise_std[finite], rtol=1e-6)


@pytest.mark.parametrize("change", ["value", "target", "order"])
def test_another_table_is_refused(change):
    X, y = data()
    model, _ = fitted(X, y)
    X, y = X.copy(), y.copy()
    if change == "value":
        X[-1, 4] = np.nextafter(X[-1, 4], 9)
    elif change == "target":
        y[0] = -y[0]
    else:
        X[[1, 300]], y[[1, 300]] = X[[300, 1]], y[[300, 1]]
    for method in ("exact", "uniform"):
        with pytest.raises(ValueError, match="the digests differ"):
            model.quote(open_records(X, target=y), method=method, **TARGET)


def test_a_table_of_another_shape_is_refused():
    X, y = data()
    model, _ = fitted(X, y)
    with pytest.raises(ValueError, match="table must hold the 400 records of the fit, got 399"):
        model.quote(open_records(X[1:], target=y[1:]), **TARGET)
    with pytest.raises(ValueError, match="table must have the 5 features"):
        model.quote(open_records(X[:, 1:], target=y), **TARGET)
    with pytest.raises(ValueError, match="table must have the targets"):
        model.quote(open_records(X), **TARGET)
    with pytest.raises(ValueError, match="table must have 1 targets"):
        model.quote(open_records(X, target=np.column_stack([y, y])), **TARGET)
    with pytest.raises(TypeError, match="table must be Records"):
        model.quote(X, **TARGET)


def test_a_table_is_given_where_there_are_no_records_and_only_there():
    X, y = data()
    model, table = fitted(X, y)
    other = LangevinRidge(**SETTINGS).fit(X, y)
    for ask in (
        lambda one, **more: one.quote(**more, **TARGET),
        lambda one, **more: one.unlearn(0, **more, **TARGET),
        lambda one, **more: one.downdate(0, **more),
        lambda one, **more: one.privacy_profile(0, **more),
    ):
        with pytest.raises(TypeError, match="table must be given"):
            ask(model)
        with pytest.raises(TypeError, match="table must be omitted"):
            ask(other, table=table)
    assert "holds the history and sums of 400 records" in repr(model)


def test_statistics_of_another_kind_are_refused():
    X, y = data()
    labels = (y > 0).astype(int)
    with pytest.raises(TypeError, match="statistics must be RidgeStatistics"):
        LangevinRidge().fit_statistics(X)
    with pytest.raises(ValueError, match="take LangevinRidgeClassifier"):
        LangevinRidge().fit_statistics(RidgeStatistics.of(X, labels, classes=[0, 1]))
    with pytest.raises(ValueError, match="statistics must have classes"):
        LangevinRidgeClassifier().fit_statistics(RidgeStatistics.of(X, labels))
    with pytest.raises(ValueError, match="classes must be those of the statistics"):
        LangevinRidgeClassifier(classes=[0, 1, 2]).fit_statistics(RidgeStatistics.of(X, labels, classes=[0, 1]))
    with pytest.raises(ValueError, match="hold all blocks of a table"):
        LangevinRidge().fit_statistics(RidgeStatistics.of(X, y, start=1))


def test_conditions_are_stated():
    X, y = data()
    statistics = RidgeStatistics.of(X, y)
    model = LangevinRidge(**SETTINGS).fit_statistics(statistics, conditions=["scale"])
    assert model.conditions_ == LangevinRidge(**SETTINGS).fit(X, y, conditions=["scale"]).conditions_
    assert CONDITIONS["scale"] in model.conditions_


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
def test_classes_that_the_records_named_are_a_condition_as_for_arrays(tmp_path):
    X, y = data()
    y = np.array(["low", "mid", "top"])[np.digitize(y, [0.0, 2.0])]
    y[9] = "odd"
    table = open_records(X, target=y)
    statistics = RidgeStatistics.of(table, classes=np.unique(y))
    model = LangevinRidgeClassifier(**SETTINGS).fit_statistics(statistics, conditions=["classes"])
    other = LangevinRidgeClassifier(**SETTINGS).fit(X, y)
    assert model.conditions_ == other.conditions_
    assert CONDITIONS["classes"] in model.conditions_
    assert np.array_equal(model.predict(table), model.predict(X))
    assert model.score(table) == model.score(X, y)
    model = LangevinRidgeClassifier.load(model.save(tmp_path / "m.npz"))
    with pytest.raises(ValueError, match="leaves no record of class 'odd'"):
        model.unlearn(table=table, rows=9, **TARGET)
    result = model.unlearn(table=table, rows=[9, 10], last_of_class="conditional", **TARGET)
    assert CONDITIONS["last_of_class"] in result.certificate.conditions
    assert result.certificate.verify(table).status == "conditional"
    certificate = model.unlearn(table=table, rows=8, **TARGET).certificate
    assert CONDITIONS["last_of_class"] not in certificate.conditions
    given = LangevinRidgeClassifier(**SETTINGS).fit_statistics(statistics)
    assert CONDITIONS["last_of_class"] not in given.unlearn(table=table, rows=9, **TARGET).certificate.conditions


def test_noise_that_costs_is_warned_of_as_for_arrays():
    X, y = data()
    found = []
    for fit in (lambda model: model.fit(X, y), lambda model: model.fit_statistics(RidgeStatistics.of(X, y))):
        with pytest.warns(NoiseWarning, match="training R") as caught:
            fit(LangevinRidge(**{**SETTINGS, "noise_std": 1.0}))
        found.append(caught[0].message)
        assert caught[0].filename == __file__
    assert str(found[0]) == str(found[1])
    assert found[0].settings == found[1].settings
    with pytest.warns(NoiseWarning, match="do not reach the optimum$"):  # no other scale is proposed without records
        LangevinRidge(n_steps=2, step_size=1e-9).fit_statistics(RidgeStatistics.of(X, y))


def test_names_of_features_are_kept_and_checked():
    pandas = pytest.importorskip("pandas")
    X, y = data()
    frame = pandas.DataFrame(X, columns=list("abcde"))
    model = LangevinRidge(**SETTINGS).fit_statistics(RidgeStatistics.of(frame, y))
    assert model.feature_names_in_.tolist() == list("abcde")
    assert model.release().feature_names_in_.tolist() == list("abcde")
    model.fit_statistics(RidgeStatistics.of(X, y))
    assert not hasattr(model, "feature_names_in_")
