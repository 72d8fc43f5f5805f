"""GradNorms where rows could be taken for other examples' rows: exact by a rule of its own, or refused by name."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from expunge.torch._axis import Axis, merged, rows_of, taken  # noqa: E402
from torch_norms import Calls, TurnedBack, assert_exact, block_norms, parameter  # noqa: E402

B, D = 5, 6
TURN = torch.tensor([1, 0, 2, 4, 3])


def written(target, index, value):
    target[index] = value
    return target


def with_data(tensor, data):
    tensor.data = data
    return tensor


class Turned(torch.autograd.Function):
    """Examples in another order, where no torch function shows it."""

    @staticmethod
    def forward(ctx, x):
        return x.flip(0)

    @staticmethod
    def backward(ctx, grad):
        return grad.flip(0)


# What the batch must not go through, by the name that the message gives the call.
MIXED = {
    "getitem, an array": (lambda h: h * h[TURN.numpy()], "mul"),
    "getitem, a list": (lambda h: h * h[TURN.tolist()], "mul"),
    "getitem, a tensor": (lambda h: h * h[TURN], "mul"),
    "getitem, a mask": (lambda h: h[torch.arange(B) != 1].cumsum(0), "cumsum"),
    "getitem, rows in order of size": (lambda h: h[h[:, 0].argsort()], "argsort"),
    "getitem, a slice": (lambda h: torch.cat([h[1:], h[:1]]), "getitem"),
    "flip": (lambda h: h.flip(0), "flip"),
    "flipud": (torch.flipud, "flipud"),
    "rot90": (lambda h: torch.rot90(h, 2), "rot90"),
    "roll": (lambda h: h.roll(1, 0), "roll"),
    "roll of all entries": (lambda h: h.roll(D), "roll"),
    "index_select": (lambda h: h * h.index_select(0, TURN), "mul"),
    "index_add": (lambda h: torch.zeros_like(h).index_add(0, TURN, h), "index_add"),
    "index_add_": (lambda h: torch.zeros_like(h).index_add_(0, TURN, h), "index_add_"),
    "index_copy": (lambda h: torch.zeros_like(h).index_copy(0, TURN, h), "index_copy"),
    "index_put": (lambda h: torch.zeros_like(h).index_put((TURN,), h), "index_put"),
    "index_put_": (lambda h: torch.zeros_like(h).index_put_((TURN,), h), "index_put_"),
    "scatter": (lambda h: torch.zeros_like(h).scatter(0, TURN[:, None].expand(B, D), h), "scatter"),
    "scatter_add": (lambda h: torch.zeros_like(h).scatter_add(0, TURN[:, None].expand(B, D), h), "scatter_add"),
    "gather": (lambda h: h.gather(0, TURN[:, None].expand(B, D)), "gather"),
    "take": (lambda h: torch.take(h, torch.arange(B * D).view(B, D).flip(0)), "take"),
    "take_along_dim": (lambda h: torch.take_along_dim(h, TURN[:, None], 0), "take_along_dim"),
    "embedding": (lambda h: F.embedding(TURN, h), "embedding"),
    "a truth value for an index": (lambda h: h[True][0], "getitem .* truth value"),
    "written by a truth value": (lambda h: written(torch.zeros_like(h), True, h), "setitem .* truth value"),
    "written to other rows": (lambda h: written(torch.zeros_like(h), TURN, h), "setitem"),
    "written to later rows": (lambda h: written(torch.zeros_like(h), slice(1, None), h[:-1]), "getitem"),
    "written over": (lambda h: (z := h * 1.0, z.view(-1).copy_(h.flip(0).reshape(-1)))[0], "flip"),
    "copied into a view": (lambda h: (z := torch.zeros_like(h), z[1:].copy_(h.cumsum(1)[:-1]))[0], "getitem"),
    "data": (lambda h: with_data(h * 1.0, h.detach().flip(0)), "flip"),
    "as_tensor": (lambda h: torch.as_tensor(h, dtype=torch.float32).flip(0).double(), "flip"),
    "new_tensor of several": (lambda h: h * h.new_tensor([r.mean() for r in h.detach().T]), "new_tensor"),
    "full": (lambda h: h * torch.full((D,), h.detach().mean()), "full"),
    "full_like": (lambda h: h * torch.full_like(h, h.detach().mean()), "full_like"),
    "new_full": (lambda h: h * h.new_full((D,), h.detach().mean()), "new_full"),
    "scalar_tensor": (lambda h: h * torch.scalar_tensor(h.detach().mean()), "scalar_tensor"),
    "linspace": (lambda h: h * torch.linspace(0.0, h.detach().mean(), D).double(), "linspace"),
    "squeeze_": (lambda h: h[None].clone().squeeze_(0), "squeeze_"),
    "softmax": (lambda h: h.softmax(0), "softmax"),
    "special.softmax": (lambda h: torch.special.softmax(h, 0), "special_softmax"),
    "special.log_softmax": (lambda h: torch.special.log_softmax(h, 0), "special_log_softmax"),
    "gumbel_softmax": (lambda h: F.gumbel_softmax(h, dim=0), "gumbel_softmax"),
    "cumsum": (lambda h: h.cumsum(0), "cumsum"),
    "sort": (lambda h: h.sort(0)[0], "sort"),
    "normalize": (lambda h: F.normalize(h, dim=0), "normalize"),
    "renorm": (lambda h: h.renorm(2, 1, 1.0), "renorm"),
    "standardised": (lambda h: (h - h.mean(0)) / (h.var(0, unbiased=False) + 1), "sub"),
    "the mean for all": (lambda h: h.mean(0, keepdim=True).expand(B, D), "expand"),
    "layer_norm": (lambda h: F.layer_norm(h, h.shape), "layer_norm"),
    "rms_norm": (lambda h: F.rms_norm(h, h.shape), "rms_norm"),
    "layer_norm of the transpose": (lambda h: F.layer_norm(h.T, h.T.shape[-1:]).T, "layer_norm"),
    "conv1d of the transpose": (
        lambda h: F.conv1d(h.T[:, None], torch.ones(1, 1, 3).double(), padding=1)[:, 0].T, "conv1d",
    ),
    "conv1d of rows for channels": (
        lambda h: F.conv1d(h[None], torch.ones(len(h), len(h), 3).double(), padding=1)[0], "conv1d",
    ),
    "avg_pool1d of the transpose": (lambda h: F.avg_pool1d(h.T[None], 3, 1, 1)[0].T, "avg_pool1d"),
    "max_pool1d of the transpose": (lambda h: F.max_pool1d(h.T[None], 3, 1, 1)[0].T, "max_pool1d"),
    "interpolate": (lambda h: F.interpolate(h.T[None], size=len(h), mode="linear")[0].T, "interpolate"),
    "pad": (lambda h: F.pad(h, (0, 0, 1, 0))[: len(h)], "pad"),
    "unfold": (lambda h: torch.cat([h, h]).unfold(0, 2, 1).mean(-1)[: len(h)], "unfold"),
    "attention": (lambda h: F.scaled_dot_product_attention(h, h, h), "scaled_dot_product_attention"),
    "attention with a batch of one": (
        lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None])[0], "scaled_dot_product_attention",
    ),
    "qr": (lambda h: torch.linalg.qr(h, mode="complete")[0] @ h, "linalg_qr"),
    "matrix_norm of the batch and another": (
        lambda h: h * torch.linalg.matrix_norm(h[:, :, None].expand(B, D, B), dim=(0, 1))[:, None], "matrix_norm",
    ),
    "matrix_norm with the batch last": (
        lambda h: h * torch.linalg.matrix_norm(h.T[:, None, :].expand(D, B, B), "fro", (0, -1))[:, None], "matrix_norm",
    ),
    "products": (lambda h: h @ h.T @ h, "matmul"),
    "bmm": (lambda h: torch.bmm(h[None], h.T[None])[0] @ h, "bmm"),
    "baddbmm": (lambda h: torch.baddbmm(h[None], torch.ones(1, len(h), len(h)).double(), h[None])[0], "baddbmm"),
    "addbmm": (lambda h: torch.addbmm(h, torch.ones(1, len(h), len(h)).double(), h[None]), "addbmm"),
    "einsum": (lambda h: torch.einsum("bi,ci->bi", h, h), "einsum"),
    "einsum with dots": (lambda h: torch.einsum("...i,...i->i", h, h)[None].expand(len(h), D), "einsum"),
    "quantile": (lambda h: h - h.quantile(0.5, dim=0), "quantile"),
    "cov": (lambda h: torch.cov(h, correction=0) @ h, "cov"),
    "triu": (lambda h: h.triu(), "triu"),
    "kron": (lambda h: torch.kron(h, torch.ones(1, 1).double()), "kron"),
    "split": (lambda h: torch.cat(h.split(1)[::-1]), "split"),
    "unbind": (lambda h: torch.stack(list(h)[::-1]), "unbind"),
    "masked_scatter": (lambda h: h.masked_scatter(h > 0, h), "masked_scatter"),
    "as_strided": (lambda h: h.as_strided((len(h), D), (1, len(h))), "as_strided"),
    "reshape": (lambda h: h.reshape(D, -1).T, "reshape"),
    "an index that depends on all": (lambda h: h[h[:, 0].argsort()], "argsort"),
    "an autograd function": (Turned.apply, "no torch function shows"),
    "an autograd function of the backward pass": (TurnedBack.apply, "no torch function shows"),
    "vmap": (lambda h: torch.vmap(lambda c: c - c.mean(), in_dims=1, out_dims=1)(h), "no torch function"),
    "vmap of what is around it": (lambda h: torch.vmap(lambda i: h[i])(TURN), "no torch function"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("param_grads", [True, False])
def test_rows_of_other_examples_are_refused_before_a_layer_and_before_the_loss(name, param_grads):
    mix, call = MIXED[name]
    torch.manual_seed(0)
    x = torch.randn(B, D, dtype=torch.float64)
    before = Calls(lambda m, x: m.b(mix(m.a(x))), a=nn.Linear(D, D), b=nn.Linear(D, 2)).double()
    with pytest.raises(UnsupportedLayerError, match=rf"^b\.weight: .*{call}"):
        block_norms(before, x, param_grads=param_grads)
    last = Calls(lambda m, x: mix(m.a(x)), a=nn.Linear(D, D)).double()
    with pytest.raises(UnsupportedLayerError, match=f"the loss is not a sum over examples: .*{call}"):
        block_norms(last, x, param_grads=param_grads)


def test_transforms_of_inputs_are_refused_where_no_gradient_shows_them():
    transforms = [
        lambda x: torch.vmap(lambda c: c.flip(0), in_dims=1, out_dims=1)(x),
        lambda x: torch.vmap(lambda i: x[i])(TURN),
        lambda x: torch.vmap(lambda i: x.index_select(0, i[None])[0])(TURN),
        lambda x: torch.vmap(lambda i: x.sum(0) + i)(TURN),
    ]
    for transform in transforms:
        model = Calls(lambda m, x, t=transform: m.a(x) * t(x), a=nn.Linear(D, D))
        with pytest.raises(UnsupportedLayerError, match=r"shape \(5, 6\) that depends on examples .* torch.func"):
            block_norms(model.double(), torch.randn(B, D).double())


@pytest.mark.parametrize("name", ["getitem, a tensor", "softmax", "an autograd function"])
def test_rows_of_other_examples_among_the_inputs_are_refused(name):
    mix, call = MIXED[name]
    model = Calls(lambda m, x: m.a(mix(x) + x), a=nn.Linear(D, 2)).double()
    match = {"an autograd function": "flip", "getitem, a tensor": "mul .* different places"}.get(name, call)
    with pytest.raises(UnsupportedLayerError, match=match):
        block_norms(model, torch.randn(B, D, dtype=torch.float64))


def test_a_loss_in_which_examples_interact_is_refused():
    torch.manual_seed(1)
    model, x = nn.Linear(D, 3).double(), torch.randn(B, D, dtype=torch.float64)
    losses = {
        "square of a sum": lambda y: y.sum().square(),
        "square of a sum, as a product": lambda y: (lambda s: s * s)(y.sum()),
        "squares of sums, as a product": lambda y: (lambda s: torch.mul(s, s))(y.sum(0)).sum(),
        "a sum over itself": lambda y: (lambda s: s / s)(y.sum(0)).sum(),
        "scores that meet the targets of others": lambda y: F.poisson_nll_loss(y[:, :1], torch.ones(B).double()),
        "norm": lambda y: y.norm(),
        "maximum": lambda y: y.max(),
        "softmax over examples": lambda y: y[:, 0].softmax(0).square().sum(),
        "one divided by the mean": lambda y: 1 / y.exp().mean(),
        "product of sums": lambda y: y[:, 0].sum() * y[:, 1].sum(),
        "distances from the mean": lambda y: (y - y.mean(0)).square().sum(),
        "logsumexp": lambda y: y.logsumexp(0).sum(),
        "contrast": lambda y: F.cross_entropy(y @ y.T, torch.arange(len(y)), reduction="sum"),
        "targets in another order": lambda y: F.mse_loss(y, y.detach()[TURN], reduction="sum"),
    }
    for loss in losses.values():
        with pytest.raises(UnsupportedLayerError, match="the loss is not a sum over examples"):
            block_norms(model, x, loss)


RIGHT = {
    "sums of parts": lambda y: y[:, 0].square().sum() - 0.5 * y[:, 1].exp().sum(),
    "a dot product with weights": lambda y: (y.square() * torch.arange(1.0, len(y[0]) + 1)).sum(1).sum(),
    "cross entropy": lambda y: F.cross_entropy(y, y.detach().argmax(1), reduction="sum"),
    "likelihood by hand": lambda y: -y.log_softmax(1).gather(1, y.detach().argmin(1)[:, None]).sum(),
    "a list of losses": lambda y: sum(F.mse_loss(y, torch.full_like(y, k), reduction="sum") for k in range(3)),
    "huber, reduced later": lambda y: F.huber_loss(y, torch.zeros_like(y), reduction="none").mean(1).sum(),
    "log of a sum in every row": lambda y: y.exp().sum(1).log().sum(),
    "accumulated in place": lambda y: torch.zeros(()).double().add_(y.square().sum()).add_(y.sum()),
    "stacked": lambda y: torch.stack([y[:, 0].sum(), y[:, 1].square().sum()]).sum(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_losses_that_are_sums_over_examples_are_exact(name):
    torch.manual_seed(2)
    assert_exact(nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(B, D), RIGHT[name])


KEPT = {
    "along other axes": lambda h: h.flip(1).cumsum(2).softmax(-1).sort(1)[0].roll(1, 2),
    "indexed along others": lambda h: h[:, [2, 0], ::2][..., None, :],
    "gathered along others": lambda h: h.gather(1, torch.zeros(len(h), 2, 4).long()),
    "picked by a mask of columns": lambda h: h[:, torch.tensor([True, False, True])],
    "merged with heads": lambda h: h.flatten(0, 1).tanh().unflatten(0, (-1, 3)),
    "moved and moved back": lambda h: h.permute(1, 2, 0).exp().transpose(0, 2).movedim(1, 2),
    "repeated": lambda h: h.repeat(2, 1, 1).tanh().chunk(2)[1],
    "repeated, each by itself": lambda h: h.repeat_interleave(3, 0).cos().view(-1, 3, 3, 4)[:, 1],
    "put behind itself": lambda h: torch.cat([h, h.sin()]).exp().split(len(h))[1],
    "attention": lambda h: F.scaled_dot_product_attention(h, h, h.tanh()),
    "attention by hand": lambda h: (h @ h.transpose(1, 2)).softmax(-1) @ h,
    "written into zeros": lambda h: written(
        torch.zeros(len(h), 3, 5).double(), (slice(None), slice(None), slice(1, 5)), h
    ),
    "written under a mask": lambda h: written(h * 1.0, h < 0, 0.5),
    "written by columns": lambda h: written(h * 1.0, (slice(None), 1), h[:, 2].exp()),
    "by einsum with dots": lambda h: torch.einsum("...i,...si->...s", h.cos(), h[:, None]),
    "side by side": lambda h: torch.hstack([h, h.exp()]),
    "quantiles": lambda h: h.quantile(0.3, dim=1) + h.nanquantile(0.6, dim=2, keepdim=True).sum(1),
    "by einsum": lambda h: torch.einsum("bti,bsi->bts", h, h.cos()),
    "matrix norms": lambda h: h / (1 + torch.linalg.matrix_norm(h, keepdim=True)),
    "matrix norms of what was turned": lambda h: torch.linalg.matrix_norm(h.permute(1, 2, 0), dim=(0, 1))[:, None],
    "inner with a number": lambda h: torch.inner(torch.tensor(2.0).double(), h).tanh(),
    "pooled and padded": lambda h: F.pad(F.avg_pool1d(h, 2), (1, 2)),
    "convolved": lambda h: F.conv1d(h, torch.ones(2, 3, 2).double()),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_what_treats_rows_separately_is_exact(name, batch):
    torch.manual_seed(3)
    model = Calls(lambda m, x: KEPT[name](m.a(x)).flatten(1) @ m.w, a=nn.Linear(6, 4))
    with torch.no_grad():
        model.w = parameter(KEPT[name](torch.zeros(2, 3, 4).double()).flatten(1).shape[1], 2)
    assert_exact(model, torch.randn(batch, 3, 6))


def test_frames_of_every_example_are_followed_when_merged_either_way():
    torch.manual_seed(4)
    for before in (True, False):
        layer = Calls(
            lambda m, x, b=before: m.b(m.a((x.transpose(0, 1) if b else x).flatten(0, 1)).tanh())
            .unflatten(0, (x.shape[1], len(x)) if b else (len(x), x.shape[1])),
            a=nn.Linear(4, 3), b=nn.Linear(3, 2),
        )  # fmt: skip
        assert_exact(layer, torch.randn(3, 2, 4))


@pytest.mark.parametrize("squeeze", [lambda t: t.squeeze(-1), lambda t: t[..., 0], lambda t: t.view(-1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_biases_and_a_global_mean(squeeze, batch):
    torch.manual_seed(5)
    for shape in ((1,), ()):
        model = Calls(lambda m, i: squeeze(m.bias(i)) + m.mean, bias=nn.Embedding(9, 1), mean=parameter(*shape))
        assert_exact(model, torch.randint(0, 9, (batch,)))


def test_memory_written_before_its_views_are_used_is_followed():
    torch.manual_seed(6)

    def forward(m, x):
        kept = torch.zeros(len(x), 2, D, dtype=x.dtype)
        early = kept[:, 1]
        kept[:, 1] = m.a(x)
        return m.b(early)

    assert_exact(Calls(forward, a=nn.Linear(D, D), b=nn.Linear(D, 2)), torch.randn(B, D))

    def turned(m, x):
        kept = torch.zeros(len(x), D, dtype=x.dtype)
        early = kept.flip(0) * 0 + kept
        kept.copy_(m.a(x))
        return m.b(kept.flip(0) + early)

    with pytest.raises(UnsupportedLayerError, match="flip"):
        block_norms(Calls(turned, a=nn.Linear(D, D), b=nn.Linear(D, 2)).double(), torch.randn(B, D).double())


def test_the_message_names_the_call_its_shapes_and_what_to_do():
    model = Calls(lambda m, x: m.b(m.a(x).flip(0)), a=nn.Linear(D, D), b=nn.Linear(D, 2)).double()
    with pytest.raises(
        UnsupportedLayerError, match=r"b\.weight: .* flip of shape \(5, 6\) reverses the batch dimension"
    ):
        block_norms(model, torch.randn(B, D).double())


# --- axes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis", "wanted", "expected"),
    [
        ((4, 3, 2), Axis(0), (12, 2), Axis(0, 1, 3)),
        ((3, 4, 2), Axis(1), (12, 2), Axis(0, 3, 1)),
        ((12, 2), Axis(0, 1, 3), (4, 3, 2), Axis(0)),
        ((12, 2), Axis(0, 3, 1), (3, 4, 2), Axis(1)),
        ((12, 6), Axis(0, 1, 3), (4, 18), Axis(0)),
        ((4, 6), Axis(0), (6, 4), None),
        ((4, 6), Axis(0), (2, 2, 6), None),
        ((1, 4, 5), Axis(1), (4, 5), Axis(0)),
        ((4, 5), Axis(0), (4, 1, 5), Axis(0)),
    ],
)
def test_a_reshape_keeps_the_order_of_entries(shape, axis, wanted, expected):
    found = merged(shape, axis, 4, wanted)
    assert found == expected
    if expected is not None:
        owner = torch.arange(4).view(1, 4, 1).expand(axis.before, 4, axis.after).reshape(-1)
        entries = owner.view([-1 if k == axis.dim else 1 for k in range(len(shape))]).expand(shape).reshape(wanted)
        rows = rows_of(entries, expected, 4)
        assert all((rows[e] == e).all() for e in range(4))
        assert (taken(entries, expected, 4, 2, 3) == 2).all()


def test_inputs_whose_rows_are_not_examples_are_refused():
    model = nn.Linear(D, 2)
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, D), torch.randn(2, D)])
    for x in (packed, torch.eye(D).to_sparse()):
        called = Calls(lambda m, x: m.a(x.data if isinstance(x, tuple) else x.to_dense()), a=model)
        with GradNorms(called), pytest.raises(UnsupportedLayerError, match="the model's input"):
            called(x)


def test_numpy_and_tensor_indices_mean_the_same():
    torch.manual_seed(7)
    for index in (np.array([2, 0]), [2, 0], torch.tensor([2, 0])):
        assert_exact(Calls(lambda m, x, i=index: m.a(x)[:, i], a=nn.Linear(D, 3)), torch.randn(B, D))


def test_arguments_that_give_a_shape_or_a_kind_alone_count_for_nothing():
    torch.manual_seed(8)

    def forward(m, x):
        position = torch.linspace(0, 1, D).type_as(x).to(x)
        return m.a(x + position).expand_as(x[..., :3]).view_as(x[..., :3]).type_as(m.w).to(m.w) * m.w.sin()

    assert_exact(Calls(forward, a=nn.Linear(D, 3), w=parameter(3)), torch.randn(B, 4, D))


def test_calls_that_write_and_give_nothing_are_refused():
    def forward(m, x):
        h = m.a(x)
        torch._foreach_copy_([h.data], [h.detach().flip(0)])
        return m.b(h)

    with pytest.raises(UnsupportedLayerError, match="_foreach_copy_"):
        block_norms(Calls(forward, a=nn.Linear(D, D), b=nn.Linear(D, 2)).double(), torch.randn(B, D).double())


def test_inputs_among_which_the_batch_cannot_be_told_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(D, 2)

        def forward(self, time, x):
            return self.a(x * time)

    model = Two()
    with GradNorms(model) as g:
        model(torch.ones(1), torch.randn(B, D)).sum().backward()
        with pytest.raises(UnsupportedLayerError, match=r"leading dimensions of \[1, 5\]"):
            g.norms()


def test_a_dimension_of_the_batch_is_not_dropped_by_name():
    model = Calls(lambda m, x: m.b(m.a(x).squeeze(0)), a=nn.Linear(D, D), b=nn.Linear(D, 2)).double()
    with pytest.raises(UnsupportedLayerError, match="squeeze"):
        block_norms(model, torch.randn(B, D).double())
    for batch in (1, 4):
        assert_exact(Calls(lambda m, x: m.a(x).squeeze(), a=nn.Linear(D, 1)), torch.randn(batch, D))


def test_reductions_by_place_are_read():
    torch.manual_seed(9)
    model, x = nn.Linear(D, 2).double(), torch.randn(B, D).double()
    expected = block_norms(model, x, lambda y: F.huber_loss(y, torch.zeros_like(y), reduction="sum"))
    for loss in (
        lambda y: F.huber_loss(y, torch.zeros_like(y), "sum"),
        lambda y: F.huber_loss(y, torch.zeros_like(y), "none").sum(),
    ):
        np.testing.assert_allclose(block_norms(model, x, loss), expected, rtol=1e-12)
        with pytest.raises(UnsupportedLayerError, match="is a sum over examples"):
            block_norms(model, x, loss, loss_reduction="mean")


@pytest.mark.parametrize("batch", [1, 3])
def test_one_number_for_every_example(batch):
    torch.manual_seed(10)
    for shape in ((1,), ()):
        assert_exact(Calls(lambda m, x: x.sin() + m.shift * x, shift=parameter(*shape)), torch.randn(batch))
        assert_exact(Calls(lambda m, x: x + m.shift, shift=parameter(*shape)), torch.randn(batch))


LOOKED_UP = {
    "one row of ids": torch.arange(4),
    "one row, in front": torch.arange(4)[None],
    "ids of their own, some twice": torch.tensor([[0, 1, 1, 2], [3, 3, 3, 3], [2, 0, 2, 0]]),
    "one id for all": torch.tensor([2]),
    "one id for each example": torch.tensor([[0], [1], [0]]),
    "padding": torch.tensor([[4, 4, 0, 1], [4, 4, 4, 4], [0, 1, 4, 2]]),
}


@pytest.mark.parametrize("padding", [None, 4, -1])
@pytest.mark.parametrize("ids", LOOKED_UP)
def test_rows_of_a_table_added_to_every_example(ids, padding):
    """Rows that do not depend on examples: each example's gradient is that of the rows added to its own."""
    ids = LOOKED_UP[ids]
    torch.manual_seed(0)
    emb, pos = nn.Embedding(7, D), nn.Embedding(5, D, padding_idx=padding)
    x = torch.randint(0, 7, (3, 4))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.pos = emb, pos

        def forward(self, x, ids):
            return torch.tanh((self.emb(x) + self.pos(ids)) * torch.arange(1.0, 5.0)[:, None]).sum((1, 2))

    model = Model().double()
    expected = []
    for i in range(3):
        own = ids[i : i + 1] if ids.ndim == 2 and len(ids) == 3 else ids
        grads = torch.autograd.grad(model(x[i : i + 1], own).sum(), list(model.parameters()))
        expected.append(sum(float(g.square().sum()) for g in grads) ** 0.5)
    for grads in (True, False):
        model.zero_grad()
        fixed = Calls(lambda m, x: m.inner(x, ids), inner=model)
        with GradNorms(fixed, param_grads=grads) as g:
            fixed(x).sum().backward()
            np.testing.assert_allclose(g.norms().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("first", [F.relu, torch.tanh, lambda x: x + x.sin(), lambda x: x.cos() + x, lambda x: x])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_inputs_of_the_model_that_were_made_of_parameters(first, batch):
    torch.manual_seed(12)
    outer = Calls(lambda m, x: m.inner(m.emb(x)), emb=nn.Embedding(7, D), inner=nn.Linear(D, 2)).double()
    outer.inner = Calls(lambda m, x: m.a(first(x)), a=nn.Linear(D, 2)).double()
    x = torch.randint(0, 7, (batch, 4))
    expected = [
        sum(float(g.square().sum()) for g in torch.autograd.grad(outer(x[i : i + 1]).sin().sum(), outer.parameters()))
        for i in range(batch)
    ]
    watched = nn.Module()
    watched.emb, watched.inner = outer.emb, outer.inner
    watched.forward = outer.inner.forward  # called on rows of its own table
    with GradNorms(watched) as g:
        watched(watched.emb(x)).sin().sum().backward()
        np.testing.assert_allclose(g.norms().square(), expected, rtol=1e-10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_example_that_is_not_finite_leaves_the_others_theirs(value):
    torch.manual_seed(13)
    model, x = Calls(lambda m, x: torch.addcmul(x, x, m.w), w=parameter(D)), torch.randn(3, D).double()
    expected = block_norms(model, x, lambda y: y.square().sum())
    x[1, 2] = value
    found = block_norms(model, x, lambda y: y.square().sum())
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-12)
    assert not np.isfinite(found[1])


def test_a_whole_parameter_added_to_every_example():
    for shape in ((1, 4, D), (4, D)):
        assert_exact(Calls(lambda m, x: m.a(x) + m.p, a=nn.Linear(D, D), p=parameter(*shape)), torch.randn(3, 4, D))


# --- autograd functions of other libraries ------------------------------------------------------------


def named_as_known(function):
    """Give an autograd function the name of one that is known to treat every entry by itself."""
    function.__module__, function.__qualname__ = "transformers.models.bloom.modeling_bloom", "GeLUFunction"
    return function


@named_as_known
class Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


@named_as_known
class SavesAnother(Known):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x * 1.0)
        return x.square()


@named_as_known
class TakesTwo(Known):
    @staticmethod
    def forward(ctx, x, other):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad, None


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_known_autograd_functions_of_other_libraries_are_followed(batch):
    torch.manual_seed(11)
    x = torch.randn(batch, 3, D)
    assert_exact(Calls(lambda m, x: m.b(Known.apply(m.a(x))), a=nn.Linear(D, 4), b=nn.Linear(4, 2)), x)
    assert_exact(Calls(lambda m, x: Known.apply(m.a(x).movedim(0, 2)) + m.c, a=nn.Linear(D, 4), c=parameter(4, 1)), x)


@pytest.mark.parametrize("function", [SavesAnother.apply, lambda h: TakesTwo.apply(h, h * 2)])
def test_what_only_has_the_name_of_a_known_autograd_function_is_refused(function):
    model = Calls(lambda m, x: m.b(function(m.a(x))), a=nn.Linear(D, 4), b=nn.Linear(4, 2)).double()
    with pytest.raises(UnsupportedLayerError, match="no torch function shows"):
        block_norms(model, torch.randn(B, D).double())


def test_known_autograd_functions_in_a_checkpoint_are_refused():
    def inside(m, x):
        return m.b(Known.apply(m.a(x)))

    model = Calls(
        lambda m, x: torch.utils.checkpoint.checkpoint(inside, m, x, use_reentrant=False),
        a=nn.Linear(D, 4),
        b=nn.Linear(4, 2),
    ).double()
    with pytest.raises(UnsupportedLayerError, match="no torch function shows"):
        block_norms(model, torch.randn(B, D).double())
