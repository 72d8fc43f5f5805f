"""GradNorms where gradients are read: in-place calls, several outputs, complex numbers, hooks, passes, replicas."""

import socket
import warnings
from contextlib import nullcontext

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.checkpoint import checkpoint  # noqa: E402

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, assert_exact, block_norms, loss_of, parameter  # noqa: E402


def between(change):
    """A change of what lies between two layers on positions, whose first output is a view."""
    return Calls(lambda m, x: m.b(change(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 2))


def changed(tensor, change):
    """The tensor itself, after a change in place."""
    change(tensor)
    return tensor


IN_PLACE = {
    "relu": nn.ReLU(inplace=True),
    "hardswish": nn.Hardswish(inplace=True),
    "silu": nn.SiLU(inplace=True),
    "elu_": F.elu_,
    "times a number": lambda y: y.mul_(2.5),
    "times a tensor": lambda y: y.mul_(torch.arange(1.0, 9.0).double()),
    "plus a tensor of the batch": lambda y: y.add_(y.detach().cos()),
    "an entry of a view": lambda y: changed(y, lambda z: z[:, 0].zero_()),
    "a view of a view": lambda y: changed(y, lambda z: z[:, 1:].transpose(0, 1)[0:2].mul_(3.0)),
    "a transposed view": lambda y: changed(y, lambda z: z.transpose(0, 1).add_(1.0).tanh_()),
    "a masked view": lambda y: y.masked_fill_(y < 0, 0.25),
    "written entries": lambda y: changed(y, lambda z: z.__setitem__((slice(None), 0), z[:, 1].detach().exp())),
    "one of several pieces": lambda y: torch.cat([p.clone().mul_(k + 1) for k, p in enumerate(y.chunk(2, -1))], -1),
}


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 6)])
def test_in_place_calls_change_no_norm(name, shape):
    torch.manual_seed(0)
    assert_exact(between(IN_PLACE[name]), torch.randn(*shape))


def test_in_place_calls_on_what_other_layers_give():
    torch.manual_seed(1)
    for model in (
        Calls(
            lambda m, x: m.b(torch.einsum("bti,ij->btj", x, m.w).add_(x.tanh())), w=parameter(6, 6), b=nn.Linear(6, 2)
        ),
        Calls(lambda m, x: m.b((x @ m.w).mul_(2.0).relu_()), w=parameter(6, 6), b=nn.Linear(6, 2)),
        Calls(lambda m, x: m.b((x + m.w).exp_()), w=parameter(6), b=nn.Linear(6, 2)),
        Calls(lambda m, x: m.b(torch.where(x > 0, x, m.w).mul_(2.0)), w=parameter(6), b=nn.Linear(6, 2)),
        Calls(lambda m, x: x**2 * (m.w * 2).exp_(), w=parameter(6)),
        Calls(lambda m, x: (x * 1.0).mul_(m.w), w=parameter(6)),
    ):
        assert_exact(model, torch.randn(5, 4, 6))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("running", [True, False])
def test_instance_norm_before_an_activation_in_place(training, running):
    torch.manual_seed(2)
    norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=running)
    model = nn.Sequential(nn.Conv1d(4, 3, 2), norm, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(15, 2))
    assert_exact(model.train(training), torch.randn(5, 4, 6), rtol=1e-8)


def unrolled(m, x):
    h, c = torch.zeros(len(x), 3, dtype=x.dtype), torch.zeros(len(x), 3, dtype=x.dtype)
    for t in range(x.shape[1]):
        h, c = m.cell(x[:, t], (h, c))
    return h + c.sin()


def unrolled_without_a_second_state(m, x):
    h = x[:, 0, :3]
    for t in range(x.shape[1]):
        h = m.cell(x[:, t], h)
    return h


def several():
    return {
        "lstm cell": Calls(unrolled, cell=nn.LSTMCell(6, 3)),
        "lstm cell, first states by itself": Calls(lambda m, x: m.cell(x[:, 0])[0], cell=nn.LSTMCell(6, 3)),
        "gru cell": Calls(unrolled_without_a_second_state, cell=nn.GRUCell(6, 3)),
        "rnn cell": Calls(unrolled_without_a_second_state, cell=nn.RNNCell(6, 3)),
        "lstm, all outputs": Calls(
            lambda m, x: (lambda o: o[0].sum(1) + o[1][0][-1] * o[1][1][-1])(m.r(x)), r=nn.LSTM(6, 3, batch_first=True)
        ),
        "chunk": Calls(lambda m, x: (lambda a, b: a * b.sigmoid())(*m.a(x).chunk(2, -1)), a=nn.Linear(6, 8)),
        "split": Calls(lambda m, x: sum(k * p for k, p in enumerate(m.a(x).split(2, -1))), a=nn.Linear(6, 8)),
        "unbind": Calls(lambda m, x: sum(k * p for k, p in enumerate(m.a(x).unbind(1))), a=nn.Linear(6, 8)),
        "one of two": Calls(lambda m, x: m.a(x).chunk(2, -1)[1].tanh(), a=nn.Linear(6, 8)),
        "values of a parameter's rows": Calls(lambda m, x: torch.max(x @ m.w, -1)[0] + (x * m.w[0, 0]).amax(-1),
                                              w=parameter(6, 4)),
    }  # fmt: skip


@pytest.mark.parametrize("name", several())
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_of_one_call_have_gradients_of_their_own(name, batch):
    torch.manual_seed(3)
    assert_exact(several()[name], torch.randn(batch, 4, 6))


def complex_models():
    return {
        "fft times torch.complex": Calls(
            lambda m, x: (torch.fft.fft(x) * torch.complex(m.a, m.b)).abs(), a=parameter(6), b=parameter(6)
        ),
        "a matrix": Calls(
            lambda m, x: torch.view_as_real(torch.fft.fft(x) @ torch.complex(m.a, m.b)),
            a=parameter(6, 3),
            b=parameter(6, 3),
        ),
        "a real factor": Calls(
            lambda m, x: (torch.fft.fft(m.l(x)) * m.a).exp().abs(), l=nn.Linear(6, 6), a=parameter(6)
        ),
        "view_as_complex": Calls(
            lambda m, x: torch.fft.irfft(torch.fft.rfft(m.l(x)) * torch.view_as_complex(m.a), n=6),
            l=nn.Linear(6, 6),
            a=parameter(4, 2),
        ),
        "polar": Calls(
            lambda m, x: torch.polar(m.a.abs(), m.b) * m.l(x), l=nn.Linear(6, 6), a=parameter(6), b=parameter(6)
        ),
        "a complex shift": Calls(
            lambda m, x: (torch.fft.fft(x) + torch.complex(m.a, m.b)).real.exp(), a=parameter(6), b=parameter(6)
        ),
        "made of examples": Calls(
            lambda m, x: torch.complex(m.l(x), x * m.a).conj().imag.exp(), l=nn.Linear(6, 6), a=parameter(6)
        ),
        "by einsum": Calls(
            lambda m, x: torch.einsum("bi,ij->bj", torch.fft.fft(x), torch.complex(m.a, m.b)).abs(),
            a=parameter(6, 3),
            b=parameter(6, 3),
        ),
    }


@pytest.mark.parametrize("name", complex_models())
def test_complex_gradients_keep_both_parts(name):
    torch.manual_seed(4)
    model = complex_models()[name]
    unused = name in ("a complex shift",)
    for param_grads in (True, False):
        if unused:  # the imaginary part has no say in the real one
            with GradNorms(model, param_grads=param_grads) as g:
                loss_of(model(torch.randn(5, 6).double())).backward()
                by_name = g.norms(per_layer=True)
            assert (by_name["b"] == 0).all()
            assert (by_name["a"] > 0).all()
    assert_exact(model, torch.randn(5, 6))


# --- hooks --------------------------------------------------------------------------------------------


def hooked(hook):
    def register(h):
        h.register_hook(hook)
        return h

    return Calls(lambda m, x: m.b(register(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 2)).double()


@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 6)])
@pytest.mark.parametrize(
    "hook",
    [
        lambda g: g * 0.5,
        lambda g: g * torch.arange(8.0).double(),
        lambda g: g.clamp(-0.1, 0.1),
        lambda g: g / g.norm(dim=-1, keepdim=True),
        lambda g: changed(g, lambda z: z.mul_(3.0)) if False else None,
        lambda g: print(end=f"{g.norm().item():.0f}"[:0]),
    ],
)
def test_hooks_that_treat_rows_separately_are_respected(hook, shape):
    torch.manual_seed(5)
    assert_exact(hooked(hook), torch.randn(*shape))


def test_a_hook_that_zeroes_the_gradient_zeroes_the_norms_behind_it():
    model = hooked(torch.zeros_like)
    with GradNorms(model) as g:
        model(torch.randn(5, 6).double()).sum().backward()
        by_name = g.norms(per_layer=True)
    assert (by_name["a.weight"] == 0).all()
    assert (model.a.weight.grad == 0).all()
    assert (by_name["b.weight"] > 0).all()


@pytest.mark.parametrize(
    "hook", [lambda g: g / g.norm(), lambda g: g / g.norm().item(), lambda g: g.flip(0), lambda g: g - g.mean(0)]
)
@pytest.mark.parametrize("param_grads", [True, False])
def test_hooks_in_which_examples_interact_are_refused(hook, param_grads):
    torch.manual_seed(6)
    with pytest.raises(UnsupportedLayerError, match=r"a hook on a tensor of shape \(5, 8\) changed its gradient"):
        block_norms(hooked(hook), torch.randn(5, 6).double(), param_grads=param_grads)


@pytest.mark.parametrize("unpack", [lambda t: t, lambda t: t.flip(0)])
def test_hooks_on_saved_tensors_are_refused(unpack):
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)).double()

    def forward(m, x):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            return m.inside(x)

    with pytest.raises(UnsupportedLayerError, match="saved_tensors_hooks"):
        block_norms(Calls(forward, inside=model), torch.randn(5, 6).double())

    def offloaded(m, x):
        with torch.autograd.graph.save_on_cpu():
            return m.inside(x)

    assert_exact(Calls(offloaded, inside=model), torch.randn(5, 6))


def test_what_a_hook_gives_must_be_known_to_keep_rows():
    unknown = torch.ones(5, 8).double()  # as a function compiled by torch.jit gives it
    with pytest.raises(UnsupportedLayerError, match="examples may interact"):
        block_norms(hooked(lambda g: unknown), torch.randn(5, 6).double())
    assert block_norms(hooked(torch.zeros_like), torch.randn(5, 6).double()).max() >= 0


@pytest.mark.parametrize("hook", [lambda g: g / g.norm(), lambda g: g.flip(0) * 2])
def test_a_hook_may_do_anything_to_the_gradient_of_a_single_example(hook):
    torch.manual_seed(3)
    assert_exact(hooked(hook), torch.randn(1, 6))


def test_a_hook_of_a_node_is_respected():
    def register(h):
        h.grad_fn.register_prehook(lambda grads: (grads[0] * 2,))
        return h

    torch.manual_seed(7)
    for shape in ((5, 6), (5, 4, 6)):
        model = Calls(lambda m, x: m.b(register(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 2))
        assert_exact(model, torch.randn(*shape))


def test_a_second_block_on_a_model_is_refused_as_one():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with GradNorms(model) as g:
        with pytest.raises(UnsupportedLayerError, match=r"^0\.weight: another block of norms is open on it"):
            GradNorms(model).__enter__()
        model(torch.ones(3, 4)).sum().backward()
        assert (g.norms() > 0).all()
    with GradNorms(model):
        pass


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
@pytest.mark.parametrize("param_grads", [True, False])
def test_hooks_of_parameters_are_refused_by_name(kind, param_grads):
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))
    handle = getattr(model[0].weight, kind)(lambda g: None)
    with pytest.raises(UnsupportedLayerError, match=r"^0\.weight: it has a hook"):
        GradNorms(model, param_grads=param_grads).__enter__()
    handle.remove()
    with GradNorms(model, param_grads=param_grads) as g:
        with pytest.raises(UnsupportedLayerError, match=r"^0\.weight: it has a hook"):
            getattr(model[0].weight, kind)(lambda g: None)
        model(torch.zeros(3, 2, dtype=torch.long)).sum().backward()
        assert (g.norms() > 0).all()


@pytest.mark.parametrize(
    ("kind", "hook"),
    [
        ("register_full_backward_hook", lambda m, i, o: (i[0] * 2,)),
        ("register_full_backward_pre_hook", lambda m, o: (o[0] * 2,)),
    ],
)
def test_backward_hooks_of_modules_are_refused_by_name(kind, hook):
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2))
    handle = getattr(model[1], kind)(hook)
    with pytest.raises(UnsupportedLayerError, match=r"^1: it has backward hooks"):
        GradNorms(model).__enter__()
    handle.remove()
    with GradNorms(model) as g:
        model[1].register_full_backward_hook(lambda m, i, o: (i[0] * 2,))
        model(torch.randn(4, 6)).sum().backward()
        with pytest.raises(UnsupportedLayerError):
            g.norms()


# --- passes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("param_grads", [True, False])
def test_gradients_of_gradients_are_refused(param_grads):
    model, x = nn.Linear(6, 1).double(), torch.randn(5, 6).double().requires_grad_()
    with GradNorms(model, param_grads=param_grads):
        for call in (
            lambda: torch.autograd.grad(model(x).sum(), x, create_graph=True),
            lambda: model(x).sum().backward(create_graph=True),
            lambda: torch.autograd.backward(model(x).sum(), create_graph=True),
        ):
            with pytest.raises(UnsupportedLayerError, match="create_graph"):
                call()
        with pytest.raises(UnsupportedLayerError, match="inputs="):
            model(x).sum().backward(inputs=[x])


@pytest.mark.parametrize("param_grads", [True, False])
def test_gradients_taken_beside_the_loss_count_for_nothing(param_grads):
    torch.manual_seed(8)
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double(), torch.randn(5, 6).double()
    expected = block_norms(model, x)
    x.requires_grad_()
    with GradNorms(model, param_grads=param_grads) as g:
        output = model(x)
        torch.autograd.grad(output.sum(), x, retain_graph=True)
        with pytest.raises(RuntimeError, match="after backward"):
            g.norms()
        loss_of(output).backward()
        np.testing.assert_allclose(g.norms().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("param_grads", [True, False])
def test_backward_from_several_tensors_and_with_given_gradients(param_grads):
    torch.manual_seed(9)
    model, x = nn.Linear(6, 2).double(), torch.randn(5, 6).double()
    seed = torch.randn(5, 2).double()
    expected = block_norms(model, x, lambda y: (y * seed).sum())
    with GradNorms(model, param_grads=param_grads) as g:
        model(x).backward(seed)
        np.testing.assert_allclose(g.norms().numpy(), expected, rtol=1e-12)
    with GradNorms(model, param_grads=param_grads) as g:
        y = model(x) * seed
        torch.autograd.backward([y[:, 0].sum(), y[:, 1].sum()])
        np.testing.assert_allclose(g.norms().numpy(), expected, rtol=1e-12)


def test_checkpoints_that_run_again_without_reentry_are_exact():
    torch.manual_seed(10)
    model = Calls(
        lambda m, x: m.d(checkpoint(lambda z: m.n(m.c(m.b(z).relu_() * m.s)), m.a(x), use_reentrant=False)),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 8),
        s=parameter(8),
        c=nn.Linear(8, 3),
        n=nn.LayerNorm(3),
        d=nn.Linear(3, 2),
    )
    assert_exact(model, torch.randn(5, 4, 6))


def test_parameters_used_by_a_hook_in_the_backward_pass_are_refused():
    def forward(m, x):
        h = m.a(x)
        h.register_hook(uses(m))
        return m.b(h)

    def uses(m):
        def hook(grad):
            with torch.enable_grad():
                m.b(grad.detach())

        return hook

    model = Calls(forward, a=nn.Linear(6, 6), b=nn.Linear(6, 3)).double()
    with pytest.raises(UnsupportedLayerError, match="during the backward pass, by a hook"):
        block_norms(model, torch.randn(5, 6).double(), param_grads=True)


EMPTY = {
    "mlp": (nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), (0, 6)),
    "cnn": (
        nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(), nn.GroupNorm(3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 2)
        ),
        (0, 2, 4, 4),
    ),
    "embedding": (nn.Embedding(9, 4), None),
    "lstm": (Calls(lambda m, x: m.r(x)[0], r=nn.LSTM(6, 4, batch_first=True)), (0, 3, 6)),
    "transformer": (nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), (0, 3, 6)),
    "by replay": (nn.Sequential(nn.Linear(6, 2), nn.PReLU()), (0, 6)),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(6, 2)), (0, 6)),
    "mean loss": (nn.LayerNorm(6), (0, 6)),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("param_grads", [True, False])
def test_an_empty_batch_has_no_norms(name, param_grads):
    model, shape = EMPTY[name]
    x = torch.zeros(0, 3, dtype=torch.long) if shape is None else torch.zeros(shape)
    with GradNorms(model, param_grads=param_grads) as g:
        model(x).sum().backward()
        assert g.norms().shape == (0,)
        assert all(v.shape == (0,) for v in g.norms(per_layer=True).values())
        assert list(g.norms(per_layer=True)) == [name for name, _ in model.named_parameters()]


def test_compiled_modules_are_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch: it deprecates both
        scripted, traced = torch.jit.script(nn.Linear(6, 2)), torch.jit.trace(nn.Linear(6, 2), torch.zeros(1, 6))
    for compiled in (scripted, traced):
        with pytest.raises(UnsupportedLayerError, match=r"^0: it is compiled by torch\.jit"):
            GradNorms(nn.Sequential(compiled)).__enter__()


# --- reductions ---------------------------------------------------------------------------------------


def test_a_loss_of_another_reduction_than_said_is_refused():
    torch.manual_seed(11)
    model, x, y = nn.Linear(6, 3).double(), torch.randn(5, 6).double(), torch.randint(0, 3, (5,))
    for loss in (
        lambda o: F.cross_entropy(o, y),
        lambda o: o.square().mean(),
        lambda o: F.mse_loss(o, torch.zeros_like(o)),
        lambda o: F.cross_entropy(o, y) + 0.1 * o.square().sum(1).mean(),
        lambda o: nn.CrossEntropyLoss()(o, y),
        lambda o: 0.5 * o.square().mean(),
    ):
        with pytest.raises(UnsupportedLayerError, match="a mean over examples, but loss_reduction is 'sum'"):
            block_norms(model, x, loss)
        assert (block_norms(model, x, loss, loss_reduction="mean") > 0).all()
    for loss in (lambda o: o.square().sum(), lambda o: F.cross_entropy(o, y, reduction="sum")):
        with pytest.raises(UnsupportedLayerError, match="a sum over examples, but loss_reduction is 'mean'"):
            block_norms(model, x, loss, loss_reduction="mean")
    with pytest.raises(UnsupportedLayerError, match="adds a mean over examples to a sum"):
        block_norms(model, x, lambda o: F.cross_entropy(o, y) + o.square().sum())
    for loss in (lambda o: o.square().sum() / len(o), lambda o: o.square().sum() / o.numel()):
        with pytest.warns(UserWarning, match="the loss looks like a mean over examples"):
            block_norms(model, x, loss)
    ignoring = y.clone()
    ignoring[0] = -100
    for loss in (
        lambda o: F.cross_entropy(o, ignoring),
        lambda o: F.cross_entropy(o, y, torch.arange(1.0, 4.0).double()),
    ):
        with pytest.warns(UserWarning, match="divided by a number that depends on the batch"):
            block_norms(model, x, loss, loss_reduction="mean")
    for weighted in (F.mse_loss, F.l1_loss):
        with pytest.warns(UserWarning, match="divided by a number that depends on the batch"):
            block_norms(model, x, lambda o, w=weighted: w(o, x[:, :3], weight=x[:, 3:].abs()), loss_reduction="mean")
    with pytest.warns(UserWarning, match="looks like a mean over examples added to a sum"):  # 0.2 is 1 / 5
        block_norms(model, x, lambda o: o.square().sum() + 0.2 * o.abs().sum())
    block_norms(model, x[:1], lambda o: o.mean())  # one example: no difference


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.huber_loss])
def test_losses_with_weights_keep_them(loss):
    torch.manual_seed(13)
    assert_exact(nn.Linear(6, 3), torch.randn(5, 6),
                 lambda y: loss(y, torch.ones_like(y), weight=y.detach().abs(), reduction="sum"))  # fmt: skip


def test_a_mean_over_tokens_gives_the_norms_of_the_examples_own_means():
    torch.manual_seed(12)
    model = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 9)).double()
    tokens = torch.randint(0, 9, (4, 6))
    labels = torch.where(torch.arange(6) < torch.tensor([[6], [3], [1], [0]]), tokens.roll(1, 1), -100)
    counts = (labels != -100).sum(1)

    def loss(y):
        return F.cross_entropy(y.transpose(1, 2), labels[: len(y)])

    found = block_norms(model, tokens, loss, loss_reduction="token-mean", counts=counts)
    for i in range(3):
        one = F.cross_entropy(model(tokens[i : i + 1]).transpose(1, 2), labels[i : i + 1])
        grads = torch.autograd.grad(one, list(model.parameters()))
        np.testing.assert_allclose(found[i], sum(float(g.square().sum()) for g in grads) ** 0.5, rtol=1e-10)
    assert found[3] == 0
    number = int(counts.sum())  # what the sum of the tokens' losses is divided by, 10 for 4 examples
    summed = block_norms(model, tokens, lambda y: F.cross_entropy(y.transpose(1, 2), labels, reduction="sum") / number,
                         loss_reduction="token-mean", counts=counts)  # fmt: skip
    np.testing.assert_allclose(summed, found, rtol=1e-12)
    with pytest.raises(UnsupportedLayerError, match="is a sum over examples"):
        block_norms(model, tokens, lambda y: y.sum(), loss_reduction="token-mean", counts=counts)
    with pytest.raises(ValueError, match="one entry for each of the 4 examples"):
        block_norms(model, tokens, loss, loss_reduction="token-mean", counts=counts[:2])
    with pytest.raises(ValueError, match="counts must be given only with"):
        GradNorms(model, counts=counts)
    for bad in ([1.5], [-1], [float("nan")], [[1]]):
        with pytest.raises(ValueError, match="counts must be numbers of tokens"):
            GradNorms(model, loss_reduction="token-mean", counts=bad)


def test_a_stand_in_whose_gradient_no_use_explains_is_refused(monkeypatch):
    from expunge.torch import _tracker

    wait = _tracker.Tracker.wait_at

    def deaf(self, node, which, roots, arrival):
        if 0 not in roots:
            wait(self, node, which, roots, arrival)

    monkeypatch.setattr(_tracker.Tracker, "wait_at", deaf)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    with pytest.raises(UnsupportedLayerError, match=r"^0\.weight: its gradient came from no use that was followed"):
        block_norms(model, torch.randn(5, 6))


def test_calls_that_were_never_run_backward_are_named():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(5, 6)
    with GradNorms(model) as g:
        model(x[:3])  # to log a loss, say
        model(x).sum().backward()
        with pytest.raises(UnsupportedLayerError, match=r"called 2 times before this backward pass: .* torch\.no_grad"):
            g.norms()
    with GradNorms(model) as g:
        with torch.no_grad():
            model(x[:3])
        model(x).sum().backward()
        assert g.norms().shape == (5,)


# --- replicas -----------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def accumulated(ours, plain, generator):
    """Accumulate two batches in one block, of which the second is averaged with the first."""
    parts = [torch.randn(size, 6, dtype=torch.float64, generator=generator) for size in (4, 3)]
    expected = [block_norms(ours.module, part, param_grads=False) for part in parts]
    for model in (ours, plain):
        model.zero_grad()
    for part, context in zip(parts, (plain.no_sync, nullcontext), strict=True):
        with context():
            loss_of(plain(part)).backward()
    with GradNorms(ours) as g:
        for part, norms, context in zip(parts, expected, (ours.no_sync, nullcontext), strict=True):
            with context():
                loss_of(ours(part)).backward()
            np.testing.assert_allclose(g.norms().numpy(), norms, rtol=1e-12)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)


def replica(rank, port, queue):
    """Train two replicas by GradNorms and without it, side by side."""
    import datetime

    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=300),
    )
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.LayerNorm(8), nn.Linear(8, 2)).double()
        models.append(DistributedDataParallel(layers))
    ours, plain = models
    generator = torch.Generator().manual_seed(rank)
    for step in range(3):
        x = torch.randn(5, 6, dtype=torch.float64, generator=generator)
        for model in models:
            model.zero_grad()
        loss_of(plain(x)).backward()
        expected = block_norms(ours.module, x, param_grads=False)
        with GradNorms(ours if step else ours.module) as g:
            loss_of(ours(x)).backward()
            np.testing.assert_allclose(g.norms().numpy(), expected, rtol=1e-12)
        for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)
            p.data -= 0.1 * p.grad
            q.data -= 0.1 * q.grad
    accumulated(ours, plain, generator)
    refused = []
    unused = DistributedDataParallel(nn.Linear(6, 2), find_unused_parameters=True)
    for model, param_grads in ((ours, False), (ours.module, False), (unused, True)):
        with pytest.raises(UnsupportedLayerError) as caught, GradNorms(model, param_grads=param_grads):
            ours(x)
        refused.append(str(caught.value))
    queue.put((rank, [p.detach().numpy() for p in ours.parameters()], refused))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo"
)
def test_replicas_average_their_gradients_as_without_the_block():
    context = torch.multiprocessing.get_context("spawn")
    queue, port, threads = context.Queue(), free_port(), torch.get_num_threads()
    other = context.Process(target=replica, args=(1, port, queue), daemon=True)
    other.start()
    try:
        replica(0, port, queue)
        results = {rank: found for rank, *found in (queue.get(timeout=300) for _ in range(2))}
        other.join(timeout=120)
        assert other.exitcode == 0
    finally:
        torch.set_num_threads(threads)
        if other.is_alive():
            other.terminate()
    for a, b in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(a, b)
    for _, refused in results.values():
        assert len(refused) == 3
        assert all("DistributedDataParallel" in message for message in refused)
        assert "find_unused_parameters" in refused[2]


def test_what_is_written_into_the_output_of_a_linear_map_comes_after_its_use():
    """The gradient that its use gets is that of what the map gave, whatever was written into that later."""
    writes = {
        "product": lambda h: h.mul_(torch.arange(1.0, 9.0, dtype=h.dtype)),
        "of a view": lambda h: (h[:, 0].zero_(), h)[1],
        "activation": lambda h: nn.functional.relu_(h),
        "of what is kept": lambda h: h.flatten(0, 1).mul_(2.0).view_as(h),
    }
    for write in writes.values():
        model = Calls(lambda m, x, w=write: m.b(w(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 2))
        assert_exact(model, torch.randn(5, 4, 6))
