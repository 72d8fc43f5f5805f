"""Answers of models made from statistics about rows that go together, and about all rows: those of models in memory."""

import inspect
from itertools import pairwise

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge.data import RidgeStatistics, blocks, open_records
from expunge.estimators import _table_groups
from expunge.runs.ridge import exact_group_quotes, spectral
from expunge.runs.ridge.bounds import UniformBound
from expunge.runs.ridge.law import Phase, RidgeDeletion
from test_table_models import SETTINGS, TARGET, data, fitted, law_of

N = 400


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 64 rows of 5 features."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 64 * 8 * 5)
    monkeypatch.setattr(spectral, "_BLOCK_ROWS", 48)


class Counted:
    """Count the passes over a table."""

    def __init__(self, table, monkeypatch):
        self.passes, whole = 0, table.blocks

        def counted(**options):
            self.passes += 1
            return whole(**options)

        monkeypatch.setattr(table, "blocks", counted, raising=False)


def scattered(seed=1, people=60, kind=str):
    """Return ids whose rows lie anywhere; some have one row and some many."""
    rng = np.random.default_rng(seed)
    return [kind(one) for one in (rng.integers(people, size=N) * rng.integers(1, 3, size=N) + 1000).tolist()]


def both(ids, **more):
    X, y = data()
    model, table = fitted(X, y, ids=ids, **more)
    return model, table, LangevinRidge(**{**SETTINGS, **more}).fit(X, y, record_ids=ids, of_program=False), X, y


@pytest.mark.parametrize("kind", [str, int])
@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_all_people_are_quoted_as_those_of_arrays(method, kind, monkeypatch):
    model, table, other, *_ = both(scattered(kind=kind))
    passes = Counted(table, monkeypatch)
    found = model.quote(table, by_id=True, method=method, **TARGET)
    assert passes.passes == (3 if method == "uniform" else 2)
    wanted = other.quote(by_id=True, method=method, **TARGET)
    assert found.unit == wanted.unit == "id"
    assert found.indices.tolist() == wanted.indices.tolist()
    assert found.status == wanted.status
    assert np.allclose(found.noise_std, wanted.noise_std, rtol=1e-6 if method == "exact" else 1e-9)
    assert found.direction.tolist() == wanted.direction.tolist()


def test_groups_have_the_bits_of_one_array_with_the_same_products(monkeypatch):
    ids = scattered()
    model, table, _, X, y = both(ids)
    found = model.quote(table, by_id=True, **TARGET)
    names = list(dict.fromkeys(ids))
    members = [np.flatnonzero(np.array(ids) == name) for name in names]
    wanted = exact_group_quotes(law_of(model, X, y, monkeypatch), members, **TARGET)
    assert found.indices.tolist() == names
    for name in ("noise_std", "mu", "epsilon", "error"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize("held", [1, 3, 20, 100])
def test_rows_that_wait_take_little_memory_and_more_passes(held, monkeypatch):
    ids = scattered()
    model, table, *_ = both(ids)
    whole = model.quote(table, by_id=True, **TARGET)
    monkeypatch.setattr(_table_groups, "_HELD_BYTES", held * 8 * 7)
    most, waiting = [0], _table_groups._Waiting.add

    def add(self, part):
        waiting(self, part)
        most[0] = max(most[0], self._held)

    monkeypatch.setattr(_table_groups._Waiting, "add", add)
    passes = Counted(table, monkeypatch)
    found = model.quote(table, by_id=True, **TARGET)
    largest = max(ids.count(one) for one in ids)
    assert most[0] <= max(held, largest)
    assert passes.passes > 2
    for name in ("indices", "noise_std", "mu", "epsilon", "error", "n_steps"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)), name


def test_people_whose_rows_lie_together_are_let_go_as_they_come(monkeypatch):
    """Sorted by id nothing waits for long: one pass beside that for the ids, whatever may be held."""
    model, table, *_ = both([f"{i // 3:04}" for i in range(N)])
    monkeypatch.setattr(_table_groups, "_HELD_BYTES", 160 * 8 * 7)
    passes = Counted(table, monkeypatch)
    assert len(model.quote(table, by_id=True, **TARGET)) == 134
    assert passes.passes == 2


@pytest.mark.parametrize("method", ["exact", "uniform"])
@pytest.mark.parametrize("asked", [{}, {"rows": [399, 3, 64]}, {"indices": [5]}, {"ids": ["C-3", "C-90"]}])
def test_groups_are_those_of_arrays(asked, method, monkeypatch):
    ids = [f"C-{i % 130}" for i in range(N)]
    model, table, other, *_ = both(ids)
    groups = np.random.default_rng(3).integers(40, size=N)
    if "indices" in asked:
        other = LangevinRidge(**SETTINGS).fit(*data(), of_program=False)
    passes = Counted(table, monkeypatch)
    found = model.quote(table, groups=groups, method=method, **asked, **TARGET)
    assert passes.passes == 1 + ("ids" in asked) + (method == "uniform")
    wanted = other.quote(groups=groups, method=method, **asked, **TARGET)
    assert found.unit == "group"
    assert found.indices.tolist() == wanted.indices.tolist()
    assert np.allclose(found.noise_std, wanted.noise_std, rtol=1e-6)


@pytest.mark.parametrize("method", ["exact", "uniform"])
def test_rows_stand_for_their_people(method):
    model, table, other, *_ = both(scattered())
    rows = [7, 399, 8, 7 + 64]
    found, wanted = (
        one.quote(*more, rows=rows, by_id=True, method=method, **TARGET)
        for one, more in ((model, [table]), (other, []))
    )
    assert found.indices.tolist() == wanted.indices.tolist()
    assert np.allclose(found.noise_std, wanted.noise_std, rtol=1e-6)


def test_after_a_deletion_groups_are_of_the_rows_that_remain():
    ids = scattered(people=90)
    model, table, other, X, y = both(ids)
    gone = ids[5]
    first, second = model.unlearn(table=table, ids=gone, **TARGET).model, other.unlearn(ids=gone, **TARGET).model
    kept = np.array(ids) != gone
    rest = open_records(X[kept], target=y[kept], ids=np.array(ids)[kept])
    rows = [0, 1, 2]
    wanted = second.quote(rows=rows, by_id=True, **TARGET)
    for now in (table, rest):
        found = first.quote(now, rows=rows, by_id=True, **TARGET)
        assert found.indices.tolist() == wanted.indices.tolist()
        assert np.allclose(found.noise_std, wanted.noise_std, rtol=1e-6)
        with pytest.raises(ValueError, match=f"{gone!r}, which no record"):
            first.quote(now, ids=gone, **TARGET)
    groups = np.where(kept, "stay", "go")
    groups[:200] = "few"
    found = first.quote(table, groups=groups, **TARGET)
    assert found.indices.tolist() == ["few", "stay"]


def test_groups_are_refused_by_name():
    ids = scattered()
    model, table, _, X, y = both(ids)
    bare = open_records(X, target=y)
    for more, error, said in (
        ({"by_id": True, "groups": ids}, TypeError, "one of by_id and groups"),
        ({"groups": ids[1:]}, ValueError, "groups must hold one id per row of the first fit, 400, got 399"),
        ({"groups": np.zeros(N, dtype=int)}, ValueError, "groups must leave at least one record"),
        ({"groups": np.zeros(N)}, TypeError, "groups must hold integers or strings"),
        ({"groups": ids, "ids": ["nobody"]}, ValueError, "'nobody', which no record in use has"),
        ({"groups": ids, "ids": [7]}, TypeError, "ids must hold strings"),
        ({"by_id": True, "rows": [N]}, ValueError, "rows must"),
    ):
        with pytest.raises(error, match=said):
            model.quote(table, **more, **TARGET)
    with pytest.raises(ValueError, match="table must have ids to quote people"):
        model.quote(bare, by_id=True, **TARGET)
    one = open_records(X, target=y, ids=["same"] * N)
    with pytest.raises(ValueError, match="ids must leave at least one record"):
        model.quote(one, by_id=True, **TARGET)
    assert len(model.quote(bare, groups=ids, rows=[3], **TARGET)) == 1


# --- the worst case ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("named", [{"rows": 77}, {"ids": "C-12"}])
def test_the_worst_case_of_a_table_takes_one_more_pass_each(named, monkeypatch):
    model, table, other, X, y = both([f"C-{i % 130}" for i in range(N)])
    passes = Counted(table, monkeypatch)
    found = model.unlearn(table=table, method="uniform", **named, **TARGET)
    assert passes.passes == 2
    wanted = other.unlearn(method="uniform", **named, **TARGET)
    run, known = found.certificate.run, wanted.certificate.run
    assert run.phases[-1].noise_std == pytest.approx(known.phases[-1].noise_std, rel=1e-8)
    assert found.certificate.delta_qp == pytest.approx(wanted.certificate.delta_qp, rel=1e-6)
    passes.passes = 0
    report = found.certificate.verify(table, model=found.model)
    assert passes.passes == 2
    assert report.delta_pq == pytest.approx(found.certificate.verify(X, y, found.model).delta_pq, rel=1e-9)
    assert wanted.certificate.verify(table).delta_pq == pytest.approx(wanted.certificate.delta_pq, rel=1e-9)


@pytest.mark.parametrize("size", [1, 3])
def test_the_worst_of_parts_is_the_worst_of_all(size):
    """Whatever parts records come in, in every block of steps; each block's worst may be another one."""
    X, y = data()
    Y = y[:, None]
    run = {"alpha": 1.0, "step_size": 0.0005, "deleted": range(size)}
    rule = {"learning": Phase(300, 0.02), "delta_s": 1e-6}
    whole = UniformBound.of(RidgeDeletion(X, Y, **run), **rule)
    rng = np.random.default_rng(size)
    for _ in range(5):
        cuts = [0, *sorted(rng.choice(np.arange(1, N), size=7, replace=False).tolist()), N]
        order = rng.permutation(N)
        deletion = RidgeDeletion(X, Y, **run)
        deletion.products._parts = lambda: ((X[order[a:b]], Y[order[a:b]]) for a, b in pairwise(cuts))  # noqa: B023
        found = UniformBound.of(deletion, **rule)
        assert UniformBound.of(deletion, **rule) is found
        assert np.array_equal(found._steps.length, whole._steps.length)
        assert np.allclose(found._steps.bound, whole._steps.bound, rtol=1e-12)
        assert found._contraction == pytest.approx(whole._contraction, rel=1e-14)
        assert found.mu([rule["learning"]]) == pytest.approx(whole.mu([rule["learning"]]), rel=1e-12)


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
def test_the_worst_record_decides_wherever_it_lies():
    X, y = data()
    for row in (0, 63, 64, 399):
        far = X.copy()
        far[row] *= 6.0
        quiet, loud = (fitted(one, y)[0] for one in (X, far))
        tables = open_records(X, target=y), open_records(far, target=y)
        noise = [
            model.unlearn(table=table, rows=200, method="uniform", **TARGET).certificate.run.phases[-1].noise_std
            for model, table in zip((quiet, loud), tables, strict=True)
        ]
        assert noise[1] > 2 * noise[0]
        assert noise[1] == pytest.approx(
            LangevinRidge(**SETTINGS)
            .fit(far, y, of_program=False)
            .unlearn(rows=200, method="uniform", **TARGET)
            .certificate.run.phases[-1]
            .noise_std,
            rel=1e-8,
        )


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("n_steps", [10, 10**6])
def test_worst_cases_near_what_float64_resolves_are_asked_of_each_row(n_steps):
    X, y = data(60)
    settings = {"noise_std": 3.6e-9, "step_size": 0.002}
    model, table = fitted(X, y, **settings)
    other = LangevinRidge(**{**SETTINGS, **settings}).fit(X, y, of_program=False)
    target = {**TARGET, "n_steps": n_steps, "method": "uniform", "rows": [3, 59, 7]}
    found, wanted = model.quote(table, **target), other.quote(**target)
    assert found.indices.tolist() == [3, 59, 7]
    assert np.array_equal(found.certified, wanted.certified)
    assert np.allclose(found.noise_std, wanted.noise_std, rtol=1e-6)


# --- everything that a fitted model has ----------------------------------------------------------


def refused(error, ask, **arguments):
    """Metadata are routed where scikit-learn is told to, which is of no interest here."""
    with pytest.raises(error, match="metadata routing"):
        ask(**arguments)
    return ""


ANSWERS = {
    "fit": lambda m, t, X, y, path: m.fit(X, y),
    "fit_statistics": lambda m, t, X, y, path: (
        m.fit_statistics(RidgeStatistics.of(X, y, classes=getattr(m, "classes_", None))).coef_
    ),
    "predict": lambda m, t, X, y, path: m.predict(X),
    "score": lambda m, t, X, y, path: m.score(X, y),
    "coef_": lambda m, t, X, y, path: m.coef_,
    "intercept_": lambda m, t, X, y, path: m.intercept_,
    "conditions_": lambda m, t, X, y, path: m.conditions_,
    "of_program_": lambda m, t, X, y, path: m.of_program_,
    "reading_": lambda m, t, X, y, path: m.reading_,
    "ledger_salt_": lambda m, t, X, y, path: len(m.ledger_salt_),
    "quote": lambda m, t, X, y, path: m.quote(**t, **TARGET).noise_std,
    "unlearn": lambda m, t, X, y, path: m.unlearn(3, **t, **TARGET).certificate.run.phases[-1].noise_std,
    "privacy_profile": lambda m, t, X, y, path: m.privacy_profile([3, 99], **t, n_steps=9, noise_std=0.1).delta(1.0),
    "downdate": lambda m, t, X, y, path: m.downdate([3, 99], **t).coef_,
    "purge": lambda m, t, X, y, path: m.purge().coef_,
    "release": lambda m, t, X, y, path: m.release().predict(X),
    "forget_history": lambda m, t, X, y, path: m.forget_history().predict(X),
    "save": lambda m, t, X, y, path: m.save(path).name,
    "load": lambda m, t, X, y, path: type(m).load(m.save(path)).coef_,
    "get_params": lambda m, t, X, y, path: m.get_params()["alpha"],
    "set_params": lambda m, t, X, y, path: m.set_params(alpha=2.0).coef_,
    "get_metadata_routing": lambda m, t, X, y, path: str(m.get_metadata_routing()),
    "set_fit_request": lambda m, t, X, y, path: refused(RuntimeError, m.set_fit_request, record_ids=True),
    "set_score_request": lambda m, t, X, y, path: refused(RuntimeError, m.set_score_request, sample_weight=True),
    "decision_function": lambda m, t, X, y, path: m.decision_function(X),
}


def public(kind):
    return {name for name, _ in inspect.getmembers_static(kind) if not name.startswith("_")}


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("name", sorted(public(LangevinRidge) | public(LangevinRidgeClassifier)))
@pytest.mark.parametrize("kind", [LangevinRidge, LangevinRidgeClassifier])
def test_every_public_name_of_a_fitted_model_answers_as_with_the_records(kind, name, tmp_path):
    """A name that is added to these classes needs a line above."""
    if name not in public(kind):
        return
    X, y = data()
    classes = None
    if kind is LangevinRidgeClassifier:
        y, classes = np.where(y > 0, 1.0, 0.0), [0.0, 1.0]
    table = open_records(X, target=y)
    given = {} if classes is None else {"classes": classes}
    model = kind(**SETTINGS).fit_statistics(RidgeStatistics.of(table, classes=classes))
    other = kind(**SETTINGS, **given).fit(X, y, of_program=False)
    answer = ANSWERS[name]
    needs = "table" in inspect.signature(getattr(kind, name)).parameters if callable(getattr(kind, name)) else False
    one = answer(model, {"table": table} if needs else {}, X, y, tmp_path / "a.npz")
    two = answer(other, {}, X, y, tmp_path / "b.npz")
    if isinstance(one, (float, np.ndarray)):
        assert np.allclose(one, two, rtol=1e-6, atol=1e-9)
    elif name not in ("fit", "get_metadata_routing", "save"):
        assert one == two
