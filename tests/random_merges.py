"""Steps of random networks that merge axes with the examples', and what is done to what was merged."""

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch.nn import functional as F  # noqa: E402, N812

from random_networks import BY_ROWS, IN_PLACE, OPERATIONS, own, turned  # noqa: E402

# --- merges: what each gives keeps the number of rows, and is taken apart again ------------------------------------


def behind(m, h, k, steps):
    """What is written in place into the merged rows is written into what they are a view of."""
    n = h.shape[1]
    base = h.clone(memory_format=torch.contiguous_format)
    m.kept.append(base)
    return within(m, base.view(-1, *h.shape[2:]), steps, copy=False).unflatten(0, (-1, n))


def in_front(m, h, k, steps):
    n = h.shape[1]
    return within(m, h.transpose(0, 1).flatten(0, 1), steps).unflatten(0, (n, -1)).transpose(0, 1)


def heads(m, h, k, steps):
    """Halves of the last axis beside the examples, in front of them or behind."""
    h = torch.cat([h, h.cos()], -1).unflatten(-1, (2, -1))
    if k % 2:
        y = within(m, h.movedim(-2, 0).flatten(0, 1), steps)
        return torch.cat(y.chunk(2, 0), -1)
    y = within(m, h.movedim(-2, 1).flatten(0, 1), steps).unflatten(0, (-1, 2))
    return y.movedim(1, -2).flatten(-2)


def windows(m, h, k, steps):
    """Places put on a grid of two by some, cut into columns, or rows."""
    h = torch.stack([h, h.sin()], 1)  # (B, 2, n, ...)
    h = torch.cat([h, h.cos()], 2).unflatten(2, (2, -1))  # (B, 2, 2, n, ...)
    order = (0, 2, 1, 3) if k % 2 else (0, 3, 2, 1)
    rest = tuple(range(4, h.ndim))
    h = h.permute(*order, *rest)
    shape = h.shape[:2]
    y = within(m, h.reshape(-1, *h.shape[2:]), steps)
    return y.view(-1, *shape[1:], *y.shape[1:]).flatten(1, 2) if k % 3 else y.unflatten(0, (-1, shape[1])).mean(1)


def around(m, h, k, steps):
    n = h.shape[1]
    y = within(m, torch.stack([h, h.sin()]).flatten(0, 2), steps)
    return y.view(2, -1, n, *y.shape[1:])[k % 2] if k % 3 else y.view(2, -1, n, *y.shape[1:]).sum(0)


def copies(m, h, k, steps):
    h = h.repeat(2, *[1] * (h.ndim - 1)) if k % 2 else h.repeat_interleave(2, 0)
    y = within(m, h, steps)
    parts = y.chunk(2, 0) if k % 2 else (y.unflatten(0, (-1, 2))[:, 0], y.unflatten(0, (-1, 2))[:, 1])
    return parts[0] * 0.7 + parts[1].sin()


def joined(m, h, k, steps):
    """Two views of every example put together along the batch."""
    parts = torch.cat([h, h.flip(-1) if k % 2 else h.tanh()]).contiguous()
    u, v = within(m, parts, steps).split(len(h), 0)
    return u * v.cos() if k % 3 else torch.cat([u, v], -1)


def within(m, h, steps, *, copy=True):
    """Run steps on merged rows; on a copy where it depends on the number of examples whether they are a view."""
    h = h.clone() if copy else h
    place = f"{m.at}_in_"
    y = m.run(h, steps, place)
    if y.shape[0] != h.shape[0]:
        raise ValueError("another number of rows")
    m.at, m.count = f"{place}after", 0
    return y


MERGES = {
    "rows of all behind": behind, "rows of all in front": in_front, "halves": heads, "windows": windows,
    "around": around, "copies": copies, "joined": joined,
}  # fmt: skip

# --- layers that take rows in front ---------------------------------------------------------------------------------


def three(h):
    """Rows, channels, positions."""
    return h.reshape(h.shape[0], h.shape[1], -1) if h.ndim > 2 else h[:, None] if h.ndim == 2 else h[:, None, None]


def conv(m, h, k):
    h = torch.cat([three(h), three(h).cos()], 1)  # an even number of channels
    groups = 1 + k % 2
    weight = m.parameter(2, h.shape[1] // groups, 2)
    padding = [1, 0, "same", 2][k % 4] if h.shape[-1] > 1 else 1
    stride = 1 if padding == "same" else 1 + k % 3
    return F.conv1d(h, weight, m.parameter(2) if k % 5 else None, stride, padding, 1, groups)


def conv2d(m, h, k):
    h = torch.stack([three(h), three(h).sin()], 1)
    return F.conv2d(h, m.parameter(2, 2, 2, 1), m.parameter(2), (1 + k % 2, 1), (1, k % 3)).flatten(1, 2)


def group_norm(m, h, k):
    h = torch.cat([three(h), three(h).cos() + 0.5], -1)
    return F.group_norm(torch.cat([h, h.sin()], 1), 2, m.parameter(2 * h.shape[1]), m.parameter(2 * h.shape[1]))


def batch_norm(m, h, k):
    h = h if k % 3 == 0 and h.ndim == 2 else three(h)
    ramp = torch.linspace(0.5, 2.0, h.shape[1], dtype=h.dtype)
    return F.batch_norm(h, ramp.sin(), ramp, m.parameter(h.shape[1]), m.parameter(h.shape[1]))


def instance_norm(m, h, k):
    h = torch.cat([three(h), three(h).cos() + 0.5], -1)
    return F.instance_norm(h, None, None, m.parameter(h.shape[1]), m.parameter(h.shape[1]))


def bmm(m, h, k):
    h = three(h)
    if k % 3 == 0:
        return torch.bmm(torch.bmm(h, h.mT).softmax(-1), h)
    if k % 3 == 1:
        return torch.baddbmm(h.cos(), torch.bmm(h, h.mT) / 4, h, beta=0.5, alpha=0.3)
    return torch.bmm(h, m.parameter(h.shape[-1], 3).expand(h.shape[0], -1, -1)).tanh()


def recurrent(m, h, k):
    h = three(h).sigmoid()
    width = h.shape[-1]
    size = 4 * 2 if k % 2 else 2
    weights = [m.parameter(size, width), m.parameter(size, 2), m.parameter(size), m.parameter(size)]
    start = torch.zeros(1, h.shape[0], 2, dtype=h.dtype)
    if k % 2:
        return torch.lstm(h, (start, start), weights, True, 1, 0.0, False, False, True)[0]
    return torch.rnn_tanh(h, start, weights, True, 1, 0.0, False, False, True)[k % 4 // 2].reshape(h.shape[0], -1, 2)


def attention(m, h, k):
    h = three(h).transpose(0, 1)
    width = h.shape[-1]
    weights = m.parameter(3 * width, width), m.parameter(3 * width), None, None, False, 0.0, m.parameter(width, width)
    mask = torch.zeros(h.shape[0], h.shape[0], dtype=h.dtype).fill_diagonal_(-1.0) if k % 2 else None
    out, seen = F.multi_head_attention_forward(
        h, h, h, width, 1, *weights, m.parameter(width), training=False, need_weights=True, attn_mask=mask
    )
    return seen if k % 5 == 4 else out.transpose(0, 1)


def table(m, h, k):
    h = three(h)
    index = (torch.arange(h.shape[1])[:, None] - torch.arange(h.shape[2])[None]).abs() % 4
    rows = m.parameter(4, 1)
    bias = rows[index.view(-1)].view(*index.shape, 1).permute(2, 0, 1).contiguous()
    return h + (bias.unsqueeze(0)[0] if k % 2 else bias)


def embedding(m, h, k):
    h = three(h)
    return (
        F.embedding((h.detach() * 3).long() % 5, m.parameter(5, 2), padding_idx=[None, 1][k % 2]) * h[..., None].cos()
    )


def bag(m, h, k):
    return F.embedding_bag((h.detach().flatten(1) * 3).long() % 5, m.parameter(5, 3), mode=["sum", "mean"][k % 2]) + (
        h.flatten(1).mean(1, keepdim=True)
    )


def moved(m, h, k):
    """Places moved round, as windows are, changed, and moved back."""
    return (three(h).roll(1, 1 + k % 2) * m.parameter(three(h).shape[-1])).roll(-1, 1 + k % 2)


def patches(m, h, k):
    h = three(h)
    columns = F.unfold(F.pad(h[:, None], (1, 0, 1, 0)), 2)
    return F.fold((columns.mT @ m.parameter(4, 4)).mT, (h.shape[1] + 1, h.shape[2] + 1), 2)[:, 0]


LAYERS = {
    "conv along places": conv, "conv2d of rows": conv2d, "group norm of rows": group_norm, "batch norm": batch_norm,
    "instance norm of rows": instance_norm, "bmm of rows": bmm, "recurrent on rows": recurrent,
    "attention on rows": attention, "table of biases": table, "bag of rows": bag,
    "table of rows": embedding, "moved places": moved,
    "patches of rows": patches,
    "turned rows": lambda m, h, k: three(h).mT.contiguous() if k % 2 else three(h).mT,
    "written rows": lambda m, h, k: (lambda y: (y.__setitem__((slice(None), 0), y[:, -1].detach()), y)[1])(own(h)),
    "first place times": lambda m, h, k: (lambda y: (y.select(1, 0).mul_(0.5), y)[1])(own(three(h)) * 1.0),
    "bias in place": lambda m, h, k: (h * 1.0).add_(m.parameter(h.shape[-1])),
    "largest place": lambda m, h, k: three(h).amax(1, keepdim=k % 2 > 0) + 0.1,
    "mean of places": lambda m, h, k: three(h).mean((1, 2) if k % 2 else -1),
    "normalised places": lambda m, h, k: F.normalize(three(h) + 2.0, dim=1 + k % 2),
}  # fmt: skip

# What takes rows of the leading axis together: examples must not be taken for apart.
MIX = {
    "rows moved round": lambda m, h, k: h.roll(1 + k % 2, 0),
    "softmax over rows": lambda m, h, k: h.softmax(0),
    "rows turned": lambda m, h, k: h.flip(0),
    "less the mean of rows": lambda m, h, k: h - h.mean(0, keepdim=True),
    "sum so far over rows": lambda m, h, k: h.cumsum(0),
    "rows picked": lambda m, h, k: h[turned(h, 0)],
    "largest of rows": lambda m, h, k: h / (1 + h.abs().amax(0)),
    "rows times rows": lambda m, h, k: (h.flatten(1) @ h.flatten(1).T).softmax(-1) @ h.flatten(1),
    "attention over rows": lambda m, h, k: F.scaled_dot_product_attention(*[h.flatten(1)[None]] * 3)[0],
    "conv over rows": lambda m, h, k: F.conv1d(h.flatten(1).T[None], m.parameter(1, h[0].numel(), 3), padding=1)[0].T,
    "pooled over rows": lambda m, h, k: F.avg_pool1d(h.flatten(1).T, 3, 1, 1).T,
    "rows from their neighbours": lambda m, h, k: F.pad(h.flatten(1), (0, 0, 1, -1)) + h.flatten(1),
}  # fmt: skip

LEADING = LAYERS | MIX | {name: OPERATIONS[name] for name in {*BY_ROWS, *IN_PLACE}}
KEEP = LAYERS
OPERATIONS.update(MERGES | LAYERS | MIX)
