"""Labels that the Newton classifiers fit: checked, counted against the list of classes, and weighted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from expunge._types import AnyArray
from expunge._validate import refuse_masks
from expunge.data.blocks import Records
from expunge.data.constants import CONDITIONS
from expunge.estimators._classes import class_list
from expunge.estimators._conditions import stated_conditions
from expunge.estimators._records import refuse_other_order
from expunge.estimators.newton.base import NewtonModel
from expunge.estimators.newton.records import weights_of
from expunge.estimators.newton.tables import refuse_untargeted
from expunge.runs.residual.answers import Label

__all__ = ["NewtonClassifier"]

Self = TypeVar("Self", bound="NewtonClassifier")


class NewtonClassifier(NewtonModel):
    """A Newton estimator of labels."""

    classes: ArrayLike | None
    class_weight: Mapping[Label, float] | None
    classes_: AnyArray

    def _fit_labels(
        self: Self,
        X: Any,
        y: Any,
        record_ids: ArrayLike | None,
        *,
        sample_weight: ArrayLike | None,
        conditions: Iterable[str],
        form: Callable[[int, int], tuple[str, int]],
    ) -> Self:
        """Fit; ``form`` returns the loss and the number of outputs for so many classes and columns."""
        if isinstance(X, Records):
            return self._fit_table(X, y, record_ids, sample_weight=sample_weight, conditions=conditions, form=form)
        refuse_masks("X", X)
        refuse_masks("y", y)
        refuse_other_order("sample_weight", sample_weight, X)
        table, column = X, y
        X, y = validate_data(self, X, y, dtype=np.float64, accept_sparse="csr")
        ids = self._ids(table, column, record_ids, np.shape(X)[0])
        check_classification_targets(y)
        labels = np.asarray(y)
        classes, source = class_list(labels, self.classes)
        stated = stated_conditions(conditions)
        if source == "data":
            stated += (CONDITIONS["classes"],)
        loss, outputs = form(len(classes), np.shape(X)[1] + bool(self.fit_intercept))
        self._learn(
            X,
            labels,
            loss=loss,
            n_outputs=outputs,
            classes=classes,
            weights=weights_of(sample_weight, self.class_weight, labels, classes=classes),
            ids=ids,
            conditions=stated,
        )
        self.classes_ = classes
        return self

    def _fit_table(
        self: Self,
        records: Records,
        y: object,
        record_ids: ArrayLike | None,
        *,
        sample_weight: ArrayLike | None,
        conditions: Iterable[str],
        form: Callable[[int, int], tuple[str, int]],
    ) -> Self:
        refuse_untargeted(records, y, record_ids)
        stated = stated_conditions(conditions)
        # Labels of all records, where they say what the classes are or weigh; else some, for their kind.
        every = self.classes is None or self.class_weight is not None
        labels = records.targets() if every else np.asarray(next(records.blocks(stop=1)).y)
        check_classification_targets(labels)
        classes, source = class_list(labels, self.classes)
        if source == "data":
            stated += (CONDITIONS["classes"],)
        loss, outputs = form(len(classes), records.n_features + bool(self.fit_intercept))
        counted = labels if every else np.empty(records.n_records)
        self._learn_table(
            records,
            loss=loss,
            n_outputs=outputs,
            classes=classes,
            weights=weights_of(sample_weight, self.class_weight, counted, classes=classes),
            conditions=stated,
        )
        self.classes_ = classes
        return self
