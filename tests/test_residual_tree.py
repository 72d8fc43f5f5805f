"""The tree of salted record hashes: one root whatever the way to it, removals and absences shown from hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.certificates import CertificateError, VerificationError
from expunge.certificates.residual import (
    AbsenceProof,
    Leaves,
    MembershipProof,
    RecordTree,
    ResidualCertificate,
    hashing,
    shows_removal,
)

KEY = bytes(range(32))


def data(n, *, seed=0, p=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)), rng.normal(size=n), rng.integers(0, 256, size=(n, 16), dtype=np.uint8)


def tree_of(n, *, seed=0, ids=None):
    X, y, salts = data(n, seed=seed)
    return RecordTree.of(X, y, ids=ids, salts=salts, key=KEY)


def test_hashes_and_salts_are_enough_for_proofs():
    tree = tree_of(500, ids=[f"r{i}" for i in range(500)])
    same = RecordTree.of_hashes(ids=tree.ids, key=tree.key, contents=tree.contents, salts=tree.salts)
    assert same.root == tree.root
    assert same.absence("nobody") == tree.absence("nobody")
    assert same.membership("r7") == tree.membership("r7")
    for bare in (same, same.without([3])):
        with pytest.raises(ValueError, match="takes no records"):
            bare.with_([[1.0, 2.0, 3.0]], [1.0], ids=["r"])
        with pytest.raises(ValueError, match="takes no records"):
            bare.replaced([0], [[1.0, 2.0, 3.0]], [1.0])
    assert same.without([3]).root == tree.without([3]).root
    with pytest.raises(ValueError, match=r"contents must be uint8 of shape \(500, 32\)"):
        RecordTree.of_hashes(ids=tree.ids, key=tree.key, contents=tree.salts, salts=tree.salts)


# --- the format --------------------------------------------------------------------------------


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def slow_root(records, key, *, depth):
    """Return the root as the format says it, record by record; a record is id, row, answer, weight and salt."""
    leaves = []
    for name, row, answer, weight, salt in records:
        kind = b"string\0" if isinstance(name, str) else b"integer\0"
        own = hmac.new(key, b"expunge-residual-id-v1\0" + kind + str(name).encode(), hashlib.sha256).digest()
        if isinstance(answer, bytes):
            tag = b"expunge-residual-record-v1:label".ljust(40, b"\0")
        else:
            tag, answer = b"expunge-residual-record-v1:targets".ljust(40, b"\0"), struct.pack("<d", answer)
        size = struct.pack("<Q", len(row)), struct.pack("<Q", len(answer))
        numbers = struct.pack(f"<{len(row)}d", *row)
        leaves.append(own + sha(tag, salt, size[0], numbers, size[1], answer, struct.pack("<d", weight)))

    def branch(prefix):
        mine = [leaf for leaf in leaves if f"{int.from_bytes(leaf[:8], 'big'):064b}".startswith(prefix)]
        if not mine:
            return bytes(32)
        if len(prefix) == depth:
            return sha(b"expunge-residual-bucket-v1\0", *sorted(mine))
        return sha(b"expunge-residual-node-v1\0", branch(prefix + "0"), branch(prefix + "1"))

    commitment = sha(b"expunge-residual-key-v1\0", key)
    return sha(b"expunge-residual-root-v1\0", struct.pack("<QQ", depth, len(records)), commitment, branch("")).hex()


@pytest.mark.parametrize(("n", "depth"), [(1, 0), (64, 0), (65, 1), (128, 1), (129, 2), (300, 3)])
def test_the_root_is_that_of_the_format(n, depth):
    X, y, salts = data(n)
    weights = np.linspace(0, 2, n)
    names = [f"person {i % 7} {i}" for i in range(n)]
    tree = RecordTree.of(X, y, ids=names, weights=weights, salts=salts, key=KEY)
    records = list(zip(names, X.tolist(), y.tolist(), weights.tolist(), map(bytes, salts), strict=True))
    assert tree.depth == depth == hashing.depth_of(n)
    assert tree.root == slow_root(records, KEY, depth=depth)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_long_records_have_the_same_hashes_on_any_number_of_cores(workers, monkeypatch):
    rng = np.random.default_rng(0)
    n, p = 500, 300
    X, y, salts = rng.standard_normal((n, p)), rng.standard_normal(n), rng.integers(0, 256, (n, 16), dtype=np.uint8)
    weights = rng.uniform(0.0, 2.0, n)
    monkeypatch.setattr(hashing.backend, "default_threads", lambda: workers)
    answers = hashing.answer_bytes(y[:, None], None, classes=None)
    found = hashing.contents_of(X, answers, weights, salts, labelled=False)
    tag = b"expunge-residual-record-v1:targets".ljust(40, b"\0")
    for row in range(n):
        message = tag + salts[row].tobytes() + struct.pack("<Q", p) + X[row].tobytes()
        message += struct.pack("<Qdd", 8, y[row], weights[row])
        assert found[row].tobytes() == hashlib.sha256(message).digest(), row


@pytest.mark.parametrize("length", [0, 32, 64, 65, 200])
def test_keys_are_hmacs_of_ids(length):
    key, ids = bytes(range(length)), [0, -7, 10**30, "7", "", "Zoë", "\ud800"]
    found = hashing.keys_of(ids, key=key)
    for one, mine in zip(ids, found, strict=True):
        kind = b"string\0" if isinstance(one, str) else b"integer\0"
        message = b"expunge-residual-id-v1\0" + kind + str(one).encode("utf-8", "surrogatepass")
        assert mine.tobytes() == hmac.new(key, message, "sha256").digest()


def test_empty_buckets_are_zeros_and_all_rows_of_an_id_lie_in_one():
    X, y, salts = data(600)
    tree = RecordTree.of(X, y, ids=["one"] * 300 + ["other"] * 300, salts=salts, key=KEY)
    names = ["one"] * 300 + ["other"] * 300
    records = list(zip(names, X.tolist(), y.tolist(), [1.0] * 600, map(bytes, salts), strict=True))
    assert tree.root == slow_root(records, KEY, depth=4)
    assert len(tree.membership("other").salts) == 300
    tree.absence("third").check(tree.root)


def test_labels_enter_by_the_digest_of_targets_digest():
    label = sha(b"expunge-digest-v1:y/labels\0", b'["b"]')
    tree = RecordTree.of([[0.5]], ["b"], ids=[7], classes=["a", "b"], salts=np.zeros((1, 16), np.uint8), key=KEY)
    assert tree.root == slow_root([(7, [0.5], label, 1.0, bytes(16))], KEY, depth=0)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 8000, 100_000, 2**40])
def test_a_bucket_has_between_half_and_all_of_64_leaves_on_average(n):
    assert n / 2 ** hashing.depth_of(n) <= 64
    assert n <= 64 or n / 2 ** hashing.depth_of(n) > 32


@pytest.mark.parametrize(
    "change",
    [
        {"ids": ["1", "2", "3"]},
        {"ids": [1, 2, 4]},
        {"key": bytes(32)},
        {"weights": [1.0, 1.0, np.nextafter(1, 2)]},
        {"classes": ["0", "1"], "y": ["0", "1", "1"]},
        {"classes": None, "y": [0.0, 1.0, 1.0]},
        {"y": [0, 1, 0]},
        {"X": [[1.0, 2.0], [3.0, 4.0], [5.0, np.nextafter(6, 7)]]},
        {"X": [[1.0, 2.0], [3.0, 4.0], [6.0, 5.0]]},
        {"salts": np.ones((3, 16), np.uint8)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_of_a_record_is_in_the_root(change):
    settings = {
        "X": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
        "y": [0, 1, 1],
        "ids": [1, 2, 3],
        "classes": [0, 1],
        "weights": None,
        "salts": np.zeros((3, 16), np.uint8),
        "key": KEY,
    }
    root = RecordTree.of(settings.pop("X"), settings.pop("y"), **settings).root
    settings.update(change)
    X, y = settings.pop("X", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), settings.pop("y", [0, 1, 1])
    assert RecordTree.of(X, y, **settings).root != root


def test_minus_zero_is_not_zero():
    salts = np.zeros((1, 16), np.uint8)
    assert (
        RecordTree.of([[0.0]], [1.0], salts=salts, key=KEY).root
        != RecordTree.of([[-0.0]], [1.0], salts=salts, key=KEY).root
    )


def test_salts_and_keys_are_fresh():
    X, y, _ = data(3)
    one, other = RecordTree.of(X, y), RecordTree.of(X, y)
    assert one.root != other.root
    assert one.key != other.key
    assert len({bytes(salt) for salt in np.vstack([one.salts, other.salts])}) == 6


# --- changes -----------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), n=st.integers(1, 200), changes=st.lists(st.sampled_from("wra"), max_size=6))
def test_changes_give_the_tree_from_scratch(seed, n, changes):
    rng = np.random.default_rng(seed)
    X, y, _ = data(n, seed=seed)
    ids = rng.integers(0, max(2, n), size=n)  # some repeat
    tree = RecordTree.of(X, y, ids=ids)
    for change in changes:
        k = int(rng.integers(1, 60))
        if change == "a":
            more, answers, _ = data(k, seed=seed + 1)
            new = rng.integers(0, 1000, size=k)
            tree = tree.with_(more, answers, ids=new)
            X, y, ids = np.vstack([X, more]), np.hstack([y, answers]), np.hstack([ids, new])
            continue
        rows = rng.permutation(len(X))[: min(k, len(X) - (change == "w"))]
        if len(rows) == 0:
            continue
        if change == "w":
            tree = tree.without(rows)
            X, y, ids = (np.delete(one, rows, axis=0) for one in (X, y, ids))
        else:
            X, y = X.copy(), y.copy()
            X[rows], y[rows] = rng.normal(size=(len(rows), 3)), rng.normal(size=len(rows))
            tree = tree.replaced(rows, X[rows], y[rows])
    again = RecordTree.of(X, y, ids=ids, salts=tree.salts, key=tree.key)
    assert tree.root == again.root == tree.leaves.root
    assert tree.depth == hashing.depth_of(len(X))
    assert tree.ids.tolist() == ids.tolist()
    order = rng.permutation(len(X))
    assert RecordTree.of(X[order], y[order], ids=ids[order], salts=tree.salts[order], key=tree.key).root == tree.root


@pytest.mark.parametrize("n", [65, 129, 3])
def test_the_tree_before_a_change_stays_as_it_is(n):
    tree = tree_of(n)
    root, leaves = tree.root, tree.leaves.values
    smaller = tree.without([0])
    smaller.with_([[1.0, 2.0, 3.0]], [1.0], ids=[5])
    tree.replaced([1], [[1.0, 2.0, 3.0]], [1.0])
    assert tree.root == root == tree.leaves.root
    assert (tree.leaves.values == leaves).all()
    assert smaller.depth == hashing.depth_of(n - 1)


def test_nothing_of_a_record_that_left_is_in_the_tree():
    names = [f"person {i:05d}" for i in range(100)]
    tree = tree_of(100, ids=names)
    gone = tree.leaves.values[17].tobytes(), tree.salts[17].tobytes(), names[17].encode("utf-32-le")
    assert all(one in pickle.dumps(tree) for one in gone)
    assert not any(one in pickle.dumps(tree.without([17])) for one in gone)


def test_the_depth_tells_nothing_of_records_that_left():
    tree = tree_of(129)
    fewer = tree.without(range(65, 129))
    assert (tree.depth, fewer.depth) == (2, 1)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda tree: tree.without([3]), r"positions must be within \[0, 3\)"),
        (lambda tree: tree.without([0, 0]), "positions must not repeat"),
        (lambda tree: tree.without([0, 1, 2]), "positions must leave a record"),
        (lambda tree: tree.with_([[1.0, 2.0, 3.0]], [1.0], ids=["7"]), "ids must be numbers"),
        (lambda tree: tree.with_([[1.0, 2.0, 3.0]], [1.0], ids=[7, 8]), "ids must have one entry"),
        (lambda tree: tree.with_([[1.0, np.nan, 3.0]], [1.0], ids=[7]), "X must be finite"),
        (lambda tree: tree.with_([[1.0, 2.0, 3.0]], [np.inf], ids=[7]), "y must be finite"),
        (lambda tree: tree.with_([[1.0, 2.0, 3.0]], [1.0], ids=[7], weights=[-1.0]), "weights must be >= 0"),
        (lambda tree: tree.with_([[1.0, 2.0, 3.0]], [1.0], ids=[7.0]), "ids must be"),
        (lambda tree: RecordTree.of([[1.0]], [1.0], weights=[[1.0]]), "weights must have 1 dim"),
        (lambda tree: RecordTree.of([[1.0]], [[[1.0]]]), "y must have 1 or 2 dimensions"),
        (lambda tree: tree.replaced([0, 1], [[1.0, 2.0, 3.0]], [1.0]), "ids must have one entry"),
        (lambda tree: RecordTree.of([[1.0]], [1.0], key=b"short"), "key must be 32 bytes"),
        (lambda tree: RecordTree.of(np.empty((0, 2)), []), "at least one record"),
        (lambda tree: RecordTree.of([[1.0]], ["c"], classes=["a", "b"]), "y must hold the classes"),
        (lambda tree: RecordTree.of([[1.0]], [1.0], salts=np.zeros((1, 8), np.uint8)), "salts must be uint8"),
        (lambda tree: Leaves(np.zeros((1, 63), np.uint8), bytes(32)), "values must be uint8"),
    ],
)
def test_what_makes_no_tree_is_refused_by_name(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call(tree_of(3))


# --- removals ----------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), n=st.integers(2, 150))
def test_a_removal_is_shown_by_hashes_and_no_other_change_is(seed, n):
    rng = np.random.default_rng(seed)
    tree = tree_of(n, seed=seed)
    gone = rng.permutation(n)[: rng.integers(1, n)]
    before, after = tree.leaves, tree.without(gone).leaves
    removed = before.values[gone]
    assert shows_removal(before, after, removed)
    assert not shows_removal(before, after, removed[1:])
    assert not shows_removal(after, before, removed)
    assert not shows_removal(before, after, np.vstack([removed, removed[:1]]))
    changed = after.values.copy()
    changed[0, 40] ^= 1
    assert not shows_removal(before, Leaves(changed, after.commitment), removed)
    assert not shows_removal(before, Leaves(after.values, bytes(32)), removed)
    X, y, _ = data(n, seed=seed)
    kept = np.delete(np.arange(n), gone)
    resalted = RecordTree.of(X[kept], y[kept], ids=kept, key=KEY).leaves
    assert not shows_removal(before, resalted, removed)


# --- proofs ------------------------------------------------------------------------------------


@given(n=st.integers(1, 300), name=st.integers(0, 400))
def test_an_id_is_proved_absent_or_present_never_both(n, name):
    tree = tree_of(n)
    made, refused = (tree.membership, tree.absence) if name < n else (tree.absence, tree.membership)
    proof = made(name)
    proof.check(tree.root)
    assert proof.root == tree.root
    with pytest.raises(CertificateError, match="bucket"):
        refused(name)
    other = tree_of(n, seed=1)
    with pytest.raises(VerificationError, match="root: must be that of the data"):
        proof.check(other.root)


@pytest.mark.parametrize("kind", [AbsenceProof, MembershipProof])
def test_proofs_come_back_from_their_files(kind, tmp_path):
    tree = tree_of(200, ids=[f"p{i}" for i in range(200)])
    proof = tree.absence("q") if kind is AbsenceProof else tree.membership("p3")
    path = tmp_path / "proof.json"
    proof.save(path)
    assert kind.load(path) == proof
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        proof.save(path)
    proof.save(path, overwrite=True)
    assert path.read_text() == proof.to_json()
    empty = tmp_path / "empty.json"
    empty.write_text("")
    for found, error in ((empty, CertificateError), (tmp_path / "none.json", FileNotFoundError)):
        with pytest.raises(error):
            kind.load(found)
    with pytest.raises(CertificateError, match="format"):
        (MembershipProof if kind is AbsenceProof else AbsenceProof).load(path)


def test_a_proof_cannot_be_bent():
    tree = tree_of(300)
    present = tree.membership(5)
    mine = hashing.keys_of([5], key=KEY)[0].tobytes().hex()
    without = tuple(leaf for leaf in present.bucket if not leaf.startswith(mine))
    fields = {"tree_key": present.tree_key, "n_records": 300, "siblings": present.siblings}
    twin = dict(zip(("twin_bucket", "twin_siblings"), tree._path("5"), strict=True))
    forged = AbsenceProof(record_id=5, bucket=without, **fields, **twin)
    with pytest.raises(VerificationError, match="root"):
        forged.check(tree.root)
    other_key = {**fields, "tree_key": "00" * 32}
    empty = AbsenceProof(record_id=5, bucket=(), **other_key, twin_bucket=(), twin_siblings=present.siblings)
    with pytest.raises(VerificationError, match="root"):
        empty.check(tree.root)
    proof = tree.absence(1000)
    for change, field in (
        ({"record_id": 1001}, "bucket|root"),
        ({"n_records": 301}, "root"),
        ({"n_records": 5}, "siblings"),
        ({"bucket": proof.bucket[:-1]}, "root"),
        ({"bucket": proof.bucket[::-1]}, "bucket"),
        ({"bucket": (*proof.bucket, "ff" * 64)}, "bucket|root"),
        ({"bucket": (proof.bucket[0], *proof.bucket)}, "bucket"),
        ({"n_records": 0}, "n_records"),
        ({"siblings": proof.siblings[::-1]}, "root"),
        ({"siblings": proof.siblings[1:]}, "siblings"),
        ({"tree_key": "00" * 32}, "bucket|root"),
        ({"tree_key": "00"}, "tree_key"),
        ({"twin_bucket": proof.twin_bucket[:-1]}, "root"),
        ({"twin_bucket": proof.twin_bucket[::-1]}, "twin_bucket"),
        ({"twin_bucket": None}, "twin_bucket"),
        ({"twin_siblings": None}, "twin_siblings"),
        ({"twin_siblings": proof.twin_siblings[::-1]}, "root"),
        ({"twin_siblings": proof.twin_siblings[1:]}, "twin_siblings"),
        ({"version": 1}, "twin_bucket"),
        ({"version": 3}, "version"),
        ({"version": True}, "twin_bucket|version"),
    ):
        with pytest.raises(CertificateError) as caught:
            dataclasses.replace(proof, **change).check(tree.root)
        assert caught.value.field in field.split("|"), change


def test_a_proof_of_the_other_kind_of_id_is_refused():
    tree = tree_of(3, ids=["7", "8", "9"])
    with pytest.raises(TypeError, match="record_id must be text"):
        tree.absence(7)
    with pytest.raises(CertificateError):
        tree.absence("7")
    with pytest.raises(TypeError, match="whole number"):
        tree_of(3).absence("1")


@pytest.mark.parametrize("there", ["7", 7])
def test_nobody_is_told_that_an_id_is_absent_that_is_there_as_the_other_kind(there):
    text = isinstance(there, str)
    tree = tree_of(300, ids=[str(i) if text else i for i in range(300)])
    asked = 7 if text else "7"  # which is not there, but for its twin
    forms = {name: dict(zip(("bucket", "siblings"), tree._path(name), strict=True)) for name in (7, "7")}
    fields = {"tree_key": tree.key.hex(), "n_records": 300, "record_id": asked, **forms[asked]}
    twin = {f"twin_{name}": value for name, value in forms[there].items()}
    with pytest.raises(CertificateError, match="twin_bucket: must hold no record with the id"):
        AbsenceProof(**fields, **twin)
    with pytest.raises(CertificateError, match="twin_bucket: must be given"):
        AbsenceProof(**fields)
    mine = hashing.keys_of([there], key=KEY)[0].tobytes().hex()
    without = tuple(leaf for leaf in twin["twin_bucket"] if not leaf.startswith(mine))
    assert len(without) == len(twin["twin_bucket"]) - 1
    with pytest.raises(VerificationError, match="root"):
        AbsenceProof(**fields, **{**twin, "twin_bucket": without}).check(tree.root)
    absent = tree.absence("999" if text else 999)
    absent.check(tree.root)
    assert "neither as a whole number nor as text" in absent.shows
    assert AbsenceProof.from_json(absent.to_json()) == absent


def test_proofs_of_the_first_version_are_read_and_say_that_they_are_about_one_kind():
    tree = tree_of(300)
    bucket, siblings = tree._path(999)
    old = AbsenceProof(999, tree.key.hex(), 300, bucket, siblings, version=1)
    old.check(tree.root)
    values = json.loads(old.to_json())
    assert (values["version"], sorted(values)) == (1, sorted({*values} - {"twin_bucket", "twin_siblings"}))
    assert '7 and "7" are different ids' in old.does_not_show[0] == values["does_not_show"][0]
    assert values["shows"] == old.shows != AbsenceProof.shows
    assert AbsenceProof.from_json(old.to_json()) == old
    values["shows"] = AbsenceProof.shows
    with pytest.raises(CertificateError, match="shows"):
        AbsenceProof.from_json(json.dumps(values))


def test_ids_that_only_text_can_be_have_no_twin():
    tree = tree_of(3, ids=["a", "b", "c"])
    for name in ("customer 7", "007", "7.0", "-0", "\u0667"):
        proof = tree.absence(name)
        assert proof.twin_bucket is None
        assert AbsenceProof.from_json(proof.to_json()) == proof
        with pytest.raises(CertificateError, match="twin_siblings: must be null"):
            dataclasses.replace(proof, twin_siblings=())
    assert tree.absence("-7").twin_bucket is not None


def test_roots_of_numbers_and_of_the_same_text_differ():
    X, y, salts = data(4)
    kinds = ([1, 2, 3, 4], ["1", "2", "3", "4"])
    assert len({RecordTree.of(X, y, ids=ids, salts=salts, key=KEY).root for ids in kinds}) == 2


def test_whoever_knows_a_record_recognises_it():
    X, y, salts = data(100)
    labels = np.where(y > 0, "yes", "no")
    ids = np.arange(100) // 2
    tree = RecordTree.of(X, labels, ids=ids, classes=["no", "yes"], weights=np.full(100, 2.0), salts=salts, key=KEY)
    proof = tree.membership(np.int64(30))
    assert len(proof.salts) == 2
    for row in (60, 61):
        assert proof.holds(X[row], labels[row], classes=("no", "yes"), weight=2.0)
        assert not proof.holds(X[row], labels[row], classes=("no", "yes"))
        assert not proof.holds(np.nextafter(X[row], 9), labels[row], classes=("no", "yes"), weight=2.0)
    with pytest.raises(ValueError, match="weight must be >= 0"):
        proof.holds(X[60], labels[60], classes=("no", "yes"), weight=-1.0)
    assert not proof.holds(X[60], labels[60], classes=("no", "yes"), weight=0.0)
    assert not proof.holds(X[62], labels[62], classes=("no", "yes"), weight=2.0)
    with pytest.raises(CertificateError, match="salts: must be 2"):
        dataclasses.replace(proof, salts=proof.salts[:1])


def test_a_proof_says_in_words_what_it_shows_and_what_not():
    values = json.loads(tree_of(3).absence(9).to_json())
    assert "no record with this id" in values["shows"]
    said = " ".join(values["does_not_show"])
    assert "entered again under another id" in said
    assert "test guesses of the ids" in said
    values["shows"] = "Everything."
    with pytest.raises(CertificateError, match="shows"):
        AbsenceProof.from_json(json.dumps(values))


def test_proofs_that_an_earlier_version_wrote_are_read_as_they_were():
    folder = Path(__file__).parent / "golden" / "residual-v1"
    certificate = ResidualCertificate.load(folder / "certificate.json")
    for kind, name in ((AbsenceProof, "absence"), (MembershipProof, "membership")):
        proof = kind.load(folder / f"{name}.json")
        proof.check(certificate)
        assert proof.to_json() == (folder / f"{name}.json").read_text()
    assert (AbsenceProof.load(folder / "absence.json").record_id, certificate.digests.data) == ("999", proof.root)
