"""Files of ridge models made from statistics: sums in place of rows, nothing of the deleted, and no lies."""

import copy
import json
import pickle
import re
import stat
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge._files import FileFormatError
from expunge.cli import main
from expunge.data import RidgeStatistics, open_records
from expunge.data.close_products import MARGIN, UNIT
from expunge.estimators import _storage
from expunge.estimators._storage import working_bytes
from test_purge import in_any, spelled

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

SETTINGS = {"n_steps": 60, "noise_std": 0.01, "step_size": 0.0025}
TARGET = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 5}
N, GONE = 60, [6, 7, 40, 41]
RNG = np.random.default_rng(11)
X = RNG.normal(size=(N, 4))
Y = X @ [1.0, -1.0, 0.5, 0.0] + RNG.normal(size=N)
LABELS = np.where(Y > 0, "yes", "no")
IDS = [f"person-{i // 2}-{(i // 2) * 104_729:x}" for i in range(N)]
KINDS = ("regressor", "two outputs", "classifier", "no intercept")
GOLDEN = Path(__file__).parent / "golden" / "models-v4"


def table_of(kind, rows=slice(None)):
    y = {"classifier": LABELS, "two outputs": np.column_stack([Y, X[:, 0]])}.get(kind, Y)
    return open_records(X[rows], target=y[rows], ids=np.array(IDS)[rows])


def fitted(kind):
    cls = LangevinRidgeClassifier if kind == "classifier" else LangevinRidge
    classes = ["no", "yes"] if kind == "classifier" else None
    statistics = RidgeStatistics.of(table_of(kind), classes=classes)
    return cls(**SETTINGS, fit_intercept=kind != "no intercept").fit_statistics(statistics)


def later(kind):
    return fitted(kind).unlearn(table=table_of(kind), rows=GONE, **TARGET).model


def contents(model, path):
    header, arrays = _storage.read(model.save(path, overwrite=True))
    return header, {name: (one.dtype, one.shape, one.tobytes()) for name, one in arrays.items()}


# --- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("made", [fitted, later])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_back_to_the_bit_and_goes_on(kind, made, tmp_path):
    model = made(kind)
    path = model.save(tmp_path / "m.npz")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = type(model).load(path)
    assert contents(again, tmp_path / "n.npz") == contents(model, path)
    assert again.conditions_ == model.conditions_
    assert again.get_params()["alpha"] == model.alpha
    assert np.array_equal(again.predict(X), model.predict(X))
    assert again.ledger_salt_ == model.ledger_salt_
    table = table_of(kind)
    one, two = (each.unlearn(table=table, rows=20, **TARGET) for each in (model, again))
    assert one.certificate.run == two.certificate.run
    assert one.certificate.delta_qp == two.certificate.delta_qp
    assert two.certificate.verify(table, model=two.model).delta_qp <= TARGET["delta"]
    quotes = [each.quote(table, ids=IDS[20], **TARGET).noise_std for each in (model, again)]
    assert np.array_equal(*quotes)


@pytest.mark.parametrize("made", [fitted, later])
def test_pickles_and_copies_go_on_too(made, tmp_path):
    model = made("regressor")
    table = table_of("regressor")
    wanted = model.unlearn(table=table, rows=20, **TARGET).certificate.run
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert again.unlearn(table=table, rows=20, **TARGET).certificate.run == wanted
        assert contents(again, tmp_path / "n.npz") == contents(model, tmp_path / "m.npz")


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda X, y: (0.0 * X, y),
        lambda X, y: (X, 0.0 * y),
        lambda X, y: (X[:1], y[:1]),
        lambda X, y: (np.repeat(X[:1], 50, axis=0), y[:50]),
        lambda X, y: (X[:, [0, 0, 0]], 1e7 * X[:, 0]),
        lambda X, y: (X * [1e-170, 1e-9, 1.0, 1e9], 1e-170 * y),
        lambda X, y: (X * 1e-160, y * 1e-160),
        lambda X, y: (np.rint(X), np.rint(y)),
        lambda X, y: (X * 10.0 ** np.linspace(-12, 12, N)[:, None], y),
    ],
)
def test_whatever_a_table_holds_its_model_is_read(change, intercept, tmp_path):
    """Checks of files allow for rounding and for squares that underflow."""
    features, y = change(X, Y)
    model = LangevinRidge(n_steps=3, fit_intercept=intercept).fit_statistics(RidgeStatistics.of(features, y))
    path = model.save(tmp_path / "m.npz")
    assert contents(LangevinRidge.load(path), tmp_path / "n.npz") == contents(model, path)


def test_a_model_that_forgot_its_history_is_a_file_of_version_2(tmp_path):
    model = fitted("regressor").forget_history()
    path = model.save(tmp_path / "m.npz")
    assert _storage.read(path)[0]["version"] == 2
    assert np.array_equal(LangevinRidge.load(path).coef_, model.coef_)


def test_a_file_is_not_overwritten_unless_asked_to(tmp_path):
    path = fitted("regressor").save(tmp_path / "m.npz")
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        later("regressor").save(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["m.npz"]


@pytest.mark.parametrize("made", [fitted, later])
def test_the_command_line_reads_such_files_and_says_what_needs_the_table(made, tmp_path):
    path = made("regressor").save(tmp_path / "m.npz")
    (tmp_path / "x.csv").write_text("a,b,c,d\n1,2,3,4\n")
    for arguments, code, said in (
        (["predict", path, tmp_path / "x.csv", "-o", tmp_path / "p.csv"], 0, ""),
        (["purge", path], 0, "nothing to do"),
        (["quote", path], 2, "name the table as it now stands by --data"),
        (["unlearn", path, "--rows", "3", "-o", tmp_path / "n.npz", "-c", tmp_path / "c.json"], 2, "by --data"),
    ):
        result = CliRunner().invoke(main, [str(one) for one in arguments])
        assert (result.exit_code, said in result.output) == (code, True), result.output


@pytest.mark.parametrize("name", ["regressor", "classifier"])
def test_files_of_version_4_are_read(name):
    """Of the first release that writes them: the model answers as then, and forgets further records."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    features, y = np.array(expected["X"]), np.array(expected["y"])
    cls = LangevinRidge if name == "regressor" else LangevinRidgeClassifier
    model = cls.load(GOLDEN / f"{name}.npz")
    assert model.coef_.tolist() == expected["coef"][name]
    table = open_records(
        features, target=y if name == "regressor" else np.where(y > 0, "yes", "no"), ids=expected["ids"]
    )
    result = model.unlearn(table=table, ids="p0", epsilon=1.0, delta=1e-3, n_steps=5)
    before = expected["deleted"] if name == "regressor" else []
    assert result.certificate.run.deleted == (0, 1, *before)
    assert result.certificate.verify(table, model=result.model).delta_pq <= 1e-3


# --- what is not in it ---------------------------------------------------------------------------


def traces(kind, rows):
    """Return what must not be found of rows: their numbers, products of these alone, and ids."""
    design = np.column_stack([X, np.ones(N)])
    inverse = np.linalg.inv(design.T @ design + np.eye(5))
    found = {}
    for row in rows:
        x = design[row]
        numbers = {"feature": x[:4], "k": inverse @ x, "norm": [np.linalg.norm(x), np.linalg.norm(x[:4]), x @ x]}
        numbers["square"] = np.outer(x, x)[np.triu_indices(4, k=1)]
        if kind != "classifier":
            numbers |= {"target": [Y[row]], "moment": x[:4] * Y[row]}
        for name, values in numbers.items():
            for i, value in enumerate(values):
                found |= {f"{name} {i} of row {row}, way {k}": one for k, one in enumerate(spelled(value))}
        found[f"id of row {row}"] = IDS[row].encode()
        found[f"row {row}"] = X[row].tobytes()
    return found


def blobs_of(model, path):
    return {
        "file": model.save(path).read_bytes(),
        "pickle": pickle.dumps(model),
        "old pickle": pickle.dumps(model, protocol=0),
        "loaded": pickle.dumps(type(model).load(path)),
        "release": model.release().save(path.with_name("r.npz"), overwrite=True).read_bytes(),
        "text": (repr(vars(model._history)) + repr(model)).encode(),
    }


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_no_row_is_in_a_file_and_nothing_of_the_deleted(kind, tmp_path):
    """Also where the longest row is deleted, whose length the sums before it hold."""
    model, table = fitted(kind), table_of(kind)
    longest = model._history.sums.longest[0]
    assert in_any({name: one for name, one in traces(kind, range(N)).items() if "norm 0" not in name}, blobs_of(
        model, tmp_path / "before.npz"
    )) == []  # fmt: skip
    needles = traces(kind, [*GONE, longest])
    first = model.unlearn(table=table, rows=GONE, **TARGET)
    second = first.model.unlearn(table=table, rows=[longest], **TARGET)
    assert in_any(needles, blobs_of(second.model, tmp_path / "m.npz")) == []
    certificates = {"one": first.certificate.to_json().encode(), "two": second.certificate.to_json().encode()}
    assert in_any(needles, certificates) == []
    # The search finds what is there: the length of the longest row, before it is deleted.
    assert in_any(traces(kind, [longest]), {"file": working_bytes(first.model)})


def test_sums_after_a_deletion_are_those_of_a_table_without_the_rows(tmp_path):
    """To the bit: no rounding of a sum tells of what was in it before."""
    header, arrays = _storage.read(later("regressor").save(tmp_path / "m.npz"))
    kept = np.setdiff1d(np.arange(N), GONE)
    model = LangevinRidge(**SETTINGS).fit_statistics(RidgeStatistics.of(table_of("regressor", kept)))
    without, others = _storage.read(model.save(tmp_path / "n.npz"))
    assert header["sums"] == without["sums"]
    for name in ("gram", "moment", "moment_rest", "target_sums", "target_squares"):
        assert np.array_equal(arrays[name], others[name])


# --- what no table has ---------------------------------------------------------------------------


def rewritten(path, *, header=None, arrays=None):
    values, stored = _storage.read(path)
    for keys, value in (header or {}).items():
        inner = values
        for key in keys[:-1]:
            inner = inner[key]
        if value is None:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
    for name, change in (arrays or {}).items():
        if change is None:
            del stored[name]
        else:
            stored[name] = change(stored[name])
    path.write_bytes(_storage.sealed_bytes(values, stored))
    return path


def put(index, value, *, mirrored=False):
    def change(array):
        array = array.copy()
        array[index] = value
        if mirrored:
            array[index[::-1]] = value
        return array

    return change


ONE_ROUNDING = (0.5 * MARGIN * UNIT).hex()
ARRAYS = ("gram", "moment", "moment_rest", "target_sums", "target_squares")


@pytest.mark.parametrize(
    ("header", "arrays", "said"),
    [
        *(({}, {name: None}, f"no {name}") for name in ARRAYS),
        *(({}, {name: lambda a: a.astype(np.float32)}, f"{name} must be float64") for name in ARRAYS),
        *(({}, {name: lambda a: a[:-1] if a.ndim > 1 else a[:0]}, f"{name} must have shape") for name in ARRAYS),
        *(({}, {name: lambda a: a * np.nan}, f"{name} must be finite") for name in ARRAYS),
        ({}, {"gram": put((0, 1), 0.5)}, "gram must be symmetric"),
        ({}, {"gram": put((1, 1), -1.0)}, "gram must be a sum of squares"),
        ({}, {"gram": put((0, 1), 1e3, mirrored=True)}, "gram must be a sum of squares"),
        ({}, {"gram": put((4, 4), 61.0)}, "gram must end in the number of records, 60"),
        ({}, {"gram": lambda a: 1e6 * a}, "gram must end in the number of records"),
        ({("step_size",): (0.02).hex()}, {}, "step_size must be > 0 and at most 1/L"),
        ({}, {"moment": put((0, 0), 1e6)}, "moment must be of the targets whose squares are target_squares"),
        ({}, {"moment": put((4, 0), 1.0)}, "target_sums must be those of the moment's constant column"),
        ({}, {"moment_rest": put(0, -1.0)}, "moment_rest must be bounds > 0"),
        ({}, {"moment_rest": put(0, 0.0)}, "moment_rest must be bounds > 0"),
        ({}, {"target_squares": put(0, -1.0)}, "target_squares must be sums of squares"),
        ({}, {"target_squares": put(0, 1e-9)}, "larger products"),
        ({("sums",): None}, {}, "no sums"),
        ({("sums", "gram_rest"): None}, {}, "no gram_rest"),
        ({("sums", "gram_rest"): "0x0p+0"}, {}, "gram_rest must be > 0 and finite"),
        ({("sums", "gram_rest"): "nan"}, {}, "gram_rest must be > 0 and finite"),
        ({("sums", "gram_roundings"): ONE_ROUNDING}, {}, "gram_roundings must be at least"),
        ({("sums", "gram_roundings"): "inf"}, {}, "gram_roundings must be at least"),
        ({("sums", "digest"): "0" * 63}, {}, "digest of sums must be 64 hexadecimal digits"),
        ({("sums", "digest"): 7}, {}, "digest of sums must be text"),
        ({("sums", "longest"): [60, "0x1p+2"]}, {}, "longest row must be one of 60, got 60"),
        ({("sums", "longest"): [-1, "0x1p+2"]}, {}, "longest row must be a whole number"),
        ({("sums", "longest"): [0, "nan"]}, {}, "longest row must have a finite norm"),
        ({("sums", "longest"): [0, "0x1p-8"]}, {}, "longest row must be as long as rows"),
        ({("sums", "longest"): [0, "0x1p+9"]}, {}, "longest row must be as long as rows"),
        ({("sums", "longest"): [0]}, {}, "values to unpack"),
        ({("sums", "n_records"): 59}, {}, "n_records of sums must be that of the history, 60, got 59"),
        ({("sums", "n_records"): 60.0}, {}, "n_records of sums must be a whole number"),
        ({("n_records",): 61}, {}, "n_records of sums must be that of the history, 61"),
        ({("n_records",): 10**15, ("sums", "n_records"): 10**15}, {}, "number of records, 1000000000000000"),
        ({("n_records",): None}, {}, "no n_records"),
        ({("phases",): []}, {}, "phases must hold at least the learning"),
        ({("phases", 0, "removed"): [1]}, {}, "removed of phase 0 must be none while learning"),
        ({("alpha",): "nan"}, {}, "alpha must be finite and > 0"),
        ({("version",): 3}, {}, "no law"),
        ({("version",): 2}, {}, "no labels"),
        ({("version",): 6}, {}, "has version 6, this library reads versions 1, 2, 3, 4 and 5"),
        ({("law",): {"covariance_error": "0x0p+0", "digests": ["0" * 64] * 2}}, {}, "no law_mean"),
    ],
)  # fmt: skip
def test_sums_that_no_table_has_are_refused_by_name(header, arrays, said, tmp_path):
    path = rewritten(fitted("regressor").save(tmp_path / "m.npz"), header=header, arrays=arrays)
    with pytest.raises(FileFormatError, match=re.escape(said)):
        LangevinRidge.load(path)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"target_sums": put(0, 5.0), "moment": put((4, 0), 5.0)}, "target_sums must be the records of each class, 60"),
        ({"target_squares": put(0, 30.5)}, "target_sums must be the records of each class"),
        ({"classes": lambda a: a[:1]}, "classes must be one per output"),
    ],
)
def test_sums_of_classes_count_records(arrays, said, tmp_path):
    path = rewritten(fitted("classifier").save(tmp_path / "m.npz"), arrays=arrays)
    with pytest.raises(FileFormatError, match=said):
        LangevinRidgeClassifier.load(path)


def test_fractions_of_records_are_no_counts(tmp_path):
    path = fitted("classifier").save(tmp_path / "m.npz")
    half = put(slice(None), [29.5, 30.5])
    arrays = {"target_sums": half, "target_squares": half, "moment": put(4, [29.5, 30.5])}
    with pytest.raises(FileFormatError, match="target_sums must be whole numbers of records"):
        LangevinRidgeClassifier.load(rewritten(path, arrays=arrays))


@pytest.mark.parametrize(
    ("header", "arrays", "said"),
    [
        ({("law",): None}, {}, "law must be present after a deletion"),
        ({}, {"law_mean": None}, "no law_mean"),
        ({}, {"law_covariance": put((0, 1), 7.0)}, "law_covariance must be symmetric"),
        ({("phases", 1, "removed"): [6, 7, 40]}, {}, "n_records of sums must be that of the history, 57, got 56"),
        ({("phases", 1, "removed"): [6, 7, 40, 60]}, {}, "removed of phase 1 must be sorted rows below 60"),
        ({("law", "digests"): ["0" * 64]}, {}, "digests must be two of 64"),
    ],
)
def test_histories_that_contradict_their_sums_are_refused(header, arrays, said, tmp_path):
    path = rewritten(later("regressor").save(tmp_path / "m.npz"), header=header, arrays=arrays)
    with pytest.raises(FileFormatError, match=said):
        LangevinRidge.load(path)


def test_a_number_of_records_that_no_memory_holds_takes_none(tmp_path):
    """Without a constant column nothing else counts them; the table does."""
    huge = {("n_records",): 10**15, ("sums", "n_records"): 10**15, ("sums", "longest"): [0, "0x1p+1"]}
    path = rewritten(fitted("no intercept").save(tmp_path / "m.npz"), header=huge)
    tracemalloc.start()
    model = LangevinRidge.load(path)
    assert "1000000000000000 records" in repr(model)
    with pytest.raises(ValueError, match="table must hold the 1,000,000,000,000,000 records"):
        model.quote(table_of("regressor"), rows=3, **TARGET)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"gram": lambda a: a + np.diag([1e-9, 0, 0, 0, 0])}, r"X\^T X that is 1e-09"),
        ({"gram": put((0, 1), 1.0, mirrored=True)}, r"X\^T X"),
        ({"moment": lambda a: a + np.array([[1e-9], [0], [0], [0], [0]])}, r"X\^T Y that is 1e-09"),
    ],
)
@pytest.mark.parametrize("made", [fitted, later])
def test_sums_that_are_not_those_of_the_table_are_found_by_the_pass(change, what, made, tmp_path):
    """A digest of rows says nothing of sums: these are compared with those over both parts of the table."""
    path = rewritten(made("regressor").save(tmp_path / "m.npz"), arrays=change)
    model = LangevinRidge.load(path)
    with pytest.raises(ValueError, match=f"statistics of the model must be those of the table, got {what}"):
        model.unlearn(table=table_of("regressor"), rows=20, **TARGET)


def test_every_flipped_bit_is_found(tmp_path):
    path = later("regressor").save(tmp_path / "m.npz")
    whole = bytearray(path.read_bytes())
    for position in range(0, len(whole), 13):
        whole[position] ^= 1
        path.write_bytes(whole)
        with pytest.raises(FileFormatError, match=r"m\.npz"):
            LangevinRidge.load(path)
        whole[position] ^= 1
