"""The last bits of a release tell nothing of the parameters that the noise was added to."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from scipy import special
from sklearn.datasets import load_breast_cancer

from expunge import NewtonLogisticRegression, NewtonRidge
from expunge.estimators.newton import working
from expunge.runs import noise
from expunge.runs.noise import os_normals, with_noise

CANCER = load_breast_cancer(return_X_y=True)
X, Y = CANCER[0] / 1000, CANCER[1]
CLAIM = {"noise_std": 0.1, "releases": 2}


def whole(model: NewtonLogisticRegression) -> np.ndarray:
    return np.column_stack([model.coef_, model.intercept_])


def could_come_from(theta: np.ndarray, model: NewtonLogisticRegression, near: int = 64) -> bool:
    """Return whether a release is one that theta and a normal of 53 random bits would have made, in every parameter.

    The attacker tries the chances next to the one that the release asks for, in the library's own way of adding noise.
    """
    released, claim = whole(model), model._state.claim
    cells = np.floor(special.ndtr((released - theta) / claim.noise_std) * 2.0**53)
    reached = np.zeros(released.shape, dtype=bool)
    for offset in range(-near, near + 1):
        draws = special.ndtri((cells + offset + 0.5) * 2.0**-53)
        found = working._with_noise(theta, claim=claim, normals=lambda step, shape, draws=draws: draws)
        reached |= found == released
    return bool(reached.all())


def old_normals(step: int, shape: tuple[int, int]) -> np.ndarray:
    return special.ndtri((np.random.default_rng(step).integers(0, 2**53, shape) + 0.5) * 2.0**-53)


@pytest.mark.parametrize("normals", [None, old_normals], ids=["as drawn", "of 53 bits"])
def test_last_bits_do_not_tell_an_unlearned_model_from_one_that_never_saw_the_record(
    monkeypatch: pytest.MonkeyPatch, normals: Callable[..., np.ndarray] | None
) -> None:
    """The parameters of a fit without the record are a function of the data that remain; an attacker has them."""
    if normals is not None:
        monkeypatch.setattr(working, "os_normals", normals)
    rest, answers = np.delete(X, 42, axis=0), np.delete(Y, 42)
    fit = NewtonLogisticRegression(classes=[0, 1], **CLAIM)
    never = fit.fit(rest, answers)._state.theta
    unlearned = NewtonLogisticRegression(classes=[0, 1], **CLAIM).fit(X, Y).unlearn(42).model
    assert not np.array_equal(never, unlearned._state.theta)
    assert could_come_from(never, unlearned)


@pytest.mark.parametrize("noise_std", [1.0, 0.1, 0.03, 1e-9, 3e-300, 1e200])
def test_releases_lie_on_a_grid_that_the_noise_alone_chooses(noise_std: float) -> None:
    rng = np.random.default_rng(1)
    theta = rng.standard_normal((3, 50)) * noise_std * 10.0 ** rng.uniform(-6, 6, (3, 50))
    noisy = with_noise(theta, noise_std=noise_std, normals=os_normals)
    step = 2.0 ** np.floor(np.log2(noise_std)) / 4096
    assert np.array_equal(np.rint(noisy / step) * step, noisy)
    assert np.abs(noisy - theta).max() < 12 * noise_std


def test_the_sum_is_rounded_as_if_it_were_exact() -> None:
    """Only a sum within 2^-30 of a cell's border may fall to the other side, however large the parameter."""
    rng = np.random.default_rng(2)
    theta, draws = (
        rng.standard_normal((1, 2000)) * 10.0 ** rng.uniform(-3, 9, (1, 2000)),
        rng.standard_normal((1, 2000)),
    )
    noise_std, step = 0.1, Fraction(2) ** (-4 - 12)
    noisy = with_noise(theta, noise_std=noise_std, normals=lambda chain, shape: draws)
    for found, centre, draw in zip(noisy[0].tolist(), theta[0].tolist(), draws[0].tolist(), strict=True):
        away = abs(Fraction(centre) + Fraction(noise_std) * Fraction(draw) - Fraction(found)) / step
        assert away <= Fraction(1, 2) + Fraction(1, 2**30)


def test_normals_have_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chance of 53 bits ends at 8.2 standard deviations: what lies beyond would have had no probability at all."""
    drawn = np.zeros((2, 4), dtype="<u8")
    drawn[0] = [0, 1, 2**64 - 1, 2**64 - 2]  # the last bit is the sign
    drawn[1, 1] = 2**63
    monkeypatch.setattr(noise.os, "urandom", lambda size: drawn.tobytes())
    far_above, below, near_below, near_above = os_normals(0, (1, 4))[0]
    assert far_above == -special.ndtri(2.0**-107) > 11
    assert below == special.ndtri(2.0**-55) < -8.3
    assert -1e-15 < near_below <= 0 <= near_above < 1e-15


def test_noise_that_float64_does_not_hold_is_refused() -> None:
    draw = lambda step, shape: np.ones(shape)  # noqa: E731
    with pytest.raises(ValueError, match=r"noise_std must be at least .* beside parameters"):
        with_noise(np.full((1, 1), 1e13), noise_std=1.0, normals=draw)
    least = 1e13 * 2.0**13 / 2.0**51
    assert with_noise(np.full((1, 1), 1e13), noise_std=least, normals=draw)[0, 0] > 1e13
    with pytest.raises(ValueError, match="noise_std must be at least"):
        with_noise(np.zeros((1, 1)), noise_std=1e-321, normals=draw)
    with pytest.raises(ValueError, match="noise_std must be at least"):
        with_noise(np.full((1, 1), np.nan), noise_std=1.0, normals=draw)


def test_a_release_whose_noise_rounding_would_swallow_is_refused() -> None:
    """The gradient of a strong penalty can be as small as so weak a claim needs where float64 has no room for noise."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((12, 2))
    model = NewtonRidge(noise_std=1e-17, epsilon=1e6, releases=1, alpha=1e6)
    with pytest.raises(ValueError, match=r"noise_std must be at least .* beside parameters"):
        model.fit(rows, 1e4 * rows.sum(axis=1))
    least = 1e-12
    assert model.set_params(noise_std=least).fit(rows, 1e4 * rows.sum(axis=1)).certificate_.noise_std == least
