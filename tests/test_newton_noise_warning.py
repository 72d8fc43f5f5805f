"""Newton estimators warn where the noise of a release costs the model more than it should."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from expunge import NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier, NoiseWarning

CANCER, WINE, DIABETES = (load(return_X_y=True) for load in (load_breast_cancer, load_wine, load_diabetes))


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (NewtonLogisticRegression(classes=[0, 1], random_state=0), CANCER),
        (NewtonRidgeClassifier(classes=[0, 1], random_state=0), CANCER),
        (NewtonLogisticRegression(classes=[0, 1, 2], random_state=0), WINE),
        (NewtonLogisticRegression(classes=[0, 1, 2], random_state=0, multi_class="ovr"), WINE),
        (NewtonRidge(random_state=0), (CANCER[0], CANCER[1].astype(float))),
        (NewtonRidge(random_state=0), (WINE[0], np.eye(3)[WINE[1]])),
    ],
)
def test_features_far_longer_than_1_are_warned_of_with_the_remedy(model, data):
    """Raw tables at the defaults: the noise that suits features of size 1 drowns what is learned."""
    with pytest.warns(
        NoiseWarning, match=r"^for you alone: .*without the noise.*divide features by a constant"
    ) as caught:
        model.fit(*data)
    assert caught[0].filename == __file__
    assert f"{model.score(*data):.3f}," in str(caught[0].message)
    assert f"norm of up to {np.linalg.norm(data[0], axis=1).max():.3g}" in str(caught[0].message)


@pytest.mark.parametrize("seed", range(3))
def test_models_that_lose_nothing_are_not_warned_of(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NewtonLogisticRegression(classes=[0, 1], random_state=seed).fit(CANCER[0] / 1000, CANCER[1])
        NewtonLogisticRegression(classes=[0, 1, 2], random_state=seed).fit(WINE[0] / 1000, WINE[1])
        NewtonRidge(random_state=seed).fit(DIABETES[0], DIABETES[1])
        rng = np.random.default_rng(seed)
        for classes in (2, 3):  # nothing to learn, so nothing to lose
            labels = rng.integers(0, classes, 200)
            NewtonLogisticRegression(classes=range(classes), noise_std=0.5).fit(rng.standard_normal((200, 4)), labels)


def test_a_warning_that_is_an_error_leaves_the_model_as_it_was():
    model = NewtonLogisticRegression(classes=[0, 1], random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NoiseWarning):
            model.fit(*CANCER)
    assert not hasattr(model, "coef_")
