"""A released model against the law of the run it is said to come from."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

import oracles
from expunge.certificates import Certificate, RidgeRun, Sources, VerificationError, model_digest
from expunge.runs import RunError
from expunge.runs.ridge import release as released_model
from expunge.runs.ridge.law import Phase, RidgeDeletion, smoothness
from expunge.runs.ridge.release import p_value

N, WIDTH, OUTPUTS = 30, 3, 2


def problem(phases, *, deleted=(4,), alpha=0.5, seed=11):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(N, WIDTH)), rng.normal(size=(N, OUTPUTS)) + 2.0
    run = RidgeRun(
        estimator="LangevinRidge",
        alpha=alpha,
        fit_intercept=False,
        step_size=0.9 / smoothness(X, alpha=alpha),
        classes=None,
        n_records=N,
        n_features=WIDTH,
        n_outputs=OUTPUTS,
        phases=phases,
        deleted=deleted,
        sources=Sources(step_size="given", noise_std="given"),
    )
    deletion = RidgeDeletion(X, Y, alpha=alpha, step_size=run.step_size, deleted=deleted)
    return X, Y, run, deletion


TYPICAL = (Phase(40, 0.05), Phase(8, 0.03, (4,)))
SEQUENCE = (Phase(25, 0.05), Phase(6, 0.0, (2,)), Phase(3, 0.08, (2, 4)))
THEN_STILL = (Phase(40, 0.05), Phase(2, 0.0, (4,)))


@pytest.mark.parametrize("phases", [TYPICAL, SEQUENCE, THEN_STILL])
def test_p_values_of_honest_runs_are_uniform(phases):
    X, Y, run, deletion = problem(phases, deleted=phases[-1].removed)
    rng = np.random.default_rng(5)
    values = [p_value(deletion, phases, oracles.ridge_run(X, Y, run, rng)) for _ in range(600)]
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_the_p_value_is_that_of_the_whitened_residual():
    X, Y, run, deletion = problem(TYPICAL)
    theta = oracles.ridge_run(X, Y, run, np.random.default_rng(8))
    phases = [(phase.n_steps, phase.noise_std, phase.removed) for phase in TYPICAL]
    law, _ = oracles.ridge_run_laws(X, Y, alpha=run.alpha, step_size=run.step_size, phases=phases, deleted=(4,))
    residual = theta - law[0]
    total = np.sum(residual * np.linalg.solve(law[1], residual))
    chi2 = stats.chi2(WIDTH * OUTPUTS)
    expected = 2 * min(chi2.cdf(total), chi2.sf(total))
    assert p_value(deletion, TYPICAL, theta) == pytest.approx(expected, rel=1e-8)


def impossible():
    """Models that cannot have come from a run whose noise is small against what the record does."""
    quiet = (Phase(200, 1e-3), Phase(40, 1e-3, (4,)))
    X, Y, run, deletion = problem(quiet)
    X[4], Y[4] = 4.0, -30.0
    run = dataclasses.replace(run, step_size=0.9 / smoothness(X, alpha=run.alpha))
    deletion = RidgeDeletion(X, Y, alpha=run.alpha, step_size=run.step_size, deleted=(4,))
    with_record = np.linalg.solve(X.T @ X + run.alpha * np.eye(WIDTH), X.T @ Y)
    never_unlearned = oracles.ridge_run(X, Y, dataclasses.replace(run, phases=quiet[:1]), np.random.default_rng(0))
    honest = oracles.ridge_run(X, Y, run, np.random.default_rng(0))
    mean = deletion.run(quiet).mean_p
    models = {
        "zeros": np.zeros_like(honest),
        "a million": np.full_like(honest, 1e6),
        "a number whose square overflows": np.full_like(honest, 1e300),
        "a number that overflows in units of the noise": np.full_like(honest, 1e307),
        "optimum with the record": with_record,
        "never unlearned": never_unlearned,
        "mean without noise": mean,
        "one entry off": honest + np.eye(WIDTH, OUTPUTS) * 0.1,
    }
    return X, Y, run, honest, models


@pytest.mark.parametrize("name", impossible()[-1])
def test_a_model_that_cannot_have_come_from_the_run_is_neither_verified_nor_certified(name):
    X, Y, run, honest, models = impossible()
    claim = {"epsilon": 500.0, "delta": 0.99}
    certificate = Certificate.create(X=X, y=Y, model=honest, run=run, **claim)
    assert 1e-6 < certificate.verify(X, Y, honest).p_value <= 1
    with pytest.raises(VerificationError, match="cannot have come") as caught:
        Certificate.create(X=X, y=Y, model=models[name], run=run, **claim)
    assert caught.value.field == "model"
    forged = dataclasses.replace(
        certificate, digests=dataclasses.replace(certificate.digests, model=model_digest(models[name]))
    )
    forged.verify(X, Y)  # without the model nothing shows
    with pytest.raises(VerificationError) as caught:
        forged.verify(X, Y, models[name])
    assert caught.value.field == "model"


def test_the_p_value_is_reported_only_with_a_model():
    X, Y, run, _ = problem(TYPICAL)
    theta = oracles.ridge_run(X, Y, run, np.random.default_rng(3))
    certificate = Certificate.create(X=X, y=Y, model=theta, run=run, epsilon=5.0, delta=0.9)
    report = certificate.verify(X, Y, theta)
    assert f"p-value {report.p_value:.3g}" in report.summary()
    assert certificate.verify(X, Y).p_value is None
    assert "not compared" in certificate.verify(X, Y).summary()


def test_directions_without_noise_must_agree_with_the_run_to_rounding():
    """Without noise while learning and little later, a strong direction forgets its noise and a still run ends it."""
    X, Y, _, _ = problem(TYPICAL)
    X = X * np.array([30.0, 1.0, 0.03])
    alpha = 0.5
    phases = (Phase(60, 0.01), Phase(25, 0.0, (4,)))
    run = dataclasses.replace(
        problem(phases)[2], phases=phases, step_size=0.9 / smoothness(X, alpha=alpha), alpha=alpha
    )
    deletion = RidgeDeletion(X, Y, alpha=alpha, step_size=run.step_size, deleted=(4,))
    spread = np.sqrt(deletion.run(phases).variance_q)
    assert 1e-60 < spread.min() < 1e-22 < 1e-4 < spread.max()  # noise in some directions, next to none in others
    theta = oracles.ridge_run(X, Y, run, np.random.default_rng(2))
    assert 1e-6 < p_value(deletion, phases, theta) <= 1
    strong = deletion.reference.vectors[:, [-1]]
    p_value(deletion, phases, theta + 1e-16 * strong)
    with pytest.raises(RunError, match="without noise"):
        p_value(deletion, phases, theta + 1e-9 * strong)
    weak = deletion.reference.vectors[:, [0]]  # the other directions are judged by their noise all the same
    with pytest.raises(RunError, match="than chance allows"):
        p_value(deletion, phases, theta + 100 * spread.max() * weak)


def one_parameter(noise):
    """A run of one parameter, whose law is known: the noise is a multiple of the bound on the run's rounding."""
    X, Y = np.array([[1.0], [1.5], [2.0]]), np.array([[3.0], [-2.0], [40.0]])
    deletion = RidgeDeletion(X, Y, alpha=0.5, step_size=0.05, deleted=(1,))
    phases = (Phase(200, noise), Phase(30, noise, (1,)))
    law, rounding = released_model._law_and_rounding(deletion, phases)
    return deletion, phases, law.mean_p, float(np.sqrt(law.variance_q[0])), float(rounding[0])


def test_noise_judges_where_it_is_64_times_the_rounding_and_agreement_elsewhere():
    _, _, _, spread, rounding = one_parameter(1e-12)
    unit = 1e-12 * rounding / spread  # the noise whose spread is the bound on rounding
    deletion, phases, mean, spread, rounding = one_parameter(60 * unit)
    assert 59 < spread / rounding < 61
    for sign in (-1, 1):
        assert p_value(deletion, phases, mean + sign * 0.99 * (rounding + 40 * spread)) == 1.0
        with pytest.raises(RunError, match="without noise"):
            p_value(deletion, phases, mean + sign * 1.01 * (rounding + 40 * spread))
    deletion, phases, mean, spread, rounding = one_parameter(68 * unit)
    assert p_value(deletion, phases, mean + spread) == pytest.approx(2 * stats.chi2(1).sf(1.0), rel=1e-2)
    with pytest.raises(RunError, match="than chance allows"):
        p_value(deletion, phases, mean + 20 * spread)
    deletion, phases, mean, spread, rounding = one_parameter(0.0)
    assert p_value(deletion, phases, mean + 0.99 * rounding) == 1.0
    with pytest.raises(RunError, match="without noise"):
        p_value(deletion, phases, mean + 1.01 * rounding)


def test_a_p_value_of_a_million_millionth_is_the_least():
    deletion, phases, mean, spread, _ = one_parameter(1.0)
    for probability, passes in ((1.1e-12, True), (0.9e-12, False)):
        far = mean + spread * np.sqrt(stats.chi2(1).isf(probability / 2))
        near = mean + spread * np.sqrt(stats.chi2(1).ppf(probability / 2))
        for parameters, where in ((far, "farther from"), (near, "nearer to")):
            if passes:
                assert p_value(deletion, phases, parameters) == pytest.approx(probability, rel=1e-3)
            else:
                with pytest.raises(RunError, match=where):
                    p_value(deletion, phases, parameters)
    median = mean + spread * np.sqrt(stats.chi2(1).median())
    assert 1 - 1e-6 < p_value(deletion, phases, median) <= 1


def test_parameters_or_noise_beyond_float64_are_refused_as_such():
    _, _, _, deletion = problem(TYPICAL)
    far = np.zeros((WIDTH, OUTPUTS))
    far[:, 0] = 1.7e308 * np.sign(deletion.reference.vectors[:, 0])  # one entry overflows, the others do not
    with pytest.raises(ValueError, match="leaves the range of float64"):
        p_value(deletion, TYPICAL, far)


@pytest.mark.parametrize(
    "phases",
    [
        (Phase(400, 0.0), Phase(7, 0.0, (4,))),
        (Phase(60, 2.0), Phase(90, 0.0, (4,))),
        (Phase(30, 1e-9), Phase(5, 0.0, (2,)), Phase(20, 0.0, (2, 4))),
        (Phase(3, 0.1), Phase(2, 0.0, (4,)), Phase(400, 0.1, (2, 4))),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_the_bound_on_the_rounding_of_a_run_holds_and_is_no_more_than_that(phases, scale):
    X, Y, _, _ = problem(phases, deleted=phases[-1].removed)
    X = X * np.array([1.0, 0.03, 3.0])
    Y = Y * scale
    alpha, step = 0.01, 0.9 / smoothness(X, alpha=0.01)
    deletion = RidgeDeletion(X, Y, alpha=alpha, step_size=step, deleted=phases[-1].removed)
    rng = np.random.default_rng(6)
    theta, exact = np.zeros((WIDTH, OUTPUTS)), np.zeros((WIDTH, OUTPUTS), dtype=np.longdouble)
    for phase in phases:
        keep = np.setdiff1d(np.arange(N), phase.removed)
        longX, longY = X[keep].astype(np.longdouble), Y[keep].astype(np.longdouble)
        for _ in range(phase.n_steps):
            noise = phase.noise_std * rng.normal(size=theta.shape)
            theta = theta - step * (X[keep].T @ (X[keep] @ theta - Y[keep]) + alpha * theta) + noise
            exact = exact - step * (longX.T @ (longX @ exact - longY) + alpha * exact) + noise
    error = np.abs(deletion.reference.vectors.T @ (theta - exact).astype(float)).max(axis=1)
    _, bound = released_model._law_and_rounding(deletion, phases)
    assert (error <= bound).all()
    size = np.abs(exact).max().astype(float) + 100 * phases[0].noise_std
    steps = sum(phase.n_steps for phase in phases)
    assert (bound <= 100 * steps * np.finfo(float).eps * size).all()


# --- warnings -----------------------------------------------------------------------------------


def test_a_copy_of_a_deleted_row_that_stays_is_told():
    X, Y, run, _ = problem(TYPICAL)
    X[9], Y[9] = X[4], Y[4]
    theta = oracles.ridge_run(X, Y, run, np.random.default_rng(3))
    report = Certificate.create(X=X, y=Y, model=theta, run=run, epsilon=5.0, delta=0.9).verify(X, Y)
    assert len(report.warnings) == 1
    assert "row 9" in report.warnings[0]
    assert "row 4" in report.warnings[0]
    assert report.warnings[0] in report.summary()
    Y[9] = Y[9] + 1e-9  # the same features with another target are another record
    assert not Certificate.create(X=X, y=Y, model=theta, run=run, epsilon=5.0, delta=0.9).verify(X, Y).warnings


@pytest.mark.parametrize("source", ["given", "data"])
def test_a_step_size_said_to_be_given_that_the_data_would_give_is_told(source):
    X, Y, run, _ = problem(TYPICAL)
    for factor, suspicious in ((1.0, source == "given"), (1 - 1e-9, False)):
        changed = dataclasses.replace(
            run, step_size=factor / smoothness(X, alpha=run.alpha), sources=Sources(step_size=source, noise_std="given")
        )
        theta = oracles.ridge_run(X, Y, changed, np.random.default_rng(3))
        report = Certificate.create(X=X, y=Y, model=theta, run=changed, epsilon=5.0, delta=0.9).verify(X, Y)
        assert any("1/L" in text for text in report.warnings) == suspicious
