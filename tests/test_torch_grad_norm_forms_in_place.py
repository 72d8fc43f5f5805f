"""GradNorms of parameters that are written, added or multiplied into examples in place."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402

from expunge.torch import UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, assert_exact_at_all_sizes, block_norms, parameter  # noqa: E402

D, T = 6, 5  # T is a size of a batch, too


def changed(change):
    """A model that changes the output of its first layer in place, before its second."""

    def forward(m, x):
        h = m.i(x)
        change(h, m.p, x)
        return m.o(h)

    return forward


def written(index, source=lambda p: p):
    return lambda h, p, x: h.__setitem__(index, source(p))


ALL = slice(None)
CHANGES = {
    "positions added": (lambda h, p, x: h.__iadd__(p), (T, D)),
    "positions added, a dimension of one in front": (lambda h, p, x: h.add_(p), (1, T, D)),
    "scaled by": (lambda h, p, x: h.mul_(p), (D,)),
    "scaled by, as an operator": (lambda h, p, x: h.__imul__(p), (D,)),
    "taken off": (lambda h, p, x: h.sub_(p), (D,)),
    "divided by": (lambda h, p, x: h.__itruediv__(p), (D,)),
    "added, with a factor": (lambda h, p, x: h.add_(p, alpha=0.3), (D,)),
    "added to a row": (lambda h, p, x: h[:, 0].add_(p), (D,)),
    "added to a row of a transpose": (lambda h, p, x: h.transpose(0, 1)[0].mul_(p), (D,)),
    "added and written back": (lambda h, p, x: h.__setitem__((ALL, 0), h[:, 0] + p), (D,)),
    "products added": (lambda h, p, x: h.addcmul_(p, x), (D,)),
    "powers": (lambda h, p, x: h.abs_().add_(0.1).pow_(p), (D,)),
    "in between": (lambda h, p, x: h.lerp_(x, p.sigmoid()), (D,)),
    "written": (written((ALL, 0)), (D,)),
    "written, as a stretch": (written((ALL, slice(1))), (1, 1, D)),
    "written, everywhere": (written(ALL), (D,)),
    "written, by ellipsis": (written((..., 0)), (T,)),
    "written at places": (written((ALL, torch.tensor([0, 2, 2]))), (D,)),
    "written, made of a parameter": (written((ALL, 1), lambda p: p.tanh() * 2), (D,)),
    "written where true": (lambda h, p, x: h.__setitem__(x[..., 0] > 0, p), (D,)),
    "written where true, in a dimension of one": (lambda h, p, x: h.__setitem__(x[..., 0] > 0, p), (1, D)),
    "written where true, by entries": (lambda h, p, x: h.__setitem__(x > 0, p), ()),
    "copied": (lambda h, p, x: h[:, 0].copy_(p), (D,)),
    "filled": (lambda h, p, x: h[:, 0].fill_(p), ()),
    "filled where true": (lambda h, p, x: h.masked_fill_(x > 0, p), ()),
    "used twice": (lambda h, p, x: h.mul_(p).add_(p), (D,)),
    "before an activation in place": (lambda h, p, x: h.mul_(p).relu_(), (D,)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_parameters_used_in_place_are_exact(name):
    change, shape = CHANGES[name]
    parts = {"i": lambda: nn.Linear(D, D), "p": lambda: parameter(*shape), "o": lambda: nn.Linear(D, 3)}
    assert_exact_at_all_sizes(changed(change), parts, (T, D))


def buffer(*steps):
    """A model that writes to zeros, in steps."""

    def forward(m, x):
        kept = x.new_zeros(len(x), T + 1, D)
        for step in steps:
            step(m, x, kept)
        return m.o(kept)

    return forward


def of_examples(m, x, kept):
    kept[:, 1:] = m.i(x)


def of_a_parameter(m, x, kept):
    kept[:, 0] = m.p


def of_both(m, x, kept):
    kept.mul_(m.p).add_(x[:, :1])


BUFFERS = {
    "examples alone": [of_examples],
    "examples, then a parameter": [of_examples, of_a_parameter],
    "a parameter, then examples": [of_a_parameter, of_examples],
    "a parameter twice": [of_a_parameter, of_a_parameter, of_examples, of_both],
}


@pytest.mark.parametrize("name", BUFFERS)
def test_what_is_written_into_zeros_is_exact(name):
    parts = {"i": lambda: nn.Linear(D, D), "o": lambda: nn.Linear(D, 3)}
    if len(BUFFERS[name]) > 1:
        parts["p"] = lambda: parameter(D)
    assert_exact_at_all_sizes(buffer(*BUFFERS[name]), parts, (T, D))


def test_the_input_itself_may_be_changed():
    torch.manual_seed(0)
    model = Calls(lambda m, x: m.o(x.mul_(m.p)), p=parameter(D), o=nn.Linear(D, 3)).double()
    x = torch.randn(3, D).double()
    single = [block_norms(model, x[i : i + 1].clone())[0] for i in range(3)]
    for param_grads in (True, False):
        np.testing.assert_allclose(block_norms(model, x.clone(), param_grads=param_grads), single, rtol=1e-9)


def with_out(m, x):
    return torch.add(x, m.b.detach(), out=torch.empty_like(x)) + m.b


def view_kept(m, x):
    kept = (m.p * 2.0).view(T, D)
    early = kept[0]
    kept[1] = 0.0
    return x + early


def view_of_constants(m, x):
    kept = x.new_zeros(T, D)
    kept[0].copy_(m.p[0])
    return x + kept


def data_set(m, x):
    kept = m.p[0] * 1.0
    kept.data = x.new_ones(D)
    return x * kept


REFUSED = {
    "a view made before": (view_kept, "^p: .*not followed"),
    "a view written": (view_of_constants, "^p: "),
    "data": (
        lambda m, x: x * (lambda q: (q.__setattr__("data", x.new_ones(D)), q)[1])(m.p[0] * 1.0),
        "^p: .*data was set",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("param_grads", [True, False])
def test_what_shares_memory_unseen_is_refused(name, param_grads):
    function, match = REFUSED[name]
    torch.manual_seed(1)
    model = Calls(function, p=parameter(T, D))
    with pytest.raises(UnsupportedLayerError, match=match):
        block_norms(model, torch.randn(3, T, D).double(), param_grads=param_grads)


def test_out_without_a_gradient_changes_nothing():
    assert_exact_at_all_sizes(with_out, {"b": lambda: parameter(D)}, (T, D))


@pytest.mark.parametrize("param_grads", [True, False])
def test_rows_written_to_places_of_other_rows_are_refused(param_grads):
    def turned(m, x):
        h = m.i(x)
        h[torch.tensor([1, 0, 2])] = m.p.expand(3, D) * x
        return h

    model = Calls(turned, i=nn.Linear(D, D), p=parameter(D)).double()
    with pytest.raises(UnsupportedLayerError, match="setitem"):
        block_norms(model, torch.randn(3, D).double(), param_grads=param_grads)
