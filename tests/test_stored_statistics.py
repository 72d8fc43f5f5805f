"""Statistics of shards in files: added up they have the bits of one pass, and sums that no table has are refused."""

import re
import stat
from functools import reduce

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge._files import FileFormatError
from expunge._files.headed import headed_bytes, read_headed
from expunge.data import RidgeStatistics, blocks, open_records
from test_ridge_statistics import ROWS, bits, table


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 64 rows for 3 features."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", ROWS * 8 * 3)


X, Y = table(7 * ROWS + 5)
LABELS = np.where(Y[:, 0] > 2.0, "b", "a")


def statistics(kind="numbers", **part):
    if kind == "classes":
        return RidgeStatistics.of(X, LABELS, classes=["a", "b"], **part)
    if kind == "whole classes":
        return RidgeStatistics.of(X, (LABELS == "b").astype(int), classes=[0, 1], **part)
    return RidgeStatistics.of(X, Y[:, 0] if kind == "one" else Y, **part)


@pytest.mark.parametrize("kind", ["numbers", "one", "classes", "whole classes"])
@pytest.mark.parametrize("part", [{}, {"start": 3}, {"stop": 5}, {"start": 2, "stop": 3}, {"start": 7}])
def test_statistics_come_back_to_the_bit(kind, part, tmp_path):
    found = statistics(kind, **part)
    path = found.save(tmp_path / "s.npz")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = RidgeStatistics.load(path)
    for name in ("n_features", "n_outputs", "classes", "single_output", "feature_names", "ranges", "n_records"):
        assert getattr(again, name) == getattr(found, name)
    whole = statistics(kind)
    rest = [
        statistics(kind, start=a, stop=b) for a, b in ((0, part.get("start", 0)), (part.get("stop", 8), 8)) if a < b
    ]
    assert bits(reduce(lambda one, two: one + two, rest, again)) == bits(whole)
    with pytest.raises(FileExistsError):
        found.save(path)


def test_files_of_shards_make_the_model_of_one_pass(tmp_path):
    for i in range(8):
        statistics("one", start=i, stop=i + 1).save(tmp_path / f"{i}.npz")
    parts = [RidgeStatistics.load(path) for path in sorted(tmp_path.iterdir(), reverse=True)]
    added = reduce(lambda one, two: one + two, parts)
    added.save(tmp_path / "all.npz")
    settings = {"n_steps": 50, "noise_std": 0.01, "random_state": 0}
    one, two = (
        LangevinRidge(**settings).fit_statistics(each)
        for each in (RidgeStatistics.load(tmp_path / "all.npz"), statistics("one"))
    )
    assert np.array_equal(one.coef_, two.coef_)
    result = one.unlearn(table=open_records(X, target=Y[:, 0]), rows=3, epsilon=1.0, delta=1e-5, n_steps=5)
    assert result.certificate.verify(X, Y[:, 0], result.model).delta_pq <= 1e-5
    with pytest.raises(ValueError, match="got block 3 twice"):
        added + RidgeStatistics.load(tmp_path / "3.npz")


def test_names_of_features_stay(tmp_path):
    pandas = pytest.importorskip("pandas")
    found = RidgeStatistics.of(pandas.DataFrame(X, columns=["a", "b", "ü"]), Y)
    assert RidgeStatistics.load(found.save(tmp_path / "s.npz")).feature_names == ("a", "b", "ü")


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (0.0 * x, y),
        lambda x, y: (x * [1e-170, 1e-9, 1e9], 1e-170 * y),
        lambda x, y: (x * 10.0 ** np.linspace(-12, 12, len(x))[:, None], 0.0 * y),
        lambda x, y: (np.repeat(x[:1], len(x), axis=0), y),
        lambda x, y: (x[:1], y[:1]),
    ],
)
def test_whatever_a_table_holds_its_statistics_are_read(change, tmp_path):
    found = RidgeStatistics.of(*change(X, Y))
    assert bits(RidgeStatistics.load(found.save(tmp_path / "s.npz"))) == bits(found)


# --- what no table has ---------------------------------------------------------------------------


def put(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


ARRAYS = ("gram", "moment", "squares", "moment_rest")
NODE = ("nodes", 0)


@pytest.mark.parametrize(
    ("header", "arrays", "said"),
    [
        *(({}, {name: None}, f"no {name}") for name in ARRAYS),
        *(({}, {name: lambda a: a * np.nan}, f"{name} must be finite") for name in ARRAYS),
        *(({}, {name: lambda a: a.astype(np.float32)}, f"{name} must be float64") for name in ARRAYS),
        *(({}, {name: lambda a: a[:-1]}, f"{name} must have shape 3 x") for name in ARRAYS),
        ({}, {"moment": lambda a: a[0]}, "moment must be of one pair of matrices"),
        ({}, {"gram": put((0, 0, 0), -1.0)}, "gram must be a sum of squares"),
        ({}, {"gram": put((0, 0, 1), 1e6)}, "gram must be a sum of squares"),
        ({}, {"gram": put((0, 0, -1), 255.0)}, "gram must end in the number of records, 256"),
        ({}, {"moment": put((0, 0, 0, 0), 1e9)}, "moment must be of the targets whose squares"),
        ({}, {"squares": put((0, 0, 0), -1.0)}, "target_squares must be sums of squares"),
        ({}, {"moment_rest": put((0, 0), 0.0)}, "moment_rest must be bounds > 0"),
        ({("kind",): "Ridge"}, {}, "holds a Ridge, expected RidgeStatistics"),
        ({("version",): 2}, {}, "has version 2, this library reads version 1"),
        ({("version",): True}, {}, "has version True"),
        ({("block_rows",): 128}, {}, "block_rows must be 64"),
        ({("n_features",): 0}, {}, "n_features must be a whole number >= 1"),
        ({("n_features",): 4}, {}, "gram must have shape 3 x 2 x 15"),
        ({("single_output",): True}, {}, "moment must be of one pair"),
        ({("single_output",): 1}, {}, "single_output must be true or false"),
        ({("feature_names",): ["a"]}, {}, "feature_names must be one text per feature, 3"),
        ({("feature_names",): ["a", "b", 3]}, {}, "a feature name must be text"),
        ({("classes",): ["a"]}, {}, "classes must be at least 2 distinct labels"),
        ({("classes",): ["b", "a"]}, {}, "classes must be at least 2 distinct labels in their order"),
        ({("classes",): ["a", "b", "c"]}, {}, "classes must be one per output, 2"),
        ({("classes",): ["a", "b"]}, {}, "target_sums must be the records of each class, 256"),
        ({("classes",): "ab"}, {}, "classes must be a list"),
        ({("nodes",): []}, {}, "must have shape 0"),
        ({("nodes",): None}, {}, "has no len"),
        ({(*NODE, "level"): 64}, {}, "level must be less than 64"),
        ({(*NODE, "level"): -1}, {}, "level must be a whole number"),
        ({(*NODE, "level"): 1}, {}, "nodes must be full but for the last, got 256 records from 0 on"),
        ({(*NODE, "index"): 1}, {}, "nodes must be of different blocks in their order"),
        ({(*NODE, "n_records"): 255}, {}, "nodes must be full but for the last"),
        ({("nodes", 2, "n_records"): 65}, {}, "n_records must be those of the blocks of its node, got 65"),
        ({("nodes", 2, "n_records"): 0}, {}, "n_records must be a whole number >= 1"),
        ({("nodes", 2, "n_records"): 6}, {}, "gram must end in the number of records, 6"),
        ({(*NODE, "digest"): "0"}, {}, "digest must be 64 hexadecimal digits"),
        ({(*NODE, "gram_rest"): "inf"}, {}, "gram_rest must be > 0 and finite"),
        ({(*NODE, "longest"): ["0x1p+40", 3]}, {}, "longest row must be as long as rows"),
        ({(*NODE, "longest"): ["nan", 3]}, {}, "longest row must have a square >= 0"),
        ({(*NODE, "longest"): ["0x1p+2", 256]}, {}, "longest row must be one of 256"),
        ({("nodes", 1, "longest"): ["0x1p+2", 255]}, {}, "longest row must be one of the node from row 256 on"),
    ],
)  # fmt: skip
def test_statistics_that_no_table_has_are_refused_by_name(header, arrays, said, tmp_path):
    path = RidgeStatistics.of(X[: 6 * ROWS + 5], Y[: 6 * ROWS + 5]).save(tmp_path / "s.npz")
    values, stored = read_headed(path, what="file", versions=(1,))
    assert [node["n_records"] for node in values["nodes"]] == [256, 128, 5]
    for keys, value in header.items():
        inner = values
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
    for name, change in arrays.items():
        stored = {**stored, name: change(stored[name])} if change else {k: v for k, v in stored.items() if k != name}
    path.write_bytes(headed_bytes(values, stored))
    with pytest.raises(FileFormatError, match=re.escape(said)):
        RidgeStatistics.load(path)


def test_neighbours_that_make_one_are_refused(tmp_path):
    """The tree of a range of blocks is one: another would have other bits."""
    values, stored = read_headed(statistics(stop=1).save(tmp_path / "a.npz"), what="file", versions=(1,))
    more, others = read_headed(statistics(start=1, stop=2).save(tmp_path / "b.npz"), what="file", versions=(1,))
    both = {**values, "nodes": values["nodes"] + more["nodes"]}
    path = tmp_path / "c.npz"
    path.write_bytes(headed_bytes(both, {name: np.concatenate([stored[name], others[name]]) for name in ARRAYS}))
    with pytest.raises(FileFormatError, match="nodes must be the fewest that hold their blocks"):
        RidgeStatistics.load(path)


def test_classes_are_counted(tmp_path):
    path = statistics("classes").save(tmp_path / "s.npz")
    values, stored = read_headed(path, what="file", versions=(1,))
    path.write_bytes(headed_bytes({**values, "single_output": True}, stored))
    with pytest.raises(FileFormatError, match="moment must be of one pair"):
        RidgeStatistics.load(path)
    model = LangevinRidgeClassifier(n_steps=30, noise_std=0.1)
    assert model.fit_statistics(RidgeStatistics.load(statistics("classes").save(path, overwrite=True))).coef_.shape == (
        2,
        3,
    )


def test_every_flipped_bit_is_found(tmp_path):
    path = statistics(stop=2).save(tmp_path / "s.npz")
    whole = bytearray(path.read_bytes())
    for position in range(0, len(whole), 7):
        whole[position] ^= 1
        path.write_bytes(whole)
        with pytest.raises(FileFormatError, match=r"s\.npz"):
            RidgeStatistics.load(path)
        whole[position] ^= 1
    with pytest.raises(FileNotFoundError, match="there is no file of statistics at"):
        RidgeStatistics.load(tmp_path / "none.npz")
