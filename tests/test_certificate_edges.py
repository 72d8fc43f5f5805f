"""Certificates at their edges: every assumption by name, limits met and missed, what hints and summaries say."""

import dataclasses
import os
import stat

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import oracles
from expunge.certificates import (
    CONDITIONS,
    Certificate,
    CertificateError,
    Sources,
    certificate_schema,
    features_digest,
    generate_key_pair,
    hints,
    load_private_key,
    load_public_key,
    targets_digest,
)
from expunge.certificates.document import MAX_BYTES
from expunge.certificates.report import shown
from expunge.certificates.schema import check
from expunge.runs import RunError
from expunge.runs.ridge.assumptions import check_classes, check_shape, check_step_size, lost_classes
from expunge.runs.ridge.law import Phase, smoothness
from expunge.runs.ridge.products import Products
from given_runs import GIVEN, certificate_of, ridge_run


def check_run(run, design, targets):
    """Check all that needs no law, and return 1/L."""
    check_shape(run, design, targets)
    return check_step_size(run, Products(design, targets))


EPS = float(np.finfo(np.float64).eps)


X, Y = np.eye(3), np.ones((3, 1))


def issue(run=None, *, y=Y, seed=1, **changes):
    run = ridge_run() if run is None else run
    targets = y if run.classes is None else (y[:, None] == np.array(run.classes)).astype(float)
    model = oracles.ridge_run(X, targets, run, np.random.default_rng(seed))
    return Certificate.create(X=X, y=y, model=model, run=run, **{"epsilon": 2.0, "delta": 0.5, **changes})


def refused(call, field, match=""):
    with pytest.raises((CertificateError, RunError), match=match) as caught:
        call()
    assert caught.value.field == field


# --- assumptions --------------------------------------------------------------------------------


def bounded(step_size, **changes):
    sources = Sources(step_size="bounded", noise_std="given", norm_bound=1.0, n_bound=3, **changes)
    return ridge_run(step_size=step_size, sources=sources)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_step_made_of_bounds_may_be_off_by_eight_roundings_and_no_more(sign):
    """With three records of norm 1 and alpha = 1 the step is 1/4."""
    assert check_run(bounded(0.25 * (1 + sign * 8 * EPS)), X, Y) == 0.5
    refused(lambda: check_run(bounded(0.25 * (1 + sign * 9 * EPS)), X, Y), "run.step_size", "n_bound norm_bound")


def test_the_norm_of_a_row_may_exceed_its_bound_by_rounding_and_no_more():
    for excess, fine in ((0.0, True), (0.9e-12, True), (1.1e-12, False)):
        design = X * (1 + excess)
        if fine:
            check_run(bounded(0.25), design, Y)
        else:
            refused(lambda: check_run(bounded(0.25), design, Y), "run.sources.norm_bound", "norm of every row")  # noqa: B023


@pytest.mark.parametrize(
    ("changes", "design", "targets", "field", "match"),
    [
        ({"n_records": 4}, X, Y, "run.n_records", "must be 3, as in the data, got 4"),
        ({"n_features": 2}, X, Y, "run.n_features", "must be 3, as in the data, got 2"),
        ({"n_outputs": 2}, X, Y, "run.n_outputs", "must be 1, as in the data, got 2"),
        ({"fit_intercept": True}, X, Y, "run.n_features", "must be 2, as in the data, got 3"),
        ({}, X, Y[:2], "run.n_records", "X has 3 rows but y has 2"),
        ({"deleted": (2, 0)}, X, Y, "run.deleted", "must be sorted, without repetition"),
        ({"deleted": (0, 0)}, X, Y, "run.deleted", "must be sorted, without repetition"),
        ({"deleted": (-1, 0)}, X, Y, "run.deleted", r"must be within \[0, 3\)"),
        ({"deleted": (0, 3)}, X, Y, "run.deleted", r"must be within \[0, 3\)"),
        (
            {"deleted": (0, 1, 2), "phases": (Phase(1, 0.5), Phase(1, 0.5, (0, 1, 2)))},
            X,
            Y,
            "run.deleted",
            "must leave at least one record, got all 3",
        ),
        ({"phases": (Phase(1, 0.5),), "deleted": ()}, X, Y, "run.phases", "at least one deletion, got 1"),
        ({"phases": (), "deleted": ()}, X, Y, "run.phases", "at least one deletion, got 0"),
        (
            {"phases": (Phase(1, 0.5, (0,)), Phase(1, 0.5, (0,)))},
            X,
            Y,
            r"run.phases[0].removed",
            "must be empty while learning",
        ),
        (
            {"phases": (Phase(1, 0.5), Phase(1, 0.5, (1, 0)))},
            X,
            Y,
            "run.phases[1].removed",
            "must be sorted, without repetition",
        ),
        (
            {"phases": (Phase(1, 0.5), Phase(1, 0.5, (1,)), Phase(1, 0.5, (0,)))},
            X,
            Y,
            "run.phases[2].removed",
            r"must keep what was removed before, lost \[1\]",
        ),
        ({"deleted": (1,)}, X, Y, "run.deleted", r"must be the rows absent in the last phase, \(0,\), got \(1,\)"),
        ({"step_size": 0.5 * (1 + 2e-9)}, X, Y, "run.step_size", r"at most 1/L = 0\.5"),
    ],
)
def test_a_run_is_held_against_its_data_field_by_field(changes, design, targets, field, match):
    refused(lambda: check_run(ridge_run(**changes), design, targets), field, match)


def test_all_but_one_record_may_be_deleted():
    run = ridge_run(deleted=(0, 2), phases=(Phase(1, 0.5), Phase(1, 0.5, (2,)), Phase(1, 0.5, (0, 2))))
    assert check_run(run, X, Y) == 0.5
    assert check_run(dataclasses.replace(run, step_size=0.5 * (1 + 0.9e-9)), X, Y) == 0.5


CLASSIFIER = {
    "estimator": "LangevinRidgeClassifier",
    "classes": ("a", "b"),
    "n_outputs": 2,
    "sources": Sources(step_size="given", noise_std="given", classes="given"),
}


@pytest.mark.parametrize(
    ("changes", "field", "match"),
    [
        ({"classes": None, "sources": GIVEN}, "run.classes", "must be a list for LangevinRidgeClassifier, got None"),
        ({"estimator": "LangevinRidge"}, "run.classes", "must be null for LangevinRidge, got"),
        ({"n_outputs": 3}, "run.n_outputs", "must be one for each of 2 classes, got 3"),
        ({"classes": ("a", "a")}, "run.classes", "must be distinct"),
        ({"classes": (1, True)}, "run.classes", "must be distinct"),
        ({"sources": GIVEN}, "run.sources.classes", "must be 'given' or 'data', got 'none'"),
    ],
)
def test_classes_and_their_source_belong_together(changes, field, match):
    refused(lambda: check_classes(ridge_run(**{**CLASSIFIER, **changes})), field, match)
    check_classes(ridge_run(**CLASSIFIER))
    check_classes(ridge_run())


def test_a_regression_has_no_source_of_classes():
    run = ridge_run(sources=dataclasses.replace(GIVEN, classes="given"))
    refused(lambda: check_classes(run), "run.sources.classes", "must be 'none', got 'given'")


def test_only_a_class_that_had_a_record_and_has_none_left_is_lost():
    targets = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    run = ridge_run(**{**CLASSIFIER, "classes": ("a", "never", "c"), "n_outputs": 3})
    assert lost_classes(run, targets) == ("a",)
    assert lost_classes(dataclasses.replace(run, deleted=(1,)), targets) == ()
    assert lost_classes(dataclasses.replace(run, deleted=(1, 2)), targets) == ("c",)
    assert lost_classes(ridge_run(), Y) == ()


# --- making, reading and showing one --------------------------------------------------------------


def test_delta_s_is_a_tenth_of_delta_where_it_is_not_given():
    rng = np.random.default_rng(3)
    design, y = rng.normal(size=(14, 3)), rng.normal(size=(14, 1))
    run = ridge_run(
        n_records=14, step_size=0.9 / smoothness(design, alpha=1.0), phases=(Phase(6, 0.3), Phase(20, 1.0, (0,)))
    )
    claim = {
        "X": design,
        "y": y,
        "model": oracles.ridge_run(design, y, run, rng),
        "run": run,
        "epsilon": 1.0,
        "delta": 0.75,
    }
    for method in ("shifted", "uniform"):
        assert Certificate.create(**claim, method=method).delta_s == 0.075
        assert Certificate.create(**claim, method=method, delta_s=0.1).delta_s == 0.1
    assert issue().delta_s is None


def test_lists_of_conditions_and_notes_are_kept_as_tuples():
    certificate = issue()
    same = dataclasses.replace(certificate, conditions=[], notes=[])
    assert same == certificate
    assert hash(same) == hash(certificate)
    named = dataclasses.replace(certificate, conditions=["a", "b"], notes=["c"])
    assert (named.conditions, named.notes) == (("a", "b"), ("c",))


def test_what_the_run_and_the_caller_say_is_told_once_the_run_first():
    run = ridge_run(sources=Sources(step_size="data", noise_std="grid", classes="none"))
    certificate = issue(run, conditions=["a seed", CONDITIONS["step_size"]])
    assert certificate.conditions == (CONDITIONS["step_size"], "a seed")
    assert certificate.notes == run.sources.notes() != ()


def test_a_model_with_other_labels_is_not_certified():
    run, y = ridge_run(**CLASSIFIER), np.array(["a", "b", "a"])
    parameters = oracles.ridge_run(X, (y[:, None] == np.array(["a", "b"])).astype(float), run, np.random.default_rng(1))
    parts = {"coef_": parameters.T, "intercept_": np.zeros(2)}
    claim = {"X": X, "y": y, "run": run, "epsilon": 2.0, "delta": 0.5}
    Certificate.create(**claim, model=type("Model", (), {**parts, "classes_": np.array(["a", "b"])})())
    swapped = type("Model", (), {**parts, "classes_": np.array(["b", "a"])})()
    refused(lambda: Certificate.create(**claim, model=swapped), "run.classes", r"must be the model's \['b', 'a'\]")


@pytest.mark.parametrize("kind", ["text", "file"])
def test_a_certificate_of_16_mib_is_read_and_a_larger_one_is_not(tmp_path, kind):
    certificate = issue()
    text, path = certificate.to_json(), tmp_path / "certificate.json"

    def read(padded):
        if kind == "text":
            return Certificate.from_json(padded)
        path.write_text(padded)
        return Certificate.load(path)

    assert MAX_BYTES == 16 * 2**20
    assert read(text + " " * (MAX_BYTES - len(text))) == certificate
    refused(lambda: read(text + " " * (MAX_BYTES + 1 - len(text))), "json", f"at most {MAX_BYTES}")


@pytest.mark.parametrize("text", ["{}", '{"version": 2}', '{"format": "certificate", "version": 9}'])
def test_what_is_no_certificate_is_refused_as_such_before_its_version(text):
    refused(lambda: Certificate.from_json(text), "format", "must be 'expunge-certificate'")


@pytest.mark.parametrize("time", ["2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z"])
def test_a_time_that_does_not_exist_is_refused(time):
    refused(lambda: dataclasses.replace(issue(), issued_at=time), "issued_at", "must be a valid time")


def test_an_unknown_version_of_the_schema_is_refused():
    for version in (0, 3, "2"):
        with pytest.raises(ValueError, match="version must be one of"):
            certificate_schema(version=version)
    assert certificate_schema() == certificate_schema(version=2) != certificate_schema(version=1)


def test_a_summary_names_the_rows_the_claim_and_the_last_phase():
    certificate = dataclasses.replace(issue(), issued_at="2026-01-02T03:04:05Z", library_version="9.9")
    pq, qp = shown(certificate.delta_pq), shown(certificate.delta_qp)
    binds = "Q|P" if certificate.delta_qp > certificate.delta_pq else "P|Q"
    assert certificate.summary().splitlines()[:-1] == [
        "certified: 1 of 3 records deleted (row 0)",
        "  claim    epsilon = 2, delta = 0.5, REMOVE_ONE",
        f"  computed delta(P|Q) = {pq}, delta(Q|P) = {qp} ({binds} binds), method exact",
        "  run      LangevinRidge, 2 phases; last: 5 steps with noise_std = 1; its claim is about real numbers",
        "  issued   2026-01-02T03:04:05Z by expunge 9.9, unsigned",
    ]


@pytest.mark.parametrize(
    ("gone", "rows"), [(2, "0, 1"), (8, "0, 1, 2, 3, 4, 5, 6, 7"), (9, "0, 1, 2, 3, 4, 5, 6, 7, ...")]
)
def test_a_summary_names_up_to_eight_rows(gone, rows):
    deleted = tuple(range(gone))
    run = ridge_run(n_records=1200, deleted=deleted, phases=(Phase(10, 0.5), Phase(5, 1.0, deleted)))
    first = dataclasses.replace(issue(), run=run).summary().splitlines()[0]
    assert first == f"certified: {gone} of 1,200 records deleted (rows {rows})"


@pytest.mark.parametrize(
    ("delta", "text"),
    [(0.0, "0"), (1e-300, "1e-300"), (9.9e-301, "below 1e-300"), (5e-324, "below 1e-300"), (0.5, "0.5")],
)
def test_a_delta_that_float64_can_hardly_hold_is_shown_as_a_bound(delta, text):
    assert shown(delta) == text


# --- the schema's own check -----------------------------------------------------------------------


def test_a_keyword_that_the_check_does_not_know_is_no_schema():
    with pytest.raises(ValueError, match=r"known keywords only, got \['maxLength'\]"):
        check("a", {"type": "string", "maxLength": 3})


def test_a_pattern_lets_no_newline_through():
    schema = {"type": "string", "pattern": "^[0-9]+$"}
    check("12", schema)
    for text in ("12\n", "\n", "12\n\n", ""):
        refused(lambda: check(text, schema), "certificate", "must match")  # noqa: B023
    check("a line\n", {"type": "string", "minLength": 1})


def test_a_long_value_is_shortened_where_it_is_quoted():
    """120 characters are quoted whole, with their quotation marks; of more the first 117."""
    for length, end in ((118, "x'"), (119, "xxx...")):
        with pytest.raises(CertificateError) as caught:
            check("x" * length, {"type": "number"}, field="a")
        quoted = str(caught.value).partition("got ")[2]
        assert len(quoted) == 120
        assert quoted.endswith(end)


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [("minimum", 3, 2.9), ("exclusiveMinimum", 3.1, 3), ("maximum", 3, 3.1), ("exclusiveMaximum", 2.9, 3)],
)
def test_numbers_keep_their_bounds(bound, inside, outside):
    schema = {"type": "number", bound: 3}
    check(inside, schema)
    refused(lambda: check(outside, schema, field="n"), "n", "must be")
    for wrong in (10**400, -(10**400), float("nan")):
        refused(lambda: check(wrong, schema, field="n"), "n", "must be finite")  # noqa: B023


def test_a_list_has_its_fewest_entries():
    schema = {"type": "array", "minItems": 2, "items": {"type": "integer"}}
    check([1, 2], schema)
    refused(lambda: check([1], schema, field="a"), "a", "at least 2 entries, got 1")
    refused(lambda: check([1, "b"], schema, field="a"), "a[1]", "of type integer")


# --- digests --------------------------------------------------------------------------------------


def test_integers_that_float64_would_merge_have_digests_of_their_own():
    for size in (2**53, -(2**53)):
        step = 1 if size > 0 else -1
        exact, beyond = [0, size], [0, size + step]
        assert targets_digest(exact) == targets_digest([0.0, float(size)])
        assert targets_digest(beyond) != targets_digest(exact)
        assert float(size + step) == float(size)


def test_objects_that_are_not_all_strings_are_refused():
    for bad in (["a", 1.0], [1, 2], [None, "a"]):
        with pytest.raises(TypeError, match="y must hold real numbers or strings"):
            targets_digest(np.array(bad, dtype=object))


# --- keys -----------------------------------------------------------------------------------------


def test_a_public_key_may_be_read_by_everybody(tmp_path):
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    before = os.umask(0o022)
    try:
        generate_key_pair(private, public)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (private, public)] == [0o600, 0o644]


@pytest.mark.parametrize("which", [0, 1])
def test_no_key_is_written_where_one_of_the_folders_is_missing(tmp_path, which):
    paths = [tmp_path / "key.pem", tmp_path / "key.pub.pem"]
    paths[which] = tmp_path / "missing" / "key.pem"
    with pytest.raises(FileNotFoundError, match=r"path: the folder .*missing does not exist"):
        generate_key_pair(*paths)
    assert not list(tmp_path.iterdir())


def test_a_key_of_another_kind_is_named(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    encoding = serialization.Encoding.PEM
    (tmp_path / "private.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "public.pem").write_bytes(
        key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ValueError, match="must hold an Ed25519 private key, got ECPrivateKey"):
        load_private_key(tmp_path / "private.pem")
    with pytest.raises(ValueError, match="must hold an Ed25519 public key, got ECPublicKey"):
        load_public_key(tmp_path / "public.pem")


# --- hints ----------------------------------------------------------------------------------------


def features_hint(given, certified, **changes):
    n, width = np.shape(certified)
    run = ridge_run(n_records=n, n_features=width)
    given_y = {"targets_match": False, **changes}
    return hints.features_hint(given, features_digest(certified), run, **given_y)


@pytest.mark.parametrize("factor", [255, 256, 16, 10, 100, 1000, 2])
def test_constants_that_pixels_and_percentages_are_divided_by_are_tried(factor):
    whole = np.arange(1.0, 7.0).reshape(3, 2)
    assert features_hint(whole * factor, whole) == f"it matches after dividing by {factor}: was --divide-by the same?"
    assert (
        features_hint(whole, whole * factor) == f"it matches after multiplying by {factor}: was --divide-by the same?"
    )


@pytest.mark.parametrize("dtype", ["f4", "f2", "i1", "u1", "?"])
def test_guesses_are_made_in_float64_whatever_the_data_are_stored_in(dtype):
    stored = np.array([[1, 0], [0, 1], [1, 1]]).astype(dtype)
    if stored.dtype.kind == "f":
        stored = stored * np.array(0.7, dtype=dtype)
    certified = stored.astype(np.float64) * 1000.0
    assert "multiplying by 1000" in features_hint(stored, certified)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda a: a[:, ::-1], "it matches with the columns reversed"),
        (lambda a: a[::-1], "it matches with the rows reversed"),
        (lambda a: a[::-1, ::-1], "it matches with rows and columns reversed"),
        (lambda a: a[:, [2, 0, 1]], "it matches with the columns in the order [2, 0, 1]"),
        (lambda a: a[np.lexsort(a.T[::-1])], "it matches with the rows sorted: they are in another order"),
        (lambda a: a.astype(np.float32).astype(float), "it matches after rounding to float32"),
    ],
)
def test_reorderings_and_roundings_are_told(change, hint):
    array = np.random.default_rng(3).normal(size=(5, 3))
    assert features_hint(array, change(array)) == hint


def test_columns_are_permuted_up_to_six_of_them():
    array = np.random.default_rng(3).normal(size=(2, 7))
    order = [1, 0, 2, 3, 4, 5]
    assert str(order) in features_hint(array[:, :6], array[:, order])
    assert "neither X nor y match" in features_hint(array, array[:, [*order, 6]])


def test_data_that_overflow_on_the_way_to_a_guess_are_guessed_at_all_the_same():
    array = np.array([[1.7e308, 1.0], [1e-300, 0.5], [2.0, 3.0]])
    assert features_hint(array, array[np.lexsort(array.T[::-1])]).startswith("it matches with the rows sorted")


def test_guesses_end_where_they_would_take_too_long(monkeypatch):
    array = np.random.default_rng(3).normal(size=(5, 3))
    monkeypatch.setattr(hints, "_MOST_NUMBERS", 3 * array.size)
    assert features_hint(array, array[::-1, ::-1]) == "it matches with rows and columns reversed"  # the third
    assert "neither X nor y match" in features_hint(array, array / 255)  # the fourth
    assert "the rows are likely the same" in features_hint(array, array / 255, targets_match=True)


def test_data_of_another_form_have_no_hint_or_one_about_their_size():
    certified = np.ones((3, 2))
    for given in (np.ones(3), np.ones((3, 2, 1)), np.array([["a"]]), np.ones((3, 2), dtype=complex)):
        assert features_hint(given, certified) == ""
    assert features_hint(np.ones((2, 2)), certified).startswith("2 rows are what the deletion left")
    assert features_hint(np.ones((4, 2)), certified) == "there are 4 rows, but 3 were certified"
    assert features_hint(np.ones((3, 3)), certified).startswith(
        "X has 3 columns, but 2 were certified (was the constant"
    )


DELETED_ROWS_INCLUDED = "2 rows are what the deletion left; give the data of the first fit, deleted rows included"


def targets_hint(given, certified):
    return hints.targets_hint(given, targets_digest(certified), ridge_run())


@pytest.mark.parametrize(
    ("given", "certified", "hint"),
    [
        ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], "it matches with the rows reversed"),
        ([[2.0, 1.0]] * 3, [[1.0, 2.0]] * 3, "it matches with the columns reversed"),
        ([1, 0, 1], ["1", "0", "1"], "it matches as text: labels were read as numbers"),
        (["1", "0", "1"], [1, 0, 1], "it matches as numbers: labels were read as text"),
        (np.array(["1", "0", "1"], dtype=object), [1, 0, 1], "it matches as numbers: labels were read as text"),
        (["a", "b", "c"], [1.0, 0.0, 1.0], "X is as certified: is this the same target column, in the same units?"),
        (["inf", "nan", "1"], [1.0, 0.0, 1.0], "X is as certified: is this the same target column, in the same units?"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], DELETED_ROWS_INCLUDED),
        ([1.0] * 4, [1.0, 2.0, 3.0], "there are 4 rows, but 3 were certified"),
        ([[[1.0]]] * 3, [1.0, 2.0, 3.0], ""),
        (1.0, [1.0, 2.0, 3.0], ""),
    ],
)  # fmt: skip
def test_targets_have_hints_of_their_own(given, certified, hint):
    assert targets_hint(np.array(given), np.array(certified)) == hint


@pytest.mark.parametrize("text", ["a\nVERIFIED  holds", "\x1b[2J", "\ud800"], ids=ascii)
@pytest.mark.parametrize("field", ["notes", "conditions", "library_version"])
def test_texts_cannot_pass_for_lines_of_a_summary(field, text):
    wrong = text if field == "library_version" else (text,)
    with pytest.raises(CertificateError, match="must be printable text on one line") as caught:
        dataclasses.replace(certificate_of(1, conditions=["fine"]), **{field: wrong})
    assert caught.value.field.startswith(field)
