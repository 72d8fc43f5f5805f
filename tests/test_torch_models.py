"""Models of the experiments: seeded, of the right shape, and every one of them understood by GradNorms."""

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch.nn import functional as F  # noqa: E402, N812

from expunge.torch import GradNorms  # noqa: E402
from expunge.torch.models import mlp, resnet18, small_cnn, small_vit  # noqa: E402

MODELS = {
    "cnn on digits": ((1, 8, 8), lambda seed: small_cnn(input_shape=(1, 8, 8), width=4, seed=seed)),
    "cnn on MNIST": ((1, 28, 28), lambda seed: small_cnn(input_shape=(1, 28, 28), width=4, seed=seed)),
    "cnn on CIFAR": ((3, 32, 32), lambda seed: small_cnn(input_shape=(3, 32, 32), width=4, seed=seed)),
    "mlp": ((1, 8, 8), lambda seed: mlp(input_shape=(1, 8, 8), hidden=(9, 7), seed=seed)),
    "resnet18": ((3, 16, 16), lambda seed: resnet18(input_shape=(3, 16, 16), width=4, seed=seed)),
    "vit": ((3, 8, 8), lambda seed: small_vit(input_shape=(3, 8, 8), dim=8, depth=2, n_heads=2, seed=seed)),
}


def inputs(shape, n=3):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, *shape, dtype=torch.float64, generator=generator), torch.arange(n) % 10


@pytest.mark.parametrize("name", MODELS)
def test_norms_are_those_of_one_example_at_a_time(name):
    shape, build = MODELS[name]
    model = build(1).double()
    x, y = inputs(shape)
    with GradNorms(model) as g:
        F.cross_entropy(model(x), y, reduction="sum").backward()
        found = g.norms()
    for i in range(len(x)):
        grads = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        expected = torch.sqrt(sum(grad.square().sum() for grad in grads))
        torch.testing.assert_close(found[i], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_weights_and_the_callers_random_state_is_untouched(name):
    _, build = MODELS[name]
    before = torch.random.get_rng_state()
    first, again, other = build(1), build(1), build(2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_examples_do_not_touch_one_another(name):
    shape, build = MODELS[name]
    model = build(1).double()
    x, _ = inputs(shape)
    together = model(x)
    alone = torch.cat([model(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def test_the_full_resnet18_is_the_known_one():
    # Torchvision's has 11,181,642 parameters with ten classes and its 7x7 stem, which has 64 x 3 x (49 - 9) more.
    assert sum(p.numel() for p in resnet18().parameters()) == 11_181_642 - 64 * 3 * 40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small_cnn(input_shape=(8, 8)), "channels, height, width"),
        (lambda: small_cnn(input_shape=(1, 2, 2)), "too small"),
        (lambda: small_cnn(input_shape=(1, 8, 8), norm="layer"), "norm must be one of"),
        (lambda: small_vit(input_shape=(1, 9, 9)), "patch must divide"),
        (lambda: small_vit(dim=10, n_heads=4), "n_heads must divide"),
        (lambda: mlp(input_shape=0), "input_shape must be >= 1"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
