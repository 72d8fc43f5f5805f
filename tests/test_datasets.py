"""Loaders give back what was written, and refuse what is broken with its place."""

from __future__ import annotations

import gzip
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from expunge.data import BUNDLED, exact_ids, load, load_ids, load_targets, random_cosine_features, read_task

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)
TABLES = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=FINITE)


def idx_bytes(array: np.ndarray) -> bytes:
    codes = {"u1": 8, "i1": 9, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    big = array.astype(array.dtype.newbyteorder(">"))
    header = bytes([0, 0, codes[array.dtype.str[1:]], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + big.tobytes()


def cifar_bytes(images: np.ndarray, labels: list[int]) -> bytes:
    return pickle.dumps(
        {b"batch_label": b"b", b"labels": labels, b"data": images, b"filenames": [b"a"] * len(labels)}, protocol=2
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


# --- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sets_load_by_name(name):
    data = load(name)
    assert data.name == name
    assert data.X.dtype == np.float64
    assert data.X.flags.c_contiguous
    assert len(data.X) == len(data.y) > 100
    assert data.y.dtype == (np.float64 if name == "diabetes" else np.int64)


def test_division_by_a_constant_is_all_that_happens_to_the_data():
    assert np.array_equal(load("digits", divide_by=16).X, load("digits").X / 16)


@given(TABLES)
def test_npy_round_trip(folder, X):
    np.save(folder / "x.npy", X)
    np.save(folder / "t.npy", np.arange(len(X)))
    data = load(folder / "x.npy", target=folder / "t.npy")
    assert np.array_equal(data.X, X)
    assert np.array_equal(data.y, np.arange(len(X)))
    assert load(folder / "x.npy").y is None


@given(TABLES, st.sampled_from(["y", "other"]))
def test_npz_round_trip(folder, X, name):
    np.savez(folder / "a.npz", **{"X": X, name: X[:, 0]})
    data = load(folder / "a.npz", target_column=None if name == "y" else name)
    assert np.array_equal(data.X, X)
    assert np.array_equal(data.y, X[:, 0])


@given(TABLES, st.booleans(), st.data())
def test_csv_round_trip(folder, X, with_header, data):
    position = data.draw(st.integers(0, X.shape[1]))
    table = np.insert(X, position, np.arange(len(X)), axis=1)
    names = [f"c{j}" for j in range(table.shape[1])]
    rows = [",".join(map(repr, row)) for row in table.tolist()]
    (folder / "a.csv").write_text("\n".join(([",".join(names)] if with_header else []) + rows) + "\n")
    loaded = load(folder / "a.csv", target_column=names[position] if with_header else position)
    assert np.array_equal(loaded.X, X)
    assert np.array_equal(loaded.y, np.arange(len(X)))


@given(TABLES, st.booleans())
def test_parquet_round_trip(folder, X, as_lists):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"label": pa.array(np.arange(len(X)))}
    if as_lists:
        columns["x"] = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    else:
        columns |= {f"x{j}": pa.array(X[:, j]) for j in range(X.shape[1])}
    parquet.write_table(pa.table(columns), folder / "a.parquet")
    data = load(folder / "a.parquet", target_column="label")
    assert np.array_equal(data.X, X)
    assert np.array_equal(data.y, np.arange(len(X)))


@given(
    st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]).flatmap(
        lambda code: hnp.arrays(code, hnp.array_shapes(min_dims=2, max_dims=3, max_side=5))
    ),
    st.booleans(),
)
def test_idx_round_trip(folder, images, zipped):
    if not np.isfinite(images.astype(np.float64)).all():
        images = np.nan_to_num(images, nan=0, posinf=0, neginf=0)
    ending = ".gz" if zipped else ""
    pack = gzip.compress if zipped else bytes
    (folder / f"s-images-idx3-ubyte{ending}").write_bytes(pack(idx_bytes(images)))
    (folder / f"s-labels-idx1-ubyte{ending}").write_bytes(pack(idx_bytes(np.arange(len(images), dtype=np.uint8))))
    data = load(folder / f"s-images-idx3-ubyte{ending}")
    assert np.array_equal(data.X, images.reshape(len(images), -1).astype(np.float64))
    assert np.array_equal(data.y, np.arange(len(images)))


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_cifar_batches_round_trip(folder, images):
    labels = [i % 10 for i in range(len(images))]
    for number in (1, 2):
        (folder / f"data_batch_{number}").write_bytes(cifar_bytes(images, labels))
    data = load(folder / "data_batch_1")
    assert np.array_equal(data.X, images)
    assert data.y.tolist() == labels
    assert np.array_equal(load(folder).X, np.vstack([images, images]))


def test_images_in_arrays_are_flattened(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.array([1, 2], dtype=np.uint8))
    data = load(tmp_path / "a.npz", divide_by=255)
    assert np.array_equal(data.X, images.reshape(2, 12) / 255)
    assert data.y.dtype == np.int64


def test_csv_whole_numbers_are_labels_and_others_are_not(tmp_path):
    (tmp_path / "a.csv").write_text("1.5,2\n2.5,3\n")
    assert load(tmp_path / "a.csv").y.dtype == np.int64
    (tmp_path / "a.csv").write_text("1.5,2.0\n2.5,3\n")
    assert load(tmp_path / "a.csv").y.dtype == np.float64


# --- tables as people have them ------------------------------------------------------------------

PEOPLE = """\
,id,age,member,income,city
0,9007199254740992,31,True,1.5e3,Rome
7,9007199254740993,"44",False,2e3,"Ulm, Old"
3,9007199254740992,18,true,-7,Rome
"""


@pytest.fixture(params=["pyarrow", "python"])
def reader(request, monkeypatch):
    """Read text tables by either reader; both must give the same."""
    if request.param == "pyarrow":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        monkeypatch.setattr("expunge.data.delimited._SMALL", 0)
    else:
        monkeypatch.setattr("expunge.data.delimited.find_spec", lambda name: None)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt", ".csv.gz"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_every_kind_of_text_table_gives_the_same(tmp_path, delimiter, ending, line):
    text = PEOPLE.replace("Ulm, Old", "Ulm# Old").replace(",", delimiter).replace("#", ",").replace("\n", line)
    data = "\ufeff".encode() + text.encode()
    place = tmp_path / f"a{ending}"
    place.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    found = load(place, id_column="id")
    assert found.X.tolist() == [[31, 1, 1500], [44, 0, 2000], [18, 1, -7]]
    assert found.feature_names == ("age", "member", "income")
    assert (found.target_name, found.y.tolist()) == ("city", ["Rome", "Ulm, Old", "Rome"])
    assert found.ids.tolist() == [9007199254740992, 9007199254740993, 9007199254740992]
    assert "'Unnamed: 0' is a row index" in found.notes[0]


@pytest.mark.usefixtures("reader")
def test_columns_are_chosen_by_name_or_position_and_kept_in_the_order_given(tmp_path):
    (tmp_path / "a.csv").write_text(PEOPLE)
    found = load(tmp_path / "a.csv", features=["income", "age"], target_column="member")
    assert found.X.tolist() == [[1500, 31], [2000, 44], [-7, 18]]
    assert found.y.tolist() == [1, 0, 1]
    found = load(tmp_path / "a.csv", drop=["city", 1], target_column=-2)
    assert (found.feature_names, found.target_name) == (("age", "member"), "income")
    found = load(tmp_path / "a.csv", drop=["city", "id"], with_target=False)
    assert (found.feature_names, found.y) == (("age", "member", "income"), None)
    assert load(tmp_path / "a.csv", id_column="Unnamed: 0", drop=["id"]).ids.tolist() == [0, 7, 3]
    for options, match in (
        ({"features": ["age", "size"]}, "features: there is no column 'size', got the columns Unnamed: 0, id, age"),
        ({"features": ["age", "age"]}, "features: column 'age' is named by features already"),
        ({"features": ["age"], "target_column": "age"}, "target_column: column 'age' is named by features already"),
        ({"features": ["city"], "target_column": "age"}, r"line 2, column 6 \('city'\) must hold a number, got 'Rome'"),
    ):
        with pytest.raises(ValueError, match=match):
            load(tmp_path / "a.csv", **options)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a,b\n1,2\n,3\n", r"line 3, column 1 \('a'\) must hold a number, got nothing: it is missing"),
        ("a,b\n1,2\nNA,3\n", r"line 3, column 1 \('a'\) must hold a number, got 'NA': it is missing"),
        ("a,b\n1,x\n2,\n", r"line 3, column 2 \('b'\) must hold a label, got nothing: it is missing"),
        ("a,b\n1,x\n2,3\n", r"line 2, column 2 \('b'\) must hold a number, got 'x'"),
        ('a,b\n"1\n",x\n\nno,y\n', r"line 5, column 1 \('a'\) must hold a number, got 'no'"),
        ("a,b,a\n1,2,3\n", "columns must have different names, got 'a' for columns 1 and 3"),
        ("a;b\n1,5;2\n", r"line 2, column 1 \('a'\) must hold a number, got '1,5' \(a decimal comma\?"),
        ("5.1,3.5,it\n4.9,3.0,it\n", "line 1 is neither a header nor numbers: column 3 holds 'it' .--no-header"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 cells, the first line has 2"),
        ('a,b\n1,2\n"3"4,5\n', "',' expected after"),
        ("a,b\n1,\ud800\n", "line 2 is not UTF-8"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_with_line_and_column(tmp_path, text, place):
    (tmp_path / "a.csv").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=rf"a\.csv: .*{place}"):
        load(tmp_path / "a.csv")


@pytest.mark.usefixtures("reader")
def test_what_a_table_cannot_tell_is_said_by_the_caller(tmp_path):
    (tmp_path / "a.csv").write_text("5.1,3.5,setosa\n4.9,3.0,other\n")
    assert load(tmp_path / "a.csv", header=False).y.tolist() == ["setosa", "other"]
    (tmp_path / "a.csv").write_text("a;b\n1,5;2\n-0,25;3\n")
    assert load(tmp_path / "a.csv", decimal_comma=True).X.tolist() == [[1.5], [-0.25]]


ODD = ["+1", " 2", "3 ", "0x10", "1_0", "1.", ".5", "-.5e3", "1e400", "nan", "Inf", "true", "FALSE", "", "NA", "x"]
ODD += ['"7"', '"a""b"', "1,5", "٣", "1e", "--1", "-0"]
CELLS = st.one_of(st.integers(-(10**20), 10**20).map(str), FINITE.map(repr), st.sampled_from(ODD))


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("cell", ["0x10", "1_0", "1e", "--1", "++1", "1d5", "0b1", "1 2", "- 1"])
def test_what_is_no_number_in_python_is_none_to_any_reader(tmp_path, cell):
    (tmp_path / "a.csv").write_text(f"a,b\n{cell},1\n")
    with pytest.raises(ValueError, match=r"line 2, column 1 \('a'\) must hold a number"):
        load(tmp_path / "a.csv")


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.sampled_from(",;"))
def test_both_readers_agree_on_every_table(folder, rows, delimiter):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (folder / "both.csv").write_text("\n".join(["a" + delimiter + "b", *(delimiter.join(row) for row in rows)]) + "\n")

    def outcome():
        try:
            data = load(folder / "both.csv", id_column="b", features=["a"], with_target=False)
        except ValueError as error:
            return str(error)
        return data.X.tobytes(), data.ids.tolist(), data.ids.dtype.kind

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expunge.data.delimited._SMALL", 0)
        first = outcome()
        patch.setattr("expunge.data.delimited.find_spec", lambda name: None)
        assert outcome() == first


def test_small_tables_do_not_load_pyarrow(tmp_path):
    """Where its threads just began to work, the end of the process aborted it: exit code 134 in place of 2."""
    (tmp_path / "a.csv").write_text("a,y\n1,0\n,1\n")
    code = f"""
import sys
from expunge.data import load
try:
    load({str(tmp_path / "a.csv")!r})
except ValueError as error:
    assert "line 3" in str(error), error
    assert "pyarrow.csv" not in sys.modules
    sys.exit(2)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 2


@given(st.lists(st.one_of(st.integers(), st.integers(2**53, 2**53 + 3), st.integers(2**63 - 2, 2**63 + 2)), min_size=1))
def test_ids_are_never_merged(folder, ids):
    (folder / "ids.csv").write_text("\n".join(["who", *map(str, ids)]) + "\n")
    found = load_ids(folder / "ids.csv")
    assert [str(one) for one in found.tolist()] == [str(one) for one in ids]
    assert np.array_equal(exact_ids(ids), found)
    assert found.dtype == (np.int64 if all(-(2**63) <= one < 2**63 for one in ids) else object)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ("C-1,5\nC-1 ,6\n", r"line 3, column 1 \('who'\) must hold an id without spaces around it, got 'C-1 '"),
        ('"C-1",5\n" C-1",6\n', r"line 3, column 1 \('who'\) must hold an id without spaces around it, got ' C-1'"),
        (" C-1,5\n", r"line 2, column 1 \('who'\) must hold an id without spaces around it, got ' C-1'"),
        (" 7,5\n8,6\n", r"line 2, .* got ' 7': remove them"),
        ("C\u00a0,5\n", "must hold an id without spaces around it"),
        ("  ,5\n", r"line 2, column 1 \('who'\) must hold an id, got nothing: it is missing"),
    ],
)
def test_ids_with_spaces_around_them_are_refused(tmp_path, rows, place):
    (tmp_path / "i.csv").write_text(f"who,a\n{rows}")
    with pytest.raises(ValueError, match=place):
        load_ids(tmp_path / "i.csv", column="who")


@pytest.mark.usefixtures("reader")
def test_spaces_belong_to_the_delimiter_where_quotes_follow_them(tmp_path):
    (tmp_path / "i.csv").write_text('a, who\n"1, 5", "C 1"\n2, C-2\n')
    assert load_ids(tmp_path / "i.csv", column="who").tolist() == ["C 1", "C-2"]


@pytest.mark.usefixtures("reader")
def test_targets_of_a_file_with_a_header_may_be_any_numbers_or_labels(tmp_path):
    for cells, found in ((["0.5", "1.5"], [0.5, 1.5]), ([" yes", "no"], ["yes", "no"])):
        (tmp_path / "y.csv").write_text("\n".join(["y", *cells]) + "\n")
        assert load_targets(tmp_path / "y.csv", n_rows=2).tolist() == found


def test_ids_of_every_source_are_exact_or_refused(tmp_path):
    big = np.array([2**63 + 1, 2**63 + 2], dtype=np.uint64)
    np.save(tmp_path / "g.npy", big)
    assert load_ids(tmp_path / "g.npy").tolist() == [2**63 + 1, 2**63 + 2]
    np.savez(tmp_path / "a.npz", X=np.ones((2, 1)), who=np.array([2**53, 2**53 + 1]))
    assert load(tmp_path / "a.npz", id_column="who").ids.tolist() == [2**53, 2**53 + 1]
    np.save(tmp_path / "g.npy", big.astype(np.float64))
    with pytest.raises(ValueError, match="float64, which merge large ids"):
        load_ids(tmp_path / "g.npy")
    (tmp_path / "i.csv").write_text("who\n1e+05\n2\n")
    with pytest.raises(ValueError, match="may have been rounded"):
        load_ids(tmp_path / "i.csv")
    for texts in (["007", "7"], ["-0", "0"], ["9" * 5000, "7"]):
        (tmp_path / "i.csv").write_text("\n".join(["who", *texts]) + "\n")
        assert load_ids(tmp_path / "i.csv").tolist() == texts
    (tmp_path / "i.csv").write_text("who\nC1\n\nC2\n")
    with pytest.raises(ValueError, match="line 3 is empty"):
        load_ids(tmp_path / "i.csv")
    (tmp_path / "i.csv").write_text("C1\nC2\n")
    assert load_ids(tmp_path / "i.csv").tolist() == ["C2"]
    assert load_ids(tmp_path / "i.csv", n_rows=2).tolist() == ["C1", "C2"]
    for bad in (
        [1.0, 2.0],
        [True, False],
        ["a", 1],
        ["a", None],
        np.ma.array([1, 2], mask=[0, 1]),
        [["a"]],
        ["a", ""],
        ["a", "a\0"],
    ):
        with pytest.raises((TypeError, ValueError), match="ids must"):
            exact_ids(bad)


def test_parquet_reads_labels_booleans_categories_and_index_columns(tmp_path):
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame = pd.DataFrame({"a": [1.5, 2.5, 3.5], "b": [True, False, True], "kind": ["x", "y", "x"]})
    frame["who"] = [2**53, 2**53 + 1, 5]
    for kind in ("str", "category"):
        frame.astype({"kind": kind}).set_index("who").to_parquet(tmp_path / "a.parquet")
        found = load(tmp_path / "a.parquet")
        assert (found.feature_names, found.target_name) == (("a", "b"), "kind")
        assert (found.X.tolist(), found.y.tolist()) == ([[1.5, 1], [2.5, 0], [3.5, 1]], ["x", "y", "x"])
        assert "'who' is a row index" in found.notes[0]
        assert load(tmp_path / "a.parquet", id_column="who").ids.tolist() == [2**53, 2**53 + 1, 5]
    frame.iloc[[2, 0]].to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet", id_column="who").feature_names == ("a", "b")
    assert load(tmp_path / "a.parquet", target_column="b", drop=["kind", "who"]).y.tolist() == [1, 1]


def test_labels_of_arrays_are_booleans_numbers_or_one_column_of_text(tmp_path):
    X = np.ones((3, 2))
    for y, truth in (
        (np.array([True, False, True]), [1, 0, 1]),
        (np.array(["a", "b", "a"]), ["a", "b", "a"]),
        (np.array([[1], [2], [3]]), [1, 2, 3]),
    ):
        np.savez(tmp_path / "a.npz", X=X, y=y)
        assert load(tmp_path / "a.npz").y.tolist() == truth
        np.save(tmp_path / "y.npy", y)
        np.save(tmp_path / "x.npy", X)
        assert load(tmp_path / "x.npy", target=tmp_path / "y.npy").y.tolist() == truth
    for y, match in (
        (np.array([["a", "b"]] * 3), "must be one column"),
        (np.array(["a", " ", "b"]), "target 1 is empty"),
        (np.array([2**63] * 3, dtype=np.uint64), "below 2\\^63"),
    ):
        np.savez(tmp_path / "a.npz", X=X, y=y)
        with pytest.raises(ValueError, match=match):
            load(tmp_path / "a.npz")


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    data = (tmp_path / "a.npy").read_bytes().replace(b"(2, 2)", b"(99999999, 9999)")[:144]
    data = data[:8] + struct.pack("<H", 118) + data[10:128] + bytes(32)
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("X.npy", data)
    tracemalloc.start()
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match="header claims"):
            load(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


# --- classes or numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "task", "classify", "sentence"),
    [
        ([0.0, 1.0, 2.0] * 9, "auto", True, "reading y as 3 classes: 0, 1, 2"),
        (["b", "a"] * 3, "auto", True, "reading y as 2 classes: a, b"),
        ([True, False], "auto", True, "reading y as 2 classes: 0, 1"),
        ([1, 2, 1], "auto", True, "reading y as 2 classes: 1, 2"),
        ([0.5, 1.0], "auto", False, "reading y as a number: regression"),
        (np.arange(30.0), "auto", False, "reading y as a number: regression"),
        ([0.0, 1.0, 0.0, 1.0], "regress", False, "reading y as a number: regression"),
        (np.arange(30), "classify", True, "reading y as 30 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."),
        (np.arange(30), "regress", False, "reading y as a number: regression"),
        (
            [f"C{i}" for i in range(30)],
            "classify",
            True,
            "reading y as 30 classes: C0, C1, C10, C11, C12, C13, C14, C15, C16, C17, ...",
        ),
        (["a"], "auto", True, "reading y as 1 class: a"),
        (np.ones((3, 2)), "auto", False, "reading y as 2 numbers: regression"),
    ],
)
def test_the_task_is_told_from_the_targets_and_said(y, task, classify, sentence):
    found = read_task(y, task=task)
    assert (found.classify, found.sentence) == (classify, sentence)
    assert found.y.dtype == np.float64 if not classify else found.y.dtype.kind in "iU"


@pytest.mark.parametrize(
    ("y", "task", "match"),
    [
        (np.arange(11_602), "auto", "11,602 different whole numbers in 11,602 records: pass --task regress"),
        (np.arange(450) // 2 * 3, "auto", None),
        (np.repeat(np.arange(1001), 5), "auto", "holds 1,001 classes, at most 1,000 are learned: pass --task regress"),
        (np.arange(2000), "classify", "holds 2,000 classes, at most 1,000 are learned: pass --task regress"),
        ([f"C{i}" for i in range(1001)], "auto", "are these ids"),
        (np.arange(60), "auto", "pass --task regress .* --task classify if these are classes"),
        ([0.5, 1.0], "classify", "whole numbers .* or text, got 0.5"),
        ([1e300, 2e300], "classify", "whole numbers .* or text, got 1e\\+300"),
        (np.array([2**63, 2**63 + 1], dtype=np.uint64), "auto", "classes below 2\\^63"),
        ([f"C{i}" for i in range(30)], "auto", "30 different texts in 30 records: are these ids.* --task classify"),
        (["a", "b"], "regress", "holds text"),
        ([["a", "b"]], "auto", "one column of classes"),
        ([1, 2], "guess", "task must be one of"),
    ],
)
def test_targets_that_are_hardly_classes_are_refused_with_the_remedy(y, task, match):
    if match is None:
        assert read_task(y, task=task).classify  # half of the records, no more
        return
    with pytest.raises(ValueError, match=match):
        read_task(y, task=task)


@pytest.mark.usefixtures("reader")
def test_tables_of_excel_and_of_unnamed_frames(tmp_path):
    (tmp_path / "a.csv").write_text("sep=|\na|b\n1,2|3\nx|4\n")
    with pytest.raises(ValueError, match=r"line 3, column 1 \('a'\) must hold a number, got '1,2'"):
        load(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("sep=;\r\na;b\r\n1;3\r\n2;4\r\n")
    assert load(tmp_path / "a.csv").X.tolist() == [[1], [2]]
    (tmp_path / "a.csv").write_text(",0,1,2\n4,5,6,0\n9,7,8,1\n")
    found = load(tmp_path / "a.csv")
    assert (found.X.tolist(), found.y.tolist()) == ([[5, 6], [7, 8]], [0, 1])


def test_csv_header_of_counted_columns_is_a_header(tmp_path):
    (tmp_path / "a.csv").write_text("0,1,target\n5,6,1\n7,8,0\n")
    assert load(tmp_path / "a.csv", target_column="target").X.tolist() == [[5, 6], [7, 8]]


def test_real_mnist_loads(shared_data):
    data = load(shared_data / "t10k-images-idx3-ubyte.gz", divide_by=255)
    assert data.X.shape == (10000, 784)
    assert np.bincount(data.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "is empty"),
        ("a,b\n", "a header and no records"),
        ("1,2\n3\n", "line 2 has 1 cells"),
        ("1,2\n3,x\n", "line 2, column 2 must hold a number, got 'x'"),
        ("1,2\n3,\n", "line 2, column 2 must hold a number, got nothing"),
        ("1,2\nnan,1\n", "line 2, column 1 must be finite"),
        ("1,2\n1e999,1\n", "line 2, column 1 must be finite"),
        ("1,,2\n3,4,5\n", "line 1, column 2 is empty"),
        ("1,x,2\n3,4,5\n", "line 1 is neither a header nor numbers: column 2 holds 'x'"),
        ("1,1_0\n1,2\n", "line 1 is neither"),
        ("1\n2\n", "one column"),
        ('1,"2\n', "unexpected end of data"),
    ],
)
def test_bad_csv_is_refused_with_its_place(tmp_path, text, place):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.csv: .*{place}"):
        load(tmp_path / "a.csv")


def test_unknown_target_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,d\n1,2,3\n")
    with pytest.raises(ValueError, match="there is no column 'c', got the columns a, b, d"):
        load(tmp_path / "a.csv", target_column="c")
    with pytest.raises(ValueError, match=r"within \[-3, 3\), got 3"):
        load(tmp_path / "a.csv", target_column=3)
    with pytest.raises(ValueError, match="bundled"):
        load("iris", target_column="a")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.parquet", "x-images-idx3-ubyte", "x-images.gz", "batch"])
def test_every_truncation_is_refused_and_names_the_file(tmp_path, name):
    X = np.arange(40, dtype=np.float64).reshape(8, 5)
    y = np.arange(8)
    place = tmp_path / name
    if name == "x.npy":
        np.save(place, X)
    elif name == "x.npz":
        np.savez(place, X=X, y=y)
    elif name == "x.parquet":
        pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        pytest.importorskip("pyarrow.parquet").write_table(pa.table({"a": X[:, 0], "y": y}), place)
    elif name == "batch":
        place.write_bytes(cifar_bytes(X.astype(np.uint8), y.tolist()))
    else:
        data = idx_bytes(X.astype(np.uint8))
        place.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    whole = place.read_bytes()
    load(place)
    for cut in {*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
        place.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            load(place)


def test_a_damaged_archive_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.ones((20, 20)), y=np.ones(20))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[600] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz"):
        load(tmp_path / "a.npz")


def test_objects_and_text_are_never_read_as_numbers(tmp_path):
    np.save(tmp_path / "o.npy", np.array([[object()]]), allow_pickle=True)
    np.save(tmp_path / "s.npy", np.array([["1", "2"]]))
    np.save(tmp_path / "c.npy", np.array([[1j]]))
    for name in ("o.npy", "s.npy", "c.npy"):
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(tmp_path, value):
    X = np.zeros((4, 3))
    X[2, 1] = value
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match=r"x\.npy: record 2, feature 1 must be finite"):
        load(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", X=np.zeros((4, 3)), y=X[:, 1])
    with pytest.raises(ValueError, match=r"x\.npz: target 2 must be finite"):
        load(tmp_path / "x.npz")


def test_lengths_and_shapes_are_checked(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((4, 3)), y=np.zeros(5))
    with pytest.raises(ValueError, match=r"each of the 4 records, got shape \(5,\)"):
        load(tmp_path / "a.npz")
    for shape in ((0, 3), (3, 0), (3,)):
        np.save(tmp_path / "a.npy", np.zeros(shape))
        with pytest.raises(ValueError, match="at least one record"):
            load(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match="no file nowhere"):
        load("nowhere")
    with pytest.raises(FileNotFoundError, match="target: there is no file"):
        load(tmp_path / "a.npy", target=tmp_path / "none.npy")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="no readable format"):
        load(tmp_path / "a.txt")


@pytest.mark.parametrize("divide_by", [0, -1, np.nan, np.inf])
def test_the_divisor_must_be_a_positive_number(divide_by):
    with pytest.raises(ValueError, match="divide_by"):
        load("iris", divide_by=divide_by)


def test_an_idx_header_that_claims_too_much_is_refused_without_the_memory(tmp_path):
    (tmp_path / "a.idx").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31) + b"\0" * 16)
    tracemalloc.start()
    with pytest.raises(ValueError, match="is truncated"):
        load(tmp_path / "a.idx")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


class _Runs:
    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": _Runs(), b"labels": [1]}, protocol=protocol))
    with pytest.raises(ValueError, match=r"refused as a CIFAR-10 batch: it asks for"):
        load(tmp_path / "batch")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {b"labels": [1]},
        {b"data": np.zeros((2, 2), np.uint8), b"labels": [1, "a"]},
        {b"data": np.array([[None]]), b"labels": [1]},
        {b"data": np.zeros((1, 2), np.dtype([("a", "u1")])), b"labels": [1]},
        {b"data": np.zeros((1, 2), np.uint8), b"labels": [1, 2]},
    ],
)
def test_a_pickle_that_is_no_batch_is_refused(tmp_path, value):
    (tmp_path / "batch").write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(ValueError, match="batch"):
        load(tmp_path / "batch")


@given(st.binary(max_size=60))
def test_no_bytes_make_the_batch_reader_fail_otherwise(folder, data):
    (folder / "noise").write_bytes(b"\x80\x02" + data)
    with pytest.raises(ValueError, match="noise"):
        load(folder / "noise")


def test_bad_parquet_is_refused_with_its_column(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    cases = {
        "column 'a', row 1 must hold a number, got nothing": {"a": pa.array([1.0, None]), "y": pa.array([1, 2])},
        "column 'a' must hold numbers .* got string": {"a": pa.array(["p", "q"]), "y": pa.array([1, 2])},
        "column 'a' must hold numbers .* got list": {"a": pa.array([[1.0], [2.0, 3.0]]), "y": pa.array([1, 2])},
        "holds no records": {"a": pa.array([], pa.float64()), "y": pa.array([], pa.float64())},
        "one column": {"a": pa.array([1.0])},
    }
    for message, columns in cases.items():
        parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "a.parquet")
    twice = pa.Table.from_arrays([pa.array([1.0])] * 3, names=["a", "y", "a"])
    parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="columns must have different names, got 'a' for columns 1 and 3"):
        load(tmp_path / "a.parquet")


# --- the feature map -----------------------------------------------------------------------------


@given(TABLES.filter(lambda X: np.abs(X).max() < 1e6), st.integers(0, 2**32 - 1))
def test_features_of_one_record_never_depend_on_another(X, seed):
    together = random_cosine_features(X, n_features=5, scale=0.3, seed=seed)
    assert np.abs(together).max() <= np.sqrt(2 / 5)
    for i in range(len(X)):
        alone = random_cosine_features(X[i : i + 1], n_features=5, scale=0.3, seed=seed)
        # cos is 1-Lipschitz, so it is the rounding of X W (about n eps |X||W|) that may differ between the products
        slack = 1e-14 * (1 + np.abs(X[i]).sum() * 2)
        assert np.allclose(alone[0], together[i], rtol=0, atol=slack)


def test_features_approach_the_gaussian_kernel():
    X = np.random.default_rng(0).normal(size=(6, 3))
    Z = random_cosine_features(X, n_features=200_000, scale=0.7, seed=3)
    squared = ((X[:, None] - X[None]) ** 2).sum(-1)
    # the mean of m terms bounded by 2 with variance <= 2: six standard deviations
    assert np.abs(Z @ Z.T - np.exp(-0.49 * squared / 2)).max() < 6 * np.sqrt(2 / 200_000)


def test_features_of_a_seed_are_always_the_same():
    features = random_cosine_features([[0.0]], n_features=3, scale=1.0, seed=5)
    random = np.random.RandomState(5)
    random.standard_normal(3)
    assert np.array_equal(features[0], np.sqrt(2 / 3) * np.cos(random.uniform(0, 2 * np.pi, 3)))


@pytest.mark.parametrize(
    ("change", "name"),
    [({"n_features": 0}, "n_features"), ({"scale": 0.0}, "scale"), ({"seed": -1}, "seed"), ({"seed": 2**32}, "seed")],
)
def test_bad_feature_arguments_are_named(change, name):
    with pytest.raises(ValueError, match=name):
        random_cosine_features([[1.0]], **{"n_features": 2, "scale": 1.0, "seed": 0, **change})
