"""Batched chains against one chain at a time, their laws, and the closed form of ridge chains."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from emulated import at, on_every_device, put
from expunge._kernels import backend
from expunge.langevin import langevin_chains, standard_normals

LOSSES = ["squared", "logistic", "softmax"]


def problem(loss, n, p, q, seed=1):
    """Return records, targets as the face takes them, and targets as rows."""
    X = standard_normals((n, p), seed=seed, dtype=np.float32).astype(np.float64)
    raw = standard_normals((n, q), seed=seed, chain=1, dtype=np.float32).astype(np.float64)
    if loss == "squared":
        return X, raw, raw
    if loss == "logistic":
        labels = (raw[:, 0] > 0).astype(int)
        return X, labels, labels[:, None].astype(float)
    labels = raw.argmax(axis=1)
    return X, labels, np.eye(q)[labels]


def run(loss, X, y, q, device="cpu", **changes):
    settings_of_run = {
        "alpha": 0.5, "step_size": 0.01, "noise_std": 0.1, "n_steps": 5, "n_chains": 6, "seed": 9,
        "n_classes": q if loss == "softmax" else None,
    }  # fmt: skip
    if "theta0" in changes:
        changes["theta0"] = put(changes["theta0"], device)
    return at(device, langevin_chains)(X, y, loss=loss, **{**settings_of_run, **changes})


@on_every_device
@given(
    loss=st.sampled_from(LOSSES),
    n=st.sampled_from([1, 3, 4, 17, 300]),
    p=st.sampled_from([1, 7, 8, 64, 65]),
    outputs=st.integers(1, 4),
    sampling_probability=st.sampled_from([1.0, 0.5, 0.1]),
    clip=st.sampled_from([None, 0.7]),
    radius=st.sampled_from([None, 0.6]),
    dtype=st.sampled_from([np.float64, np.float32]),
    n_chains=st.sampled_from([1, 5, 17]),
    varying=st.booleans(),
)
def test_chains_are_those_of_the_oracle(
    device, loss, n, p, outputs, sampling_probability, clip, radius, dtype, n_chains, varying
):
    q = 1 if loss == "logistic" else outputs
    X, y, targets = problem(loss, n, p, q)
    T = 3
    eta, tau = [0.02 / n] * T, [0.05] * T
    if varying:
        eta, tau = [0.01 / n, 0.03 / n, 0.02 / n], [0.1, 0.0, 0.05]
    theta0 = standard_normals((n_chains, p, q), seed=3, dtype=np.float32).astype(np.float64) / np.sqrt(p)
    common = {"loss": loss, "alpha": 0.5, "step_size": eta, "noise_std": tau, "seed": 9, "first_step": 2**31}
    common |= {"sampling_probability": sampling_probability, "clip": clip, "radius": radius, "dtype": dtype}
    ours = run(
        device=device,
        q=q,
        X=X,
        y=y,
        n_steps=T,
        n_chains=n_chains,
        theta0=theta0,
        first_chain=2**40 - 2,
        record=range(T + 1),
        **common,
    )
    assert ours.shape == (T + 1, n_chains, p, q)
    assert ours.dtype == dtype
    for chain in {0, n_chains - 1}:
        path = oracles.langevin_chain(X, targets, chain=2**40 - 2 + chain, theta0=theta0[chain], **common)
        # Each step adds roundings of sums of n p terms of size about ||x|| / n at most.
        scale = np.abs(path).max() + 1
        np.testing.assert_allclose(ours[:, chain], path, rtol=0, atol=64 * np.finfo(dtype).eps * scale)


CASES = [
    {"loss": "squared"},
    {"loss": "squared", "clip": 0.5, "radius": 0.7},
    {"loss": "squared", "sampling_probability": 0.2},
    {"loss": "logistic"},
    {"loss": "softmax", "sampling_probability": 0.3, "clip": 0.4},
    {"loss": "softmax", "radius": 0.5},
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("p", [1, 7, 64, 100])
def test_thread_count_changes_no_bit(case, p):
    q = 1 if case["loss"] == "logistic" else 3
    X, y, _ = problem(case["loss"], 41, p, q)
    for dtype in (np.float64, np.float32):
        one = run(X=X, y=y, q=q, n_chains=101, dtype=dtype, threads=1, **case)
        for threads in (2, 3, 7):
            np.testing.assert_array_equal(run(X=X, y=y, q=q, n_chains=101, dtype=dtype, threads=threads, **case), one)


def assert_same(ours, theirs, exact):
    if exact:
        np.testing.assert_array_equal(ours, theirs)
    else:  # wide full batches go through BLAS, whose order of summation may depend on the shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=256 * np.finfo(ours.dtype).eps * np.abs(theirs).max())


@on_every_device
@given(
    case=st.sampled_from(CASES),
    p=st.sampled_from([1, 7, 64, 65]),
    split=st.integers(1, 22),
    cut=st.integers(1, 6),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_batches_split_and_runs_continue(device, case, p, split, cut, dtype):
    q = 1 if case["loss"] == "logistic" else 2
    X, y, _ = problem(case["loss"], 19, p, q)
    exact = p <= 64 or case.get("sampling_probability", 1.0) < 1
    T, m, case = 7, 23, {**case, "dtype": dtype, "device": device}
    whole = run(X=X, y=y, q=q, n_steps=T, n_chains=m, **case)
    parts = [
        run(X=X, y=y, q=q, n_steps=T, n_chains=split, **case),
        run(X=X, y=y, q=q, n_steps=T, n_chains=m - split, first_chain=split, **case),
    ]
    assert_same(np.concatenate(parts), whole, exact)
    start = run(X=X, y=y, q=q, n_steps=cut, n_chains=m, **case)
    rest = run(X=X, y=y, q=q, n_steps=T - cut, n_chains=m, theta0=start, first_step=cut, **case)
    assert_same(rest, whole, exact)


@on_every_device
@given(steps=st.sets(st.integers(0, 9), min_size=1), p=st.sampled_from([3, 65]))
@settings(max_examples=20, deadline=None)
def test_recorded_subset_is_part_of_the_full_recording(device, steps, p):
    X, y, _ = problem("squared", 30, p, 2)
    full = run("squared", X, y, 2, device, n_steps=9, record=range(10))
    chosen = sorted(steps)
    np.testing.assert_array_equal(run("squared", X, y, 2, device, n_steps=9, record=chosen), full[chosen])
    np.testing.assert_array_equal(run("squared", X, y, 2, device, n_steps=9), full[-1])


def test_ridge_chains_follow_the_closed_form():
    n, p, q, T, m, alpha, tau = 30, 5, 2, 12, 20_000, 0.8, 0.3
    X, Y, _ = problem("squared", n, p, q)
    H, b = X.T @ X + alpha * np.eye(p), X.T @ Y
    eta = 1 / np.linalg.eigvalsh(H)[-1]
    chains = langevin_chains(
        X, Y, alpha=alpha, step_size=eta, noise_std=tau, n_steps=T, n_chains=m, seed=21, record=[1, 4, T]
    )
    A, M, S = np.eye(p) - eta * H, np.zeros((p, q)), np.zeros((p, p))
    laws = []
    for _ in range(T):
        M, S = A @ M + eta * b, A @ S @ A + tau**2 * np.eye(p)
        laws.append((M, S))
    for row, k in enumerate([1, 4, T]):
        M, S = laws[k - 1]
        variance = np.diag(S)
        assert (np.abs(chains[row].mean(axis=0) - M) < 5 * np.sqrt(variance / m)[:, None]).all()
        centred = chains[row] - M
        spread = np.sqrt((np.outer(variance, variance) + S**2) / m)
        for c in range(q):
            assert (np.abs(centred[..., c].T @ centred[..., c] / m - S) < 5 * spread).all()
        across = centred[..., 0].T @ centred[..., 1] / m
        assert (np.abs(across) < 5 * np.sqrt(np.outer(variance, variance) / m)).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_minibatch_gradient_is_unbiased(loss):
    q, m = (1 if loss == "logistic" else 3), 20_000
    X, y, _ = problem(loss, 40, 4, q)
    one = {"noise_std": 0.0, "n_steps": 1, "step_size": 1.0, "alpha": 0.0, "theta0": np.full((4, q), 0.1)}
    full = run(loss, X, y, q, n_chains=1, **one)[0]
    sampled = run(loss, X, y, q, n_chains=m, sampling_probability=0.25, **one)
    error = sampled.std(axis=0) / np.sqrt(m)
    assert (error > 0).any()
    assert (np.abs(sampled.mean(axis=0) - full) <= 5 * error + 1e-12).all()


@on_every_device
@given(clip=st.floats(0.01, 10), radius=st.floats(0.01, 2), p=st.sampled_from([3, 70]), loss=st.sampled_from(LOSSES))
@settings(max_examples=20, deadline=None)
def test_clip_bounds_the_step_and_radius_bounds_the_parameters(device, clip, radius, p, loss):
    q = 1 if loss == "logistic" else 2
    X, y, _ = problem(loss, 1, p, q)
    one = {"noise_std": 0.0, "n_steps": 1, "step_size": 1.0, "alpha": 0.0}
    moved = run(loss, X, y, q, device, n_chains=1, clip=clip, **one)[0]
    assert np.linalg.norm(moved) <= clip * (1 + 1e-12)
    path = run(loss, X, y, q, device, radius=radius, noise_std=1.0, record=range(1, 6))
    assert np.linalg.norm(path.reshape(5, 6, -1), axis=-1).max() <= radius * (1 + 1e-12)


@on_every_device
def test_lone_chain_is_the_one_of_a_batch(device):
    X, y, _ = problem("logistic", 11, 3, 1)
    alone = run("logistic", X, y, 1, device, n_chains=1, first_chain=4)
    np.testing.assert_array_equal(alone[0], run("logistic", X, y, 1, device, n_chains=6)[4])


ISA_SCRIPT = """
import hashlib
import numpy as np
from expunge._kernels import backend
from expunge.langevin import langevin_chains, random_words, standard_normals

digest = hashlib.sha256()
digest.update(random_words(1001, seed=2**63 + 9, chain=2**50 + 1, step=12).astype("<u4").tobytes())
for dtype in (np.float64, np.float32):
    little = np.dtype(dtype).newbyteorder("<")
    digest.update(standard_normals(100_003, seed=4, chain=3, step=2, dtype=dtype).astype(little).tobytes())
    for p in (1, 7, 16, 64):
        X = standard_normals((37, p), seed=1, dtype=np.float32)
        raw = standard_normals((37, 3), seed=2, dtype=np.float32)
        for loss, y in (("squared", raw), ("logistic", (raw[:, 0] > 0) * 1), ("softmax", raw.argmax(axis=1))):
            for extra in ({}, {"clip": 0.5}, {"sampling_probability": 0.3}, {"radius": 0.5}):
                chains = langevin_chains(
                    X, y, loss=loss, alpha=0.5, step_size=0.004, noise_std=0.1, n_steps=20, n_chains=21, seed=6,
                    record=[3, 20], dtype=dtype, **extra,
                )
                assert np.isfinite(chains).all()
                digest.update(chains.astype(little).tobytes())
print(backend.isa(), digest.hexdigest())
"""

# The same on every processor, and in every version of the library that keeps its streams.
DIGEST = "d2279217101c9bd3afc53249bf6edfad1dee63bc2d0d3156beb71eeabf3a1d7a"


@pytest.mark.parametrize("level", ["base", "v3", "v4"])
def test_bits_are_the_same_on_every_instruction_set(level):
    done = subprocess.run(
        [sys.executable, "-c", ISA_SCRIPT],
        env={**os.environ, "EXPUNGE_ISA": level},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "is not supported by this processor" in done.stderr:
        pytest.skip(f"EXPUNGE_ISA={level} is not supported by this processor: bits at this level are NOT tested here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [level, DIGEST]


GOOD = {"X": np.ones((4, 2)), "y": np.zeros(4), "alpha": 1.0, "step_size": 0.1, "noise_std": 0.1, "n_steps": 3}


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"X": [[np.nan, 1.0]] * 4}, ValueError, "X must be finite"),
        ({"X": np.ones(4)}, ValueError, "X must have 2"),
        ({"X": np.ones((0, 2)), "y": np.zeros(0)}, ValueError, "X must have at least one row"),
        ({"X": np.full((4, 2), 1e300), "dtype": np.float32}, ValueError, "X must be finite in float32"),
        ({"X": np.ones((4, 2), dtype=complex)}, TypeError, "X must hold real"),
        ({"y": np.zeros(3)}, ValueError, "y must have shape"),
        ({"y": [0, 1, np.inf, 0]}, ValueError, "y must be finite"),
        ({"y": [0, 1, 2, 0], "loss": "logistic"}, ValueError, r"y must hold labels in \[0, 2\)"),
        ({"y": [0, 1, 3, 0], "loss": "softmax", "n_classes": 3}, ValueError, r"y must hold labels in \[0, 3\)"),
        ({"y": [0, -1, 1, 0], "loss": "softmax"}, ValueError, "y must hold labels"),
        ({"y": [0, 0.5, 1, 0], "loss": "softmax"}, ValueError, "y must hold integer"),
        ({"n_classes": 3}, ValueError, "n_classes"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"step_size": 0.0}, ValueError, "step_size must be > 0"),
        ({"step_size": [0.1, 0.1]}, ValueError, "step_size must be a number or have shape"),
        ({"step_size": np.nan}, ValueError, "step_size"),
        ({"noise_std": -0.1}, ValueError, "noise_std must be >= 0"),
        ({"noise_std": 1e-60, "dtype": np.float32}, ValueError, "noise_std must not vanish"),
        ({"n_steps": 0}, ValueError, "n_steps must be >= 1"),
        ({"n_steps": 2.0}, TypeError, "n_steps"),
        ({"n_chains": 0}, ValueError, "n_chains"),
        ({"theta0": np.zeros((3, 1))}, ValueError, "theta0 must have shape"),
        ({"sampling_probability": 0.0}, ValueError, "sampling_probability"),
        ({"sampling_probability": 1.5}, ValueError, "sampling_probability"),
        ({"clip": 0.0}, ValueError, "clip"),
        ({"clip": 1e-60, "dtype": np.float32}, ValueError, "clip"),
        ({"radius": np.inf}, ValueError, "radius"),
        ({"record": [2, 1]}, ValueError, "record must be strictly increasing"),
        ({"record": [4]}, ValueError, r"record must be within \[0, 3\]"),
        ({"record": []}, ValueError, "record must be a non-empty"),
        ({"record": [1.0]}, TypeError, "record must hold integers"),
        ({"first_step": 2**32 - 2}, ValueError, "first_step"),
        ({"first_chain": 2**56}, ValueError, "first_chain"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"dtype": np.int64}, TypeError, "dtype"),
        ({"threads": -1}, ValueError, "threads"),
    ],
)
def test_bad_arguments_are_named(changes, error, named):
    arguments = {**GOOD, "seed": 0, **changes}
    X, y = arguments.pop("X"), arguments.pop("y")
    with pytest.raises(error, match=named):
        langevin_chains(X, y, **arguments)


def test_the_former_name_of_the_squared_loss_warns():
    arguments = {**GOOD, "seed": 0}
    X, y = arguments.pop("X"), arguments.pop("y")
    with pytest.warns(DeprecationWarning, match="loss='squared'"):
        former = langevin_chains(X, y, loss="ridge", **arguments)
    np.testing.assert_array_equal(former, langevin_chains(X, y, loss="squared", **arguments))


def test_a_record_is_never_sampled_more_often_than_said(monkeypatch):
    """The kernel takes a record where a random word is below a threshold, which must not be rounded up."""
    asked = []
    run_kernel = type(backend.place()).run

    def watched(place, kernel, *arguments, **options):
        if kernel == "langevin_chains":
            asked.append(options["threshold"])
        return run_kernel(place, kernel, *arguments, **options)

    monkeypatch.setattr(type(backend.place()), "run", watched)
    X, y, _ = problem("logistic", 4, 2, 1)
    rates = np.concatenate([np.random.default_rng(0).random(40), [1e-9, 1 - 1e-12, 0.5]])
    for rate in rates:
        run("logistic", X, y, 1, sampling_probability=float(rate), n_steps=1)
        exact = Fraction(float(rate)) * 2**32
        assert exact - 1 < asked[-1] <= exact
