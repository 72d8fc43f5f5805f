"""Runs an experiment piece by piece: each result is stored whole, a second call continues where the first stopped."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm.auto import tqdm

from expunge._files import read_json, write_atomic
from expunge._kernels.machine import processor
from expunge._types import JsonObject
from expunge._validate import choice, count
from expunge._version import __version__
from expunge.experiments import adaptive, barrier, compare, distinguish, predict
from expunge.experiments.certify import experiment as certify
from expunge.experiments.certify.settings import CertifySettings
from expunge.experiments.exact import experiment as exact
from expunge.experiments.exact.settings import ExactSettings
from expunge.experiments.page import write_page
from expunge.experiments.settings import Settings
from expunge.experiments.tables import write_parquet
from expunge.experiments.work import Context

__all__ = ["EXPERIMENTS", "power_of", "run_experiment"]

EXPERIMENTS: dict[str, Any] = {
    "predict": predict,
    "compare": compare,
    "barrier": barrier,
    "adaptive": adaptive,
    "exact": exact,
    "certify": certify,
    "distinguish": distinguish,
}
AnySettings: TypeAlias = Settings | ExactSettings | CertifySettings
DESIGN = "sets and retrained models shared by all seeds"  # folders of another design are refused
THREADS = 1  # of each worker: results do not depend on how many workers there are
_OURS = ("settings.json", "results.parquet", "index.html", "findings.json")


@dataclass(frozen=True)
class Piece:
    """One stored result: what is done with one forget set, or one lot of records, of one training run."""

    seed: int
    noise_std: float
    name: str

    @property
    def key(self) -> str:
        """Name of its file."""
        return f"seed{self.seed}-noise{self.noise_std:g}-{self.name}"


def run_experiment(
    name: str,
    settings: AnySettings,
    folder: str | os.PathLike[str],
    *,
    seeds: int = 1,
    device: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    command: str | None = None,
    progress: bool = True,
) -> JsonObject:
    """Run an experiment, or what is left of it, and write its results, pictures and page.

    Parameters
    ----------
    name : {"predict", "compare", "barrier", "adaptive", "exact", "certify", "distinguish"}
        (a) Does privacy loss predict the time to unlearn? (b) Whose top records take longest to forget? (c) Do loss
        barriers tell forgotten from retrained? (e) What does a policy by privacy loss save? (d) Which measure knows the
        exact cost of a deletion? (f) What noise does a certified deletion need, and what accuracy is left? (g) Can
        models with and without a record be told apart?
    settings : Settings, ExactSettings or CertifySettings
        What is trained, forgotten and measured; `ExactSettings` for ``"exact"``, `CertifySettings` for ``"certify"``.
    folder : path-like
        Holds everything; a second call with more seeds continues.
    seeds : int
        Independent repetitions; one is a *quick look*.
    device : str, optional
        A GPU if there is one, by default.
    workers : int, optional
        Processes of one thread each, on the CPU; as many as there are cores by default, one on a GPU. Their number
        changes no result, and is noted with each.
    overwrite : bool
        Discard what is in the folder.
    command : str, optional
        The command as typed, shown on the page; by default this call.
    progress : bool
        Show a bar, on a terminal.

    Returns
    -------
    dict
        The findings, as in ``findings.json``: ``words``, and the numbers behind them. *Estimates*.

    Raises
    ------
    FileExistsError
        If the folder holds something else.
    TypeError
        If the settings are those of another experiment.
    ValueError
        If it holds the experiment with other settings, or pieces that another version, processor, device or number
        of threads made: results change with rounding, so those of two machines are not mixed.

    Examples
    --------
    >>> import tempfile
    >>> tiny = Settings(model="mlp", width=8, n_train=200, n_test=50, epochs=2, noise_stds=(0.02,), n_sets=3,
    ...                 n_pilots=1, n_retrained=2, unlearn_epochs=2, early_passes=1)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     run_experiment("predict", tiny, place + "/out", workers=1)["status"]
    'estimate'
    """
    kind = EXPERIMENTS[choice("name", name, tuple(EXPERIMENTS))]
    if not isinstance(settings, kind.SETTINGS):
        raise TypeError(f"settings must be {kind.SETTINGS.__name__} for {name}, got {type(settings).__name__}")
    count("seeds", seeds, low=1)
    trains = kind.TRAINS
    place = device or ("cuda" if trains and torch.cuda.is_available() else "cpu")
    if not trains and place != "cpu":
        raise ValueError(f"device must be 'cpu' for {name}, which trains no network, got {place!r}")
    n_workers = 1 if place != "cpu" else count("workers", workers if workers is not None else _cores(), low=1)
    made = environment(place)
    described = {"experiment": name, "version": __version__, **settings.to_dict(), "environment": made}
    if trains:
        described["design"] = DESIGN
    out = _prepared(Path(folder), described, overwrite)
    context = Context(settings, out, place)
    kind.load(settings)  # refuses what it can before any work
    pieces = [
        Piece(seed, level, part)
        for seed in range(seeds)
        for level in kind.noise_levels(settings)
        for part in kind.parts(settings, seed)
    ]
    left = [piece for piece in pieces if not _file(out, piece).exists()]
    stages = kind.preparations(settings) if trains else []
    needed = [[one for one in stage if not (out / "shared" / f"{one}.npz").exists()] for stage in stages]
    bar = tqdm(total=sum(map(len, needed)) + len(left), unit="piece", desc=name, disable=None if progress else True)
    with bar, _pool(n_workers) as start:
        work = [[partial(_prepare, name, context, one) for one in stage] for stage in needed]
        work += [  # one seed after the other: what is interrupted leaves whole seeds
            [partial(_work, name, context, piece, n_workers) for piece in left if piece.seed == seed]
            for seed in range(seeds)
        ]
        for jobs in work:
            for job in start(jobs):
                job()
                bar.update()
    results = [read_json(_file(out, piece), what="result") for piece in pieces]
    rows = [row for result in results for row in result["rows"]]
    findings, figures = kind.findings(settings, rows, n_seeds=seeds)
    findings = {
        "experiment": name,
        "status": "estimate",
        "n_seeds": seeds,
        "command": command or f'run_experiment("{name}", settings, folder, seeds={seeds}, workers={n_workers})',
        "environment": made,
        "workers": sorted({result["workers"] for result in results}),
        **({"power": kind.power(settings, seeds)} if hasattr(kind, "power") else {}),
        **findings,
    }
    write_parquet(out / "results.parquet", rows)
    for file, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        write_atomic(out / file, picture.getvalue(), overwrite=True)
    write_atomic(out / "findings.json", (json.dumps(findings, indent=1) + "\n").encode(), overwrite=True)
    write_page(out, findings, list(figures), settings, title=kind.TITLE, question=kind.QUESTION, limits=kind.LIMITS)
    return findings


def power_of(name: str, settings: AnySettings, *, seeds: int) -> str | None:
    """Say in words, before an experiment runs, what difference so many seeds can see; None where nothing is drawn."""
    kind = EXPERIMENTS[choice("name", name, tuple(EXPERIMENTS))]
    return str(kind.power(settings, seeds)) if hasattr(kind, "power") else None


def environment(device: str) -> JsonObject:
    """Return what results depend on, settings aside: rounding differs between machines, versions and threads."""
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads_per_worker": THREADS,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _file(out: Path, piece: Piece) -> Path:
    return out / "pieces" / f"{piece.key}.json"


def _prepared(out: Path, described: dict[str, Any], overwrite: bool) -> Path:
    """Make the folder ready to go on, or refuse it."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"folder: {out} is a file")
    held, file = out.is_dir() and any(out.iterdir()), out / "settings.json"
    if held and not file.exists():
        raise FileExistsError(f"folder: {out} holds files that are not an experiment's; choose another")
    if held and overwrite:
        for part in ("trained", "shared", "pieces"):
            shutil.rmtree(out / part, ignore_errors=True)
        for one in [*out.glob("*.png"), *(out / name for name in _OURS[1:])]:
            one.unlink(missing_ok=True)
    elif held:
        saved = read_json(file, what="experiment")
        saved_by = saved.get("environment") or {}
        was = {**saved, **{f"environment, {key}": value for key, value in saved_by.items()}}
        now = {**described, **{f"environment, {key}": value for key, value in described["environment"].items()}}
        del now["environment"]
        for name, value in now.items():
            if was.get(name) != value:
                raise ValueError(
                    f"{name}: the experiment in {out} has {was.get(name)!r}, got {value!r}; they do not mix: "
                    "choose another folder, or pass overwrite=True"
                )
        return out
    out.mkdir(mode=0o700, parents=True, exist_ok=True)  # losses reveal something about single records
    for part in ("trained", "shared", "pieces"):
        (out / part).mkdir(mode=0o700, exist_ok=True)
    write_atomic(file, (json.dumps(described, indent=1) + "\n").encode(), overwrite=True)
    return out


# --- work in processes ------------------------------------------------------------------------------


def _prepare(name: str, context: Context[Any], what: str) -> None:
    kind = EXPERIMENTS[name]
    kind.prepare(context, kind.load(context.settings), what)


def _work(name: str, context: Context[Any], piece: Piece, workers: int) -> None:
    kind = EXPERIMENTS[name]
    subject = kind.load(context.settings)
    rows = kind.work(context, subject, piece.name, seed=piece.seed, noise_std=piece.noise_std)
    text = json.dumps({"workers": workers, "rows": rows}, allow_nan=False) + "\n"
    write_atomic(_file(context.folder, piece), text.encode(), overwrite=True)


def _few_threads() -> None:
    torch.set_num_threads(THREADS)


@contextmanager
def _pool(workers: int) -> Iterator[Callable[[Sequence[Callable[[], None]]], Iterator[Callable[[], None]]]]:
    """Yield a function that turns jobs into calls that wait for them, in the order they end."""
    if workers == 1:
        before = torch.get_num_threads()
        _few_threads()
        try:
            yield iter
        finally:
            torch.set_num_threads(before)
        return
    # A fresh interpreter each: torch does not survive a fork of a process that has threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_few_threads) as pool:

        def start(jobs: Sequence[Callable[[], None]]) -> Iterator[Callable[[], None]]:
            futures: list[Future[None]] = [pool.submit(job) for job in jobs]
            try:
                for future in as_completed(futures):
                    yield future.result
            finally:
                for future in futures:
                    future.cancel()

        yield start
