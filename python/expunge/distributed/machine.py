"""Versions and arithmetic of a process: two that agree compute the same bits from the same blocks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from scipy.special import expit, softmax
from threadpoolctl import threadpool_info

from expunge._kernels.backend import isa, one_blas_thread
from expunge._version import __version__
from expunge.data.block_sums import formed
from expunge.runs.residual import gradient_sums
from expunge.runs.residual.curvature import hessian_of

__all__ = ["Machine", "difference", "this_machine"]

_ROWS, _COLUMNS, _OUTPUTS = 500, 24, 3
_LEVELS = ("base", "v3", "v4")


@dataclass(frozen=True)
class Machine:
    """Versions and arithmetic of a process.

    Attributes
    ----------
    expunge, numpy : str
        Versions.
    isa : str
        Instruction set of the kernels: ``"base"``, ``"v3"`` or ``"v4"``. Sums of gradients have other last bits on
        each.
    blas : tuple of str
        Name, version and kind of processor of each copy of BLAS in use.
    probe : str
        Digest of the bits of a small computation of each kind that passes make.
    """

    expunge: str
    numpy: str
    isa: str
    blas: tuple[str, ...]
    probe: str


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """Return versions and arithmetic of this process.

    Examples
    --------
    >>> this_machine() == this_machine(), len(this_machine().probe)
    (True, 64)
    """
    probe = _probe()  # first: it brings the copies of BLAS
    blas = {
        f"{one['internal_api']} {one['version']} {one.get('architecture', '')}".strip()
        for one in threadpool_info()
        if one["user_api"] == "blas"
    }
    return Machine(__version__, np.__version__, isa(), tuple(sorted(blas)), probe)


def _probe() -> str:
    random = np.random.RandomState(0)  # whose stream NumPy promises never to change
    X = random.standard_normal((_ROWS, _COLUMNS))
    theta = random.standard_normal((_OUTPUTS, _COLUMNS))
    labels = (np.arange(_ROWS) * 7) % _OUTPUTS
    targets = np.ascontiguousarray(X[:, :_OUTPUTS])
    found = []
    for loss, answers in (
        ("squared", {"targets": targets}),
        ("logistic", {"labels": labels}),
        ("softmax", {"labels": labels}),
    ):
        sums = gradient_sums(X, theta, loss=loss, threads=1, **answers)
        found += [sums.gradient, np.array([sums.error, sums.magnitude, sums.loss])]
    with one_blas_thread():
        logits = X @ theta.T
        found += [logits, expit(logits), softmax(logits, axis=1), np.exp(logits), np.log1p(np.exp(-np.abs(logits)))]
        found.append(hessian_of(X, expit(logits[:, :1])[:, :, np.newaxis], threads=1))
        nodes = formed(0, X, targets, start=0, n_classes=0)
        found += [*nodes.gram, *nodes.moment, np.linalg.norm(X, axis=1), np.einsum("ij,ij->i", X, X)]
    return hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in found)).hexdigest()


def difference(here: Machine, there: Machine) -> str:
    """Return how a worker's arithmetic differs from that of this process, with the remedy; empty where it does not."""
    different = [one.name for one in fields(Machine) if getattr(here, one.name) != getattr(there, one.name)]
    if not different:
        return ""
    name = different[0]
    got, needed = (_said(getattr(one, name)) for one in (there, here))
    if name in ("expunge", "numpy"):
        return f"has {name} {got}, and this process {needed}: install the same version everywhere"
    if name == "isa":
        level = min(there.isa, here.isa, key=_LEVELS.index)
        return (
            f"runs the kernels at instruction set {got}, and this process at {needed}: start both with "
            f"EXPUNGE_ISA={level}"
        )
    if name == "blas":
        return (
            f"has {got}, and this process {needed}: install the same versions, and with OpenBLAS start both with the "
            "same OPENBLAS_CORETYPE"
        )
    return (
        "computes other bits than this process in a small test, with the same versions and instruction sets: run both "
        "on one kind of processor, or with the same NPY_DISABLE_CPU_FEATURES and GLIBC_TUNABLES"
    )


def _said(value: object) -> str:
    return " and ".join(value) if isinstance(value, tuple) else str(value)
