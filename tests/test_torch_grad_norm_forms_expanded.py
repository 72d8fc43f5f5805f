"""GradNorms of parameters expanded over the batch (learned queries, tokens and states) or broadcast with examples."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.torch import UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, assert_exact_at_all_sizes, block_norms, parameter  # noqa: E402

D, T, H = 6, 5, 4  # T is a size of a batch, too


def linear(a, b):
    return lambda: nn.Linear(a, b)


def one(*shape):
    return lambda: parameter(*shape)


def attention(**settings):
    return lambda: nn.MultiheadAttention(D, 2, **{"batch_first": True, **settings})


def mlp(a, b):
    return lambda: nn.Sequential(nn.Linear(a, 7), nn.GELU(), nn.Linear(7, b))


EXPAND = {
    "expand": lambda q, n: q.expand(n, -1, -1),
    "expand, made contiguous": lambda q, n: q.expand(n, -1, -1).contiguous(),
    "expand, of a row": lambda q, n: q[0].unsqueeze(0).expand(n, -1, -1),
    "repeat": lambda q, n: q.repeat(n, 1, 1),
    "repeat, of a row": lambda q, n: q[0][None].repeat(n, 1, 1),
    "repeat_interleave": lambda q, n: q.repeat_interleave(n, 0),
    "stack": lambda q, n: torch.stack([q[0]] * n),
    "cat": lambda q, n: torch.cat([q] * n),
    "tile": lambda q, n: q.tile(n, 1, 1),
    "broadcast_to": lambda q, n: torch.broadcast_to(q, (n, *q.shape[1:])),
    "added to zeros": lambda q, n: torch.zeros(n, *q.shape[1:], dtype=q.dtype) + q,
}
USE = {
    "attention by hand": (lambda m, x, q: m.o(F.scaled_dot_product_attention(q, x, x)), {}),
    "attention": (lambda m, x, q: m.a(q, x, x)[0], {"a": attention()}),
    "a layer first": (lambda m, x, q: m.o(m.l(q).tanh() @ x.mT @ x), {"l": linear(D, D)}),
    "a normalisation first": (lambda m, x, q: m.o(m.n(q) + x[:, :3]), {"n": lambda: nn.LayerNorm(D)}),
    "before the input": (lambda m, x, q: m.o(torch.cat([q, x], 1)), {}),
    "added": (lambda m, x, q: m.o(q + x[:, :3]), {}),
    "by letters": (lambda m, x, q: m.o(torch.einsum("bqd,btd->bqt", q, x).softmax(-1) @ x), {}),
    "as keys and values": (lambda m, x, q: m.a(x, q, q)[0], {"a": attention()}),
}


@pytest.mark.parametrize("how", EXPAND)
@pytest.mark.parametrize("use", USE)
def test_learned_queries_are_exact(how, use):
    function, parts = USE[use]
    assert_exact_at_all_sizes(
        lambda m, x: function(m, x, EXPAND[how](m.q, len(x))), {"q": one(1, 3, D), "o": linear(D, 3), **parts}, (T, D)
    )


def started(kind, states, batch_first, layers, how):
    def forward(m, x):
        s = [how(m.h, len(x)), how(m.c, len(x))][:states]
        return m.r(x if batch_first else x.mT.transpose(1, 2).transpose(0, 1), tuple(s) if states == 2 else s[0])[0]

    make = getattr(nn, kind)
    parts = {"h": one(layers, 1, H), "r": lambda: make(D, H, layers, batch_first=batch_first)}
    if states == 2:
        parts["c"] = one(layers, 1, H)
    else:
        parts["c"] = nn.Identity
    return lambda m, x: forward(m, x) if batch_first else forward(m, x).transpose(0, 1), parts


@pytest.mark.parametrize(("kind", "states"), [("LSTM", 2), ("GRU", 1), ("RNN", 1)])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_learned_initial_states_are_exact(kind, states, batch_first, layers):
    for how in (lambda h, n: h.expand(-1, n, -1).contiguous(), lambda h, n: h.repeat(1, n, 1)):
        function, parts = started(kind, states, batch_first, layers, how)
        if states == 1:
            del parts["c"]
            function = one_state(batch_first, how)
        assert_exact_at_all_sizes(function, parts, (T, D), batches=(1, 2, layers, 5))


def one_state(batch_first, how):
    def forward(m, x):
        y = m.r(x if batch_first else x.transpose(0, 1), how(m.h, len(x)))[0]
        return y if batch_first else y.transpose(0, 1)

    return forward


def detection(m, x):
    """Learned queries that attend to each other before they see an input, positions in front."""
    queries = m.q.weight.unsqueeze(1).repeat(1, len(x), 1)
    return m.d(torch.zeros_like(queries) + queries, x.permute(1, 0, 2)).transpose(0, 1)


def latents(m, x):
    z = m.z.expand(len(x), -1, -1)
    z = z + m.a(m.n(z), m.k(x), m.k(x))[0]
    return m.o((z + m.f(z)).mean(1))


def decoder(**settings):
    return lambda: nn.TransformerDecoderLayer(D, 2, 8, dropout=0.0, **settings)


MODELS = {
    "a token in front": (
        lambda m, x: m.o(torch.cat([m.c.expand(len(x), 1, D), x], 1)), {"c": one(D), "o": linear(D, 3)},
    ),
    "vision transformer": (
        lambda m, x: m.o(m.e(torch.cat([m.c.expand(len(x), -1, -1), x], dim=1) + m.p)[:, 0]),
        {
            "c": one(1, 1, D),
            "p": one(1, T + 1, D),
            "e": lambda: nn.TransformerEncoderLayer(D, 2, 8, batch_first=True, dropout=0.0),
            "o": linear(D, 3),
        },
    ),
    "detection": (detection, {"q": lambda: nn.Embedding(3, D), "d": decoder()}),
    "detection, batch first": (
        lambda m, x: m.d(m.q.weight.unsqueeze(0).expand(len(x), -1, -1), x),
        {"q": lambda: nn.Embedding(3, D), "d": decoder(batch_first=True)},
    ),
    "latents": (
        latents,
        {
            "z": one(1, 3, D), "a": attention(), "n": lambda: nn.LayerNorm(D), "k": linear(D, D), "f": mlp(D, D),
            "o": linear(D, 3),
        },
    ),
    "a token where masked": (lambda m, x: m.o(torch.where(x[..., :1] > 0, m.k, x)), {"k": one(D), "o": linear(D, 3)}),
    "keys and values in front": (
        lambda m, x: m.o(
            F.scaled_dot_product_attention(
                x, torch.cat([m.k.expand(len(x), -1, -1), x], 1), torch.cat([m.v.expand(len(x), -1, -1), x], 1)
            )
        ),
        {"k": one(1, 2, D), "v": one(1, 2, D), "o": linear(D, 3)},
    ),
    "a bias of keys": (lambda m, x: m.a(x, x, x)[0], {"a": attention(add_bias_kv=True)}),
    "queries by letters": (
        lambda m, x: m.o(torch.einsum("qd,btd->bqt", m.q, x).softmax(-1) @ x), {"q": one(3, D), "o": linear(D, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_with_learned_tokens_are_exact(name):
    function, parts = MODELS[name]
    assert_exact_at_all_sizes(function, parts, (T, D))


# --- broadcasting ---------------------------------------------------------------------------------------


def selective_scan(m, x):
    delta = F.softplus(m.dt(x))
    decay = torch.exp(delta[..., None] * -torch.exp(m.a))
    given = delta[..., None] * m.b(x)[:, :, None] * x[..., None]
    h, out = x.new_zeros(len(x), D, 3), []
    for t in range(T):
        h = decay[:, t] * h + given[:, t]
        out.append((h * m.c(x)[:, t, None]).sum(-1))
    return torch.stack(out, 1) + x * m.skip


def chain(m, x):
    """The partition function of a chain of labels."""
    emitted = m.e(x)
    alpha = m.s + emitted[:, 0]
    for t in range(1, T):
        alpha = torch.logsumexp(alpha[:, :, None] + m.t[None] + emitted[:, t][:, None], 1)
    return torch.logsumexp(alpha + m.f, 1)


BROADCAST = {
    "selective scan": (
        selective_scan,
        {"dt": linear(D, D), "a": one(D, 3), "b": linear(D, 3), "c": linear(D, 3), "skip": one(D)},
        (T, D),
    ),
    "chain": (chain, {"e": linear(D, 3), "t": one(3, 3), "s": one(3), "f": one(3)}, (T, D)),
    "scores of a chain": (
        lambda m, x: (lambda y: m.t[y[:, :-1], y[:, 1:]].sum(1))(x.argmax(-1)), {"t": one(D, D)}, (T, D),
    ),
    "times": (lambda m, x: x[..., None] * m.a, {"a": one(D, 3)}, (T, D)),
    "times, from the left": (lambda m, x: m.a * x[..., None], {"a": one(D, 3)}, (T, D)),
    "as long as the batch": (lambda m, x: x[:, None, :, 0] + m.a, {"a": one(5, T)}, (T, D)),
    "as long as the batch, in a dimension of one": (lambda m, x: x[:, None] * m.a, {"a": one(1, 5, 1, D)}, (T, D)),
    "one number each": (lambda m, x: x[:, None] * m.a + m.b, {"a": one(D), "b": one(D)}, ()),
    "one column each": (lambda m, x: x * m.a, {"a": one(D)}, (1,)),
    "minus": (lambda m, x: x[:, :, None] - m.a, {"a": one(3, D)}, (T, D)),
    "from": (lambda m, x: m.a - x[:, :, None], {"a": one(3, D)}, (T, D)),
    "over": (lambda m, x: x / m.a, {"a": one(D)}, (T, D)),
    "a power": (lambda m, x: x.abs() ** m.a, {"a": one(D)}, (T, D)),
    "centres": (
        lambda m, x: (-(x[:, :, None] - m.c).square().sum(-1) * m.s.exp()).exp(), {"c": one(3, D), "s": one(3)}, (T, D),
    ),
    "outer product": (lambda m, x: torch.einsum("bti,j->btij", x, m.w), {"w": one(3)}, (T, D)),
    "in between": (lambda m, x: torch.lerp(x, x.flip(1), m.w.sigmoid()), {"w": one(D)}, (T, D)),
    "scaled": (lambda m, x: torch.add(x, m.g, alpha=0.5), {"g": one(D)}, (T, D)),
    "batch second": (lambda m, x: (x.transpose(0, 1) * m.p).transpose(0, 1), {"p": one(T, 1, D)}, (T, D)),
    "batch last": (lambda m, x: (x.permute(1, 2, 0) * m.p).permute(2, 0, 1), {"p": one(T, D, 1)}, (T, D)),
}  # fmt: skip


@pytest.mark.parametrize("name", BROADCAST)
def test_broadcasting_with_parameters_is_exact(name):
    function, parts, shape = BROADCAST[name]
    assert_exact_at_all_sizes(function, parts, shape)


# --- what a wrong rule would get wrong ------------------------------------------------------------------


def test_rows_repeated_as_often_as_there_are_examples_may_be_no_examples():
    """Expanded to T rows along the time dimension, with as many examples: each row is seen by every example."""
    torch.manual_seed(0)
    for function in (
        lambda m, x: torch.maximum(x, m.q.expand(T, -1)).cumsum(1),
        lambda m, x: torch.hypot(x, m.q.repeat(T, 1)).cumsum(1),
        lambda m, x: torch.lerp(x, m.q.expand(T, -1) * 1.0, 0.3).cumsum(1),
    ):
        model = Calls(function, q=parameter(1, D))
        x = torch.randn(T, T, D).double()
        single = [block_norms(model, x[i : i + 1])[0] for i in range(T)]
        np.testing.assert_allclose(block_norms(model, x), single, rtol=1e-9)


def test_a_parameter_with_a_row_for_every_example_of_a_batch_keeps_to_its_rows():
    torch.manual_seed(1)
    for meet in (torch.add, torch.maximum, lambda x, p: torch.cat([x, p], 1), lambda x, p: m_attention(x, p)):
        model = Calls(lambda m, x, meet=meet: meet(x, m.p.tanh()), p=parameter(3, T, D))
        x = torch.randn(3, T, D).double()
        losses = model(x).sin().flatten(1).sum(1)
        grads = [torch.autograd.grad(one, model.p, retain_graph=True)[0] for one in losses]
        np.testing.assert_allclose(block_norms(model, x), [float(g.norm()) for g in grads], rtol=1e-9)


def m_attention(x, p):
    return F.scaled_dot_product_attention(x, p, p)


def test_examples_that_meet_through_learned_queries_are_refused():
    """The batch for positions: queries of one example attend to all others."""
    model = Calls(
        lambda m, x: m.a(m.q.expand(-1, 3, -1), x, x)[0], q=parameter(1, 1, D), a=nn.MultiheadAttention(D, 2)
    ).double()
    with pytest.raises(UnsupportedLayerError, match="batch_first=True"):
        block_norms(model, torch.randn(3, 3, D).double())
    mixed = Calls(lambda m, x: m.o(m.q.expand(len(x), -1) @ x.T @ x), q=parameter(1, D), o=nn.Linear(D, 3)).double()
    with pytest.raises(UnsupportedLayerError, match=r"adds (up|products up) over the batch"):
        block_norms(mixed, torch.randn(3, D).double())


@pytest.mark.parametrize(
    "use",
    [
        lambda x, w: x + w,
        lambda x, w: x * w,
        lambda x, w: torch.bmm(x[:, None], w.unsqueeze(-1)),
        lambda x, w: torch.cat([x, w], 1),
    ],
)
def test_a_parameter_with_as_many_rows_as_the_batch_has_none_for_each_example(use):
    model = Calls(lambda m, x: use(m.l(x), m.w)[:, None].flatten(1), l=linear(D, D)(), w=parameter(T, D)).double()
    x = torch.randn(T, D, dtype=torch.float64)
    for settings in ({}, {"param_grads": False}):
        with pytest.raises(UnsupportedLayerError, match=r"^w: "):
            block_norms(model, x, **settings)
