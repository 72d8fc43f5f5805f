"""UA, RA, TA and membership inference of an unlearned model, beside the retrained models'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import beta

from expunge._validate import count, number
from expunge.evaluation.bands import Band, reference_band
from expunge.evaluation.intervals import warn_unused
from expunge.evaluation.membership import auc, membership_auc
from expunge.evaluation.metrics import METRICS, Measured, Report
from expunge.evaluation.predictions import Predictions

__all__ = ["proportion_interval", "unlearning_report"]

_SETS = {"UA": "forget", "RA": "retain", "TA": "test"}


def proportion_interval(*, successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a proportion. An *estimate*: it is about further records, not of privacy.

    Parameters
    ----------
    successes, trials : int
        0 <= successes <= trials, trials >= 1.
    confidence : float, default 0.95
        In (0, 1).

    Examples
    --------
    >>> low, high = proportion_interval(successes=10, trials=10)
    >>> round(low, 4), high
    (0.6915, 1.0)
    """
    k, n = count("successes", successes), count("trials", trials, low=1)
    if k > n:
        raise ValueError(f"successes must be <= trials, got {k} of {n}")
    risk = (1 - number("confidence", confidence, low=0, high=1, open_low=True, open_high=True)) / 2
    low = 0.0 if k == 0 else float(beta.ppf(risk, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(1 - risk, k + 1, n - k))
    return low, high


def _band(
    values: Sequence[float], method: str, k: float, confidence: float, tolerance: float
) -> tuple[float | None, Band | None]:
    if not values:
        return None, None
    band = None
    if len(values) > 1 or tolerance > 0:
        band = reference_band(values, method=method, k=k, confidence=confidence, tolerance=tolerance, limits=(0.0, 1.0))
    return float(np.mean(values)), band


def unlearning_report(
    model: Mapping[str, Predictions],
    *,
    retrained: Sequence[Mapping[str, Predictions]] = (),
    title: str = "",
    band: str = "std",
    k: float = 2.0,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    n_resamples: int | None = None,
    seed: int | None = None,
) -> Report:
    """Return UA, RA, TA and the two membership AUCs of a model beside the retrained models'.

    Parameters
    ----------
    model : mapping of str to Predictions
        Of the model under test on "forget", "retain" and "test". The test set is also the held-out set of the
        membership attacks, unless "heldout" is given.
    retrained : sequence of such mappings
        One per model trained without the forget set, on the same records. Two at least for a band.
    title : str
    band : {"std", "range", "prediction"}
        How the band is made, with ``k``, ``confidence`` and ``tolerance``: see `reference_band`.
    k, tolerance : float
    confidence : float, default 0.95
        Of the intervals.
    n_resamples, seed : int, optional
        Deprecated: intervals need no resampling. They change nothing, and giving them warns.

    Returns
    -------
    Report
        "UA", "RA", "TA", "MIA loss", "MIA margin". Prints as a table.

    Raises
    ------
    ValueError
        If a set is missing, or a retrained model was measured on another number of records.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.evaluation import predictions_from_logits
    >>> rng = np.random.default_rng(0)
    >>> def outputs(shift):
    ...     logits = rng.standard_normal((100, 3)) + shift * np.eye(3)[np.arange(100) % 3]
    ...     return predictions_from_logits(logits, np.arange(100) % 3)
    >>> def on_all(forget):
    ...     return {"forget": outputs(forget), "retain": outputs(3), "test": outputs(2)}
    >>> report = unlearning_report(on_all(3), retrained=[on_all(2), on_all(2)], title="fine-tuned")
    >>> [one.metric.name for one in report]
    ['UA', 'RA', 'TA', 'MIA loss', 'MIA margin']
    >>> report["UA"].status
    'estimate'
    """
    warn_unused(n_resamples=n_resamples, seed=seed)
    for number_of, one in enumerate([model, *retrained]):
        who = "model" if number_of == 0 else f"retrained[{number_of - 1}]"
        for name in _SETS.values():
            if not isinstance(one.get(name), Predictions):
                raise ValueError(f"{who} must hold Predictions of 'forget', 'retain' and 'test', got {sorted(one)}")
            if len(one[name]) != len(model[name]):
                raise ValueError(
                    f"{who}[{name!r}] must hold the {len(model[name])} records of model[{name!r}], got {len(one[name])}"
                )
    measured = []
    for name, where in _SETS.items():
        found = model[where]
        reference, where_they_are = _band([one[where].accuracy for one in retrained], band, k, confidence, tolerance)
        interval = proportion_interval(successes=int(found.correct.sum()), trials=len(found), confidence=confidence)
        measured.append(Measured(METRICS[name], found.accuracy, interval, confidence, reference, where_they_are))
    for name in ("loss", "margin"):
        members, others = _membership_scores(model, name)
        values = [auc(*_membership_scores(one, name)) for one in retrained]
        reference, where_they_are = _band(values, band, k, confidence, tolerance)
        attack = membership_auc(members, others, confidence=confidence)
        measured.append(
            Measured(METRICS[f"MIA {name}"], attack.value, attack.interval, confidence, reference, where_they_are)
        )
    return Report(tuple(measured), title)


def _membership_scores(
    one: Mapping[str, Predictions], name: str
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    members, others = one["forget"], one.get("heldout", one["test"])
    if name == "loss":
        return -members.losses, -others.losses
    return members.margins, others.margins
