"""What rounding did to the laws of a ridge deletion lies within the stated errors, and deltas never below the truth."""

import re
from fractions import Fraction
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

import ridge_truth
from expunge.accounting import GaussianPair
from expunge.data.close_products import gram, norm, product
from expunge.runs.ridge import law
from expunge.runs.ridge.bounds import UniformBound, _outward, sensitivities
from expunge.runs.ridge.law import Phase, RidgeDeletion, deletion_pair, smoothness
from expunge.runs.ridge.rounding import Jet, _jets, _Slopes, rotation

KINDS = [
    "plain",
    "collinear",
    "scaled",
    "small row",
    "copies",
    "zero column",
    "huge",
    "tiny",
    "one-hot",
    "large targets",
]


def problem(kind, seed):
    """A random deletion of one to three rows, in one or two phases, of up to 4 features and 10,000 steps."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    p, q = (int(k) for k in rng.integers(1, 5, 2))
    n = int(rng.integers(max(3, p - 1), 20))
    X, Y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    if kind == "collinear":
        X = np.outer(rng.normal(size=n), rng.normal(size=p)) + 10.0 ** rng.uniform(-9, -2) * X
    elif kind == "scaled":
        X = X * 10.0 ** rng.uniform(-3, 3, size=p)
    elif kind == "small row":
        X[0] *= 10.0 ** rng.uniform(-9, 0)
    elif kind == "copies":
        X = X[rng.integers(0, n, n)]
    elif kind == "zero column":
        X = np.column_stack([X, np.zeros(n)])
    elif kind in ("huge", "tiny"):
        X = X * (1e40 if kind == "huge" else 1e-40)
    elif kind == "one-hot":
        X = np.eye(p)[rng.integers(0, p, n)]
    elif kind == "large targets":
        Y = Y * 10.0 ** rng.uniform(0, 6)
    alpha = float(10.0 ** rng.uniform(-9, 1) * np.mean(X**2))
    eta = float(rng.choice([1.0, 0.9, 0.3, 0.01])) / smoothness(X, alpha=alpha)
    noise = float(np.sqrt(eta) * 10.0 ** rng.uniform(-2, 1))
    again, deleted = noise * float(rng.choice([0.3, 1.0, 3.0])), tuple(range(int(rng.integers(1, min(4, n)))))
    phases = [Phase(int(rng.choice([1, 3, 40, 375, 10_000])), 0.0 if rng.random() < 0.2 else noise)]
    if len(deleted) > 1 and rng.random() < 0.6:
        phases.append(Phase(int(rng.integers(1, 30)), again, deleted[:1]))
    phases.append(Phase(int(rng.choice([1, 5, 46, 1000])), again, deleted))
    return X, Y, {"alpha": alpha, "step_size": eta, "phases": phases, "deleted": deleted}


def outside(pair, X, Y, run):
    """How far the true pair lies from the one given, in units of what is stated: of the excess, the shift, and both."""
    with mpmath.workdps(400):
        difference, covariance, covariance_q = ridge_truth.exact_laws(X, Y, **run)
        whiten = mpmath.cholesky(covariance_q) ** -1
        E, d = whiten * covariance * whiten.T, whiten * difference
        true = sorted(mpmath.eigsy(E, eigvals_only=True))
        excess, shift = np.sort(pair.excess_variance), mpmath.matrix(pair.shift.tolist())
        moved = mpmath.sqrt(sum((a - mpmath.mpf(float(b))) ** 2 for a, b in zip(true, excess, strict=True)))
        length, near = mpmath.norm(d), mpmath.norm(shift)
        # How both lie to each other: d^T E d.
        given = mpmath.diag([mpmath.mpf(float(e)) for e in pair.excess_variance])
        h, t = mpmath.mpf(pair.excess_error), mpmath.mpf(pair.shift_error)
        allowed = h * (near + t) ** 2 + (2 * near + t) * t * mpmath.norm(given)
        across = mpmath.norm(d.T * E * d - shift.T * given * shift)
        return [float(a / b) for a, b in ((moved, h), (abs(length - near), t), (across, allowed))]


def turned_by(size, rng):
    """An `eigh` whose results for H are off by ``size``."""

    def eigh(matrix, **options):
        values, vectors = linalg.eigh(matrix, **options)
        if "driver" in options:
            turn = rng.normal(size=matrix.shape) * size
            vectors = vectors @ (np.eye(len(values)) + turn - turn.T + 0.1 * turn)
            values = values + rng.normal(size=len(values)) * size * values.max()
        return values, vectors

    return eigh


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_pair_lies_within_the_stated_errors(kind):
    found = []
    for seed in range(4):
        X, Y, run = problem(kind, seed)
        found.append(outside(deletion_pair(X, Y, **run), X, Y, run))
    assert np.max(found) <= 1.0


@pytest.mark.parametrize("size", [1e-9, 1e-7, 1e-5])
@pytest.mark.parametrize("kind", KINDS)
def test_eigenvectors_that_are_off_are_covered_to_every_order(kind, size, monkeypatch):
    """Far more than rounding: terms of the second order count, and every bound is needed to some tenths."""
    eigh = turned_by(size, np.random.default_rng(0))
    monkeypatch.setattr(law, "linalg", SimpleNamespace(eigh=eigh, eigvalsh=linalg.eigvalsh))
    found = []
    for seed in range(3):
        X, Y, run = problem(kind, seed)
        try:
            pair = deletion_pair(X, Y, **run)
        except ValueError as error:
            assert "numerically singular" in str(error)  # noqa: PT017
            continue
        found.append(outside(pair, X, Y, run))
    assert np.max(found, initial=0.0) <= 1.0


def nearly_equal():
    rng = np.random.default_rng(0)
    X, Y, alpha = rng.normal(size=(46, 3)), rng.normal(size=(46, 2)), 0.3
    phases = [Phase(375, 0.2), Phase(46, 0.2, (0,))]
    return (
        X,
        Y,
        {
            "alpha": alpha,
            "step_size": 0.4 / smoothness(X, alpha=alpha),
            "phases": phases,
            "deleted": (0,),
        },
    )


def leaking():
    """Nearly all of the row contracts at once: what is left of it is smaller than the rounding of the rest."""
    rng = np.random.default_rng(0)
    X = np.outer(rng.normal(size=9), rng.normal(size=2)) + 1e-7 * rng.normal(size=(9, 2))
    alpha = 1e-4
    return (
        X,
        rng.normal(size=(9, 1)),
        {
            "alpha": alpha,
            "step_size": 1.0 / smoothness(X, alpha=alpha),
            "phases": [Phase(40, 0.5), Phase(46, 0.5, (0,))],
            "deleted": (0,),
        },
    )


@pytest.mark.parametrize("case", [nearly_equal(), leaking(), problem("scaled", 2)])
def test_delta_of_a_deletion_is_never_below_the_truth(case):
    X, Y, run = case
    pair = deletion_pair(X, Y, **run)
    mu = float(np.linalg.norm(pair.shift))
    with mpmath.workdps(80):
        excess, squared = ridge_truth.exact_pair(X, Y, **run)
        for direction, (e, s) in (("pq", (excess, squared)), ("qp", ridge_truth.exchanged(excess, squared))):
            for epsilon in (0.0, 0.3 * mu, 3.0 * mu):
                truth = ridge_truth.exact_delta(e, s, Y.shape[1], epsilon)
                found = mpmath.mpf(float(pair.delta(epsilon, direction=direction)))
                assert found >= truth * (1 - mpmath.mpf(10) ** -20)


def test_a_well_conditioned_deletion_pays_little_for_its_rounding():
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(200, 5)), rng.normal(size=(200, 1))
    phases = [Phase(200, 0.02), Phase(0, 0.02, (7,))]
    run = {"alpha": 1.0, "step_size": 1 / smoothness(X, alpha=1.0), "phases": phases, "deleted": (7,)}
    pair = deletion_pair(X, Y, **run)
    bare = GaussianPair(pair.excess_variance, pair.shift)
    for epsilon in (0.0, 0.1, 1.0, 3.0):
        assert bare.delta(epsilon) <= pair.delta(epsilon) <= bare.delta(epsilon) * (1 + 1e-8)
    assert bare.epsilon(1e-5) <= pair.epsilon(1e-5) <= bare.epsilon(1e-5) * (1 + 1e-9)


def test_laws_that_rounding_hides_are_refused_with_the_remedy():
    X, Y, run = leaking()
    X = np.vstack([X, [1e9, 1e9]])
    run = {**run, "step_size": 1.0 / smoothness(X, alpha=run["alpha"]), "deleted": (9,)}
    run["phases"] = [Phase(10**9, 1.0), Phase(3, 1e-6, (9,))]
    with pytest.raises(ValueError, match=r"numerically singular.*noise_std.*alpha.*method='shifted'"):
        deletion_pair(X, np.vstack([Y, [[1.0]]]), **run)


def test_tiny_data_are_bounded_or_refused():
    rng = np.random.default_rng(3)
    bounded = 0
    for exponent in (-60, -100, -120, -130, -155, -160):
        X, Y = rng.normal(size=(8, 2)) * 10.0**exponent, rng.normal(size=(8, 1)) * 10.0**exponent
        alpha = 10.0 ** (2 * exponent)
        eta, noise = 0.5 / smoothness(X, alpha=alpha), 0.3
        run = {"alpha": alpha, "step_size": eta, "phases": [Phase(9, noise), Phase(3, noise, (0,))], "deleted": (0,)}
        try:
            pair = deletion_pair(X, Y, **run)
        except ValueError as error:
            assert re.match("step_size must be at most|the pair is numerically singular", str(error))  # noqa: PT017
            continue
        bounded += 1
        assert max(outside(pair, X, Y, run)) <= 1.0
    assert bounded >= 2


def test_laws_without_bounds_on_their_errors_give_no_pair():
    X, Y, run = problem("plain", 0)
    deletion = RidgeDeletion(X, Y, alpha=run["alpha"], step_size=run["step_size"], deleted=run["deleted"])
    state = deletion.start
    for phase in run["phases"]:
        state = deletion.advance(state, phase, proved=False)
    with pytest.raises(ValueError, match="proved=True"):
        deletion.pair(state)
    bare, pair = deletion.estimated_pair(state), deletion.pair(deletion.run(run["phases"]))
    np.testing.assert_array_equal(bare.excess_variance, pair.excess_variance)
    assert bare.excess_error == bare.shift_error == 0.0 < min(pair.excess_error, pair.shift_error)


# --- pieces -------------------------------------------------------------------------------------


def exactly(left, right):
    rows, columns = ([[Fraction(float(x)) for x in row] for row in part] for part in (left, right.T))
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in rows]


def distance(found, true):
    return max(
        float(sum((Fraction(float(found[i, j])) - true[i][j]) ** 2 for i in range(len(true)))) ** 0.5
        for j in range(len(true[0]))
    )


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-100])
def test_products_and_gram_matrices_are_off_by_a_rounding_or_two(scale):
    rng = np.random.default_rng(0)
    for n, p in ((1, 1), (7, 3), (40, 5), (300, 2)):
        X = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-6, 6, size=p) * scale
        for block in (n, 16):
            found = gram(X, block=block)
            true = exactly(X.T, X)
            assert distance(found.value, true) <= found.off
            assert found.off <= 3e-16 * norm(found.value)
        right = rng.normal(size=(p, 4))
        value, low = product(X, right)
        units = 1.2e-16 * float(np.linalg.norm(value / value.max()) * value.max())
        assert distance(value, exactly(X, right)) <= units + low


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=6), st.integers(-320, 0))
def test_norms_are_rounded_up_however_small(values, exponent):
    found = norm(np.array(values) * 10.0**exponent)
    squares = sum(Fraction(float(v)) ** 2 for v in np.array(values) * 10.0**exponent)
    assert np.isinf(found) or Fraction(found) ** 2 >= squares


@pytest.mark.parametrize("spread", [0.0, 1e-15, 1e-9, 1.0])
def test_a_frame_bounds_what_is_left_of_a_matrix(spread):
    """V^T M V - diag, with V the orthonormal matrix nearest to the vectors, in 50 digits; eigenvalues may coincide."""
    rng = np.random.default_rng(1)
    for size in (0.0, 1e-12, 1e-6):
        A = rng.normal(size=(5, 5))
        Q = np.linalg.qr(A)[0]
        matrix = (Q * (1.0 + spread * rng.normal(size=5))) @ Q.T
        matrix = 0.5 * (matrix + matrix.T)
        values, vectors = np.linalg.eigh(matrix)
        vectors = vectors + size * rng.normal(size=(5, 5))
        frame = rotation(matrix, vectors, values, scale=1.0, off=0.0)
        with mpmath.workdps(50):
            U = mpmath.matrix(vectors.tolist())
            squared, W = mpmath.eigsy(U.T * U)
            V = U * W * mpmath.diag([1 / mpmath.sqrt(s) for s in squared]) * W.T
            F = V.T * mpmath.matrix(matrix.tolist()) * V - mpmath.diag([mpmath.mpf(float(v)) for v in values])
            columns = [mpmath.norm(F[:, j]) for j in range(5)]
            turns = [mpmath.norm((V - U)[:, j]) for j in range(5)]
            assert max(columns) <= frame.column <= frame.norm * 2
            assert mpmath.norm(F) <= frame.norm
            assert max(turns) <= frame.turn
            assert mpmath.norm(V - U) <= frame.apart
            if size == 0.0:
                assert frame.norm <= 1e-13


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(1, 9))
def test_divided_differences_are_bounded_by_values_a_little_above(values, n_steps):
    """Of x^N and of sum x^2j, at two points and, as a difference of differences, at three."""
    slopes = _Slopes.of(np.array(values), 1.0, n_steps)
    a, c, table = ([Fraction(float(x)) for x in part] for part in (values, slopes.c, slopes.table.ravel()))

    def even(x, y):
        return sum((x**i * y ** (2 * j - 1 - i) for j in range(n_steps) for i in range(2 * j)), Fraction(0))

    def power(x, y):
        return sum((x**i * y ** (n_steps - 1 - i) for i in range(n_steps)), Fraction(0))

    for i in range(len(a)):
        for j in range(len(a)):
            bound = table[i * len(a) + j]
            assert power(a[i], a[j]) <= bound * (c[i] ** n_steps + c[j] ** n_steps)
            assert even(a[i], a[j]) <= bound * (sum(c[i] ** (2 * k) + c[j] ** (2 * k) for k in range(n_steps)))


@given(st.floats(0, 1), st.floats(1e-9, 1e-4), st.integers(1, 40))
def test_jets_bound_the_taylor_terms_of_powers_and_sums(x, f, n_steps):
    with mpmath.workdps(40):
        y, g = mpmath.mpf(max(x, 1e-3)), mpmath.mpf(f)
        jets = _jets(x, f, 0.0, n_steps)
        sums = [lambda t: t**n_steps, lambda t: n_steps * t ** (n_steps - 1)]
        sums += [
            lambda t: sum(t**j for j in range(n_steps)),
            lambda t: sum(j * t ** (j - 1) for j in range(1, n_steps)),
        ]
        for jet, value in zip(jets, sums, strict=True):
            if np.isfinite(jet.rest):
                slope = mpmath.diff(value, y)
                assert value(y) <= jet.value
                assert g * slope <= jet.linear * (1 + mpmath.mpf(10) ** -9)
                assert (
                    value(y + g) - value(y) - g * slope <= jet.rest * (1 + mpmath.mpf(10) ** -9) + mpmath.mpf(10) ** -18
                )


@given(st.lists(st.floats(0, 2), min_size=4, max_size=4))
def test_jets_bound_products_and_sums(values):
    a, b = Jet(values[0], values[1], values[1] ** 2), Jet(values[2], values[3], 0.5)
    assert sum(a * b) == pytest.approx(sum(a) * sum(b))
    assert (a * b).linear == pytest.approx(a.value * b.linear + a.linear * b.value)
    assert sum(a + b.times(3.0)) == pytest.approx(sum(a) + 3 * sum(b))


# --- the bounds by shifted interpolation rest on the same laws ------------------------------------


def residual_law(X, Y, row, *, alpha, step_size, phases, steps):
    """Means and variances of x^T theta - y of a row along the run, before each step of the last phase: in 60 digits."""
    p, eta = X.shape[1], mpmath.mpf(step_size)
    mean, covariance, found = mpmath.zeros(p, 1), mpmath.zeros(p), []
    x, y = mpmath.matrix(X[row].tolist()), mpmath.mpf(float(Y[row, 0]))
    for phase in phases:
        keep = [i for i in range(len(X)) if i not in phase.removed]
        rows, aims = mpmath.matrix(X[keep].tolist()), mpmath.matrix(Y[keep].tolist())
        A, b = mpmath.eye(p) - eta * (rows.T * rows + mpmath.mpf(alpha) * mpmath.eye(p)), eta * (rows.T * aims)
        for _ in range(phase.n_steps):
            if phase is phases[-1]:
                found.append(((x.T * mean)[0] - y, (x.T * covariance * x)[0]))
            mean = A * mean + b
            covariance = A * covariance * A + mpmath.mpf(phase.noise_std) ** 2 * mpmath.eye(p)
    return found[:steps]


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-4])
@pytest.mark.parametrize("gone", [(), (0,)])
def test_sensitivities_hold_for_laws_that_are_off(size, gone, monkeypatch):
    rng = np.random.default_rng(2)
    monkeypatch.setattr(law, "linalg", SimpleNamespace(eigh=turned_by(size, rng), eigvalsh=linalg.eigvalsh))
    checked = 0
    for _ in range(4):
        X, Y, alpha, tail = rng.normal(size=(7, 3)) * (1.0, 0.1, 0.3), rng.normal(size=(7, 1)), 0.01, 1e-6
        run = {"alpha": alpha, "step_size": float(0.9 / smoothness(X, alpha=alpha))}
        phases = [Phase(30, 0.2)] + ([Phase(12, 0.05, gone)] if gone else [])
        deleted = (*gone, 1)
        draws = 30 * len(deleted) + (12 if gone else 0) - len(deleted)
        deletion = RidgeDeletion(X, Y, **run, deleted=deleted)
        try:
            bounds = sensitivities(deletion, phases, delta_s=tail * draws)[-1].bound
        except ValueError as error:
            assert "numerically singular" in str(error)  # noqa: PT017
            continue
        with mpmath.workdps(60):
            length = mpmath.sqrt(sum(mpmath.mpf(float(v)) ** 2 for v in X[1]))
            for k, (m, v) in enumerate(residual_law(X, Y, 1, phases=phases, steps=len(bounds), **run)):
                b = mpmath.mpf(float(bounds[k])) / (mpmath.mpf(run["step_size"]) * length)
                if not gone and k == 0:
                    assert b >= abs(m)
                    continue
                far = [mpmath.erfc((b - sign * m) / mpmath.sqrt(2 * v)) / 2 for sign in (-1, 1)]
                assert sum(far) <= mpmath.mpf(tail)
                checked += 1
    assert checked > 10


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-4])
def test_contractions_hold_for_eigenvalues_that_are_off(size, monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(law, "linalg", SimpleNamespace(eigh=turned_by(size, rng), eigvalsh=linalg.eigvalsh))
    for _ in range(10):
        X, alpha = rng.normal(size=(7, 3)) * (1.0, 0.01, 0.3), 1e-6
        eta = float(0.9 / smoothness(X, alpha=alpha))
        deletion = RidgeDeletion(X, np.zeros((7, 1)), alpha=alpha, step_size=eta, deleted=[0])
        worst = UniformBound(X, np.zeros((7, 1)), alpha=alpha, step_size=eta, learning=Phase(9, 0.1), delta_s=1e-6)
        with mpmath.workdps(50):
            smallest = []
            for i in range(7):
                rows = mpmath.matrix(np.delete(X, i, axis=0).tolist())
                values = mpmath.eigsy(rows.T * rows, eigvals_only=True)
                smallest.append(min(values) + mpmath.mpf(alpha))
            assert 1 - mpmath.mpf(eta) * smallest[0] <= _outward(deletion.contraction, deletion.reference)
            assert 1 - mpmath.mpf(eta) * min(smallest) <= worst._contraction
