"""Networks put together from named operations, and what `GradNorms` makes of them."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from torch_norms import TurnedBack  # noqa: E402

T, D = 3, 4
LIMIT = 3000  # entries of a tensor


class Network(nn.Module):
    """Steps, each an operation by name with a number that chooses among its forms; parameters are made at first use."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.found = nn.ParameterDict()
        self.training_dropout = 0.0

    def parameter(self, *shape):
        name = f"step{self.at}_{self.count}"
        self.count += 1
        if name not in self.found:
            generator = torch.Generator().manual_seed(len(self.found))
            self.found[name] = nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator))
        return self.found[name]

    def forward(self, x):
        h, self.kept = x, []
        return self.run(h, self.steps, "")

    def run(self, h, steps, place):
        """Run steps; those of a step that has some of its own have names of their own too."""
        for at, (name, k, *inner) in enumerate(steps):
            self.at, self.count = f"{place}{at}", 0
            before = h
            h = OPERATIONS[name](self, h, k, *inner)
            if h.numel() > LIMIT:
                raise ValueError("too large")
            self.kept.append(before)
        return h


def axis_of(h, k):
    return k % h.ndim


def own(h):
    """A copy where writing in place would change the input."""
    return h if h.grad_fn is not None or h._version else h.clone()


def in_place(change):
    def run(m, h, k):
        h = own(h)
        change(m, h, k)
        return h

    return run


def saved(m, h):
    """An earlier tensor of the same shape, or the tensor itself."""
    return next((t for t in reversed(m.kept) if t.shape == h.shape), h)


def vector(m, h):
    return m.parameter(h.shape[-1])


def turned(h, a):
    return torch.arange(h.shape[a]).flip(0)


def cell(m, h, k):
    width = h.shape[-1]
    rows = h.reshape(h.shape[0], -1, width)
    shapes = [(4 * 2, width), (4 * 2, 2), (8,), (8,)]
    weights = [m.parameter(*s) for s in shapes]
    state = torch.zeros(len(h), 2, dtype=h.dtype), torch.zeros(len(h), 2, dtype=h.dtype)
    for t in range(min(rows.shape[1], 3)):
        state = torch.lstm_cell(rows[:, t], state, *weights)
    return state[0] + state[1] if k % 2 else state[k // 2 % 2]


def attention(m, h, k):
    width = 2 * (1 + k % 2)
    q, key, v = (h @ m.parameter(h.shape[-1], width) for _ in range(3))
    if k % 3 == 0:
        return F.scaled_dot_product_attention(q, key, v)
    if k % 3 == 1:
        return (q @ key.transpose(-1, -2)).softmax(-1) @ v
    split = [t.unflatten(-1, (2, -1)).transpose(1, 2).flatten(0, 1) for t in (q, key, v)]
    out = torch.bmm(torch.bmm(split[0], split[1].transpose(1, 2)).softmax(-1), split[2])
    return out.unflatten(0, (h.shape[0], 2)).transpose(1, 2).flatten(2)


def written(m, h, k):
    into = torch.zeros(h.shape[0], *h.shape[1:], 2, dtype=h.dtype)
    early = into[..., 1]
    (into[..., k % 2].copy_(h.tanh()) if k % 3 else into.__setitem__((..., k % 2), h))
    return into.sum(-1) + early if k % 2 else into.flatten(-2)


def shape_of_all(h, k):
    shapes = [(h.shape[0], -1), (-1, h.shape[-1]), (-1,), (1, *h.shape), (h.shape[0], 1, -1)]
    return h.reshape(shapes[k % len(shapes)])


def merged_layer(m, h, k):
    """A layer on rows merged from two axes, in either order, and taken apart again."""
    weight, shape = m.parameter(h.shape[-1], 3), h.shape[:2]
    if k % 2:
        return (h.flatten(0, 1) @ weight).tanh().unflatten(0, shape)
    return (h.transpose(0, 1).flatten(0, 1) @ weight).tanh().unflatten(0, shape[::-1]).transpose(0, 1)


WITH_PARAMETERS = {
    "linear": lambda m, h, k: F.linear(h, m.parameter(1 + k % 4, h.shape[-1]), m.parameter(1 + k % 4)),
    "matmul": lambda m, h, k: h @ m.parameter(h.shape[-1], 1 + k % 4),
    "vector product": lambda m, h, k: h @ vector(m, h),
    "scale": lambda m, h, k: h * vector(m, h),
    "shift": lambda m, h, k: vector(m, h) + h,
    "scalar": lambda m, h, k: h * m.parameter() + m.parameter(1),
    "layer_norm": lambda m, h, k: F.layer_norm(torch.cat([h, h.detach().cos()], -1), (2 * h.shape[-1],),
                                               m.parameter(2 * h.shape[-1]), m.parameter(2 * h.shape[-1])),
    "group_norm": lambda m, h, k: F.group_norm(torch.cat([h, h.detach().cos()], -1), 1, m.parameter(h.shape[1]),
                                               m.parameter(h.shape[1])),
    "instance_norm": lambda m, h, k: F.instance_norm(torch.cat([h, h.detach().cos()], -1), None, None,
                                                     m.parameter(h.shape[1]), m.parameter(h.shape[1])),
    "conv1d": lambda m, h, k: F.conv1d(h, m.parameter(2, h.shape[1], 2), m.parameter(2), padding=1),
    "conv of a transpose": lambda m, h, k: F.conv1d(h.transpose(0, -1), m.parameter(2, h.shape[1], 1)).transpose(0, -1),
    "embedding": lambda m, h, k: F.embedding((h.detach() * 3).long() % 5, m.parameter(5, 2)) * h.unsqueeze(-1).cos(),
    "prelu": lambda m, h, k: F.prelu(h, m.parameter(1)),
    "bilinear": lambda m, h, k: F.bilinear(h, saved(m, h).sin(), m.parameter(2, h.shape[-1], h.shape[-1])),
    "token": lambda m, h, k: torch.cat([h, m.parameter(1, *[1] * (h.ndim - 2), h.shape[-1]).expand_as(h[:, :1])], 1),
    "where": lambda m, h, k: torch.where(h > 0, h, vector(m, h)),
    "einsum": lambda m, h, k: torch.einsum("btd,de->bte" if k % 2 else "btd,te->bed", h,
                                           m.parameter(h.shape[-1] if k % 2 else h.shape[1], 3)),
    "unit columns": lambda m, h, k: h @ F.normalize(m.parameter(h.shape[-1], 3), dim=0),
    "a slice and a transpose": lambda m, h, k: (lambda w: (h @ w[:, :2]).tanh() @ w.T[:2])(m.parameter(h.shape[-1], 3)),
    "twice": lambda m, h, k: (lambda w: (h @ w).tanh() @ w)(m.parameter(h.shape[-1], h.shape[-1])),
    "cell": cell,
    "attention": attention,
    "spectrum": lambda m, h, k: (torch.fft.fft(h, dim=-1) * torch.complex(vector(m, h), vector(m, h))).abs(),
    "times in place": in_place(lambda m, h, k: h.mul_(vector(m, h))),
    "merged": merged_layer,
    "aside": lambda m, h, k: h + h @ m.parameter(h.shape[-1], h.shape[-1]).detach(),
    "hidden": lambda m, h, k: (h @ m.parameter(h.shape[-1], 2)).detach() + h @ m.parameter(h.shape[-1], 2),
}  # fmt: skip

ENTRIES = {
    "tanh": lambda m, h, k: h.tanh(),
    "relu": lambda m, h, k: F.relu(h),
    "sin": lambda m, h, k: torch.sin(h),
    "gelu": lambda m, h, k: F.gelu(h),
    "power": lambda m, h, k: h.sigmoid() ** (1 + k % 3),
    "with an earlier one": lambda m, h, k: [h + saved(m, h), h * saved(m, h).cos(), saved(m, h) - h][k % 3],
    "constant": lambda m, h, k: h * torch.linspace(0.5, 1.5, h.shape[-1], dtype=h.dtype) + 0.5,
    "detached": lambda m, h, k: h + h.detach().tanh() * h,
    "clamped": lambda m, h, k: h.clamp(-0.7, 0.7) + 0.1 * h,
    "masked": lambda m, h, k: h.masked_fill(saved(m, h) < 0, 0.3),
}
IN_PLACE = {
    "relu_": in_place(lambda m, h, k: F.relu(h, inplace=True)),
    "hardswish_": in_place(lambda m, h, k: F.hardswish(h, inplace=True)),
    "mul_": in_place(lambda m, h, k: h.mul_(2.0)),
    "add_": in_place(lambda m, h, k: h.add_(saved(m, h).detach().cos())),
    "zero last": in_place(lambda m, h, k: h[..., -1].zero_()),
    "view times": in_place(lambda m, h, k: h.select(axis_of(h, k), 0).mul_(0.5)),
    "turned view": in_place(lambda m, h, k: h.transpose(0, -1).add_(1.0)),
    "entries": in_place(lambda m, h, k: h.__setitem__((..., 0), h[..., -1].detach().tanh())),
    "under a mask": in_place(lambda m, h, k: h.__setitem__(h.detach() < -0.5, 0.1)),
    "a row": in_place(lambda m, h, k: h.__setitem__(0, 0.1 * k)),
    "some rows": in_place(lambda m, h, k: h[:1].mul_(3.0)),
    "rows over rows": in_place(lambda m, h, k: h.copy_(h.detach().flip(axis_of(h, k)))),
    "flat": in_place(lambda m, h, k: h.view(-1)[k % 5 :: 2].mul_(0.5)),
    "written": written,
}
ALONG = {
    "sum": lambda m, h, k: h.sum(axis_of(h, k), keepdim=k % 2 > 0) + 0.1,
    "mean": lambda m, h, k: h.mean(axis_of(h, k), keepdim=True) + (h if k % 2 else 0.0),
    "amax": lambda m, h, k: h.amax(axis_of(h, k), keepdim=True) + h,
    "max": lambda m, h, k: (lambda r: r[0] + r[1])(h.max(axis_of(h, k), keepdim=True)) * h,
    "logsumexp": lambda m, h, k: h.logsumexp(axis_of(h, k)),
    "cumsum": lambda m, h, k: h.cumsum(axis_of(h, k)),
    "softmax": lambda m, h, k: [h.softmax, h.log_softmax, lambda a: torch.special.softmax(h, a)][k % 3](axis_of(h, k)),
    "norm": lambda m, h, k: h / (1 + h.norm(dim=axis_of(h, k), keepdim=True)),
    "normalize": lambda m, h, k: F.normalize(h + 2.0, dim=axis_of(h, k)),
    "standardised": lambda m, h, k: (h - h.mean(axis_of(h, k), keepdim=True))
    / (h.var(axis_of(h, k), keepdim=True, correction=0) + 1),
    "layer norm without weights": lambda m, h, k: F.layer_norm(h, h.shape[k % h.ndim :], eps=0.5),
    "all": lambda m, h, k: h / (2 + [h.mean(), h.detach().abs().sum(), h.abs().amax()][k % 3]),
}  # fmt: skip
SHAPES = {
    "transpose": lambda m, h, k: h.transpose(axis_of(h, k), axis_of(h, k // 3)),
    "permute": lambda m, h, k: h.permute(*np.roll(range(h.ndim), k).tolist()),
    "T": lambda m, h, k: h.mT if h.ndim > 1 else h,
    "flatten": lambda m, h, k: h.flatten(min(axis_of(h, k), h.ndim - 2), min(axis_of(h, k), h.ndim - 2) + 1),
    "reshape": lambda m, h, k: shape_of_all(h, k),
    "unsqueeze": lambda m, h, k: h.unsqueeze(k % (h.ndim + 1)),
    "squeeze": lambda m, h, k: h.squeeze(axis_of(h, k)),
    "expand": lambda m, h, k: h.unsqueeze(k % (h.ndim + 1)).expand(*h.shape[: k % (h.ndim + 1)], 2,
                                                                   *h.shape[k % (h.ndim + 1) :]) * 1.5,
    "repeat": lambda m, h, k: h.repeat(*[2 if d == axis_of(h, k) else 1 for d in range(h.ndim)]),
    "interleave": lambda m, h, k: h.repeat_interleave(2, axis_of(h, k)),
    "movedim": lambda m, h, k: h.movedim(axis_of(h, k), axis_of(h, k // 2)),
    "unfold": lambda m, h, k: h.unfold(axis_of(h, k), 1 + k % 2, 1),
    "pad": lambda m, h, k: F.pad(h, (0, 0) * (k % h.ndim) + (1, 0)),
    "pool": lambda m, h, k: F.max_pool1d(h, 2, 1) if k % 2 else F.avg_pool1d(h.transpose(0, -1), 2, 1).transpose(0, -1),
}  # fmt: skip
PLACES = {
    "index": lambda m, h, k: h[(slice(None),) * axis_of(h, k) + (turned(h, axis_of(h, k)),)],
    "array": lambda m, h, k: h[(slice(None),) * axis_of(h, k) + (turned(h, axis_of(h, k)).numpy(),)],
    "examples in turn": lambda m, h, k: h[torch.arange(h.shape[0]), h.detach().flatten(1)[:, 0].long() % h.shape[1]],
    "slice": lambda m, h, k: [h[..., ::2], h[:, -1], h[1:], h[:, None, :1], h[..., k % h.shape[-1]]][k % 5],
    "flip": lambda m, h, k: h.flip(axis_of(h, k)),
    "roll": lambda m, h, k: h.roll(1, axis_of(h, k)) if k % 5 else h.roll(1),
    "index_select": lambda m, h, k: h.index_select(axis_of(h, k), turned(h, axis_of(h, k))),
    "gather": lambda m, h, k: h.gather(axis_of(h, k), h.detach().argsort(axis_of(h, k // 3))),
    "scatter": lambda m, h, k: torch.zeros_like(h).scatter_add(axis_of(h, k), h.detach().argsort(axis_of(h, k)), h),
    "index_add": lambda m, h, k: h.index_add(axis_of(h, k), turned(h, axis_of(h, k)), h.cos()),
    "take": lambda m, h, k: h.take(torch.arange(h.numel()).flip(0)).view(h.shape),
    "sort": lambda m, h, k: h.sort(axis_of(h, k))[0],
    "topk": lambda m, h, k: h.topk(1, axis_of(h, k))[0] + h,
    "mask": lambda m, h, k: h[h.detach().flatten(1)[:, 0] > -1e9] if k % 2 else h[:, torch.arange(h.shape[1]) % 2 == 0],
    "table": lambda m, h, k: F.embedding(torch.arange(h.shape[0]).flip(0), h),
    "chunks": lambda m, h, k: torch.cat(h.chunk(2, axis_of(h, k))[::-1], axis_of(h, k)),
    "pieces": lambda m, h, k: sum((j + 1) * p for j, p in enumerate(h.unbind(axis_of(h, k)))),
    "stack": lambda m, h, k: torch.stack([h, saved(m, h).sin()], k % (h.ndim + 1)),
    "cat": lambda m, h, k: torch.cat([h, saved(m, h).sin()], axis_of(h, k)),
    "triu": lambda m, h, k: h.triu(),
    "strided": lambda m, h, k: h.as_strided(h.shape, h.stride()),
}
PRODUCTS = {
    "with itself": lambda m, h, k: h @ saved(m, h).mT,
    "gram": lambda m, h, k: h.mT @ h,
    "distances": lambda m, h, k: torch.cdist(h, saved(m, h) + 1.0),
    "letters": lambda m, h, k: torch.einsum(["btd,bsd->bts", "btd,ctd->btd", "btd->bdt", "btd->td"][k % 4],
                                            *([h, h.cos()] if k % 4 < 2 else [h])),
    "attention without weights": lambda m, h, k: F.scaled_dot_product_attention(h, saved(m, h), h),
    "similar": lambda m, h, k: F.cosine_similarity(h + 2.0, saved(m, h) - 3.0, dim=axis_of(h, k)),
    "transform": lambda m, h, k: torch.fft.rfft(h, dim=axis_of(h, k)).real + 0.1,
}  # fmt: skip


def with_hook(m, h, k):
    h = h * 1.0
    if h.requires_grad:
        hooks = [
            lambda g: g * 0.5,
            lambda g: g.clamp(-0.5, 0.5),
            lambda g: g - g.mean(0),
            lambda g: None,
            lambda g: g.flip(0),
        ]
        h.register_hook(hooks[k % len(hooks)])
    return h


OTHERS = {
    "hook": with_hook,
    "function": lambda m, h, k: TurnedBack.apply(h),
    "numbers": lambda m, h, k: h * 1.0,
}
OPERATIONS = WITH_PARAMETERS | ENTRIES | IN_PLACE | ALONG | SHAPES | PLACES | PRODUCTS | OTHERS

# What works on every row by itself whatever k is, on tensors whose leading axis counts examples.
BY_ROWS = {
    *set(WITH_PARAMETERS) - {"conv of a transpose", "times in place", "hidden"}, *ENTRIES,
    "relu_", "hardswish_", "mul_", "add_", "zero last", "entries", "under a mask", "written",
}  # fmt: skip

LOSSES = {
    "sum of sines": lambda y: y.sin().sum(),
    "squares": lambda y: y.square().sum(),
    "cross entropy": lambda y: F.cross_entropy(y.flatten(1), torch.zeros(len(y), dtype=torch.long), reduction="sum"),
    "by rows": lambda y: y.flatten(1).logsumexp(1).sum(),
    "norm": lambda y: y.norm(),
    "softmax": lambda y: (y.softmax(0) * torch.arange(1.0, y.shape[-1] + 1)).sum(),
}


def truth(network, x, loss):
    parameters = list(network.parameters())
    out = []
    for i in range(len(x)):
        grads = torch.autograd.grad(loss(network(x[i : i + 1].clone())), parameters, allow_unused=True)
        out.append(sum(float(g.square().sum()) for g in grads if g is not None) ** 0.5)
    return np.array(out)


def outcome(steps, loss_name, batch):
    """Return "exact", "refused", or "invalid" where autograd itself does not get through; anything else fails."""
    network, loss = Network(steps), LOSSES[loss_name]
    x = torch.randn(batch, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            network(torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(9)))
            value = loss(network(x.clone()))
            value.backward()
        except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError):
            return "invalid"
        if not list(network.parameters()):
            return "invalid"
        plain = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
        try:
            expected = truth(network, x, loss)
        except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError):
            expected = None
        found = []
        for param_grads in (True, False):
            network.zero_grad()
            try:
                with GradNorms(network, param_grads=param_grads, threads=1) as g:
                    loss(network(x.clone())).backward()
                    norms = g.norms().numpy()
            except UnsupportedLayerError:
                found.append("refused")
                continue
            assert expected is not None, "norms of what single examples cannot do"
            if not np.isfinite(expected).all() or max(expected, default=0) > 1e6:
                return "invalid"
            scale = 1.0 + max(expected)
            np.testing.assert_allclose(norms, expected, rtol=1e-9, atol=1e-9 * scale)
            if param_grads:
                for p, grad in zip(network.parameters(), plain, strict=True):
                    if grad is not None:
                        torch.testing.assert_close(p.grad, grad, rtol=1e-9, atol=1e-9 * float(scale))
            found.append("exact")
        return found[0] if found[0] == found[1] else "exact or refused"
