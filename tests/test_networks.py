"""Networks of a frozen backbone and a certified head: what they refuse, what they count, and what they keep."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from expunge import CertifiedHead, NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier
from expunge._files import FileFormatError
from expunge.accounting import PrivateTraining
from expunge.certificates.network import verify
from expunge.data import ArrayRecords

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(24, 4)), np.arange(24) % 3
FULL = PrivateTraining(
    clip=1.0, noise_multiplier=20.0, sampling_probability=1.0, n_steps=100, accountant="gdp", room=1e-3, seeded=False
)
HEADS = [
    (NewtonLogisticRegression(classes=[0, 1, 2]), LABELS),
    (NewtonRidgeClassifier(classes=[0, 1, 2]), LABELS),
    (NewtonRidge(), X[:, 0]),
]


def cosines(rows):
    return np.cos(np.asarray(rows))


def network(source="data-independent", features=cosines, head=None, **more):
    return CertifiedHead(features, HEADS[0][0] if head is None else head, backbone=source, **more)


@pytest.mark.parametrize(("head", "y"), HEADS, ids=["logistic", "ridge classifier", "ridge"])
def test_a_network_is_its_head_on_features(head, y):
    model = CertifiedHead(cosines, head, backbone="data-independent").fit(X, y)
    np.testing.assert_array_equal(model.features_, np.cos(X))
    for name in ("predict", "decision_function", "predict_proba"):
        assert hasattr(model, name) == hasattr(head, name)
        if hasattr(head, name):
            np.testing.assert_array_equal(getattr(model, name)(X), getattr(model.head_, name)(np.cos(X)))
    assert model.score(X, y) == model.head_.score(np.cos(X), y)
    assert model.quote([3]).ids.tolist() == [3]
    assert model.release().predict(np.cos(X)).tolist() == model.predict(X).tolist()
    assert model.certificate_.head == model.head_.certificate_
    assert (model.releases_left_, model.conditions_) == (9_999, ())
    result = model.unlearn([3, 5])
    assert result.model.releases_left_ == 9_998
    assert result.before_after.mu > 0
    assert (model.ids_.tolist(), len(result.model.ids_)) == (list(range(24)), 22)
    again = result.model.release_again()
    assert (again.before_after, again.certificate.head.release) == (None, 3)
    assert not hasattr(CertifiedHead(cosines, NewtonRidge(), backbone="public", name="a").fit(X, X[:, 0]), "classes_")


def test_a_sequence_counts_what_the_backbone_saw_and_nothing_else():
    model = network(FULL).fit(X, LABELS)
    steps = [
        (lambda m: m.unlearn(rows=[0, 5]), 2),
        (lambda m: m.amend(7, y=[1]), 3),  # the old label was learned from
        (lambda m: m.amend(7, X=X[:1]), 3),  # counted before
        (lambda m: m.unlearn(7), 3),
        (lambda m: m.add(X[:2], [0, 1]), 3),
        (lambda m: m.unlearn([24]), 3),  # added later
        (lambda m: m.release_again(), 3),
        (lambda m: m.unlearn([8, 25]), 4),
        (lambda m: m.amend([12, 9], X=X[:2], y=[0, 2]), 6),
    ]
    epsilon = 0.0
    for change, k in steps:
        result = change(model)
        assert (result.certificate.n_deleted, result.evidence.n_deleted) == (k, k)
        assert result.certificate.epsilon >= epsilon
        model, epsilon = result.model, result.certificate.epsilon
    kept = set(model.ids_[model.evidence_.in_backbone].tolist())
    assert kept == set(range(24)) - {0, 5, 7, 8, 9, 12}


def test_ids_with_several_rows_count_every_row_and_marks_say_which_the_backbone_saw():
    people = [f"p{i // 2}" for i in range(24)]
    marks = np.arange(24) < 13
    model = network(FULL).fit(X, LABELS, people, in_backbone=marks)
    assert model.unlearn("p0").certificate.n_deleted == 2
    assert model.unlearn("p6").certificate.n_deleted == 1  # of its two rows one was learned from
    assert model.unlearn("p9").certificate.n_deleted == 0
    assert model.unlearn("p9").certificate.epsilon == 1.0
    with pytest.raises(ValueError, match="in_backbone must hold a bool for each of 24 records"):
        network(FULL).fit(X, LABELS, in_backbone=marks.astype(int))
    with pytest.raises(ValueError, match="in_backbone must be omitted for a backbone that saw no record"):
        network().fit(X, LABELS, in_backbone=marks)


def test_a_group_that_is_everything_is_refused_and_nothing_is_charged():
    model = network(FULL).fit(X, LABELS)
    with pytest.raises(ValueError, match="must leave at least one record"):
        model.unlearn(np.arange(24))
    with pytest.raises(ValueError, match="which none has"):
        model.unlearn(99)
    assert model.unlearn(1).certificate.head.release == 2


@pytest.mark.parametrize(
    ("source", "more", "error", "match"),
    [
        (None, {}, TypeError, "backbone must say where its weights come from.*got NoneType"),
        ("trained", {}, ValueError, "backbone must say where its weights come from.*got 'trained'"),
        ("private", {}, ValueError, "expunge.torch.train.*got 'private'"),
        ("public", {}, ValueError, "name must say which public weights"),
        ("data-independent", {"name": "a\nb"}, ValueError, "name must be text on one line"),
        (3.0, {}, TypeError, "backbone must say where"),
        ("data-independent", {"batch_size": 0}, ValueError, "batch_size must be >= 1"),
        ("data-independent", {"features": 3}, TypeError, "features must be a torch.nn.Module, a function"),
        ("data-independent", {"head": 3}, TypeError, "head must be a NewtonLogisticRegression"),
    ],
)
def test_what_is_not_said_or_not_understood_is_refused(source, more, error, match):
    with pytest.raises(error, match=match):
        network(source, **more).fit(X, LABELS)


class Run:
    """A training run as this library reads it."""

    def __init__(self, privacy, n):
        self.privacy, self.settings = privacy, {"n_records": n}


class WithMechanism:
    mechanism = FULL


def test_private_runs_say_what_they_were():
    assert network(Run(WithMechanism(), 24)).fit(X, LABELS).backbone_.training == FULL
    assert network(WithMechanism()).fit(X, LABELS).backbone_.training == FULL
    with pytest.raises(ValueError, match="trained without privacy="):
        network(Run(None, 24)).fit(X, LABELS)
    with pytest.raises(ValueError, match="at most the 20 records that the run was trained with, got 24"):
        network(Run(WithMechanism(), 20)).fit(X, LABELS)
    marks = np.arange(24) < 20
    assert network(Run(WithMechanism(), 20)).fit(X, LABELS, in_backbone=marks).evidence_.n_trained == 20


def mixing(rows):
    return np.cos(rows) - np.cos(rows).mean(axis=0)


class Counting:
    """Keeps something from call to call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, rows):
        self.calls += 1
        return np.cos(rows) + 0.001 * self.calls


class Learning:
    """Changes its own weights."""

    def __init__(self):
        self.mean = np.zeros(1)

    def state_dict(self):
        return {"mean": self.mean}

    def __call__(self, rows):
        self.mean = self.mean + 1.0
        return np.cos(rows)


@pytest.mark.parametrize(
    ("features", "size", "error", "match"),
    [
        (mixing, 8, ValueError, "features of record 0 must be a function of that record alone.*alone"),
        (Counting(), 1, ValueError, "features of record 0 must be a function of that record alone"),
        (lambda rows: np.random.default_rng().normal(size=rows.shape), 1, ValueError, "draws random numbers"),
        (Learning(), 1, ValueError, "a forward pass changed its weights or buffers"),
        (lambda rows: np.cos(rows)[0], 1, ValueError, r"features must give an array of shape \(1, d\) for 1 records"),
        (lambda rows: np.log(rows - 9.0), 1, ValueError, "features of record 0 of X must be finite"),
        (lambda rows: rows * 1j, 1, TypeError, "features must give real numbers, got complex128"),
        (lambda rows: np.ones((1, 3 if rows[0, 0] < 0 else 4)), 1, ValueError, "features must have one length"),
        (lambda rows: np.ma.masked_array(rows, rows > 0), 1, TypeError, "must not be a masked array"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_not_a_function_of_each_record_is_refused(features, size, error, match):
    model = network(features=features, batch_size=size)
    with pytest.raises(error, match=match):
        model.fit(X, LABELS)
    assert not hasattr(model, "head_")


def test_features_of_each_record_come_of_a_call_of_its_own_unless_certificates_say_otherwise():
    seen = []

    def watched(rows):
        seen.append(len(rows))
        return np.cos(rows)

    model = network(features=watched).fit(X, LABELS)
    assert set(seen) == {1}
    assert (model.certificate_.status, model.certificate_.backbone.batch_size) == ("certified", 1)
    model = network(features=watched, batch_size=10).fit(X, LABELS)
    assert max(seen) == 10
    assert model.certificate_.status == "conditional"
    assert "do not depend on the others" in model.conditions_[0]
    given = network(features=None).fit(np.cos(X), LABELS)
    assert given.certificate_.status == "conditional"
    assert "the features that were given" in given.conditions_[0]
    assert given.certificate_.backbone.batch_size is None
    np.testing.assert_array_equal(given.predict(np.cos(X)), given.head_.predict(np.cos(X)))


def test_records_may_be_texts_tables_and_stacks_of_images():
    words = [f"{'ab' * (i % 5)} c{i}" for i in range(24)]
    model = network(features=lambda texts: np.array([[len(t), t.count("a"), t.count("c")] for t in texts]) / 10)
    assert model.fit(words, LABELS).unlearn(2).model.features_.shape == (23, 3)
    images = RNG.normal(size=(24, 2, 2))
    model = network(features=lambda rows: np.cos(rows).reshape(len(rows), -1)).fit(images, LABELS)
    np.testing.assert_array_equal(model.features_, np.cos(images).reshape(24, 4))
    table = pd.DataFrame(X, index=[f"p{i}" for i in range(24)])
    model = network(features=lambda rows: np.cos(rows.to_numpy())).fit(table, LABELS)
    assert model.ids_[:2].tolist() == ["p0", "p1"]
    with pytest.raises(ValueError, match="X must be in the order of ids"):
        model.amend(["p1", "p0"], X=table.iloc[:2])
    assert model.add(table.iloc[:1].set_axis(["new"]), [0]).model.ids_[-1] == "new"
    with pytest.raises(TypeError, match="X must be an array, a tensor or a list, got a table of records"):
        network().fit(ArrayRecords(X, LABELS), LABELS)
    with pytest.raises(TypeError, match="X must be an array, a tensor or a list of records, got str"):
        network().fit("text", LABELS)
    with pytest.raises(ValueError, match="X must hold at least one record"):
        network().fit(X[:0], LABELS[:0])


def test_conditions_of_the_head_are_those_of_the_network():
    model = network(head=NewtonLogisticRegression()).fit(X, LABELS, conditions=["scale"])
    assert model.certificate_.status == "conditional"
    assert set(model.head_.certificate_.conditions) <= set(model.conditions_)
    assert len(model.conditions_) == 2


class Weighted:
    """A backbone with weights."""

    def __init__(self, seed=0):
        self.weights = np.random.default_rng(seed).normal(size=(4, 3))

    def state_dict(self):
        return {"weights": self.weights}

    def __call__(self, rows):
        return np.cos(rows @ self.weights)


def test_a_backbone_that_changes_is_refused_by_every_method():
    features = Weighted()
    model = network(FULL, features).fit(X, LABELS)
    features.weights[0, 0] += 1e-3
    for call in (
        lambda: model.predict(X),
        lambda: model.unlearn(1),
        lambda: model.amend(1, y=[0]),
        lambda: model.add(X[:1], [0]),
        lambda: model.release_again(),
        lambda: model.score(X, LABELS),
    ):
        with pytest.raises(ValueError, match="features must have the weights of the fit"):
            call()


def test_working_models_are_kept_without_the_backbone(tmp_path):
    features = Weighted()
    model = network(FULL, features, name="three cosines").fit(X, LABELS).unlearn([4, 9]).model
    model.save(tmp_path / "m.npz")
    with pytest.raises(FileExistsError):
        model.save(tmp_path / "m.npz")
    again = CertifiedHead.load(tmp_path / "m.npz", features=features)
    assert again.certificate_ == model.certificate_
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    result = again.unlearn(1)
    assert result.certificate.n_deleted == 3
    verify(result.certificate, result.model.features_, LABELS[result.model.ids_], evidence=result.evidence)
    bare = CertifiedHead.load(tmp_path / "m.npz")
    assert bare.unlearn(1).certificate.n_deleted == 3
    for call in (lambda: bare.predict(X), lambda: bare.add(X[:1], [0]), lambda: bare.amend(1, X=X[:1])):
        with pytest.raises(ValueError, match="features must be given for new records"):
            call()
    assert bare.amend(1, y=[2]).certificate.n_deleted == 3
    with pytest.raises(ValueError, match="features must have the weights of the fit"):
        CertifiedHead.load(tmp_path / "m.npz", features=Weighted(1))
    with pytest.raises(FileFormatError, match="expected a working NewtonLogisticRegression"):
        NewtonLogisticRegression.load(tmp_path / "m.npz")
    model.head_.save(tmp_path / "head.npz")
    with pytest.raises(FileFormatError, match="expected a working CertifiedHead"):
        CertifiedHead.load(tmp_path / "head.npz")
    copied = pickle.loads(pickle.dumps(model))
    assert copied.unlearn(1).certificate.n_deleted == 3


def test_a_file_that_contradicts_its_certificate_is_refused(tmp_path, monkeypatch):
    model = network(FULL, Weighted()).fit(X, LABELS).unlearn([4, 9]).model
    model._marks = model._marks.copy()
    model._marks[0] = False  # another count than the certificate's
    model.save(tmp_path / "m.npz")
    with pytest.raises(FileFormatError, match="must leave 2 deleted records, as the certificate says, got 3"):
        CertifiedHead.load(tmp_path / "m.npz")


def test_nothing_of_a_deleted_record_is_kept(tmp_path):
    words = [f"secret{i}" for i in range(24)]
    model = network(FULL, Weighted()).fit(X, LABELS, words)
    gone = model.features_[7]
    result = model.unlearn("secret7")
    result.model.save(tmp_path / "m.npz")
    result.evidence.save(tmp_path / "e.npz")
    for name in ("m.npz", "e.npz"):
        data = (tmp_path / name).read_bytes()
        assert np.array("secret8").tobytes() in data
        assert np.array("secret7").tobytes() not in data
        assert gone.tobytes() not in data


def test_networks_are_cloned_and_shown():
    model = network(FULL, Weighted(), name="n", batch_size=2)
    assert clone(model).get_params()["batch_size"] == 2
    assert "confidential" not in repr(model)
    assert "<confidential: holds 24 records and a head without noise>" in repr(network().fit(X, LABELS))
    with pytest.raises(AttributeError):
        model.certificate_  # noqa: B018
