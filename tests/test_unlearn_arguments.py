"""What `unlearn` is told: everything out of range is refused by name, before anything is drawn or changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from expunge import LangevinRidge, NoiseWarning

RNG = np.random.default_rng(5)
X = RNG.normal(size=(30, 3))
Y = X @ [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=30)
TARGET: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 20}


@pytest.fixture(scope="module")
def model() -> LangevinRidge:
    return LangevinRidge(step_size=5e-3, n_steps=400, noise_std=0.01).fit(X, Y)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", -1e-9),
        ("epsilon", np.nan),
        ("delta", 0.0),
        ("delta", -0.1),
        ("delta", 1.0),
        ("delta", 1.5),
        ("n_steps", 0),
        ("n_steps", 2.0),
        ("method", "exactly"),
        ("last_of_class", "allow"),
        ("max_loss", -1e-9),
        ("noise_std", -1.0),
        ("noise_std", 1e200),
        ("noise_std", np.nan),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(model: LangevinRidge, name: str, value: Any) -> None:
    before = model.coef_
    with pytest.raises((ValueError, TypeError), match=f"^{name} "):
        model.unlearn(3, **{**TARGET, name: value})
    np.testing.assert_array_equal(model.coef_, before)


def test_one_way_to_say_the_noise(model: LangevinRidge) -> None:
    with pytest.raises(ValueError, match="at most one of noise_std and noise_grid"):
        model.unlearn(3, **TARGET, noise_std=1.0, noise_grid=[1.0])


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_the_certificate_is_by_the_method_asked_for(model: LangevinRidge, method: str) -> None:
    # So much noise suffices by the worst of the three, and ruins the model.
    with pytest.warns(NoiseWarning, match="cost the difference"):
        result = model.unlearn(3, **TARGET, noise_std=2.0, method=method)
    assert result.certificate.method == method
    assert result.status == result.certificate.status == "certified"


def test_a_model_that_forgetting_would_ruin_is_kept_if_a_loss_is_named(model: LangevinRidge) -> None:
    assert model.unlearn(3, **TARGET, max_loss=0.5).after > 0.4
    before = model.coef_
    with pytest.raises(ValueError, match="max_loss"):
        model.unlearn(3, **TARGET, noise_std=50.0, max_loss=0.5)
    np.testing.assert_array_equal(model.coef_, before)
