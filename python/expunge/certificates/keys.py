"""Ed25519 keys for signing certificates, kept as PEM files."""

from __future__ import annotations

import os

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from expunge._files import PUBLIC, read_text
from expunge._files.transaction import Change, exclusive

__all__ = ["generate_key_pair", "load_private_key", "load_public_key"]


def generate_key_pair(
    private_path: str | os.PathLike[str],
    public_path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    password: bytes | None = None,
) -> tuple[Ed25519PrivateKey, Ed25519PublicKey]:
    """Make a new Ed25519 key pair and write both halves as PEM, or neither; the private file is for its owner alone.

    Parameters
    ----------
    private_path, public_path : path-like
        Where the PKCS#8 private key and the public key go.
    overwrite : bool, default=False
        Replace existing files. Without it nothing is written if either exists.
    password : bytes or None
        Encrypt the private key with it.

    Returns
    -------
    private_key, public_key : Ed25519PrivateKey, Ed25519PublicKey

    Raises
    ------
    FileExistsError
        If a file exists and ``overwrite`` is False.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     private, public = pathlib.Path(folder) / "key.pem", pathlib.Path(folder) / "key.pub.pem"
    ...     _ = generate_key_pair(private, public)
    ...     load_private_key(private).public_key() == load_public_key(public)
    True
    """
    if os.path.abspath(private_path) == os.path.abspath(public_path):
        raise ValueError(f"public_path must differ from private_path, got {public_path} for both")
    for name, path in (("private_path", private_path), ("public_path", public_path)):
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(f"{name}: {path} already exists; pass overwrite=True to replace it")
    private_key = Ed25519PrivateKey.generate()
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        protection = serialization.BestAvailableEncryption(password)
    private = private_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    public_key = private_key.public_key()
    public = public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for path in (private_path, public_path):
        if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise FileNotFoundError(f"path: the folder {os.path.dirname(os.path.abspath(path))} does not exist")
    with exclusive([private_path, public_path]) as session:
        session.commit(
            [
                Change(private_path, private, replace=overwrite),
                Change(public_path, public, replace=overwrite, mode=PUBLIC),
            ]
        )
    return private_key, public_key


def load_private_key(path: str | os.PathLike[str], *, password: bytes | None = None) -> Ed25519PrivateKey:
    """Return the Ed25519 private key of a PEM file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, not a private key, of another kind, or the password is wrong or missing.

    Examples
    --------
    >>> load_private_key("/nowhere/at/all.pem")
    Traceback (most recent call last):
    ...
    FileNotFoundError: path: there is no private key at /nowhere/at/all.pem
    """
    text = read_text(path, what="private key").encode()
    try:
        key = serialization.load_pem_private_key(text, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"path: {path} holds no private key that can be read: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"path: {path} must hold an Ed25519 private key, got {type(key).__name__}")
    return key


def load_public_key(path: str | os.PathLike[str]) -> Ed25519PublicKey:
    """Return the Ed25519 public key of a PEM file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, not a public key, or of another kind.

    Examples
    --------
    >>> load_public_key("/nowhere/at/all.pem")
    Traceback (most recent call last):
    ...
    FileNotFoundError: path: there is no public key at /nowhere/at/all.pem
    """
    text = read_text(path, what="public key").encode()
    try:
        key = serialization.load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"path: {path} holds no public key that can be read: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"path: {path} must hold an Ed25519 public key, got {type(key).__name__}")
    return key
