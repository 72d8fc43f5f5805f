"""Statistics of a table: bounds that hold against exact arithmetic, and the same bits however blocks are shared out."""

import hashlib
import struct
from fractions import Fraction
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest

from expunge.data import ArrayRecords, RidgeStatistics, blocks
from expunge.data.block_sums import folded
from expunge.data.close_products import TINY, UNIT, norm

ROWS = 64


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 rows for 3 features."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", ROWS * 8 * 3)


def table(n, seed=0, *, q=2, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)).astype(dtype), rng.normal(size=(n, q)) + 2.0


def exactly(values):
    return [[Fraction(float(one)) for one in row] for row in values]


def products(left, right):
    """Return left^T right of rows of fractions."""
    columns = range(len(left[0])), range(len(right[0]))
    rows = list(zip(left, right, strict=True))
    return [[sum((a[i] * b[j] for a, b in rows), Fraction(0)) for j in columns[1]] for i in columns[0]]


def bits(statistics):
    gram, moment = statistics.gram(), statistics.moment()
    numbers = (gram.value, gram.rest, moment.value, moment.off, statistics.target_squares, statistics.longest_row())
    return b"".join(np.asarray(one).tobytes() for one in numbers) + statistics.digest.encode()


def wild(rng, n, p, decades):
    return rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-decades, decades, size=(n, p))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decades", [0, 3, 9])
def test_bounds_hold_against_exact_arithmetic(dtype, decades):
    rng = np.random.default_rng(decades)
    X, y = wild(rng, 200, 3, decades).astype(dtype), wild(rng, 200, 2, decades)
    found = RidgeStatistics.of(X, y)
    rows = [[*row, Fraction(1)] for row in exactly(X)]
    true, wanted = products(rows, rows), products(rows, exactly(y))
    gram, moment = found.gram(), found.moment()
    off = sum((Fraction(float(gram.value[i, j])) - true[i][j]) ** 2 for i in range(4) for j in range(4))
    assert float(off) ** 0.5 <= gram.off <= 1.5 * UNIT * norm(gram.value)
    for c in range(2):
        off = sum((Fraction(float(moment.value[i, c])) - wanted[i][c]) ** 2 for i in range(4))
        assert float(off) ** 0.5 <= moment.off[c]


def pair_errors(found, X, y):
    """Return the exact errors of X^T X and of each column of X^T y before the last rounding, intercept included."""
    sums, rows = folded(found._nodes), [[*row, Fraction(1)] for row in exactly(X)]
    true, wanted = products(rows, rows), products(rows, exactly(y))
    pairs = [(i, j) for i in range(4) for j in range(i, 4)]
    total = Fraction(0)
    for (i, j), high, low in zip(pairs, *(part.tolist() for part in sums.gram), strict=True):
        total += (1 if i == j else 2) * (Fraction(high) + Fraction(low) - true[i][j]) ** 2
    high, low = (exactly(part) for part in sums.moment)
    columns = range(len(y[0]))
    off = [sum((high[i][c] + low[i][c] - wanted[i][c]) ** 2 for i in range(4)) for c in columns]
    return float(total) ** 0.5, [float(one) ** 0.5 for one in off]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("where", [slice(0, 64), slice(64, 128), slice(128, 200), slice(0, 200)])
@pytest.mark.parametrize("rough", ["X", "y", "both"])
def test_pairs_of_numbers_hold_what_the_last_rounding_loses(where, rough):
    """Before it, the error is within ``rest`` alone; whole numbers leave no low part, so each source is seen alone."""
    rng = np.random.default_rng(where.start)
    X, y = np.rint(1e5 * rng.normal(size=(200, 3))), np.rint(1e5 * rng.normal(size=(200, 1)))
    for name, values in (("X", X), ("y", y)):
        if rough in (name, "both"):
            values[where] = 1e5 * wild(rng, len(values[where]), values.shape[1], 1)
    found = RidgeStatistics.of(X, y)
    gram, (moment,) = pair_errors(found, X, y)
    assert gram <= found.gram().rest <= 1e-3 * UNIT * norm(found.gram().value)
    assert (gram > 0) == (rough != "y")
    assert 0 < moment <= found.moment().rest[0] <= 1e-3 * UNIT * norm(X) * norm(y)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("powers", [(0, -20, -40), (-40, -20, 0), (-40, 0, -20), (0, -27, -27)])
def test_what_additions_leave_is_kept(powers):
    """Blocks of very different size, whole numbers times powers of 2: nothing but the sums of pairs is rounded."""
    rng = np.random.default_rng(0)
    X, y = np.rint(999 * rng.normal(size=(192, 3))), np.rint(999 * rng.normal(size=(192, 1)))
    for block, power in enumerate(powers):
        X[block * ROWS : (block + 1) * ROWS] *= 2.0**power
        y[block * ROWS : (block + 1) * ROWS] *= 2.0 ** (2 * power)
    found = RidgeStatistics.of(X, y)
    gram, (moment,) = pair_errors(found, X, y)
    assert gram <= 1e-28 * norm(found.gram().value)
    assert moment <= 1e-28 * norm(X) * norm(y)


@pytest.mark.usefixtures("small_blocks")
def test_sums_of_what_additions_leave_are_rounded_within_the_bound():
    rng = np.random.default_rng(2)
    X, y = np.rint(999 * rng.normal(size=(7 * ROWS, 3))), np.rint(999 * rng.normal(size=(7 * ROWS, 1)))
    for block, power in enumerate((0, -17, -31, -23, -44, -37, -13)):
        X[block * ROWS : (block + 1) * ROWS] *= 2.0**power
        y[block * ROWS : (block + 1) * ROWS] *= 2.0**power
    found = RidgeStatistics.of(X, y)
    gram, (moment,) = pair_errors(found, X, y)
    assert 0 < gram <= found.gram().rest
    assert found.gram().rest < 1e-25 * norm(found.gram().value)
    assert 0 < moment <= found.moment().rest[0] < 1e-25 * norm(X) * norm(y)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seed", range(8))
def test_bounds_hold_where_sums_cancel(seed):
    """Nearly all of X^T y cancels, within blocks and between them: what is left is of the size of roundings."""
    rng = np.random.default_rng(seed)
    X, y = wild(rng, 150, 3, 1), wild(rng, 150, 1, 1)
    X, y = np.concatenate([X, X]), np.concatenate([y, -y * (1 + 1e-13 * rng.normal(size=y.shape))])
    order = rng.permutation(300) if seed % 2 else np.arange(300)
    found = RidgeStatistics.of(X[order], y[order]).moment(fit_intercept=False)
    wanted = products(exactly(X), exactly(y))
    off = sum((Fraction(float(found.value[i, 0])) - wanted[i][0]) ** 2 for i in range(3))
    assert float(off) ** 0.5 <= found.off[0] <= 1e-6 * UNIT * 300 * norm(X) * norm(y)
    assert norm(found.value) < 1e-9 * norm(X) * norm(y)


@pytest.mark.usefixtures("small_blocks")
def test_any_sharing_out_of_blocks_has_the_bits_of_one_pass():
    X, y = table(11 * ROWS + 5)
    whole = bits(RidgeStatistics.of(X, y, threads=1))
    assert bits(RidgeStatistics.of(X, y, threads=3)) == whole
    rng = np.random.default_rng(1)
    for _ in range(20):
        cuts = [0, *sorted(rng.choice(np.arange(1, 12), size=rng.integers(1, 7), replace=False).tolist()), 12]
        parts = [RidgeStatistics.of(X, y, start=a, stop=b) for a, b in pairwise(cuts)]
        assert bits(reduce(lambda one, two: one + two, (parts[i] for i in rng.permutation(len(parts))))) == whole


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("held", range(1, 13))
def test_every_number_of_blocks_counts_all_rows(held):
    n = held * ROWS - 7
    X, y = np.rint(10 * table(n)[0]), np.rint(10 * table(n)[1])
    found = RidgeStatistics.of(X, y)
    rows = np.column_stack([X, np.ones(n)])
    assert found.n_records == n
    assert found.ranges == ((0, held),)
    assert np.array_equal(found.gram().value, rows.T @ rows)
    assert np.array_equal(found.gram(fit_intercept=False).value, X.T @ X)
    assert np.array_equal(found.moment().value, rows.T @ y)
    assert np.array_equal(found.moment(fit_intercept=False).value, X.T @ y)
    assert np.array_equal(found.feature_sums, X.sum(axis=0))
    assert np.array_equal(found.target_sums, y.sum(axis=0))
    assert np.array_equal(found.target_squares, (y * y).sum(axis=0))
    assert len(found._nodes) == held.bit_count()


@pytest.mark.usefixtures("small_blocks")
def test_single_precision_has_the_bits_of_the_same_numbers_in_double():
    X, y = table(200, dtype=np.float32)
    assert bits(RidgeStatistics.of(X, y)) == bits(RidgeStatistics.of(X.astype(np.float64), y))
    assert bits(RidgeStatistics.of(np.asfortranarray(X), y)) == bits(RidgeStatistics.of(ArrayRecords(X, y)))


@pytest.mark.usefixtures("small_blocks")
def test_long_sums_are_rounded_once():
    """X^T X of rows longer than a subrange of a block: plain sums would be off by far more than the bound."""
    X, y = np.full((5000, 3), 0.1), np.full(5000, 0.1)
    found = RidgeStatistics.of(X, y)
    tenth = Fraction(0.1)
    assert abs(Fraction(float(found.gram().value[0, 0])) - 5000 * tenth**2) <= Fraction(UNIT) * 51
    assert found.gram().off < 1.5 * UNIT * norm(found.gram().value)


@pytest.mark.usefixtures("small_blocks")
def test_the_longest_row_is_found_wherever_it_is():
    X, y = table(300)
    X[177] = [3.0, 4.0, 12.0]
    X[180], X[250] = [12.0, 4.0, 3.0], [4.0, 12.0, 3.0]
    found = RidgeStatistics.of(X, y)
    assert found.longest_row(fit_intercept=False) == (177, 13.0)
    assert found.longest_row() == (177, np.sqrt(170.0))
    found = RidgeStatistics.of(X, y, start=2) + RidgeStatistics.of(X, y, stop=2)
    assert found.longest_row(fit_intercept=False) == (177, 13.0)


def test_of_rows_as_long_the_first_is_named():
    X, y = table(9000)
    X[[100, 101, 4000, 8999]] = [3.0, 4.0, 12.0]
    assert RidgeStatistics.of(X, y).longest_row(fit_intercept=False) == (100, 13.0)


@pytest.mark.usefixtures("small_blocks")
def test_classes_are_columns_in_their_order():
    X, _ = table(150)
    y = np.where(np.arange(150) % 3 == 0, "b", "a")
    found = RidgeStatistics.of(X, y, classes=["c", "a", "b"])
    assert found.classes == ("a", "b", "c")
    assert found.target_sums.tolist() == [100.0, 50.0, 0.0]
    onehot = (y[:, None] == np.array(["a", "b", "c"])).astype(float)
    assert np.array_equal(found.moment().value, RidgeStatistics.of(X, onehot).moment().value)
    numbers = RidgeStatistics.of(X, np.arange(150) % 3, classes=[0, 1, 2])
    assert numbers.classes == (0, 1, 2)
    assert numbers.target_sums.tolist() == [50.0, 50.0, 50.0]
    with pytest.raises(ValueError, match="among the classes, got 'a' in row 1"):
        RidgeStatistics.of(X, y, classes=["b", "c"])
    with pytest.raises(ValueError, match="of the kind of classes, got 'b' in row 0"):
        RidgeStatistics.of(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="at least 2 distinct"):
        RidgeStatistics.of(X, y, classes=["a", "a", "b"])
    with pytest.raises(TypeError, match="without classes="):
        RidgeStatistics.of(X, y)


@pytest.mark.usefixtures("small_blocks")
def test_the_digest_is_of_values_their_order_and_what_they_mean():
    X, y = table(150, q=1)
    y = np.rint(y[:, 0]).clip(1, 3).astype(np.int64)
    one = RidgeStatistics.of(X, y).digest
    assert one == RidgeStatistics.of(X.copy(), y.astype(float)).digest
    assert len(one) == 64
    changed, swapped = X.copy(), np.arange(150)
    changed[149, 2] = np.nextafter(changed[149, 2], 9)
    swapped[[3, 140]] = [140, 3]
    others = [
        RidgeStatistics.of(changed, y).digest,
        RidgeStatistics.of(X[swapped], y[swapped]).digest,
        RidgeStatistics.of(X[:-1], y[:-1]).digest,
        RidgeStatistics.of(X, -y).digest,
        RidgeStatistics.of(X, y, classes=[1, 2, 3]).digest,
        RidgeStatistics.of(X, y, classes=[0, 1, 2, 3]).digest,
    ]
    assert len({one, *others}) == 7


@pytest.mark.usefixtures("small_blocks")
def test_what_is_not_one_table_is_refused():
    X, y = table(5 * ROWS)
    first, last = RidgeStatistics.of(X, y, stop=2), RidgeStatistics.of(X, y, start=3)
    both = first + last
    assert both.ranges == ((0, 2), (3, 5))
    for ask in (both.gram, both.moment, last.gram, last.longest_row):
        with pytest.raises(ValueError, match="hold all blocks of a table, got blocks"):
            ask()
    with pytest.raises(ValueError, match="got block 1 twice"):
        first + RidgeStatistics.of(X, y, start=1, stop=2)
    with pytest.raises(ValueError, match="ends before block 1"):
        RidgeStatistics.of(X[:60], y[:60]) + RidgeStatistics.of(X, y, start=1)
    with pytest.raises(ValueError, match="of one table, got n_outputs = 2 and 1"):
        first + RidgeStatistics.of(X, y[:, :1], start=3)
    with pytest.raises(ValueError, match="must have targets"):
        RidgeStatistics.of(X)
    with pytest.raises(TypeError, match="y must be omitted for a table"):
        RidgeStatistics.of(ArrayRecords(X, y), y)
    with pytest.raises(ValueError, match="at least one row"):
        RidgeStatistics.of(X, y, start=2, stop=2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("where", "value", "match"), [
    ("X", 1e200, "X must have squares within the range of float64, got 1e\\+200 in row 70"),
    ("X", 1e150, "X must have squares and products within the range of float64, got values that overflow in rows 64"),
    ("y", 1e200, "y must have squares within the range of float64, got 1e\\+200 in row 70"),
])  # fmt: skip
def test_what_overflows_is_refused_with_its_row(where, value, match):
    X, y = table(150)
    (X if where == "X" else y)[70, 1] = value
    with pytest.raises(ValueError, match=match):
        RidgeStatistics.of(X, y)


@pytest.mark.usefixtures("small_blocks")
def test_faint_numbers_are_within_the_bounds():
    """Squares that underflow are nothing in the sums, and something in the bounds."""
    X, y = table(100)
    found = RidgeStatistics.of(X * 1e-170, y * 1e-170)
    gram, moment = found.gram(fit_intercept=False), found.moment(fit_intercept=False)
    assert not gram.value.any()
    assert gram.off > 100 * 9 * TINY  # each product may lose as much where subnormal numbers are flushed
    assert (moment.off > 100 * TINY).all()
    faint = RidgeStatistics.of(np.rint(X) * 2.0**-60, np.full(100, 2.0**-1000)).moment()  # nothing has a low part
    assert (faint.rest > 100 * TINY).all()


@pytest.mark.usefixtures("small_blocks")
def test_the_digest_is_what_the_notes_say():
    """The tree of seven blocks: two pairs and the pair of these; beside it a pair with the last one."""
    X, y = table(6 * ROWS + 3, q=1)
    tag = b"expunge-digest-v1:block"
    leaves = []
    for start in range(0, len(X), ROWS):
        rows, wanted = X[start : start + ROWS], y[start : start + ROWS]
        head = struct.pack("<5Q", start, len(rows), 3, 1, 0)
        leaves.append(hashlib.sha256(tag + b"\0" + head + rows.tobytes() + wanted.tobytes()).digest())

    def node(one, two):
        return hashlib.sha256(tag + b"s\0" + one + two).digest()

    root = node(node(node(*leaves[:2]), node(*leaves[2:4])), node(node(*leaves[4:6]), leaves[6]))
    shape = b'{"rows":387,"features":3,"outputs":1,"block":64,"classes":null}'
    assert RidgeStatistics.of(X, y).digest == hashlib.sha256(tag + b"s\0" + shape + b"\0" + root).hexdigest()
