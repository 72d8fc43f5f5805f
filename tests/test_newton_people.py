"""Whose rows a change is about: an index of pandas names people, and nobody gets the values of somebody else."""

import numpy as np
import pandas as pd
import pytest

from expunge import LangevinRidge, NewtonLogisticRegression, NewtonRidge
from expunge.estimators import NewtonRidgeClassifier

X = np.random.default_rng(0).normal(size=(6, 3))
Y = X @ [1.0, 2.0, 3.0]
NAMES = list("abcdef")
FRAME = pd.DataFrame(X, columns=list("pqr"), index=NAMES)


def by_name():
    return NewtonRidge().fit(FRAME, Y)


def numbered():
    return NewtonRidge().fit(FRAME.reset_index(drop=True), Y)


def stored(model, name):
    """Return the features, target and weight that a model holds of somebody."""
    place = model.ids_.tolist().index(name)
    rows = model._state.objective.take(np.array([place]))
    weight = 1.0 if rows.weights is None else rows.weights[0]
    return rows.X[0, :3], rows.targets[0, 0], weight


def test_amended_rows_go_to_whom_they_are_of():
    corrected = FRAME.loc[["b", "a"]] + 100.0
    model = by_name().amend(["b", "a"], X=corrected, y=pd.Series([5.0, 6.0], index=["b", "a"])).model
    for name, target in (("b", 5.0), ("a", 6.0)):
        features, answer, _ = stored(model, name)
        np.testing.assert_array_equal(features, corrected.loc[name])
        assert answer == target


@pytest.mark.parametrize("argument", ["X", "y", "sample_weight"])
@pytest.mark.parametrize("naming", [{"ids": ["b", "a"]}, {"rows": [1, 0]}])
def test_amend_refuses_another_order(argument, naming):
    values = {"X": FRAME.loc[["a", "b"]], "y": pd.Series([1.0, 2.0], index=["a", "b"])}
    values["sample_weight"] = values["y"]
    of = next(iter(naming))
    with pytest.raises(ValueError, match=f"{argument} must be in the order of {of}.*set_axis"):
        by_name().amend(**naming, **{argument: values[argument]})
    # With their ids for its index the values are taken as they stand.
    model = by_name().amend(**naming, **{argument: values[argument].set_axis(["b", "a"])}).model
    features, target, weight = stored(model, "b")
    assert {"X": features[0] == X[0, 0], "y": target == 1.0, "sample_weight": weight == 1.0}[argument]


def test_amend_refuses_other_people_and_takes_a_plain_index():
    model = by_name()
    with pytest.raises(ValueError, match="X must have the records of ids for its index, got other labels, 'c'"):
        model.amend(["a", "b"], X=FRAME.loc[["c", "d"]])
    plain = FRAME.loc[["a", "b"]].reset_index(drop=True)
    assert model.amend(["a", "b"], X=plain).model.ids_.tolist() == NAMES
    # Of a model that numbers its records, labels are numbers.
    with pytest.raises(ValueError, match="X must be in the order of ids"):
        numbered().amend([1, 0], X=plain)
    with pytest.raises(ValueError, match="X must have the records of ids"):
        numbered().amend([1, 0], X=plain.set_axis([4, 5]))


def test_added_people_are_those_of_the_index():
    late = pd.DataFrame(X[:2] + 1.0, index=["x", "y"], columns=list("pqr"))
    for given in ({}, {"record_ids": ["x", "y"]}):
        model = by_name().add(late, pd.Series([1.0, 2.0], index=["x", "y"]), **given).model
        assert model.ids_.tolist() == [*NAMES, "x", "y"]
        features, target, _ = stored(model, "y")
        np.testing.assert_array_equal(features, late.loc["y"])
        assert target == 2.0


@pytest.mark.parametrize("argument", ["y", "sample_weight"])
def test_add_refuses_another_order(argument):
    late = pd.DataFrame(X[:2], index=["x", "y"], columns=list("pqr"))
    values = {"y": np.array([1.0, 2.0]), "sample_weight": np.array([1.0, 2.0])}
    values[argument] = pd.Series(values[argument], index=["y", "x"])
    for table, given in ((late, {}), (late.to_numpy(), {"record_ids": ["x", "y"]})):
        model = NewtonRidge().fit(
            table.copy() if given else FRAME,
            Y[: len(table)] if given else Y,
            **({"record_ids": ["m", "n"]} if given else {}),
        )
        with pytest.raises(ValueError, match=f"{argument} must be in the order of X"):
            model.add(table, **{**values}, **given)


def test_add_refuses_ids_in_another_order_than_the_index():
    late = pd.DataFrame(X[:2], index=["x", "y"], columns=list("pqr"))
    with pytest.raises(ValueError, match="X must be in the order of record_ids"):
        by_name().add(late, [1.0, 2.0], record_ids=["y", "x"])
    assert by_name().add(late, [1.0, 2.0], record_ids=["v", "w"]).model.ids_.tolist()[-2:] == ["v", "w"]


def test_numbered_models_refuse_labels_that_would_be_ignored():
    late = pd.DataFrame(X[:2], index=[4, 2], columns=list("pqr"))
    with pytest.raises(ValueError, match=r"This model numbers its records.*new ones are 6 and on"):
        numbered().add(late, [0.0, 0.0])
    for index in ([0, 1], [6, 7]):
        assert numbered().add(late.set_axis(index), [0.0, 0.0]).model.ids_.tolist() == list(range(8))


@pytest.mark.parametrize("estimator", [NewtonRidge(), LangevinRidge(n_steps=5)])
def test_fit_refuses_ids_in_another_order_than_the_index(estimator):
    with pytest.raises(ValueError, match="X must be in the order of record_ids"):
        estimator.fit(FRAME, Y, record_ids=NAMES[::-1])
    with pytest.raises(ValueError, match="y must be in the order of record_ids"):
        estimator.fit(X, pd.Series(Y, index=NAMES), record_ids=NAMES[::-1])


@pytest.mark.parametrize("kind", [NewtonRidge, NewtonLogisticRegression, NewtonRidgeClassifier])
def test_set_params_changes_nothing_until_the_next_fit(kind, tmp_path):
    y = Y if kind is NewtonRidge else (Y > 0).astype(int)
    model = kind(noise_std=0.5, epsilon=2.0).fit(X, y)
    model.set_params(noise_std=77.0, epsilon=9.0, releases=3)
    for result in (model.unlearn(1), model.add(X[:1], y[:1]), model.release_again()):
        made = result.model
        assert (made.noise_std, made.epsilon, made.releases) == (0.5, 2.0, 10_000)
        assert (result.certificate.noise_std, result.certificate.epsilon) == (0.5, 2.0)
        assert kind.load(made.save(tmp_path / "next.npz", overwrite=True)).noise_std == 0.5
    assert kind.load(model.save(tmp_path / "this.npz")).get_params()["epsilon"] == 2.0
    assert model.fit(X, y).certificate_.noise_std == 77.0
