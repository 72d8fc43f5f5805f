"""Networks on disk: the head's working model, the backbone in words, and which records it was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._files import CONFIDENTIAL, FileFormatError, write_atomic
from expunge.certificates.network import NetworkCertificate
from expunge.estimators import _storage, _stored
from expunge.estimators.newton import NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier
from expunge.estimators.newton import _storage as of_heads

__all__ = ["load", "save", "working"]

_FORMAT = "network-1"
_KIND = "CertifiedHead"
_HEADS = {cls.__name__: cls for cls in (NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier)}


def save(model: Any, path: str | Path, *, overwrite: bool) -> Path:
    """Write a working model, readable by its owner only."""
    head, arrays = of_heads.working_parts(model.head_)
    header: dict[str, Any] = {
        "kind": _KIND,
        "form": "working",
        "of": _FORMAT,
        "head": head,
        "certificate": model.certificate_.to_json(),
        "n_trained": model._n_trained,
        "batch_size": model._size,
    }
    data = _storage.sealed_bytes(header, {**arrays, "in_backbone": model._marks})
    write_atomic(path, data, overwrite=overwrite, mode=CONFIDENTIAL)
    return Path(path)


def load(cls: type[Any], path: str | Path) -> Any:
    """Read a working model."""
    header, arrays = _storage.read(path)
    _storage.expect(header, path, kind=_KIND, form="working")
    return working(cls, path, header, arrays)


def working(cls: type[Any], path: str | Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Any:
    """Return the working model of a file that has been read, without its backbone.

    Raises
    ------
    FileFormatError
        If something is missing, of the wrong kind, or contradicts the certificate in the file.
    """
    try:
        if header["of"] != _FORMAT:
            raise ValueError(f"of must be {_FORMAT!r}, which this version reads, got {header['of']!r}")
        return _model(cls, path, header, dict(arrays))
    except FileFormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"path: the model at {path} lacks or misstates a field: {_storage.said(error)}") from None


def _model(cls: type[Any], path: str | Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Any:
    certificate = NetworkCertificate.from_json(_stored.text("certificate", header["certificate"]))
    certificate.check_claim()
    kind = certificate.head.model.estimator
    if kind not in _HEADS or header["head"].get("kind") != kind:
        raise ValueError(f"head must be that of the certificate, a {kind}, got {header['head'].get('kind')!r}")
    marks = arrays.pop("in_backbone")
    head = _HEADS[kind]._of_file(path, header["head"], arrays)
    if head.certificate_ != certificate.head:
        raise ValueError("head must be that of the certificate")
    if marks.dtype != np.bool_ or marks.shape != (len(head.ids_),):
        raise ValueError(f"in_backbone must hold a bool for each of {len(head.ids_)} records, got shape {marks.shape}")
    n_trained = _stored.whole("n_trained", header["n_trained"])
    if n_trained - int(marks.sum()) != certificate.n_deleted:
        raise ValueError(
            f"in_backbone must leave {certificate.n_deleted} deleted records, as the certificate says, got "
            f"{n_trained - int(marks.sum())}"
        )
    said = certificate.backbone
    source = said.source if said.training is None else said.training
    size = _stored.whole("batch_size", header["batch_size"], low=1)
    model = cls(None, type(head)(**head._fitted), backbone=source, name=said.name, batch_size=size)
    model._size = size
    model.head_, model.backbone_, model.certificate_ = head, said, certificate
    model._marks, model._n_trained = marks, n_trained
    return model
