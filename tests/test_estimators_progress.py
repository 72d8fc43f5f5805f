"""Fits and deletions that can take seconds say which part is being done; quick ones are silent."""

import io
import sys

import numpy as np

from expunge import LangevinRidge
from expunge.estimators import _progress
from expunge.runs.ridge.cost import DeletionCost


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(patch):
    """Put a terminal in the place of stderr; not in a fixture, after which pytest captures anew."""
    shown = Terminal()
    patch.setattr(sys, "stderr", shown)
    return shown


def problem():
    X = np.random.default_rng(0).normal(size=(40, 3))
    return X, X @ np.ones(3) + np.random.default_rng(1).normal(size=40)


def test_a_long_fit_and_a_long_deletion_show_their_parts_at_once(monkeypatch):
    shown = terminal(monkeypatch)
    monkeypatch.setattr(_progress, "_SHOWN", 0.0)
    X, y = problem()
    model = LangevinRidge(noise_std=1e-4).fit(X, y)
    said = shown.getvalue()
    for part in ("normal equations", "step size", "optimum", "floor of the noise", "score"):
        assert f"fit: {part}" in said
    shown.truncate(0)
    tried = []
    real = DeletionCost.pair
    monkeypatch.setattr(DeletionCost, "pair", lambda *a, **k: tried.append(shown.getvalue()) or real(*a, **k))
    model.unlearn(3, epsilon=1.0, delta=1e-5, n_steps=20)
    assert "unlearn: laws of the run" in tried[0]  # said before anything is tried
    assert "unlearn: noise" in tried[-1]
    assert len(tried) > 4


def test_a_quick_fit_and_a_quick_deletion_show_nothing(monkeypatch):
    shown = terminal(monkeypatch)
    X, y = problem()
    LangevinRidge(noise_std=1e-4).fit(X, y).unlearn(3, epsilon=1.0, delta=1e-5, n_steps=20)
    assert shown.getvalue() == ""


def test_nothing_is_written_where_nobody_looks(monkeypatch, capfd):
    monkeypatch.setattr(_progress, "_SHOWN", 0.0)
    X, y = problem()
    LangevinRidge(noise_std=1e-4).fit(X, y).unlearn(3, epsilon=1.0, delta=1e-5, n_steps=20)
    assert capfd.readouterr().err == ""


def test_work_on_many_columns_or_records_is_shown():
    """A fit of 1,500 columns takes seconds, and a deletion from 400; sets of scikit-learn take none."""
    assert _progress.dense_work(3_000, 1_500, decompositions=2) > _progress._SHOWN
    assert _progress.dense_work(20_000, 1_000, decompositions=2) > _progress._SHOWN
    assert _progress.dense_work(1_500, 400, decompositions=41) > _progress._SHOWN
    assert _progress.dense_work(1_797, 65, decompositions=41) < _progress._SHOWN
