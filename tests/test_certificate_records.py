"""The digest of the deleted records: of these rows and targets, under this salt, which is long enough to hide them."""

import itertools

import numpy as np
import pytest

from expunge.certificates import record_digest

SALT = bytes(range(32))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_salt_is_32_bytes(size):
    with pytest.raises(ValueError, match=f"salt must be 32 bytes, got {size}"):
        record_digest([[1.0, 2.0]], [3.0], salt=bytes(size))


def test_rows_targets_their_order_and_the_salt_all_count():
    X, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([5.0, 6.0])
    digests = [
        record_digest(X, y, salt=SALT),
        record_digest(X, y, salt=SALT[::-1]),
        record_digest(X[::-1], y, salt=SALT),
        record_digest(X, y[::-1], salt=SALT),
        record_digest(X[:1], y[:1], salt=SALT),
        record_digest(X.T, y, salt=SALT),
        record_digest(X, y.astype(str), salt=SALT),
    ]
    assert all(one != other for one, other in itertools.combinations(digests, 2))
    assert record_digest(X.tolist(), y.tolist(), salt=SALT) == digests[0]


@pytest.mark.parametrize(("X", "y"), [([[np.nan, 1.0]], [1.0]), ([[1.0, 1.0]], [np.inf]), ([1.0, 1.0], [1.0])])
def test_records_are_rows_of_finite_numbers(X, y):
    with pytest.raises(ValueError, match=r"finite|2 dimension"):
        record_digest(X, y, salt=SALT)
