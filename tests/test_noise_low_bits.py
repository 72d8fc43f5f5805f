"""The last bits of a release tell nothing of the parameters that the noise was added to."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer

import oracles
from expunge import NewtonLogisticRegression, NewtonRidge
from expunge.certificates.residual import ResidualNoise
from expunge.estimators.newton import working
from expunge.runs import exact_noise
from expunge.runs.exact_noise import with_exact_noise
from expunge.runs.noise import os_normals, seeded_normals, with_noise

CANCER = load_breast_cancer(return_X_y=True)
X, Y = CANCER[0] / 1000, CANCER[1]
CLAIM = {"noise_std": 0.1, "releases": 2}


def plainly(theta: np.ndarray, noise_std: float) -> np.ndarray:
    """Add, as a program does that knows nothing of this: exact normals, rounded, are no better than others here."""
    return theta + noise_std * os_normals(0, theta.shape)


def explained(theta: np.ndarray, released: np.ndarray, noise_std: float) -> int:
    """Return how many released numbers are float64 sums of theta and a multiple of noise_std."""
    found = np.zeros(theta.shape, dtype=bool)
    for i in range(-2, 3):
        noise = released - theta
        noise += i * np.spacing(noise)
        for j in range(-2, 3):
            normal = noise / noise_std
            normal += j * np.spacing(normal)
            found |= (theta + noise == released) & (noise_std * normal == noise)
    return int(found.sum())


@pytest.fixture(scope="module")
def two_models() -> tuple[np.ndarray, np.ndarray]:
    """Parameters without noise of a fit that never saw a record, and of one that was made to forget it.

    Both follow from the data that remain and the record: an attacker who has them knows both, and wants to know which.
    """
    claim = {**CLAIM, "releases": 10_000}  # mu is .0027, and each is within mu times the noise of one optimum
    never = NewtonLogisticRegression(classes=[0, 1], **claim).fit(np.delete(X, 42, axis=0), np.delete(Y, 42))
    unlearned = NewtonLogisticRegression(classes=[0, 1], **claim).fit(X, Y).unlearn(42).model
    one, other = never._state.theta, unlearned._state.theta
    assert 0 < np.linalg.norm(one - other) < 0.01 * CLAIM["noise_std"]
    return one, other


def guessed_right(two: tuple[np.ndarray, np.ndarray], release: Callable[..., np.ndarray], games: int) -> int:
    """Return how often the attacker names the model that a release was made of."""
    rng = np.random.default_rng(4)
    right = 0
    for _ in range(games):
        which = int(rng.integers(2))
        released = release(two[which], noise_std=CLAIM["noise_std"])
        scores = [explained(theta, released, CLAIM["noise_std"]) for theta in two]
        guess = int(rng.integers(2)) if scores[0] == scores[1] else int(scores[1] > scores[0])
        right += guess == which
    return right


def test_last_bits_tell_models_apart_where_noise_is_simply_added(two_models: tuple[np.ndarray, np.ndarray]) -> None:
    """Two models, whose difference is less than a hundredth of the noise, are told apart in nearly every release."""
    assert guessed_right(two_models, plainly, 100) >= 90


def test_last_bits_of_exact_releases_tell_nothing(two_models: tuple[np.ndarray, np.ndarray]) -> None:
    games = 400
    right = guessed_right(two_models, with_exact_noise, games)
    assert stats.binomtest(right, games, 0.5).pvalue > 1e-6


def test_estimators_release_by_the_exact_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """First fit, deletion, correction, insertion and further release: each number is one that the sampler made."""
    made = []

    def recorded(theta: np.ndarray, *, noise_std: float) -> np.ndarray:
        made.append(with_exact_noise(theta, noise_std=noise_std))
        return made[-1]

    monkeypatch.setattr(working, "with_exact_noise", recorded)
    settings = {**CLAIM, "releases": 9}
    model = NewtonLogisticRegression(classes=[0, 1], **settings).fit(X, Y)
    models = [model]
    for change in (
        lambda model: model.unlearn(42),
        lambda model: model.amend(7, y=[1 - Y[7]]),
        lambda model: model.add(X[:2], Y[:2]),
        lambda model: model.release_again(),
    ):
        models.append(change(models[-1]).model)
    assert len(made) == 5
    for one, released in zip(models, made, strict=True):
        public = one.release()
        assert np.array_equal(np.column_stack([public.coef_, public.intercept_]), released)
        assert one.certificate_.noise == ResidualNoise.of(0.1, sampler="exact")


def test_a_known_seed_tells_everything_and_its_certificate_says_so() -> None:
    """Whoever knows the seed draws the noise again, and sees which model comes out to the bit."""
    rest, answers = np.delete(X, 42, axis=0), np.delete(Y, 42)
    never = NewtonLogisticRegression(classes=[0, 1], **CLAIM).fit(rest, answers)._state.theta
    other = never + 2.0 * ResidualNoise.of(0.1, sampler="float64").grid  # less than a hundredth of the noise away
    assert np.linalg.norm(other - never) < 0.01 * CLAIM["noise_std"]
    for seed in range(30):
        draws = seeded_normals(seed)
        releases = [with_noise(theta, noise_std=CLAIM["noise_std"], normals=draws) for theta in (never, other)]
        assert not np.array_equal(*releases)
    model = NewtonLogisticRegression(classes=[0, 1], random_state=29, **CLAIM).fit(rest, answers)
    assert np.array_equal(np.column_stack([model.coef_, model.intercept_]), releases[0])
    certificate = model.certificate_
    assert (certificate.status, certificate.noise) == ("conditional", ResidualNoise.of(0.1, sampler="float64"))
    assert "not about the program that ran" in certificate.to_json()
    assert "the Gaussian noise that it stands for" in certificate.summary()
    # What follows is not of a seed, and plainly certified.
    again = model.release_again().certificate
    assert (again.status, again.noise) == ("certified", ResidualNoise.of(0.1, sampler="exact"))


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


def test_normals_of_steps_are_exact_ones_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word by word; 12 standard deviations, which no chance of 53 bits reaches, come with the words that mean them."""
    words = np.random.default_rng(3).integers(0, 2**32, 4000, dtype=np.uint32)
    far = [2**31] * 12 + [2**31 - 1, 2**32 - 1] + [2**31] * 132 + [2**30] + [2**32 - 1] * 13 + [1, 0, 0]
    given = np.concatenate([np.array(far, dtype=np.uint32), words])
    at = iter(given.tobytes())
    monkeypatch.setattr(exact_noise.os, "urandom", lambda size: bytes(next(at) for _ in range(size)))
    found = os_normals(0, (6, 15))
    pairs, _, _ = oracles.exact_normals(given, 90)
    assert found.shape == (6, 15)
    assert found.ravel().tolist() == [hi for hi, _ in pairs]
    assert found[0, 0] == -12.25


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
