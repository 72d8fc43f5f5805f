"""Per-example gradient norms in JAX on the CPU, float32: `expunge.jax` beside `vmap(grad)` and a plain gradient.

Run ``python bench/bench_jax.py [--models mlp cnn transformer] [--repeats R]``; needs ``expunge[jax]``. Norms are
compared with those of ``vmap(grad)`` before anything is timed. The yardstick is ``value_and_grad`` of the summed loss,
which gives no norms. All functions are compiled beforehand.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from timing import measure, need, table, write_results

need("jax", extra="jax")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402

from expunge.jax import grad_norms, value_and_grad_norms  # noqa: E402

RNG = np.random.default_rng(0)


def weight(*shape: int) -> Any:
    return jnp.asarray(RNG.normal(size=shape) / np.prod(shape[:-1]) ** 0.5, jnp.float32)


def cross_entropy(logits: Any, labels: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def mlp(batch: int = 256):
    params = [(weight(a, b), jnp.zeros(b)) for a, b in ((784, 512), (512, 512), (512, 10))]

    def loss(params, x, y):
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = params[-1]
        return cross_entropy(x @ w + b, y)

    return loss, params, jnp.asarray(RNG.normal(size=(batch, 784)), jnp.float32)


def cnn(batch: int = 64):
    params = {
        "blocks": [(weight(3, 3, a, b), jnp.ones(b), jnp.zeros(b)) for a, b in ((3, 32), (32, 64), (64, 64))],
        "head": weight(1024, 10),
    }

    def loss(params, x, y):
        for kernel, scale, shift in params["blocks"]:
            h = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            groups = h.reshape(*h.shape[:3], 8, -1)
            centred = groups - groups.mean((1, 2, 4), keepdims=True)
            groups = centred * lax.rsqrt((centred**2).mean((1, 2, 4), keepdims=True) + 1e-5)
            x = jax.nn.relu(groups.reshape(h.shape) * scale + shift)
            x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        return cross_entropy(x.reshape(len(x), -1) @ params["head"], y)

    return loss, params, jnp.asarray(RNG.normal(size=(batch, 32, 32, 3)), jnp.float32)


def transformer(batch: int = 64, width: int = 128, heads: int = 4):
    def norm():
        return jnp.ones(width), jnp.zeros(width)

    params = {
        "table": weight(1000, width),
        "blocks": [
            {
                "qkv": weight(width, 3, heads, width // heads),
                "out": weight(heads, width // heads, width),
                "up": weight(width, 4 * width),
                "down": weight(4 * width, width),
                "norms": (norm(), norm()),
            }
            for _ in range(2)
        ],
        "head": weight(width, 10),
    }

    def layer_norm(x, scale, shift):
        centred = x - x.mean(-1, keepdims=True)
        return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift

    def loss(params, tokens, y):
        x = params["table"][tokens]
        for block in params["blocks"]:
            q, k, v = jnp.einsum("btd,dshe->sbthe", layer_norm(x, *block["norms"][0]), block["qkv"])
            attention = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k) / q.shape[-1] ** 0.5)
            x = x + jnp.einsum("bhts,bshe,hed->btd", attention, v, block["out"])
            x = x + jax.nn.gelu(layer_norm(x, *block["norms"][1]) @ block["up"]) @ block["down"]
        return cross_entropy(x.mean(1) @ params["head"], y)

    return loss, params, jnp.asarray(RNG.integers(0, 1000, (batch, 64)))


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def by_single_gradients(loss):
    """Return the norms by ``vmap(grad)``, as people write them."""

    def one(params, x, y):
        return loss(params, x[None], y[None])[0]

    def norms(params, x, y):
        grads = jax.vmap(jax.grad(one), (None, 0, 0))(params, x, y)
        return jnp.sqrt(sum((g.reshape(len(x), -1) ** 2).sum(1) for g in jax.tree.leaves(grads)))

    return norms


def compare(name: str, repeats: int) -> tuple[list[dict[str, Any]], float]:
    loss, params, x = MODELS[name]()
    y = jnp.asarray(RNG.integers(0, 10, len(x)))
    functions = {
        "value_and_grad, no norms": jax.jit(jax.value_and_grad(lambda *a: loss(*a).sum())),
        "vmap(grad), norms": jax.jit(by_single_gradients(loss)),
        "expunge.jax, norms": jax.jit(grad_norms(loss)),
        "expunge.jax, loss, gradient and norms": jax.jit(value_and_grad_norms(loss)),
    }
    expected = functions["vmap(grad), norms"](params, x, y)
    np.testing.assert_allclose(functions["expunge.jax, norms"](params, x, y), expected, rtol=1e-4)
    _, grads, norms = functions["expunge.jax, loss, gradient and norms"](params, x, y)
    np.testing.assert_allclose(norms, expected, rtol=1e-4)
    _, plain = functions["value_and_grad, no norms"](params, x, y)
    for ours, true in zip(jax.tree.leaves(grads), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-3, atol=1e-4 * float(jnp.abs(true).max()))

    def timed(function):
        return lambda: jax.block_until_ready(function(params, x, y))

    seconds = measure({way: timed(function) for way, function in functions.items()}, repeats=repeats)
    floor = seconds["value_and_grad, no norms"]
    rows = [
        {"model": name, "examples": len(x), "way": way, "ms": value * 1e3, "over no norms": value / floor}
        for way, value in seconds.items()
    ]
    return rows, seconds["vmap(grad), norms"] / seconds["expunge.jax, norms"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="these models alone")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    speedups: dict[str, float] = {}
    for name in options.models:
        more, speedups[name] = compare(name, options.repeats)
        print(table(more), end="\n\n", flush=True)
        rows += more
    for name, value in speedups.items():
        print(f"{name}: norms are {value:.1f} times as fast as by vmap(grad)")
    write_results("jax", rows, jax=jax.__version__, speedups=speedups)
    return 0


if __name__ == "__main__":
    sys.exit(main())
