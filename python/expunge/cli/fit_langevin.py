"""``expunge fit --model langevin-ridge``: a ridge model learned by noisy steps, or from the sums over a table."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import click

from expunge._errors import counted
from expunge._files import PUBLIC
from expunge.cli.langevin_tables import holding
from expunge.cli.learned import say_learned
from expunge.cli.outputs import Outputs
from expunge.cli.reading import Records
from expunge.cli.streaming import Streamed
from expunge.data import RidgeStatistics
from expunge.estimators import LangevinRidge, LangevinRidgeClassifier, NoiseWarning
from expunge.estimators._storage import released_bytes, working_bytes

if TYPE_CHECKING:
    from expunge.data import Task

__all__ = ["fit_langevin"]


def fit_langevin(
    records: Records | Streamed,
    found: Task,
    *,
    data: str,
    classes: list[Any] | None,
    conditions: tuple[str, ...],
    settings: dict[str, Any],
    outputs: Outputs,
) -> None:
    """Learn by noisy steps, write the models and say so."""
    text, n_steps = settings["step_size"], settings["n_steps"]
    try:
        step: float | str = text if text in ("auto", "bounded") else float(text)
    except ValueError:
        raise ValueError(f"step_size must be a number or auto (or bounded), got {text!r}") from None
    constants = {"norm_bound": settings["norm_bound"], "n_bound": settings["n_bound"], "classes": classes}
    estimator = LangevinRidgeClassifier if found.classify else LangevinRidge
    statistics = None
    if isinstance(records, Streamed):
        if settings["of_program"]:
            raise ValueError("--of-program needs the records in memory, got a table that is read in blocks")
        labels = found.y.tolist() if found.classify else None
        statistics = RidgeStatistics.of(records.table, classes=labels if classes is None else classes)
        if found.classify and classes is None:
            conditions = (*conditions, "classes")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NoiseWarning)
        model = estimator(
            alpha=settings["alpha"],
            n_steps=n_steps,
            noise_std=settings["noise_std"],
            step_size=step,
            fit_intercept=not settings["no_intercept"],
            random_state=settings["random_state"],
            **{name: value for name, value in constants.items() if value is not None},
        )
        if statistics is not None:
            model.fit_statistics(statistics, conditions=conditions)
        else:
            assert isinstance(records, Records)  # in memory
            more = {"conditions": conditions, "of_program": settings["of_program"]}
            model.fit(records.X, found.y, record_ids=records.ids, **more)
    for one in caught:
        click.echo(f"warning  {_as_options(one.message, data)}", err=True)
    say_learned(model, records, found, f"in {counted(n_steps, 'step')}")
    contents = {"--output": working_bytes(model)}
    released = outputs.places.get("--released")
    if released is not None:
        contents["--released"] = released_bytes(model.release())
    outputs.write(contents, modes={"--released": PUBLIC})
    for condition in model.conditions_:
        click.echo(f"certificates will be conditional: {condition}")
    if not model.of_program_:
        click.echo(f"certificates will be about real numbers, not the program that ran: {_why(settings, statistics)}")
    click.echo(f"model  {outputs.places['--output']}  (confidential: {holding(model)})")
    if released is not None:
        click.echo(f"predict-only model  {released}")


def _why(settings: dict[str, Any], statistics: RidgeStatistics | None) -> str:
    """Return every cause of claims about real numbers, as each of them suffices."""
    causes = {
        "--no-of-program": settings["of_program"] is False,
        "--random-state": settings["random_state"] is not None,
        "the table is read in blocks": statistics is not None,
    }
    return ", ".join(cause for cause, holds in causes.items() if holds)


def _as_options(warning: Any, data: str) -> str:
    """Return a warning with its remedy in the words of this command."""
    text = " ".join(str(warning).split())
    if not isinstance(warning, NoiseWarning) or (not warning.settings and warning.bounds is None):
        return text
    options = [f"--{name.replace('_', '-')} {value}" for name, value in warning.settings.items()]
    if warning.bounds is not None:
        options.insert(0, f"--bounds (expunge bounds {data} writes a draft; put the bounds you know in their place)")
    return f"{text.partition('; with ')[0]}; try {' '.join(options)}"
