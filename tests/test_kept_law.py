"""The law that stands for rows deleted before: what it is, what is certified from it, and against 60 digits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge import LangevinRidge
from expunge.accounting import GaussianPair
from expunge.certificates import Certificate, VerificationError
from expunge.runs.base import RunError
from expunge.runs.ridge.cost import DeletionCost
from expunge.runs.ridge.history import RidgeHistory
from expunge.runs.ridge.kept_law import KeptLaw, ResumedDeletion, carried
from expunge.runs.ridge.law import Phase, RidgeDeletion
from expunge.runs.ridge.release import p_value
from expunge.runs.ridge.rounding import Frame, LawErrors, Norms, pair_error
from oracles import ridge_law
from ridge_truth import exact_delta, exact_pair, exchanged

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

TARGET: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5}


def problem(seed: int, n: int, p: int, q: int, spread: float) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * np.logspace(0, -spread, p)
    Y = X @ rng.normal(size=(p, q)) + 0.3 * rng.normal(size=(n, q))
    return X, Y, 0.9 / (np.linalg.norm(X, 2) ** 2 + 0.5)


def histories(
    X: np.ndarray, Y: np.ndarray, step_size: float, phases: tuple[Phase, ...]
) -> tuple[RidgeHistory, RidgeHistory]:
    """Return one run twice: with all its rows, and with the law of the phases so far instead of the deleted ones.

    The law is carried along as a model does it: from each deletion to the next.
    """
    whole = RidgeHistory(X, Y, 0.5, step_size, phases)
    kept = replace(whole, phases=phases[:1])
    for phase in phases[1:]:
        deletion = kept.deletion(phase.removed)
        state = deletion.advance(deletion.run(kept.phases), phase)
        kept = replace(kept, phases=(*kept.phases, phase)).purged(KeptLaw.of(deletion, state))
    return whole, kept


RUNS = st.tuples(
    st.integers(0, 10_000),
    st.integers(8, 14),
    st.integers(1, 5),
    st.integers(1, 2),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.sampled_from([5, 80]),
    st.sampled_from([1, 20]),
    st.sampled_from([0.02, 1.0]),
    st.sampled_from([0.0, 0.02, 1.0]),
)


@settings(max_examples=60)
@given(RUNS)
def test_a_kept_law_is_that_of_the_true_run(run: Any) -> None:
    """Mean and covariance of a run with all rows, step by step, within the bounds on rounding that come with them."""
    seed, n, p, q, spread, learn, forget, noise, after = run
    X, Y, step_size = problem(seed, n, p, q, spread)
    phases = (Phase(learn, noise), Phase(forget, after, (2,)), Phase(forget, noise, (1, 2)), Phase(2, noise, (1, 2, 5)))
    _, kept = histories(X, Y, step_size, phases)
    assert kept.law is not None
    mean, covariance = ridge_law(X, Y, alpha=0.5, step_size=step_size, phases=phases)
    # The oracle has roundings of its own: a few of the largest number in each step.
    steps = sum(phase.n_steps for phase in phases)
    slack = 50 * (steps + p + n) * np.finfo(float).eps
    off = np.linalg.norm(kept.law.mean - mean, axis=0)
    assert (off <= kept.law.mean_error + slack * np.abs(mean).max()).all()
    assert np.linalg.norm(kept.law.covariance - covariance) <= kept.law.covariance_error + slack * covariance.max()
    assert (kept.law.mean_error < 1e-6 * (1 + np.abs(mean).max())).all()
    assert kept.law.covariance_error < 1e-6 * (1 + covariance.max())
    assert np.array_equal(kept.law.covariance, kept.law.covariance.T)


@settings(max_examples=60)
@given(RUNS)
def test_what_a_kept_law_certifies_is_what_all_rows_certify(run: Any) -> None:
    """Never less, and hardly more."""
    seed, n, p, q, spread, learn, forget, noise, after = run
    X, Y, step_size = problem(seed, n, p, q, spread)
    whole, kept = histories(X, Y, step_size, (Phase(learn, noise), Phase(forget, after, (2,))))
    deleted, last = (2, 6), Phase(forget, 0.05, (2, 6))
    pairs: list[GaussianPair] = []
    for history in (whole, kept):
        deletion = history.deletion(deleted)
        pairs.append(deletion.pair(deletion.run((*history.phases, last))))
    assert isinstance(kept.deletion(deleted), ResumedDeletion)
    assert not isinstance(whole.deletion(deleted), ResumedDeletion)
    for epsilon in (0.0, 0.5, 2.0):
        for way in ("pq", "qp"):
            more, less = (float(pair.delta(epsilon, direction=way)) for pair in reversed(pairs))
            assert more >= less * (1 - 1e-6)  # both bound it from above
            assert more <= less * (1 + 1e-5) + 1e-9


@settings(max_examples=12)
@given(RUNS)
def test_a_delta_from_a_kept_law_is_never_below_the_truth(run: Any) -> None:
    seed, n, p, q, spread, learn, forget, noise, after = run
    X, Y, step_size = problem(seed, n, min(p, 3), q, spread)
    phases = (Phase(learn, noise), Phase(forget, after, (2,)), Phase(forget, 0.1, (1, 2)))
    last = Phase(forget, 0.05, (1, 2, 6))
    _, kept = histories(X, Y, step_size, phases)
    deletion = kept.deletion(last.removed)
    pair = deletion.pair(deletion.run((*phases, last)))
    with mpmath.workdps(60):
        excess, squared = exact_pair(X, Y, alpha=0.5, step_size=step_size, phases=(*phases, last), deleted=last.removed)
        for epsilon in (0.5, 2.0):
            for way, true in (("pq", (excess, squared)), ("qp", exchanged(excess, squared))):
                least = float(exact_delta(*true, q, epsilon))
                found = float(pair.delta(epsilon, direction=way))
                assert found >= least * (1 - 1e-12)
                assert found <= least * (1 + 1e-5) + 1e-9


def test_bounds_known_by_norm_cover_every_error_of_that_norm() -> None:
    """Errors of a kept law are anywhere: the worst of them, in the units of the pair, is within what is added."""
    rng = np.random.default_rng(0)
    scale, factor = rng.uniform(0.5, 2.0, size=4), rng.uniform(0.1, 1.0, size=4)
    none = LawErrors.none(4, 2)
    frame = Frame(0.0, 0.0, 0.0, 0.0)
    plain = pair_error(none, scale, np.zeros((4, 4)), np.zeros((4, 2)), frame)
    further = Norms(np.array([3e-3, 4e-3]), 2e-3, factor)
    more = pair_error(none._replace(further=further), scale, np.zeros((4, 4)), np.zeros((4, 2)), frame)
    for _ in range(200):
        mean, covariance = rng.normal(size=(4, 2)), rng.normal(size=(4, 4))
        mean *= further.mean / np.linalg.norm(mean, axis=0)
        covariance *= further.covariance / np.linalg.norm(covariance)
        units = scale * factor
        assert np.linalg.norm(units[:, None] * mean) <= more.shift - plain.shift
        assert np.linalg.norm(units[:, None] * covariance * units) <= more.excess - plain.excess
    worst = np.zeros((4, 4))
    worst[np.argmax(scale * factor), np.argmax(scale * factor)] = 2e-3
    assert np.linalg.norm((scale * factor)[:, None] * worst * (scale * factor)) > 0.99 * (more.excess - plain.excess)


def test_bounds_of_a_law_hold_whatever_it_was_made_of() -> None:
    """Each part that may be off is in the bound of the law, and each bound of the law in those of the next deletion."""
    X, Y, step_size = problem(4, 12, 3, 2, 1.0)
    whole, kept = histories(X, Y, step_size, (Phase(30, 0.05), Phase(3, 0.05, (2,))))
    deletion = whole.deletion((2,))
    state = deletion.run(whole.phases)
    errors = state.proved_errors()
    ones = np.ones((3, 3))
    for changes, covariance, mean in (
        ({"covariance_q": 2e-3 * ones}, 6e-3, 0.0),
        ({"covariance_difference": 2e-3 * ones}, 6e-3, 0.0),
        ({"further": Norms(np.zeros(2), 8e-3, np.full(3, 0.5))}, 2e-3, 0.0),
        ({"mean_p": np.array([3e-3, 4e-3])}, 0.0, 3e-3),
    ):
        law = KeptLaw.of(deletion, replace(state, errors=errors._replace(**changes)))
        assert covariance <= law.covariance_error <= 1.01 * covariance + 1e-9
        assert mean <= law.mean_error[0] <= 1.01 * mean + 1e-9
    assert kept.law is not None
    law = replace(kept.law, mean_error=np.array([3e-3, 4e-3]), covariance_error=5e-3)
    resumed = replace(kept, law=law).deletion((2, 6))
    assert isinstance(resumed, ResumedDeletion)
    found = resumed.resumed.proved_errors()
    assert found.further is not None
    assert (found.mean_p == law.mean_error).all()
    assert (law.mean_error <= found.further.mean).all()
    assert (found.further.mean <= 1.01 * law.mean_error + 1e-9).all()
    assert 5e-3 <= found.further.covariance <= 5.05e-3
    assert (found.covariance_difference >= found.covariance_q).all()
    # Frames that are off turn the law with them.
    plain = resumed.resumed.proved_errors().further
    frame = resumed.reference.frame._replace(apart=1e-3)
    turned = replace(kept, law=law).deletion((2, 6))
    turned.reference = turned.reference._replace(frame=frame)
    assert isinstance(turned, ResumedDeletion)
    more = turned.resumed.proved_errors().further
    assert plain is not None
    assert more is not None
    apart = np.linalg.norm(turned.resumed.mean_difference, axis=0)
    assert (more.mean - plain.mean >= 0.99e-3 * apart).all()
    assert more.covariance - plain.covariance >= 1.9e-3 * np.linalg.norm(law.covariance)
    steps = turned.advance(turned.resumed, Phase(4, 0.1, (2, 6))).proved_errors().further
    assert steps is not None
    np.testing.assert_allclose(steps.factor, turned.reference.a**4, rtol=2e-3)
    assert (steps.factor >= turned.reference.a**4).all()


def test_a_record_that_adds_nothing_does_not_hide_the_ones_deleted_before() -> None:
    """Zeros stand for rows that were none: a deletion of a row of zeros is about the others too."""
    X, Y, step_size = problem(3, 12, 3, 1, 0.0)
    X[6], Y[6] = 0.0, 0.0
    whole, kept = histories(X, Y, step_size, (Phase(80, 0.02), Phase(3, 0.02, (2,))))
    last = Phase(1, 0.02, (2, 6))
    deltas = [
        float(deletion.pair(deletion.run((*whole.phases, last))).delta(1.0))
        for deletion in (whole.deletion(last.removed), kept.deletion(last.removed))
    ]
    assert deltas[0] > 1e-6
    assert deltas[1] == pytest.approx(deltas[0], rel=1e-6)
    nothing = replace(whole, phases=whole.phases[:1]).deletion((6,))
    assert nothing.is_nothing()


# --- a model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(40, 4))
    return X, X @ [1.0, -2.0, 0.5, 0.0] + rng.normal(size=40)


@pytest.fixture(scope="module")
def model(data: Any) -> LangevinRidge:
    return LangevinRidge(noise_std=0.02, n_steps=80).fit(*data, of_program=False)


def test_deletions_one_after_the_other_are_certified_and_verified_from_the_data_of_the_first_fit(
    model: LangevinRidge, data: Any
) -> None:
    """Each against the run that never saw any of them, at one target, with the noise that all rows would ask for."""
    later, history = model, model._require_history()
    for k, rows in enumerate(([3], [10, 11], [0], [25], [39])):
        held = replace(history, phases=later._require_history().phases)
        needed = DeletionCost(held, rows, method="exact", **TARGET).smallest_noise(7, start=0.1)
        quoted = later.quote(**TARGET, n_steps=7, rows=rows).noise_std.max()
        result = later.unlearn(rows, **TARGET, n_steps=7)
        certificate, later = result.certificate, result.model
        report = certificate.verify(*data, later)
        assert report.p_value is not None
        assert report.p_value > 1e-9
        assert certificate.run.deleted == later._require_history().removed
        assert certificate.run.phases[-1].noise_std == pytest.approx(needed, rel=1e-5)
        if len(rows) == 1:
            assert quoted == pytest.approx(needed, rel=1e-5)
        for recorded, found in ((certificate.delta_pq, report.delta_pq), (certificate.delta_qp, report.delta_qp)):
            assert found <= recorded * (1 + 1e-6)
            assert recorded <= certificate.delta
            assert recorded <= found * (1 + 1e-3)
        assert certificate.neighbouring_relation == ("REMOVE_GROUP" if k else "REMOVE_ONE")


def test_a_hundred_deletions_in_a_row_keep_their_law_sharp() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(130, 3))
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=130)
    later = LangevinRidge(noise_std=0.05, n_steps=50).fit(X, y)
    for row in range(100):
        result = later.unlearn(row, **TARGET, n_steps=2)
        later = result.model
        if row % 11 == 10:  # where bounds on differences are still finite, but no longer small
            result.certificate.verify(X, y, later)
    result.certificate.verify(X, y, later)
    law = later._require_history().law
    assert law is not None
    assert law.covariance_error < 1e-9 * np.linalg.norm(law.covariance)
    assert law.mean_error[0] < 1e-9 * np.linalg.norm(law.mean)


@settings(max_examples=30)
@given(RUNS)
def test_a_law_carried_along_from_all_rows_is_the_one_that_models_keep(run: Any) -> None:
    seed, n, p, q, spread, learn, forget, noise, after = run
    X, Y, step_size = problem(seed, n, p, q, spread)
    phases = (Phase(learn, noise), Phase(forget, after, (2,)), Phase(2, noise, (2,)), Phase(forget, 0.1, (1, 2)))
    last = Phase(forget, 0.05, (1, 2, 6))
    whole, kept = histories(X, Y, step_size, phases)
    deletion = whole.deletion(last.removed)
    resumed = carried(deletion, (*phases, last))
    law, expected = resumed.law, kept.law
    assert expected is not None
    assert resumed.past == phases
    assert (np.linalg.norm(law.mean - expected.mean, axis=0) <= law.mean_error + expected.mean_error).all()
    apart = np.linalg.norm(law.covariance - expected.covariance)
    assert apart <= law.covariance_error + expected.covariance_error
    assert law.covariance_error < 1e-6 * (1 + law.covariance.max())
    pairs = [one.pair(one.run((*phases, last))) for one in (resumed, kept.deletion(last.removed))]
    found, wanted = (float(pair.delta(0.5)) for pair in pairs)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-12)
    # Steps without noise at the end are left out of a claim: the law is that of every phase with a row to delete.
    assert carried(deletion, phases).past == phases


def test_recorded_deltas_may_be_larger_than_recomputed_ones_only_after_earlier_deletions(
    model: LangevinRidge, data: Any
) -> None:
    first = model.unlearn(3, **TARGET, n_steps=7)
    second = first.model.unlearn(4, **TARGET, n_steps=7).certificate
    worst = max(second.delta_pq, second.delta_qp)
    for certificate, changes, accepted in (
        (second, {"delta_pq": second.delta_pq + 0.5 * (second.delta - second.delta_pq)}, True),
        (second, {"delta_pq": second.delta * 1.001}, False),
        (second, {"delta_pq": 0.99 * second.delta_pq, "delta_qp": worst}, False),
        (first.certificate, {"delta_pq": 0.5 * (first.certificate.delta_pq + first.certificate.delta)}, False),
    ):
        changed = replace(certificate, **changes)
        if accepted:
            changed.verify(*data)
        else:
            with pytest.raises(VerificationError, match=r"claim.delta_pq: recorded"):
                changed.verify(*data)


def test_a_record_digest_is_of_the_last_request_or_in_older_certificates_of_all(
    model: LangevinRidge, data: Any
) -> None:
    from expunge.certificates import record_digest

    X, y = data
    certificate = model.unlearn(3, **TARGET, n_steps=7).model.unlearn([7, 5], **TARGET, n_steps=7).certificate
    assert certificate.run.last_deleted == (5, 7)
    salt = bytes.fromhex(certificate.salt)
    for rows, accepted in (([5, 7], True), ([3, 5, 7], True), ([3], False), ([5], False), ([3, 5], False)):
        digests = replace(certificate.digests, record=record_digest(X[rows], y[rows], salt=salt))
        changed: Certificate = replace(certificate, digests=digests)
        assert (changed == certificate) == (rows == [5, 7])
        if accepted:
            changed.verify(X, y)
        else:
            with pytest.raises(VerificationError, match=r"digests.record"):
                changed.verify(X, y)


def test_bounds_that_need_every_step_are_refused_by_name_after_a_deletion(model: LangevinRidge) -> None:
    later = model.unlearn(3, **TARGET, n_steps=7).model
    for method in ("shifted", "uniform"):
        for ask in (later.unlearn, later.quote):
            more = {"rows": [5]} if ask == later.quote else {"indices": 5}
            with pytest.raises(
                ValueError, match=rf"^method must be 'exact' after a deletion, got '{method}': .* fit ag"
            ):
                ask(**more, **TARGET, n_steps=7, method=method)


def test_a_deletion_by_a_bound_leaves_an_exact_law(model: LangevinRidge, data: Any) -> None:
    first = model.unlearn(3, **TARGET, n_steps=7, method="shifted")
    assert first.certificate.method == "shifted"
    first.model.unlearn(4, **TARGET, n_steps=7).certificate.verify(*data)


def test_phases_must_be_those_of_the_law(model: LangevinRidge) -> None:
    later = model.unlearn(3, **TARGET, n_steps=7).model
    history = later._require_history()
    deletion = history.deletion((3, 5))
    other = (replace(history.phases[0], n_steps=79), *history.phases[1:])
    for phases in (other, history.phases[:1], ()):
        with pytest.raises(ValueError, match=r"^phases must begin with the 2 whose law is kept"):
            deletion.run(phases)
    with pytest.raises(ValueError, match=r"^phases must remove only deleted rows, got row 3"):
        history.deletion((5,))
    extended = (*history.phases, Phase(4, 0.1, (3,)))
    with pytest.raises(ValueError, match=r"^rows must be gone from every phase after those whose law is kept"):
        deletion.run(extended)


def test_the_run_of_a_kept_law_is_checked_as_any_other(model: LangevinRidge) -> None:
    later = model.unlearn(3, **TARGET, n_steps=7)
    history = later.model._require_history()
    result = later.model.unlearn(5, **TARGET, n_steps=7)
    run = result.certificate.run
    deletion = history.deletion((3, 5))
    assert isinstance(deletion, ResumedDeletion)
    assert run.check_resumed(deletion, conditions=None).deletion is deletion
    for changes, said in (
        ({"step_size": 1e3 * run.step_size}, "deletion must have the run's alpha, step_size"),
        ({"n_records": 41}, "run.n_records"),
        ({"phases": (*run.phases[:2], replace(run.phases[2], noise_std=1e-18))}, r"run.phases\[2\].noise_std"),
    ):
        with pytest.raises((RunError, ValueError), match=said):
            replace(run, **changes).check_resumed(deletion, conditions=None)
    theta = later.model._theta
    assert p_value(deletion, history.phases, theta) == pytest.approx(
        p_value(replace(model._require_history(), phases=history.phases).deletion((3, 5)), history.phases, theta),
        rel=1e-6,
    )
    with pytest.raises(RunError, match="model"):
        p_value(deletion, history.phases, theta + 100.0)


def test_parameters_without_noise_are_where_the_kept_law_says_up_to_the_rounding_of_all_steps_so_far() -> None:
    X, Y, step_size = problem(8, 12, 3, 2, 1.0)
    phases = (Phase(80, 0.0), Phase(5, 0.0, (2,)))
    _, kept = histories(X, Y, step_size, phases)
    theta, _ = ridge_law(X, Y, alpha=0.5, step_size=step_size, phases=phases)
    deletion = kept.deletion((2, 6))
    assert p_value(deletion, phases, theta + 1e-15 * np.abs(theta).max()) == 1.0
    with pytest.raises(RunError, match="in a direction without noise"):
        p_value(deletion, phases, theta + 1e-9)


def test_floors_are_those_of_all_rows(model: LangevinRidge) -> None:
    """Where the true run's parameters are larger than the reference run's they count in the phases to come."""
    later = model.unlearn(3, **TARGET, n_steps=7).model
    history = later._require_history()
    phases = (*history.phases, Phase(5, 0.1, (3, 5)))
    whole = replace(model._require_history(), phases=history.phases)
    kept, all_rows = (one.deletion((3, 5)).floors(phases) for one in (history, whole))
    assert isinstance(whole.deletion((3, 5)), RidgeDeletion)
    assert kept[2] == pytest.approx(all_rows[2], rel=1e-9)
    assert all(0 < one <= other * (1 + 1e-9) for one, other in zip(kept, all_rows, strict=True))
    far = replace(history, law=replace(history.law, mean=1e6 * history.law.mean))  # type: ignore[type-var]
    assert far.deletion((3, 5)).floors(phases)[2] > 1e3 * kept[2]
