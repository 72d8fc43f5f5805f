"""Privacy loss of groups: never below the divergence of the step itself, which a grid integrates."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from expunge.accounting import group_privacy_loss, privacy_loss

ONE_STEP = {"noise_std": 1.0, "step_size": 1.0, "batch_size": 1.0, "steps": [0], "n_steps": 1}


def step_divergence(order, gradients, noise, probability, direction):
    """Renyi divergence between a step with the group (a mixture over its subsets) and one without, on a grid."""
    gradients = np.asarray(gradients, dtype=np.float64)
    k, d = gradients.shape
    reach = np.abs(gradients).sum() + 12 * noise * max(1.0, order**0.5)
    axis = np.linspace(-reach, reach, 20001 if d == 1 else 501)
    points = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), axis=-1)
    cell = (axis[1] - axis[0]) ** d

    def log_density(shift):
        square = ((points - shift) ** 2).sum(axis=-1)
        return -0.5 * square / noise**2 - 0.5 * d * np.log(2 * np.pi * noise**2)

    without, parts = log_density(np.zeros(d)), []
    for chosen in itertools.product([False, True], repeat=k):
        weight = np.prod([probability if one else 1 - probability for one in chosen])
        if weight > 0:
            parts.append(np.log(weight) + log_density(gradients[np.array(chosen)].sum(axis=0)))
    with_group = np.logaddexp.reduce(parts, axis=0)
    first, second = (with_group, without) if direction == "pq" else (without, with_group)
    # The moment minus one, without the first-order term, whose integral is 0: no cancellation where laws are close.
    ratio = first - second
    far = order * ratio > 100.0  # where 1 is nothing beside the moment, and the moment may overflow without the density
    risen = np.where(far, np.exp(second + order * ratio), np.exp(second) * np.expm1(np.where(far, 0.0, order * ratio)))
    linear = np.where(far, np.exp(first), np.exp(second) * np.expm1(np.where(far, 0.0, ratio)))
    excess = (risen - order * linear).sum() * cell
    return np.log1p(excess) / (order - 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.05, 2.0), min_size=1, max_size=4),
    st.floats(1.1, 6.0),
    st.floats(0.01, 0.95),
    st.floats(0.7, 3.0),
    st.sampled_from(["pq", "qp"]),
)
def test_no_step_costs_more_where_all_gradients_point_one_way(sizes, order, probability, noise, direction):
    assume(order * (order - 1) * (sum(sizes) / noise) ** 2 < 1200.0)  # or the moment overflows
    found = group_privacy_loss(
        np.array(sizes)[:, None], order=order, sampling_probability=probability, direction=direction,
        **{**ONE_STEP, "noise_std": noise},
    )  # fmt: skip
    truth = step_divergence(order, np.array(sizes)[:, None], noise, probability, direction)
    assert found >= truth * (1 - 1e-9) - 1e-13
    assert found.status == "estimate"


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(1.2, 4.0), st.floats(0.05, 0.9), st.sampled_from(["pq", "qp"]))
def test_no_step_costs_more_in_two_dimensions(seed, order, probability, direction):
    gradients = np.random.default_rng(seed).standard_normal((3, 2))
    norms = np.linalg.norm(gradients, axis=1)
    found = group_privacy_loss(
        norms[:, None], order=order, sampling_probability=probability, direction=direction, **ONE_STEP
    )
    assert found >= step_divergence(order, gradients, 1.0, probability, direction) * (1 - 1e-6)


def test_full_batches_cost_exactly_the_shift_of_the_group():
    gradients = np.array([[1.0, 0.5], [-0.4, 0.7], [0.2, -0.9]])
    norms, together = np.linalg.norm(gradients, axis=1), np.linalg.norm(gradients.sum(axis=0))
    given = {"order": 2.5, "sampling_probability": 1.0, **ONE_STEP}
    exact = group_privacy_loss(norms[:, None], group_norms=[together], **given)
    for direction in ("pq", "qp"):
        assert exact == pytest.approx(step_divergence(2.5, gradients, 1.0, 1.0, direction), rel=1e-9)
    assert exact == pytest.approx(2.5 * together**2 / 2, rel=1e-14)
    assert group_privacy_loss(norms[:, None], **given) == pytest.approx(2.5 * norms.sum() ** 2 / 2, rel=1e-14)


def test_a_group_of_one_has_the_loss_of_its_record():
    norms = np.array([[0.3, 1.0, 2.0]])
    for probability in (0.0, 0.02, 1.0):
        training = {
            "order": [1.5, 8.0], "noise_std": 0.8, "step_size": [0.1, 0.2, 0.1], "batch_size": 1.5,
            "sampling_probability": probability, "steps": [0, 4, 9], "n_steps": 10,
        }  # fmt: skip
        found = group_privacy_loss(norms, **training)
        np.testing.assert_allclose(found, privacy_loss(norms, **training)[0], rtol=1e-13)
        assert found.shape == (2,)


def test_small_rates_cost_the_square_of_the_size_and_no_more():
    """To leading order the square of the expected shift, whatever the size: k^2 of one record, not k^4."""
    one = group_privacy_loss([[0.1]], order=2.0, sampling_probability=1e-3, **ONE_STEP)
    for k in (2, 5, 20):
        group = group_privacy_loss([[0.1]] * k, order=2.0, sampling_probability=1e-3, **ONE_STEP)
        assert k**2 <= group / one <= 1.2 * k**2


def test_large_rates_take_the_group_as_one_record():
    many = group_privacy_loss([[2.0]] * 3, order=4.0, sampling_probability=0.999, **ONE_STEP)
    assert many == pytest.approx(4.0 * 36.0 / 2, rel=1e-3)
    # Where the noise is divided, every part pays for its absence separately.
    far = group_privacy_loss([[1.0]] * 3, order=1.1, sampling_probability=0.5, direction="qp", noise_std=0.05,
                             **{k: v for k, v in ONE_STEP.items() if k != "noise_std"})  # fmt: skip
    assert far <= 3.1 * np.log(2)


def test_edges():
    given = {"order": 2.0, "sampling_probability": 0.5, **ONE_STEP}
    assert group_privacy_loss([[0.0], [0.0]], **given) == 0.0
    assert group_privacy_loss([[np.inf], [0.0]], **given) == np.inf
    assert group_privacy_loss([[1.0], [0.0]], **given) == pytest.approx(group_privacy_loss([[1.0]], **given), rel=1e-9)
    for bad, message in (
        ({"grad_norms": np.empty((0, 1))}, "grad_norms must have a row for each record of the group, got none"),
        ({"group_norms": [3.5]}, "group_norms must be at most the sum of the 2 records' norms, got 3.5 above 3"),
        (
            {"group_norms": [2.5], "sampling_probability": 0.5},
            "group_norms must be omitted with sampling_probability 0.5: they are the shift of full batches",
        ),
        ({"group_norms": [1.0, 1.0]}, r"group_norms must hold one per step \(1,\)"),
        ({"grad_norms": [[np.nan], [1.0]]}, "grad_norms"),
        ({"steps": [0, 1], "n_steps": 2}, "grad_norms must have one column per step"),
        ({"sampling_probability": 1.5}, "sampling_probability"),
        ({"order": [[2.0]]}, "order must be a number or one-dimensional"),
    ):
        settings_ = {"grad_norms": [[1.0], [2.0]], **given, "sampling_probability": 1.0, **bad}
        with pytest.raises(ValueError, match=message):
            group_privacy_loss(**settings_)
