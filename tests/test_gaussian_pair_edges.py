"""Edges of a Gaussian pair: frozen arrays, errors at their limits, devices and pairs with errors, kernels that fail."""

import numpy as np
import pytest

from emulated import DEVICES, at, on_every_device, put
from expunge._kernels import backend
from expunge.accounting import GaussianPair, shifted_mu

EXACT = GaussianPair([0.3, -0.2], [[0.4], [-0.1]])
NEAR = GaussianPair([0.3, -0.2], [[0.4], [-0.1]], 1e-6, 1e-6)
AT = {"delta": [0.1, 0.7], "profile": [0.1, 0.7], "epsilon": [1e-6, 1e-2], "renyi": [1.5, 2.5]}


def test_arrays_of_a_pair_are_copies_and_frozen():
    excess, shift = np.array([0.1]), np.array([[0.3]])
    pair = GaussianPair(excess, shift)
    excess[0] = shift[0, 0] = 9.0
    assert pair.excess_variance.tolist() == [0.1]
    assert pair.shift.tolist() == [[0.3]]
    for array in (pair.excess_variance, pair.shift):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1.0


def test_errors_are_at_most_a_third_of_the_smallest_variance():
    assert GaussianPair([-0.5, 2.0], [[1.0], [0.0]], 0.5 / 3).excess_error == 0.5 / 3
    with pytest.raises(ValueError, match=r"^excess_error"):
        GaussianPair([-0.5, 2.0], [[1.0], [0.0]], 0.1667)


def test_errors_are_measured_in_standard_deviations_of_p():
    """With a variance of 1/4, a shift error counts twice and an excess error four times."""
    assert GaussianPair([-0.75], [[1.0]], 0.0, 0.01)._nearness.length == pytest.approx(0.02, rel=1e-9)
    assert GaussianPair([-0.75], [[1.0]], 0.01, 0.0)._nearness.spread == pytest.approx(0.04 / 0.96, rel=1e-9)


def test_exchanged_errors_are_little_more_than_those_whitened_by_p():
    """At most twice what (I + D)^(-1/2) needs to first order: D/v of covariances, t/sqrt(v) + D |d| / 2 of shifts."""
    other = GaussianPair([0.0], [[1.0]], 1e-3, 0.0).swap()
    assert other.excess_error == pytest.approx(2e-3, rel=0.01)
    assert other.shift_error == pytest.approx(1e-3, rel=0.01)
    other = GaussianPair([0.0], [[1.0]], 0.0, 1e-3).swap()
    assert other.excess_error == 0.0
    assert other.shift_error == pytest.approx(2e-3, rel=0.01)
    other = GaussianPair([-0.5], [[1.0]], 1e-3, 0.0).swap()
    assert other.excess_error == pytest.approx(2 * 2e-3 / 0.5, rel=0.01)


@on_every_device
@pytest.mark.parametrize("pair", [EXACT, NEAR], ids=["exact", "near"])
@pytest.mark.parametrize("direction", ["both", "pq", "qp"])
@pytest.mark.parametrize("method", sorted(AT))
def test_devices_answer_like_the_host(device, pair, direction, method):
    found = at(device, getattr(pair, method))(AT[method], direction=direction)
    expected = getattr(pair, method)(AT[method], direction=direction)
    if method == "profile":
        np.testing.assert_allclose(found.delta, expected.delta, rtol=1e-10)
        assert np.asarray(found.converged).tolist() == expected.converged.tolist()
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_both_directions_are_the_larger_where_each_wins_somewhere():
    """More variance wins for P, less for Q; so on a device as on the host."""
    assert EXACT.delta(0.1, direction="pq") != EXACT.delta(0.1, direction="qp")
    for pair in (GaussianPair([0.5], [[0.2]]), GaussianPair([-0.4], [[0.2]])):
        epsilons = [0.2, 0.8, 1.5]
        larger = np.maximum(pair.delta(epsilons, direction="pq"), pair.delta(epsilons, direction="qp"))
        for device in DEVICES:
            np.testing.assert_allclose(at(device, pair.delta)(epsilons), larger, rtol=1e-10)


@on_every_device
@pytest.mark.parametrize("method", sorted(AT))
def test_unknown_directions_are_refused_by_name(device, method):
    for pair in (EXACT, NEAR):
        with pytest.raises(ValueError, match=r"^direction must be one of"):
            getattr(pair, method)(put(AT[method], device), direction="sideways")


class Watched:
    """A host that notes how many cores were allowed and may fail to compute."""

    on_host = True

    def __init__(self, place, *, fails):
        self.place, self.fails, self.threads = place, fails, []

    def run(self, kernel, *arguments, threads=None, **options):
        self.threads.append(threads)
        self.place.run(kernel, *arguments, threads=threads, **options)
        if self.fails:
            arguments[5 if kernel == "pair_delta" else -1][...] = np.nan


def watch(monkeypatch, *, fails=False):
    asked, watched = backend.place, Watched(backend.place(), fails=fails)

    def place(**arrays):
        found = asked(**arrays)
        return watched if found.on_host else found

    monkeypatch.setattr(backend, "place", place)
    monkeypatch.setattr(backend, "HOST", watched)
    return watched


@pytest.mark.parametrize("pair", [EXACT, NEAR], ids=["exact", "near"])
@pytest.mark.parametrize("method", sorted(AT))
def test_a_kernel_that_returns_nan_is_an_error(pair, method, monkeypatch):
    watch(monkeypatch, fails=True)
    with pytest.raises(ValueError, match="within the range of float64"):
        getattr(pair, method)(AT[method])


@on_every_device
@pytest.mark.parametrize("method", sorted(AT))
def test_as_many_cores_are_used_as_allowed(device, method, monkeypatch):
    """Also where a pair with errors on a device is evaluated on the host."""
    watched = watch(monkeypatch)
    getattr(NEAR, method)(put(AT[method], device), threads=1)
    assert watched.threads
    assert set(watched.threads) == {1}


@on_every_device
def test_steps_without_an_axis_are_refused(device):
    with pytest.raises(ValueError, match="must have an axis of steps"):
        shifted_mu(put(1.0, device), put(1.0, device), put(1.0, device))


@pytest.mark.parametrize("direction", ["pq", "qp", "both"])
def test_excess_beyond_the_range_of_floats_has_no_epsilon_where_it_has_no_delta(direction):
    pair = GaussianPair([1e301], [[0.0]])
    assert pair.delta(346.6, direction=direction) == 1.0
    assert pair.epsilon([0.0, 1e-5], direction=direction).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("excess", [5e-324, 1e-310, 1e-300])
def test_laws_that_differ_have_a_largest_loss_above_zero(excess):
    pair = GaussianPair([excess], [[0.0]])
    found = float(pair.epsilon(0.0, direction="qp"))
    assert excess / 2 <= found <= max(excess, 3e-308)
    assert pair.delta(found, direction="qp") == 0.0
    assert pair.delta(0.0, direction="qp") > 0.0
