"""Pictures are drawn without a display, say what is an estimate, and refuse what they cannot show."""

from __future__ import annotations

import builtins
import os
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from expunge.plotting import plot_attack, plot_deletions, plot_noise, plot_profile

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: no pictures to test")

NOISE = st.one_of(st.just(0.0), st.just(np.inf), st.floats(1e-12, 1e6))


def quote(method="exact", noise=(0.0, 0.01, 0.1), status="estimate", **changes):
    values = {"unit": "record", "target_epsilon": 1.0, "target_delta": 1e-5, **changes}
    return SimpleNamespace(method=method, noise_std=np.asarray(noise, dtype=np.float64), status=status, **values)


class Pair:
    def delta(self, epsilon, direction="both"):
        return 0.1 * np.exp(-np.asarray(epsilon) * (1 if direction == "pq" else 2))


def texts(figure):
    axes_texts = [text for axes in figure.axes for text in axes.texts]
    return " ".join(text.get_text() for text in [*figure.texts, *axes_texts])


def test_estimates_are_labelled_and_certified_numbers_are_not():
    assert "(estimate)" in texts(plot_noise([quote(status="estimate")]))
    assert "estimate" not in texts(plot_noise([quote(status="certified")]))


def test_the_accuracy_at_each_median_is_written_beside_it():
    quotes = [quote("exact", [0.01] * 3), quote("uniform", [1.0] * 3, "certified")]
    figure = plot_noise(quotes, accuracy=([0.0, 0.01, 1.0, 2.0], [0.96, 0.91, 0.23, 0.1]), accuracy_before=0.95)
    assert "91%" in texts(figure)
    assert "23%" in texts(figure)
    assert "95%" in texts(figure)


def test_records_beyond_any_noise_are_counted():
    assert "2 of 5 cannot be hidden" in texts(plot_noise([quote("shifted", [0.1, np.inf, 0.2, np.inf, 0.3])]))


@settings(max_examples=15)  # each draws a whole picture
@given(
    st.lists(st.sampled_from(["exact", "shifted", "uniform"]), min_size=1, max_size=3, unique=True),
    hnp.arrays(np.float64, st.integers(1, 8), elements=NOISE),
)
def test_any_noise_can_be_drawn_within_the_picture(methods, noise):
    figure = plot_noise([quote(method, noise) for method in methods])
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert np.isfinite([low, high]).all()
        assert low < high
    # every word stays on the canvas
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    for text in [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]:
        box = text.get_window_extent()
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1


def test_profiles_are_drawn_in_both_directions(tmp_path):
    figure = plot_profile(Pair(), np.linspace(0, 4, 20), path=tmp_path / "p.png")
    first, second = figure.axes[0].lines
    assert np.array_equal(first.get_ydata(), Pair().delta(np.linspace(0, 4, 20), "pq"))
    assert np.array_equal(second.get_ydata(), Pair().delta(np.linspace(0, 4, 20), "qp"))
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_a_profile_of_nothing_is_drawn_too():
    silent = SimpleNamespace(delta=lambda epsilon, direction: np.zeros(len(epsilon)))
    figure = plot_profile(silent, [0.0, 1.0])
    axes = figure.axes[0]
    assert axes.get_yscale() == "linear"
    # No scale with negative deltas, no legend of lines that are not there: words.
    assert (axes.lines[:], axes.get_legend(), list(axes.get_yticks())) == ([], None, [])
    assert "delta is 0 at every epsilon drawn" in texts(figure)


def test_noise_below_the_axis_is_about_0_and_not_a_number():
    said = texts(plot_noise([quote(noise=[4.94e-324] * 3), quote("uniform", [0.5] * 3)]))
    assert "e-324" not in said
    assert "about 0" in said


def test_a_strip_without_bars_says_why_and_has_no_scale():
    figure = plot_noise([quote(noise=[np.inf] * 3)])
    assert "no noise hides any of them" in texts(figure)
    assert list(figure.axes[0].get_xticks()) == []
    nothing_needed = plot_noise([quote(noise=[0.0] * 3)]).axes[0]
    assert [text.get_text() for text in nothing_needed.get_xticklabels()] == ["none"]


def test_nothing_global_is_changed(tmp_path):
    before = dict(matplotlib.rcParams)
    backend = matplotlib.get_backend()
    plot_noise([quote()], path=tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend


def test_pictures_are_whole_or_absent_and_never_overwritten_unasked(tmp_path):
    for ending in ("png", "svg", "pdf"):
        plot_noise([quote()], path=tmp_path / f"a.{ending}")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(FileExistsError):
        plot_noise([quote("uniform")], path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    plot_noise([quote("uniform")], path=tmp_path / "a.png", overwrite=True)
    assert (tmp_path / "a.png").read_bytes() != before
    with pytest.raises(ValueError, match=r"must end in \.png"):
        plot_noise([quote()], path=tmp_path / "a.bmp")
    assert sorted(os.listdir(tmp_path)) == ["a.pdf", "a.png", "a.svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quotes": []}, "at least one quote"),
        ({"quotes": [quote(), quote()]}, "different methods"),
        ({"quotes": [quote("other")]}, "different methods among"),
        ({"quotes": [quote("exact"), quote("uniform", target_epsilon=2.0)]}, "one target"),
        ({"quotes": [quote(noise=[np.nan])]}, "noise_std must be free of NaN"),
        ({"quotes": [quote(noise=[-1.0])]}, "noise_std must be >= 0"),
        ({"quotes": [quote(noise=[])]}, "an empty one"),
        ({"quotes": [quote()], "accuracy": ([0, 1], [0.5, 1.5])}, r"accuracy\[1\] must be"),
        ({"quotes": [quote()], "accuracy": ([1, 0], [0.5, 0.5])}, "increasing"),
        ({"quotes": [quote()], "accuracy": ([0, 1], [0.5])}, "one length"),
        ({"quotes": [quote()], "accuracy_before": np.nan}, "accuracy_before must be"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_noise(**arguments)


@pytest.mark.parametrize("epsilon", [[1.0], [1.0, 1.0], [-1.0, 0.0], [0.0, np.inf], [0.0, np.nan]])
def test_bad_epsilons_are_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must"):
        plot_profile(Pair(), epsilon)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install '\.\[plot\]'"):
        plot_noise([quote()])


@pytest.mark.parametrize(("zeros", "text"), [(1, "<1%"), (500, "50%"), (999, ">99%"), (1000, "100%")])
def test_a_share_is_nothing_or_all_only_if_it_is(zeros, text):
    noise = np.where(np.arange(1000) < zeros, 0.0, 0.1)
    figure = plot_noise([quote(noise=noise)])
    assert text in [one.get_text() for one in figure.axes[0].texts]


# --- before and after ----------------------------------------------------------------------------


def test_shares_and_the_deleted_record_are_written_in_the_picture():
    figure = plot_deletions([0.1, 0.2, 0.5, 2.0], noise_std=0.1, marked=0.2, name="customer")
    assert "75% at most 1" in texts(figure)
    assert "25% above" in texts(figure)
    assert "the one deleted: 0.2" in texts(figure)
    assert "customers with that epsilon, at noise 0.1" in texts(figure)
    assert len(figure.axes) == 1
    figure = plot_deletions([0.1, np.inf], noise_std=0.1, choices=([0.01, 0.1], [0.2, 1.0], [0.9, 0.8]))
    assert "1 record beyond any number" in texts(figure)
    assert "test accuracy" in texts(figure)
    assert len(figure.axes) == 2


@settings(max_examples=15)
@given(hnp.arrays(np.float64, st.integers(1, 8), elements=st.one_of(st.just(0.0), st.just(np.inf), st.floats(0, 1e9))))
def test_every_finite_epsilon_is_in_a_bar(epsilon):
    figure = plot_deletions(epsilon, noise_std=0.1, marked=float(epsilon[0]))
    bars = sum(patch.get_height() for patch in figure.axes[0].patches if hasattr(patch, "get_height"))
    assert bars == np.isfinite(epsilon).sum()
    low, high = figure.axes[0].get_xlim()
    assert low < high


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"epsilon": []}, "epsilon must hold at least one"),
        ({"epsilon": [np.nan]}, "epsilon"),
        ({"epsilon": [-1.0]}, "epsilon"),
        ({"noise_std": 0.0}, "noise_std"),
        ({"marked": np.nan}, "marked"),
        ({"choices": ([0.1], [1.0], [1.0])}, "choices must be"),
        ({"choices": ([0.1, 0.1], [1.0, 1.0], [1.0, 1.0])}, "choices must be"),
        ({"choices": ([0.0, 0.1], [1.0, 1.0], [1.0, 1.0])}, "choices must be"),
        ({"choices": ([0.1, 0.2], [1.0, 1.5], [1.0, 1.0])}, "choices"),
    ],
)
def test_a_picture_of_before_and_after_refuses(changes, match):
    values = {"epsilon": [1.0], "noise_std": 0.1, **changes}
    with pytest.raises(ValueError, match=match):
        plot_deletions(values.pop("epsilon"), **values)


# --- the attack on before and after ---------------------------------------------------------------


def attack(**changes):
    values = {"noise_std": [1e-4, 1e-2, 1.0], "cosine": [[1.0, 0.9], [0.5, 0.2], [0.1, 0.2]], "chance": [0.1, 0.2, 0.2]}
    values |= {"epsilon": [[900.0, 90.0], [9.0, 2.0], [0.0, 0.1]], "delta": 1e-5, **changes}
    return plot_attack(values.pop("noise_std"), **values)


def test_an_attack_has_both_panels_with_medians_and_chance():
    top, bottom = attack().axes
    curves = [line.get_ydata() for line in top.lines]
    np.testing.assert_allclose(curves[0], [0.95, 0.35, 0.15])
    np.testing.assert_allclose(curves[1], [0.1, 0.2, 0.2])
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), [495.0, 5.5, 0.05])
    assert "noise_std" in bottom.get_xlabel()
    assert "1e-05" in bottom.get_ylabel()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"noise_std": [1e-2, 1e-4, 1.0]}, "noise_std"),
        ({"noise_std": [0.0, 1e-4, 1.0]}, "noise_std"),
        ({"cosine": [[1.0], [0.5]]}, "cosine"),
        ({"cosine": [[1.1], [0.5], [0.5]]}, "cosine"),
        ({"epsilon": [[1.0], [np.nan], [0.5]]}, "epsilon"),
        ({"chance": [0.1]}, "chance"),
    ],
)
def test_an_attack_refuses_what_it_cannot_show(changes, named):
    with pytest.raises(ValueError, match=named):
        attack(**changes)
