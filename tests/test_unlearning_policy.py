"""A policy that chooses how to answer requests: what is denied, what is cheapest, what each claim is."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from expunge import CertifiedHead, NewtonLogisticRegression  # noqa: E402
from expunge.torch import (  # noqa: E402
    Privacy,
    RecordBudgets,
    UnlearningPolicy,
    calibrate_steps,
    train,
)
from small_training import data, network  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SETTINGS = {"step_size": 0.4, "n_steps": 24, "n_checkpoints": 3, "progress": False}


@pytest.fixture(scope="module")
def noisy():
    return train(network(), data(), batch_size=12, noise_std=0.05, seed=2, **SETTINGS)


@pytest.fixture(scope="module")
def private():
    x, y = data()
    net = network()
    run = train(net, (x, y), batch_size=60, privacy=Privacy(epsilon=1.0, delta=1e-5, clip=0.7), seed=2, **SETTINGS)
    head = NewtonLogisticRegression(classes=range(3), alpha=1.0, noise_std=0.1, epsilon=0.5, delta=1e-5)
    return run, CertifiedHead(net[:2].eval(), head, backbone=run).fit(x, y.numpy())


@pytest.fixture(scope="module")
def certified_head():
    x, y = data()
    head = NewtonLogisticRegression(classes=range(3), alpha=1.0, noise_std=0.1, epsilon=0.5, delta=1e-5)
    return CertifiedHead(np.cos, head, backbone="data-independent").fit(x.numpy(), y.numpy())


def pilots(run, *, slope=1.0, most_steps=100_000):
    """Return a calibration by which a set of the run needs as many steps as `slope` times the log of its loss."""
    losses = np.quantile(np.asarray(run.privacy_losses()), np.linspace(0.02, 0.98, 12))
    steps = np.maximum(0.0, np.round(slope * np.log1p(losses / losses[0])))
    return calibrate_steps(losses, steps, most_steps=most_steps)


def test_an_estimate_never_meets_a_certificate(noisy):
    policy = UnlearningPolicy(noisy, calibration=pilots(noisy))
    for asked in ("certified", "conditional", "exact by construction"):
        (one,) = policy.plan([[3, 5]], guarantee=asked, epsilon=1e6, delta=1.0).choices
        assert one.chosen.name == "retrain"
        assert [option.meets for option in one.options] == [False, False, False, True]
        assert f"estimate, where {asked} was asked for" in one.option("fine_tune").reason
    assert policy.plan([[3, 5]]).choices[0].chosen.name == "retrain"  # a certificate is what is asked by default
    (one,) = policy.plan([[3, 5]], guarantee="estimate").choices
    assert (one.chosen.name, one.status) == ("fine_tune", "estimate")
    # An epsilon is not met by what claims none.
    (one,) = policy.plan([[3, 5]], guarantee="estimate", epsilon=100.0, delta=0.1).choices
    assert one.chosen.name == "retrain"
    # Nor does a run without privacy give anything as it is.
    assert one.option("release").status == "none"


def test_the_cheapest_that_meets_is_chosen_and_costs_are_counted(noisy, certified_head):
    losses = np.asarray(noisy.privacy_losses())
    found = pilots(noisy)
    policy = UnlearningPolicy(noisy, calibration=found, head=certified_head)
    plan = policy.plan([[3, 5], [7]], guarantee="estimate")
    first = plan.choices[0]
    assert first.privacy_loss == pytest.approx(losses[[3, 5]].mean())
    steps = int(found.steps(first.privacy_loss))
    assert first.option("fine_tune").gradient_steps == steps
    assert first.option("fine_tune").passes == pytest.approx(steps * 12 / 58)
    assert first.option("retrain").gradient_steps == 24
    assert first.option("retrain").passes == pytest.approx(24 * 12 / 58)
    assert plan.retrain_passes == pytest.approx(24 * 12 / 60)
    assert plan.passes == pytest.approx(sum(one.chosen.passes for one in plan.choices))
    # Fine-tuning that takes longer than training is not chosen: retraining is exact.
    slow = UnlearningPolicy(noisy, calibration=pilots(noisy, slope=500.0))
    assert slow.plan([[3, 5]], guarantee="estimate").choices[0].chosen.name == "retrain"
    # With a claim asked for, the head answers.
    plan = policy.plan([[3, 5]], guarantee="certified", epsilon=0.5, delta=1e-5)
    (one,) = plan.choices
    assert (one.chosen.name, one.status, one.chosen.epsilon) == ("head", "certified", 0.5)
    assert one.chosen.passes == certified_head.quote([3, 5]).passes.max()
    assert policy.plan([[3, 5]], epsilon=0.49, delta=1e-5).choices[0].chosen.name == "retrain"
    assert policy.plan([[3, 5]], epsilon=0.5, delta=1e-6).choices[0].chosen.name == "retrain"
    assert json.loads(json.dumps(plan.to_dict()))["choices"][0]["chosen"] == "head"
    assert "request 0, 2 records: head" in plan.summary()


def test_claims_of_a_private_run_grow_with_what_has_left(private):
    run, head = private
    policy = UnlearningPolicy(run, head=head)
    asked = {"guarantee": "conditional", "epsilon": 3.0, "delta": 1e-5}
    plan = policy.plan([[k] for k in range(5)], **asked)
    epsilons = [one.option("release").epsilon for one in plan.choices]
    assert epsilons == [run.privacy.group_epsilon(size=k) for k in range(1, 6)]
    assert [one.chosen.name for one in plan.choices] == [
        "release" if epsilon <= 3.0 else "retrain" for epsilon in epsilons
    ]
    assert {one.chosen.name for one in plan.choices} == {"release", "retrain"}
    # The head's claim is that of the certificates that would be issued.
    left = head
    for k, one in enumerate(plan.choices[:3]):
        left = left.unlearn(int(one.request[0])).model
        assert one.option("head").epsilon == left.certificate_.epsilon
        assert left.certificate_.n_deleted == k + 1
    later = UnlearningPolicy(run, n_left=2).plan([[9]], **asked).choices[0]
    assert later.option("release").epsilon == run.privacy.group_epsilon(size=3)
    # A private backbone is conditional, and no certificate without conditions.
    assert policy.plan([[0]], guarantee="certified", epsilon=100.0, delta=1e-5).choices[0].chosen.name == "retrain"


def test_budgets_have_an_epsilon_at_the_delta_asked_for(noisy):
    run = train(network(), data(), batch_size=60, seed=2, **SETTINGS,
                privacy=RecordBudgets(budgets=0.3, clip=0.7, noise_multiplier=8.0))  # fmt: skip
    policy = UnlearningPolicy(run, calibration=pilots(noisy))
    (one,) = policy.plan([[4, 9]], guarantee="conditional", epsilon=3.0, delta=1e-5).choices
    assert one.chosen.name == "release"
    assert one.chosen.epsilon == run.privacy.group_epsilon(size=2, delta=1e-5)
    assert "this one charged every step" in one.option("fine_tune").reason
    assert policy.plan([[4]]).choices[0].option("release").status == "none"


def test_what_a_head_cannot_forget_is_said(noisy, certified_head):
    gone = certified_head.unlearn([3]).model
    (one,) = UnlearningPolicy(noisy, head=gone).plan([[3]], epsilon=1.0, delta=1e-5).choices
    assert one.chosen.name == "retrain"
    assert "the head has no record" in one.option("head").reason
    shifted = UnlearningPolicy(noisy, head=certified_head, ids=np.arange(60) + 5)
    assert shifted.plan([[0]], epsilon=1.0, delta=1e-5).choices[0].chosen.name == "head"
    assert shifted.plan([[58]], epsilon=1.0, delta=1e-5).choices[0].chosen.name == "retrain"


def test_requests_are_refused_by_name(noisy):
    policy = UnlearningPolicy(noisy)
    for bad, message in (
        ([], "at least one request"),
        ([[]], "must name at least one row"),
        ([[1], [2, 1]], "must name a record once, got record 1 in two"),
        ([[60]], r"within \[0, 60\)"),
        ([list(range(60))], "must leave a record"),
    ):
        with pytest.raises(ValueError, match=message):
            policy.plan(bad)
    for bad, message in (
        ({"guarantee": "safe"}, "guarantee must be one of"),
        ({"epsilon": 1.0}, "epsilon and delta must be given together"),
        ({"epsilon": np.nan, "delta": 0.1}, "epsilon must"),
        ({"epsilon": 1.0, "delta": 1.1}, "delta must"),
    ):
        with pytest.raises(ValueError, match=message):
            policy.plan([[1]], **bad)
    for bad in ({"run": 3}, {"head": 3}, {"calibration": 3}):
        with pytest.raises(TypeError, match=next(iter(bad))):
            UnlearningPolicy(**{"run": noisy, **bad})
    for bad in ({"n_left": -1}, {"n_left": 1.5}, {"ids": [1, 2]}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            UnlearningPolicy(noisy, **bad)


# --- calibration -------------------------------------------------------------------------------------


def test_a_calibration_by_hand():
    losses, steps = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), np.array([2.0, 1.0, 6.0, 5.0, 12.0, 9.0])
    residuals = []
    for i in range(6):
        x, t = np.delete(np.log(losses), i), np.delete(steps, i)
        slope, intercept = np.polyfit(x, t, 1)
        residuals.append(steps[i] - max(0.0, slope * np.log(losses[i]) + intercept))
    slope, intercept = np.polyfit(np.log(losses), steps, 1)
    for coverage, rank in ((0.5, 4), (0.8, 6)):
        found = calibrate_steps(losses, steps, most_steps=50, coverage=coverage)
        assert found.margin == pytest.approx(sorted(residuals)[rank - 1])
        line = np.maximum(0.0, slope * np.log(losses) + intercept)
        wanted = np.clip(np.ceil(line + found.margin - 1e-9), 0, 12)
        np.testing.assert_array_equal(found.steps(losses), wanted)
    assert found.status == found.to_dict()["status"] == "estimate"
    assert (found.most_steps, found.n_never) == (12, 0)


def test_an_envelope_by_hand():
    found = calibrate_steps([8.0, 1.0, 4.0, 2.0], [5, 0, 1, 3], most_steps=50, rule="envelope")
    assert (found.knots, found.heights, found.coverage) == ((1.0, 2.0, 4.0, 8.0), (0.0, 3.0, 3.0, 5.0), None)
    assert found.steps([0.1, 1.0, 1.1, 2.0, 3.0, 4.0, 4.1, 8.0, 80.0, np.inf]).tolist() == [
        0,
        0,
        3,
        3,
        3,
        3,
        5,
        5,
        5,
        5,
    ]
    never = calibrate_steps([8.0, 1.0, 4.0, 2.0], [np.inf, 0, 1, 3], most_steps=50, rule="envelope")
    assert never.steps([1.0, 9.0]).tolist() == [0, 50]
    assert json.loads(json.dumps(never.to_dict()))["heights"] == [0.0, 3.0, 3.0, 50.0]


def test_sets_that_never_arrived_count_as_the_most():
    found = calibrate_steps([1.0, 2.0, 4.0, 8.0], [1, 2, np.inf, np.inf], most_steps=30, coverage=0.8)
    assert (found.n_never, found.most_steps) == (2, 30)
    assert found.steps(np.inf) == 30


def test_flat_privacy_losses_give_all_sets_the_same():
    found = calibrate_steps(np.ones(5), [1, 5, 2, 4, 3], most_steps=9, coverage=0.8)
    assert found.fit is None
    assert found.steps([0.1, 1.0, 7.0]).tolist() == [5, 5, 5]


@given(seed=st.integers(0, 10**6), noise=st.floats(0.0, 5.0))
def test_steps_lie_between_none_and_those_of_the_hardest(seed, noise):
    rng = np.random.default_rng(seed)
    losses = np.exp(rng.normal(size=12))
    times = np.round(np.clip(5 + 3 * np.log(losses) + noise * rng.normal(size=12), 0, 40))
    found = calibrate_steps(losses, times, most_steps=40)
    given_ = found.steps(np.exp(rng.normal(scale=3.0, size=50)))
    assert given_.min() >= 0
    assert given_.max() <= found.most_steps == times.max()


def test_new_sets_of_the_same_kind_are_covered_as_often_as_asked():
    rng, covered = np.random.default_rng(3), []
    for _ in range(400):
        losses = np.exp(rng.normal(size=13))
        times = np.clip(20 + 5 * np.log(losses) + 3 * rng.normal(size=13), 0, 1000)
        found = calibrate_steps(losses[:12], times[:12], most_steps=1000, coverage=0.8)
        line = np.maximum(0.0, found.fit.predict(losses[12:])) + found.margin
        covered.append(times[12] <= line[0])
    assert 0.74 < np.mean(covered) < 0.92


def test_calibrations_are_refused_by_name():
    good = {"privacy_loss": [1.0, 2.0, 4.0, 8.0, 16.0], "steps": [1, 2, 3, 4, 5], "most_steps": 9, "coverage": 0.8}
    for bad, message in (
        ({"privacy_loss": [1.0, 2.0], "steps": [1, 2]}, "at least 4 pilot sets"),
        ({"coverage": 0.95}, "at least 19 pilot sets for a coverage of 0.95, got 5"),
        ({"rule": "best"}, "rule must be one of"),
        ({"steps": [1, 2, 3]}, r"one per pilot set \(5\), got 3"),
        ({"steps": [1, 2, 3, 4, 10]}, "at most most_steps = 9, or infinite, got 10"),
        ({"steps": [1, 2, 3, 4, np.nan]}, "steps"),
        ({"privacy_loss": [0.0, 1.0, 2.0, 3.0, 4.0]}, "privacy_loss must be > 0"),
    ):
        values = {**good, **bad}
        with pytest.raises(ValueError, match=message):
            calibrate_steps(values.pop("privacy_loss"), values.pop("steps"), **values)
