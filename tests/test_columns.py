"""Columns of files: turned into rows bit for bit, and pages of Parquet that are read without a decoder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from expunge._kernels import backend
from expunge.data import open_records
from expunge.data.addresses import find_files
from expunge.data.plain_pages import NotPlainError, PlainFeatures, leaves_of

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LEVELS = {"item_bytes": 4, "max_definition": 0, "max_repetition": 0, "width": 1, "phase": 0}


# --- rows of columns ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 200),
    p=st.integers(1, 70),
    pad=st.integers(0, 20),
    dtype=st.sampled_from([np.float32, np.float64]),
    threads=st.integers(1, 3),
)
def test_rows_have_the_bits_of_the_columns(n, p, pad, dtype, threads):
    integer = np.uint32 if dtype is np.float32 else np.uint64
    bits = np.random.default_rng(n * 71 + p).integers(0, np.iinfo(integer).max, (p, n + pad), dtype=integer)
    rows = np.empty((n, p), dtype=dtype)
    backend.core.rows_of_columns(bits.view(dtype), rows, threads=threads)
    truth = oracles.rows_of_columns(bits, rows.view(integer))
    np.testing.assert_array_equal(rows.view(integer), truth)  # every NaN keeps its payload


def test_several_ranges_of_rows_are_the_same_for_every_number_of_threads():
    columns = np.random.default_rng(0).standard_normal((33, 5000))
    for threads in (1, 2, 5):
        rows = np.empty((4999, 33))
        backend.core.rows_of_columns(columns, rows, threads=threads)
        np.testing.assert_array_equal(rows, columns.T[:4999])


@pytest.mark.parametrize(
    ("columns", "rows", "error", "match"),
    [
        (np.zeros((2, 3), dtype=np.int64), np.zeros((3, 2)), TypeError, "columns must have dtype"),
        (np.zeros((2, 3)), np.zeros((3, 2), dtype=np.float32), TypeError, "rows must have dtype float64"),
        (np.zeros((2, 3)), np.zeros((4, 2)), ValueError, "rows must be at most the values of a column, 3"),
        (np.zeros((2, 3)), np.zeros((3, 3)), ValueError, "columns must have length 3 along axis 0"),
        (np.zeros((3, 2)).T, np.zeros((3, 2)), ValueError, "columns must be C-contiguous"),
        (np.zeros((2, 3)), np.zeros((2, 3)).T, ValueError, "rows must be C-contiguous"),
        (np.zeros(3), np.zeros((3, 1)), ValueError, "columns must have more than 1 dimensions"),
    ],
)
def test_memory_that_does_not_fit_is_refused(columns, rows, error, match):
    with pytest.raises(error, match=match):
        backend.core.rows_of_columns(columns, rows)


def test_rows_may_not_lie_in_the_columns_nor_be_read_only():
    columns = np.zeros((3, 3))
    with pytest.raises(ValueError, match="rows must not share memory with columns"):
        backend.core.rows_of_columns(columns, columns)
    rows = np.zeros((3, 3))
    rows.flags.writeable = False
    with pytest.raises(ValueError, match="rows must be writeable"):
        backend.core.rows_of_columns(columns, rows)


# --- pages --------------------------------------------------------------------------------------


def table_of(X, layout, nullable):
    n, d = X.shape
    if layout == "columns":
        fields = [pa.field(f"f{j}", pa.from_numpy_dtype(X.dtype), nullable) for j in range(d)]
        return pa.table([pa.array(np.ascontiguousarray(X[:, j])) for j in range(d)], schema=pa.schema(fields))
    value = pa.field("element", pa.from_numpy_dtype(X.dtype), nullable)
    if layout == "fixed":
        lists = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), type=pa.list_(value, d))
    else:
        offsets = pa.array(np.arange(0, n * d + 1, d, dtype=np.int32))
        lists = pa.ListArray.from_arrays(offsets, pa.array(X.reshape(-1)), type=pa.list_(value))
    return pa.table([lists], schema=pa.schema([pa.field("f", lists.type, nullable)]))


def written(path, table, **options):
    chosen = {"compression": "none", "use_dictionary": False, **options}
    pq.write_table(table, path, **chosen)
    return pq.ParquetFile(path).metadata


def features_of(path, metadata, X, group=0):
    names = [name for name in metadata.schema.to_arrow_schema().names if name.startswith("f")]
    return PlainFeatures.of(
        find_files(path, kinds=(".parquet",))[0],
        metadata,
        group,
        leaves_of(metadata),
        names,
        width=X.shape[1],
        dtype=X.dtype,
    )


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_plain_pages_are_read_as_pyarrow_reads_them(tmp_path_factory, data):
    layout = data.draw(st.sampled_from(["fixed", "list", "columns"]))
    n, d = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 40))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    X = np.random.default_rng(n * 41 + d).standard_normal((n, d)).astype(dtype)
    path = tmp_path_factory.mktemp("pages") / "d.parquet"
    metadata = written(
        path,
        table_of(X, layout, data.draw(st.booleans())),
        row_group_size=data.draw(st.integers(1, n)),
        data_page_size=data.draw(st.sampled_from([1, 100, 1000, 1 << 20])),
        write_batch_size=data.draw(st.sampled_from([1, 7, 1024])),
        data_page_version=data.draw(st.sampled_from(["1.0", "2.0"])),
        write_page_checksum=data.draw(st.booleans()),
        write_statistics=data.draw(st.booleans()),
    )
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        features = features_of(path, metadata, X, group)
        assert features is not None
        start = data.draw(st.integers(0, rows))
        stop = data.draw(st.integers(start, rows))
        size = data.draw(st.integers(1, 100))
        blocks = list(features.rows(start, stop, size=size))
        assert all(len(block) == size for block in blocks[:-1])
        found = np.concatenate([np.empty((0, d), dtype=dtype), *blocks])
        np.testing.assert_array_equal(found, X[first + start : first + stop])
        first += rows
    records = open_records(path)
    np.testing.assert_array_equal(np.concatenate([block.X for block in records.blocks()]), X)


def first_page(path, metadata, column=0):
    """Return the bytes from the first page of a column on, to its end."""
    chunk = metadata.row_group(0).column(column)
    start = chunk.data_page_offset
    return np.frombuffer(path.read_bytes(), dtype=np.uint8)[start : start + chunk.total_compressed_size].copy()


def page_found(page, **levels):
    found = np.full(4, -1)
    backend.core.plain_page(np.ascontiguousarray(page), found, **{**LEVELS, **levels})
    return found.tolist()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_pages_are_what_the_twin_says(tmp_path_factory, data):
    layout = data.draw(st.sampled_from(["fixed", "list", "columns"]))
    n, d = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 20))
    X = np.random.default_rng(n).standard_normal((n, d)).astype(np.float32)
    path = tmp_path_factory.mktemp("pages") / "d.parquet"
    version = data.draw(st.sampled_from(["1.0", "2.0"]))
    metadata = written(path, table_of(X, layout, data.draw(st.booleans())), data_page_version=version)
    leaf = next(iter(leaves_of(metadata).values()))
    page = first_page(path, metadata)
    levels = {"item_bytes": 4, "max_definition": leaf.max_definition, "max_repetition": leaf.max_repetition}
    width = data.draw(st.sampled_from([d, d, d + 1, max(1, d - 1), 2 * d]))
    levels |= {"width": width, "phase": data.draw(st.sampled_from([0, 0, width - 1]))}
    if not leaf.max_repetition:
        levels |= {"width": 1, "phase": 0}
    truth = oracles.plain_page(page.tobytes(), **levels)
    kind, *found = page_found(page, **levels)
    assert (kind, found) == ((1, [0, 0, 0]) if truth is None else (0, list(truth)))


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_no_bytes_are_read_beyond_the_page_and_damage_is_never_plain_of_another_size(tmp_path_factory, data):
    X = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    path = tmp_path_factory.mktemp("pages") / "d.parquet"
    metadata = written(path, table_of(X, "list", True), data_page_version=data.draw(st.sampled_from(["1.0", "2.0"])))
    page = first_page(path, metadata)
    levels = {"max_definition": 3, "max_repetition": 1, "width": 3}
    kind, values_at, values, next_at = page_found(page, **levels)
    assert (kind, values, next_at) == (0, 150, len(page))
    assert page_found(page[:values_at], **levels) == [0, values_at, values, next_at]
    cut = data.draw(st.integers(0, values_at - 1))
    assert page_found(page[:cut], **levels)[0] in (1, 2)
    for _ in range(data.draw(st.integers(1, 4))):
        page[data.draw(st.integers(0, values_at - 1))] = data.draw(st.integers(0, 255))
    kind, values_at, values, next_at = page_found(page[:values_at], **levels)
    assert kind in (0, 1, 2)
    if kind == 0:
        assert next_at - values_at == 4 * values


@settings(deadline=None, max_examples=200)
@given(junk=st.binary(max_size=300), repeated=st.integers(0, 1), highest=st.integers(0, 255), width=st.integers(1, 9))
def test_junk_is_answered(junk, repeated, highest, width):
    levels = {"max_definition": highest, "max_repetition": repeated, "width": width, "phase": width - 1}
    assert page_found(np.frombuffer(junk, dtype=np.uint8), **levels)[0] in (0, 1, 2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"item_bytes": 0}, "item_bytes must be within"),
        ({"max_definition": 256}, "max_definition must be within"),
        ({"max_definition": -1}, "max_definition must be within"),
        ({"max_repetition": 2}, "max_repetition must be 0 or 1"),
        ({"width": 0}, "width must be at least 1"),
        ({"width": 3, "phase": 3}, "phase must be within"),
        ({"phase": -1}, "phase must be within"),
    ],
)
def test_levels_that_are_none_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        page_found(np.zeros(4, dtype=np.uint8), **change)
    with pytest.raises(TypeError, match="head must have dtype uint8"):
        backend.core.plain_page(np.zeros(4, dtype=np.int8), np.zeros(4, dtype=np.int64), **LEVELS)
    with pytest.raises(ValueError, match="found must have length 4"):
        backend.core.plain_page(np.zeros(4, dtype=np.uint8), np.zeros(3, dtype=np.int64), **LEVELS)


# --- pages written by hand ------------------------------------------------------------------------


def varint(value):
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def structure(fields):
    """Return 32-bit numbers, structures and, as bytes, whatever else, by field, in Thrift's compact protocol."""
    found, last = b"", 0
    for field, value in fields.items():
        step, last = field - last, field
        if isinstance(value, dict):
            found += bytes([step << 4 | 12]) + structure(value)
        elif isinstance(value, bytes):
            found += bytes([step << 4 | value[0]]) + value[1:]
        else:
            found += bytes([step << 4 | 5]) + varint(value << 1 if value >= 0 else (-value << 1) - 1)
    return found + b"\0"


def run_of(value, count):
    return varint(count << 1) + bytes([value])


def packed(values, bits):
    groups = -(-len(values) // 8)
    word = sum(value << (bits * i) for i, value in enumerate(values))
    return varint(groups << 1 | 1) + word.to_bytes(groups * bits, "little")


LISTS = [0, 1, 1] * 4
BY_HAND = {"item_bytes": 4, "max_definition": 2, "max_repetition": 1, "width": 3, "phase": 0}


REPETITION, DEFINITION = packed(LISTS, 1), run_of(2, 12)


def by_hand(version, *, n=12, repetition=REPETITION, definition=DEFINITION, spare=0, more=None, **lies):
    """Return a page of 12 numbers in lists of 3, or what `lies` make of its header, and where its numbers lie."""
    lengths = {"repetition": len(repetition), "definition": len(definition)} | lies.pop("lengths", {})
    levels = repetition + definition
    if version == 1:
        told = [lengths[kind].to_bytes(4, "little") for kind in ("repetition", "definition")]
        levels = told[0] + repetition + told[1] + definition
    size = len(levels) + 4 * 12 + spare
    one = {
        1: n,
        2: lies.pop("encoding", 0),
        3: lies.pop("definition_encoding", 3),
        4: lies.pop("repetition_encoding", 3),
    }
    two = {1: n, 2: lies.pop("nulls", 0), 3: 4, 4: one[2], 5: lengths["definition"], 6: lengths["repetition"]}
    outer = {1: 0 if version == 1 else 3, 2: size, 3: size, **({5: one} if version == 1 else {8: two}), **(more or {})}
    head = structure(dict(sorted((outer | lies.pop("outer", {})).items())))
    assert not lies
    return head + levels + bytes(4 * 12 + spare), len(head) + len(levels)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("definition", [run_of(2, 12), packed([2] * 12, 2), run_of(2, 5) + packed([2] * 7, 2)])
@pytest.mark.parametrize("repetition", [packed(LISTS, 1), b"".join(run_of(one % 2, 1 + one) for one in (0, 1) * 4)])
def test_pages_by_hand_are_plain(version, repetition, definition):
    page, at = by_hand(version, repetition=repetition, definition=definition)
    assert page_found(np.frombuffer(page, dtype=np.uint8), **BY_HAND) == [0, at, 12, len(page)]
    assert oracles.plain_page(page, **BY_HAND) == (at, 12, len(page))


LIES = {
    "a run of lower levels": {"definition": run_of(1, 1) + run_of(2, 11)},
    "a lower level among packed ones": {"definition": packed([2] * 9 + [1, 2, 2], 2)},
    "a run that is too long": {"definition": run_of(2, 13)},
    "a run of none": {"definition": run_of(2, 0) + run_of(2, 12)},
    "too few levels": {"definition": run_of(2, 11)},
    "levels behind the last": {"definition": run_of(2, 12) + run_of(2, 1)},
    "packed levels without their bytes": {"definition": packed([2] * 12, 2)[:-1]},
    "a list that is longer": {"repetition": packed([0, 1, 1, 1, 0, 1] + [0, 1, 1] * 2, 1)},
    "a list that is shorter": {"repetition": packed([0, 1, 0, 1, 1, 1] + [0, 1, 1] * 2, 1)},
    "lists without an end": {"repetition": run_of(0, 1) + run_of(1, 11)},
    "lists in lists": {"repetition": run_of(0, 1) + run_of(2, 2) + packed([0, 1, 1] * 3, 1)},
    "a dictionary": {"encoding": 8},
    "another size when packed": {"outer": {3: 99}},
    "a number more": {"spare": 4},
    "a number less": {"spare": -4},
    "one value more": {"n": 13},
    "fewer values than none": {"n": -1},
    "a size below zero": {"outer": {2: -1, 3: -1}},
    "levels beyond the page": {"lengths": {"definition": 1 << 20}},
    "a page of a dictionary": {"outer": {1: 2}},
}
FIRST = {
    "definitions in another way": {"definition_encoding": 4},
    "repetitions in another way": {"repetition_encoding": 4},
    "a wide number": {"outer": {1: b"\x06\x00"}},
}
SECOND = {
    "missing numbers": {"nulls": 1},
    "levels of a length below zero": {"lengths": {"definition": -1}},
    "a wide number": {"outer": {1: b"\x06\x06"}},
    "more than one header": {"more": {5: {1: 12}}},
}


@pytest.mark.parametrize(
    ("version", "lie"),
    [*((v, lie) for v in (1, 2) for lie in LIES), *((1, lie) for lie in FIRST), *((2, lie) for lie in SECOND)],
)
def test_pages_by_hand_that_say_anything_else_are_other(version, lie):
    page, _ = by_hand(version, **(LIES | (FIRST if version == 1 else SECOND))[lie])
    assert page_found(np.frombuffer(page, dtype=np.uint8), **BY_HAND) == [1, 0, 0, 0]


def test_pages_by_hand_go_on_with_the_list_that_is_open():
    page, at = by_hand(2, repetition=packed([1, 1, *LISTS[:10]], 1))
    found = np.frombuffer(page, dtype=np.uint8)
    assert page_found(found, **{**BY_HAND, "phase": 1}) == [0, at, 12, len(page)]
    for phase in (0, 2):
        assert page_found(found, **{**BY_HAND, "phase": phase})[0] == 1


def test_levels_where_there_are_none_are_other():
    page, _ = by_hand(2)
    for levels in ({"max_definition": 0}, {"max_repetition": 0, "width": 1}):
        assert page_found(np.frombuffer(page, dtype=np.uint8), **{**BY_HAND, **levels})[0] == 1


def test_headers_of_too_many_structures_are_other():
    page, at = by_hand(1, more={9: b"\x0c" + b"\x1c" * 7 + b"\0" * 8})
    assert page_found(np.frombuffer(page, dtype=np.uint8), **BY_HAND) == [0, at, 12, len(page)]
    deep = b"\x1c" * 40 + b"\0" * 41
    page, _ = by_hand(1, more={9: b"\x0c" + deep})
    assert page_found(np.frombuffer(page, dtype=np.uint8), **BY_HAND) == [1, 0, 0, 0]


# --- what is not plain --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"use_dictionary": True}, {"compression": "snappy"}, {"column_encoding": "BYTE_STREAM_SPLIT"}]
)
@pytest.mark.parametrize("layout", ["fixed", "columns"])
def test_other_pages_are_decoded_to_the_same_numbers(tmp_path, layout, options):
    X = np.random.default_rng(0).standard_normal((500, 7)).astype(np.float32)
    metadata = written(tmp_path / "d.parquet", table_of(X, layout, True), row_group_size=120, **options)
    features = features_of(tmp_path / "d.parquet", metadata, X)
    if features is not None:
        with pytest.raises(NotPlainError):
            list(features.rows(0, 120, size=50))
    found = np.concatenate([block.X for block in open_records(tmp_path / "d.parquet").blocks()])
    np.testing.assert_array_equal(found, X)


def test_rows_behind_the_first_page_that_is_not_plain_are_decoded(tmp_path, monkeypatch):
    X = np.random.default_rng(0).standard_normal((400, 5)).astype(np.float32)
    table = table_of(X, "list", True)
    table = pa.table({"f": table.column("f"), "label": np.arange(400), "id": [f"r{i}" for i in range(400)]})
    written(tmp_path / "d.parquet", table, data_page_size=100, write_batch_size=10)
    records = open_records(tmp_path / "d.parquet", target_column="label", id_column="id")
    monkeypatch.setattr("expunge.data.blocks._BLOCK_BYTES", 64 * 8 * 5)  # blocks of 64 rows
    real, calls = PlainFeatures.rows, []

    def rows(self, start, stop, *, size):
        for X in real(self, start, stop, size=size):
            if len(calls) == 3:
                raise NotPlainError
            calls.append(len(X))
            yield X

    monkeypatch.setattr(PlainFeatures, "rows", rows)
    blocks = list(records.blocks())
    assert len(calls) == 3
    np.testing.assert_array_equal(np.concatenate([block.X for block in blocks]), X)
    assert np.concatenate([block.y for block in blocks]).tolist() == list(range(400))
    assert [one for block in blocks for one in block.ids] == [f"r{i}" for i in range(400)]


@pytest.mark.parametrize("layout", ["fixed", "columns"])
def test_a_missing_number_is_named_by_its_row(tmp_path, layout):
    X = np.random.default_rng(0).standard_normal((500, 7)).astype(np.float32)
    columns = X.T.tolist()
    columns[3][321] = None
    if layout == "columns":
        table = pa.table({f"f{j}": pa.array(column, pa.float32()) for j, column in enumerate(columns)})
    else:
        table = pa.table({"f": pa.array(list(zip(*columns, strict=True)), pa.list_(pa.float32(), 7))})
    written(tmp_path / "d.parquet", table, row_group_size=200)
    with pytest.raises(ValueError, match=r"d\.parquet, row 321, feature 3.* must be a finite number"):
        list(open_records(tmp_path / "d.parquet").blocks())


def test_lists_of_other_lengths_are_named_by_their_row(tmp_path):
    lists = [[1.0, 2.0]] * 500
    lists[400], lists[401] = [1.0], [1.0, 2.0, 3.0]  # as many numbers as ever
    written(tmp_path / "d.parquet", pa.table({"f": pa.array(lists, pa.list_(pa.float32()))}))
    with pytest.raises(ValueError, match=r"d\.parquet, row 400: 1 features where 2 features are needed"):
        list(open_records(tmp_path / "d.parquet").blocks())


def test_a_file_that_was_cut_is_not_plain(tmp_path):
    X = np.random.default_rng(0).standard_normal((500, 7)).astype(np.float32)
    path = tmp_path / "d.parquet"
    for layout in ("fixed", "columns"):
        metadata = written(path, table_of(X, layout, True))
        features = features_of(path, metadata, X)
        path.write_bytes(path.read_bytes()[:9000])
        with pytest.raises(NotPlainError):
            list(features.rows(0, 500, size=500))


def test_columns_of_several_types_are_turned_into_rows(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "a": rng.standard_normal(700),
        "b": rng.standard_normal(700).astype(np.float32),
        "c": rng.integers(-100, 100, 700).astype(np.int8),
        "d": rng.integers(0, 2**40, 700),
        "e": rng.integers(0, 2, 700).astype(bool),
        "f": rng.integers(0, 2**16, 700).astype(np.uint16),
    }
    written(tmp_path / "d.parquet", pa.table(columns), row_group_size=300)
    truth = np.stack([column.astype(np.float64) for column in columns.values()], axis=1)
    for source in (tmp_path / "d.parquet", pa.table(columns)):
        found = np.concatenate([block.X for block in open_records(source).blocks()])
        np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize("types", [(np.float32, np.float64), (np.float64, np.float32), (np.float32, np.float32)])
def test_floats_of_two_widths_are_read_as_the_wider(tmp_path, types):
    """In one file, and in a shard of a table whose other shard is of float64."""
    rng = np.random.default_rng(0)
    (tmp_path / "t").mkdir()
    columns = {f"f{j}": rng.standard_normal(700).astype(kind) for j, kind in enumerate(types)}
    wide = {name: column.astype(np.float64) / 3 for name, column in columns.items()}
    written(tmp_path / "t/0.parquet", pa.table(columns), row_group_size=300)
    written(tmp_path / "t/1.parquet", pa.table(wide))
    truth = [np.stack([one.astype(np.float64) for one in table.values()], axis=1) for table in (columns, wide)]
    for source, expected in ((tmp_path / "t/0.parquet", truth[0]), (tmp_path / "t", np.concatenate(truth))):
        found = np.concatenate([block.X for block in open_records(source).blocks()])
        np.testing.assert_array_equal(found, expected)


def test_scoring_reads_plain_pages_without_a_decoder(tmp_path, monkeypatch):
    from expunge.scoring import ProbeCheckpoints, score_files

    X = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
    probe = ProbeCheckpoints(
        weights=np.ones((1, 6, 2)), steps=[0], loss="softmax", n_steps=10, noise_std=1.0, step_size=0.1,
        sampling_probability=1.0, batch_size=1.0,
    )  # fmt: skip
    calls = []
    monkeypatch.setattr("expunge.scoring.sources.feature_rows", lambda *_, **__: calls.append(1))
    for layout in ("fixed", "list", "columns"):
        table = table_of(X, layout, True).append_column("label", pa.array(np.arange(300) % 2))
        source = tmp_path / f"{layout}.parquet"
        written(source, table, row_group_size=130)
        names = [name for name in table.schema.names if name != "label"]
        score_files(source, probe, tmp_path / f"{layout}.out", features=names, progress=False)
    assert not calls
    one = pq.read_table(tmp_path / "fixed.out")
    assert one.equals(pq.read_table(tmp_path / "columns.out"))
    assert one.equals(pq.read_table(tmp_path / "list.out"))
