"""GradNorms of what is computed of parameters without an example: layers on constants, functions of weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils import parametrizations  # noqa: E402

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from torch_norms import (  # noqa: E402
    Calls,
    Constant,
    assert_exact_at_all_sizes,
    block_norms,
    loss_of,
    norms_of_rows,
    parameter,
)

D, T, H = 6, 5, 4  # T is a size of a batch, too


def linear(a, b):
    return lambda: nn.Linear(a, b)


def mlp(a, b, **settings):
    return lambda: nn.Sequential(nn.Linear(a, 7), nn.ReLU(**settings), nn.Linear(7, b))


def grid(*shape):
    return lambda: Constant(*shape)


def positions(use, rows=T, columns=D):
    """A function of the input and of what a network makes of constant places, and its parts."""
    return lambda m, x: use(m, x, m.p(m.g.t)), {"g": grid(rows, 2), "p": mlp(2, columns), "o": linear(D, 3)}


def two(first, second):
    return lambda m, x, p: m.o(second(first(x, p), p))


ON_CONSTANTS = {
    "a network of positions": positions(lambda m, x, p: m.o(x + p)),
    "of fewer positions": positions(lambda m, x, p: m.o(x[:, :3] + p), rows=3),
    "of 0, 1, 2": (
        lambda m, x: m.o(x + m.p(torch.arange(T).double()[:, None])), {"p": mlp(1, D), "o": linear(D, 3)},
    ),
    "used twice": positions(two(lambda x, p: (x + p).tanh(), lambda h, p: h * p)),
    "used twice, once by rule and once by running again": positions(two(torch.maximum, lambda h, p: h * p)),
    "by views": positions(
        lambda m, x, p: m.o(x * p.T.reshape(D, T).T[..., :1] + p.view(-1).view(T, D).unbind(1)[2][:, None])
    ),
    "changed in place": positions(lambda m, x, p: m.o(x + p.mul_(2.0).add_(1.0).exp_())),
    "used before and after a change in place": positions(
        lambda m, x, p: m.o((x + p) * p.mul_(2.0).tanh() + x.cos() * p)
    ),
    "an entry written": positions(lambda m, x, p: (p.__setitem__((slice(None), 0), 1.0), m.o(x + p))[1]),
    "activations in place": (
        lambda m, x: m.o(x + m.p(m.g.t)), {"g": grid(T, 2), "p": mlp(2, D, inplace=True), "o": linear(D, 3)},
    ),
    "beside activations": positions(lambda m, x, p: m.o(torch.cat([x, p.expand(len(x), -1, -1)], -1)[..., 3 : 3 + D])),
    "before activations": positions(lambda m, x, p: m.o(torch.cat([p[None].expand(len(x), -1, -1), x], 1))),
    "a bias of attention": positions(
        lambda m, x, p: m.o(F.scaled_dot_product_attention(x, x, x, attn_mask=p)), columns=T
    ),
    "picked from a table": positions(
        lambda m, x, p: m.o((x @ x.mT + p.view(-1)[torch.arange(T * T) % 9].view(T, T)).softmax(-1) @ x), 9, 1
    ),
    "a weight": positions(lambda m, x, p: F.linear(x, p), 3),
    "a weight, from the left": positions(lambda m, x, p: p @ x, 3, T),
    "a kernel": positions(lambda m, x, p: F.conv1d(x.mT, p.view(3, D, 3)), 3, 3 * D),
    "a convolution": (
        lambda m, x: x + m.c(m.g.t)[0].T, {"g": grid(1, 2, T), "c": lambda: nn.Conv1d(2, D, 3, padding=1)},
    ),
    "a normalisation": (lambda m, x: x + m.n(m.g.t), {"g": grid(T, D), "n": lambda: nn.LayerNorm(D)}),
    "batch normalisation": (
        lambda m, x: x + m.n(m.g.t), {"g": grid(T, D), "n": lambda: nn.BatchNorm1d(D).eval()},
    ),
    "a recurrent layer": (
        lambda m, x: x + m.r(m.g.t)[0][0], {"g": grid(1, T, 2), "r": lambda: nn.LSTM(2, D, batch_first=True)},
    ),
    "attention": (
        lambda m, x: x + m.a(m.g.t, m.g.t, m.g.t)[0][0],
        {"g": grid(1, T, D), "a": lambda: nn.MultiheadAttention(D, 2, batch_first=True)},
    ),
    "a whole transformer": (
        lambda m, x: x + m.a(m.g.t)[0],
        {"g": grid(1, T, D), "a": lambda: nn.TransformerEncoderLayer(D, 2, 8, batch_first=True, dropout=0.0)},
    ),
    "rows of ones": (
        lambda m, x: m.o(x[:, 0] + m.h(torch.ones(len(x), H).double()).tanh()), {"h": linear(H, D), "o": linear(D, 3)},
    ),
    "ones like the input": (
        lambda m, x: m.o(x[:, 0] * m.h(torch.ones_like(x[:, 0])).tanh()), {"h": linear(D, D), "o": linear(D, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_CONSTANTS)
def test_layers_on_constants_are_exact(name):
    function, parts = ON_CONSTANTS[name]
    assert_exact_at_all_sizes(function, parts, (T, D))


def unrolled(m, x):
    h = torch.zeros(len(x), H, dtype=x.dtype)
    for t in range(T):
        h = torch.tanh(m.w(x[:, t]) + m.u(h))
    return h


def test_a_recurrence_from_zeros_is_exact():
    assert_exact_at_all_sizes(unrolled, {"w": linear(D, H), "u": linear(H, H)}, (T, D))


PARAMETRISED = {
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(D, D)),
    "orthogonal by cayley": lambda: parametrizations.orthogonal(nn.Linear(D, D), orthogonal_map="cayley"),
    "orthogonal by householder": lambda: parametrizations.orthogonal(nn.Linear(D, 3), orthogonal_map="householder"),
    "spectral": lambda: parametrizations.spectral_norm(nn.Linear(D, 3)).eval(),
    "spectral, of a convolution": lambda: parametrizations.spectral_norm(nn.Conv1d(T, 3, 3)).eval(),
    "spectral, by hooks": lambda: nn.utils.spectral_norm(nn.Linear(D, 3)).eval(),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(D, 3)),
    "weight norm, of a convolution": lambda: parametrizations.weight_norm(nn.Conv1d(T, 3, 3)),
    "weight norm, of an embedding": lambda: nn.Sequential(Rounded(), parametrizations.weight_norm(nn.Embedding(9, 3))),
}


class Rounded(nn.Module):
    """Whole numbers made of others."""

    def forward(self, x):
        return (x.abs() * 3).long().clamp(max=8)


@pytest.mark.parametrize("name", PARAMETRISED)
def test_parametrised_layers_are_exact(name):
    assert_exact_at_all_sizes(lambda m, x: m.l(x), {"l": PARAMETRISED[name]}, (T, D))


def standard(w):
    return (w - w.mean((1, 2), keepdim=True)) / (w.var((1, 2), keepdim=True, unbiased=False) + 1e-5).sqrt()


def scaled(m):
    """The weight of a scaled, standardised convolution, as batch normalisation of its rows."""
    w = m.c.weight
    rows = F.batch_norm(w.reshape(1, 3, -1), None, None, (m.g * 0.3).view(-1), training=True, momentum=0.0, eps=1e-6)
    return rows.reshape_as(w)


def conv():
    return nn.Conv1d(T, 3, 3)


def one(*shape):
    return lambda: parameter(*shape)


EYE = torch.eye(D, dtype=torch.float64)
OF_WEIGHTS = {
    "standardised": (lambda m, x: F.conv1d(x, standard(m.c.weight), m.c.bias), {"c": conv}),
    "by batch norm": (lambda m, x: F.conv1d(x, scaled(m), m.c.bias), {"c": conv, "g": one(3, 1, 1)}),
    "by batch norm without weight": (
        lambda m, x: F.conv1d(x, F.batch_norm(m.c.weight, None, None, training=True)), {"c": conv},
    ),
    "cosine classifier": (
        lambda m, x: m.s * F.linear(F.normalize(x, dim=-1), F.normalize(m.w, dim=-1)), {"w": one(3, D), "s": one()},
    ),
    "cosine similarity": (lambda m, x: F.cosine_similarity(x[:, :, None], m.w, dim=-1), {"w": one(3, D)}),
    "layer norm": (
        lambda m, x: F.linear(x, F.layer_norm(m.w, (D,), m.g, m.b)), {"w": one(3, D), "g": one(D), "b": one(D)},
    ),
    "rms norm": (lambda m, x: F.linear(x, F.rms_norm(m.w, (D,), m.g)), {"w": one(3, D), "g": one(D)}),
    "group norm": (lambda m, x: F.linear(x, F.group_norm(m.w[None], 3, m.g)[0]), {"w": one(3, D), "g": one(3)}),
    "softmax": (lambda m, x: F.linear(x, m.w.softmax(-1)), {"w": one(3, D)}),
    "qr": (lambda m, x: x @ torch.linalg.qr(m.w)[0], {"w": one(D, 3)}),
    "inverse": (lambda m, x: x @ torch.linalg.inv(m.w + 4 * EYE), {"w": one(D, D)}),
    "norm": (lambda m, x: x @ (m.w / torch.linalg.norm(m.w, dim=0, keepdim=True)), {"w": one(D, 3)}),
    "singular values": (lambda m, x: x @ (m.w / torch.linalg.svdvals(m.w)[0]), {"w": one(D, 3)}),
    "exponential": (lambda m, x: x @ torch.matrix_exp(m.w - m.w.T), {"w": one(D, D)}),
    "solved": (lambda m, x: x @ torch.linalg.solve(EYE * 3 + m.w - m.w.T, m.w), {"w": one(D, D)}),
    "cholesky": (lambda m, x: x @ torch.linalg.cholesky(m.w @ m.w.T + EYE), {"w": one(D, D)}),
    "low rank, with its length": (
        lambda m, x: F.linear(x, m.g[:, None] * F.normalize(m.w + m.a @ m.b, dim=1)),
        {"w": one(3, D), "a": one(3, 2), "b": one(2, D), "g": one(3)},
    ),
    "products": (lambda m, x: x @ torch.einsum("ij,jk->ik", m.w, m.v), {"w": one(D, 4), "v": one(4, 3)}),
    "kronecker": (lambda m, x: x @ torch.kron(m.w, m.v), {"w": one(3, 2), "v": one(2, 2)}),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_functions_of_weights_are_exact(name):
    function, parts = OF_WEIGHTS[name]
    assert_exact_at_all_sizes(function, parts, (T, D))


# --- what a wrong rule would get wrong ------------------------------------------------------------------


@pytest.mark.parametrize("meet", [torch.add, torch.maximum, torch.hypot, lambda x, p: torch.lerp(x, p, 0.3)])
def test_positions_as_many_as_examples_are_not_taken_for_rows_of_examples(meet):
    """Also where every position has the same value, so that no value shows which are whose."""
    model = Calls(lambda m, x: meet(x, m.p * 2.0).sin().cumsum(1), p=nn.Parameter(torch.ones(T, D).double()))
    for batch in (T, 3):
        x = torch.randn(batch, T, D, generator=torch.Generator().manual_seed(1)).double()
        single = [block_norms(model, x[i : i + 1])[0] for i in range(batch)]
        np.testing.assert_allclose(block_norms(model, x), single, rtol=1e-9)


def test_rows_made_for_every_example_are_each_its_own():
    """A row for every example: the gradient of an example's loss goes to what its own row was made of."""
    torch.manual_seed(3)
    model = Calls(lambda m, x: m.h(m.g.t).tanh() * x, g=Constant(T, 3), h=nn.Linear(3, D)).double()
    x = torch.randn(T, D).double()
    losses = model(x).sin().sum(1)
    expected = norms_of_rows(model, losses)
    for param_grads in (True, False):
        np.testing.assert_allclose(block_norms(model, x, param_grads=param_grads), expected, rtol=1e-9)


def test_what_is_drawn_at_random_cannot_be_computed_again():
    model = Calls(lambda m, x: x + F.dropout(m.p(m.g.t), 0.5), g=Constant(T, 2), p=nn.Linear(2, D)).double()
    with pytest.raises(UnsupportedLayerError, match=r"^p\.weight: .*another value \(dropout"):
        block_norms(model, torch.randn(3, T, D).double())


@pytest.mark.parametrize("param_grads", [True, False])
def test_a_model_not_called_itself_is_refused_with_the_remedy(param_grads):
    model = Calls(lambda m, x: m.a(x), a=nn.Linear(D, 3)).double()
    with GradNorms(model, param_grads=param_grads) as g:
        loss_of(model.a(torch.randn(3, D).double())).backward()
        with pytest.raises(UnsupportedLayerError, match=r"^a\.weight: .*call the model itself in the block"):
            g.norms()


@pytest.mark.parametrize("param_grads", [True, False])
def test_constants_beside_the_examples_are_refused(param_grads):
    model = Calls(
        lambda m, x: m.o(x).sum() + m.p(m.g.t).sum(), g=Constant(T, 2), p=nn.Linear(2, D), o=nn.Linear(D, 3)
    ).double()
    with pytest.raises(UnsupportedLayerError, match=r"^p\.weight: add: its input, of shape \(\), is a sum over"):
        block_norms(model, torch.randn(3, D).double(), lambda y: y, param_grads=param_grads)
