"""Per-example gradient norms of PyTorch models: against autograd with one example at a time, and what is refused."""

import gc
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, parameter  # noqa: E402


def first(output):
    return output[0] if isinstance(output, tuple) else output


def weights_like(model, x):
    """Random weights of a loss, drawn without touching the model's state."""
    with torch.no_grad():
        output = first(model(x))
    return torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(7))


def loss_of(output, weights):
    return (first(output).sin() * weights).sum()


def truth(model, x, weights):
    """Squared norms by parameter name from autograd on one example at a time."""
    named = {k: p for k, p in model.named_parameters() if p.requires_grad}
    rows = []
    for i in range(len(x)):
        loss = loss_of(model(x[i : i + 1]), weights[i : i + 1])
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        rows.append([0.0 if g is None else float(g.double().square().sum()) for g in grads])
    return dict(zip(named, np.array(rows).T, strict=True))


def check(model, x, rtol=1e-12):
    model = model.double()
    x = x.double() if x.is_floating_point() else x
    weights = weights_like(model, x)
    expected = truth(model, x, weights)
    total = np.sqrt(sum(expected.values()))
    assert np.all(total > 0)
    model.zero_grad()
    loss_of(model(x), weights).backward()
    plain = {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()}
    for param_grads in (True, False):
        model.zero_grad()
        with GradNorms(model, param_grads=param_grads) as g:
            loss_of(model(x), weights).backward()
            found, by_name = g.norms(), g.norms(per_layer=True)
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), total, rtol=rtol)
        assert list(by_name) == list(expected)
        for name, values in by_name.items():
            np.testing.assert_allclose(values.numpy(), np.sqrt(expected[name]), rtol=rtol, atol=rtol * total.max())
        for name, one in model.named_parameters():
            if param_grads and plain[name] is not None:
                torch.testing.assert_close(one.grad, plain[name], rtol=1e-12, atol=1e-13)
            else:
                assert one.grad is None


def tokens(*shape, rows=11):
    return torch.randint(0, rows, shape)


def tied(model):
    model.head.weight = model.emb.weight
    return model


def encoder(norm_first=False, **settings):
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0, norm_first=norm_first, **settings)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def attend(m, x):
    return m.att(x, x, x)[0]


MODELS = {
    "linear": lambda: (nn.Linear(5, 3), torch.randn(4, 5)),
    "linear without bias": lambda: (nn.Linear(5, 3, bias=False), torch.randn(4, 5)),
    "linear on positions": lambda: (nn.Linear(5, 3), torch.randn(4, 6, 5)),
    "linear on 4-D input": lambda: (nn.Linear(5, 3), torch.randn(4, 2, 3, 5)),
    "examples and positions merged": lambda: (
        Calls(
            lambda m, x: m.b(F.relu(m.n(m.a(x.reshape(-1, 5)) * m.s))).view(len(x), -1, 2),
            a=nn.Linear(5, 3),
            s=parameter(3),
            n=nn.LayerNorm(3),
            b=nn.Linear(3, 2),
        ),
        torch.randn(4, 6, 5),
    ),
    "tokens merged": lambda: (
        Calls(
            lambda m, x: F.linear(m.a(m.emb(x.flatten())).tanh(), m.emb.weight).unflatten(0, x.shape),
            emb=nn.Embedding(11, 6),
            a=nn.Linear(6, 6),
        ),
        tokens(3, 20),
    ),
    "examples and positions merged, examples last": lambda: (
        Calls(
            lambda m, x: m.a(x.transpose(0, 1).reshape(-1, 5)).reshape(x.shape[1], len(x), 3).transpose(0, 1),
            a=nn.Linear(5, 3),
        ),
        torch.randn(4, 2, 5),
    ),
    "mlp": lambda: (nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)), torch.randn(4, 5)),
    "a Linear used twice": lambda: (
        Calls(lambda m, x: m.out(m.a(m.a(x).tanh())), a=nn.Linear(5, 5), out=nn.Linear(5, 2)),
        torch.randn(4, 5),
    ),
    "a Linear used three times on positions": lambda: (
        Calls(lambda m, x: m.a(m.a(m.a(x).tanh())[:, :2].tanh()), a=nn.Linear(5, 5)),
        torch.randn(3, 4, 5),
    ),
    "cnn": lambda: (
        nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 3, 3, dilation=2)),
        torch.randn(3, 4, 8, 8),
    ),
    "conv1d same": lambda: (nn.Conv1d(3, 4, 3, padding="same", dilation=2), torch.randn(3, 3, 9)),
    "conv3d": lambda: (nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), torch.randn(2, 2, 3, 4, 3)),
    "a conv used twice": lambda: (
        Calls(lambda m, x: m.c(m.c(x).tanh()), c=nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        torch.randn(3, 4, 5, 5),
    ),
    "conv transposed": lambda: (nn.ConvTranspose2d(3, 4, 3, stride=2), torch.randn(3, 3, 4, 4)),
    "embedding": lambda: (nn.Embedding(11, 4), tokens(3, 9)),
    "embedding with padding": lambda: (nn.Embedding(11, 4, padding_idx=2), tokens(3, 30)),
    "embedding with negative padding": lambda: (nn.Embedding(11, 4, padding_idx=-2), tokens(3, 30)),
    "embedding of one index": lambda: (nn.Embedding(11, 4), tokens(5)),
    "two embeddings of one table": lambda: (
        Calls(lambda m, x: m.e(x) + m.e(x.flip(1)).tanh(), e=nn.Embedding(11, 4)),
        tokens(3, 5),
    ),
    "layer norm": lambda: (nn.LayerNorm(6), torch.randn(3, 4, 6)),
    "layer norm without bias": lambda: (nn.LayerNorm(6, bias=False), torch.randn(3, 4, 6)),
    "layer norm over two axes": lambda: (nn.LayerNorm((4, 6)), torch.randn(3, 4, 6)),
    "a layer norm used twice": lambda: (
        Calls(lambda m, x: m.n(m.n(x).tanh()), n=nn.LayerNorm(6)),
        torch.randn(3, 4, 6),
    ),
    "group norm": lambda: (nn.GroupNorm(2, 6), torch.randn(3, 6, 5, 2)),
    "a group norm used twice": lambda: (
        Calls(lambda m, x: m.n(m.n(x).tanh()), n=nn.GroupNorm(2, 6)),
        torch.randn(3, 6, 5),
    ),
    "rms norm": lambda: (nn.RMSNorm(6), torch.randn(3, 4, 6)),
    "rms norm with eps": lambda: (nn.RMSNorm((4, 6), eps=0.1), torch.randn(3, 4, 6)),
    "instance norm": lambda: (nn.InstanceNorm2d(3, affine=True), torch.randn(3, 3, 4, 4)),
    "prelu": lambda: (Calls(lambda m, x: m.p(m.a(x)), p=nn.PReLU(3), a=nn.Linear(5, 3)), torch.randn(4, 5)),
    "bilinear": lambda: (Calls(lambda m, x: m.b(x, x.cos()), b=nn.Bilinear(5, 5, 2)), torch.randn(4, 5)),
    "raw parameters beside layers": lambda: (
        Calls(
            lambda m, x: m.a(x * m.scale + m.shift) * m.one + m.table,
            a=nn.Linear(5, 3),
            scale=parameter(5),
            shift=parameter(1, 1, 5),
            one=nn.Parameter(torch.tensor(0.7).double()),
            table=parameter(6, 3),
        ),
        torch.randn(4, 6, 5),
    ),
    "x @ w and F.linear": lambda: (
        Calls(lambda m, x: F.linear(x @ m.w, m.v, m.b), w=parameter(5, 4), v=parameter(3, 4), b=parameter(3)),
        torch.randn(4, 6, 5),
    ),
    "a matrix and its transpose": lambda: (
        Calls(lambda m, x: (x @ m.w).tanh() @ m.w.T, w=parameter(5, 4)),
        torch.randn(4, 6, 5),
    ),
    "overlapping slices of one parameter": lambda: (
        Calls(lambda m, x: (x @ m.w[:, :3]) * (x @ m.w[:, 2:5]), w=parameter(5, 5)),
        torch.randn(4, 6, 5),
    ),
    "separate chunks of one parameter": lambda: (
        Calls(lambda m, x: (x @ m.w[:2].T) * (x @ m.w[2:].T), w=parameter(4, 5)),
        torch.randn(4, 6, 5),
    ),
    "a vector": lambda: (Calls(lambda m, x: x @ m.w, w=parameter(5)), torch.randn(4, 6, 5)),
    "einsum": lambda: (
        Calls(lambda m, x: torch.einsum("bti,ij->btj", x, m.w), w=parameter(5, 3)),
        torch.randn(4, 2, 5),
    ),
    "scores by einsum and distances to centres": lambda: (
        Calls(
            lambda m, x: m.a(torch.cdist(torch.einsum("bti,bsi->bts", x, x).sum(1), torch.eye(3, dtype=x.dtype))),
            a=nn.Linear(3, 2),
        ),
        torch.randn(4, 3, 5),
    ),
    "features sorted": lambda: (Calls(lambda m, x: m.a(x.sort()[0].topk(3)[0]), a=nn.Linear(3, 2)), torch.randn(4, 5)),
    "addmm": lambda: (
        Calls(lambda m, x: torch.addmm(m.b, x, m.w), w=parameter(5, 3), b=parameter(3)),
        torch.randn(4, 5),
    ),
    "class token": lambda: (
        Calls(
            lambda m, x: m.a(torch.cat([m.cls.expand(len(x), -1, -1), x], 1)), cls=parameter(1, 1, 5), a=nn.Linear(5, 3)
        ),
        torch.randn(4, 3, 5),
    ),
    "positions by embedding": lambda: (
        Calls(lambda m, x: m.a(x + m.p(torch.arange(6))), p=nn.Embedding(9, 5), a=nn.Linear(5, 2)),
        torch.randn(6, 6, 5),
    ),
    "a penalty in every example's loss": lambda: (
        Calls(lambda m, x: m.a(x) + m.a.weight.square().sum(), a=nn.Linear(5, 3)),
        torch.randn(4, 5),
    ),
    "weight norm": lambda: (nn.utils.parametrizations.weight_norm(nn.Linear(5, 3)), torch.randn(4, 5)),
    "softplus of a parameter": lambda: (
        Calls(lambda m, x: x * F.softplus(m.s) + m.s, s=parameter(5)),
        torch.randn(4, 5),
    ),
    "tied modules": lambda: (
        tied(
            Calls(
                lambda m, x: m.head(m.a(m.emb(x)).tanh()),
                emb=nn.Embedding(11, 6, padding_idx=1),
                a=nn.Linear(6, 6),
                head=nn.Linear(6, 11),
            )
        ),
        tokens(3, 20),
    ),
    "head by F.linear": lambda: (
        Calls(lambda m, x: F.linear(m.emb(x).tanh(), m.emb.weight), emb=nn.Embedding(11, 6)),
        tokens(3, 20),
    ),
    "head by matmul": lambda: (
        Calls(lambda m, x: m.emb(x).tanh() @ m.emb.weight.T, emb=nn.Embedding(11, 6)),
        tokens(3, 20),
    ),
    "tied transformer": lambda: (
        Calls(
            lambda m, x: m.enc(m.emb(x) + m.pos(torch.arange(x.shape[1]))) @ m.emb.weight.T,
            emb=nn.Embedding(11, 8, padding_idx=0),
            pos=nn.Embedding(6, 8),
            enc=encoder(),
        ),
        tokens(3, 6),
    ),
    "encoder, norm first, without biases": lambda: (encoder(norm_first=True, bias=False), torch.randn(3, 3, 8)),
    "attention": lambda: (Calls(attend, att=nn.MultiheadAttention(8, 2, batch_first=True)), torch.randn(3, 5, 8)),
    "the last state by index": lambda: (
        Calls(lambda m, x: m.a(x[torch.arange(len(x)), x.sum(2).argmax(1)]), a=nn.Linear(5, 3)),
        torch.randn(4, 3, 5),
    ),
    "attention, one example": lambda: (
        Calls(attend, att=nn.MultiheadAttention(8, 2, batch_first=True)),
        torch.randn(1, 1, 8),
    ),
    "attention between two sequences": lambda: (
        Calls(
            lambda m, x: m.att(x[:, :2], x[:, 1:], x[:, 1:].tanh(), need_weights=False)[0],
            att=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        torch.randn(4, 5, 8),
    ),
    "attention, batch moved by hand": lambda: (
        Calls(
            lambda m, x: m.a(m.att(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))[0]).transpose(0, 1),
            att=nn.MultiheadAttention(8, 2),
            a=nn.Linear(8, 3),
        ),
        torch.randn(4, 4, 8),
    ),
    "attention with other widths": lambda: (
        Calls(
            lambda m, x: m.att(x, x[..., :3], x[..., :5])[0],
            att=nn.MultiheadAttention(8, 2, kdim=3, vdim=5, batch_first=True),
        ),
        torch.randn(4, 5, 8),
    ),
    "lstm": lambda: (nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True), torch.randn(3, 6, 5)),
    "last state of a gru": lambda: (
        Calls(lambda m, x: m.a(m.r(x)[1][-1]), r=nn.GRU(5, 4, 2, batch_first=True), a=nn.Linear(4, 3)),
        torch.randn(2, 6, 5),
    ),
    "lstm with projections and given states": lambda: (
        Calls(
            lambda m, x: m.r(x, (x[None, :, 0, :2].contiguous(), x[None, :, 1, :4].contiguous()))[0],
            r=nn.LSTM(5, 4, proj_size=2, batch_first=True),
        ),
        torch.randn(3, 6, 5),
    ),
    "gru, batch moved by hand": lambda: (
        Calls(lambda m, x: m.r(x.transpose(0, 1))[0].transpose(0, 1), r=nn.GRU(5, 4, bias=False)),
        torch.randn(3, 6, 5),
    ),
    "rnn of relu": lambda: (nn.RNN(5, 4, 2, nonlinearity="relu", batch_first=True), torch.randn(1, 6, 5)),
    "rnn": lambda: (nn.RNN(5, 4, batch_first=True), torch.randn(3, 6, 5)),
    "batch norm in eval mode": lambda: (
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).eval(),
        torch.randn(3, 2, 4, 4),
    ),
    "frozen layers": lambda: (
        nn.Sequential(nn.Linear(5, 7).requires_grad_(False), nn.ReLU(), nn.Linear(7, 3)),
        torch.randn(4, 5),
    ),
    "frozen behind": lambda: (
        nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3).requires_grad_(False)),
        torch.randn(4, 5),
    ),
    "an unused layer": lambda: (Calls(lambda m, x: m.a(x), a=nn.Linear(5, 3), b=nn.Linear(2, 2)), torch.randn(4, 5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_norms_are_those_of_single_examples(name):
    torch.manual_seed(3)
    check(*MODELS[name]())


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_every_padding_of_a_convolution(mode):
    torch.manual_seed(4)
    check(nn.Conv2d(4, 6, 3, padding=2, padding_mode=mode, groups=2, dilation=2, stride=2), torch.randn(3, 4, 7, 8))


@st.composite
def architectures(draw):
    """A random chain of layers on (B, T, d), some used twice."""
    width = draw(st.integers(2, 6))
    makers = {
        "linear": lambda: nn.Linear(width, width, bias=draw(st.booleans())),
        "layer": lambda: nn.LayerNorm(width),
        "rms": lambda: nn.RMSNorm(width),
        "tanh": nn.Tanh,
        "conv": lambda: nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(1, 2)),
        "attention": lambda: nn.TransformerEncoderLayer(width, 1, 3, dropout=0.0, batch_first=True),
    }
    parts = [makers[kind]() for kind in draw(st.lists(st.sampled_from(sorted(makers)), min_size=1, max_size=4))]
    parts += [parts[k % len(parts)] for k in draw(st.lists(st.integers(0, 3), max_size=2))]
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4)), width
    return nn.Sequential(*parts, nn.Linear(width, 2)), shape


@given(architectures(), st.integers(0, 2**31))
@settings(max_examples=25)
def test_random_architectures(architecture, seed):
    model, shape = architecture
    torch.manual_seed(seed)
    # Normalised values of width 2 are near constants, whose small gradients carry the rounding of large terms.
    check(model, torch.randn(*shape), rtol=1e-9)


def test_mean_reduction_gives_the_norms_of_the_examples_own_losses():
    torch.manual_seed(5)
    model, x, y = nn.Linear(5, 3).double(), torch.randn(6, 5).double(), torch.randint(0, 3, (6,))
    with GradNorms(model, loss_reduction="mean") as g:
        F.cross_entropy(model(x), y).backward()
        mean = g.norms()
    with GradNorms(model) as g:
        F.cross_entropy(model(x), y, reduction="sum").backward()
        torch.testing.assert_close(mean, g.norms(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_gives_float32_norms_of_what_the_layers_saw(dtype):
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.LayerNorm(30), nn.Linear(30, 4))
    x = torch.randn(8, 5, 40)
    with GradNorms(model.double()) as g:
        model(x.double()).square().sum().backward()
        expected = g.norms()
    model.to(dtype)
    with GradNorms(model) as g:
        model(x.to(dtype)).square().sum().backward()
        found = g.norms()
    assert found.dtype == torch.float32
    rtol = 1e-5 if dtype == torch.float32 else 16 * math.sqrt(8) * torch.finfo(dtype).eps
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=rtol)


@pytest.mark.parametrize("param_grads", [True, False])
def test_autocast_gives_the_norms_of_single_examples_under_autocast(param_grads):
    torch.manual_seed(21)
    model = nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(40, 30), nn.GELU(), nn.LayerNorm(30), nn.Linear(30, 4)
    )
    x = torch.randn(8, 4, 5)

    def loss(batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(batch).float().square().sum()

    expected = []
    for one in x.split(1):
        grads = torch.autograd.grad(loss(one), list(model.parameters()))
        expected.append(math.sqrt(sum(float(g.double().square().sum()) for g in grads)))
    with GradNorms(model, param_grads=param_grads) as g:
        loss(x).backward()
        found = g.norms()
    assert found.dtype == torch.float32
    assert all((p.grad is not None) == param_grads for p in model.parameters())
    np.testing.assert_allclose(found.numpy(), expected, rtol=4 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("name", ["cnn", "tied transformer", "lstm", "examples and positions merged"])
def test_float32_models_agree_with_float64_single_examples(name):
    torch.manual_seed(22)
    model, x = MODELS[name]()
    model = model.double()
    wide = x.double() if x.is_floating_point() else x
    weights = weights_like(model, wide)
    expected = np.sqrt(sum(truth(model, wide, weights).values()))
    model = model.float()
    with GradNorms(model) as g:
        loss_of(model(x.float() if x.is_floating_point() else x), weights.float()).backward()
        found = g.norms()
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@given(
    st.integers(1, 3),
    st.sampled_from([(2, 4), (3, 3), (1, 5)]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 3),
    st.integers(0, 2**31),
)
@settings(max_examples=20)
def test_convolutions_of_every_shape(dimensions, channels, kernel, stride, dilation, padding, threads, seed):
    torch.manual_seed(seed)
    groups = math.gcd(*channels)
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    model = layer(*channels, kernel, stride=stride, dilation=dilation, padding=padding, groups=groups).double()
    x = torch.randn(3, channels[0], *[6, 5, 7][:dimensions]).double()
    weights = weights_like(model, x)
    expected = np.sqrt(sum(truth(model, x, weights).values()))
    with GradNorms(model, threads=threads) as g:
        loss_of(model(x), weights).backward()
        np.testing.assert_allclose(g.norms().numpy(), expected, rtol=1e-12)


def test_gradients_accumulate_as_without_the_block():
    torch.manual_seed(8)
    model, x = nn.Linear(5, 3).double(), torch.randn(4, 5).double()
    model(x).sum().backward()
    once = model.weight.grad.clone()
    with GradNorms(model) as g:
        model(x).sum().backward()
        g.norms()
    torch.testing.assert_close(model.weight.grad, 2 * once)


def test_every_backward_pass_of_a_block_hands_its_gradients_over():
    torch.manual_seed(12)
    model, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double(), torch.randn(4, 5).double()
    model(x).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with GradNorms(model) as g:
        output = model(x)
        output[:, :1].sum().backward(retain_graph=True)
        output[:, 1:].sum().backward()
        torch.testing.assert_close([p.grad for p in model.parameters()], expected)
        with pytest.raises(UnsupportedLayerError, match="backward ran through its use twice"):
            g.norms()


def test_a_block_leaves_nothing_for_the_garbage_collector():
    model, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 3)), torch.randn(4, 5)
    for _ in range(2):  # the first time fills caches
        gc.collect()
        gc.disable()
        try:
            with GradNorms(model) as g:
                model(x).sum().backward()
                g.norms()
            left = gc.collect()
        finally:
            gc.enable()
    assert left == 0


def test_a_second_block_starts_afresh():
    torch.manual_seed(9)
    model, block = nn.Linear(5, 3).double(), None
    block = GradNorms(model)
    results = []
    for batch in (4, 7, 4):
        with block as g:
            model(torch.ones(batch, 5).double()).sum().backward()
            results.append(g.norms())
    assert [len(r) for r in results] == [4, 7, 4]
    torch.testing.assert_close(results[0], results[2])


def test_dropout_is_that_of_the_batch():
    torch.manual_seed(10)
    model, x = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 1)).double(), torch.randn(4, 5).double()
    with GradNorms(model) as g:
        model(x).sum().backward()
        total = g.norms()
    assert torch.isfinite(total).all()
    assert (total > 0).all()


# --- refusals -----------------------------------------------------------------------------------------


def norms_of(model, x, param_grads):
    with GradNorms(model, param_grads=param_grads) as g:
        first(model(x)).sin().sum().backward()
        return g.norms()


def refused(model, x, match):
    model = model.double()
    x = x.double() if x.is_floating_point() else x
    for param_grads in (True, False):
        with pytest.raises(UnsupportedLayerError, match=match):
            norms_of(model, x, param_grads)


class Secret(torch.autograd.Function):
    """A use of a weight that no torch function shows."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return torch.mm(x, w)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad @ w.T, x.T @ grad


REFUSALS = {
    "batch norm": (nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), (4, 5), r"^1: batch normalisation in training"),
    "functional batch norm": (
        Calls(lambda m, x: F.batch_norm(m.a(x), None, None, m.w, training=True), a=nn.Linear(5, 3), w=parameter(3)),
        (4, 5),
        "^w: batch normalisation in training",
    ),
    "batch norm by hand": (
        Calls(lambda m, x: m.a(x - x.mean(0)), a=nn.Linear(5, 3)),
        (4, 5),
        r"a\.weight: the batch dimension",
    ),
    "an autograd function of its own": (Calls(lambda m, x: Secret.apply(x, m.w), w=parameter(5, 3)), (4, 5), "^w: "),
    "attention without batch_first": (
        Calls(attend, att=nn.MultiheadAttention(8, 2)),
        (4, 4, 8),
        r"^att\.in_proj_weight: .*batch_first=True",
    ),
    "lstm without batch_first": (nn.LSTM(5, 4), (3, 3, 5), "^weight_ih_l0: .*batch_first=True"),
    "a linear map over the examples": (
        Calls(lambda m, x: m.a(x.T).T, a=nn.Linear(4, 4)),
        (4, 4),
        r"^a\.weight: it adds up",
    ),
    "examples mixed by a matrix": (
        Calls(lambda m, x: m.a(torch.ones(4, 4, dtype=x.dtype) @ x), a=nn.Linear(5, 3)),
        (4, 5),
        r"^a\.weight: the batch dimension",
    ),
    "examples mixed by their products": (
        Calls(lambda m, x: m.a(x.T @ x), a=nn.Linear(4, 3)),
        (4, 4),
        r"^a\.weight: the batch dimension",
    ),
    "examples mixed by letters": (
        Calls(lambda m, x: m.a(torch.einsum("ij,ik->jk", x, x)), a=nn.Linear(4, 3)),
        (4, 4),
        r"^a\.weight: the batch dimension",
    ),
    "distances between examples": (
        Calls(lambda m, x: m.a(torch.cdist(x, x)), a=nn.Linear(4, 3)),
        (4, 5),
        r"^a\.weight: the batch dimension",
    ),
    "examples sorted": (
        Calls(lambda m, x: m.a(x.sort(0)[0]), a=nn.Linear(5, 3)),
        (4, 5),
        r"^a\.weight: the batch dimension",
    ),
    "covariances of examples": (
        Calls(lambda m, x: m.a(torch.cov(x)), a=nn.Linear(4, 3)),
        (4, 5),
        r"^a\.weight: the batch dimension",
    ),
    "examples broadcast to the last axis": (
        Calls(lambda m, x: m.a(x * torch.ones(4, 1, dtype=x.dtype)), a=nn.Linear(4, 4)),
        (4,),
        r"^a\.weight: it adds up",
    ),
    "merged rows in another order": (
        Calls(lambda m, x: m.a(x.reshape(-1, 5).flip(0)), a=nn.Linear(5, 3)),
        (4, 2, 5),
        r"^a\.weight: the batch dimension .* is lost: flip",
    ),
    "softmax over merged rows": (
        Calls(lambda m, x: m.a(x.reshape(-1, 5).softmax(0)), a=nn.Linear(5, 3)),
        (4, 2, 5),
        r"^a\.weight: the batch dimension .* is lost: softmax",
    ),
    "batch moved before a convolution": (
        Calls(lambda m, x: m.c(x.transpose(0, 1)), c=nn.Conv1d(3, 3, 2)),
        (3, 3, 5),
        r"^c\.weight: the batch must lead",
    ),
    "a mixture over examples": (
        Calls(lambda m, x: torch.einsum("bi,ij,ci->bj", x, m.w, x), w=parameter(5, 3)),
        (4, 5),
        r"^w: einsum of shape \(4, 5\) adds products up over the batch",
    ),
    "a mixture over examples by a weight of zeros": (
        Calls(lambda m, x: torch.einsum("bi,ij,ci->bj", x, m.w, x), w=nn.Parameter(torch.zeros(5, 3).double())),
        (4, 5),
        r"^w: einsum of shape \(4, 5\) adds products up over the batch",
    ),
    "examples added to others": (
        Calls(lambda m, x: m.a(x) + m.a(x[torch.tensor([1, 0, 2, 3])]), a=nn.Linear(5, 3)),
        (4, 5),
        "add of shape .* combines batch dimensions at different places",
    ),
    "examples turned round": (Calls(lambda m, x: m.a(x.flip(0)), a=nn.Linear(5, 3)), (4, 5), r"^a\.weight: the batch"),
    "features scaled over the batch": (
        Calls(lambda m, x: m.a(F.normalize(x, dim=0)), a=nn.Linear(5, 3)),
        (4, 5),
        r"^a\.weight: the batch dimension",
    ),
    "products between examples": (
        Calls(lambda m, x: m.a(x @ x.T), a=nn.Linear(5, 3)),
        (5, 5),
        r"^a\.weight: the batch dimension",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_understood_is_refused_by_name(name):
    torch.manual_seed(11)
    model, shape, match = REFUSALS[name]
    refused(model, torch.randn(*shape), match)


@pytest.mark.parametrize("param_grads", [True, False])
def test_a_penalty_beside_the_examples_is_refused(param_grads):
    model = nn.Linear(5, 3).double()
    with GradNorms(model, param_grads=param_grads) as g:
        (model(torch.ones(4, 5).double()).sum() + model.weight.square().sum()).backward()
        with pytest.raises(UnsupportedLayerError, match=r"^weight: "):
            g.norms()


def test_an_input_modified_after_its_use_is_refused():
    def forward(m, x):
        h = x.clone()
        y = m.a(h)
        h.zero_()
        return y

    model = Calls(forward, a=nn.Linear(5, 3)).double()
    with pytest.raises(UnsupportedLayerError, match=r"^a\.weight: its input was modified in place"):
        norms_of(model, torch.randn(4, 5).double(), False)


def test_a_second_backward_is_refused():
    model = nn.Linear(5, 3).double()
    with GradNorms(model) as g:
        loss = model(torch.randn(4, 5).double()).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        with pytest.raises(UnsupportedLayerError, match="twice"):
            g.norms()


def test_a_use_hidden_from_torch_functions_is_refused():
    torch.manual_seed(12)

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(5, 3)

        def forward(self, x):
            with torch._C.DisableTorchFunction():
                return self.a(x)

    refused(Hidden(), torch.randn(4, 5), r"^a\.weight: it was used in a way that is not followed")


def test_calls_at_the_wrong_time_say_so():
    model = nn.Linear(5, 3)
    block = GradNorms(model)
    with pytest.raises(RuntimeError, match="inside the block"):
        block.norms()
    with block as g:
        with pytest.raises(RuntimeError, match="after backward"):
            g.norms()
        with pytest.raises(RuntimeError, match="already open"):
            block.__enter__()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"model": 3}, TypeError, "model must be a torch.nn.Module, got int"),
        ({"loss_reduction": "none"}, ValueError, "loss_reduction must be one of"),
        ({"threads": 0}, ValueError, "threads must be >= 1"),
    ],
)
def test_arguments_are_checked(arguments, error, match):
    with pytest.raises(error, match=match):
        GradNorms(**{"model": nn.Linear(2, 2), **arguments})
