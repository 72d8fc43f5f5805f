"""A model remembers how its table was read: later tables are read so, and options that say otherwise are refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from expunge import LangevinRidge, NewtonLogisticRegression, NewtonRidge
from expunge.cli import main
from expunge.cli.files import load_model
from expunge.data import Constants, Cosines, Reading
from expunge.estimators import ReleasedRidge

NAMES = ["who", "a", "b", "spare", "y"]
KINDS = {
    "newton": ["--model", "ridge", "--task", "regress"],
    "langevin": ["--model", "langevin-ridge", "--task", "regress", "--step-size", "1e-3", "--noise-std", "1e-3"],
}
WAYS = ["--id-column", "who", "--features", "a,b", "--target-column", "y"]
# Each way of reading, and ways that are not it, with what is said of them.
READINGS = {
    "divisor": (
        ["--divide-by", "4"],
        [(["--divide-by", "5"], "--divide-by must be 4 for feature a, as at fit, got 5"),
         (["--bounds", "bounds.csv"], "--bounds must be omitted: the model was fitted with --divide-by"),
         (["--cosine-features", "3"], "--cosine-features must be omitted")],
    ),
    "divisors": (
        ["--divide-by", "divisors.csv"],
        [(["--divide-by", "4"], "--divide-by must be 8 for feature b, as at fit, got 4")],
    ),
    "bounds": (
        ["--bounds", "bounds.csv"],
        [(["--bounds", "others.csv"], "--bounds must be -8 to 8 for feature b, as at fit, got -8 to 9"),
         (["--divide-by", "4"], "--divide-by must be omitted: the model was fitted with --bounds"),
         (["--clip"], "--clip must be omitted: the model was fitted without clipping")],
    ),
    "clipped": (
        ["--bounds", "tight.csv", "--clip"],
        [(["--no-clip"], "--no-clip must be omitted: the model was fitted with clipping")],
    ),
    "cosines": (
        ["--cosine-features", "5", "--cosine-scale", "0.5", "--cosine-seed", "3"],
        [(["--cosine-features", "6"], "--cosine-features must be 5"),
         (["--cosine-scale", "2"], "--cosine-scale must be 0.5"),
         (["--cosine-seed", "4"], "--cosine-seed must be 3"),
         (["--divide-by", "4"], "--divide-by must be omitted: the model was fitted without")],
    ),
    "plain": (
        [],
        [(["--divide-by", "4"], "--divide-by must be omitted: the model was fitted without"),
         (["--bounds", "bounds.csv"], "--bounds must be omitted: the model was fitted without"),
         (["--features", "b,a"], "--features must be those of the fit in their order, 'a' as number 1, got 'b'"),
         (["--features", "a,spare"], "'b' as number 2, got 'spare'"),
         (["--id-column", "spare"], "--id-column must be 'who', as at fit, got 'spare'")],
    ),
}  # fmt: skip


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def refused(*arguments: object, match: str) -> None:
    lines = run(*arguments, code=2).stderr.splitlines()
    assert re.search(match, lines[-1]), lines


def people(n: int = 24, *, seed: int = 0) -> list[list[str]]:
    random = np.random.default_rng(seed)
    X = random.uniform(-4, 4, size=(n, 2)).round(3)
    y = (X @ [1.0, 2.0]).round(3)
    return [[f"P-{i}", *map(str, X[i].tolist()), str(i), str(y[i])] for i in range(n)]


def write(name: str, rows: list[list[str]], *, header: bool = True) -> None:
    lines = [NAMES, *rows] if header else rows
    Path(name).write_text("\n".join(",".join(row) for row in lines) + "\n")


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    write("all.csv", people())
    write("new.csv", [[f"N-{i}", *row[1:]] for i, row in enumerate(people(3, seed=1))])
    Path("divisors.csv").write_text("feature,divide_by\na,4\nb,8\n")
    Path("bounds.csv").write_text("feature,low,high\na,-4,4\nb,-8,8\n")
    Path("others.csv").write_text("feature,low,high\na,-4,4\nb,-8,9\n")
    Path("tight.csv").write_text("feature,low,high\na,-1,1\nb,-8,8\n")


def predicted(model: str, *options: object) -> str:
    run("predict", model, "new.csv", *options, "-o", "p.csv", "--overwrite")
    return Path("p.csv").read_text()


# --- every way of reading, both kinds of models, working and released ----------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", READINGS)
def test_a_table_is_read_as_that_of_the_fit(kind, way):
    reading, others = READINGS[way]
    run("fit", "all.csv", *WAYS, *reading, *KINDS[kind], "-o", "m.npz", "--released", "r.npz")
    given = predicted("m.npz", *WAYS, *reading)
    for model in ("m.npz", "r.npz"):
        assert predicted(model) == given
        assert run("evaluate", model, "all.csv").stdout == run("evaluate", model, "all.csv", *WAYS, *reading).stdout
        for options, match in others:
            refused("predict", model, "new.csv", *options, "-o", "q.csv", match=match)
            refused("evaluate", model, "all.csv", *options, match=match)
    # It is what Python reads and divides by itself.
    model, table = load_model("r.npz", released=True), people(3, seed=1)
    X = model.reading_.mapped([[float(cell) for cell in row[1:3]] for row in table])
    if hasattr(model, "feature_names_in_"):
        del model.feature_names_in_
    found = [float(line.split(",")[1]) for line in given.splitlines()[1:]]
    np.testing.assert_array_equal(model.predict(X), found)


@pytest.mark.parametrize("way", READINGS)
def test_changes_and_verification_read_as_the_fit_did(way):
    reading, others = READINGS[way]
    run("fit", "all.csv", *WAYS, *reading, *KINDS["newton"], "-o", "m0.npz", "-c", "c0.json", "--evidence", "e0.npz")
    run("unlearn", "m0.npz", "--id", "P-3", "-o", "m1.npz", "-c", "c1.json", "--released", "r1.npz")
    write("fix.csv", [["P-5", "1", "0.5", "0", "2"]])
    run("amend", "m1.npz", "fix.csv", "-o", "m2.npz", "-c", "c2.json")
    run("add", "m2.npz", "new.csv", "-o", "m3.npz", "-c", "c3.json", "--released", "r3.npz", "--evidence", "e3.npz")
    for options, match in others:
        for command, table in (("amend", "fix.csv"), ("add", "new.csv")):
            refused(command, "m2.npz", table, *options, "-o", "x.npz", "-c", "x.json", match=match)
    rows = [row for row in people() if row[0] not in ("P-3", "P-5")]
    added = [[f"N-{i}", *row[1:]] for i, row in enumerate(people(3, seed=1))]
    write("now.csv", [*added, *rows, ["P-5", "1", "0.5", "0", "2"]])
    shown = run("verify", "c3.json", "now.csv", "--evidence", "e3.npz", "--model", "r3.npz").stdout
    assert shown.startswith("VERIFIED")
    run("verify", "c3.json", "now.csv", "--evidence", "m3.npz")
    run("verify", "c3.json", "now.csv", *WAYS, *reading, "--evidence", "e3.npz")  # where no model says it
    run("report", "c3.json", "--data", "now.csv", "--evidence", "m3.npz", "-o", "page.html")
    for options, match in others:
        refused("verify", "c3.json", "now.csv", *options, "--evidence", "m3.npz", match=match)
    # Added by Python with the same numbers, the model is of the same data.
    before = load_model("m2.npz")
    names = before.__dict__.pop("feature_names_in_", None)
    X = before.reading_.mapped([[float(cell) for cell in row[1:3]] for row in added])
    same = before.add(X, [float(row[4]) for row in added], [row[0] for row in added]).model
    assert (names is None) == (way == "cosines")
    np.testing.assert_array_equal(same._state.objective.take(np.arange(len(same.ids_))).X,
                                  load_model("m3.npz")._state.objective.take(np.arange(len(same.ids_))).X)  # fmt: skip


def test_what_is_remembered_is_said_in_one_line():
    run("fit", "all.csv", *WAYS, "--bounds", "tight.csv", "--clip", "--cosine-features", "5", *KINDS["newton"],
        "-o", "m.npz")  # fmt: skip
    run("fit", "all.csv", *WAYS, "--divide-by", "4", *KINDS["newton"], "-o", "d.npz")
    assert run("evaluate", "m.npz", "all.csv").stderr == (
        "read as for fit: features scaled to [-1, 1] by their bounds, clipped; 5 random cosines of scale 1 and seed 0; "
        "ids in column who\n"
    )
    assert run("evaluate", "d.npz", "all.csv").stderr == "read as for fit: features divided by 4; ids in column who\n"
    given = ["--bounds", "tight.csv", "--clip", "--cosine-features", "5"]
    assert run("evaluate", "m.npz", "all.csv", *WAYS, *given).stderr == ""


# --- columns -------------------------------------------------------------------------------------


def test_the_targets_of_a_model_are_those_of_its_fit():
    run("fit", "all.csv", "--id-column", "who", "--features", "a,b", "--target-column", "spare", *KINDS["newton"],
        "-o", "m.npz", "-c", "c.json")  # fmt: skip
    refused("add", "m.npz", "new.csv", "--target-column", "y", "-o", "n.npz", "-c", "d.json",
            match="--target-column must be 'spare', as at fit, got 'y'")  # fmt: skip
    run("add", "m.npz", "new.csv", "-o", "n.npz", "-c", "d.json")
    assert load_model("n.npz")._state.objective.take(np.arange(27)).targets[-3:].ravel().tolist() == [0.0, 1.0, 2.0]
    Path("short.csv").write_text("who,a,b,y\nN-9,1,1,1\n")
    refused("add", "m.npz", "short.csv", "-o", "x.npz", "-c", "x.json",
            match="there is no column 'spare', .*; the model was fitted with it")  # fmt: skip


def test_targets_in_a_file_of_their_own_are_asked_for():
    Path("X.csv").write_text("a,b\n" + "\n".join(",".join(row[1:3]) for row in people()) + "\n")
    Path("y.csv").write_text("\n".join(row[4] for row in people()) + "\n")
    run("fit", "X.csv", "--target", "y.csv", *KINDS["newton"], "-o", "m.npz")
    refused("evaluate", "m.npz", "X.csv", match="--target must name the file of the targets")
    run("evaluate", "m.npz", "X.csv", "--target", "y.csv")
    run("evaluate", "m.npz", "all.csv", "--target-column", "y")
    run("predict", "m.npz", "X.csv", "-o", "p.csv")


def test_a_column_of_ids_is_needed_where_records_change_and_nowhere_else():
    run("fit", "all.csv", *WAYS, *KINDS["newton"], "-o", "m.npz", "-c", "c.json", "--evidence", "e.npz")
    Path("nobody.csv").write_text("a,b,y\n" + "\n".join(",".join([*row[1:3], row[4]]) for row in people()) + "\n")
    for command in ("add", "amend"):
        refused(command, "m.npz", "nobody.csv", "-o", "n.npz", "-c", "d.json",
                match="there is no column 'who', .*; the model was fitted with it")  # fmt: skip
    run("evaluate", "m.npz", "nobody.csv")
    run("predict", "m.npz", "nobody.csv", "-o", "p.csv")
    run("verify", "c.json", "nobody.csv", "--evidence", "m.npz")  # in the order of the evidence


@pytest.mark.parametrize("kind", KINDS)
def test_columns_without_names_keep_their_places(kind):
    write("bare.csv", people(), header=False)
    ways = ["--no-header", "--id-column", "0", "--features", "2,1", "--target-column", "4"]
    run("fit", "bare.csv", *ways, "--divide-by", "2", *KINDS[kind], "-o", "m.npz", "--released", "r.npz")
    reading = load_model("m.npz").reading_
    assert (reading.features, reading.target, reading.id_column, reading.header) == ((2, 1), 4, 0, False)
    write("new.csv", people(3, seed=1), header=False)
    expected = predicted("m.npz", *ways)
    assert predicted("r.npz") == expected
    write("new.csv", [row[:4] for row in people(3, seed=1)], header=False)  # without the targets, which were last
    assert predicted("r.npz") == expected
    write("new.csv", [[*row, "1"] for row in people(3, seed=1)], header=False)
    refused("predict", "m.npz", "new.csv", "-o", "q.csv", match="must have 5 columns, as the table of the fit")
    write("new.csv", [row[:4] for row in people(3, seed=1)], header=False)
    refused("evaluate", "m.npz", "new.csv", match="target_column: must be within")
    write("new.csv", people(3, seed=1))
    refused("predict", "m.npz", "new.csv", "-o", "q.csv", match="line 1")  # the header is a record, and no number
    assert predicted("m.npz", "--header") == expected
    refused("predict", "m.npz", "new.csv", "--header", "--features", "1,2", "-o", "q.csv", match="--features must")


def test_names_are_not_guessed_from_a_table_without_a_header():
    run("fit", "all.csv", *WAYS, *KINDS["newton"], "-o", "m.npz")
    write("new.csv", people(3, seed=1), header=False)
    refused("predict", "m.npz", "new.csv", "--no-header", "-o", "p.csv", match="there is no column 'a'.*no header")
    assert "P-0" in predicted("m.npz", "--no-header", "--features", "1,2", "--id-column", "0")


def test_decimal_commas_are_remembered_and_may_be_otherwise_elsewhere():
    lines = [NAMES, *people()]
    Path("comma.csv").write_text("\n".join(";".join(row).replace(".", ",") for row in lines) + "\n")
    run("fit", "comma.csv", *WAYS, "--decimal-comma", *KINDS["newton"], "-o", "m.npz")
    run("fit", "all.csv", *WAYS, *KINDS["newton"], "--random-state", "1", "-o", "n.npz")
    assert run("evaluate", "m.npz", "comma.csv").stderr == "read as for fit: ids in column who; decimal commas\n"
    plain = run("evaluate", "m.npz", "all.csv", "--decimal-point").stdout
    assert run("evaluate", "m.npz", "comma.csv").stdout == plain


def test_arrays_have_no_columns():
    X = np.array([[float(cell) for cell in row[1:3]] for row in people()])
    y = np.array([float(row[4]) for row in people()])
    np.savez("a.npz", X=X, answers=y, people=np.arange(24))
    np.save("X.npy", X)
    fit = ["fit", "a.npz", "--target-column", "answers", "--id-column", "people", "--divide-by", "2"]
    run(*fit, *KINDS["newton"], "-o", "m.npz", "-c", "c.json")
    reading = load_model("m.npz").reading_
    assert (reading.features, reading.target, reading.id_column) == (None, "answers", "people")
    run("verify", "c.json", "a.npz", "--evidence", "m.npz")
    run("predict", "m.npz", "X.npy", "-o", "p.csv")
    run("evaluate", "m.npz", "all.csv", "--features", "a,b", "--target-column", "y")
    refused("evaluate", "m.npz", "all.csv", match="must hold a number, got 'P-0'")


def test_requests_name_people_by_the_column_of_the_fit():
    run("fit", "all.csv", *WAYS, *KINDS["newton"], "-o", "m.npz")
    Path("requests.csv").write_text("id,who\n77,P-4\n")
    run("unlearn", "m.npz", "--requests", "requests.csv", "-o", "n.npz", "-c", "c.json")
    assert "P-4" not in load_model("n.npz").ids_
    run("fit", "all.csv", *WAYS, *KINDS["langevin"], "-o", "l.npz")
    run("unlearn", "l.npz", "--requests", "requests.csv", "--noise-std", "9", "-o", "k.npz", "-c", "k.json")
    assert load_model("k.npz")._history.removed == (4,)
    Path("requests.csv").write_text("ID\nP-5\n")
    run("unlearn", "n.npz", "--requests", "requests.csv", "-o", "o.npz", "-c", "d.json")


# --- what a file may hold of it ------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("option", "content"), [
    ("--bounds", "feature,low,high,source\na,-3.8125,4.0625,data\nb,-8,8,law\n"),
    ("--divide-by", "feature,divide_by,source\na,3.8125,data\nb,4.0625,data\n"),
])  # fmt: skip
def test_constants_that_tell_of_records_are_recognised_and_not_kept(kind, option, content):
    Path("s.csv").write_text(content)
    write("inside.csv", [row for row in people() if -3.8 < float(row[1]) < 4])
    given = [option, "s.csv"]
    run("fit", "inside.csv", *WAYS, *given, *KINDS[kind], "-o", "m.npz", "--released", "r.npz")
    for file in ("m.npz", "r.npz"):
        data = Path(file).read_bytes()
        for value in (3.8125, -3.8125, 4.0625):
            assert repr(value).encode() not in data
            assert np.float64(value).tobytes() not in data
        refused("predict", file, "new.csv", "-o", "q.csv", match=f"{option} must be given: that of the fit")
        predicted(file, *given)
    Path("t.csv").write_text(content.replace("3.8125", "3.9"))
    refused("predict", "m.npz", "new.csv", option, "t.csv", "-o", "q.csv", match=f"{option} must be that of the fit")
    assert load_model("m.npz").reading_.constants.seal is not None
    assert load_model("r.npz", released=True).reading_.constants == Constants(option[2:].replace("-", "_"), None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deletion_keeps_the_reading(kind):
    run("fit", "all.csv", *WAYS, "--divide-by", "4", *KINDS[kind], "-o", "m.npz")
    noise = ["--noise-std", "99"] if kind == "langevin" else []
    run("unlearn", "m.npz", "--id", "P-3", *noise, "-o", "n.npz", "-c", "c.json", "--released", "r.npz")
    kept = {load_model(file, released=True).reading_ for file in ("m.npz", "n.npz", "r.npz")}
    assert kept == {Reading(2, 5, ("a", "b"), "y", id_column="who", constants=Constants("divide_by", ((4.0,),)))}


def test_a_model_of_arrays_has_no_reading_and_takes_options_as_they_are():
    X = np.array([[float(cell) for cell in row[1:3]] for row in people()])
    NewtonRidge().fit(X / 4, X @ [1.0, 2.0], record_ids=[row[0] for row in people()]).save("m.npz")
    assert load_model("m.npz").reading_ is None
    assert "R^2" in run("evaluate", "m.npz", "all.csv", *WAYS, "--divide-by", "4").stdout
    model = NewtonRidge().fit(X, X[:, 0])
    with pytest.raises(AttributeError):
        model.reading_ = Reading(2)


@pytest.mark.parametrize("estimator", [NewtonRidge, LangevinRidge])
def test_another_fit_forgets_the_reading(estimator):
    run("fit", "all.csv", *WAYS, "--divide-by", "4", *KINDS["newton" if estimator is NewtonRidge else "langevin"],
        "-o", "m.npz")  # fmt: skip
    model = estimator.load("m.npz")
    assert model.reading_ is not None
    assert model.fit(np.eye(3), [1.0, 2.0, 3.0]).reading_ is None


# --- Reading -------------------------------------------------------------------------------------


FULL = Reading(
    n_features=2,
    n_columns=4,
    features=("a", "b"),
    target="y",
    id_column=0,
    header=False,
    decimal_comma=True,
    constants=Constants("bounds", ((0.0, 1.0), (0.1, 0.3))),
    clip=True,
    cosines=Cosines(5, 0.25, 7),
)


def test_a_reading_survives_json():
    sealed = Reading(2, constants=Constants("divide_by", ((3.0,), (5.0,))).sealed(n_features=2), target_apart=True)
    for reading in (FULL, sealed, sealed.public(), Reading(3)):
        assert Reading.from_dict(json.loads(json.dumps(reading.to_dict()))) == reading


def test_seals_recognise_constants_and_differ():
    constants = Constants("divide_by", ((3.0,),))
    one, two = constants.sealed(n_features=2), constants.sealed(n_features=2)
    assert one.seal != two.seal
    assert one.same_as(constants, n_features=2)
    assert one.same_as(Constants("divide_by", ((3.0,), (3.0,))), n_features=2)
    assert not one.same_as(Constants("divide_by", ((3.0,), (4.0,))), n_features=2)
    assert not one.same_as(Constants("bounds", ((0.0, 3.0),)), n_features=2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_features": 0}, "n_features must be"),
        ({"n_features": True}, "n_features must be"),
        ({"n_features": 3}, "bounds must hold one row per feature, 3, got 2"),
        ({"n_columns": None}, "both be given"),
        ({"features": ["a", 1]}, "all names or all positions"),
        ({"features": [True, False]}, "all names or all positions"),
        ({"target": 1.5}, "target must be a name or a position"),
        ({"clip": 1}, "clip must be true or false"),
        ({"clip": None}, "clip must be true or false"),
        ({"header": 0}, "header must be true or false"),
        ({"constants": {"kind": "mean", "values": None, "seal": None}}, "kind must be one of"),
        ({"constants": {"kind": "bounds", "values": [[1.0], [2.0]], "seal": None}}, "must hold 2 for each"),
        ({"constants": {"kind": "divide_by", "values": [[0.0]], "seal": None}}, "divide_by must be > 0"),
        ({"constants": {"kind": "divide_by", "values": [["x"]], "seal": None}}, "values must"),
        ({"constants": {"kind": "divide_by", "values": None, "seal": "ab"}}, "seal must be 48 bytes"),
        ({"cosines": {"n_features": 0, "scale": 1.0, "seed": 0}}, "n_features of cosines"),
        ({"cosines": {"n_features": 5, "scale": 0.0, "seed": 0}}, "scale of cosines"),
        ({"cosines": {"n_features": 5, "scale": 1.0, "seed": -1}}, "seed of cosines"),
        ({"other": 1}, "other"),
    ],
)
def test_a_reading_that_no_fit_made_is_refused(change, match):
    with pytest.raises((TypeError, ValueError), match=match):
        Reading.from_dict({**FULL.to_dict(), **change})


def test_mapping_refuses_what_is_not_of_the_fit():
    with pytest.raises(ValueError, match="must have 2 features, got 3"):
        FULL.mapped(np.ones((1, 3)))
    with pytest.raises(ValueError, match="bounds must be that of the fit"):
        FULL.mapped(np.ones((1, 2)), constants=Constants("bounds", ((0.0, 1.0), (0.1, 0.4))))
    with pytest.raises(ValueError, match="divide_by must be that of the fit"):
        Reading(2).mapped(np.ones((1, 2)), constants=Constants("divide_by", ((1.0,),)))
    with pytest.raises(ValueError, match="is not kept: it must be given"):
        Reading(2, constants=Constants("divide_by", None)).mapped(np.ones((1, 2)))


def test_a_file_whose_reading_is_of_another_width_is_refused():
    model = NewtonLogisticRegression().fit(np.eye(4), ["a", "b", "a", "b"])
    for kind, reading in ((model, Reading(3)), (model.release(), Reading(4, cosines=Cosines(3, 1.0, 0)))):
        kind._reading = reading
        kind.save("m.npz", overwrite=True)
        with pytest.raises(ValueError, match="reading must be of 4 features, as the model takes, got 3"):
            load_model("m.npz", released=True)
    ReleasedRidge._from_parts(np.ones(4), 0.0, conditions=()).save("old.npz")
    assert load_model("old.npz", released=True).reading_ is None
