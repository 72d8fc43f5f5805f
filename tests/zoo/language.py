"""Transformers on words: encoders, decoders, both, and their many variants."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.checkpoint import checkpoint  # noqa: E402

from zoo.entry import Family, several, tokens, values  # noqa: E402

MODELS = Family()
WORDS = tokens(6)
WIDTH = 8


def language_loss(scores):
    """Cross entropy of the next word where the scores of the first positions stand for targets."""
    target = scores.detach().argmax(-1)[:, 1:]
    return F.cross_entropy(scores[:, :-1].reshape(-1, scores.shape[-1]), target.reshape(-1), reduction="sum")


class TorchEncoder(nn.Module):
    """Encoder layers of torch with a padding mask."""

    def __init__(self, **settings):
        super().__init__()
        self.table, self.position = nn.Embedding(11, WIDTH, padding_idx=0), nn.Parameter(torch.zeros(6, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True, **settings)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(WIDTH, 3)

    def forward(self, words):
        mask = words == 0
        mask = mask & ~mask.all(1, keepdim=True)
        h = self.encoder(self.table(words) + self.position, src_key_padding_mask=mask)
        return self.head(h[:, 0])


MODELS.add("encoder of torch, normalised after", TorchEncoder, WORDS)
MODELS.add("encoder of torch, normalised before", lambda: TorchEncoder(norm_first=True, activation="gelu"), WORDS)


@MODELS("encoder and decoder of torch", several(WORDS, tokens(4)))
class TorchTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, WIDTH)
        self.net = nn.Transformer(WIDTH, 2, 1, 1, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(WIDTH, 11)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=torch.float64)
        return self.head(self.net(self.table(source), self.table(target), tgt_mask=mask))


@MODELS("decoder of torch with the batch in the middle", several(WORDS, tokens(4)))
class TorchDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, WIDTH), nn.Linear(WIDTH, 11)
        self.net = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, 2, 12, dropout=0.0), 1)

    def forward(self, source, target):
        h = self.net(self.table(target).transpose(0, 1), self.table(source).transpose(0, 1))
        return self.head(h).transpose(0, 1)


class CausalAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.tril(torch.ones(6, 6)).view(1, 1, 6, 6))

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.qkv(x).split(WIDTH, dim=2)
        q, k, v = (s.view(b, t, 2, c // 2).transpose(1, 2) for s in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        return self.out((F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(b, t, c))


class GPTBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_1, self.attention, self.norm_2 = nn.LayerNorm(WIDTH), CausalAttention(), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(approximate="tanh"), nn.Linear(16, WIDTH))

    def forward(self, x):
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    """Words and positions looked up, blocks, and the table again for scores."""

    def __init__(self, checkpointing=None):
        super().__init__()
        self.words, self.positions = nn.Embedding(11, WIDTH), nn.Embedding(6, WIDTH)
        self.blocks, self.norm = nn.ModuleList([GPTBlock(), GPTBlock()]), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 11, bias=False)
        self.head.weight = self.words.weight
        self.checkpointing = checkpointing

    def forward(self, words):
        x = self.words(words) + self.positions(torch.arange(words.shape[1]))
        for block in self.blocks:
            if self.checkpointing is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.checkpointing == "reentrant")
        return self.head(self.norm(x))


MODELS.add("GPT", GPT, WORDS, loss=language_loss)
MODELS.add("GPT, checkpointed", lambda: GPT("not reentrant"), WORDS, loss=language_loss)
MODELS.add("GPT, checkpointed by reentrance", lambda: GPT("reentrant"), WORDS, loss=language_loss)


def rotated(x):
    """Rotary positions: pairs of entries turned by an angle that grows with the position."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * 10.0 ** -torch.arange(half, dtype=x.dtype)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


def rotated_by_complex(x):
    """The same by complex numbers, neighbours being pairs."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * 10.0 ** -torch.arange(pairs.shape[-1], dtype=x.dtype)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class LlamaBlock(nn.Module):
    """Rotary grouped-query attention and a gated network."""

    def __init__(self, rotate=rotated, feed=None):
        super().__init__()
        self.norm_1, self.norm_2, self.rotate = RMSNorm(WIDTH), RMSNorm(WIDTH), rotate
        self.q, self.k, self.v = (nn.Linear(WIDTH, n, bias=False) for n in (16, 8, 8))
        self.out, self.feed = nn.Linear(16, WIDTH, bias=False), feed or SwiGLU()

    def forward(self, x):
        b, t, _ = x.shape
        h = self.norm_1(x)
        q, k, v = (layer(h).view(b, t, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = self.rotate(q), self.rotate(k)
        k = k[:, :, None].expand(b, 2, 2, t, 4).reshape(b, 4, t, 4)
        v = v.repeat_interleave(2, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(out.transpose(1, 2).reshape(b, t, -1))
        return x + self.feed(self.norm_2(x))


class SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(*n, bias=False) for n in ((WIDTH, 12), (WIDTH, 12), (12, WIDTH)))

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Decoder(nn.Module):
    """Words, blocks, scores."""

    def __init__(self, *blocks, norm=None):
        super().__init__()
        self.words, self.blocks, self.norm = nn.Embedding(11, WIDTH), nn.ModuleList(blocks), norm or RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 11, bias=False)

    def forward(self, words):
        x = self.words(words)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


MODELS.add("LLaMA", lambda: Decoder(LlamaBlock(), LlamaBlock()), WORDS, loss=language_loss)
MODELS.add("LLaMA with complex rotations", lambda: Decoder(LlamaBlock(rotated_by_complex)), WORDS, loss=language_loss)


class ParallelBlock(nn.Module):
    """Attention and network side by side, one head for all keys, as in PaLM and Falcon."""

    def __init__(self):
        super().__init__()
        self.norm, self.into = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, 8 + 4 + 4 + 24, bias=False)
        self.out, self.down = nn.Linear(8, WIDTH, bias=False), nn.Linear(12, WIDTH, bias=False)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v, feed = self.into(self.norm(x)).split((8, 4, 4, 24), dim=-1)
        q = rotated(q.view(b, t, 2, 4).transpose(1, 2))
        scores = torch.einsum("bhid,bjd->bhij", q, rotated(k)) / 2
        scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -torch.finfo(x.dtype).max)
        out = torch.einsum("bhij,bjd->bhid", scores.softmax(-1), v)
        up, gate = feed.chunk(2, dim=-1)
        return x + self.out(out.transpose(1, 2).flatten(2)) + self.down(F.silu(gate) * up)


MODELS.add("parallel blocks with one key head", lambda: Decoder(ParallelBlock()), WORDS, loss=language_loss)


class LinearBiasBlock(nn.Module):
    """Distances subtracted from scores, heads merged with examples, products by baddbmm, as in BLOOM."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 2, 3, 4).unbind(3)
        q = q.transpose(1, 2).reshape(b * 2, t, 4)
        k = k.permute(0, 2, 3, 1).reshape(b * 2, 4, t)
        v = v.transpose(1, 2).reshape(b * 2, t, 4)
        slopes = torch.tensor([0.5, 0.25], dtype=x.dtype)
        places = torch.arange(t, dtype=x.dtype).expand(b, t)
        alibi = (slopes[..., None] * places[:, None, :]).reshape(b * 2, 1, t)
        scores = alibi.baddbmm(batch1=q, batch2=k, beta=1.0, alpha=0.5).view(b, 2, t, t)
        scores = scores + torch.full((t, t), -1e9, dtype=x.dtype).triu(1)
        out = torch.bmm(scores.softmax(-1).view(b * 2, t, t), v).view(b, 2, t, 4)
        return x + self.out(out.permute(0, 2, 1, 3).reshape(b, t, WIDTH))


MODELS.add(
    "BLOOM: linear biases", lambda: Decoder(LinearBiasBlock(), norm=nn.LayerNorm(WIDTH)), WORDS, loss=language_loss
)


class Encoder(nn.Module):
    """Attention with keys that are masked where words are 0, normalised after."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm_1, self.norm_2, self.up, self.down = (
            nn.LayerNorm(WIDTH),
            nn.LayerNorm(WIDTH),
            nn.Linear(8, 16),
            nn.Linear(16, 8),
        )

    def forward(self, x, mask):
        b, t, _ = x.shape
        q, k, v = (layer(x).view(b, t, 2, 4).permute(0, 2, 1, 3) for layer in (self.q, self.k, self.v))
        scores = torch.matmul(q, k.transpose(-1, -2)) / 2 + mask
        out = torch.matmul(scores.softmax(-1), v).permute(0, 2, 1, 3).contiguous().view(b, t, WIDTH)
        x = self.norm_1(x + self.out(out))
        return self.norm_2(x + self.down(F.gelu(self.up(x))))


def mask_of(words, dtype=torch.float64):
    return (1.0 - (words != 0)[:, None, None, :].to(dtype)) * -1e4


@MODELS("BERT: words, places, kinds, a pooled head and one for words", several(WORDS, tokens(6, 2)))
class BERT(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(11, 8, padding_idx=0), nn.Embedding(6, 8), nn.Embedding(2, 8)
        self.norm, self.layers = nn.LayerNorm(8), nn.ModuleList([Encoder(), Encoder()])
        self.pool, self.next, self.change, self.bias = (
            nn.Linear(8, 8),
            nn.Linear(8, 2),
            nn.Linear(8, 8),
            nn.Parameter(torch.zeros(11)),
        )
        self.register_buffer("at", torch.arange(6).unsqueeze(0))

    def forward(self, words, kinds):
        x = self.norm(self.words(words) + self.places(self.at[:, : words.shape[1]]) + self.kinds(kinds))
        for layer in self.layers:
            x = layer(x, mask_of(words))
        scores = F.linear(F.gelu(self.change(x)), self.words.weight, self.bias)
        return scores, self.next(torch.tanh(self.pool(x[:, 0])))


@MODELS("ALBERT: one layer many times, a table of two factors", WORDS)
class ALBERT(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.wide, self.layer = nn.Embedding(11, 3), nn.Linear(3, 8), Encoder()

    def forward(self, words):
        x = self.wide(self.words(words))
        for _ in range(3):
            x = self.layer(x, mask_of(words))
        return F.linear(F.linear(x, self.wide.weight.t()), self.words.weight)


class T5Attention(nn.Module):
    """Attention without scale, with biases for buckets of distances."""

    def __init__(self, *, biased):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.biases = nn.Embedding(5, 2) if biased else None

    def forward(self, x, seen=None, bias=None):
        seen = x if seen is None else seen
        q, k, v = (
            layer(h).unflatten(-1, (2, 4)).transpose(1, 2) for layer, h in ((self.q, x), (self.k, seen), (self.v, seen))
        )
        scores = torch.matmul(q, k.transpose(3, 2))
        if self.biases is not None:
            apart = torch.arange(k.shape[2])[None] - torch.arange(q.shape[2])[:, None]
            bias = self.biases(apart.clamp(-2, 2) + 2).permute(2, 0, 1).unsqueeze(0)
        if bias is not None:
            scores += bias
        out = torch.matmul(F.softmax(scores.float().type_as(scores), dim=-1), v)
        return self.out(out.transpose(1, 2).contiguous().view(x.shape[0], -1, WIDTH)), bias


@MODELS("T5: relative biases shared by layers", several(WORDS, tokens(4)))
class T5(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.norm = nn.Embedding(11, WIDTH), RMSNorm(WIDTH)
        self.first, self.second = T5Attention(biased=True), T5Attention(biased=False)
        self.own, self.across, self.feed = T5Attention(biased=True), T5Attention(biased=False), SwiGLU()

    def forward(self, source, target):
        h, bias = self.first(self.norm(self.words(source)))
        h = h + self.second(self.norm(h), bias=bias)[0]
        y = self.words(target)
        y = y + self.own(self.norm(y))[0]
        y = y + self.across(self.norm(y), seen=h)[0]
        return F.linear(self.feed(y) * WIDTH**-0.5, self.words.weight)


@MODELS("Transformer-XL: relative positions by a shift", WORDS)
class TransformerXL(nn.Module):
    """Scores of positions are shifted by padding and another view, heads and examples apart."""

    def __init__(self):
        super().__init__()
        self.words, self.qkv, self.places, self.out = (
            nn.Embedding(11, 8),
            nn.Linear(8, 24),
            nn.Linear(8, 8, bias=False),
            nn.Linear(8, 8),
        )
        self.u, self.v = nn.Parameter(torch.zeros(2, 4)), nn.Parameter(torch.zeros(2, 4))
        self.register_buffer("waves", torch.sin(torch.arange(6)[:, None] * 2.0 ** -torch.arange(8)))

    def forward(self, words):
        x = self.words(words)
        b, t, _ = x.shape
        q, k, v = (h.view(b, t, 2, 4) for h in self.qkv(x).chunk(3, -1))
        places = self.waves.to(x.dtype) @ self.places.weight.T
        content = torch.einsum("bihd,bjhd->bhij", q + self.u, k)
        by_place = torch.einsum("bihd,jhd->bhij", q + self.v, places.view(t, 2, 4))
        shifted = F.pad(by_place, (1, 0)).view(b, 2, t + 1, t)[:, :, 1:].view(b, 2, t, t)
        weights = (0.5 * (content + shifted)).masked_fill(torch.ones(t, t).triu(1).bool(), -1e9).softmax(-1)
        return self.out(torch.einsum("bhij,bjhd->bihd", weights, v).reshape(b, t, 8))


class DenseExperts(nn.Module):
    """All experts for all words, weighed by a gate."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, 3, bias=False)
        self.up, self.down = nn.Parameter(torch.randn(3, WIDTH, 6)), nn.Parameter(torch.randn(3, 6, WIDTH))

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        chosen, index = weights.topk(2, dim=-1)
        gates = torch.zeros_like(weights).scatter(-1, index, chosen / chosen.sum(-1, keepdim=True))
        h = F.gelu(torch.einsum("btd,edf->btef", x, self.up))
        return torch.einsum("btef,efd,bte->btd", h, self.down, gates)


MODELS.add("mixture of experts, all run", lambda: Decoder(LlamaBlock(feed=DenseExperts())), WORDS)


class RoutedExperts(nn.Module):
    """Experts that see the words that chose them alone."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(WIDTH, 3, bias=False), nn.ModuleList(SwiGLU() for _ in range(3))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        weights, index = self.gate(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            mask = index == number
            out[mask] = expert(flat[mask]) * weights[mask, None]
        return out.view_as(x)


MODELS.add("mixture of experts, routed", lambda: Decoder(LlamaBlock(feed=RoutedExperts())), WORDS)


class DoublyNormalised(nn.Module):
    """Normalised around each part, with normalised queries and keys and soft caps, as in Gemma 2."""

    def __init__(self):
        super().__init__()
        self.norms, self.q_norm, self.k_norm = nn.ModuleList(RMSNorm(8) for _ in range(4)), RMSNorm(4), RMSNorm(4)
        self.qkv, self.out, self.feed = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False), SwiGLU()

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(b, t, 6, 4).transpose(1, 2).chunk(3, 1)
        q, k = rotated(self.q_norm(q)), rotated(self.k_norm(k))
        scores = torch.tanh(q @ k.mT / 5) * 5
        near = torch.ones(t, t, dtype=torch.bool).tril() & ~torch.ones(t, t, dtype=torch.bool).tril(-3)
        out = (torch.where(near, scores, -1e9).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.norms[1](self.out(out))
        return x + self.norms[3](self.feed(self.norms[2](x)))


MODELS.add("Gemma: doubly normalised, soft caps, a sliding window", lambda: Decoder(DoublyNormalised()), WORDS)


class LatentAttention(nn.Module):
    """Keys and values from a narrow code, positions apart, as in DeepSeek."""

    def __init__(self):
        super().__init__()
        self.q, self.down, self.norm = nn.Linear(8, 12, bias=False), nn.Linear(8, 5, bias=False), RMSNorm(3)
        self.up, self.out = nn.Linear(3, 2 * (4 + 4), bias=False), nn.Linear(8, 8, bias=False)

    def forward(self, x):
        b, t, _ = x.shape
        q, q_place = self.q(x).view(b, t, 2, 6).transpose(1, 2).split([4, 2], -1)
        code, k_place = self.down(x).split([3, 2], dim=-1)
        k, v = self.up(self.norm(code)).view(b, t, 2, 8).transpose(1, 2).split([4, 4], dim=-1)
        k_place = rotated(k_place.view(b, t, 1, 2).transpose(1, 2)).expand(-1, 2, -1, -1)
        q, k = torch.cat([q, rotated(q_place)], -1), torch.cat([k, k_place], -1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1))


MODELS.add("multi-head latent attention", lambda: Decoder(LatentAttention()), WORDS)


@MODELS("Perceiver: learned queries", values(6, 8))
class Perceiver(nn.Module):
    def __init__(self):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(3, 8))
        self.q, self.kv, self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        latents = self.latents.unsqueeze(0).expand(x.shape[0], -1, -1)
        for _ in range(2):
            k, v = self.kv(x).chunk(2, -1)
            latents = latents + self.out((self.q(latents) @ k.mT).softmax(-1) @ v)
        return self.head(latents.mean(1))


@MODELS("DETR: learned queries through a decoder of torch", values(3, 8, 8))
class DETR(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.queries = nn.Conv2d(3, 8, 4, 4), nn.Embedding(3, 8)
        self.rows, self.columns = nn.Parameter(torch.rand(2, 4)), nn.Parameter(torch.rand(2, 4))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0)
        self.classes, self.boxes = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        h = self.patches(x)
        height, width = h.shape[-2:]
        places = torch.cat([
            self.columns[:width].unsqueeze(0).repeat(height, 1, 1), self.rows[:height].unsqueeze(1).repeat(1, width, 1)
        ], dim=-1).flatten(0, 1).unsqueeze(1)  # fmt: skip
        seen = self.encoder(places + 0.1 * h.flatten(2).permute(2, 0, 1))
        out = self.decoder(self.queries.weight.unsqueeze(1).repeat(1, len(x), 1), seen)
        out = out.transpose(0, 1)
        return self.classes(out), self.boxes(out).sigmoid()
