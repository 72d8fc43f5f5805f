"""Work of a deletion: how often laws are evaluated, products formed and digests taken, and that less is as good."""

from __future__ import annotations

import contextlib
import math
import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge.certificates import digest
from expunge.cli import story_digits as story
from expunge.data.constants import CONDITIONS
from expunge.estimators._conditions import SEED_CONDITION
from expunge.langevin import langevin_chains
from expunge.runs.noise import seeded_normals
from expunge.runs.ridge import law, products
from expunge.runs.ridge.cost import DeletionCost
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.law import RidgeDeletion, SingularPairError
from expunge.runs.ridge.products import Products
from expunge.runs.ridge.release import p_value

TARGET = {"epsilon": 1.0, "delta": 1e-5}
N, P = 60, 5


def fitted(seed: int = 0, *, noise_std: float = 0.003, n_steps: int = 40, **more: Any) -> LangevinRidge:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, P))
    y = X @ rng.normal(size=P) + rng.normal(size=N)
    model = LangevinRidge(noise_std=noise_std, n_steps=n_steps, step_size=0.004, random_state=0, **more)
    return model.fit(X, y)


def cost_of(model: LangevinRidge, rows: list[int], method: str = "exact", **target: float) -> DeletionCost:
    return DeletionCost(model._require_history(), rows, method=method, **{**TARGET, **target})


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each law that was evaluated was proved."""
    seen: list[bool] = []
    real = DeletionCost.ratio

    def ratio(self: DeletionCost, n_steps: int, noise_std: float, *, proved: bool = True) -> float:
        seen.append(proved)
        return real(self, n_steps, noise_std, proved=proved)

    monkeypatch.setattr(DeletionCost, "ratio", ratio)
    return seen


@pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")
@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
@pytest.mark.parametrize("noise_std", [0.0, 1e-5, 0.003])
@pytest.mark.parametrize("seed", range(4))
def test_a_search_for_noise_evaluates_fewer_than_ten_laws(
    evaluations: list[bool], method: str, noise_std: float, seed: int
) -> None:
    model = fitted(seed, noise_std=noise_std)
    result = model.unlearn(3, **TARGET, n_steps=7, method=method)
    assert result.certificate.run.phases[-1].noise_std > 0
    assert 2 <= len(evaluations) <= 9
    assert sum(evaluations) <= 5 or method != "exact"  # proofs cost more than the laws


def test_after_a_quote_a_search_starts_at_it(evaluations: list[bool]) -> None:
    model = fitted()
    model.unlearn(3, **TARGET, n_steps=7)
    plain = len(evaluations)
    evaluations.clear()
    quote = model.quote(**TARGET, n_steps=7, indices=[8])
    assert not evaluations
    assert quote.noise_std[0] > 0
    model.unlearn(3, **TARGET, n_steps=7)
    assert len(evaluations) < plain


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
@pytest.mark.parametrize("start", [1e-9, 1e-3, 0.1, 1e6])
@pytest.mark.parametrize("rows", [[3], [1, 4, 9]])
def test_the_noise_found_suffices_and_hardly_less_does(method: str, start: float, rows: list[int]) -> None:
    cost = cost_of(fitted(), rows, method)
    found = cost.smallest_noise(7, start=start)
    assert cost.ratio(7, found) <= 1
    assert cost.ratio(7, found * (1 - 2e-9)) > 1


@pytest.mark.parametrize("method", ["exact", "shifted"])
def test_where_secants_lead_nowhere_the_plain_search_finds_the_same(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    cost = cost_of(fitted(), [3], method)
    found = cost.smallest_noise(7, start=1e-3)
    monkeypatch.setattr(DeletionCost, "_close", lambda *_: math.nan)
    assert cost.smallest_noise(7, start=1e-3) == pytest.approx(found, rel=3e-9)


@pytest.mark.parametrize("delta", [0.3, 1e-60])
@pytest.mark.parametrize("epsilon", [0.0, 30.0, 600.0])
def test_targets_far_out_are_met_as_closely(epsilon: float, delta: float) -> None:
    cost = cost_of(fitted(noise_std=0.0), [3], epsilon=epsilon, delta=delta)
    found = cost.smallest_noise(7, start=1e-3)
    assert 0 < found < math.inf
    assert cost.ratio(7, found) <= 1
    assert found == cost.floor(7) or cost.ratio(7, found * (1 - 1e-6)) > 1


def test_a_floor_that_suffices_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = cost_of(fitted(), [3])
    needed = cost.smallest_noise(7, start=1e-3)
    monkeypatch.setattr(DeletionCost, "floor", lambda self, n_steps: 2 * needed)
    assert cost.smallest_noise(7, start=1e-3) == 2 * needed
    monkeypatch.setattr(DeletionCost, "floor", lambda self, n_steps: 0.5 * needed)
    assert cost.smallest_noise(7, start=1e-3) == pytest.approx(needed, rel=2e-9)


@pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n_steps", [8, 30, 300])
def test_noise_of_which_rounding_leaves_no_proof_does_not_end_the_search(seed: int, n_steps: int) -> None:
    """After much noise, little more hides the next record, but of less still nothing can be proved."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(20, 2)) * [1.0, 30.0]
    y = X @ [1.0, 1.0] + rng.normal(size=20)
    model = LangevinRidge(noise_std=1e4, n_steps=40, random_state=0).fit(X, y)
    model = model.unlearn(0, epsilon=50.0, delta=1e-5, n_steps=n_steps).model
    target = {"epsilon": 5.0, "delta": 0.1}
    cost = cost_of(model, [3], **target)
    result = model.unlearn(3, **target, n_steps=n_steps)
    noise = result.certificate.run.phases[-1].noise_std
    assert noise > cost.floor(n_steps)
    assert cost.ratio(n_steps, noise) <= 1
    with pytest.raises(SingularPairError, match="More noise_std in the last phase"):
        cost.ratio(n_steps, 0.05 * noise)
    with contextlib.suppress(SingularPairError):  # raised where the answer is the least of which anything is proved
        assert cost.ratio(n_steps, noise * (1 - 1e-6)) > 1
    result.certificate.verify(X, y, result.model)


def test_where_no_noise_can_be_proved_the_search_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def singular(self: RidgeDeletion, state: object) -> None:
        raise SingularPairError("the pair is numerically singular")

    cost = cost_of(fitted(), [3])
    monkeypatch.setattr(RidgeDeletion, "pair", singular)
    with pytest.raises(SingularPairError, match="singular"):
        cost.smallest_noise(7, start=1e-3)


# --- products ------------------------------------------------------------------------------------


def test_what_remains_is_taken_from_the_products_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    history = fitted()._require_history()
    direct = NormalEquations.of(history.design[3:], history.targets[3:], alpha=history.alpha)
    monkeypatch.setattr(NormalEquations, "of", None)
    found = NormalEquations.remaining(history.products, (0, 1, 2), alpha=history.alpha)
    np.testing.assert_allclose(found.hessian, direct.hessian, rtol=0, atol=1e-13 * np.abs(direct.hessian).max())
    np.testing.assert_allclose(found.moment, direct.moment, rtol=0, atol=1e-12 * np.abs(direct.moment).max())


@pytest.mark.parametrize("size", [10.0, 1e3, 1e7, 1e9])
def test_a_row_that_made_up_a_column_leaves_the_others_their_digits(size: float) -> None:
    rng = np.random.default_rng(1)
    design, targets = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    design[0, 1] = size
    found = NormalEquations.remaining(Products(design, targets), (0,), alpha=0.1)
    direct = NormalEquations.of(design[1:], targets[1:], alpha=0.1)
    np.testing.assert_allclose(found.hessian, direct.hessian, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.optimum(), direct.optimum(), rtol=1e-11)


def test_products_are_those_of_the_data_given() -> None:
    history = fitted()._require_history()
    other = Products(history.design.copy(), history.targets)
    run = {"alpha": history.alpha, "step_size": history.step_size, "deleted": (0,)}
    with pytest.raises(ValueError, match=r"^products must be those of design and targets"):
        RidgeDeletion(history.design, history.targets, **run, products=other)


def test_a_deletion_forms_one_gram_matrix_and_takes_each_digest_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted()
    grams: list[int] = []
    digests: list[bytes] = []
    real_gram, real_digest = products.gram, digest._array_hash
    monkeypatch.setattr(products, "gram", lambda rows, **more: grams.append(len(rows)) or real_gram(rows, **more))
    monkeypatch.setattr(digest, "_array_hash", lambda tag, array: digests.append(tag) or real_digest(tag, array))
    for owner, name in ((NormalEquations, "of"), (law, "smoothness")):
        monkeypatch.setattr(owner, name, None)
    result = model.unlearn(3, **TARGET, n_steps=7)
    assert grams.count(N) == 1
    assert max(n for n in grams if n != N) == 1  # of the deleted row
    assert sorted(digests) == [b"X", b"model", b"record.X", b"record.y", b"y"]
    monkeypatch.undo()
    history = model._require_history()
    assert result.certificate.verify(history.design[:, :P], history.labels, result.model).certified is False
    assert result.certificate.status == "conditional"  # its noise is of the data; nothing else
    assert result.certificate.conditions == (CONDITIONS["noise_std"], SEED_CONDITION)


@pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")
@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_a_verification_forms_one_gram_matrix(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    model = fitted()
    result = model.unlearn(3, **TARGET, n_steps=7, method=method)
    grams: list[int] = []
    real = products.gram
    monkeypatch.setattr(products, "gram", lambda rows, **more: grams.append(len(rows)) or real(rows, **more))
    monkeypatch.setattr(law, "smoothness", None)
    history = model._require_history()
    report = result.certificate.verify(history.design[:, :P], history.labels, result.model)
    assert grams.count(N) == 1
    # What issued it used the laws of the deletion itself: the same bits.
    assert (report.delta_pq, report.delta_qp) == (result.certificate.delta_pq, result.certificate.delta_qp)


@pytest.mark.parametrize("changed", ["alpha", "step_size", "deleted", "design", "targets"])
def test_a_claim_is_not_computed_from_another_run_s_laws(changed: str) -> None:
    model = fitted()
    history, run = model._require_history(), model.unlearn(3, **TARGET, n_steps=7).certificate.run
    values: dict[str, Any] = {name: getattr(history, name) for name in ("design", "targets", "alpha", "step_size")}
    values["deleted"] = (3,)
    check = partial(run.check, history.design[:, :P], history.labels, conditions=None)
    check(deletion=RidgeDeletion(**values))
    other = {"alpha": 0.5, "step_size": 0.001, "deleted": (4,)}
    values[changed] = other[changed] if changed in other else values[changed] + 1e-9
    with pytest.raises(ValueError, match=r"^deletion must"):
        check(deletion=RidgeDeletion(**values))


def test_products_of_a_history_are_formed_once_and_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted()
    history = model._require_history()
    seen: list[int] = []
    real = products.gram
    monkeypatch.setattr(products, "gram", lambda rows, **more: seen.append(len(rows)) or real(rows, **more))
    for row in (3, 4):
        cost_of(model, [row])
    assert seen.count(N) == 1
    assert "products" in vars(history)
    again = pickle.loads(pickle.dumps(history))
    assert "products" not in vars(again)
    np.testing.assert_array_equal(again.products.gram.value, history.products.gram.value)


# --- steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [3, 70])
def test_steps_are_those_of_the_langevin_kernels(columns: int) -> None:
    rng = np.random.default_rng(columns)
    X, Y = rng.normal(size=(90, columns)), rng.normal(size=(90, 2))
    eta = 0.9 / law.smoothness(X, alpha=0.7)
    equations = NormalEquations.of(X, Y, alpha=0.7)
    start, phase = np.zeros((columns, 2)), law.Phase(25, 0.1)
    found = equations.steps(start, step_size=eta, phase=phase, normals=seeded_normals(5))
    chain = langevin_chains(X, Y, alpha=0.7, step_size=eta, noise_std=0.1, n_steps=25, seed=5)[0]
    np.testing.assert_allclose(found, chain, rtol=0, atol=1e-13 * np.abs(chain).max())


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_demonstration_takes_the_steps_of_a_deletion(monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), np.arange(60) % 3
    X[:, :3] += 3 * np.eye(3)[y]
    model = LangevinRidgeClassifier(random_state=0).fit(X, y)
    seen: list[Any] = []
    real = NormalEquations.steps
    monkeypatch.setattr(NormalEquations, "steps", lambda *a, **k: seen.append(k["phase"]) or real(*a, **k))
    (found,) = story.accuracy_after(model, story._Split(X, y, X, y), np.array([noise]), repeats=2)
    assert seen == [law.Phase(story.N_STEPS, noise)]
    if noise == 0:
        assert found == pytest.approx(model.score(X, y), abs=0.05)


@pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")
def test_laws_and_pairs_of_a_deletion_are_proved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search ends at laws and a pair that the model and its certificate take over."""
    proved: list[Any] = []
    pairs: list[int] = []
    advance, pair = RidgeDeletion.advance, RidgeDeletion._pair

    def counted(self: RidgeDeletion, state: Any, phase: Any, **how: Any) -> Any:
        if how.get("proved", True):
            proved.append((phase, state.n_steps))
        return advance(self, state, phase, **how)

    def paired(self: RidgeDeletion, state: Any) -> Any:
        pairs.append(id(state))
        return pair(self, state)

    monkeypatch.setattr(RidgeDeletion, "advance", counted)
    monkeypatch.setattr(RidgeDeletion, "_pair", paired)
    result = fitted().unlearn(3, n_steps=10, **TARGET)
    assert result.certificate.run.phases[-1].noise_std > 0
    assert len(proved) == len(set(proved))
    assert len(pairs) == len(set(pairs))


@pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")
@pytest.mark.parametrize("deletions", [1, 2])
def test_the_p_value_of_a_model_goes_along_laws_that_are_known(monkeypatch: pytest.MonkeyPatch, deletions: int) -> None:
    """To the bit what a deletion finds that knows none of them."""
    history = fitted()._require_history()
    run = (*history.phases, *(law.Phase(5, 0.4, tuple(range(i + 1))) for i in range(deletions)))
    known, fresh = (history.deletion(tuple(range(deletions))) for _ in range(2))
    parameters = known.run(run).mean_p + 0.1
    wanted = p_value(fresh, run, parameters)
    monkeypatch.setattr(RidgeDeletion, "advance", None)
    assert p_value(known, run, parameters) == wanted
    assert 1e-12 < wanted < 1


@pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")
def test_eigenbases_of_the_same_products_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the run, and of the run without the rows of either deletion; the last few are kept, and no more."""
    history = fitted()._require_history()
    found: list[tuple[int, ...]] = []
    new = RidgeDeletion._new_basis
    monkeypatch.setattr(RidgeDeletion, "_new_basis", lambda self, rows: found.append(rows) or new(self, rows))
    runs = {rows: (*history.phases, law.Phase(5, 0.4, rows)) for rows in ((3,), (4,))}
    kept = [history.deletion(rows).run(runs[rows]) for rows in ((3,), (4,), (3,), (4,))]
    assert sorted(found) == [(), (3,), (4,)]
    for rows, one in zip(((3,), (4,)), kept[2:], strict=True):
        other = replace(history).deletion(rows).run(runs[rows])
        assert np.array_equal(one.covariance_difference, other.covariance_difference)
        assert np.array_equal(one.mean_difference, other.mean_difference)
    for row in range(5, 9):
        history.deletion((row,))
    assert len(history.products._kept) == 3


@pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")
def test_laws_that_are_kept_are_those_of_their_phases() -> None:
    """Runs asked for in any order, and pairs of any of their states, have the bits of a deletion that kept nothing."""
    history = fitted()._require_history()
    first, *_ = history.phases
    runs = [(first, law.Phase(n, noise, (3,))) for n, noise in ((10, 0.5), (10, 0.6), (11, 0.5))]
    kept = history.deletion((3,))
    for run in (*runs, *reversed(runs), runs[0]):
        fresh = history.deletion((3,))
        found, wanted = kept.run(run), fresh.run(run)
        assert kept.run(run) is found
        assert np.array_equal(found.variance_q, wanted.variance_q)
        assert np.array_equal(found.mean_difference, wanted.mean_difference)
        assert np.array_equal(found.covariance_difference, wanted.covariance_difference)
        assert kept.pair(found).delta(1.0) == fresh.pair(wanted).delta(1.0)
        assert kept.run_on(kept.run(run[:1]), run).variance_q.tolist() == wanted.variance_q.tolist()
        assert kept.pair(kept.run(run[:1])).delta(1.0) == fresh.pair(fresh.run(run[:1])).delta(1.0)
