"""The contour of a proof: its bounds hold for every value of its balls, and it ends where the integrand has fallen."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from expunge.accounting import GaussianPair

pytest.importorskip("flint")
from flint import acb, arb, arb_mat

from expunge import proof
from expunge.proof import balls, contour
from expunge.proof.contour import Contour
from expunge.proof.coordinates import Coordinates
from expunge.proof.matrices import DiagonalPair
from expunge.proof.ridge import _stand_in, prove_deltas
from expunge.runs.ridge.law import Phase
from ridge_truth import exact_delta, exchanged


def test_faint_values_and_the_balls_around_them_add_as_norms():
    """One entry of 2^-82, half of it a value and half a ball: added squares would bound it by 2^-82.5."""
    with balls.precision(192):
        half = arb(2) ** -83
        pair = DiagonalPair(arb_mat([[1]]), [half], arb(0), half)
        found = _stand_in(pair, arb_mat([[0]]))
        assert not found.coordinates.excess
        assert found.off_diagonal >= 2 * half * (1 - arb(2) ** -180)


def test_series_are_cut_by_upper_ends_of_wide_balls():
    """The second ball reaches beyond the first, whose midpoint is larger."""
    with balls.precision(192):
        wide = arb(0.5e-3, 2e-3)
        pair = Coordinates([arb(1e-3), wide], [arb(1), arb(1)], 1)
        one = Contour(pair, arb(1))
        assert one.sizes == sorted(one.sizes, reverse=True)
        for cut, size in enumerate(one.sizes):
            assert all(abs(rho) <= balls.ball(size) for rho in one.rho[cut:])


@pytest.mark.parametrize("exponent", [-1074, -1073.4, -1060.7, -30.3, 1000.2])
def test_sizes_are_no_smaller_than_what_they_bound(exponent):
    """Rounded to the nearest subnormal number, 1.4 * 2^-1074 is 2^-1074."""
    with balls.precision(256):
        value = arb(2) ** arb(exponent)
        for one in (value, -value, acb(0, 1) * value):
            size = balls.upper_size(one)
            assert abs(one) <= balls.ball(size)
            assert size <= max(float(value.mid()) * (1 + 2**-51), 2 * 2.0**-1074)
    assert balls.upper_size(arb("nan")) == np.inf


HARD = [
    # Coordinates that fall and others that would rise, beyond a region in which the bent integrand is enormous.
    ([-0.0935, -1.3e-12, 1.8e-7, 6e-4], [0.0952, 1.1e-11, 6e-7, 1.5e-6], 1, 0.1),
    ([1e4, -0.9999, 1e-8], [1.0, 1e-4, 0.0], 1, 2.0),
    ([0.3, 1e-3, -1e-3], [0.0, 0.0, 0.1], 3, 0.25),
]


@pytest.mark.parametrize("case", HARD, ids=lambda case: str(case[0]))
@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_pairs_of_unequal_coordinates_are_enclosed_narrowly(case, direction):
    excess, square, columns, epsilon = case
    with balls.precision(192):
        pair = Coordinates([arb(e) for e in excess], [arb(s) for s in square], columns)
        found = balls.enclosure(Contour(pair.in_direction(direction), arb(epsilon)).integral(80))
    assert found.upper <= found.lower * (1 + 1e-15)
    with mpmath.workdps(60):
        pair = [mpmath.mpf(e) for e in excess], [mpmath.mpf(s) for s in square]
        truth = exact_delta(*(pair if direction == "pq" else exchanged(*pair)), columns, epsilon, digits=30)
        assert mpmath.mpf(found.lower_text) * (1 - mpmath.mpf(10) ** -19) <= truth
        assert truth <= mpmath.mpf(found.upper_text) * (1 + mpmath.mpf(10) ** -19)


@pytest.mark.parametrize("lean", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("reach", [0.5, 30.0])
def test_what_is_left_of_a_contour_is_bounded(lean, reach):
    """Against the integral of the modulus up from the end, by quadrature."""
    excess, square, columns, epsilon = HARD[0]
    with balls.precision(192):
        pair = Coordinates([arb(e) for e in excess], [arb(s) for s in square], columns)
        one = Contour(pair, arb(epsilon))
        far = (one.width * reach).mid()
        bound = one.tail(far, lean)
        c, T = float(one.c.mid()), float(far)
        ends = float(bound.upper())

    def modulus(y):
        w = mpmath.mpc(c + lean * T, y)
        total = -w * epsilon
        for e, s in zip(excess, square, strict=True):
            v = 1 - w * e
            total += w * (1 + w) * s / (2 * v) - mpmath.mpf(columns) / 2 * (mpmath.log(v) + w * mpmath.log1p(e))
        return abs(mpmath.exp(total) / (w * (1 + w)))

    with mpmath.workdps(16):
        left = mpmath.quad(modulus, [T * 2.0**k for k in range(10)]) / mpmath.pi
        assert left <= ends
        assert modulus(T) > 0


@pytest.mark.parametrize("lean", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_short_series_contain_long_ones(lean, columns):
    """Coordinates of one size, all of them just within the series: with three terms, its remainder is what matters."""
    with balls.precision(256):
        pair = Coordinates([arb(e) for e in (0.02, -0.018, 0.019)], [arb(1), arb(0.3), arb(0)], columns)
        one = Contour(pair, arb(0.5))
        short, long = contour._Line(one, lean, -39), contour._Line(one, lean, 160)
        assert short.terms == 3
        for share in (0.3, 0.9, 0.999):
            t = acb(share * 0.125 / short.sizes[0])
            rough, fine = (line.integrand(t, False) for line in (short, long))
            assert rough.contains(fine)
            assert fine.rel_accuracy_bits() > rough.rel_accuracy_bits() + 20


def test_an_integral_that_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr(contour, "EVALUATIONS", 20)
    pair = GaussianPair([0.1, -0.05], [[0.3], [0.2]])
    found = proof.pair_delta(pair, epsilon=0.5, direction="pq")
    assert (found.lower, found.upper) == (0.0, 1.0)
    X, y = np.array([[1.0], [2.0]]), np.array([[1.0], [1.0]])
    run = {"alpha": 1.0, "step_size": 0.1, "phases": [Phase(3, 0.1), Phase(2, 0.1, (0,))], "deleted": [0]}
    found = prove_deltas(X, y, **run, epsilon=1.0, claim=0.5)
    assert found.outcome == "undecided"
    assert "integral of the privacy profile did not converge" in found.reason
    assert (found.delta_pq.lower, found.delta_pq.upper) == (0.0, 1.0)
