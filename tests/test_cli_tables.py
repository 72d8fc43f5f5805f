"""Constants that are given at fit reach the model and its certificates; what a model costs is said in options."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from expunge.certificates import CONDITIONS, Certificate
from expunge.cli import main
from expunge.cli.files import load_model
from expunge.estimators import LangevinRidge, LangevinRidgeClassifier, NoiseWarning


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    X = rng.uniform(-1, 1, (80, 2))
    rows = [f"{a},{b},{'yes' if a + b > 0 else 'no'}" for a, b in X.tolist()]
    Path("a.csv").write_text("\n".join(["a,b,answer", *rows]) + "\n")


def test_constants_that_are_given_leave_no_condition():
    bounded = ["--step-size", "bounded", "--norm-bound", "2", "--n-bound", "100", "--noise-std", "1e-3"]
    shown = run("fit", "a.csv", *bounded, "--classes", "no,yes,perhaps", "-o", "m.npz").output
    assert "conditional" not in shown
    model = LangevinRidgeClassifier.load("m.npz")
    assert model.classes_.tolist() == ["no", "perhaps", "yes"]
    assert model.step_size_ == pytest.approx(1 / (100 * 4 + 1), rel=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)  # 0.5 is far more than needed
        result = model.unlearn(3, epsilon=1.0, delta=1e-3, n_steps=50, noise_std=0.5)
    assert result.certificate.status == "certified"
    shown = run("fit", "--model", "langevin-ridge", "a.csv", "-o", "n.npz").output
    assert shown.count("certificates will be conditional") == 3
    for name in ("step_size", "classes", "task"):
        assert f"certificates will be conditional: {CONDITIONS[name]}" in shown


def test_one_record_that_decides_how_targets_are_read_makes_certificates_conditional():
    rows = [f"{i / 60},{float(i % 3)}" for i in range(60)]
    constants = ["--step-size", "1e-3", "--noise-std", "0.01"]
    Path("with.csv").write_text("\n".join(["x,y", "1.0,0.5", *rows]) + "\n")
    Path("without.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    shown = run("fit", "with.csv", *constants, "-o", "m.npz").output
    assert "reading y as a number" in shown
    assert "reading y as 3 classes" in run("fit", "without.csv", *constants, "-o", "n.npz").output
    assert f"certificates will be conditional: {CONDITIONS['task']}" in shown
    delete = ["--rows", "0", "--noise-std", "5", "--epsilon", "1", "--delta", "1e-3", "--released", "r.npz"]
    run("unlearn", "m.npz", *delete, "-o", "after.npz", "-c", "c.json")
    assert Certificate.load("c.json").conditions == (CONDITIONS["task"],)
    assert load_model("r.npz", released=True).conditions_ == (CONDITIONS["task"],)
    given = run("fit", "with.csv", *constants, "--task", "regress", "-o", "m.npz", "--overwrite").output
    assert "conditional" not in given


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--step-size", "bounded"], "norm_bound must be given with step_size='bounded'"),
        (["--norm-bound", "2"], "need step_size='bounded'"),
        (["--step-size", "bounded", "--norm-bound", "0.1", "--n-bound", "100"], "norm_bound"),
        (["--step-size", "bounded", "--norm-bound", "2", "--n-bound", "7"], "n_bound"),
        (["--classes", "no"], "only the classes given, got 'yes'|at least 2"),
        (["--classes", "no,maybe"], "must hold only the classes given, got 'yes' at index"),
        (["--target-column", "b", "--classes", "no,yes", "--drop", "answer"], "--classes needs classes"),
    ],
)
def test_constants_that_do_not_hold_are_refused(options, match):
    result = run("fit", "a.csv", *options, "-o", "m.npz", code=2)
    assert re.search(match, result.stderr)
    assert not Path("m.npz").exists()


def test_whole_number_classes_are_given_as_whole_numbers():
    run("fit", "--model", "langevin-ridge", "iris", "--classes", "0,1,2,3", "-o", "m.npz")
    assert LangevinRidgeClassifier.load("m.npz").classes_.tolist() == [0, 1, 2, 3]
    assert "must be whole numbers" in run("fit", "iris", "--classes", "a,b", "-o", "n.npz", code=2).stderr


def test_a_model_ruined_by_noise_says_which_options_would_help():
    result = run("fit", "--model", "langevin-ridge", "wine", "-o", "m.npz")
    assert re.search(r"^warning  training accuracy 0\.\d+", result.stderr)
    assert "--bounds (expunge bounds wine writes a draft" in result.stderr
    assert "ConstantScaler" not in result.stderr
    run("bounds", "wine", "-o", "b.csv")
    options = re.search(r"in their place\)(.*)$", result.stderr.strip()).group(1).split()
    better = run("fit", "--model", "langevin-ridge", "wine", "--bounds", "b.csv", *options, "-o", "better.npz")
    assert "warning  training" not in better.stderr
    assert float(re.search(r"training accuracy  (\S+)", better.output).group(1)) > 0.95


def test_regression_targets_written_as_whole_floats_in_few_values_are_classes_unless_said_otherwise():
    rows = "\n".join(f"{i / 60},{float(i % 3)}" for i in range(60))
    Path("f.csv").write_text(f"x,y\n{rows}\n")
    assert "reading y as 3 classes: 0, 1, 2" in run("fit", "--model", "langevin-ridge", "f.csv", "-o", "m.npz").output
    assert (
        "reading y as a number"
        in run("fit", "--model", "langevin-ridge", "f.csv", "--task", "regress", "-o", "r.npz").output
    )
    LangevinRidge.load("r.npz")
    Path("f.csv").write_text("x,y\n" + "\n".join(f"{i / 60},{100 + i}" for i in range(60)) + "\n")
    assert "pass --task regress" in run("fit", "f.csv", "-o", "p.npz", code=2).stderr


def test_verification_keeps_to_a_policy():
    given = ["--step-size", "bounded", "--norm-bound", "2", "--n-bound", "100", "--classes", "no,yes"]
    run("fit", "--model", "langevin-ridge", "a.csv", *given, "-o", "m.npz")
    run("fit", "--model", "langevin-ridge", "a.csv", "-o", "n.npz")
    for model, certificate in (("m.npz", "m.json"), ("n.npz", "n.json")):
        fitted = LangevinRidgeClassifier.load(model)
        noise = fitted.quote(epsilon=1.0, delta=1e-3, n_steps=50, indices=[3]).noise_std[0]
        options = {"noise_std": 1.5 * noise} if model == "m.npz" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoiseWarning)
            result = fitted.unlearn(3, epsilon=1.0, delta=1e-3, n_steps=50, **options)
        result.certificate.save(certificate)
        result.model.save(f"after-{model}")
    for options in ([], ["--max-epsilon", "1", "--max-delta", "1e-3"], ["--no-conditional"]):
        shown = run("verify", "m.json", "a.csv", "--model", "after-m.npz", *options).output
        assert shown.startswith("VERIFIED  holds (certified")
        assert "p-value" in shown
    assert "VERIFIED  holds (conditional" in run("verify", "n.json", "a.csv", "--allow-conditional").output
    for certificate, options, field in (
        ("m.json", ["--max-epsilon", "0.5"], "policy.max_epsilon"),
        ("m.json", ["--max-delta", "1e-4"], "policy.max_delta"),
        ("m.json", ["--budget", "10"], "budget"),
        ("n.json", ["--max-epsilon", "1"], "policy.allow_conditional"),
        ("n.json", ["--no-conditional"], "policy.allow_conditional"),
        ("n.json", ["--divide-by", "2"], "digests.X: .*--divide-by, --bounds and --cosine-features as for fit"),
    ):
        assert re.match(f"REFUSED  {field}", run("verify", certificate, "a.csv", *options, code=1).stderr)


def test_a_deletion_that_costs_says_so_in_a_plain_line():
    # A number, which noise of 5 a step always spoils; random classes are right by chance now and then.
    Path("r.csv").write_text("x,y\n" + "\n".join(f"{i / 60},{i / 60}" for i in range(60)) + "\n")
    run("fit", "--model", "langevin-ridge", "r.csv", "-o", "m.npz")
    target = ["--epsilon", "1", "--delta", "1e-3", "--noise-std", "5"]
    result = run("unlearn", "m.npz", "3", *target, "-o", "n.npz", "-c", "c.json")
    assert re.search(r"^warning  training R\^2 on what remains -\d", result.stderr, flags=re.MULTILINE)
    assert "NoiseWarning" not in result.stderr


def test_a_released_model_finds_its_columns_by_name():
    run("fit", "--model", "langevin-ridge", "a.csv", "-o", "m.npz", "--released", "r.npz")
    lines = [line.split(",") for line in Path("a.csv").read_text().splitlines()]
    Path("turned.csv").write_text("\n".join(",".join([row[2], row[1], row[0]]) for row in lines) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        turned = run("evaluate", "r.npz", "turned.csv", "--target-column", "answer").output
    assert turned == run("evaluate", "r.npz", "a.csv").output == run("evaluate", "m.npz", "a.csv").output
