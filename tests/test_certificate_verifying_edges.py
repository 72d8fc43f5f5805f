"""Verification at its edges: what is checked and by which name, what only warns, and how its work grows."""

import dataclasses
import io

import numpy as np
import pytest

import given_runs
import oracles
from expunge.certificates import CONDITIONS, Certificate, CertificateError, Sources
from expunge.certificates import verification as verifying
from expunge.certificates import work as work_module
from expunge.certificates.evidence import check_model
from expunge.certificates.verification import check_status
from expunge.certificates.work import DEFAULT_BUDGET, check_budget
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.work import estimated_work
from given_runs import GIVEN

SIX = np.eye(6)[:, :3] + np.eye(6)[:, [3, 4, 5]]  # every row of the unit matrix twice


def ridge_run(**changes):
    return given_runs.ridge_run(**{"n_records": 6, **changes})


Y = np.arange(6.0)[:, None]


def issue(X, y, run, **changes):
    targets = y if run.classes is None else (np.asarray(y)[:, None] == np.array(run.classes)).astype(float)
    model = oracles.ridge_run(X, targets, run, np.random.default_rng(1))
    return Certificate.create(X=X, y=y, **{"model": model, "run": run, "epsilon": 50.0, "delta": 0.5, **changes})


def refused(call, field, match=""):
    with pytest.raises(CertificateError, match=match) as caught:
        call()
    assert caught.value.field == field


# --- status ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "match"),
    [
        ({"status": "estimate"}, "status", "an estimate certifies nothing"),
        ({"conditions": ("a seed",)}, "conditions", "must be empty when certified"),
        ({"status": "conditional"}, "conditions", "must name at least one when conditional"),
        ({"notes": ("a note",)}, "notes", r"must be \[\], as the run says"),
        ({"delta_s": 0.1}, "claim.delta_s", "must be null for method 'exact'"),
        ({"method": "shifted"}, "claim.delta_s", r"must be in \(0, delta\) for method 'shifted', got None"),
        ({"method": "uniform", "delta_s": 0.5}, "claim.delta_s", r"must be in \(0, delta\)"),
        ({"neighbouring_relation": "REMOVE_GROUP"}, "claim.neighbouring_relation", "must be REMOVE_ONE for 1 deleted"),
    ],
)
def test_status_conditions_method_and_relation_belong_together(changes, field, match):
    certificate = issue(SIX, Y, ridge_run())
    check_status(certificate)
    refused(lambda: check_status(dataclasses.replace(certificate, **changes)), field, match)


def test_a_delta_s_between_0_and_delta_and_a_group_pass():
    certificate = issue(SIX, Y, ridge_run())
    for delta_s in (5e-324, np.nextafter(0.5, 0)):
        check_status(dataclasses.replace(certificate, method="shifted", delta_s=delta_s))
    run = ridge_run(deleted=(0, 1), phases=(Phase(10, 0.5), Phase(5, 1.0, (0, 1))))
    check_status(dataclasses.replace(certificate, run=run, neighbouring_relation="REMOVE_GROUP"))
    check_status(dataclasses.replace(certificate, status="estimate"), allow_estimate=True)


@pytest.mark.parametrize("name", ["step_size", "noise_std", "classes"])
def test_a_source_that_the_conditions_do_not_name_is_missed(name):
    sources = {"step_size": "given", "noise_std": "given", "classes": "given", name: "data"}
    changes = {"estimator": "LangevinRidgeClassifier", "classes": ("a", "b"), "n_outputs": 2}
    run = ridge_run(**changes, sources=Sources(**sources))
    certificate = issue(SIX, np.array(list("ababab")), run)
    assert certificate.conditions == (CONDITIONS[name],)
    other = dataclasses.replace(certificate, conditions=("another condition",))
    refused(lambda: check_status(other), "conditions", f"must say that {CONDITIONS[name]}")


# --- what is checked ------------------------------------------------------------------------------


def test_a_label_outside_the_class_list_is_refused_by_name():
    run = ridge_run(
        estimator="LangevinRidgeClassifier",
        classes=("a", "b"),
        n_outputs=2,
        sources=dataclasses.replace(GIVEN, classes="given"),
    )
    claim = {"model": np.zeros((3, 2)), "run": run, "epsilon": 50.0, "delta": 0.5}
    y = np.array(["a", "b", "c", "a", "b", "a"])
    refused(lambda: Certificate.create(X=SIX, y=y, **claim), "run.classes", "got 'c' at index 2")


def test_a_certificate_changed_behind_its_back_is_refused_by_name():
    certificate = issue(SIX, Y, ridge_run())
    for name, value, field in (
        ("library_version", 7, "library_version"),
        ("epsilon", -1.0, "claim.epsilon"),
        ("salt", "short", "salt"),
    ):
        changed = dataclasses.replace(certificate)
        object.__setattr__(changed, name, value)
        with pytest.raises(CertificateError) as caught:
            changed.verify(SIX, Y)
        assert caught.value.field == field
        assert str(caught.value).count(f"{field}:") == 1


def test_labels_of_a_model_are_compared_where_both_have_some():
    run = ridge_run(
        estimator="LangevinRidgeClassifier",
        classes=("a", "b"),
        n_outputs=2,
        sources=dataclasses.replace(GIVEN, classes="given"),
    )
    parameters = oracles.ridge_run(SIX, np.eye(2)[[0, 1] * 3], run, np.random.default_rng(1))
    certificate = issue(SIX, np.array(list("ababab")), run, model=parameters)

    def model(**parts):
        return type("Model", (), {"coef_": parameters.T, "intercept_": np.zeros(2), **parts})()

    check_model(certificate, model())
    check_model(certificate, model(classes_=np.array(["a", "b"])))
    for classes in (["b", "a"], ["a"], ["a", "b", "c"]):
        named = model(classes_=np.array(classes))
        refused(lambda: check_model(certificate, named), "run.classes", "must be the model's")  # noqa: B023
    without = issue(SIX, Y, ridge_run())
    flat = oracles.ridge_run(SIX, Y, ridge_run(), np.random.default_rng(1))
    labelled = type("Model", (), {"coef_": flat.T, "intercept_": 0.0, "classes_": np.array(["a"])})()
    check_model(without, labelled)  # a regression has no labels to compare


def test_recorded_and_recomputed_deltas_agree_at_the_limits():
    agree = verifying._agree
    assert agree(5e-13, 0.0, 0.5)
    assert agree(0.0, 5e-13, 0.5)
    assert not agree(np.nextafter(5e-13, 1), 0.0, 0.5)
    assert agree(1.0, 1.0 - 0.99e-6, 1.0)
    assert agree(1.0 - 0.99e-6, 1.0, 1.0)
    assert not agree(1.0, 1.0 - 1.01e-6, 1.0)
    assert not agree(float("nan"), 0.5, 1.0)


# --- what only warns ------------------------------------------------------------------------------


def warned(X, y, **changes):
    run = ridge_run(**{"step_size": 0.2, **changes})
    return issue(X, y, run).verify(X, y).warnings


def test_copies_of_deleted_rows_are_counted():
    y = np.array([[1.0], [2.0], [3.0], [1.0], [4.0], [5.0]])
    assert warned(SIX, y) == ("row 3, which stays, is an exact copy of the deleted row 0: whose is it?",)
    X = SIX.copy()
    X[4], y[4] = X[0], y[0]
    assert warned(X, y) == (
        "row 3, which stays, is an exact copy of the deleted row 0 (2 such rows in all): whose is it?",
    )
    both = {"deleted": (0, 3), "phases": (Phase(10, 0.5), Phase(5, 1.0, (0, 3)))}
    assert len(warned(X, y, **both)) == 1
    y[4] = 9.0
    assert warned(X, y, **both) == ()  # a copy that goes as well is nobody's


def test_a_copy_is_one_to_the_last_bit_whatever_the_sign_of_a_zero():
    y = np.array([[1.0], [2.0], [3.0], [1.0], [4.0], [5.0]])
    X = SIX.copy()
    X[3, 1] = -0.0
    assert len(warned(X, y)) == 1
    X[3, 1] = 1e-30
    assert warned(X, y) == ()
    X[3, 1], y[3] = 0.0, np.nextafter(1.0, 2.0)
    assert warned(X, y) == ()


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_given_step_within_a_million_millionth_of_what_the_data_give_is_told(sign):
    """SIX^T SIX + alpha I is three times the unit matrix."""
    for off, told in ((0.9e-12, True), (1.1e-12, False)):
        told_by = warned(SIX, Y, step_size=(1 + sign * off) / 3)
        assert any("equals 1/L of the data" in text for text in told_by) == told


# --- how work grows -------------------------------------------------------------------------------

METHODS = ("exact", "shifted", "uniform")


def work(method="exact", **changes):
    return estimated_work(ridge_run(**changes), method=method)


def phases(n_steps, count=1, removed=(0,)):
    return (Phase(n_steps, 0.5), *[Phase(n_steps, 0.5, removed)] * count)


@pytest.mark.parametrize("method", METHODS)
def test_work_is_linear_in_records_and_outputs_and_cubic_in_columns(method):
    for name, large, power in (("n_records", 10**12, 1), ("n_outputs", 10**12, 1), ("n_features", 10**7, 3)):
        ratio = work(method, **{name: 2 * large}) / work(method, **{name: large})
        assert ratio == pytest.approx(2.0**power, rel=0.02), name
    assert work(method, fit_intercept=True) == work(method, n_features=4)


@pytest.mark.parametrize("method", METHODS)
def test_work_is_linear_in_phases_and_grows_with_the_logarithm_of_their_steps(method):
    one, two, four = (work(method, phases=phases(5, count)) for count in (1000, 2000, 4000))
    assert two - one == pytest.approx((four - two) / 2, rel=1e-6)
    assert two > 1.9 * one
    wide = {"n_features": 500}
    steps = [work(method, phases=phases(2**k), **wide) for k in (15, 25, 35)]
    assert steps[0] < steps[1] < steps[2] < 2 * steps[0]
    assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0], rel=0.02)


def test_work_counts_at_least_what_the_algebra_must_do():
    """Products of n by p matrices, an eigenproblem of every version of the data, rank-m updates."""
    assert work(n_records=10**6, n_features=100) > 10**6 * 100**2
    assert work(n_features=2000) > 2 * 2000**3
    assert work(n_records=2, n_features=100, n_outputs=10**6) > 2 * 100**2 * 10**6
    group = tuple(range(100))
    several = ridge_run(n_records=10**3, n_features=300, deleted=group, phases=phases(5, 3, group[:50]))
    alone = dataclasses.replace(several, deleted=group[:51])
    assert estimated_work(several, method="exact") - estimated_work(alone, method="exact") > 4 * 49 * 300**2


def test_a_deleted_row_costs_the_same_whether_it_is_there_or_gone():
    group = tuple(range(100_000))
    sized = {"n_records": 100_001, "n_features": 30, "deleted": group}
    few, half = (work(**sized, phases=(Phase(5, 0.5), Phase(5, 0.5, group[:count]))) for count in (1, 50_000))
    assert half == pytest.approx(few, rel=1e-9)


def test_a_version_of_the_data_is_taken_apart_once():
    wide = {"n_records": 10, "n_features": 1000, "deleted": (0, 1)}
    start = Phase(5, 0.5)
    same = work(**wide, phases=(start, Phase(5, 0.5, (0,)), Phase(5, 0.5, (0,))))
    once = work(**wide, phases=(start, Phase(5, 0.5, (0,))))
    other = work(**wide, phases=(start, Phase(5, 0.5, (0,)), Phase(5, 0.5, (1,))))
    assert other - same > 10 * 1000**3 > 0
    assert same > once


def test_rows_that_are_gone_cost_no_more_of_what_tells_two_runs_apart():
    here, gone = (
        ridge_run(n_features=300, phases=(Phase(5, 0.5), Phase(2000, 0.5, removed))) for removed in ((), (0,))
    )
    for method in METHODS:
        assert estimated_work(here, method=method) > estimated_work(gone, method=method)
    more = [estimated_work(run, method="shifted") - estimated_work(run, method="exact") for run in (here, gone)]
    assert more[0] > 100 * more[1]  # steps are bounded one by one while the row is there
    assert more[1] > 0  # while learning
    wide = dataclasses.replace(here, n_features=3000)
    assert estimated_work(wide, method="shifted") - estimated_work(wide, method="exact") > 2000 * 3000**2


def test_a_uniform_bound_works_with_every_record_at_every_step_of_learning():
    def more(n_records, n_steps, **changes):
        sized = {"n_records": n_records, "phases": (Phase(n_steps, 0.5), Phase(10**6, 0.5, (0,))), **changes}
        return work("uniform", **sized) - work("exact", **sized)

    assert more(10**9, 40) / more(10**9, 20) == pytest.approx(2.0, rel=1e-6)
    assert more(2 * 10**9, 20) / more(10**9, 20) == pytest.approx(2.0, rel=0.01)
    assert more(10**9, 20) > 20 * 10**9 * 3
    assert more(10**6, 20, n_features=100, n_outputs=1000) > 20 * 10**6 * 100 * 1000


def test_a_budget_is_met_exactly_and_nan_is_none():
    run = ridge_run()
    needed = estimated_work(run, method="exact")
    check_budget(run, method="exact", budget=needed)
    assert needed < DEFAULT_BUDGET / 1000
    for budget in (np.nextafter(needed, 0), float("nan")):
        match = r"operations \(6 records, 3 features; LangevinRidge, 2 phases; .*\), more than"
        refused(lambda: check_budget(run, method="exact", budget=budget), "budget", match)  # noqa: B023


def test_the_bar_stands_at_the_stage_that_begins(monkeypatch):
    seen = []

    class Bar(work_module.tqdm):
        def __init__(self, *args, **named):
            super().__init__(*args, **{**named, "disable": False, "file": io.StringIO()})

        def set_description(self, desc=None, refresh=True):
            if desc != "verify":
                seen.append((desc.removeprefix("verify: "), self.n, self.total))
            super().set_description(desc, refresh)

    monkeypatch.setattr(work_module, "tqdm", Bar)
    model = oracles.ridge_run(SIX, Y, ridge_run(), np.random.default_rng(1))
    issue(SIX, Y, ridge_run(), model=model).verify(SIX, Y, model)
    names = ("data", "assumptions", "claim", "model")
    assert seen == [(name, i, 4) for i, name in enumerate(names)] * 2
