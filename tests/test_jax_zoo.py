"""Per-example gradient norms of models as they are written in JAX, Flax and Equinox, against automatic differentiation.

Every model is compared parameter by parameter, in float64, at batches of one and five examples, and of two where it is
written here.
"""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs expunge[jax]", exc_type=ImportError)

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

from jax_norms import assert_exact, random_like  # noqa: E402

T, D, WORDS = 4, 6, 7
MODELS = {}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():  # programs run once here
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def model(function):
    MODELS[function.__name__] = function
    return function


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


def words(*shape, high=WORDS):
    return jnp.asarray(np.random.default_rng(3).integers(0, high, shape))


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]


def layer_norm(x, scale=1.0, shift=0.0):
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * scale + shift


@model
def mlp(batch):
    params = [(normal(5, 8), normal(8)), (normal(8, 3), normal(3))]

    def loss(params, x, y):
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = params[-1]
        return cross_entropy(x @ w + b, y)

    return loss, params, normal(batch, 5), words(batch, high=3)


@model
def mlp_sum(batch):
    loss, params, *rest = mlp(batch)
    return lambda *a: loss(*a).sum(), params, *rest


@model
def mlp_mean(batch):
    loss, params, *rest = mlp(batch)
    return lambda *a: loss(*a).mean(), params, *rest


@model
def labels_by_row_number(batch):
    def loss(w, x, y):
        logits = jax.nn.log_softmax(x @ w)
        return -logits[jnp.arange(len(x)), y]

    return loss, normal(5, 3), normal(batch, 5), words(batch, high=3)


@model
def positions_joined_with_examples(batch):
    def loss(p, x):
        h = jnp.tanh(x.reshape(-1, D) @ p["w"] + p["b"]).reshape(-1, T, 3)
        return (h**2).sum((1, 2))

    return loss, {"w": normal(D, 3), "b": normal(3)}, normal(batch, T, D)


@model
def many_positions(batch):  # the product is formed, and not Gram matrices
    return lambda w, x: (jnp.sin(x @ w) ** 2).sum((1, 2)), normal(3, 2), normal(batch, 30, 3)


@model
def few_positions(batch):  # Gram matrices, of terms that do not cancel
    return lambda w, x: (jnp.sin(x @ w) ** 2).sum((1, 2)), normal(20, 30), normal(batch, 3, 20)


@model
def gradients_that_cancel(batch):  # constant inputs, gradients that add up to nearly nothing
    def loss(w, x, c):
        return ((x @ w) * (c - c.mean(1, keepdims=True) * (1 - 1e-4))).sum((1, 2))

    x = jnp.ones((batch, 3, 20)) * normal(batch, 1, 20)
    return loss, normal(20, 30), x, normal(batch, 3, 30)


@model
def einsums(batch):
    params = {"qkv": normal(D, 3, 2, 4), "out": normal(2, 4, D), "mix": normal(2, D, D), "outer": normal(D, D)}

    def loss(p, x):
        q, k, v = jnp.einsum("btd,dshe->sbthe", x, p["qkv"])
        a = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k) / 2)
        h = jnp.einsum("bhts,bshe,hed->btd", a, v, p["out"])
        h = jnp.einsum("btd,hde->bthe", h, p["mix"]).sum(2)
        return jnp.einsum("bti,ij,btj->b", h, p["outer"], x)

    return loss, params, normal(batch, T, D)


@model
def weight_on_the_left(batch):
    return lambda w, x: jnp.tanh(w @ x).sum((1, 2)), normal(3, D), normal(batch, D, T)


@model
def tied_table(batch):
    def loss(p, t):
        h = jnp.tanh(p["table"][t] @ p["w"])
        return cross_entropy(h @ p["table"].T, t).mean(1)

    return loss, {"table": normal(WORDS, D), "w": normal(D, D)}, words(batch, T)


@model
def tied_autoencoder(batch):
    return lambda w, x: ((jnp.tanh(x @ w) @ w.T - x) ** 2).sum(1), normal(D, 3), normal(batch, D)


@model
def one_weight_twice(batch):
    return lambda w, x: jnp.tanh(jnp.tanh(x @ w) @ w).sum(1), normal(D, D), normal(batch, D)


@model
def one_weight_as_matrix_and_scale(batch):
    return lambda w, x: (jnp.tanh(x @ w) * w[0]).sum(1), normal(D, D), normal(batch, D)


@model
def slices_of_one_weight(batch):
    def loss(w, x):
        q, k = x @ w[:, :3], x @ w[:, 3:]
        return (q * jnp.sin(k)).sum(1)

    return loss, normal(D, 6), normal(batch, D)


@model
def weight_normalisation(batch):
    def loss(p, x):
        w = p["v"] / jnp.linalg.norm(p["v"], axis=0) * p["g"]
        return jnp.tanh(x @ w).sum(1)

    return loss, {"v": normal(D, 3), "g": normal(3)}, normal(batch, D)


@model
def low_rank_adapter(batch):
    def loss(p, x):
        return jnp.tanh(x @ (lax.stop_gradient(p["w"]) + p["a"] @ p["b"]) + x @ p["a"] @ p["b"]).sum(1)

    return loss, {"w": normal(D, D), "a": normal(D, 2), "b": normal(2, D)}, normal(batch, D)


@model
def penalty_in_every_loss(batch):
    return lambda w, x: jnp.sin(x @ w).sum(1) + 0.1 * (w**2).sum(), normal(D, 3), normal(batch, D)


@model
def embeddings_with_rows_that_are_not_there(batch):
    def loss(p, t):
        kept = jnp.take(p["a"], t, axis=0, mode="fill", fill_value=0)
        clipped = jnp.take(p["b"], t, axis=0, mode="clip")
        columns = jnp.take(p["c"], t % WORDS, axis=1)
        return (jnp.sin(kept) * clipped).sum((1, 2)) + jnp.sin(columns).sum((0, 2))

    return loss, {k: normal(*((D, WORDS) if k == "c" else (WORDS, D))) for k in "abc"}, words(batch, T, high=WORDS + 3)


@model
def normalisations(batch):
    def loss(p, x):
        h = layer_norm(x, p["scale"], p["shift"])
        h = h / jnp.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * p["rms"]
        g = h.reshape(-1, T, 2, 3)  # groups of channels over all positions
        g = (g - g.mean((1, 3), keepdims=True)) / jnp.sqrt(g.var((1, 3), keepdims=True) + 1e-6)
        return jnp.sin(g.reshape(-1, T, D) * p["group"]).sum((1, 2))

    return (
        loss,
        {name: normal(D, seed=k) for k, name in enumerate(("scale", "shift", "rms", "group"))},
        normal(batch, T, D),
    )


def convolution(name, dimensions, shape, kernel, **settings):
    def built(batch):
        def loss(w, x):
            y = lax.conv_general_dilated(x, w, dimension_numbers=dimensions, **settings)
            return (jnp.sin(y) ** 2).sum(tuple(range(1, y.ndim)))

        return loss, normal(*kernel), normal(batch, *shape)

    built.__name__ = name
    model(built)


ONE, TWO, THREE = ("NWC", "WIO", "NWC"), ("NHWC", "HWIO", "NHWC"), ("NCDHW", "OIDHW", "NCDHW")
convolution("conv_1d", ONE, (9, 3), (4, 3, 5), window_strides=(2,), padding="SAME")
convolution("conv_2d", TWO, (6, 7, 2), (3, 2, 2, 4), window_strides=(1, 2), padding=((1, 2), (0, 1)))
convolution("conv_2d_first", ("NCHW", "OIHW", "NCHW"), (2, 5, 5), (3, 2, 3, 3), window_strides=(1, 1), padding="VALID")
convolution("conv_dilated", TWO, (7, 7, 2), (2, 3, 2, 3), window_strides=(1, 1), padding="SAME", rhs_dilation=(2, 3))
convolution(
    "conv_transposed",
    TWO,
    (4, 3, 2),
    (3, 3, 2, 3),
    window_strides=(1, 1),
    padding=((2, 1), (1, 2)),
    lhs_dilation=(2, 3),
)
convolution("conv_groups", TWO, (5, 5, 6), (3, 3, 2, 9), window_strides=(2, 2), padding="SAME", feature_group_count=3)
convolution(
    "conv_depthwise", TWO, (5, 5, 4), (3, 3, 1, 8), window_strides=(1, 1), padding="SAME", feature_group_count=4
)
convolution("conv_3d", THREE, (2, 4, 5, 4), (3, 2, 2, 3, 2), window_strides=(1, 2, 1), padding="SAME")
convolution("conv_cut", TWO, (6, 6, 2), (3, 3, 2, 3), window_strides=(1, 1), padding=((-1, 0), (0, -1)))


@model
def a_kernel_used_twice(batch):
    def loss(w, x):
        for _ in range(2):
            x = jnp.tanh(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=TWO))
        return x.sum((1, 2, 3))

    return loss, normal(3, 3, 2, 2), normal(batch, 4, 4, 2)


@model
def standardised_kernel(batch):
    def loss(w, x):
        w = (w - w.mean((0, 1, 2))) / jnp.sqrt(w.var((0, 1, 2)) + 1e-6)
        return jnp.sin(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=TWO)).sum((1, 2, 3))

    return loss, normal(3, 3, 2, 3), normal(batch, 4, 4, 2)


@model
def gated_recurrence_by_scan(batch):
    def loss(p, x):
        def step(h, x):
            z = jax.nn.sigmoid(x @ p["zx"] + h @ p["zh"] + p["b"])
            h = (1 - z) * h + z * jnp.tanh(x @ p["x"] + (z * h) @ p["h"])
            return h, h.sum(-1)

        last, all_of_them = lax.scan(step, jnp.zeros((len(x), 3)), x.swapaxes(0, 1))
        return last.sum(1) + jnp.sin(all_of_them).sum(0)

    return (
        loss,
        {
            **{
                n: normal(*s, seed=k)
                for k, (n, s) in enumerate({"zx": (D, 3), "zh": (3, 3), "x": (D, 3), "h": (3, 3), "b": (3,)}.items())
            }
        },
        normal(batch, T, D),
    )


@model
def layers_by_scan(batch):
    def loss(p, x):
        h, _ = lax.scan(lambda h, layer: (h + jnp.tanh(h @ layer["w"] + layer["b"]), None), x, p)
        return h.sum(1)

    return loss, {"w": normal(3, D, D), "b": normal(3, D)}, normal(batch, D)


@model
def loops_branches_and_rematerialised_parts(batch):
    def loss(p, x):
        h = lax.fori_loop(0, 2, lambda k, h: jnp.tanh(h @ p["w"]) + k, x)
        h = lax.cond(p["b"][0] > 100.0, lambda h: h * p["b"], lambda h: h + p["b"], h)
        return jax.checkpoint(lambda h: jnp.sin(h @ p["w"]).sum(1))(h)

    return loss, {"w": normal(D, D), "b": normal(D)}, normal(batch, D)


@model
def a_function_with_its_own_gradient(batch):
    @jax.custom_vjp
    def scaled(x, w):
        return x @ w

    scaled.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, 2 * kept[0].T @ g))
    return lambda w, x: jnp.tanh(scaled(x, w)).sum(1), normal(D, 3), normal(batch, D)


@model
def a_batch_of_trees(batch):
    def loss(p, x):
        return (x["a"] @ p[0]).sum(1) * jnp.sin(x["b"] @ p[1]).sum(1)

    return loss, (normal(D, 2), normal(3, 2)), {"a": normal(batch, D), "b": normal(batch, 3)}


@model
def parts_put_together(batch):
    def loss(p, x):
        token = jnp.broadcast_to(p["token"], (len(x), 1, D))
        h = jnp.concatenate([token, x], 1) + p["places"]
        h = jnp.pad(h, ((0, 0), (1, 0), (0, 0)))[:, ::-1]
        h = jnp.where(h > p["threshold"], h, 0.1 * h)
        best = lax.top_k(h, 2)[0]
        return jnp.cumsum(h, 1).sum((1, 2)) + jnp.sort(h, 1)[:, 2].sum(1) + best.sum((1, 2)) + h.max((1, 2))

    return loss, {"token": normal(1, 1, D), "places": normal(T + 1, D), "threshold": normal(D)}, normal(batch, T, D)


@model
def mixture_of_experts(batch):
    def loss(p, x):
        gate = jax.nn.softmax(x @ p["gate"])
        h = jnp.einsum("bd,ndk->bnk", x, p["experts"])
        return jnp.einsum("bn,bnk->bk", gate, jnp.tanh(h)).sum(1)

    return loss, {"gate": normal(D, 3), "experts": normal(3, D, 2)}, normal(batch, D)


@model
def experts_chosen_by_the_input(batch):
    def loss(p, x):
        best = jnp.argmax(x @ p["gate"], 1)
        return jnp.tanh(jnp.einsum("bd,bdk->bk", x, p["experts"][best])).sum(1)

    return loss, {"gate": normal(D, 3), "experts": normal(3, D, 2)}, normal(batch, D)


def flax_model(name, make, *inputs, loss=None, **settings):
    def built(batch):
        linen = pytest.importorskip("flax.linen", reason="flax is not installed")
        module = make(linen)
        given = [one(batch) for one in inputs]
        params = random_like(module.init(jax.random.key(0), *given, **settings))

        def own_loss(params, *given):
            out = module.apply(params, *given, **settings)
            return jnp.sin(out).sum(tuple(range(1, out.ndim))) if loss is None else loss(out, *given)

        return own_loss, params, *given

    built.__name__ = f"flax_{name}"
    model(built)


def sequence(linen, *layers):
    return linen.Sequential(list(layers))


flax_model("mlp", lambda n: sequence(n, n.Dense(8), n.gelu, n.LayerNorm(), n.Dense(3)), lambda b: normal(b, D))
flax_model(
    "cnn",
    lambda n: sequence(
        n,
        n.Conv(4, (3, 3), strides=2),
        n.GroupNorm(2),
        n.silu,
        n.Conv(4, (3, 3), feature_group_count=2, kernel_dilation=2),
        lambda x: n.max_pool(x, (2, 2), (2, 2)),
        lambda x: x.reshape(len(x), -1),
        n.Dense(3),
    ),
    lambda b: normal(b, 8, 8, 2),
)
flax_model("conv_transpose", lambda n: n.ConvTranspose(3, (3, 3), strides=(2, 2)), lambda b: normal(b, 4, 4, 2))
flax_model("circular_conv", lambda n: n.Conv(3, (3,), padding="CIRCULAR"), lambda b: normal(b, 6, 2))
flax_model("dense_general", lambda n: n.DenseGeneral((2, 3), axis=(-2, -1)), lambda b: normal(b, T, D))
flax_model("einsum", lambda n: n.Einsum((D, 3), "btd,dk->btk"), lambda b: normal(b, T, D))
flax_model(
    "norms", lambda n: sequence(n, n.RMSNorm(), n.InstanceNorm(), n.WeightNorm(n.Dense(3))), lambda b: normal(b, T, D)
)
flax_model("lstm", lambda n: n.RNN(n.OptimizedLSTMCell(3, param_dtype=float)), lambda b: normal(b, T, D))
flax_model("gru", lambda n: n.RNN(n.GRUCell(3, param_dtype=float), reverse=True), lambda b: normal(b, T, D))
flax_model(
    "cross_attention",
    lambda n: n.MultiHeadDotProductAttention(2),
    lambda b: normal(b, T, D),
    lambda b: normal(b, 3, D, seed=1),
    loss=lambda out, *_: jnp.sin(out).sum((1, 2)),
)


@model
def flax_batch_norm_in_eval_mode(batch):
    linen = pytest.importorskip("flax.linen", reason="flax is not installed")
    module = linen.Sequential([linen.Dense(4), linen.BatchNorm(use_running_average=True), linen.Dense(2)])
    x = normal(batch, T, D)
    found = module.init(jax.random.key(0), x)
    moments = jax.tree.map(lambda a: a + 0.3, found["batch_stats"])

    def loss(params, x):
        return jnp.sin(module.apply({"params": params, "batch_stats": moments}, x)).sum((1, 2))

    return loss, random_like(found["params"]), x


@model
def flax_transformer(batch):
    linen = pytest.importorskip("flax.linen", reason="flax is not installed")

    class Transformer(linen.Module):
        @linen.compact
        def __call__(self, t):
            table = linen.Embed(WORDS, D)
            x = table(t) + self.param("places", linen.initializers.normal(), (t.shape[1], D))
            mask = linen.combine_masks(linen.make_causal_mask(t), linen.make_attention_mask(t > 0, t > 0))
            for _ in range(2):
                x = x + linen.MultiHeadDotProductAttention(2)(linen.LayerNorm()(x), mask=mask)
                x = x + linen.Dense(D)(linen.gelu(linen.Dense(8)(linen.RMSNorm()(x))))
            return table.attend(x)

    module, t = Transformer(), words(batch, T)

    def loss(params, t):
        return cross_entropy(module.apply(params, t)[:, :-1], t[:, 1:]).mean(1)

    return loss, random_like(module.init(jax.random.key(0), t)), t


@model
def nnx_model(batch):
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
            self.norm = nnx.LayerNorm(4, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
            self.out = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            h = self.norm(jax.nn.relu(self.conv(x))).reshape(len(x), -1, 4)
            return self.out(h + self.attention(h)).mean(1)

    graph, state = nnx.split(Model(nnx.Rngs(0)), nnx.Param)
    return lambda p, x: jnp.sin(nnx.merge(graph, p)(x)).sum(1), random_like(state), normal(batch, 4, 3, 2)


def equinox_model(name, make, shape, *, indices=False):
    def built(batch):
        eqx = pytest.importorskip("equinox", reason="equinox is not installed")
        params, static = eqx.partition(make(eqx, jax.random.key(0)), eqx.is_inexact_array)

        def loss(params, x):
            return jnp.sin(jax.vmap(eqx.combine(params, static))(x)).reshape(len(x), -1).sum(1)

        return loss, random_like(params), words(batch, *shape) if indices else normal(batch, *shape)

    built.__name__ = f"equinox_{name}"
    model(built)


equinox_model("mlp", lambda e, k: e.nn.MLP(D, 3, 8, 2, key=k), (D,))
equinox_model(
    "cnn",
    lambda e, k: e.nn.Sequential(
        [
            e.nn.Conv2d(2, 4, 3, stride=2, padding=1, key=k),
            e.nn.GroupNorm(2, 4),
            e.nn.Lambda(jax.nn.relu),
            e.nn.Conv2d(4, 4, 3, groups=2, dilation=2, key=k),
            e.nn.ConvTranspose2d(4, 2, 2, stride=2, key=k),
            e.nn.AvgPool2d(2, 2),
        ]
    ),
    (2, 9, 9),
)
equinox_model(
    "conv_1d_and_3d",
    lambda e, k: e.nn.Sequential(
        [e.nn.Conv1d(2, 4, 3, key=k), e.nn.Lambda(lambda x: x.reshape(2, 2, 2, 2)), e.nn.Conv3d(2, 3, 2, key=k)]
    ),
    (2, 6),
)
equinox_model("embedding", lambda e, k: e.nn.Embedding(WORDS, D, key=k), (), indices=True)
equinox_model(
    "layer_norm",
    lambda e, k: e.nn.Sequential(
        [e.nn.LayerNorm((T, D)), e.nn.Lambda(jnp.ravel), e.nn.Linear(T * D, 2, key=k), e.nn.RMSNorm(2)]
    ),
    (T, D),
)


@model
def equinox_recurrence_and_attention(batch):
    eqx = pytest.importorskip("equinox", reason="equinox is not installed")
    k = jax.random.key(0)
    whole = {"cell": eqx.nn.GRUCell(D, D, key=k), "attention": eqx.nn.MultiheadAttention(2, D, key=k)}
    params, static = eqx.partition(whole, eqx.is_inexact_array)

    def loss(params, x):
        found = eqx.combine(params, static)

        def one(x):
            last, states = lax.scan(lambda h, x: (found["cell"](x, h),) * 2, jnp.zeros(D), x)
            return found["attention"](states, states, x, mask=jnp.tril(jnp.ones((T, T), bool))).sum() + last.sum()

        return jax.vmap(one)(x)

    return loss, random_like(params), normal(batch, T, D)


LIBRARIES = ("flax_", "nnx_", "equinox_")
CASES = [(name, batch) for name in MODELS for batch in (1, 2, 5) if batch != 2 or not name.startswith(LIBRARIES)]


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_norms_are_those_of_the_examples_alone(name, batch):
    loss, params, *rest = MODELS[name](batch)
    assert_exact(loss, params, *rest, reduction="mean" if name.endswith("_mean") else "sum")


def test_there_are_as_many_models_as_there_should_be():
    assert len(MODELS) >= 50
