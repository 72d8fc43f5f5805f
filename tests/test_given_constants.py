"""Constants of a run: given ones say nothing of a deleted record, those taken from the data are named everywhere."""

import pickle
import re
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris

from expunge import LangevinRidge, LangevinRidgeClassifier, NoiseWarning, ReleasedRidge, ReleasedRidgeClassifier
from expunge.data.constants import CONDITIONS, GRID_NOTE
from expunge.estimators._conditions import SEED_CONDITION

# How well a model of few records predicts is not the matter here.
pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

TARGET = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 20}
GENERATOR = np.random.default_rng(5)
N, D = 40, 3
X = GENERATOR.uniform(-1, 1, size=(N, D))
Y = X @ np.arange(1.0, 4.0) + 0.1 * GENERATOR.normal(size=N)
LABELS = np.array(["a", "b", "c"])[np.digitize(Y, [-0.7, 0.7])]
GIVEN = {"step_size": 0.01, "noise_std": 0.05}


def given(**more):
    return LangevinRidge(**{**GIVEN, **more}).fit(X, Y)


def last_noise(result):
    return result.certificate.run.phases[-1].noise_std


# --- what only the caller knows ------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CONDITIONS, "the vocabulary was built from these records"])
def test_a_condition_told_to_fit_stands_in_certificates_releases_and_files(name, tmp_path):
    text = CONDITIONS.get(name, name)
    fitted = [
        LangevinRidge(**GIVEN).fit(X, Y, conditions=[name]),
        LangevinRidgeClassifier(**GIVEN, classes=["a", "b", "c"]).fit(X, LABELS, conditions=[text, name]),
    ]
    for model in fitted:
        model.save(tmp_path / "m.npz", overwrite=True)
        for one in (model, type(model).load(tmp_path / "m.npz")):
            assert one.conditions_ == one.release().conditions_ == (text,)
            result = one.unlearn(1, **TARGET, noise_std=1.0)
            assert (result.certificate.status, result.certificate.conditions) == ("conditional", (text,))
            assert result.model.release().conditions_ == (text,)
        assert model.fit(X, Y if isinstance(model, LangevinRidge) else LABELS).conditions_ == ()  # of that fit alone


@pytest.mark.parametrize("conditions", ["scale", [None], [""], ["two\nlines"], 5])
def test_conditions_that_are_no_texts_are_refused(conditions):
    with pytest.raises((TypeError, ValueError), match="conditions must be"):
        LangevinRidge(**GIVEN).fit(X, Y, conditions=conditions)


# --- step size -----------------------------------------------------------------------------------


def test_a_number_is_given_and_auto_is_named():
    assert given().conditions_ == ()
    assert given(step_size="auto").conditions_ == (CONDITIONS["step_size"],)


def test_a_bounded_step_is_made_of_the_bounds_alone():
    models = [given(step_size="bounded", norm_bound=2.0, n_bound=64, alpha=3.0)]
    models.append(LangevinRidge(alpha=3.0, step_size="bounded", norm_bound=2.0, n_bound=64).fit(X[:20], Y[:20]))
    assert {model.step_size_ for model in models} == {1 / (64 * 2.0**2 + 3.0)}
    assert models[0].conditions_ == ()
    certificate = models[0].unlearn(3, **TARGET, noise_std=1.0).certificate
    assert certificate.status == "certified"
    assert (certificate.run.sources.norm_bound, certificate.run.sources.n_bound) == (2.0, 64)
    certificate.verify(X, Y)


def test_without_a_bound_on_their_number_records_are_counted_in_powers_of_two():
    model = given(step_size="bounded", norm_bound=2.0)
    assert model.step_size_ == 1 / (64 * 2.0**2 + 1.0)
    assert model.conditions_ == (CONDITIONS["step_size"],)


def test_the_largest_norm_is_a_bound():
    largest = float(np.linalg.norm(np.column_stack([X, np.ones(N)]), axis=1).max())
    given(step_size="bounded", norm_bound=largest, n_bound=N)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"step_size": "bounded"}, "norm_bound must be given"),
        (
            {"step_size": "bounded", "norm_bound": 1.0, "n_bound": 64},
            r"row \d+, constant column included, has",
        ),
        ({"step_size": "bounded", "norm_bound": 2.0, "n_bound": 39}, "got 39 for 40 records"),
        ({"step_size": "bounded", "norm_bound": np.nan}, "norm_bound must be finite"),
        ({"step_size": "bounded", "norm_bound": 1e200}, "norm_bound must be small enough"),
        ({"step_size": "bounded", "norm_bound": 2.0, "n_bound": 10**400}, "n_bound must be less than 2\\^53"),
        ({"step_size": "bounded", "norm_bound": 2.0, "n_bound": 64.0}, "n_bound must be an integer"),
        ({"step_size": 0.01, "norm_bound": 2.0}, "need step_size='bounded'"),
        ({"step_size": "auto", "n_bound": 64}, "need step_size='bounded'"),
        ({"step_size": "unbounded"}, "'auto', 'bounded'"),
    ],
)
def test_bounds_that_do_not_hold_are_named(parameters, message):
    with pytest.raises((ValueError, TypeError), match=message):
        given(**parameters)


# --- classes -------------------------------------------------------------------------------------


def classifier(**more):
    return LangevinRidgeClassifier(**{**GIVEN, **more})


def test_given_classes_are_a_constant_whoever_has_them():
    model = classifier(classes=["d", "c", "b", "a"]).fit(X, LABELS)
    assert model.classes_.tolist() == ["a", "b", "c", "d"]
    assert model.conditions_ == ()
    assert set(model.predict(X)) <= {"a", "b", "c"}
    without_c = model.unlearn(np.flatnonzero(LABELS == "c"), **TARGET, noise_std=1.0)
    assert without_c.certificate.status == "certified"
    assert classifier().fit(X, LABELS).conditions_ == (CONDITIONS["classes"],)


def test_one_class_may_be_alone_among_given_ones():
    model = classifier(classes=[0, 1]).fit(X, np.zeros(N, dtype=int))
    assert model.predict(X).tolist() == [0] * N


@pytest.mark.parametrize("classes", [["a", "b"], [0, 1, 2], ["a"], ["a", "a", "b", "c"], ["a", 1, "b", "c"], []])
def test_classes_that_do_not_fit_are_refused(classes):
    with pytest.raises((ValueError, TypeError), match="classes"):
        classifier(classes=classes).fit(X, LABELS)


def test_the_last_record_of_a_class_of_the_data_is_refused_or_conditional():
    labels = LABELS.astype("<U4")
    labels[7] = "only"
    model = classifier().fit(X, labels)
    with pytest.raises(ValueError, match=r"no record of class 'only'.*classes= given, or .*'conditional'"):
        model.unlearn(7, **TARGET)
    result = model.unlearn(7, **TARGET, last_of_class="conditional")
    assert CONDITIONS["last_of_class"] in result.certificate.conditions
    assert CONDITIONS["last_of_class"] in result.model.release().conditions_
    later = result.model.unlearn(8, **TARGET).certificate  # what was given away stays given away
    assert CONDITIONS["last_of_class"] in later.conditions
    with pytest.raises(ValueError, match="last_of_class"):
        model.unlearn(7, **TARGET, last_of_class="yes")


# --- noise ---------------------------------------------------------------------------------------


def test_calibrated_noise_is_named_and_given_noise_is_not():
    model = given()
    calibrated = model.unlearn(0, **TARGET)
    assert calibrated.certificate.conditions == (CONDITIONS["noise_std"],)
    fixed = model.unlearn(0, **TARGET, noise_std=2 * last_noise(calibrated) + 0.1)
    assert fixed.certificate.status == "certified"
    assert fixed.certificate.verify(X, Y, fixed.model).certified


def test_noise_that_does_not_suffice_is_refused_with_what_does():
    model = given(noise_std=0.001)
    needed = last_noise(model.unlearn(0, **TARGET))
    assert needed > 0
    with pytest.raises(ValueError, match="noise_std must be at least") as refusal:
        model.unlearn(0, **TARGET, noise_std=0.5 * needed)
    said = float(re.search(r"at least ([\d.e-]+)", str(refusal.value)).group(1))
    assert needed <= said <= 1.01 * needed
    assert last_noise(model.unlearn(0, **TARGET, noise_std=said)) == said
    for too_little in (0.0, 1e-30):
        with pytest.raises(ValueError, match="noise_std must be at least"):
            model.unlearn(0, **TARGET, noise_std=too_little)
    with pytest.raises(ValueError, match="noise_std"):
        model.unlearn(0, **TARGET, noise_std=-1.0)


def test_the_smallest_of_a_grid_that_suffices_is_taken_and_noted():
    model = given(noise_std=0.001)
    needed = last_noise(model.unlearn(0, **TARGET))
    result = model.unlearn(0, **TARGET, noise_grid=[4 * needed, 0.9 * needed, 1.5 * needed])
    assert last_noise(result) == 1.5 * needed
    assert result.certificate.status == "certified"
    assert result.certificate.notes == (GRID_NOTE,)
    power = last_noise(model.unlearn(0, **TARGET, noise_grid="powers"))
    assert needed <= power < needed * 2**0.25 * (1 + 1e-6)
    assert 4 * np.log2(power) == pytest.approx(round(4 * np.log2(power)), abs=1e-9)
    with pytest.raises(ValueError, match="noise_grid must hold a number at least"):
        model.unlearn(0, **TARGET, noise_grid=[0.1 * needed, 0.5 * needed])


@pytest.mark.parametrize("grid", ["squares", [], [0.0, 1.0], [np.nan], ["a"]])
def test_bad_grids_are_named(grid):
    with pytest.raises((ValueError, TypeError), match="noise_grid"):
        given().unlearn(0, **TARGET, noise_grid=grid)
    with pytest.raises(ValueError, match="at most one of noise_std and noise_grid"):
        given().unlearn(0, **TARGET, noise_grid="powers", noise_std=1.0)


def test_the_weakest_phase_counts():
    """Noise of an earlier deletion was calibrated on data that held the records deleted later."""
    first = given().unlearn(0, **TARGET)
    second = first.model.unlearn(1, **TARGET, noise_std=5.0)
    assert second.certificate.conditions == (CONDITIONS["noise_std"],)
    grid = given().unlearn(0, **TARGET, noise_grid="powers").model.unlearn(1, **TARGET, noise_std=5.0).certificate
    assert (grid.status, grid.notes) == ("certified", (GRID_NOTE,))


def test_constants_give_the_record_away_and_given_ones_do_not():
    """Whoever sees the coefficients alone tells a record that made its own constants; else no better than epsilon."""
    generator = np.random.default_rng(123)
    ordinary = generator.normal(size=(200, 5))
    y = np.append(ordinary @ np.arange(1.0, 6.0), 0.0)
    odd, plain = np.full(5, 1e4), generator.normal(size=5)

    def size(row, *, given):
        constants = {"step_size": 1.9e-9} if given else {}
        model = LangevinRidge(noise_std=0.05, fit_intercept=False, **constants)
        model.fit(np.vstack([ordinary, row]), y, of_program=given)  # else noise of the release is seen first
        noise = {"noise_std": 0.5} if given else {}
        result = model.unlearn(200, epsilon=1.0, delta=1e-5, n_steps=30, **noise)
        assert result.certificate.status == ("certified" if given else "conditional")
        return float(np.linalg.norm(result.model.release().coef_))

    seen = [(size(row, given=False), row is odd) for row in (odd, plain) for _ in range(20)]
    usual = np.median([found for found, was_odd in seen if not was_odd])
    # 40 of 40: the others spread over 1e-8, those of the odd record over more than 1.
    assert all((abs(found - usual) > 1e-6) == was_odd for found, was_odd in seen)
    sizes = np.array([[size(row, given=True) for _ in range(60)] for row in (odd, plain)])
    best = max(
        max(np.mean(sizes[0] > cut) + np.mean(sizes[1] <= cut), np.mean(sizes[0] <= cut) + np.mean(sizes[1] > cut)) / 2
        for cut in np.quantile(sizes, np.linspace(0.05, 0.95, 19))
    )
    # Both releases are within epsilon of the run without the row; a chance excess of a best cut is allowed for.
    assert best < 0.72


# --- what goes out says it -----------------------------------------------------------------------


def test_a_release_says_what_it_rests_on(tmp_path):
    model = LangevinRidgeClassifier(random_state=0).fit(X, LABELS)
    expected = (CONDITIONS["step_size"], CONDITIONS["classes"], SEED_CONDITION)
    assert model.release().conditions_ == expected
    released = model.unlearn(0, **TARGET).model.release()
    assert set(released.conditions_) == {*expected, CONDITIONS["noise_std"]}
    again = ReleasedRidgeClassifier.load(released.save(tmp_path / "released.npz"))
    assert again.conditions_ == released.conditions_
    assert all(condition in repr(again) for condition in released.conditions_)
    assert "conditional" not in repr(given().release())
    loaded = LangevinRidgeClassifier.load(model.save(tmp_path / "model.npz"))
    assert loaded.conditions_ == expected
    assert loaded.forget_history().release().conditions_ == expected


def test_constants_survive_a_file(tmp_path):
    model = classifier(step_size="bounded", norm_bound=2.0, n_bound=50, classes=("a", "b", "c")).fit(X, LABELS)
    model = model.unlearn(1, **TARGET, noise_grid="powers").model
    loaded = LangevinRidgeClassifier.load(model.save(tmp_path / "model.npz"))
    assert loaded._history.sources == model._history.sources
    certificate = loaded.unlearn(2, **TARGET, noise_std=5.0).certificate
    assert (certificate.status, certificate.notes) == ("certified", (GRID_NOTE,))
    assert loaded.conditions_ == ()


def test_a_release_keeps_names_and_refuses_reversed_columns(tmp_path):
    pandas = pytest.importorskip("pandas", reason="names of columns need pandas")
    frame = pandas.DataFrame(X, columns=["one", "two", "three"])
    released = LangevinRidge(**GIVEN).fit(frame, Y).release()
    for model in (released, ReleasedRidge.load(released.save(tmp_path / "released.npz"))):
        assert model.feature_names_in_.tolist() == ["one", "two", "three"]
        model.predict(frame)
        with pytest.raises(ValueError, match="feature names"):
            model.predict(frame[frame.columns[::-1]])


@pytest.mark.parametrize("targets", [Y, np.column_stack([Y, Y])])
def test_a_release_shares_no_memory(targets):
    model = LangevinRidge(**GIVEN).fit(X, targets)
    released, before = model.release(), model.coef_.copy()
    released.coef_[...] = 7.0
    assert not np.shares_memory(released.coef_, model._theta)
    assert np.array_equal(model.coef_, before)
    labelled = classifier().fit(X, LABELS)
    labelled.release().classes_[...] = "z"
    assert labelled.classes_.tolist() == ["a", "b", "c"]
    labelled.unlearn(0, **TARGET).model.classes_[...] = "z"
    assert labelled.classes_.tolist() == ["a", "b", "c"]


# --- what was fitted stays fitted ----------------------------------------------------------------


def test_parameters_set_after_a_fit_change_nothing_until_the_next(tmp_path):
    model = given()
    predicted, coef = model.predict(X), model.release().coef_
    quoted = model.quote(**TARGET).noise_std
    model.set_params(fit_intercept=False, alpha=7.0, step_size="auto", n_steps=1, noise_std=99.0)
    assert "fitted with" in repr(model)
    assert "fit_intercept=True" in repr(model)
    loaded = LangevinRidge.load(model.save(tmp_path / "model.npz"))
    for one in (model, loaded):
        assert np.array_equal(one.predict(X), predicted)
        assert np.array_equal(one.release().predict(X), predicted)
        assert np.array_equal(one.release().coef_, coef)
        assert np.array_equal(one.quote(**TARGET).noise_std, quoted)
        result = one.unlearn(4, **TARGET, noise_std=1.0)
        assert result.certificate.run.fit_intercept
        assert result.certificate.run.alpha == 1.0
        result.certificate.verify(X, Y, result.model)
        assert result.model.get_params()["fit_intercept"] is True
        assert one.downdate(4).intercept_ != 0
    assert loaded.get_params()["alpha"] == 1.0
    assert model.fit(X, Y).intercept_ == 0.0


def test_clones_keep_constants():
    model = classifier(classes=["a", "b", "c"], step_size="bounded", norm_bound=2.0, n_bound=64)
    assert clone(model).get_params() == model.get_params()
    assert pickle.loads(pickle.dumps(model.fit(X, LABELS))).conditions_ == ()


def test_masked_arrays_are_refused():
    hidden = np.ma.array(X, mask=np.eye(N, D, dtype=bool))
    for call in (
        lambda: given().predict(hidden),
        lambda: given().release().predict(hidden),
        lambda: LangevinRidge(**GIVEN).fit(hidden, Y),
        lambda: LangevinRidge(**GIVEN).fit(X, np.ma.array(Y, mask=np.arange(N) == 3)),
        lambda: classifier().fit(X, np.ma.array(np.arange(N) % 3, mask=np.arange(N) == 3)),
        lambda: given().unlearn(np.ma.array([1, 2], mask=[0, 1]), **TARGET),
        lambda: given().quote(**TARGET, groups=np.ma.array(np.arange(N), mask=np.arange(N) == 3)),
    ):
        with pytest.raises(TypeError, match="masked"):
            call()


def test_iris_as_it_comes_can_be_certified():
    features, labels = load_iris(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        model = LangevinRidgeClassifier(
            classes=range(3), step_size="bounded", norm_bound=12.0, n_bound=1000, noise_std=0.001
        ).fit(features, labels)
    result = model.unlearn([3, 4], epsilon=1.0, delta=1e-5, n_steps=30, noise_std=0.05)
    assert result.certificate.verify(features, labels, result.model).certified


def test_tables_of_booleans_and_numbers_are_verified_as_they_were_learned():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    table = pandas.DataFrame({"x": x, "high": x > 0, "n": np.arange(40) % 5})
    model = LangevinRidge(step_size=1e-4, noise_std=0.1).fit(table, x)
    result = model.unlearn(3, epsilon=1.0, delta=1e-5, n_steps=20, noise_std=10.0)
    report = result.certificate.verify(table, x, result.model)
    assert report.certified
    assert report == result.certificate.verify(table.astype(float), x, result.model)


def test_a_downdated_optimum_says_that_it_claims_nothing():
    model = LangevinRidge(step_size=0.1, noise_std=0.1).fit(np.eye(4), np.ones(4))
    assert model.downdate(0).conditions_ == ("no noise was added: this model has no privacy claim",)
