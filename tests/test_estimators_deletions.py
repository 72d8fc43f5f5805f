"""Deletions and questions: what comes back is about the records named, by the method named, also after a deletion."""

from __future__ import annotations

import copy
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge.estimators import quotes
from expunge.estimators._conditions import SEED_CONDITION
from expunge.estimators._records import RecordIds, exact_ids, ids_of_fit
from expunge.estimators.quotes import Quote
from expunge.runs.ridge.cost import LARGEST_NOISE, DeletionCost
from expunge.runs.ridge.law import Phase

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

GOAL: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5}
TARGET: dict[str, Any] = {**GOAL, "n_steps": 4}
N = 14
GENERATOR = np.random.default_rng(23)
X = GENERATOR.normal(size=(N, 2))
Y = X @ [1.0, -1.0] + GENERATOR.normal(size=N)


def fitted(**more: Any) -> LangevinRidge:
    return LangevinRidge(**{"noise_std": 0.05, "n_steps": 60, **more}).fit(X, Y, of_program=False)


MODEL = fitted()
LATER = MODEL.unlearn(0, **TARGET).model


def holding_its_rows(later: LangevinRidge) -> LangevinRidge:
    """Return the model after a deletion of `MODEL` as files of versions 1 and 2 have it: deleted rows stay."""
    model = copy.copy(later)
    model._history = replace(MODEL._require_history(), phases=later._require_history().phases)
    return model


HOLDING = holding_its_rows(LATER)


def dense(model: Any, rows: list[int], method: str = "exact", **goal: float) -> DeletionCost:
    return DeletionCost(model._history, rows, method=method, **{**GOAL, **goal})


# --- after a deletion ----------------------------------------------------------------------------


def test_the_law_of_first_deletions_is_made_once_and_never_used_after_one() -> None:
    model = fitted()
    law = model._law(model._require_history())
    assert law is not None
    assert model._law(model._require_history()) is law
    assert LATER._law(LATER._require_history()) is None
    assert copy.copy(LATER).quote(**TARGET, rows=[3]).certified.all()


@pytest.mark.parametrize(("method", "later"), [("exact", LATER), ("exact", HOLDING), ("shifted", HOLDING)])
def test_quotes_after_a_deletion_are_those_of_the_certificate_s_algebra(method: str, later: LangevinRidge) -> None:
    quote = later.quote(**TARGET, method=method)
    assert quote.indices.tolist() == list(range(1, N))
    assert quote.certified.dtype == bool
    assert quote.status == "certified"
    assert (quote.error == 0).all()
    for i in (0, 6):
        cost = dense(later, [i + 1], method)
        needed = cost.smallest_noise(4, start=1e-3)
        assert quote.noise_std[i] == pytest.approx(needed, rel=1e-8)
        mu, epsilon, direction = cost.reached(4, float(quote.noise_std[i]))
        assert (quote.mu[i], quote.epsilon[i], quote.direction[i]) == (mu, epsilon, direction)
        taken = later.unlearn(i + 1, **TARGET, method=method)
        assert taken.certificate.method == method
        assert taken.certificate.direction == quote.direction[i] or needed == 0
    by_noise = later.quote(**GOAL, noise_std=0.2, method=method)
    for i in (0, 6):
        assert by_noise.n_steps[i] == dense(later, [i + 1], method).smallest_steps(0.2)
        assert by_noise.noise_std[i] == (0.2 if by_noise.n_steps[i] else 0.0)


@pytest.mark.parametrize("asked", [{"n_steps": 4}, {"noise_std": 0.5}])
@pytest.mark.parametrize("method", ["shifted", "uniform"])
@pytest.mark.parametrize("whom", [{}, {"groups": np.arange(N) // 2}])
def test_an_unreachable_target_is_infinite_however_it_is_asked(asked: Any, method: str, whom: Any) -> None:
    """Records, groups, a first deletion or a later one: one answer, and no row of a quote spoils the others."""
    for model in (MODEL,) if method == "uniform" else (MODEL, HOLDING):
        quote = model.quote(epsilon=3.0, delta=1e-5, method=method, **asked, **whom)
        assert len(quote) > 1
        assert set(quote.noise_std) == set(quote.epsilon) == set(quote.mu) == {np.inf}
        assert set(quote.n_steps) == {asked.get("n_steps", -1)}
        assert set(quote.direction) == {""}
        assert not quote.certified.any()


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_a_bound_binds_in_one_direction_whoever_computes_it(epsilon: float) -> None:
    """Clipping costs delta_s one way and e^epsilon delta_s the other: at epsilon = 0 neither is the larger."""
    target = {"epsilon": epsilon, "delta": 1e-5, "n_steps": 4, "method": "shifted"}
    wanted = "Q|P" if epsilon else "P|Q"
    for model in (MODEL, HOLDING):
        assert set(model.quote(**target, rows=[2, 3]).direction) == {wanted}
        assert model.unlearn(2, **target).certificate.direction == wanted


def test_a_model_is_not_left_without_records_and_says_how_they_were_named() -> None:
    named = LangevinRidge(noise_std=0.05).fit(X, Y, record_ids=range(N))
    for name, model in (("ids", named), ("rows", named), ("rows", MODEL), ("indices", MODEL)):
        with pytest.raises(ValueError, match=rf"^{name} must leave at least one record, got all that remain"):
            model.unlearn(**{name: list(range(N))}, **TARGET)
        with pytest.raises(ValueError, match=rf"^{name} must leave at least one record"):
            model.downdate(**{name: list(range(N))})
    with pytest.raises(ValueError, match=r"^rows must leave at least one record"):
        LATER.unlearn(rows=list(range(1, N)), **TARGET)
    assert LATER.downdate(rows=list(range(1, N - 1))).coef_.shape == (2,)


def test_a_profile_is_of_the_end_of_learning_unless_steps_are_named() -> None:
    model = LangevinRidge(noise_std=0.0).fit(X, Y)
    with pytest.raises(ValueError, match="without noise there is no guarantee"):
        model.privacy_profile(3)
    with pytest.raises(ValueError, match="without noise there is no guarantee"):
        model.privacy_profile(3, n_steps=5)
    at_end = float(MODEL.privacy_profile(3).delta(1.0))
    assert at_end == float(MODEL.privacy_profile(3, n_steps=5).delta(1.0))
    assert float(MODEL.privacy_profile(3, n_steps=5, noise_std=1.0).delta(1.0)) < at_end
    with pytest.raises(ValueError, match=r"^noise_std must be >= 0"):
        MODEL.privacy_profile(3, n_steps=5, noise_std=-0.1)


# --- the range of noise --------------------------------------------------------------------------


def test_a_quote_promises_no_noise_that_a_deletion_refuses() -> None:
    """Targets of 1e95 need noise beyond the range in which squares of noise are kept."""
    model = LangevinRidge(noise_std=0.0).fit(X, 1e95 * Y)
    for whom in ({}, {"groups": np.arange(N) // 2}):
        for method in ("exact", "shifted", "uniform"):
            quote = model.quote(**TARGET, method=method, **whom)
            finite = np.isfinite(quote.noise_std)
            assert not finite.all()
            assert (quote.noise_std[finite] <= LARGEST_NOISE).all()
            assert not quote.certified[~finite].any()
            assert set(quote.direction[~finite]) == {""}
            assert set(quote.n_steps) == {4}
    with pytest.raises(ValueError, match=r"cannot be reached by any noise: it would have to exceed 1e\+90"):
        model.unlearn(3, **TARGET)


def test_noise_of_a_quote_is_positive_and_within_the_range() -> None:
    with pytest.raises(ValueError, match=r"^noise_std must be > 0, got 0"):
        MODEL.quote(**GOAL, noise_std=0.0)
    for bad in (1e-12, 2e90):
        with pytest.raises(ValueError, match=rf"^noise_std must be between .* and 1e\+90, got {re.escape(repr(bad))}"):
            MODEL.quote(**GOAL, noise_std=bad)
        with pytest.raises(ValueError, match=r"^noise_std must be between"):
            LATER.quote(**GOAL, noise_std=bad)
    nothing = LangevinRidge(noise_std=1.0).fit(X, 0 * Y)
    with pytest.raises(ValueError, match=r"^noise_std must be between 1e-120, below"):
        nothing.quote(**GOAL, noise_std=1e-121)
    assert MODEL.quote(**GOAL, n_steps=1, rows=[3]).n_steps.tolist() == [1]
    with pytest.raises(ValueError, match=r"^quote needs exactly one of n_steps and noise_std, got both"):
        MODEL.quote(**GOAL, n_steps=1, noise_std=1.0)
    with pytest.raises(ValueError, match=r"^quote needs exactly one of n_steps and noise_std, got neither"):
        MODEL.quote(**GOAL)


@pytest.mark.parametrize("alpha", [1e-6, 1.0])
@pytest.mark.parametrize("noise_std", [0.0, 1e-3])
def test_a_quote_keeps_to_the_floor_whatever_alpha_is(alpha: float, noise_std: float) -> None:
    """Rows of the size of sqrt(alpha) make parameters as long as they can be: |y| / (2 sqrt(alpha))."""
    rows = np.sqrt(alpha) * np.array([[1.0], [0.02], [0.02], [0.02]])
    targets = np.array([1.0, 1.0, -1.0, 1e-9])
    model = LangevinRidge(alpha=alpha, noise_std=noise_std / np.sqrt(alpha), fit_intercept=False, n_steps=300)
    model.fit(rows, targets, of_program=False)
    for n_steps in (1, 30, 3000):
        quote = model.quote(**GOAL, n_steps=n_steps)
        for i in range(4):
            needed = dense(model, [i]).smallest_noise(n_steps, start=1e-3)
            assert quote.noise_std[i] == pytest.approx(needed, rel=1e-6)
            assert needed == 0 or quote.noise_std[i] >= dense(model, [i]).floor(n_steps)


def test_records_far_from_the_floor_are_not_computed_one_by_one() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quotes, "_ask", None)
        for noise_std in (0.0, 0.05):
            quote = fitted(noise_std=noise_std).quote(**TARGET)
            assert np.isfinite(quote.noise_std).all()


def test_only_records_near_the_floor_are_computed_one_by_one() -> None:
    """One record among many whose deletion needs noise of the size of rounding."""
    targets = Y.copy()
    features = X.copy()
    features[5], targets[5] = 1e-6, 0.0
    model = LangevinRidge(noise_std=0.0, fit_intercept=False).fit(features, targets)
    asked = []
    real = quotes._ask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            quotes, "_ask", lambda history, table, i, *rest: asked.append(i) or real(history, table, i, *rest)
        )
        quote = model.quote(**TARGET)
    assert asked == [5]
    assert quote.noise_std[5] == dense(model, [5]).floor(4)


# --- who is quoted -------------------------------------------------------------------------------


def test_members_of_a_group_are_sorted_rows() -> None:
    many = np.random.default_rng(0).normal(size=(120, 1))
    history = LangevinRidge(noise_std=0.5).fit(many, many[:, 0])._require_history()
    none: dict[str, Any] = {"indices": None, "ids": None, "rows": None, "by_id": False}
    labels = np.arange(120) % 2
    unit, names, members = quotes._units(history, **none, groups=labels)
    assert (unit, names.tolist()) == ("group", [0, 1])
    assert members is not None
    assert [one.tolist() for one in members] == [list(range(0, 120, 2)), list(range(1, 120, 2))]


def test_one_of_ids_and_groups_is_quoted() -> None:
    model = LangevinRidge(noise_std=0.5).fit(X, Y, record_ids=range(N))
    with pytest.raises(TypeError, match=r"^quote takes one of by_id and groups, got both"):
        model.quote(**TARGET, by_id=True, groups=np.arange(N))
    with pytest.raises(ValueError, match=r"^by_id needs ids, but this model has none"):
        MODEL.quote(**TARGET, by_id=True)
    with pytest.raises(ValueError, match=rf"^groups must hold one id per row of the first fit, {N}, got 3"):
        MODEL.quote(**TARGET, groups=[1, 2, 3])
    with pytest.raises(ValueError, match=r"^groups must leave at least one record"):
        MODEL.quote(**TARGET, groups=[7] * N)
    assert MODEL.quote(**TARGET).unit == "record"
    assert model.quote(**TARGET, rows=[3, 1]).indices.tolist() == [3, 1]


# --- what a quote shows --------------------------------------------------------------------------


def quoted(noise: list[float], steps: list[int], certified: list[bool], **more: Any) -> Quote:
    n = len(noise)
    return Quote(
        indices=np.arange(n),
        noise_std=np.array(noise),
        n_steps=np.array(steps),
        mu=np.ones(n),
        epsilon=np.ones(n),
        error=np.full(n, 2e-8),
        certified=np.array(certified),
        method="exact",
        target_epsilon=1.0,
        target_delta=1e-5,
        **more,
    )


def test_a_quote_says_what_varies_and_how_sure_it_is() -> None:
    noise = repr(quoted([0.1, 0.2, 0.3], [5, 5, 5], [True, True, True]))
    assert noise == (
        "<Quote of 3 records for epsilon = 1, delta = 1e-05: "
        "median noise_std 0.2 (5 % 0.1, 95 % 0.3); exact, certified>"
    )
    steps = repr(quoted([0.1, 0.1, 0.1], [1, 1, 2], [True, False, True], unit="id"))
    assert steps == (
        "<Quote of 3 ids for epsilon = 1, delta = 1e-05: median steps 1 (5 % 1, 95 % 2); exact, estimate within 2e-08>"
    )
    two = repr(quoted([0.1, 0.3], [5, 5], [True, True]))  # the least that suffices for so many of them
    assert "median noise_std 0.1 (5 % 0.1, 95 % 0.3)" in two
    assert repr(quoted([0.0], [5], [True])).startswith(
        "<Quote of 1 record for epsilon = 1, delta = 1e-05: median noise_std 0 ("
    )


def test_a_quote_is_certified_if_every_number_is() -> None:
    assert quoted([1.0, 1.0], [1, 1], [True, True]).status == "certified"
    assert quoted([1.0, 1.0], [1, 1], [True, False]).status == "estimate"
    assert len(quoted([1.0, 1.0], [1, 1], [True, False])) == 2


def test_directions_are_there_for_each_or_empty() -> None:
    assert quoted([1.0, 1.0], [1, 1], [True, True]).direction.tolist() == ["", ""]
    given = quoted([1.0, 1.0], [1, 1], [True, True], direction=np.array(["P|Q", "Q|P"]))
    assert given.direction.tolist() == ["P|Q", "Q|P"]
    assert quoted([1.0], [1], [True]).direction.dtype == np.dtype("<U3")


def test_tables_carry_the_claim_and_files_are_not_replaced_unasked(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    quote = MODEL.quote(**TARGET, rows=[3, 1])
    frame = quote.to_frame()
    claim = {
        "method": "exact",
        "status": quote.status,
        "target_epsilon": 1.0,
        "target_delta": 1e-5,
        "unit": "record",
    }
    assert frame.attrs == claim
    assert frame["record"].tolist() == [3, 1]
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "quote.parquet"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        quote.to_parquet(path)
    assert path.read_bytes() == b"precious"
    assert quote.to_parquet(path, overwrite=True) == path
    stored = parquet.read_table(path)
    assert stored["record"].to_pylist() == [3, 1]
    assert {key: stored.schema.metadata[f"expunge.{key}".encode()] for key in claim} == {
        key: str(value).encode() for key, value in claim.items()
    }


@pytest.mark.parametrize(("module", "call"), [("pandas", Quote.to_frame), ("pyarrow", Quote.parquet_bytes)])
def test_what_is_missing_is_said_with_how_to_install_it(module: str, call: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf"needs {module}: .*pip install"):
            call(quoted([1.0], [1], [True]))


def test_a_quote_prints_nothing_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    MODEL.quote(**TARGET)
    LATER.quote(**TARGET, rows=[3])
    assert capsys.readouterr() == ("", "")


# --- ids at their edges --------------------------------------------------------------------------


def test_integers_of_13000_bits_are_ids_and_longer_ones_are_not() -> None:
    assert exact_ids("ids", [2**13_000 - 1]) == [2**13_000 - 1]
    for sign in (1, -1):
        with pytest.raises(ValueError, match=r"^ids must hold integers of at most 3,900 digits, got a longer one$"):
            exact_ids("ids", [sign * 2**13_000])


def test_the_first_id_says_which_kind_is_meant() -> None:
    with pytest.raises(TypeError, match=r"got 'a' and, at position 1, 7$"):
        exact_ids("ids", ["a", 7])
    with pytest.raises(TypeError, match=r"got 7 and, at position 1, 'a'$"):
        exact_ids("ids", [7, "a", "b"])


def test_booleans_are_no_row_numbers() -> None:
    pd = pytest.importorskip("pandas")
    for first in ([False, True], [0, True], [False, 1]):
        index = pd.Index([*first, *range(2, N)], dtype=object)
        with pytest.raises(TypeError, match=r"^the index of X must hold integers or strings"):
            ids_of_fit(pd.DataFrame(X, index=index), Y, None, N)
    assert ids_of_fit(pd.DataFrame(X), Y, None, N) == RecordIds(tuple(range(N)), "row numbers")


def test_the_first_of_several_deleted_ids_is_named() -> None:
    ids = RecordIds(("a", "b", "c", "d"), "record_ids")
    with pytest.raises(ValueError, match="got 'c', deleted before"):
        ids.rows("ids", ["d", "c", "a"], removed=[0, 2])
    assert ids.rows("ids", ["d", "b"], removed=[0, 2]).tolist() == [1, 3]


# --- what a history keeps ------------------------------------------------------------------------


def test_a_condition_is_kept_once_and_noise_is_as_weak_as_its_weakest() -> None:
    history = fitted(random_state=0)._require_history()
    phase = Phase(1, 1.0, (0,))
    assert history.conditions == (SEED_CONDITION,)
    later = history.after(phase, noise_source="grid", condition=SEED_CONDITION)
    assert later.conditions == (SEED_CONDITION,)
    assert later.after(replace(phase, removed=(0, 1)), noise_source="given").sources.noise_std == "grid"
    assert later.after(replace(phase, removed=(0, 1)), noise_source="data").sources.noise_std == "data"
    assert later.after(phase, noise_source="data", condition="more").conditions == (SEED_CONDITION, "more")
    assert later.phases == (*history.phases, phase)
    assert later.removed == (0,)
    assert later.remaining.tolist() == list(range(1, N))
    assert later.salt == history.salt
    assert len(history.salt) == 32


def test_a_successor_keeps_names_classes_and_parameters() -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(X, columns=["one", "two"])
    model = LangevinRidgeClassifier(noise_std=0.5, alpha=2.0).fit(table, np.arange(N) % 2)
    after = model.unlearn(3, **TARGET).model
    assert after.get_params() == model.get_params()
    assert after.feature_names_in_.tolist() == ["one", "two"]
    assert after.classes_.tolist() == [0, 1]
    assert (after.n_iter_, after.n_features_in_, after.step_size_) == (300, 2, model.step_size_)
    assert after.predict(table).shape == (N,)
