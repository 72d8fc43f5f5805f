"""Networks for tables, recommendations, and vectors without structure."""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from zoo.entry import Family, several, tokens, values  # noqa: E402

MODELS = Family()
ROW = values(6)
FIELDS = tokens(4, 5)  # four categories
MIXED = several(values(3), FIELDS)


def mlp(*widths, act=nn.ReLU, norm=None):
    layers = []
    for k, (width, out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(width, out))
        if k < len(widths) - 2:
            layers += ([norm(out)] if norm else []) + [act()]
    return nn.Sequential(*layers)


MODELS.add("logistic regression", lambda: nn.Linear(6, 3), ROW)
MODELS.add("MLP", lambda: mlp(6, 8, 8, 3), ROW)
MODELS.add("MLP with layer normalisation", lambda: mlp(6, 8, 8, 3, norm=nn.LayerNorm, act=nn.GELU), ROW)
MODELS.add("MLP with batch normalisation", lambda: mlp(6, 8, 3, norm=nn.BatchNorm1d), ROW, modes=(False,))
MODELS.add("self-normalising MLP", lambda: mlp(6, 8, 8, 3, act=nn.SELU), ROW)
MODELS.add("MLP with smooth activations", lambda: mlp(6, 8, 3, act=nn.Mish), ROW)


@MODELS("MLP with residuals and dropout of nothing", ROW)
class ResidualMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.norm, self.up, self.down = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.drop, self.head = nn.Dropout(0.0), nn.Linear(8, 1)

    def forward(self, x):
        h = self.into(x)
        for _ in range(2):  # the same weights twice
            h = h + self.drop(self.down(self.drop(F.relu(self.up(self.norm(h))))))
        return self.head(F.relu(h)).squeeze(-1)


@MODELS("maxout", ROW)
class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.pieces, self.head = nn.Linear(6, 12), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.pieces(x).view(x.shape[0], 4, 3).max(-1)[0])


class Fields(nn.Module):
    """One table for all fields, each with a stretch of rows of its own."""

    def __init__(self, width):
        super().__init__()
        self.table = nn.Embedding(20, width)
        self.register_buffer("starts", torch.arange(0, 20, 5))

    def forward(self, fields):
        return self.table(fields + self.starts)


@MODELS("factorisation machine", FIELDS)
class FM(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.factors, self.bias = Fields(1), Fields(3), nn.Parameter(torch.zeros(1))

    def forward(self, fields):
        v = self.factors(fields)
        pairs = 0.5 * (v.sum(dim=1) ** 2 - (v**2).sum(dim=1)).sum(dim=1, keepdim=True)
        return torch.sigmoid(self.linear(fields).sum(dim=1) + self.bias + pairs).squeeze(1)


@MODELS("DeepFM", FIELDS)
class DeepFM(nn.Module):
    def __init__(self):
        super().__init__()
        self.fm, self.deep = FM(), mlp(12, 8, 1)

    def forward(self, fields):
        return self.fm(fields) + self.deep(self.fm.factors(fields).flatten(1)).squeeze(-1)


@MODELS("field-aware factorisation machine", FIELDS)
class FFM(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(Fields(2) for _ in range(4))

    def forward(self, fields):
        found = [table(fields) for table in self.tables]
        pairs = [found[j][:, i] * found[i][:, j] for i in range(3) for j in range(i + 1, 4)]
        return torch.stack(pairs, dim=1).sum((1, 2))


@MODELS("attentional factorisation machine", FIELDS)
class AFM(nn.Module):
    def __init__(self):
        super().__init__()
        self.factors, self.attention, self.score, self.head = (
            Fields(3),
            nn.Linear(3, 4),
            nn.Linear(4, 1),
            nn.Linear(3, 1),
        )

    def forward(self, fields):
        v = self.factors(fields)
        rows, columns = torch.triu_indices(4, 4, 1)
        pairs = v[:, rows] * v[:, columns]
        weights = self.score(F.relu(self.attention(pairs))).softmax(1)
        return self.head((weights * pairs).sum(1))


class Cross(nn.Module):
    """x_0 (w . x) + b + x, or with a matrix."""

    def __init__(self, width, *, matrix):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width if matrix else 1, bias=matrix) for _ in range(2))
        self.biases = nn.ParameterList(torch.zeros(width) for _ in range(2))

    def forward(self, x):
        first = x
        for layer, bias in zip(self.layers, self.biases, strict=True):
            x = first * layer(x) + bias + x
        return x


@MODELS("deep and cross network", MIXED)
class DCN(nn.Module):
    def __init__(self, *, matrix=False):
        super().__init__()
        self.fields, self.cross, self.deep, self.head = (
            Fields(2),
            Cross(11, matrix=matrix),
            mlp(11, 8, 4),
            nn.Linear(15, 1),
        )

    def forward(self, numbers, fields):
        x = torch.cat([numbers, self.fields(fields).flatten(1)], dim=1)
        return self.head(torch.cat([self.cross(x), self.deep(x)], dim=1))


MODELS.add("deep and cross network with matrices", lambda: DCN(matrix=True), MIXED)


@MODELS("wide and deep", MIXED)
class WideDeep(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.fields, self.deep = nn.Linear(20, 1), Fields(2), mlp(11, 8, 1)

    def forward(self, numbers, fields):
        crossed = F.one_hot(fields + self.fields.starts, 20).sum(1).to(numbers.dtype)
        return self.wide(crossed) + self.deep(torch.cat((numbers, self.fields(fields).flatten(1)), 1))


@MODELS("DLRM: dot products of fields", MIXED)
class DLRM(nn.Module):
    def __init__(self):
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(5, 3, mode="sum") for _ in range(4))
        self.bottom, self.top = mlp(3, 5, 3), mlp(13, 6, 1)

    def forward(self, numbers, fields):
        dense = self.bottom(numbers)
        found = [bag(fields[:, k : k + 1]) for k, bag in enumerate(self.bags)]
        all_ = torch.stack([dense, *found], dim=1)
        products = torch.bmm(all_, all_.transpose(1, 2))
        rows, columns = torch.tril_indices(5, 5, -1)
        return self.top(torch.cat([dense, products[:, rows, columns]], dim=1))


@MODELS("xDeepFM: products of fields compressed by convolutions", FIELDS)
class CIN(nn.Module):
    def __init__(self):
        super().__init__()
        self.fields, self.convs, self.head = (
            Fields(3),
            nn.ModuleList([nn.Conv1d(16, 4, 1), nn.Conv1d(16, 3, 1)]),
            nn.Linear(7, 1),
        )

    def forward(self, fields):
        first = h = self.fields(fields)
        found = []
        for conv in self.convs:
            products = first.unsqueeze(2) * h.unsqueeze(1)
            h = F.relu(conv(products.view(len(first), -1, 3)))
            found.append(h)
        return self.head(torch.cat(found, dim=1).sum(2))


class Rows(nn.Module):
    """A number for each, times a vector of its own, plus one, for every column, and a token in front."""

    def __init__(self, width, columns):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(columns, width)), nn.Parameter(torch.randn(columns, width))
        self.token = nn.Parameter(torch.randn(width))

    def forward(self, x):
        h = self.weight[None] * x[:, :, None] + self.bias[None]
        return torch.cat([self.token.view(1, 1, -1).expand(len(x), 1, -1), h], dim=1)


@MODELS("FT-Transformer", MIXED)
class FTTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.numbers, self.fields = Rows(8, 3), Fields(8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
        self.net = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, numbers, fields):
        return self.head(self.net(torch.cat([self.numbers(numbers), self.fields(fields)], 1))[:, 0])


@MODELS("TabTransformer", MIXED)
class TabTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fields, self.own = Fields(6), nn.Parameter(torch.randn(4, 2))
        self.net = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.norm, self.head = nn.LayerNorm(3), mlp(35, 8, 1)

    def forward(self, numbers, fields):
        own = self.own.unsqueeze(0).expand(len(fields), -1, -1)
        h = self.net(torch.cat([self.fields(fields), own], -1))
        return self.head(torch.cat([h.flatten(1), self.norm(numbers)], -1))


@MODELS("SAINT without attention between rows: gated columns", ROW)
class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.mix = Rows(4, 6), nn.Linear(7, 7)
        self.head = nn.Linear(28, 2)

    def forward(self, x):
        h = self.rows(x)
        return self.head((h * self.mix(h.transpose(1, 2)).transpose(1, 2).sigmoid()).flatten(1))


@MODELS("oblivious trees, as NODE", ROW)
class Trees(nn.Module):
    """Soft choices of columns and thresholds; the answers of all leaves weighed by the ways to them."""

    def __init__(self, trees=3, depth=2):
        super().__init__()
        self.choice = nn.Parameter(torch.randn(6, trees, depth))
        self.threshold, self.log_scale = (
            nn.Parameter(torch.zeros(trees, depth)),
            nn.Parameter(torch.zeros(trees, depth)),
        )
        self.answers = nn.Parameter(torch.randn(trees, 2, 2**depth))
        bits = torch.stack([(torch.arange(2**depth) >> d) & 1 for d in range(depth)])
        self.register_buffer("codes", torch.stack([bits, 1 - bits], -1).double())

    def forward(self, x):
        chosen = torch.einsum("bi,itd->btd", x, self.choice.softmax(0))
        logits = (chosen - self.threshold) * torch.exp(-self.log_scale)
        bins = torch.clamp(0.5 * torch.stack([-logits, logits], -1) + 0.5, 0, 1)
        ways = torch.einsum("btds,dcs->btdc", bins, self.codes).prod(dim=-2)
        return torch.einsum("btc,toc->bto", ways, self.answers).mean(1)


@MODELS("soft decision tree", ROW)
class SoftTree(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.leaves = nn.Linear(6, 3), nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        right = torch.sigmoid(self.inner(x))
        ways = torch.stack([(1 - right[:, 0]) * (1 - right[:, 1]), (1 - right[:, 0]) * right[:, 1],
                            right[:, 0] * (1 - right[:, 2]), right[:, 0] * right[:, 2]], 1)  # fmt: skip
        return ways @ self.leaves.softmax(-1)


@MODELS("TabNet: masks of columns, step by step", ROW)
class TabNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.attend, self.step = nn.Linear(6, 8), nn.Linear(4, 6), nn.Linear(6, 8)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        a, prior, total = self.first(x)[:, 4:], torch.ones_like(x), 0.0
        for _ in range(2):
            mask = F.softmax(self.attend(a) * prior, dim=-1)
            prior = torch.mul(1.5 - mask, prior)
            d, a = F.glu(torch.cat([self.step(mask * x), self.step(mask * x).sin()], -1), -1).split(4, -1)
            total = total + F.relu(d)
        return self.head(total)


@MODELS("two towers", several(tokens(3), tokens(4)))
class TwoTowers(nn.Module):
    """Scores of the pair of one example."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(11, 4), nn.Embedding(11, 4)
        self.user, self.item, self.scale = mlp(4, 6, 3), mlp(4, 6, 3), nn.Parameter(torch.ones(()))

    def forward(self, users, items):
        u = F.normalize(self.user(self.users(users).mean(1)), dim=-1)
        v = F.normalize(self.item(self.items(items).mean(1)), dim=-1)
        return (u * v).sum(-1) * self.scale.exp()


@MODELS("matrix factorisation with biases", tokens(2))
class Factors(nn.Module):
    def __init__(self):
        super().__init__()
        self.p, self.q = nn.Embedding(11, 3), nn.Embedding(11, 3)
        self.b, self.c, self.mu = nn.Embedding(11, 1), nn.Embedding(11, 1), nn.Parameter(torch.zeros(1))

    def forward(self, pair):
        user, item = pair[:, 0], pair[:, 1]
        return (self.p(user) * self.q(item)).sum(1) + self.b(user).squeeze(-1) + self.c(item).squeeze(-1) + self.mu


@MODELS("neural collaborative filtering with raw tables", tokens(2))
class NeuMF(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Parameter(torch.randn(11, 4)), nn.Parameter(torch.randn(11, 4))
        self.net, self.head = mlp(8, 6, 3), nn.Linear(7, 1)

    def forward(self, pair):
        u, v = self.users[pair[:, 0]], self.items[pair[:, 1]]
        return self.head(torch.cat([u * v, self.net(torch.cat([u, v], -1))], -1))


@MODELS("multi-task mixture of experts with gates", ROW)
class MMoE(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts, self.gates = (
            nn.ModuleList(mlp(6, 5) for _ in range(3)),
            nn.ModuleList(nn.Linear(6, 3) for _ in range(2)),
        )
        self.towers = nn.ModuleList(mlp(5, 4, 1) for _ in range(2))

    def forward(self, x):
        found = torch.stack([F.relu(expert(x)) for expert in self.experts], dim=2)
        return [tower(torch.bmm(found, gate(x).softmax(-1).unsqueeze(2)).squeeze(2))
                for gate, tower in zip(self.gates, self.towers, strict=True)]  # fmt: skip


@MODELS("mixture density network", ROW)
class MixtureDensity(nn.Module):
    """The logarithm of a density of several normal laws at a target inside the row."""

    def __init__(self):
        super().__init__()
        self.net, self.weights, self.means, self.scales = mlp(5, 8), nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.net(x[:, 1:]))
        law = torch.distributions.Normal(self.means(h), F.softplus(self.scales(h)) + 0.1)
        return -torch.logsumexp(self.weights(h).log_softmax(-1) + law.log_prob(x[:, :1]), dim=-1)


@MODELS("autoencoder with tied weights", ROW)
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.back = nn.Linear(6, 3), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return F.linear(torch.sigmoid(self.encoder(x)), self.encoder.weight.t(), self.back)


@MODELS("vector quantisation, straight through", ROW)
class Quantised(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.codes, self.decoder = mlp(6, 5, 3), nn.Embedding(7, 3), mlp(3, 5, 6)

    def forward(self, x):
        h = self.encoder(x)
        distances = h.pow(2).sum(1, keepdim=True) + self.codes.weight.pow(2).sum(1) - 2 * h @ self.codes.weight.t()
        code = self.codes(distances.argmin(1))
        loss = (code.detach() - h).pow(2).sum(1) + (code - h.detach()).pow(2).sum(1)
        return self.decoder(h + (code - h).detach()), loss


@MODELS("proportional odds, thresholds by softplus", ROW)
class Ordinal(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.steps = mlp(6, 4, 1), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return torch.sigmoid(torch.cumsum(F.softplus(self.steps), 0) - self.net(x))
