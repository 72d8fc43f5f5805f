"""Second story of ``expunge demo``: digits learned by noisy steps, quoted, one forgotten, a certificate that lies."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge.certificates import VerificationError
from expunge.cli.quote import quote_json
from expunge.data import load, random_cosine_features
from expunge.data.writing import parquet_bytes
from expunge.estimators import LangevinRidgeClassifier, Quote
from expunge.estimators._storage import released_bytes, working_bytes
from expunge.plotting import plot_noise
from expunge.runs.methods import METHODS
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.law import Phase

__all__ = ["tell_digits"]

Array = NDArray[np.float64]

EPSILON, DELTA, N_STEPS = 1.0, 1e-5, 30
_NAMES = {"uniform": "worst case over all", "shifted": "per record, by a bound", "exact": "per record, exactly"}


@dataclass(frozen=True)
class _Split:
    """Training and test records."""

    X: Array
    y: NDArray[Any]
    X_test: Array
    y_test: NDArray[Any]


def digits() -> _Split:
    """Return the digits: 1,347 records to learn from and 450 to test on, as 256 fixed random cosines of the pixels."""
    data = load("digits", divide_by=16)
    assert data.y is not None
    X = random_cosine_features(data.X, n_features=256, scale=0.5, seed=0)
    order = np.random.RandomState(0).permutation(len(X))
    test, train = order[:450], order[450:]
    return _Split(X[train], data.y[train], X[test], data.y[test])


def accuracy_after(model: LangevinRidgeClassifier, split: _Split, noise_std: Array, *, repeats: int = 8) -> Array:
    """Return the mean test accuracy after ``N_STEPS`` more steps with each noise.

    On all records: one of 1,347 does not move the accuracy of this picture.
    """
    X, X_test = (np.column_stack([rows, np.ones(len(rows))]) for rows in (split.X, split.X_test))
    start = np.vstack([model.coef_.T, model.intercept_])
    targets = (split.y[:, None] == model.classes_).astype(np.float64)
    equations = NormalEquations.of(X, targets, alpha=model.alpha)
    result = np.empty(len(noise_std))
    for i, noise in enumerate(tqdm(noise_std, desc="accuracy", disable=None, leave=False)):
        random = np.random.default_rng(0)  # the same draws for every noise, so that the curve is smooth
        theta = equations.steps(
            start,
            step_size=model.step_size_,
            phase=Phase(N_STEPS, float(noise)),
            normals=lambda _, shape, random=random: random.standard_normal(shape),  # type: ignore[misc]
            copies=repeats,
        )
        scores = (X_test @ theta).reshape(len(X_test), repeats, -1)
        predicted = model.classes_[scores.argmax(axis=2)]
        result[i] = (predicted == split.y_test[:, None]).mean()
    return result


def tell_digits(quotes_name: str, *, has_plot: bool) -> dict[str, bytes]:
    """Tell the story, and return the content of its files by name; quotes go by ``quotes_name``."""
    split = digits()
    # Constants given, not taken from the data: the certificate below rests on no condition.
    model = LangevinRidgeClassifier(classes=range(10), step_size=5.5e-4).fit(split.X, split.y)
    before = float(model.score(split.X_test, split.y_test))
    n = len(split.X)
    click.echo(f"Learned {n} handwritten digits with noisy gradient steps: test accuracy {before:.1%}.")

    quotes = {name: model.quote(epsilon=EPSILON, delta=DELTA, n_steps=N_STEPS, method=name) for name in METHODS[::-1]}
    medians = {name: float(np.median(quote.noise_std)) for name, quote in quotes.items()}
    highest = max(float(quote.noise_std.max()) for quote in quotes.values())
    grid = np.unique([0.0, *np.geomspace(highest / 1000, highest * 1.3, 28), *medians.values()])
    curve = accuracy_after(model, split, grid)

    click.echo(f"Noise per step so that a record is forgotten (epsilon = {EPSILON:g}, delta = {DELTA:g}):\n")
    click.echo(f"  {'noise calibrated to':<24}{'median':>8}{'95%':>9}{'accuracy left':>16}")
    for name in METHODS[::-1]:
        high = float(np.quantile(quotes[name].noise_std, 0.95))
        left = float(np.interp(medians[name], grid, curve))
        status = "  (estimate)" if quotes[name].status == "estimate" else ""
        click.echo(f"  {_NAMES[name]:<24}{medians[name]:>8.3f}{high:>9.3f}{left:>16.1%}{status}")

    order = np.argsort(quotes["exact"].noise_std, kind="stable")
    row = int(quotes["exact"].indices[order[n // 2]])
    result = model.unlearn(row, epsilon=EPSILON, delta=DELTA, n_steps=N_STEPS, noise_grid="powers")
    after = float(result.model.score(split.X_test, split.y_test))
    noise = result.certificate.run.history()[-1]["noise_std"]
    click.echo(f"\nForgot record {row}, a typical one (noise {noise:.3f}): test accuracy {after:.1%}.")
    report = result.certificate.verify(split.X, split.y, result.model)
    click.echo(f"Certificate          {report.status.upper()}: epsilon = {report.epsilon:g}, delta = {report.delta:g}")
    click.echo(f"Certificate changed  {_tampered(result.certificate, split)}")

    contents = {
        quotes_name: _quotes(quotes_name, quotes),
        "digits-certificate.json": result.certificate.to_json().encode("ascii"),
        "digits-model.npz": working_bytes(result.model),
        "digits-released.npz": released_bytes(result.model.release()),
        "digits-training.npz": _training(split),
    }
    if has_plot:
        buffer = io.BytesIO()
        figure = plot_noise([*quotes.values()], accuracy=(grid, curve), accuracy_before=before)
        figure.savefig(buffer, format="png")
        contents["digits.png"] = buffer.getvalue()
    return contents


def _tampered(certificate: Any, split: _Split) -> str:
    """Claim half the epsilon and say what verification makes of it."""
    try:
        replace(certificate, epsilon=certificate.epsilon / 2).verify(split.X, split.y)
    except VerificationError as error:
        return f"REFUSED: {error.field} (epsilon = {certificate.epsilon / 2:g} was claimed)"
    raise RuntimeError("a certificate that claims half the epsilon was accepted")


def _quotes(file: str, quotes: dict[str, Quote]) -> bytes:
    """Return all three quotes as one table (or one JSON object by method)."""
    if file.endswith(".json"):
        parts = (f'"{name}": {quote_json(quote).strip()}' for name, quote in quotes.items())
        return ("{" + ",\n".join(parts) + "}\n").encode()
    found = list(quotes.values())
    columns = {
        "method": [name for name, quote in quotes.items() for _ in range(len(quote))],
        "record": np.concatenate([quote.indices for quote in found]),
        **{
            name: np.concatenate([getattr(quote, name) for quote in found])
            for name in ("noise_std", "mu", "epsilon", "error", "certified")
        },
    }
    return parquet_bytes(columns, what="a table of quotes")


def _training(split: _Split) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, X=split.X, y=split.y)
    return buffer.getvalue()
