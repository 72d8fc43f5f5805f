"""Classes or numbers: how targets are read, and the sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from expunge._errors import counted
from expunge._types import AnyArray
from expunge._validate import choice, unmasked

__all__ = ["MAX_CLASSES", "Task", "read_task"]

MAX_CLASSES = 1000
"""A classifier holds one output per class; more classes than this are taken for a mistake."""

_FEW = 20  # whole numbers written as 0.0, 1.0, 2.0 are classes up to this many


@dataclass(frozen=True)
class Task:
    """Targets as an estimator takes them.

    Attributes
    ----------
    y : ndarray of shape (n,) or (n, q)
        Class labels (int64 or str), or float64 numbers.
    classify : bool
        Whether they are classes.
    sentence : str
        How they were read, for a person.
    """

    y: AnyArray
    classify: bool
    sentence: str


def read_task(y: ArrayLike, *, task: str = "auto") -> Task:
    """Return targets read as classes or as numbers.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, q)
        Finite numbers, booleans or text.
    task : {"auto", "classify", "regress"}
        auto: booleans are classes; text and whole numbers are classes, unless most of them differ; whole numbers
        written with a point (0.0, 1.0, 2.0) are classes if there are at most 20 and each comes twice on average;
        other numbers, and several columns, are regression.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        For more than 1,000 classes, for text or whole numbers that are hardly classes (auto), for classes that are no
        whole numbers below 2^63, and for text as numbers; the message names the remedy.

    Examples
    --------
    >>> read_task([0.0, 1.0, 2.0, 0.0, 1.0, 2.0]).sentence
    'reading y as 3 classes: 0, 1, 2'
    >>> read_task([0.5, 1.25]).sentence
    'reading y as a number: regression'
    """
    choice("task", task, ("auto", "classify", "regress"))
    values = unmasked("y", y)
    if values.dtype.kind == "O":
        values = np.array(values.tolist())
    text = values.dtype.kind == "U"
    if task == "regress":
        if text:
            raise ValueError(
                f"y holds text ({values.ravel().tolist()[0]!r}), which is not a number: omit --task regress"
            )
        return Task(values.astype(np.float64), False, "reading y as a number: regression")
    if values.ndim != 1:
        if task == "classify" or text:
            raise ValueError(f"y must be one column of classes, got shape {values.shape}")
        return Task(values.astype(np.float64), False, f"reading y as {values.shape[1]} numbers: regression")
    whole = values.dtype.kind in "iub" or (
        values.dtype.kind == "f" and bool((values == np.floor(values)).all() and (np.abs(values) <= 2**53).all())
    )
    classes = np.unique(values) if whole or text else values[:0]
    if task == "auto" and not text:
        as_floats = values.dtype.kind == "f"
        if as_floats and (not whole or len(classes) > min(_FEW, len(values) / 2)):
            return Task(values.astype(np.float64), False, "reading y as a number: regression")
        if len(classes) > max(_FEW, len(values) / 2):
            raise ValueError(
                f"y holds {len(classes):,} different whole numbers in {len(values):,} records: pass --task regress "
                f"(task='regress') if it is a number"
                + ("" if len(classes) > MAX_CLASSES else ", --task classify if these are classes")
            )
    elif task == "classify" and not (whole or text):
        odd = float(values[~((values == np.floor(values)) & (np.abs(values) <= 2**53))][0])
        raise ValueError(
            f"y must hold classes for --task classify, whole numbers (as floats up to 2^53) or text, got {odd:g}"
        )
    if task == "auto" and text and len(classes) > max(_FEW, len(values) / 2):
        raise ValueError(
            f"y holds {len(classes):,} different texts in {counted(len(values), 'record')}: are these ids? name the "
            "column of the targets" + ("" if len(classes) > MAX_CLASSES else ", or pass --task classify")
        )
    if len(classes) > MAX_CLASSES:
        remedy = "are these ids? name the column of the targets" if text else "pass --task regress if it is a number"
        raise ValueError(f"y holds {len(classes):,} classes, at most {MAX_CLASSES:,} are learned: {remedy}")
    if values.dtype == np.uint64 and bool((values >= 2**63).any()):
        raise ValueError(f"y must hold classes below 2^63, got {values.max()}: write them as text")
    labels = values if text else values.astype(np.int64)
    names = [str(one) for one in (classes if text else classes.astype(np.int64))[:10].tolist()]
    more = ", ..." if len(classes) > len(names) else ""
    number = "1 class" if len(classes) == 1 else f"{len(classes):,} classes"
    return Task(labels, True, f"reading y as {number}: {', '.join(names)}{more}")
