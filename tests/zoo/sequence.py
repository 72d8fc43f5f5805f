"""Recurrent, convolutional and state-space models of sequences, and attention without transformers."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from zoo.entry import Family, several, tokens, values  # noqa: E402

MODELS = Family()
SERIES = values(6, 4)
WORDS = tokens(6)


def lengths(longest):
    return lambda batch: (torch.randint(1, longest + 1, (batch,)),)


class Recurrent(nn.Module):
    """A recurrent layer of torch on embedded words, read at the end."""

    def __init__(self, layer, *, batch_first=True, **settings):
        super().__init__()
        self.table, self.first = nn.Embedding(11, 4, padding_idx=0), batch_first
        self.layer = layer(4, 5, batch_first=batch_first, **settings)
        self.head = nn.Linear(5 * (2 if settings.get("bidirectional") else 1), 3)

    def forward(self, words):
        h = self.table(words)
        h = h if self.first else h.transpose(0, 1)
        out, last = self.layer(h)
        last = last[0] if isinstance(last, tuple) else last
        out = out if self.first else out.transpose(0, 1)
        return self.head(out.mean(1)), last.sin().sum(0)


for _layer in (nn.RNN, nn.LSTM, nn.GRU):
    MODELS.add(_layer.__name__, lambda layer=_layer: Recurrent(layer), WORDS)
    MODELS.add(
        f"{_layer.__name__}, two layers, both ways",
        lambda layer=_layer: Recurrent(layer, num_layers=2, bidirectional=True), WORDS,
    )  # fmt: skip
MODELS.add("LSTM with the batch in the middle", lambda: Recurrent(nn.LSTM, batch_first=False), WORDS)


@MODELS("LSTM with a projection", SERIES)
class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 6, proj_size=3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.layer(x)[0])


@MODELS("cells in a loop", SERIES)
class Cells(nn.Module):
    """An LSTM cell, whose states a GRU cell reads, and a plain cell behind them."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.LSTMCell(4, 5), nn.GRUCell(5, 5), nn.RNNCell(5, 3)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], 5)
        g, out = torch.zeros_like(h), x.new_zeros(x.shape[0], 3)
        for t in range(x.size(1)):
            h, c = self.first(x[:, t], (h, c))
            g = self.second(h, g)
            out = self.third(g + c, out)
        return out


@MODELS("read at the last word of each, by its length", several(WORDS, lengths(6)))
class LastOfEach(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(11, 4), nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, words, length):
        out, _ = self.layer(self.table(words))
        last = out.gather(1, (length - 1).view(-1, 1, 1).expand(-1, 1, out.size(2))).squeeze(1)
        also = out[torch.arange(len(words)), length - 1]
        return self.head(last) + also.mean(-1, keepdim=True)


@MODELS("packed sequences", several(WORDS, lengths(6)))
class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(11, 4), nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, words, length):
        packed = nn.utils.rnn.pack_padded_sequence(self.table(words), length, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.layer(packed)
        return self.head(last[-1])


@MODELS("learned initial states", SERIES)
class LearnedStates(nn.Module):
    def __init__(self):
        super().__init__()
        self.h, self.c = nn.Parameter(torch.zeros(1, 1, 5)), nn.Parameter(torch.zeros(1, 1, 5))
        self.layer, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        states = (self.h.expand(-1, x.shape[0], -1).contiguous(), self.c.expand(-1, x.shape[0], -1).contiguous())
        return self.head(self.layer(x, states)[0])


class Additive(nn.Module):
    """Attention by a small network of query and keys."""

    def __init__(self, width):
        super().__init__()
        self.of_query, self.of_keys, self.score = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, query, keys):
        scores = self.score(torch.tanh(self.of_query(query).unsqueeze(1) + self.of_keys(keys)))
        return (scores.softmax(dim=1) * keys).sum(dim=1)


@MODELS("sequence to sequence with additive attention", several(WORDS, tokens(4)))
class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(11, 4), nn.Embedding(11, 4)
        self.encoder, self.cell = nn.GRU(4, 5, batch_first=True), nn.GRUCell(9, 5)
        self.attention, self.head = Additive(5), nn.Linear(10, 11)

    def forward(self, source, target):
        seen, last = self.encoder(self.source(source))
        state, scores = last.squeeze(0), []
        for step in self.target(target).unbind(1):
            context = self.attention(state, seen)
            state = self.cell(torch.cat([step, context], 1), state)
            scores.append(self.head(torch.cat([state, context], -1)))
        return torch.stack(scores, dim=1)


@MODELS("sequence to sequence with dot products", several(WORDS, tokens(4)))
class Dots(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.encoder = nn.Embedding(11, 4), nn.LSTM(4, 5, batch_first=True)
        self.decoder, self.key, self.head = (
            nn.LSTM(4, 5, batch_first=True),
            nn.Linear(5, 5, bias=False),
            nn.Linear(10, 3),
        )

    def forward(self, source, target):
        seen, states = self.encoder(self.table(source))
        out, _ = self.decoder(self.table(target), states)
        weights = torch.bmm(out, self.key(seen).transpose(1, 2)).masked_fill((source == 0)[:, None], -1e9).softmax(-1)
        return self.head(torch.cat([out, torch.bmm(weights, seen)], 2))


class Causal(nn.Conv1d):
    """A convolution that looks back."""

    def __init__(self, width, out, size, dilation=1):
        super().__init__(width, out, size, dilation=dilation)
        self.back = (size - 1) * dilation

    def forward(self, x):
        return super().forward(F.pad(x, (self.back, 0)))


class Temporal(nn.Module):
    def __init__(self, width, out, dilation):
        super().__init__()
        self.net = nn.Sequential(
            nn.utils.parametrizations.weight_norm(Causal(width, out, 2, dilation)), nn.ReLU(), nn.Dropout(0.0),
            nn.utils.parametrizations.weight_norm(Causal(out, out, 2, dilation)), nn.ReLU(),
        )  # fmt: skip
        self.short = nn.Conv1d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x):
        return F.relu(self.net(x) + self.short(x))


@MODELS("TCN", SERIES)
class TCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.head = nn.Sequential(Temporal(4, 5, 1), Temporal(5, 5, 2)), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.net(x.transpose(1, 2))[:, :, -1])


@MODELS("WaveNet", tokens(7))
class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.filters = nn.Embedding(11, 4), nn.ModuleList(Causal(4, 4, 2, d) for d in (1, 2))
        self.gates = nn.ModuleList(Causal(4, 4, 2, d) for d in (1, 2))
        self.skips = nn.ModuleList(nn.Conv1d(4, 5, 1) for _ in range(2))
        self.back = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(2))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(5, 5, 1), nn.ReLU(), nn.Conv1d(5, 11, 1))

    def forward(self, words):
        h, total = self.table(words).permute(0, 2, 1), 0
        for wave, gate, skip, back in zip(self.filters, self.gates, self.skips, self.back, strict=True):
            g = torch.tanh(wave(h)) * torch.sigmoid(gate(h))
            total = total + skip(g)
            h = h + back(g)
        return self.out(total)


@MODELS("ByteNet: residual convolutions with layer normalisation", SERIES)
class ByteNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.down, self.conv, self.up = nn.LayerNorm(4), nn.Linear(4, 2), Causal(2, 2, 3, 2), nn.Linear(2, 4)

    def forward(self, x):
        h = self.down(F.relu(self.norm(x)))
        return x + self.up(F.relu(self.conv(h.mT).mT))


@MODELS("QRNN: gates by convolution, a pool along time", SERIES)
class QRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates = Causal(4, 9, 2)

    def forward(self, x):
        z, f, o = self.gates(x.transpose(1, 2)).chunk(3, 1)
        c, out = torch.zeros_like(z[..., 0]), []
        for t in range(x.shape[1]):
            c = torch.sigmoid(f[..., t]) * c + (1 - torch.sigmoid(f[..., t])) * torch.tanh(z[..., t])
            out.append(torch.sigmoid(o[..., t]) * c)
        return torch.stack(out, -1)


@MODELS("TextCNN", tokens(8))
class TextCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.convs = nn.ModuleList(nn.Conv2d(1, 3, (size, 4)) for size in (2, 3))
        self.head = nn.Linear(6, 2)

    def forward(self, words):
        x = self.table(words).unsqueeze(1)
        maps = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
        return self.head(torch.cat([F.max_pool1d(m, m.size(2)).squeeze(2) for m in maps], 1))


@MODELS("fastText: a bag of words", tokens(6))
def fasttext():
    return nn.Sequential(nn.EmbeddingBag(11, 4, mode="mean"), nn.Linear(4, 3))


@MODELS("a bag of words, weighed", several(tokens(5), values(5)))
class WeightedBag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(11, 4, mode="sum"), nn.Linear(4, 3)

    def forward(self, words, weights):
        return self.head(self.bag(words, per_sample_weights=weights.softmax(1)))


@MODELS("a bag of words with offsets", tokens(5))
class OffsetBag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(11, 4), nn.Linear(4, 3)

    def forward(self, words):
        return self.head(self.bag(words.flatten(), torch.arange(0, words.numel(), words.shape[1])))


@MODELS("deep averaging network with a mask", tokens(6))
class Averaging(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.net = nn.Embedding(11, 4), nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, words):
        mask = (words != 0).unsqueeze(-1)
        total = (self.table(words) * mask).sum(1)
        return self.net(total / mask.sum(1).clamp(min=1))


@MODELS("hierarchical attention: words, then sentences", tokens(12))
class Hierarchical(nn.Module):
    """Sentences are merged with the batch for the network of words."""

    def __init__(self):
        super().__init__()
        self.table, self.words = nn.Embedding(11, 4), nn.GRU(4, 3, batch_first=True, bidirectional=True)
        self.word_query, self.sentences = nn.Linear(6, 1), nn.GRU(6, 3, batch_first=True)
        self.sentence_query, self.head = nn.Linear(3, 1), nn.Linear(3, 2)

    def forward(self, words):
        batch = words.shape[0]
        out, _ = self.words(self.table(words.view(batch * 3, 4)))
        sentences = (self.word_query(out.tanh()).softmax(1) * out).sum(1).view(batch, 3, -1)
        out, _ = self.sentences(sentences)
        return self.head((self.sentence_query(out.tanh()).softmax(1) * out).sum(1))


class CRF(nn.Module):
    """The score of a sequence of tags less the logarithm of the sum over all."""

    def __init__(self, tags):
        super().__init__()
        self.start, self.end = nn.Parameter(torch.zeros(tags)), nn.Parameter(torch.zeros(tags))
        self.steps = nn.Parameter(torch.zeros(tags, tags))

    def forward(self, scores, tags):
        rows = torch.arange(scores.shape[0])
        total = self.start[tags[:, 0]] + scores[rows, 0, tags[:, 0]]
        alpha = self.start + scores[:, 0]
        for t in range(1, scores.shape[1]):
            total = total + self.steps[tags[:, t - 1], tags[:, t]] + scores[rows, t, tags[:, t]]
            alpha = torch.logsumexp(alpha.unsqueeze(2) + self.steps + scores[:, t].unsqueeze(1), dim=1)
        return torch.logsumexp(alpha + self.end, dim=1) - total - self.end[tags[:, -1]]


@MODELS("BiLSTM and CRF", several(tokens(5), tokens(5, 3)), loss=lambda y: y.sum())
class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(11, 4), nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.scores, self.crf = nn.Linear(6, 3), CRF(3)

    def forward(self, words, tags):
        return self.crf(self.scores(self.layer(self.table(words))[0]), tags)


@MODELS("CTC on a convolutional recogniser", several(values(4, 8), lambda batch: (torch.randint(1, 4, (batch, 2)),)))
class Recogniser(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.layer, self.head = (
            nn.Conv1d(4, 5, 3, padding=1),
            nn.GRU(5, 4, batch_first=True),
            nn.Linear(4, 4),
        )

    def forward(self, x, target):
        h, _ = self.layer(F.relu(self.conv(x)).transpose(1, 2))
        scores = self.head(h).log_softmax(2).transpose(0, 1)
        sizes = torch.full((len(x),), 8), torch.full((len(x),), 2)
        return F.ctc_loss(scores, target, *sizes, reduction="none")


def scan(decay, inputs):
    """The states h_t = decay_t h_(t-1) + inputs_t, all of them."""
    h, out = torch.zeros_like(inputs[:, 0]), []
    for t in range(inputs.shape[1]):
        h = decay[:, t] * h + inputs[:, t]
        out.append(h)
    return torch.stack(out, 1)


class MambaBlock(nn.Module):
    """A selective state space: steps, inputs and outputs depend on what is read."""

    def __init__(self, width=4, inner=6, states=3, rank=2):
        super().__init__()
        self.norm, self.up = nn.RMSNorm(width, eps=1e-5), nn.Linear(width, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.select, self.step = nn.Linear(inner, rank + 2 * states, bias=False), nn.Linear(rank, inner)
        self.a_log = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(inner, 1))
        self.d, self.down = nn.Parameter(torch.ones(inner)), nn.Linear(inner, width, bias=False)
        self.sizes = [rank, states, states]

    def forward(self, x):
        length = x.shape[1]
        h, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        h = F.silu(self.conv(h.transpose(1, 2))[..., :length].transpose(1, 2))
        step, into, out = self.select(h).split(self.sizes, dim=-1)
        step = F.softplus(self.step(step))
        a = -torch.exp(self.a_log)
        decay = torch.exp(step.unsqueeze(-1) * a)
        states = scan(decay, step.unsqueeze(-1) * into.unsqueeze(2) * h.unsqueeze(-1))
        y = (states @ out.unsqueeze(-1)).squeeze(-1) + self.d * h
        return x + self.down(y * F.silu(gate))


@MODELS("Mamba", tokens(5))
class Mamba(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.block, self.norm = nn.Embedding(11, 4), MambaBlock(), nn.RMSNorm(4, eps=1e-5)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words):
        return self.head(self.norm(self.block(self.table(words))))


@MODELS("S4: a diagonal state space as a long convolution", SERIES)
class DiagonalStateSpace(nn.Module):
    def __init__(self, width=4, states=3):
        super().__init__()
        self.log_step = nn.Parameter(torch.rand(width) - 1)
        self.real, self.imaginary = nn.Parameter(torch.zeros(width, states)), nn.Parameter(torch.rand(width, states))
        self.c, self.d, self.out = (
            nn.Parameter(torch.randn(width, states, 2)),
            nn.Parameter(torch.ones(width)),
            nn.Linear(4, 4),
        )

    def forward(self, x):
        u = x.transpose(1, 2)
        length = u.shape[-1]
        a = (-torch.exp(self.real) + 1j * self.imaginary) * torch.exp(self.log_step).unsqueeze(-1)
        powers = torch.exp(a.unsqueeze(-1) * torch.arange(length, dtype=x.dtype))
        kernel = 2 * torch.einsum("hn,hnl->hl", torch.view_as_complex(self.c), powers).real
        spectrum = torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(kernel, n=2 * length)
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + u * self.d.unsqueeze(-1)
        return self.out(F.gelu(y.transpose(-1, -2)))


@MODELS("linear recurrent unit, complex states", SERIES)
class LRU(nn.Module):
    def __init__(self, width=4, states=3):
        super().__init__()
        self.nu, self.theta = nn.Parameter(torch.zeros(states)), nn.Parameter(torch.ones(states))
        self.into, self.out = nn.Linear(width, 2 * states, bias=False), nn.Linear(2 * states, width)

    def forward(self, x):
        parts = self.into(x).chunk(2, -1)
        inputs = torch.complex(*parts)
        decay = torch.exp(torch.complex(-torch.exp(self.nu), self.theta))
        h, out = torch.zeros_like(inputs[:, 0]), []
        for t in range(x.shape[1]):
            h = decay * h + inputs[:, t]
            out.append(h)
        states = torch.stack(out, 1)
        return self.out(torch.cat([states.real, states.imag], -1))


@MODELS("RWKV", tokens(5))
class RWKV(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.table, self.norm = nn.Embedding(11, width), nn.LayerNorm(width)
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(torch.full((1, 1, width), 0.5)) for _ in range(3))
        self.k, self.v, self.r = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.decay, self.first, self.out = (
            nn.Parameter(torch.zeros(width)),
            nn.Parameter(torch.zeros(width)),
            nn.Linear(4, 11),
        )

    def forward(self, words):
        x = self.norm(self.table(words))
        before = F.pad(x, (0, 0, 1, -1))
        k, v, r = (
            layer(x * mix + before * (1 - mix))
            for layer, mix in ((self.k, self.mix_k), (self.v, self.mix_v), (self.r, self.mix_r))
        )
        decay = -torch.exp(self.decay)
        above, below, out = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0]), []
        for t in range(words.shape[1]):
            now = torch.exp(self.first + k[:, t])
            out.append((above + now * v[:, t]) / (below + now))
            above = torch.exp(decay) * above + torch.exp(k[:, t]) * v[:, t]
            below = torch.exp(decay) * below + torch.exp(k[:, t])
        return self.out(torch.sigmoid(r) * torch.stack(out, 1))


@MODELS("RetNet: retention with fixed decays", SERIES)
class Retention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.norm, self.gate, self.out = (
            nn.Linear(4, 12),
            nn.GroupNorm(2, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
        )

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 2, 2).permute(2, 0, 3, 1, 4)
        at = torch.arange(n)
        apart = (at[:, None] - at[None]).clamp(min=0)
        decay = torch.stack([g**apart for g in (0.9, 0.8)]) * (at[:, None] >= at[None])
        out = ((q @ k.transpose(-1, -2)) * decay.to(x.dtype)) @ v
        out = self.norm(out.transpose(1, 2).reshape(b * n, d)).view(b, n, d)
        return self.out(out * F.silu(self.gate(x)))


class LinearAttention(nn.Module):
    """Attention by feature maps, causal or not."""

    def __init__(self, features, *, causal=False):
        super().__init__()
        self.features, self.causal, self.qkv, self.out = features, causal, nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, 2)) for t in self.qkv(x).chunk(3, -1))
        q, k = self.features(q), self.features(k)
        if self.causal:
            kv = torch.einsum("bnhf,bnhd->bnhfd", k, v).cumsum(1)
            above, below = torch.einsum("bnhf,bnhfd->bnhd", q, kv), torch.einsum("bnhf,bnhf->bnh", q, k.cumsum(1))
        else:
            above = torch.einsum("bnhf,bhfd->bnhd", q, torch.einsum("bnhf,bnhd->bhfd", k, v))
            below = torch.einsum("bnhf,bhf->bnh", q, k.sum(1))
        return self.out((above / below.unsqueeze(-1)).flatten(2))


MODELS.add("linear attention", lambda: LinearAttention(lambda t: F.elu(t) + 1), SERIES)
MODELS.add("linear attention, causal", lambda: LinearAttention(lambda t: F.elu(t) + 1, causal=True), SERIES)


class RandomFeatures(nn.Module):
    """Positive random features, as in Performers."""

    def __init__(self, width, count):
        super().__init__()
        self.register_buffer("directions", torch.randn(count, width))

    def forward(self, t):
        t = t * t.shape[-1] ** -0.25
        return torch.exp(t @ self.directions.T - t.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(self.directions))


MODELS.add("Performer", lambda: LinearAttention(RandomFeatures(2, 6)), SERIES)


@MODELS("Linformer: keys and values of fewer positions", SERIES)
class Linformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.fewer, self.out = nn.Linear(4, 12), nn.Parameter(torch.randn(6, 3)), nn.Linear(4, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        k, v = torch.einsum("bnd,nk->bkd", k, self.fewer), torch.einsum("bnd,nk->bkd", v, self.fewer)
        return self.out((q @ k.mT / 2).softmax(-1) @ v)


@MODELS("FNet: Fourier transforms for attention", SERIES)
class FNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.net = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x):
        h = torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real
        return self.net(self.norm(x + h))


@MODELS("end-to-end memory network", several(tokens(12), tokens(4)))
class Memory(nn.Module):
    """Three sentences of four words are memories; a question is answered in two hops."""

    def __init__(self):
        super().__init__()
        self.into, self.out, self.time = nn.Embedding(11, 4), nn.Embedding(11, 4), nn.Parameter(torch.zeros(3, 4))
        self.hop, self.head = nn.Linear(4, 4), nn.Linear(4, 11)

    def forward(self, story, question):
        story = story.unflatten(1, (3, 4))
        state = self.into(question).sum(1)
        keys, values = self.into(story).sum(2) + self.time, self.out(story).sum(2)
        for _ in range(2):
            weights = torch.matmul(keys, state.unsqueeze(-1)).squeeze(-1).softmax(-1)
            state = self.hop(state) + torch.matmul(weights.unsqueeze(1), values).squeeze(1)
        return self.head(state)


@MODELS("N-BEATS: residuals of a forecast", values(6))
class NBeats(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 9)) for _ in range(2))

    def forward(self, x):
        total = x.new_zeros(x.shape[0], 3)
        for block in self.blocks:
            back, ahead = block(x).split([6, 3], dim=1)
            x = x - back
            total = total + ahead
        return total


@MODELS("highway network on characters", tokens(8))
class Highway(nn.Module):
    """Characters of two words are merged with the batch for a convolution."""

    def __init__(self):
        super().__init__()
        self.table, self.conv = nn.Embedding(11, 3), nn.Conv1d(3, 5, 2)
        self.gate, self.change, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(10, 2)

    def forward(self, characters):
        b = characters.size(0)
        h = self.table(characters.view(b * 2, 4)).transpose(1, 2)
        h = torch.tanh(self.conv(h)).max(dim=2).values
        gate = torch.sigmoid(self.gate(h))
        h = gate * F.relu(self.change(h)) + (1 - gate) * h
        return self.head(h.view(b, -1))
