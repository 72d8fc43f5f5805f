"""Every command does what it says, refuses bad input in one line with exit code 2, and leaves no half-written file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from expunge import __version__
from expunge.certificates import CONDITIONS, Certificate
from expunge.cli import main
from expunge.cli.files import load_model, parse_indices
from expunge.cli.main import COMMANDS
from expunge.estimators import LangevinRidge, LangevinRidgeClassifier, ReleasedRidgeClassifier

FIT = ["fit", "iris", "--n-steps", "20", "--noise-std", "0.002"]
TARGET = ["--epsilon", "1", "--delta", "1e-3", "--n-steps", "5"]


def run(*arguments: object, code: int = 0, **options: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], **options)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    assert "Traceback" not in result.output
    return result


def refused(*arguments: object, match: str, code: int = 2) -> None:
    """Run a command that must fail with one clear line, and must leave the folder as it was."""
    before = snapshot(Path())
    result = run(*arguments, code=code)
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Usage:", "Try "))]
    lines = [line for line in lines if line]
    assert len(lines) == 1, result.stderr
    assert re.search(match, lines[0]), lines[0]
    assert snapshot(Path()) == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, keys, and one signed deletion."""
    folder = tmp_path_factory.mktemp("learned")
    before = os.getcwd()
    os.chdir(folder)
    try:
        run(*FIT, "-o", "m0.npz")
        run("keygen", "key.pem", "key.pub.pem")
        run("unlearn", "m0.npz", "3", "-o", "m1.npz", "-c", "c1.json", "--released", "r1.npz", *TARGET,
            "--key", "key.pem", "--ledger", "deletions.ledger")  # fmt: skip
    finally:
        os.chdir(before)
    return folder


# --- the way through -----------------------------------------------------------------------------


def test_version_and_help():
    assert run("--version").output.strip() == f"expunge, version {__version__}"
    for command in ([], *([name] for name in COMMANDS)):
        assert "Usage:" in run(*command, "--help").output


def test_the_package_is_run_as_the_command():
    done = subprocess.run([sys.executable, "-m", "expunge", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"expunge, version {__version__}"


HEAVY = {"scipy", "sklearn", "pandas", "pyarrow", "matplotlib", "cryptography", "torch", "numpy", "tqdm"}


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_the_command_line_starts_without_the_library(argument):
    code = f"""
import sys
from expunge.cli import main
try:
    main([{argument!r}])
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert {"click", "expunge"} <= loaded
    assert not loaded & HEAVY


def test_the_help_of_a_command_does_not_wait_for_the_library():
    code = f"""
import sys
from expunge.cli import main
for name in {list(COMMANDS)!r}:
    main([name, "--help"], standalone_mode=False)
print(*sorted(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage:") == len(COMMANDS)
    assert not {name.split(".")[0] for name in done.stderr.split()} & (HEAVY - {"numpy", "tqdm"})


def test_the_list_of_commands_says_what_their_help_says():
    for name, (_, text) in COMMANDS.items():
        command = main.get_command(None, name)
        assert command.name == name
        assert " ".join(command.help.split()).startswith(text.rstrip("."))
        assert text in " ".join(run("--help").output.split())


def test_fit_writes_a_model_that_loads(tmp_path):
    output = run(*FIT, "-o", "m.npz", "--released", "r.npz").output
    assert "150 records of 4 features" in output
    assert LangevinRidgeClassifier.load("m.npz").n_steps == 20
    assert not hasattr(ReleasedRidgeClassifier.load("r.npz"), "_history")
    run("fit", "diabetes", "--n-steps", "5", "-o", "d.npz")
    LangevinRidge.load("d.npz")


def test_fit_options_reach_the_estimator():
    run("fit", "iris", "-o", "m.npz", "--task", "regress", "--alpha", "2.5", "--n-steps", "7", "--noise-std", "0.25",
        "--step-size", "1e-5", "--no-intercept", "--random-state", "4", "--divide-by", "2",
        "--cosine-features", "6", "--cosine-scale", "0.5", "--cosine-seed", "1")  # fmt: skip
    model = LangevinRidge.load("m.npz")
    assert (model.alpha, model.n_steps, model.noise_std, model.step_size_) == (2.5, 7, 0.25, 1e-5)
    assert not model.fit_intercept
    assert model.n_features_in_ == 6


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_quote_writes_what_it_prints(learned, method):
    output = run("quote", learned / "m0.npz", *TARGET, "--method", method, "-o", "q.json").output
    values = json.loads(Path("q.json").read_text())
    assert (values["method"], values["epsilon"], values["delta"]) == (method, 1.0, 1e-3)
    assert [record["record"] for record in values["records"]] == list(range(150))
    assert f"method {method}" in output
    median = np.quantile([r["noise_std"] for r in values["records"]], 0.5, method="inverted_cdf")
    assert f"median {median:.4g}" in output


def test_quote_of_chosen_rows_groups_and_steps(learned):
    run("quote", learned / "m0.npz", *TARGET, "--indices", "7,3,10-12", "-o", "q.json")
    assert [r["record"] for r in json.loads(Path("q.json").read_text())["records"]] == [7, 3, 10, 11, 12]
    np.save("g.npy", np.arange(150) // 3)
    run("quote", learned / "m0.npz", *TARGET, "--groups", "g.npy", "--indices", "0-5", "-o", "g.json")
    assert [r["group"] for r in json.loads(Path("g.json").read_text())["groups"]] == [0, 1]
    output = run("quote", learned / "m0.npz", "--delta", "1e-3", "--noise-std", "0.9", "--indices", "3").output
    assert "unlearning steps" in output


def test_quote_as_parquet_and_picture(learned):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run("quote", learned / "m0.npz", *TARGET, "-o", "q.parquet", "-o", "q.png")
    assert parquet.read_table("q.parquet").num_rows == 150
    assert Path("q.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(os.listdir()) == ["q.parquet", "q.png"]


def test_a_deletion_is_certified_signed_entered_and_verified(learned):
    shown = run("verify", learned / "c1.json", "iris", "--model", learned / "r1.npz",
                "--public-key", learned / "key.pub.pem").output  # fmt: skip
    assert shown.startswith("VERIFIED")
    assert "trusted key" in shown
    run("verify", learned / "c1.json", "iris", "--model", learned / "m1.npz")
    assert "1 deletion, 1 record gone" in run("ledger", "show", learned / "deletions.ledger").output
    for model in ("r1.npz", "m1.npz"):
        assert "UNBROKEN" in run("ledger", "check", learned / "deletions.ledger", "--model", learned / model).output


def test_deletions_in_sequence_share_a_ledger(learned):
    Path("d.ledger").write_bytes((learned / "deletions.ledger").read_bytes())
    head = run("ledger", "check", "d.ledger").output.split("head ")[1].split()[0]
    run("unlearn", learned / "m1.npz", "8,9", "-o", "m2.npz", "-c", "c2.json", *TARGET, "--ledger", "d.ledger")
    assert Certificate.load("c2.json").run.deleted == (3, 8, 9)
    run("verify", "c2.json", "iris", "--model", "m2.npz")
    run("ledger", "check", "d.ledger", "--head", head, "--model", "m2.npz")
    assert "2 deletions, 3 records gone" in run("ledger", "show", "d.ledger").output


def test_keys_with_a_password(learned):
    run("keygen", "k.pem", "k.pub.pem", "--ask-password", input="secret\nsecret\n")
    run("unlearn", learned / "m0.npz", "1", "-o", "m.npz", "-c", "c.json", *TARGET, "--key", "k.pem",
        "--ask-password", input="secret\n")  # fmt: skip
    run("verify", "c.json", "iris", "--public-key", "k.pub.pem")
    assert Path("k.pem").stat().st_mode & 0o077 == 0


# --- people's own tables -------------------------------------------------------------------------


@pytest.fixture
def people() -> str:
    """Write a table as people have it and bounds for it; return the options that read it."""
    rng = np.random.default_rng(0)
    n = 90
    age, income = rng.integers(18, 90, n), rng.uniform(0, 90_000, n).round(2)
    bought = np.where(age / 90 + income / 90_000 + rng.normal(0, 0.1, n) > 1, "yes", "no")
    rows = [f"{i},CUST-{i // 2},{age[i]},{income[i]},{bool(i % 3)},{bought[i]}" for i in range(n)]
    Path("people.csv").write_text("\n".join([",customer,age,income,member,bought", *rows]) + "\n")
    Path("bounds.csv").write_text("feature,low,high\nincome,0,100000\nage,0,120\nmember,0,1\n")
    return ["people.csv", "--id-column", "customer", "--bounds", "bounds.csv"]


def test_a_table_is_fitted_evaluated_and_predicted_by_its_names(people):
    shown = run(
        "fit", "--model", "langevin-ridge", *people, "-o", "m.npz", "--released", "r.npz", "--noise-std", "1e-4"
    ).output
    assert "reading y as 2 classes: no, yes" in shown
    assert "column 'Unnamed: 0' is a row index" in shown
    assert "learned from 90 records about 45 ids of 3 features" in shown
    model = LangevinRidgeClassifier.load("m.npz")
    assert model.feature_names_in_.tolist() == ["age", "income", "member"]
    accuracy = re.search(r"training accuracy  (\S+)", shown).group(1)
    for reading in (people, ["people.csv", "--bounds", "bounds.csv"]):  # the ids need not be named again
        shown = run("evaluate", "m.npz", *reading).output
        assert f"accuracy {accuracy} on 90 records" in shown
        counts = dict(re.findall(r"^  (no|yes) +(\d+)", shown, flags=re.MULTILINE))
        assert sum(map(int, counts.values())) == 90
    # columns in another order, and no targets
    lines = [line.split(",") for line in Path("people.csv").read_text().splitlines()]
    Path("new.csv").write_text("\n".join(",".join([row[4], row[3], row[1], row[2]]) for row in lines) + "\n")
    run("predict", "m.npz", "new.csv", "--bounds", "bounds.csv", "--id-column", "customer", "-o", "p.csv")
    table = [line.split(",") for line in Path("p.csv").read_text().splitlines()]
    assert table[0] == ["customer", "prediction"]
    assert [row[0] for row in table[1:3]] == ["CUST-0", "CUST-0"]
    right = np.mean([row[1] == line[5] for row, line in zip(table[1:], lines[1:], strict=True)])
    assert f"{right:.3f}" == accuracy
    run("predict", "m.npz", "new.csv", "--bounds", "bounds.csv", "-o", "p.csv", "--overwrite")
    assert Path("p.csv").read_text().splitlines()[1].split(",")[0] == "CUST-0"  # the column is remembered
    Path("new.csv").write_text("\n".join(",".join([row[4], row[3], row[2]]) for row in lines) + "\n")
    run("predict", "m.npz", "new.csv", "-o", "p.csv", "--overwrite")
    assert Path("p.csv").read_text().splitlines()[1].split(",")[0] == "0"  # and need not be there


def test_people_are_quoted_by_id_exactly(people):
    run("fit", "--model", "langevin-ridge", *people, "-o", "m.npz")
    run("quote", "m.npz", *TARGET, "--id", "CUST-7", "--id", "CUST-3", "-o", "q.json")
    asked = json.loads(Path("q.json").read_text())["ids"]
    assert [one["id"] for one in asked] == ["CUST-7", "CUST-3"]
    assert "45 ids" in run("quote", "m.npz", *TARGET, "--by-id").output
    refused("quote", "m.npz", "--id", "CUST-99", match="'CUST-99', which no record has")
    for name, groups in (("g.csv", "group\n" + "CUST-1\n" * 45 + "CUST-2\n" * 45), ("h.csv", "a\n" * 45 + "b\n" * 45)):
        Path(name).write_text(groups)
        assert "2 groups" in run("quote", "m.npz", *TARGET, "--groups", name).output
    Path("g.csv").write_text("".join(f"{9007199254740992 + i // 45}\n" for i in range(90)))
    assert "2 groups" in run("quote", "m.npz", *TARGET, "--groups", "g.csv").output
    numbered = Path("people.csv").read_text().replace("CUST-", "90071992547409")
    Path("people.csv").write_text(numbered)
    run("fit", "--model", "langevin-ridge", *people, "-o", "n.npz")
    assert "1 id, " in run("quote", "n.npz", *TARGET, "--id", "900719925474092").output
    refused("quote", "n.npz", "--id", "CUST-1", match="whole numbers, as the ids of this model are, got 'CUST-1'")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--bounds", "none.csv"], "there is no file none.csv"),
        (["--bounds", "few.csv"], "few.csv: says nothing about the feature 'income'"),
        (["--bounds", "more.csv"], "more.csv: names 'size', which is none of the features age, income, member"),
        (["--bounds", "twice.csv"], "names the feature 'age' twice"),
        (
            ["--bounds", "tight.csv"],
            r"tight.csv: X must lie within .* of feature age: .* or give --clip",
        ),
        (["--divide-by", "few.csv"], "few.csv: features: there is no column 'divide_by'"),
        (["--divide-by", "none.csv"], "divide_by must be a number or a file that exists"),
        (["--divide-by", "2", "--bounds", "few.csv"], "exclude each other"),
        (["--clip"], "--clip needs --bounds"),
        (["--features", "age,size"], "there is no column 'size'"),
        (["--task", "regress"], "holds text"),
        (["--drop", "member", "--features", "member"], "named by drop already"),
    ],
)
def test_tables_and_constants_that_do_not_fit_are_refused(people, arguments, match):
    Path("few.csv").write_text("feature,low,high\nage,0,120\n")
    Path("more.csv").write_text(Path("bounds.csv").read_text() + "size,0,1\n")
    Path("twice.csv").write_text(Path("bounds.csv").read_text() + "age,0,1\n")
    Path("tight.csv").write_text(Path("bounds.csv").read_text().replace("120", "60"))
    refused("fit", *people[:3], *arguments, "-o", "m.npz", match=match)


def test_bounds_taken_from_data_say_so(people):
    shown = run("bounds", *people[:3], "--target-column", "bought", "-o", "b.csv").output
    assert "depend on every record" in shown
    reading = [*people[:4], "b.csv"]
    given = ["--step-size", "1e-3", "--classes", "no,yes", "--noise-std", "0.01", "-o", "m.npz"]
    assert f"conditional: {CONDITIONS['scale']}" in run("fit", *reading, *given).output
    delete = ["unlearn", "m.npz", "--id", "CUST-3", "--noise-std", "1", "-o", "n.npz", "-c", "c.json"]
    assert CONDITIONS["scale"] in run(*delete, "--released", "r.npz").output
    assert f"but      {CONDITIONS['scale']}" in run("show", "c.json").output
    assert load_model("r.npz", released=True).conditions_ == (CONDITIONS["scale"],)
    run("verify", "c.json", *reading)
    refused("verify", "c.json", *reading, "--max-epsilon", "1", code=1, match="conditional")

    marked = Path("b.csv").read_text()
    Path("b.csv").write_text(re.sub(",source|,data", "", marked))
    assert "conditional" not in run("fit", *reading, *given, "--overwrite").output
    assert "conditional" not in run(*delete, "--overwrite").output
    run("verify", "c.json", *reading, "--max-epsilon", "1")
    Path("b.csv").write_text(marked.replace(",data\n", ",Data \n", 1).replace(",data\n", ",law\n"))
    refused("verify", "c.json", *reading, code=1, match=CONDITIONS["scale"])
    Path("b.csv").write_text(marked.replace(",data\n", ",\n"))
    refused("fit", *reading, *given, "--overwrite", match="source")


def test_divisors_taken_from_data_say_so(people):
    Path("d.csv").write_text("feature,divide_by,source\nage,89,data\nincome,1e5,law\nmember,2,law\n")
    fit = ["fit", *people[:3], "--divide-by", "d.csv", "--step-size", "1e-3", "--classes", "no,yes", "-o", "m.npz"]
    assert CONDITIONS["scale"] in run(*fit).output
    Path("d.csv").write_text(Path("d.csv").read_text().replace("data", "law"))
    assert "conditional" not in run(*fit, "--overwrite").output


def test_division_by_one_constant_per_feature_is_division(people):
    Path("d.csv").write_text("feature,divide_by\nage,100\nincome,1e5\nmember,2\n")
    run("fit", "--model", "langevin-ridge", *people[:3], "--divide-by", "d.csv", "-o", "m.npz", "--random-state", "1")
    table = [line.split(",") for line in Path("people.csv").read_text().splitlines()[1:]]
    X = np.array([[float(row[2]) / 100, float(row[3]) / 1e5, (row[4] == "True") / 2] for row in table])
    model = LangevinRidgeClassifier(random_state=1).fit(X, [row[5] for row in table])
    np.testing.assert_allclose(LangevinRidgeClassifier.load("m.npz").coef_, model.coef_, rtol=1e-12, atol=1e-15)


def test_a_regression_is_evaluated(tmp_path):
    run("fit", "diabetes", "--n-steps", "50", "-o", "d.npz")
    shown = run("evaluate", "d.npz", "diabetes").output
    assert re.search(r"R\^2 -?\d\.\d{3} on 442 records", shown)
    refused("evaluate", "d.npz", "iris", match="there is no column 'age', .*; the model was fitted with it")
    run(*FIT, "-o", "m.npz")
    np.savez("three.npz", X=np.ones((5, 3)), y=np.zeros(5))
    refused("evaluate", "m.npz", "three.npz", match="three.npz: the model takes 4 features, got 3")
    np.savez("text.npz", X=np.ones((2, 4)), y=np.array(["a", "b"]))
    refused("evaluate", "m.npz", "text.npz", match="the model's classes are 0, 1, 2, the data's are 'a', 'b'")


def test_verification_takes_the_options_of_fit(people):
    run("fit", "--model", "langevin-ridge", *people, "-o", "m.npz")
    LangevinRidgeClassifier.load("m.npz").unlearn(ids=["CUST-3"], epsilon=1.0, delta=1e-3, n_steps=5).certificate.save(
        "c.json"
    )
    assert run("verify", "c.json", *people).output.startswith("VERIFIED")
    refused("verify", "c.json", *people[:3], match="digests.X", code=1)


def test_a_certificate_is_shown_without_data(learned):
    shown = run("show", learned / "c1.json").output
    assert "claim    epsilon = 1, delta = 0.001" in shown
    assert "signature  holds" in shown
    assert "--public-key says whether" in shown
    key = learned / "key.pub.pem"
    assert "(the key given)" in run("show", learned / "c1.json", "--public-key", key).output
    values = json.loads((learned / "c1.json").read_text())
    Path("c.json").write_text(json.dumps({**values, "issued_at": "2020-01-01T00:00:00Z"}))
    assert "REFUSED  signature" in run("show", "c.json", code=1).stderr
    Path("c.json").write_text(json.dumps({**values, "signature": None}))
    assert "signature  none" in run("show", "c.json").output
    assert "REFUSED  signature" in run("show", "c.json", "--public-key", key, code=1).stderr
    run("keygen", "other.pem", "other.pub.pem")
    assert "must be by key" in run("show", learned / "c1.json", "--public-key", "other.pub.pem", code=1).stderr


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("claim", "epsilon"), 0.5, "claim.delta"),
        (("claim", "delta"), 1e-9, "claim.delta"),
        (("run", "deleted"), [4], "digests.record|run"),
        (("digests", "X"), "0" * 64, "digests.X"),
        (("digests", "model"), "0" * 64, "digests.model"),
    ],
)
def test_a_changed_certificate_is_refused_with_exit_code_1(learned, path, value, field):
    values = json.loads((learned / "c1.json").read_text())
    values[path[0]][path[1]] = value
    if path[1] == "deleted":
        values["run"]["phases"][-1]["removed"] = value
    values["signature"] = None
    Path("c.json").write_text(json.dumps(values))
    refused("verify", "c.json", "iris", "--model", learned / "r1.npz", match=f"^REFUSED  ({field})", code=1)


def test_other_data_models_and_keys_are_refused_with_exit_code_1(learned):
    refused("verify", learned / "c1.json", "wine", match="REFUSED  digests.X", code=1)
    refused("verify", learned / "c1.json", "iris", "--divide-by", "2", match="REFUSED  digests.X", code=1)
    refused("verify", learned / "c1.json", "iris", "--model", learned / "m0.npz", match="digests.model", code=1)
    run("keygen", "other.pem", "other.pub.pem")
    refused("verify", learned / "c1.json", "iris", "--public-key", "other.pub.pem", match="signature", code=1)


def test_a_changed_ledger_is_refused_with_exit_code_1(learned):
    text = (learned / "deletions.ledger").read_text()
    Path("edited.ledger").write_text(text.replace('"epsilon":1.0', '"epsilon":0.5'))
    refused("ledger", "check", "edited.ledger", match="REFUSED  line 2", code=1)
    refused("ledger", "show", "edited.ledger", match="REFUSED  line 2", code=1)
    Path("short.ledger").write_text(text[:-20])
    refused("ledger", "check", "short.ledger", match="REFUSED  line 2", code=1)
    refused("ledger", "check", learned / "deletions.ledger", "--head", "0" * 64, match="REFUSED", code=1)
    refused("ledger", "check", learned / "deletions.ledger", "--model", learned / "m0.npz", match="REFUSED", code=1)
    # a broken ledger is found before anything is deleted
    refused("unlearn", learned / "m0.npz", "1", "-o", "m.npz", "-c", "c.json", "--ledger", "edited.ledger",
            match="line 2")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nowhere.csv"], "there is no file nowhere.csv"),
        (["bad.csv"], "bad.csv: line 2, column 1 must be finite"),
        (["short.npz"], "short.npz: "),
        (["x.npy"], "x.npy: holds no targets"),
        (["iris", "--alpha", "0"], "alpha must be > 0"),
        (["iris", "--alpha", "nan"], "alpha must be finite"),
        (["iris", "--n-steps", "0"], "n_steps must be >= 1"),
        (["iris", "--noise-std", "-1"], "noise_std must be >= 0"),
        (["iris", "--step-size", "10"], "step_size must be > 0 and at most 1/L"),
        (["iris", "--step-size", "big"], "step_size must be a number or auto"),
        (["iris", "--divide-by", "0"], "divide_by must be > 0"),
        (["iris", "--cosine-features", "0"], "n_features must be >= 1"),
        (["iris", "--random-state", "-1"], "random_state must be"),
        (["iris", "--target", "x.npy"], "do not apply to the bundled set"),
        (["iris", "--released", "m.npz"], r"--output \(m.npz\) must not be --released"),
        (["iris", "--released", "no/such/folder.npz"], "the folder no/such does not exist"),
        (["iris", "--n-steps", "many"], "not a valid integer"),
    ],
)
def test_fit_refuses(arguments, match):
    Path("bad.csv").write_text("1,2\nnan,3\n")
    np.savez("whole.npz", X=np.ones((3, 3)), y=np.ones(3))
    Path("short.npz").write_bytes(Path("whole.npz").read_bytes()[:200])
    np.save("x.npy", np.ones((3, 3)))
    refused("fit", "--model", "langevin-ridge", *arguments, "-o", "m.npz", match=match)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--epsilon", "-1"], "epsilon must be >= 0"),
        (["--epsilon", "nan"], "epsilon must be finite"),
        (["--delta", "0"], "delta must be > 0"),
        (["--delta", "1"], "delta must be"),
        (["--n-steps", "0"], "n_steps must be >= 1"),
        (["--indices", "150"], "indices must be within"),
        (["--indices", "3,3"], "must not repeat"),
        (["--indices", "5-3"], "indices must look like"),
        (["--indices", "a"], "indices must look like"),
        (["--n-steps", "3", "--noise-std", "1"], "exactly one of"),
        (["--noise-std", "0"], "noise_std must be > 0"),
        (["--groups", "few.npy"], "one id per row"),
        (["--groups", "none.npy"], "there is no file none.npy"),
        (["-o", "q.txt"], "q.txt: must end in"),
        (["-o", "no/q.json"], "the folder no does not exist"),
        (["--method", "best"], "not one of"),
    ],
)
def test_quote_refuses(learned, arguments, match):
    np.save("few.npy", np.arange(3))
    refused("quote", learned / "m0.npz", *arguments, match=match)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["150"], "indices must be within"),
        (["3,3"], "must not repeat"),
        (["0-149"], "must leave at least one record"),
        (["1", "--epsilon", "inf"], "epsilon must be finite"),
        (["1", "--delta", "2"], "delta must be"),
        (["1", "--n-steps", "0"], "n_steps must be >= 1"),
        (["1", "--key", "none.pem"], "no private key at none.pem"),
        (["1", "--key", "text.pem"], "holds no private key"),
        (["1", "--ledger", "text.pem"], "line 1"),
        (["1", "--released", "c.json"], "must end in .npz"),
    ],
)
def test_unlearn_refuses(learned, arguments, match):
    Path("text.pem").write_text("hello\n")
    refused("unlearn", learned / "m0.npz", *arguments, "-o", "m.npz", "-c", "c.json", match=match)


def test_a_record_is_deleted_once(learned):
    refused("unlearn", learned / "m1.npz", "3", "-o", "m.npz", "-c", "c.json", match="deleted before")
    refused("quote", learned / "m1.npz", "--indices", "3", match="deleted before")


def test_a_deletion_that_cannot_be_entered_leaves_nothing(learned):
    Path("d.ledger").write_bytes((learned / "deletions.ledger").read_bytes())
    # m0 is not the model the ledger's last entry is about
    refused("unlearn", learned / "m0.npz", "5", "-o", "m.npz", "-c", "c.json", *TARGET, "--ledger", "d.ledger",
            match="the model of the last entry")  # fmt: skip


@pytest.mark.parametrize("cut", [0, 10, 500, -1])
def test_truncated_models_certificates_and_keys_are_refused(learned, cut):
    for name in ("m0.npz", "r1.npz", "c1.json", "key.pem", "key.pub.pem"):
        whole = (learned / name).read_bytes()
        Path(name).write_bytes(whole[: cut if cut >= 0 else len(whole) // 2])
    refused("quote", "m0.npz", match="m0.npz")
    refused("unlearn", "m0.npz", "1", "-o", "m.npz", "-c", "c.json", match="m0.npz")
    refused("verify", "c1.json", "iris", match="certificate|json")
    refused("verify", learned / "c1.json", "iris", "--model", "r1.npz", match="r1.npz")
    if cut in (0, 10):
        refused("verify", learned / "c1.json", "iris", "--public-key", "key.pub.pem", match="key.pub.pem")
        refused("unlearn", learned / "m0.npz", "1", "-o", "m.npz", "-c", "c.json", "--key", "key.pem", match="key.pem")


def test_wrong_files_are_refused(learned):
    refused("quote", learned / "r1.npz", match="has no history")
    refused("quote", "none.npz", match="there is no model at none.npz")
    refused("verify", "none.json", "iris", match="there is no certificate at none.json")
    refused("ledger", "show", "none.ledger", match="there is no ledger at none.ledger")
    refused("keygen", "k.pem", "k.pem", match="must differ")
    values = json.loads((learned / "c1.json").read_text())
    Path("c.json").write_text(json.dumps({**values, "version": 3}))
    refused("verify", "c.json", "iris", match="version: must be 1 or 2")


def test_nothing_is_overwritten_unasked(learned):
    for name in ("m.npz", "c.json", "q.json", "k.pem"):
        Path(name).write_text("precious")
    refused(*FIT, "-o", "m.npz", match="m.npz already exists; pass --overwrite")
    refused("quote", learned / "m0.npz", "-o", "q.json", match="q.json already exists")
    refused("unlearn", learned / "m0.npz", "1", "-o", "new.npz", "-c", "c.json", match="c.json already exists")
    refused("keygen", "k.pem", "k.pub.pem", match="k.pem already exists")
    run(*FIT, "-o", "m.npz", "--overwrite")
    run("quote", "m.npz", *TARGET, "-o", "q.json", "--overwrite")
    run("keygen", "k.pem", "k.pub.pem", "--overwrite")
    run("unlearn", learned / "m0.npz", "1", "-o", "m.npz", "-c", "c.json", *TARGET, "--overwrite")
    assert Certificate.load("c.json").run.deleted == (1,)


def test_an_interrupted_write_leaves_the_old_files(learned, monkeypatch):
    Path("m.npz").write_text("precious")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("No space left on device")

    for name in ("write", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            refused("unlearn", learned / "m0.npz", "1", "-o", "m.npz", "-c", "c.json", *TARGET, "--overwrite",
                    match="No space left")  # fmt: skip


def test_row_lists():
    assert parse_indices("3, 7,10-12") == [3, 7, 10, 11, 12]
    assert parse_indices(None) is None
    for text in ("", "1,", "-1", "1-", "a", "2-1", "1.5", "0-999999999999"):
        with pytest.raises(ValueError, match="indices must look like"):
            parse_indices(text)


# --- the demo ------------------------------------------------------------------------------------


def test_demo_tells_the_whole_story(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from expunge.cli import main; main()", "demo"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for words in (
        "worst case over all",
        "per record, exactly",
        "REFUSED: claim.delta",
        "ABSENT",
        "before/after epsilon",
    ):
        assert words in done.stdout
    assert done.stdout.count("CERTIFIED: epsilon = 1, delta = 1e-05") == 2
    assert done.stdout.index("customers") < done.stdout.index("digits")
    refusals = ("With C-10191 among the data\n    REFUSED: digests.data", "half the epsilon\n    REFUSED: claim.mu")
    assert all(words in done.stdout for words in refusals)
    before, after = re.findall(r"accuracy (\d+\.\d)%", done.stdout)[:2]
    assert abs(float(before) - float(after)) < 3
    left = [float(x) for x in re.findall(r"(\d+\.\d)%(?:  \(estimate\))?$", done.stdout, flags=re.MULTILINE)]
    uniform, shifted, exact = left
    assert uniform < shifted < exact
    assert exact - uniform > 30
    names = set(os.listdir(tmp_path / "demo-output"))
    assert {"certificate.json", "evidence.npz", "report.html", "digits-model.npz", "digits-training.npz"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    said = re.findall(r"^  expunge (.*)$", done.stdout, flags=re.MULTILINE)
    assert [words.split()[0] for words in said] == ["verify", "absence", "verify"]
    for words in said:
        run(*words.split())
    run("verify", *(word.replace("-now.csv", ".csv") for word in said[0].split()[1:]), code=1)
    run("ledger", "check", "demo-output/deletions.ledger", "--model", "demo-output/released.npz")
    refused("demo", match="already exists; pass --overwrite")
