"""What an attacker learns who sees the released coefficients alone: everything through constants, next to nothing else.

Two companies hold the same 200 records. One has an unusual customer besides, the other a usual one; both delete the
201st customer and release a model. The attacker sees one release and says whose it is. The reference run of both is
the same, so that two claims of (0, delta) leave the attacker right with probability at most (1 + 2 delta) / 2.
"""

import numpy as np
import pytest
from scipy import stats

from expunge import LangevinRidge
from expunge.certificates import CONDITIONS, VerificationError

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

GENERATOR = np.random.default_rng(123)
X = GENERATOR.normal(size=(200, 5))
Y = X @ np.arange(1.0, 6.0)
USUAL = (np.full((1, 5), 0.1), 1.5)
GAMES = 40


def release(customer, *, fitted, forgotten):
    """The coefficients released after the last record was deleted, and the certificate (which nobody else sees)."""
    features, target = customer
    model = LangevinRidge(fit_intercept=False, **fitted).fit(np.vstack([X, features]), np.append(Y, target))
    result = model.unlearn(200, n_steps=30, **forgotten)
    return result.model.release().coef_, result.certificate


def play(unusual, *, games, fitted, forgotten, unlike):
    """How often an attacker is right who looks at ``unlike`` and knows from rehearsals where the two kinds differ."""
    named = {"fitted": fitted, "forgotten": forgotten}
    kinds = (USUAL, unusual)
    rehearsed = [np.median([unlike(release(kind, **named)[0]) for _ in range(5)]) for kind in kinds]
    cut, upward = np.sqrt(rehearsed[0] * rehearsed[1]), rehearsed[1] > rehearsed[0]
    choices = np.random.default_rng(7).integers(0, 2, games)
    right, certificates = 0, []
    for choice in choices:
        seen, certificate = release(kinds[choice], **named)
        right += int((unlike(seen) > cut) == upward) == choice
        certificates.append(certificate)
    return right, certificates


def distance(coefficients):
    """From what everybody expects of such data."""
    return float(np.linalg.norm(coefficients - np.arange(1.0, 6.0)))


FAR = (np.full((1, 5), 1e4), 0.0)  # its norm makes 1/L, and so the step size, 10 million times smaller
ODD = (np.full((1, 5), 1.0), -1e6)  # its target makes the noise that hides it large
CLAIM = {"epsilon": 1.0, "delta": 1e-5}


def test_a_step_size_computed_from_the_record_gives_it_away():
    right, certificates = play(FAR, games=GAMES, fitted={"noise_std": 0.05}, forgotten=CLAIM, unlike=distance)
    assert right == GAMES
    assert all(CONDITIONS["step_size"] in certificate.conditions for certificate in certificates)


def test_a_noise_level_calibrated_to_the_record_gives_it_away_though_the_step_size_was_given():
    fitted = {"noise_std": 0.05, "step_size": 1e-3}
    right, certificates = play(ODD, games=GAMES, fitted=fitted, forgotten=CLAIM, unlike=distance)
    assert right == GAMES
    for certificate in certificates:
        assert certificate.status == "conditional"
        assert certificate.conditions == (CONDITIONS["noise_std"],)


@pytest.mark.parametrize(
    ("unusual", "fitted", "noise_std"),
    [
        (FAR, {"noise_std": 0.05, "step_size": 1.5e-9}, 0.7),
        (FAR, {"noise_std": 0.05, "step_size": "bounded", "norm_bound": 3e4, "n_bound": 300}, 0.7),
        (ODD, {"noise_std": 0.05, "step_size": 1e-3}, 2e4),
    ],
    ids=["step size given", "norm bounded", "noise given"],
)
def test_with_constants_given_the_attacker_is_right_by_chance(unusual, fitted, noise_std):
    delta, games = 0.02, 60
    claim = {"epsilon": 0.0, "delta": delta, "noise_std": noise_std}
    right, certificates = play(unusual, games=games, fitted=fitted, forgotten=claim, unlike=distance)
    assert all(certificate.status == "certified" for certificate in certificates)
    most = 0.5 + delta
    assert right <= stats.binom.isf(1e-7, games, most)
    assert right >= stats.binom.ppf(1e-7, games, 1 - most)


def test_noise_given_that_does_not_hide_the_record_is_refused():
    with pytest.raises(ValueError, match="noise_std"):
        release(ODD, fitted={"noise_std": 0.05, "step_size": 1e-3}, forgotten={**CLAIM, "noise_std": 0.05})
    assert issubclass(VerificationError, ValueError)
