"""Langevin models whose certificates are about the program that ran: their claims, releases, files and refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_diabetes, load_iris

from command_calls import run as cli
from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge._files import FileFormatError
from expunge._files.headed import read_headed
from expunge.certificates import Certificate, Policy
from expunge.certificates.schema import VerificationError
from expunge.data import open_records
from expunge.data.exact_products import Pair
from expunge.estimators import _deleting, _programs
from expunge.estimators._programs import release_of, steps_of
from expunge.estimators._storage import sealed_bytes
from expunge.runs.base import RunError
from expunge.runs.ridge import Phase, Program, assumptions
from expunge.runs.ridge.chain import zeros
from expunge.runs.ridge.release import p_value

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

X, Y = load_diabetes(return_X_y=True)
Y = Y / 100
CLAIM = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 20}


@pytest.fixture(scope="module")
def model():
    return LangevinRidge(noise_std=0.02, n_steps=200, step_size=0.002).fit(X, Y)


@pytest.fixture(scope="module")
def result(model):
    return model.unlearn(3, **CLAIM, noise_std=0.2)


def changed(certificate, **program):
    values = json.loads(certificate.to_json())
    values["run"]["program"] |= program
    return Certificate.from_json(json.dumps(values))


def rewritten(path, change):
    header, arrays = read_headed(path, what="model", versions=(5,), first_sealed=2)
    header.pop("digest", None)
    change(header, arrays)
    path.write_bytes(sealed_bytes(header, arrays))


def test_the_claim_is_about_the_program(result):
    report = result.certificate.verify(X, Y, result.model.release(), policy=Policy(of_program=True))
    assert report.certified
    assert "about the program that ran" in result.certificate.summary()
    assert Certificate.from_json(result.certificate.to_json()) == result.certificate


def test_both_deltas_hold_the_share_of_the_program(result):
    c = result.certificate
    run, share = c.run, c.run.program_share(epsilon=1.0)
    assert share >= (1 + np.e) * run.program.distance
    problem = run.check(X, Y, conditions=c.conditions)
    given = {"method": "exact", "epsilon": 1.0, "delta_s": None}
    alone = replace(run, program=None).deltas(problem, **given)
    # So that the sum shows what the share is, whatever the deltas are.
    loud = replace(run, program=replace(run.program, distance=1e-4)).deltas(problem, **given)
    assert loud.pq - alone.pq == pytest.approx(1e-4 * (1 + np.e), rel=2e-3)
    assert loud.qp - alone.qp == pytest.approx(1e-4 * (1 + np.e), rel=2e-3)
    assert c.delta_pq >= alone.pq + (1 + np.e) * run.program.distance
    assert c.delta_qp >= alone.qp + (1 + np.e) * run.program.distance


def test_what_is_seen_is_the_release_and_lies_on_its_grid(result):
    program, model = result.certificate.run.program, result.model
    released = model.release()
    for seen in (model.coef_, released.coef_, np.array([model.intercept_, released.intercept_])):
        assert program.holds(seen)
    np.testing.assert_array_equal(model.coef_, released.coef_)
    np.testing.assert_array_equal(model.predict(X), released.predict(X))
    assert not program.holds(model._theta)


def test_a_release_has_noise_of_its_own_and_no_more():
    data = np.random.default_rng(0).normal(size=(60, 25))
    fitted = LangevinRidge(noise_std=0.02, n_steps=20, fit_intercept=False).fit(
        data, np.random.default_rng(1).normal(size=(60, 40)), of_program=True
    )
    found = fitted.unlearn(0, **CLAIM)
    noise = (found.model._published - found.model._theta) / found.certificate.run.program.release_noise
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-6


def test_a_release_is_that_of_both_numbers(result, monkeypatch):
    program, made = result.certificate.run.program, []
    monkeypatch.setattr(_programs, "with_exact_noise", lambda *theta, **more: made.append((theta, more)))
    pair = Pair(np.array([[0.1]]), np.array([[1e-18]]))
    release_of(pair, program)
    assert made == [((pair.hi,), {"rest": pair.lo, "noise_std": program.release_noise})]


def test_deletions_in_a_row_and_files_between_them(model, result, tmp_path):
    first = result.model
    path = first.save(tmp_path / "model.npz")
    again = LangevinRidge.load(path)
    np.testing.assert_array_equal(again._theta, first._theta)
    np.testing.assert_array_equal(again._theta_rest, first._theta_rest)
    np.testing.assert_array_equal(again.coef_, first.coef_)
    later = again.unlearn([5, 6], **CLAIM)
    report = later.certificate.verify(X, Y, later.model, policy=Policy(of_program=True, allow_conditional=True))
    assert report.p_value > 1e-9
    assert later.certificate.run.program.error > result.certificate.run.program.error
    last = later.model.unlearn(9, **CLAIM)
    last.certificate.verify(X, Y, last.model, policy=Policy(of_program=True, allow_conditional=True))


@pytest.mark.parametrize("method", ["shifted", "uniform"])
def test_bounds_leave_the_program_its_share(model, method):
    found = model.unlearn([7], **CLAIM, method=method)
    report = found.certificate.verify(X, Y, found.model)
    share = found.certificate.run.program_share(epsilon=1.0)
    assert 0 < share < 1e-3 * report.delta
    assert max(report.delta_pq, report.delta_qp) <= report.delta


def test_a_classifier_and_a_group():
    data, labels = load_iris(return_X_y=True)
    fitted = LangevinRidgeClassifier(classes=[0, 1, 2], step_size=1e-5, noise_std=0.05).fit(
        data / 8, labels, of_program=True
    )
    found = fitted.unlearn([0, 60], **CLAIM, noise_grid="powers")
    assert found.certificate.verify(data / 8, labels, found.model, policy=Policy(of_program=True)).certified
    # One-hot targets: their norm is the root of the number of records, whatever the labels are.
    assert found.certificate.run.program.targets == 16.0


def test_tables_are_verified_too(result):
    report = result.certificate.verify(open_records(X, target=Y), model=result.model)
    assert report.p_value > 1e-9


@pytest.mark.parametrize("name", ["targets", "error", "distance"])
def test_a_record_that_says_too_little_is_refuted(result, name):
    value = getattr(result.certificate.run.program, name)
    with pytest.raises(VerificationError, match=f"run.program.{name}"):
        changed(result.certificate, **{name: value / 2}).verify(X, Y)


def test_noise_and_grid_that_do_not_follow_from_the_phases_are_refuted(result):
    program = result.certificate.run.program
    for name in ("release_noise", "grid"):
        with pytest.raises(VerificationError, match=f"run.program.{name}"):
            changed(result.certificate, **{name: 2 * getattr(program, name)}).verify(X, Y)


def test_a_record_of_more_than_was_needed_changes_the_deltas_it_was_issued_with(result):
    with pytest.raises(VerificationError, match=r"claim\.delta"):
        changed(result.certificate, distance=1e-3).verify(X, Y)


def test_parameters_off_the_grid_were_not_released(result):
    run = result.certificate.run
    law = run.law_of_release(run.check(X, Y, conditions=result.certificate.conditions))
    parameters = run.parameters(result.model)
    assert law.p_value(parameters) > 1e-9
    parameters[0, 0] += run.program.grid / 2
    with pytest.raises(RunError, match="multiples of"):
        law.p_value(parameters)
    with pytest.raises(RunError, match="multiples of"):
        law.p_value(result.model._theta)


def test_the_law_of_a_release_has_its_noise():
    """Long steps without noise leave hardly any but that of the release: without it no release is likely."""
    data, rng = np.eye(4), np.random.default_rng(5)
    fitted = LangevinRidge(noise_std=0.5, n_steps=30, step_size=0.4, fit_intercept=False).fit(
        data, rng.normal(size=(4, 3)), of_program=True
    )
    history = fitted._history
    phase = Phase(30, 0.0, (0,))
    program = Program.of([*history.phases, phase], step_size=0.4, alpha=1.0, n=4, p=4, q=3, targets=history.program)
    deletion, chances = history.deletion((0,)), []
    for _ in range(60):
        theta = steps_of(history, steps_of(history, zeros((4, 3)), history.phases[0]), phase)
        released = release_of(theta, program)
        chances.append(p_value(deletion, (*history.phases, phase), released, program=program))
    assert stats.kstest(chances, "uniform").pvalue > 1e-6
    with pytest.raises(RunError, match="cannot have come from this run"):
        p_value(deletion, (*history.phases, phase), released)


def test_what_cannot_be_claimed_is_refused(model):
    with pytest.raises(ValueError, match="random_state must be None"):
        LangevinRidge(random_state=0).fit(X, Y, of_program=True)
    with pytest.raises(ValueError, match="about the program that ran"):
        model.unlearn(3, epsilon=1.0, delta=1e-30, n_steps=20)
    with pytest.raises(ValueError, match=r"epsilon must be less for a claim about the program that ran.*got 60\.0"):
        model.unlearn(3, epsilon=60.0, delta=1e-5, n_steps=20)


@pytest.mark.parametrize("settings", [{"of_program": False}, {"seed": 0}])
def test_other_claims_are_asked_for_or_follow_from_a_seed(settings):
    seed = settings.pop("seed", None)
    plain = LangevinRidge(noise_std=0.02, n_steps=200, step_size=0.002, random_state=seed).fit(X, Y, **settings)
    assert not plain.of_program_
    certificate = plain.unlearn(3, **CLAIM, noise_std=0.2).certificate
    assert "about real numbers" in certificate.summary()
    assert "program" not in certificate.to_dict()["run"]
    with pytest.raises(VerificationError, match="about the program that ran"):
        certificate.verify(X, Y, policy=Policy(of_program=True, allow_conditional=True))


@pytest.mark.parametrize("noise_std", [0.0, 0.02])
@pytest.mark.parametrize("scale", [0.0, 1e-300])
def test_targets_of_next_to_nothing_are_bounded_too(scale, noise_std):
    fitted = LangevinRidge(noise_std=noise_std, n_steps=20, step_size=0.002).fit(X, scale * Y)
    assert fitted.of_program_
    found = fitted.unlearn(3, **CLAIM, noise_std=0.2)
    assert found.certificate.verify(X, scale * Y, found.model, policy=Policy(of_program=True)).certified


def test_the_choice_of_the_claim_is_yes_no_or_none():
    with pytest.raises(TypeError, match="of_program must be True, False or None, got 'no'"):
        LangevinRidge().fit(X, Y, of_program="no")


def test_who_drops_the_history_keeps_the_release_alone(result, tmp_path):
    path = result.model.save(tmp_path / "model.npz")
    kept = LangevinRidge.load(path).forget_history()
    np.testing.assert_array_equal(kept._theta, result.model._published)
    after = LangevinRidge.load(kept.save(tmp_path / "kept.npz"))
    np.testing.assert_array_equal(after.coef_, result.model.coef_)


def test_files_that_no_deletion_could_have_written_are_refused(result, tmp_path):
    def off_the_grid(header, arrays):
        arrays["published"] = arrays["theta"]

    def without(header, arrays):
        del arrays["published"]

    def without_rest(header, arrays):
        del arrays["theta_rest"]

    def more_than_a_rest(header, arrays):
        arrays["theta_rest"] = np.spacing(arrays["theta"])

    def no_rest(header, arrays):
        arrays["theta_rest"] = np.full_like(arrays["theta"], np.nan)

    def too_small(header, arrays):
        header["program"] = (1.0).hex()

    def endless(header, arrays):
        header["program"] = float("nan").hex()

    for change, said in (
        (off_the_grid, "multiples"),
        (without, "published must be present"),
        (without_rest, "theta_rest must be present"),
        (more_than_a_rest, "theta_rest must be what theta was rounded by"),
        (no_rest, "theta_rest must be finite"),
        (too_small, "bound"),
        (endless, "finite"),
    ):
        path = result.model.save(tmp_path / "model.npz", overwrite=True)
        rewritten(path, change)
        with pytest.raises(FileFormatError, match=said):
            LangevinRidge.load(path)


def test_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", X=X, y=Y)
    fit = (
        "--model",
        "langevin-ridge",
        "--task",
        "regress",
        "--noise-std",
        "0.02",
        "-o",
        "m.npz",
        "--step-size",
        "0.002",
    )
    cli("fit", "d.npz", *fit)
    claim = ("--epsilon", "1", "--delta", "1e-5", "--n-steps", "20", "--noise-std", "0.2")
    cli("unlearn", "m.npz", "--rows", "3", *claim, "-o", "n.npz", "-c", "c.json", "--released", "r.npz")
    cli("verify", "c.json", "d.npz", "--model", "r.npz", "--of-program")
    assert Certificate.load("c.json").run.program.holds(LangevinRidge.load("n.npz").coef_)
    assert "--of-program" in cli("fit", "d.npz", "--model", "ridge", "--of-program", "-o", "k.npz", code=2).stderr
    np.savetxt("d.csv", np.column_stack([X, Y]), delimiter=",", header=",".join([*"abcdefghij", "target"]), comments="")
    assert "in memory" in cli("fit", "d.csv", *fit, "--of-program", "--overwrite", "--stream", code=2).stderr


@pytest.mark.parametrize(
    ("options", "cause"),
    [((), None), (("--no-of-program",), "--no-of-program"), (("--random-state", "0"), "--random-state"),
     (("--stream",), "read in blocks")],
)  # fmt: skip
def test_the_command_says_whenever_claims_will_be_about_real_numbers(tmp_path, monkeypatch, options, cause):
    monkeypatch.chdir(tmp_path)
    np.savetxt("d.csv", np.column_stack([X, Y]), delimiter=",", header=",".join([*"abcdefghij", "target"]), comments="")
    fit = ("--model", "langevin-ridge", "--task", "regress", "--noise-std", "0.02", "-o", "m.npz")
    said = [line for line in cli("fit", "d.csv", *fit, *options).output.splitlines() if "about real numbers" in line]
    assert LangevinRidge.load("m.npz").of_program_ is (cause is None)
    assert len(said) == (cause is not None)
    assert cause is None or said[0].endswith(cause)


def test_a_proof_leaves_the_program_its_share(result):
    pytest.importorskip("flint")
    from expunge.proof.claims import prove_claim

    c = result.certificate
    assert c.verify(X, Y, proof=True).proof.proved
    # A claim that the run over the real numbers meets, and that leaves nothing for the program.
    run = replace(c.run, program=replace(c.run.program, distance=c.delta))
    with pytest.raises(RunError, match=r"claim\.delta"):
        prove_claim(run, run.check(X, Y, conditions=None), epsilon=1.0, delta=c.delta, method="exact", delta_s=None)


def test_steps_go_on_from_the_parameters_and_not_from_the_release(result, monkeypatch):
    seen = []

    def steps(history, theta, phase):
        seen.append(theta)
        return steps_of(history, theta, phase)

    monkeypatch.setattr(_deleting, "steps_of", steps)
    result.model.unlearn(4, **CLAIM)
    np.testing.assert_array_equal(seen, [(result.model._theta, result.model._theta_rest)])


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_quotes_leave_the_program_its_share_too(model, method):
    """A quote's noise suffices, within the tolerance of its search, and that of a plain model does not."""
    strict = {"epsilon": 0.01, "delta": 1e-5, "n_steps": 20}
    quoted = model.quote(indices=[7], **strict, method=method)
    assert quoted.target_delta == 1e-5
    noise = float(quoted.noise_std[0])
    assert noise > 0
    model.unlearn(7, **strict, method=method, noise_std=noise * (1 + 1e-6))
    plain = LangevinRidge(noise_std=0.02, n_steps=200, step_size=0.002).fit(X, Y, of_program=False)
    least = float(plain.quote(indices=[7], **strict, method=method).noise_std[0])
    assert 1 + 1e-6 < noise / least < 1 + 1e-3
    if method == "exact":  # quotes of the others may be above what suffices
        with pytest.raises(ValueError, match="noise_std"):
            model.unlearn(7, **strict, noise_std=least)


def test_step_sizes_that_let_errors_grow_are_refused(result, monkeypatch):
    monkeypatch.setattr(assumptions, "LARGEST_PRODUCT", 1e-3)
    with pytest.raises(VerificationError, match=r"run\.step_size"):
        result.certificate.verify(X, Y)
    monkeypatch.setattr(_programs, "LARGEST_PRODUCT", 1e-3)
    with pytest.raises(ValueError, match=r"step_size must be at most .* or fit with of_program=False"):
        LangevinRidge().fit(X, Y, of_program=True)
