"""GradNorms of recurrent layers: packed sequences, cells in loops, states of all kinds."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn.utils import rnn  # noqa: E402

from expunge.torch import UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, assert_exact_at_all_sizes, block_norms, norms_of_rows, parameter  # noqa: E402

D, T, H = 6, 5, 4  # T is a size of a batch, too


def lengths(x):
    """From 2 to T, as the example says."""
    return (x[:, 0, 0] > 0).long() * 2 + (x[:, 0, 1] > 0).long() + 2


def packed(m, x, *, last=False, batch_first=True, start=None, count=lengths):
    h = x if batch_first else x.transpose(0, 1)
    sequence = rnn.pack_padded_sequence(h, count(x), batch_first=batch_first, enforce_sorted=False)
    states = () if start is None else (start(m, len(x)),)
    out, state = m.r(sequence, *states)
    if last:
        return (state[0] if isinstance(state, tuple) else state).transpose(0, 1)
    y, found = rnn.pad_packed_sequence(out, batch_first=batch_first, total_length=T)
    return (y if batch_first else y.transpose(0, 1)) / found[:, None, None]


def layer(kind, **settings):
    return lambda: getattr(nn, kind)(D, H, batch_first=True, **settings)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("settings", [{}, {"bidirectional": True}, {"num_layers": 2}, {"bias": False}])
@pytest.mark.parametrize("last", [True, False])
def test_packed_sequences_are_exact(kind, settings, last):
    assert_exact_at_all_sizes(lambda m, x: packed(m, x, last=last), {"r": layer(kind, **settings)}, (T, D))


def cells(m, x):
    sequence = rnn.pack_padded_sequence(x, lengths(x), batch_first=True, enforce_sorted=False)
    return m.r(sequence)[1][1].transpose(0, 1)


def embedded(m, x):
    """A layer on the rows of a packed sequence itself."""
    p = rnn.pack_padded_sequence(x, lengths(x), batch_first=True, enforce_sorted=False)
    p = rnn.PackedSequence(m.i(p.data).tanh(), p.batch_sizes, p.sorted_indices, p.unsorted_indices)
    return rnn.pad_packed_sequence(m.r(p)[0], batch_first=True, total_length=T)[0]


def in_falling_order(m, x):
    """Sorted before: the first example is the longest."""
    p = rnn.pack_padded_sequence(x, torch.tensor([5, 4, 4, 2, 1])[: len(x)], batch_first=True)
    return rnn.pad_packed_sequence(m.r(p)[0], batch_first=True, total_length=T)[0]


MORE = {
    "the cells' states": (cells, {"r": layer("LSTM")}),
    "projected": (lambda m, x: packed(m, x), {"r": layer("LSTM", proj_size=2, num_layers=2)}),
    "time in front": (
        lambda m, x: packed(m, x, batch_first=False), {"r": lambda: nn.GRU(D, H)},
    ),
    "a layer of the packed rows": (embedded, {"i": lambda: nn.Linear(D, D), "r": layer("LSTM")}),
    "lengths from a list": (lambda m, x: packed(m, x, count=lambda x: [3] * len(x)), {"r": layer("GRU")}),
    "a learned state": (
        lambda m, x: packed(m, x, start=lambda m, n: m.h.expand(-1, n, -1).contiguous()),
        {"r": layer("GRU", num_layers=2), "h": lambda: parameter(2, 1, H)},
    ),
    "two learned states": (
        lambda m, x: packed(m, x, start=lambda m, n: (m.h.repeat(1, n, 1), m.c.repeat(1, n, 1))),
        {"r": layer("LSTM"), "h": lambda: parameter(1, 1, H), "c": lambda: parameter(1, 1, H)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_more_packed_sequences_are_exact(name):
    assert_exact_at_all_sizes(MORE[name][0], MORE[name][1], (T, D))


def test_sequences_in_falling_order_are_exact():
    torch.manual_seed(0)
    model = Calls(in_falling_order, r=nn.LSTM(D, H, batch_first=True)).double()
    x = torch.randn(5, T, D).double()
    losses = model(x).sin().flatten(1).sum(1)
    expected = norms_of_rows(model, losses)
    for param_grads in (True, False):
        np.testing.assert_allclose(block_norms(model, x, param_grads=param_grads), expected, rtol=1e-9)


def test_packed_sequences_of_other_rows_are_refused():
    torch.manual_seed(1)
    x = torch.randn(3, T, D).double()

    def crossed(m, x):
        p = rnn.pack_padded_sequence(x, torch.tensor([3, 3, 3]), batch_first=True)
        data = torch.cat([p.data[:3], p.data[3:][torch.tensor([1, 0, 2, 3, 4, 5])]])
        return m.r(rnn.PackedSequence(data, p.batch_sizes))[1].transpose(0, 1)

    with pytest.raises(UnsupportedLayerError, match=r"rows of different examples .* padded sequences"):
        block_norms(Calls(crossed, r=nn.GRU(D, H)).double(), x)
    sums = Calls(lambda m, x: packed(m, x) * rnn.pack_padded_sequence(x, lengths(x), True, False).batch_sizes.sum())
    sums.r = nn.GRU(D, H, batch_first=True)
    with pytest.raises(UnsupportedLayerError, match="numbers of rows of a packed sequence"):
        block_norms(sums.double(), x)


CELLS = {"RNNCell": 1, "GRUCell": 1, "LSTMCell": 2}
STARTS = {
    "none": lambda m, x, k: None,
    "zeros": lambda m, x, k: torch.zeros(len(x), H).double(),
    "expanded": lambda m, x, k: m.s[k].expand(len(x), H),
    "repeated": lambda m, x, k: m.s[k][None].repeat(len(x), 1),
    "made of the input": lambda m, x, k: m.l(x[:, 0]).tanh(),
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("start", STARTS)
def test_cells_in_loops_are_exact(kind, start):
    def forward(m, x):
        states = [STARTS[start](m, x, k) for k in range(CELLS[kind])]
        h = states[0] if len(states) == 1 or states[0] is None else tuple(states)
        out = []
        for t in range(T):
            h = m.c(x[:, t], h)
            out.append(h[0] if len(states) == 2 else h)
        return torch.stack(out, 1)

    parts = {"c": lambda: getattr(nn, kind)(D, H)}
    if start in ("expanded", "repeated"):
        parts["s"] = lambda: parameter(CELLS[kind], H)
    if start == "made of the input":
        parts["l"] = lambda: nn.Linear(D, H)
    assert_exact_at_all_sizes(forward, parts, (T, D))


def test_states_made_of_the_input_are_exact():
    assert_exact_at_all_sizes(
        lambda m, x: m.r(x, m.l(x[:, 0])[None].tanh())[0], {"l": lambda: nn.Linear(D, H), "r": layer("GRU")}, (T, D)
    )
