"""Answers of records as a loss needs them: numbers of classes, or targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge.data.labels import labels
from expunge.runs.residual.gradients import LOSSES

__all__ = ["Answers", "answers_of", "check_outputs", "class_numbers"]

Label = str | int | float | bool


class Answers(NamedTuple):
    """Targets (n, q) of a squared loss, or numbers of classes (n,) of another: one of the two is None."""

    targets: NDArray[np.float64] | None
    labels: NDArray[np.int64] | None


def class_numbers(y: ArrayLike, *, classes: Sequence[Label]) -> NDArray[np.int64]:
    """Return each label's place in the list of classes; ``"1"`` and 1 are different labels, 1 and 1.0 are not.

    Raises
    ------
    ValueError
        If ``y`` holds another label, or is not one label for each record.
    TypeError
        If ``y`` holds neither numbers nor strings.

    Examples
    --------
    >>> class_numbers(["b", "a", "b"], classes=("a", "b")).tolist()
    [1, 0, 1]
    """
    values, _ = labels(y)
    if np.ndim(values) != 1:
        raise ValueError(f"y must hold one label for each record, got shape {np.shape(y)}")
    places = {label: place for place, label in enumerate(classes)}
    numbers = [places.get(value, -1) for value in values]
    if -1 in numbers:
        first = numbers.index(-1)
        raise ValueError(f"y must hold the classes {list(classes)!r}, got {values[first]!r} at index {first}")
    return np.array(numbers, dtype=np.int64)


def check_outputs(*, loss: str, classes: Sequence[Label] | None, n_outputs: int) -> None:
    """Check that a loss, a list of classes and a number of outputs belong together.

    Raises
    ------
    ValueError
        Naming the argument. A squared loss with classes has an output for each, a logistic loss one for two classes
        or one for each, a softmax one for each.
    """
    _validate.choice("loss", loss, LOSSES)
    _validate.count("n_outputs", n_outputs, low=1)
    if classes is None:
        if loss != "squared":
            raise ValueError(f"classes must be given for the {loss} loss, got None")
        return
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be at least two, and distinct, got {list(classes)!r}")
    if n_outputs != len(classes) and not (loss == "logistic" and len(classes) == 2 and n_outputs == 1):
        raise ValueError(f"n_outputs must fit {len(classes)} classes and the {loss} loss, got {n_outputs}")


def answers_of(y: ArrayLike, *, loss: str, classes: Sequence[Label] | None, n_outputs: int) -> Answers:
    """Return labels or targets ``y`` as `gradient_sums` takes them.

    Parameters
    ----------
    y : array_like
        Labels (n,) where there are classes, else targets (n,) or (n, n_outputs).
    loss : {"squared", "logistic", "softmax"}
        The loss.
    classes : sequence of labels, or None
        The list of classes; a squared loss turns them into one column each of zeros and ones.
    n_outputs : int
        Rows of the parameters.

    Raises
    ------
    TypeError, ValueError
        If ``y`` does not fit.

    Examples
    --------
    >>> answers_of(["b", "a"], loss="squared", classes=("a", "b"), n_outputs=2).targets.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    >>> answers_of(["b", "a"], loss="logistic", classes=("a", "b"), n_outputs=1).labels.tolist()
    [1, 0]
    """
    check_outputs(loss=loss, classes=classes, n_outputs=n_outputs)
    if classes is None:
        targets = _validate.real_array("y", y)
        if targets.ndim == 1 and n_outputs == 1:
            targets = targets[:, np.newaxis]
        if targets.ndim != 2 or targets.shape[1] != n_outputs:
            raise ValueError(f"y must have {n_outputs} targets for each record, got shape {targets.shape}")
        return Answers(targets, None)
    numbers = class_numbers(y, classes=classes)
    if loss != "squared":
        return Answers(None, numbers)
    targets = np.zeros((len(numbers), len(classes)))
    targets[np.arange(len(numbers)), numbers] = 1.0
    return Answers(targets, None)
