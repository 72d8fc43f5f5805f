"""GradNorms of inputs in containers, checkpoints, empty batches, and calls of linear algebra and of signals."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.checkpoint import checkpoint, checkpoint_sequential  # noqa: E402

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, assert_exact_at_all_sizes, block_norms, loss_of, parameter  # noqa: E402

D, T = 6, 5  # T is a size of a batch, too


def linear(a, b):
    return lambda: nn.Linear(a, b)


def one(*shape):
    return lambda: parameter(*shape)


EYE = torch.eye(T, dtype=torch.float64)
CALLS = {
    "diagonal": (lambda m, x: m.o(torch.diagonal(m.i(x), dim1=1, dim2=2)), {"i": linear(D, T), "o": linear(T, 3)}),
    "diagonal, from behind": (lambda m, x: m.i(x).diagonal(1, -1, -2), {"i": linear(D, T)}),
    "diag_embed": (lambda m, x: torch.diag_embed(m.i(x)) @ m.w, {"i": linear(D, T), "w": one(T, 3)}),
    "diag_embed, in front": (
        lambda m, x: torch.diag_embed(m.i(x)[:, 0], dim1=0, dim2=2).transpose(0, 1) @ m.w,
        {"i": linear(D, T), "w": one(T, 3)},
    ),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, dims=([2], [0])), {"w": one(D, 3)}),
    "tensordot, by number": (lambda m, x: torch.tensordot(m.i(x), m.w, dims=2), {"i": linear(D, D), "w": one(T, D, 5)}),
    "tensordot, from the right": (
        lambda m, x: torch.tensordot(m.w, x, dims=([1], [2])).transpose(0, 1), {"w": one(5, D)},
    ),
    "inner": (lambda m, x: torch.inner(x, m.w), {"w": one(3, D)}),
    "systems of examples": (
        lambda m, x: m.o(torch.linalg.solve(m.i(x) + 9 * EYE, x)), {"i": linear(D, T), "o": linear(D, 3)},
    ),
    "systems of a parameter": (lambda m, x: torch.linalg.solve(m.w + 9 * EYE, x), {"w": one(T, T)}),
    "distances": (lambda m, x: torch.cdist(x, m.c), {"c": one(3, D)}),
    "frequencies in time": (
        lambda m, x: m.o(torch.stft(m.i(x)[..., 0], 4, 2, window=torch.ones(4).double(), return_complex=True).abs()),
        {"i": linear(D, 1), "o": linear(3, 3)},
    ),
    "buckets": (
        lambda m, x: m.e(torch.searchsorted(torch.linspace(-2, 2, 8).double(), x.contiguous())),
        {"e": lambda: nn.Embedding(9, 3)},
    ),
    "parameters given to a call": (
        lambda m, x: torch.func.functional_call(m.i, {k: v * 2 for k, v in m.i.named_parameters()}, (x,)),
        {"i": linear(D, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_exact(name):
    assert_exact_at_all_sizes(CALLS[name][0], CALLS[name][1], (T, D))


MIXED = {
    "diagonal": lambda h: torch.diagonal(h, dim1=0, dim2=1).T,
    "diag_embed": lambda h: torch.diag_embed(h.movedim(0, -1)).sum(-1).movedim(-1, 0),
    "tensordot": lambda h: torch.tensordot(h, h, dims=([0], [0]))[:, :, 0],
    "inner": lambda h: torch.inner(h[:, 0], h[:, 0])[..., None] + torch.inner(h[:, 0], h[:, 0])[..., None],
    "linalg_solve": lambda h: torch.linalg.solve(h[:, :, :T].transpose(0, 1) + 9 * EYE, h.transpose(0, 1)).transpose(
        0, 1
    ),
    "stft": lambda h: torch.stft(h[:, :, 0].T, 2, 1, window=torch.ones(2).double(), return_complex=True).abs(),
    "searchsorted": lambda h: h * torch.searchsorted(h[:, 0, 0].sort()[0], h),
}


@pytest.mark.parametrize("name", MIXED)
def test_calls_over_the_batch_are_refused(name):
    torch.manual_seed(0)
    model = Calls(lambda m, x: MIXED[name](m.i(x)), i=nn.Linear(D, D)).double()
    with pytest.raises(UnsupportedLayerError, match=f"{name}|sort"):
        block_norms(model, torch.randn(T, T, D).double())


# --- inputs -------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "x scale")


@dataclass
class Batch:
    x: torch.Tensor
    scale: torch.Tensor


class Takes(nn.Module):
    """A model whose forward pass reads its inputs out of what it is given."""

    def __init__(self, read):
        super().__init__()
        self.read, self.a = read, nn.Linear(D, 3)

    def forward(self, *args, **kwargs):
        x, scale = self.read(*args, **kwargs)
        return self.a(x * scale[:, None]).tanh()


INPUTS = {
    "a dict": (lambda b: (b["x"], b["scale"]), lambda x, s: (({"x": x, "scale": s},), {})),
    "dicts in dicts": (lambda b: (b["in"]["x"], b["by"][0]), lambda x, s: (({"in": {"x": x}, "by": [s]},), {})),
    "a dataclass": (lambda b: (b.x, b.scale), lambda x, s: ((Batch(x, s),), {})),
    "a named tuple": (lambda b: (b.x, b.scale), lambda x, s: ((Pair(x, s),), {})),
    "lists": (lambda b: (b[0][0], b[1]), lambda x, s: (([[x], s],), {})),
    "keywords": (lambda *, x, scale: (x, scale), lambda x, s: ((), {"x": x, "scale": s})),
    "lengths first": (lambda s, x: (x, s), lambda x, s: ((s, x), {})),
    "a name first": (lambda name, x, s, on: (x, s), lambda x, s: (("head", x, s, True), {})),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("param_grads", [True, False])
def test_inputs_in_containers_are_exact(name, param_grads):
    read, give = INPUTS[name]
    torch.manual_seed(1)
    model = Takes(read).double()

    def norms(x, s):
        args, kwargs = give(x, s)
        with GradNorms(model, param_grads=param_grads, check=True) as g:
            loss_of(model(*args, **kwargs)).backward()
            return g.norms().numpy()

    def truth(x, s):
        args, kwargs = give(x, s)
        grads = torch.autograd.grad(loss_of(model(*args, **kwargs)), list(model.parameters()))
        return sum(float(g.square().sum()) for g in grads) ** 0.5

    for batch in (1, 2, 3):
        x, s = torch.randn(batch, D).double(), torch.randn(batch).double()
        expected = [truth(x[i : i + 1], s[i : i + 1]) for i in range(batch)]
        np.testing.assert_allclose(norms(x, s), expected, rtol=1e-9)


# --- checkpoints --------------------------------------------------------------------------------------


def net(a, b):
    return lambda: nn.Sequential(nn.Linear(a, 7), nn.GELU(), nn.Linear(7, b))


def encoder():
    return nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0, batch_first=True)


def again(run, reentrant=False):
    return lambda m, x: m.o(checkpoint(run(m), m.a(x), use_reentrant=reentrant))


def nested(m, x):
    """Parts of parts, which share parameters with each other and with what is outside."""
    h = checkpoint(lambda z: m.i(z) * m.w + m.a(z), m.a(x), use_reentrant=True)
    h = checkpoint(lambda z, y: checkpoint(m.i, z, use_reentrant=True) + y, h.relu(), h, use_reentrant=True)
    return m.o(m.i(h))


CHECKPOINTS = {
    "a network": (again(lambda m: m.i), {"i": net(D, D)}),
    "from the input": (lambda m, x: m.o(checkpoint(m.i, m.a(x) * 0 + x, use_reentrant=False)), {"i": net(D, D)}),
    "a transformer": (again(lambda m: m.i), {"i": encoder}),
    "a recurrent layer": (again(lambda m: lambda h: m.i(h)[0]), {"i": lambda: nn.LSTM(D, D, batch_first=True)}),
    "a normalised weight": (
        again(lambda m: m.i), {"i": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(D, D))},
    ),
    "a parameter by running again": (again(lambda m: lambda h: torch.lerp(h, m.w, 0.3)), {"w": one(D)}),
    "a parameter in place": (again(lambda m: lambda h: h.clone().mul_(m.w)), {"w": one(D)}),
    "in parts": (
        lambda m, x: m.o(checkpoint_sequential(m.i, 2, m.a(x), use_reentrant=False)), {"i": net(D, D)},
    ),
    "a network, with re-entry": (again(lambda m: m.i, reentrant=True), {"i": net(D, D)}),
    "a transformer, with re-entry": (again(lambda m: m.i, reentrant=True), {"i": encoder}),
    "a recurrent layer, with re-entry": (
        again(lambda m: lambda h: m.i(h)[0], reentrant=True), {"i": lambda: nn.LSTM(D, D, batch_first=True)},
    ),
    "nested, with re-entry": (nested, {"i": net(D, D), "w": one(D)}),
    "in parts, with re-entry": (
        lambda m, x: m.o(checkpoint_sequential(m.i, 2, m.a(x), use_reentrant=True)), {"i": net(D, D)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_are_exact(name):
    function, parts = CHECKPOINTS[name]
    assert_exact_at_all_sizes(function, {"a": linear(D, D), "o": linear(D, 3), **parts}, (T, D), batches=(1, 3))


class _Mean(torch.autograd.Function):
    """A mean over the batch that no torch function shows, as an extension of another language would compute it."""

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        with torch._C.DisableTorchFunction():
            return x.mean(0)

    @staticmethod
    def backward(ctx, grad):
        with torch._C.DisableTorchFunction():
            return grad.expand(ctx.shape) / ctx.shape[0]


@pytest.mark.parametrize("param_grads", [True, False])
@pytest.mark.parametrize("inside", ["mean", "hidden mean", "parameters alone"])
def test_checkpoints_with_reentry_in_which_examples_meet_are_refused(inside, param_grads):
    part = {
        "mean": lambda m: lambda h: h + h.mean(0),
        "hidden mean": lambda m: lambda h: h + _Mean.apply(h),
        "parameters alone": lambda m: lambda h: torch.ones_like(h) * m.w,
    }[inside]
    model = Calls(again(part, reentrant=True), a=linear(D, D)(), w=one(D)(), o=nn.Linear(D, 3)).double()
    with pytest.raises(UnsupportedLayerError, match=r"sum over examples|that no torch function shows|no example"):
        block_norms(model, torch.randn(3, T, D).double(), param_grads=param_grads)


# --- empty batches ------------------------------------------------------------------------------------

EMPTY = {
    "positions": (lambda m, x: m.o(x + m.p), {"p": one(T, D), "o": linear(D, 3)}),
    "queries": (lambda m, x: F.scaled_dot_product_attention(m.q.expand(len(x), -1, -1), x, x), {"q": one(1, 3, D)}),
    "in place": (lambda m, x: m.o(m.i(x).mul_(m.p)), {"p": one(D), "i": linear(D, D), "o": linear(D, 3)}),
    "picked": (lambda m, x: m.o(m.i(x)[x[..., 0] > 0]), {"i": linear(D, D), "o": linear(D, 3)}),
    "enlarged": (lambda m, x: x[..., None] * m.p, {"p": one(D, 3)}),
    "attention": (lambda m, x: m.a(x, x, x)[0], {"a": lambda: nn.MultiheadAttention(D, 2, batch_first=True)}),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("param_grads", [True, False])
def test_empty_batches_have_no_norms(name, param_grads):
    function, parts = EMPTY[name]
    model = Calls(function, **{k: part() for k, part in parts.items()}).double()
    assert block_norms(model, torch.zeros(0, T, D).double(), param_grads=param_grads).shape == (0,)
