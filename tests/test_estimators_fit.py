"""Fitting and what a fitted model is: its defaults, its edges, and that an unfitted one says so."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from expunge import LangevinRidge, LangevinRidgeClassifier, ReleasedRidge
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.law import Phase, phase_floors

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

TARGET: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 5}
GENERATOR = np.random.default_rng(17)
X = GENERATOR.normal(size=(20, 3))
Y = X @ [1.0, -2.0, 0.5] + 0.1 * GENERATOR.normal(size=20)
LABELS = np.where(Y > 0, "up", "down")


def fitted(**settings: Any) -> LangevinRidge:
    return LangevinRidge(**settings).fit(X, Y)


# --- parameters ----------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_documentation() -> None:
    wanted = {
        "alpha": 1.0,
        "n_steps": 300,
        "noise_std": 0.01,
        "step_size": "auto",
        "norm_bound": None,
        "n_bound": None,
        "fit_intercept": True,
        "random_state": None,
    }
    assert LangevinRidge().get_params() == wanted
    assert LangevinRidgeClassifier().get_params() == {**wanted, "classes": None}


@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_a_generator_gives_seeds_of_63_bits(make: Any) -> None:
    seeds = [LangevinRidge(random_state=make(i))._seed() for i in range(20)]
    assert len(set(seeds)) == 20
    assert all(seed is not None and 0 <= seed < 2**63 for seed in seeds)
    assert max(seed for seed in seeds if seed is not None) > 2**61
    source = make(0)
    assert LangevinRidge(random_state=source)._seed() != LangevinRidge(random_state=source)._seed()


def test_the_norm_of_the_longest_row_is_a_bound_however_it_is_rounded() -> None:
    rounded_down = 0
    for row in np.random.default_rng(1).uniform(-1, 1, size=(60, 7)):
        exact = math.sqrt(math.fsum(float(value) ** 2 for value in row))
        rounded_down += exact < np.linalg.norm(row[None], axis=1)[0]
        model = LangevinRidge(step_size="bounded", norm_bound=exact, n_bound=2, fit_intercept=False, n_steps=1)
        model.fit(np.vstack([row, row / 2]), [1.0, 2.0])
    assert rounded_down  # the bound was met from above


@pytest.mark.parametrize("n_bound", [2**53, 2**53 + 1, 10**30])
def test_more_records_than_float64_counts_are_refused(n_bound: int) -> None:
    bounded: dict[str, Any] = {"step_size": "bounded", "norm_bound": 10.0}
    with pytest.raises(ValueError, match=rf"^n_bound must be less than 2\^53, got {n_bound}"):
        fitted(**bounded, n_bound=n_bound)
    assert fitted(**bounded, n_bound=2**53 - 1).step_size_ > 0


def test_noise_at_the_floor_is_kept_and_noise_below_it_refused() -> None:
    """A thousand tiny steps leave the parameters far below the optimum, and with them the floor."""
    settings: dict[str, Any] = {"step_size": 1e-9, "n_steps": 10, "fit_intercept": False}
    (floor,) = phase_floors(X, Y[:, None], alpha=1.0, step_size=1e-9, phases=(Phase(10, 1.0),))
    assert fitted(**settings, noise_std=floor)._history is not None
    with pytest.raises(ValueError, match=r"^noise_std must be 0 .* or at least"):
        fitted(**settings, noise_std=math.nextafter(floor, 0))


# --- steps and optimum ---------------------------------------------------------------------------


def test_the_optimum_is_found_where_alpha_is_lost_beside_the_squares() -> None:
    """Two equal columns: Cholesky meets a pivot of 0; the optimum shares the weight between them."""
    for rows in (1, 4):
        equations = NormalEquations.of(np.full((rows, 2), 1e8), np.full((rows, 1), 4e8), alpha=1e-9)
        np.testing.assert_allclose(equations.optimum(), [[2.0], [2.0]], rtol=1e-12)
    features = 1e8 * np.column_stack([X, X[:, 0]])
    model = LangevinRidge(alpha=1e-9, fit_intercept=False, n_steps=1, noise_std=0.0).fit(features, Y)
    best = np.linalg.lstsq(features[1:], Y[1:], rcond=None)[0]
    np.testing.assert_allclose(features @ model.downdate(0).coef_, features @ best, atol=1e-6)


def test_steps_that_overflow_are_refused_by_name() -> None:
    equations = NormalEquations.of(np.eye(2), np.ones((2, 1)), alpha=1.0)
    far = {"step_size": 1e10, "normals": lambda step, shape: np.zeros(shape)}
    with pytest.raises(ValueError, match=r"^the parameters overflow float64"):
        equations.steps(np.array([[1.0], [-1.0]]), phase=Phase(200, 0.0), **far)  # type: ignore[arg-type]


# --- not fitted ----------------------------------------------------------------------------------

QUESTIONS = {
    "coef_": lambda model: model.coef_,
    "intercept_": lambda model: model.intercept_,
    "conditions_": lambda model: model.conditions_,
    "ledger_salt_": lambda model: model.ledger_salt_,
    "predict": lambda model: model.predict(X),
    "release": lambda model: model.release(),
    "forget_history": lambda model: model.forget_history(),
    "quote": lambda model: model.quote(**TARGET),
    "unlearn": lambda model: model.unlearn(0, **TARGET),
    "downdate": lambda model: model.downdate(0),
    "privacy_profile": lambda model: model.privacy_profile(0),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
@pytest.mark.parametrize("kind", [LangevinRidge, LangevinRidgeClassifier])
def test_an_unfitted_model_says_that_it_is_not_fitted(kind: Any, question: Any) -> None:
    with pytest.raises(NotFittedError):
        question(kind())


def test_an_unfitted_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        LangevinRidge().save(tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())


# --- what it holds and shows ---------------------------------------------------------------------


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    for one in (fitted(), fitted().release()):
        path = tmp_path / "model.npz"
        path.write_bytes(b"precious")
        with pytest.raises(FileExistsError):
            one.save(path)
        assert path.read_bytes() == b"precious"
        assert one.save(path, overwrite=True) == path
        assert type(one).load(path).predict(X).tolist() == one.predict(X).tolist()


@pytest.mark.parametrize("targets", [Y, np.column_stack([Y, -Y])])
def test_released_coefficients_lie_row_by_row(targets: Any) -> None:
    released = LangevinRidge().fit(X, targets).release()
    assert released.coef_.flags.c_contiguous
    assert released.n_features_in_ == 3


def test_a_quote_leaves_nothing_in_a_pickle() -> None:
    model = fitted(random_state=0)
    before = pickle.dumps(model)
    model.quote(**TARGET)
    assert pickle.dumps(model) == before
    assert pickle.loads(before).quote(**TARGET).noise_std.tolist() == model.quote(**TARGET).noise_std.tolist()


def test_a_model_shows_itself_with_what_makes_it_confidential() -> None:
    model = fitted(alpha=2.0)
    assert repr(model) == "LangevinRidge(alpha=2.0)  <confidential: holds the history and data of 20 records>"
    after = model.unlearn([1, 2], **TARGET).model
    assert repr(after).endswith("<confidential: holds the history and data of 18 records, 2 deleted>")
    assert repr(model.forget_history()) == "LangevinRidge(alpha=2.0)"
    assert repr(LangevinRidge(alpha=2.0)) == "LangevinRidge(alpha=2.0)"


def test_a_shortened_form_is_shortened() -> None:
    long: Any = LangevinRidgeClassifier(classes=[f"class {i}" for i in range(40)], alpha=0.12345, noise_std=0.2)
    assert "..." in long.__repr__(N_CHAR_MAX=40)
    assert len(long.__repr__(N_CHAR_MAX=40)) < 60 < len(long.__repr__(N_CHAR_MAX=200))
    released: Any = fitted().release()
    assert released.__repr__(N_CHAR_MAX=4).startswith("Re...") or "..." in released.__repr__(N_CHAR_MAX=4)


def test_a_release_shows_its_conditions() -> None:
    released = fitted(step_size=0.01).release()
    assert repr(released) == "ReleasedRidge()"
    assert repr(fitted(random_state=0).release()).startswith("ReleasedRidge()  <conditional: ")
    assert isinstance(released, ReleasedRidge)


# --- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.float32, bool])
def test_targets_of_any_number_type_are_learned_and_kept_as_float64(dtype: Any, tmp_path: Path) -> None:
    targets = (np.arange(20) % 2).astype(dtype)
    model = LangevinRidge(random_state=0).fit(X, targets)
    assert model._history is not None
    assert model._history.labels.dtype == model._history.targets.dtype == np.float64
    assert model.coef_.tolist() == LangevinRidge(random_state=0).fit(X, targets.astype(float)).coef_.tolist()
    again = LangevinRidge.load(model.save(tmp_path / "model.npz"))
    assert again.coef_.tolist() == model.coef_.tolist()


@pytest.mark.parametrize("dtype", [np.int64, np.float32, object])
def test_features_of_any_number_type_are_read_as_float64(dtype: Any) -> None:
    features = np.round(4 * X).astype(dtype)
    model = LangevinRidge(random_state=0).fit(features, Y)
    same = LangevinRidge(random_state=0).fit(features.astype(float), Y)
    for one, other in ((model, same), (model.release(), same.release())):
        found = one.predict(features)
        assert found.dtype == np.float64
        assert found.tolist() == other.predict(features.astype(float)).tolist()
