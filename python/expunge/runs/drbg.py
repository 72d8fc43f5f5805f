"""A deterministic generator of random bits from secret seeds: HMAC_DRBG of NIST SP 800-90A."""

from __future__ import annotations

import hmac

__all__ = ["MOST_BYTES", "HmacDrbg"]

MOST_BYTES = 2**16  # of one request, as the standard has it


class HmacDrbg:
    """HMAC_DRBG, without reseeding.

    Parameters
    ----------
    entropy : bytes
        Secret input: entropy and nonce, one after the other.
    personalization : bytes
        Public input that keeps uses apart.
    algorithm : {"sha512", "sha256"}
        Of the HMAC.

    Notes
    -----
    NIST SP 800-90A Rev. 1, section 10.1.2. Its outputs cannot be told from random bits by whoever lacks the entropy, if
    HMAC is a pseudo-random function: an assumption about computing power, where bits of the operating system rest on
    the like.

    Examples
    --------
    >>> one, same = (HmacDrbg(bytes(32), b"example") for _ in range(2))
    >>> one.generate(8) == same.generate(8), one.generate(8) == same.generate(7)
    (True, False)
    """

    def __init__(self, entropy: bytes, personalization: bytes, *, algorithm: str = "sha512") -> None:
        self._algorithm = algorithm
        size = 64 if algorithm == "sha512" else 32
        self._key, self._value = bytes(size), b"\x01" * size
        self._update(entropy + personalization)

    def generate(self, n: int) -> bytes:
        """Return the bytes of one request, at most 65,536 of them."""
        if n > MOST_BYTES:
            raise ValueError(f"n must be at most {MOST_BYTES}, got {n}")
        found, parts = 0, []
        while found < n:
            self._value = self._hmac(self._value)
            parts.append(self._value)
            found += len(self._value)
        self._update(b"")
        return b"".join(parts)[:n]

    def _update(self, given: bytes) -> None:
        for mark in (b"\x00", b"\x01") if given else (b"\x00",):
            self._key = self._hmac(self._value + mark + given)
            self._value = self._hmac(self._value)

    def _hmac(self, message: bytes) -> bytes:
        return hmac.digest(self._key, message, self._algorithm)
