"""Loaders give back what was written, and refuse what is broken with its place."""

from __future__ import annotations

import gzip
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from expunge.datasets import BUNDLED, load, random_cosine_features

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


def test_unknown_and_ambiguous_target_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,b\n1,2,3\n")
    with pytest.raises(ValueError, match="there is no column 'c', got the columns a, b, b"):
        load(tmp_path / "a.csv", target_column="c")
    with pytest.raises(ValueError, match="names 2 columns"):
        load(tmp_path / "a.csv", target_column="b")
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
    with pytest.raises(ValueError, match="no format that can be read"):
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
