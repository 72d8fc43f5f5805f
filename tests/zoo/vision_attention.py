"""Vision models with attention, windows, and mixing of positions."""

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from zoo.entry import Family, values  # noqa: E402
from zoo.vision import ChannelsLastNorm, Head, Residual, conv, inverted  # noqa: E402

MODELS = Family()
IMAGE = values(3, 8, 8)


class Attention(nn.Module):
    """Self-attention, heads side by side."""

    def __init__(self, width, heads=2, *, fused=True, bias=None, normalise=False):
        super().__init__()
        self.heads, self.fused, self.bias = heads, fused, bias
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(width // heads) if normalise else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if normalise else nn.Identity()

    def forward(self, x, mask=None):
        batch, length, width = x.shape
        q, k, v = (
            self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        bias = self.bias() if self.bias is not None else None
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            scores = q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1)
            if bias is not None:
                scores = scores + bias
            if mask is not None:  # of windows
                windows = mask.shape[0]
                scores = scores.view(batch // windows, windows, self.heads, length, length) + mask[None, :, None]
                scores = scores.view(-1, self.heads, length, length)
            out = scores.softmax(dim=-1) @ v
        return self.out(out.transpose(1, 2).reshape(batch, length, width))


def mlp(width, times=2):
    return nn.Sequential(nn.Linear(width, times * width), nn.GELU(), nn.Linear(times * width, width))


class Block(nn.Module):
    """Attention and a network for every position, each on what was normalised, with a scale where asked for."""

    def __init__(self, width, *, scale=False, **settings):
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(width), Attention(width, **settings)
        self.norm_2, self.mlp = nn.LayerNorm(width), mlp(width)
        self.scales = nn.ParameterList([torch.full((width,), 0.3) for _ in range(2)]) if scale else (1.0, 1.0)

    def forward(self, x):
        x = x + self.scales[0] * self.attention(self.norm_1(x))
        return x + self.scales[1] * self.mlp(self.norm_2(x))


class ViT(nn.Module):
    """Patches, tokens of its own, positions, blocks."""

    def __init__(self, own=1, *, pooled=False, **settings):
        super().__init__()
        self.patches, self.pooled, self.own = nn.Conv2d(3, 8, 4, 4), pooled, own
        self.tokens = nn.Parameter(torch.zeros(1, own, 8)) if own else None
        self.position = nn.Parameter(torch.zeros(1, 4 + own, 8))
        self.blocks = nn.Sequential(*(Block(8, **settings) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.tokens is not None:
            x = torch.cat((self.tokens.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.norm(self.blocks(x + self.position))
        if self.pooled:
            return self.head(x.mean(1))
        return tuple(self.head(x[:, k]) for k in range(self.own))


MODELS.add("ViT", ViT, IMAGE)
MODELS.add("ViT without token, unfused", lambda: ViT(0, pooled=True, fused=False), IMAGE)
MODELS.add("DeiT: two tokens", lambda: ViT(2), IMAGE)
MODELS.add("ViT with normalised queries and scales", lambda: ViT(1, normalise=True, scale=True), IMAGE)


@MODELS("ViT of PyTorch's encoder layers", IMAGE)
class TorchViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.position = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(4, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.encoder(x).mean(1))


class TalkingAttention(nn.Module):
    """Heads mixed before and after the softmax."""

    def __init__(self, width, heads=2):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.before, self.after = nn.Linear(heads, heads), nn.Linear(heads, heads)

    def forward(self, x):
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * (d // self.heads) ** -0.5, qkv[1], qkv[2]
        scores = self.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weights = self.after(scores.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, d))


@MODELS("CaiT: talking heads, then a token that reads", IMAGE)
class CaiT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.position = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(1, 4, 8))
        self.gamma = nn.Parameter(torch.full((8,), 0.1))
        self.norm, self.attention = nn.LayerNorm(8), TalkingAttention(8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.q, self.k, self.v, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.gamma * self.attention(self.norm(x))
        token = self.token.expand(x.shape[0], -1, -1)
        seen = torch.cat((token, x), dim=1)
        b, n, d = seen.shape
        q = self.q(seen[:, 0]).unsqueeze(1).reshape(b, 1, 2, d // 2).permute(0, 2, 1, 3)
        k, v = (part(seen).reshape(b, n, 2, d // 2).permute(0, 2, 1, 3) for part in (self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, 1, d)
        return self.head((token + self.gamma * out)[:, 0])


@MODELS("XCiT: attention between channels", IMAGE)
class XCiT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.qkv, self.out = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 8)
        self.temperature, self.local = nn.Parameter(torch.ones(2, 1, 1)), conv(8, 8, groups=8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, d // 2).permute(2, 0, 3, 4, 1).unbind(0)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        x = x + self.out((scores.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(b, n, d))
        x = x + self.local(x.transpose(1, 2).reshape(b, d, height, width)).flatten(2).transpose(1, 2)
        return self.head(x.mean(1))


def window_partition(x, size):
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, channels)


def window_reverse(windows, size, height, width):
    batch = int(windows.shape[0] / (height * width / size / size))
    x = windows.view(batch, height // size, width // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(batch, height, width, -1)


def relative_index(size):
    at = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
    apart = (at[:, :, None] - at[:, None, :]).permute(1, 2, 0) + size - 1
    return apart[..., 0] * (2 * size - 1) + apart[..., 1]


class RelativeBias(nn.Module):
    """A number for every pair of places and head, from a table of differences."""

    def __init__(self, size, heads):
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        self.register_buffer("index", relative_index(size))

    def forward(self):
        length = self.index.shape[0]
        bias = self.table[self.index.view(-1)].view(length, length, -1)
        return bias.permute(2, 0, 1).contiguous().unsqueeze(0)


class LearnedBias(nn.Module):
    """A number for every difference, from a small network of its logarithm, as in Swin v2."""

    def __init__(self, size, heads):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(inplace=True), nn.Linear(6, heads, bias=False))
        steps = torch.arange(1 - size, size, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).flatten(0, 1)
        self.register_buffer("grid", torch.sign(grid) * torch.log2(1 + grid.abs()))
        self.register_buffer("index", relative_index(size))

    def forward(self):
        length = self.index.shape[0]
        table = self.net(self.grid)
        bias = table[self.index.view(-1)].view(length, length, -1).permute(2, 0, 1).contiguous()
        return 16 * torch.sigmoid(bias).unsqueeze(0)


class CosineAttention(nn.Module):
    """Attention by cosines with a learned temperature and a learned bias."""

    def __init__(self, width, size, heads=2):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.scale, self.bias = nn.Parameter(torch.zeros(heads, 1, 1)), LearnedBias(size, heads)

    def forward(self, x, mask=None):
        b, n, d = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * torch.clamp(self.scale, max=4.6).exp() + self.bias()
        if mask is not None:
            scores = scores.view(b // mask.shape[0], mask.shape[0], self.heads, n, n) + mask[None, :, None]
            scores = scores.view(-1, self.heads, n, n)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))


class SwinBlock(nn.Module):
    """Attention in windows, which are moved in every other block."""

    def __init__(self, width, size, attention, shift):
        super().__init__()
        self.size, self.shift, self.norm, self.attention, self.mlp = (
            size,
            shift,
            nn.LayerNorm(width),
            attention,
            mlp(width),
        )
        self.norm_2 = nn.LayerNorm(width)
        self.register_buffer("mask", self.mask_of(4) if shift else None)

    def mask_of(self, length):
        regions = torch.zeros(1, length, length, 1)
        cuts = (slice(0, -self.size), slice(-self.size, -self.shift), slice(-self.shift, None))
        for count, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
            regions[:, rows, columns] = count
        flat = window_partition(regions, self.size).view(-1, self.size**2)
        apart = flat.unsqueeze(1) - flat.unsqueeze(2)
        return apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)

    def forward(self, x):
        _, height, width, channels = x.shape
        h = self.norm(x)
        if self.shift:
            h = torch.roll(h, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = window_partition(h, self.size).view(-1, self.size**2, channels)
        windows = self.attention(windows, mask=self.mask).view(-1, self.size, self.size, channels)
        h = window_reverse(windows, self.size, height, width)
        if self.shift:
            h = torch.roll(h, shifts=(self.shift, self.shift), dims=(1, 2))
        x = x + h
        return x + self.mlp(self.norm_2(x))


class PatchMerging(nn.Module):
    """Four neighbours become one."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.down = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        parts = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.down(self.norm(torch.cat(parts, -1)))


class ToLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class MeanHead(nn.Module):
    """The mean over positions, channels last, and scores."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.norm(x).flatten(1, -2).mean(1))


def swin(attention):
    return nn.Sequential(
        nn.Conv2d(3, 8, 2, 2), ToLast(), SwinBlock(8, 2, attention(), 0), SwinBlock(8, 2, attention(), 1),
        PatchMerging(8), MeanHead(16),
    )  # fmt: skip


MODELS.add("Swin", lambda: swin(lambda: Attention(8, fused=False, bias=RelativeBias(2, 2))), IMAGE)
MODELS.add("Swin v2", lambda: swin(lambda: CosineAttention(8, 2)), IMAGE)


class Windows(nn.Module):
    """A module in windows of neighbours, or of a grid of places far apart."""

    def __init__(self, inner, size, *, grid=False):
        super().__init__()
        self.inner, self.size, self.grid = inner, size, grid

    def forward(self, x):
        b, h, w, c = x.shape
        s = self.size
        if self.grid:
            x = x.view(b, s, h // s, s, w // s, c).permute(0, 2, 4, 1, 3, 5)
        else:
            x = x.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5)
        x = self.inner(x.reshape(-1, s * s, c)).reshape(-1, h // s, w // s, s, s, c)
        x = x.permute(0, 3, 1, 4, 2, 5) if self.grid else x.permute(0, 1, 3, 2, 4, 5)
        return x.reshape(b, h, w, c)


class ToFirst(nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 1, 2)


def maxvit(norm):
    def windows(grid):
        return Windows(Block(8, bias=RelativeBias(2, 2)), 2, grid=grid)

    return nn.Sequential(
        conv(3, 8, stride=2, norm=norm), inverted(8, 16, 8, 1, gate=nn.Sigmoid, norm=norm), ToLast(),
        windows(False), windows(True), MeanHead(8),
    )  # fmt: skip


MODELS.add("MaxViT", lambda: maxvit("group"), IMAGE)
MODELS.add("MaxViT with batch normalisation", lambda: maxvit("batch"), IMAGE, modes=(False,))


class ChannelBlock(nn.Module):
    """Attention between channels, in groups."""

    def __init__(self, width, groups=2):
        super().__init__()
        self.groups, self.norm, self.qkv, self.out = (
            groups,
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x):
        b, h, w, c = x.shape
        n = h * w
        q, k, v = (
            self.qkv(self.norm(x).view(b, n, c)).reshape(b, n, 3, self.groups, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        scores = ((q * n**-0.5).transpose(-1, -2) @ k).softmax(-1)
        out = (scores @ v.transpose(-1, -2)).transpose(-1, -2)
        return x + self.out(out.transpose(1, 2).reshape(b, n, c)).view(b, h, w, c)


@MODELS("DaViT: windows, then channels", IMAGE)
def davit():
    position = Residual(nn.Conv2d(8, 8, 3, padding=1, groups=8))
    return nn.Sequential(
        nn.Conv2d(3, 8, 2, 2), position, ToLast(), Windows(Block(8, fused=False), 2), ChannelBlock(8), MeanHead(8)
    )


class PooledAttention(nn.Module):
    """Queries, keys and values pooled by convolutions on every head, with relative positions along both axes."""

    def __init__(self, width, heads=2):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        each = width // heads
        self.pool_q = nn.Conv2d(each, each, 3, 2, 1, groups=each, bias=False)
        self.pool_k = nn.Conv2d(each, each, 3, 2, 1, groups=each, bias=False)
        self.pool_v = nn.Conv2d(each, each, 3, 2, 1, groups=each, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(each) for _ in range(3))
        self.along_h, self.along_w = nn.Parameter(torch.zeros(3, each)), nn.Parameter(torch.zeros(3, each))

    def pool(self, x, layer, norm, height, width):
        b, heads, _, d = x.shape
        x = x.reshape(b * heads, height, width, d).permute(0, 3, 1, 2).contiguous()
        x = layer(x)
        size = x.shape[-2:]
        return norm(x.reshape(b, heads, d, -1).transpose(2, 3)), size

    def forward(self, x, height, width):
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q, (h, w) = self.pool(q, self.pool_q, self.norms[0], height, width)
        k, _ = self.pool(k, self.pool_k, self.norms[1], height, width)
        v, _ = self.pool(v, self.pool_v, self.norms[2], height, width)
        scores = q * (d // self.heads) ** -0.5 @ k.transpose(-2, -1)
        far = torch.arange(h)[:, None] - torch.arange(h)[None, :] + h - 1
        r_q = q.reshape(b, self.heads, h, w, -1)
        rel_h = torch.einsum("byhwc,hkc->byhwk", r_q, self.along_h[far])
        rel_w = torch.einsum("byhwc,wkc->byhwk", r_q, self.along_w[far])
        scores = (scores.view(b, -1, h, w, h, w) + rel_h[:, :, :, :, :, None] + rel_w[:, :, :, :, None, :]).view(
            b, -1, h * w, h * w
        )
        out = (scores.softmax(-1) @ v + q).transpose(1, 2).reshape(b, h * w, -1)
        return self.out(out)


@MODELS("MViTv2: pooled attention with relative positions", IMAGE)
class MViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.norm, self.attention = nn.Conv2d(3, 8, 3, 2, 1), nn.LayerNorm(8), PooledAttention(8)
        self.head = MeanHead(8)

    def forward(self, x):
        x = self.patches(x)
        h, w = x.shape[-2:]
        return self.head(self.attention(self.norm(x.flatten(2).transpose(1, 2)), h, w))


@MODELS("Hiera: units of positions, queries pooled by the largest", IMAGE)
class Hiera(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.position = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.zeros(1, 16, 8))
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 48), nn.Linear(16, 16)
        self.skip, self.head = nn.Linear(8, 16), MeanHead(16)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        b, n, _ = x.shape
        # Unrolled: positions of a unit far apart, so that pooling takes the largest along one axis.
        x = x.view(b, 2, 2, 2, 2, 8).permute(0, 2, 4, 1, 3, 5).reshape(b, n, 8)
        h = self.norm(x)
        q, k, v = self.qkv(h).reshape(b, -1, 1, 3, 2, 8).permute(3, 0, 4, 2, 1, 5).unbind(0)
        q = q.view(b, 2, 1, 4, -1, 8).amax(dim=3)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 3).reshape(b, -1, 16)
        return self.head(self.skip(h).view(b, 4, -1, 16).amax(dim=1) + self.out(out))


@MODELS("MobileViT: patches taken apart and put together", IMAGE)
class MobileViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.local, self.block = conv(3, 4, stride=2), nn.Conv2d(4, 8, 1), Block(8)
        self.back, self.join, self.head = conv(8, 4, 1), conv(8, 4), Head(4)

    def forward(self, x):
        x = self.stem(x)
        h = self.local(x)
        b, c, height, width = h.shape
        n = (height // 2) * (width // 2)
        h = h.reshape(b * c * (height // 2), 2, width // 2, 2).transpose(1, 2)
        h = h.reshape(b, c, n, 4).transpose(1, 3).reshape(b * 4, n, c)
        h = self.block(h)
        h = h.contiguous().view(b, 4, n, c).transpose(1, 3).reshape(b * c * (height // 2), width // 2, 2, 2)
        h = h.transpose(1, 2).reshape(b, c, height, width)
        return self.head(self.join(torch.cat((x, self.back(h)), dim=1)))


@MODELS("PVT: keys and values of fewer positions", IMAGE)
class PVT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.position = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.zeros(1, 16, 8))
        self.q, self.kv, self.out = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8)
        self.reduce, self.norm, self.head = nn.Conv2d(8, 8, 2, 2), nn.LayerNorm(8), MeanHead(8)

    def forward(self, x):
        x = self.patches(x)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2) + self.position
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, 2, 4).permute(0, 2, 1, 3)
        fewer = self.norm(
            self.reduce(x.permute(0, 2, 1).reshape(b, c, height, width)).reshape(b, c, -1).permute(0, 2, 1)
        )
        k, v = self.kv(fewer).reshape(b, -1, 2, 2, 4).permute(2, 0, 3, 1, 4)
        return self.head(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)))


class PoolMixer(nn.Module):
    def forward(self, x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x


@MODELS("PoolFormer", IMAGE)
def poolformer():
    block = Residual(nn.GroupNorm(1, 8), PoolMixer())
    return nn.Sequential(
        nn.Conv2d(3, 8, 2, 2), block, Residual(nn.GroupNorm(1, 8), nn.Conv2d(8, 16, 1), nn.GELU(), nn.Conv2d(16, 8, 1)),
        Head(8),
    )  # fmt: skip


class Mixer(nn.Module):
    def __init__(self, width, length):
        super().__init__()
        self.norm_1, self.places, self.norm_2, self.channels = (
            nn.LayerNorm(width),
            mlp(length),
            nn.LayerNorm(width),
            mlp(width),
        )

    def forward(self, x):
        x = x + self.places(self.norm_1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm_2(x))


class ToTokens(nn.Module):
    def forward(self, x):
        return x.flatten(2).transpose(1, 2)


def of_tokens(*blocks):
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), ToTokens(), *blocks, MeanHead(8))


MODELS.add("MLP-Mixer", lambda: of_tokens(Mixer(8, 4), Mixer(8, 4)), IMAGE)


class SpatialGating(nn.Module):
    def __init__(self, width, length):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.gate_norm, self.places = nn.LayerNorm(width), nn.Conv1d(length, length, 1)

    def forward(self, x):
        u, v = F.gelu(self.up(self.norm(x))).chunk(2, dim=-1)
        return x + self.down(u * self.places(self.gate_norm(v)))


MODELS.add("gMLP", lambda: of_tokens(SpatialGating(8, 4), SpatialGating(8, 4)), IMAGE)


class Affine(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x):
        return torch.addcmul(self.shift, self.scale, x)


class ResMLPBlock(nn.Module):
    def __init__(self, width, length):
        super().__init__()
        self.before, self.places, self.channels = Affine(width), nn.Linear(length, length), mlp(width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x):
        x = x + self.scale * self.places(self.before(x).transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.channels(x)


MODELS.add("ResMLP", lambda: of_tokens(ResMLPBlock(8, 4)), IMAGE)


class SpectralFilter(nn.Module):
    """A filter with complex weights, in frequencies."""

    def __init__(self, width, length):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, length // 2 + 1, width, 2))

    def forward(self, x):
        b, n, c = x.shape
        side = int(n**0.5)
        spectrum = torch.fft.rfft2(x.view(b, side, side, c), dim=(1, 2), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(self.weight)
        return x + torch.fft.irfft2(spectrum, s=(side, side), dim=(1, 2), norm="ortho").reshape(b, n, c)


MODELS.add("global filter network", lambda: of_tokens(SpectralFilter(8, 2), Mixer(8, 4)), IMAGE)


@MODELS("CoAtNet: convolutions, then relative attention", IMAGE)
def coatnet():
    attention = Block(8, fused=False, bias=RelativeBias(4, 2))
    return nn.Sequential(
        conv(3, 8, stride=2), inverted(8, 16, 8, 1, gate=nn.Sigmoid), ToTokens(), attention, MeanHead(8)
    )


@MODELS("LeViT: convolutional stem, hard swish, biases looked up", IMAGE)
class LeViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8, stride=2, act=nn.Hardswish)
        self.qkv, self.out = nn.Linear(8, 2 * (2 + 2 + 4)), nn.Sequential(nn.Hardswish(), nn.Linear(8, 8))
        self.biases, self.head = nn.Parameter(torch.zeros(2, 49)), MeanHead(8)
        self.register_buffer("index", relative_index(4))

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 2, -1).split([2, 2, 4], dim=3)
        q, k, v = q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        scores = q @ k * 2**-0.5 + self.biases[:, self.index]
        return self.head(x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, 8)))


@MODELS("axial attention: rows, then columns", IMAGE)
class Axial(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.rows, self.columns, self.head = nn.Conv2d(3, 8, 2, 2), Block(8), Block(8), MeanHead(8)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        x = self.rows(x.reshape(b * h, w, c)).view(b, h, w, c)
        x = self.columns(x.transpose(1, 2).reshape(b * w, h, c)).view(b, w, h, c).transpose(1, 2)
        return self.head(x)


@MODELS("video attention: frames, then time", values(3, 2, 8, 8))
class TimeAndSpace(nn.Module):
    """Convolutions on all frames of all examples, attention within frames, then along time with the layers of torch."""

    def __init__(self):
        super().__init__()
        self.patches, self.space = nn.Conv2d(2, 8, 4, 4), Block(8)
        self.norm, self.time, self.head = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True), MeanHead(8)

    def forward(self, x):
        b, t = x.shape[:2]
        h = self.patches(x.flatten(0, 1)).flatten(2).transpose(1, 2)
        h = self.space(h)
        n = h.shape[1]
        h = h.view(b, t, n, -1).permute(0, 2, 1, 3).reshape(b * n, t, -1)
        y = self.norm(h)
        h = h + self.time(y, y, y, need_weights=False)[0]
        return self.head(h.view(b, n, t, -1))


@MODELS("relative positions along both axes, as in bottleneck transformers", IMAGE)
class BottleneckAttention(nn.Module):
    """Products with positions by baddbmm, heads merged with examples."""

    def __init__(self):
        super().__init__()
        self.stem, self.qkv, self.head = conv(3, 8, stride=2), nn.Conv2d(8, 24, 1, bias=False), Head(8)
        self.height, self.width = nn.Parameter(torch.randn(4, 1, 4)), nn.Parameter(torch.randn(1, 4, 4))

    def forward(self, x):
        x = self.stem(x)
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).view(b * 2, 12, h * w).chunk(3, dim=1)
        places = (self.height + self.width).view(1, h * w, 4).expand(b * 2, -1, -1)
        scores = torch.baddbmm(places @ q, q.transpose(1, 2), k, beta=1, alpha=0.5)
        out = torch.bmm(scores.softmax(-1), v.transpose(1, 2)).transpose(1, 2)
        return self.head(x + out.reshape(b, c, h, w))


@MODELS("shifted channels instead of attention", IMAGE)
class ShiftedMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.mix, self.head = (
            nn.Conv2d(3, 8, 2, 2),
            ChannelsLastNorm(8),
            nn.Conv2d(8, 8, 1),
            Head(8),
        )

    def forward(self, x):
        x = self.stem(x)
        parts = torch.chunk(self.norm(x), 4, 1)
        moved = [torch.roll(p, s, d) for p, s, d in zip(parts, (1, -1, 1, -1), (2, 2, 3, 3), strict=True)]
        return self.head(x + self.mix(torch.cat(moved, 1)))
