"""Sets, points, graphs, and functions of places."""

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from zoo.entry import Family, several, values  # noqa: E402
from zoo.tabular import mlp  # noqa: E402

MODELS = Family()
SET = values(5, 4)


def graphs(nodes=5, width=4):
    """Nodes and a dense symmetric adjacency with loops."""

    def make(batch):
        links = (torch.rand(batch, nodes, nodes) < 0.4).double()
        return torch.randn(batch, nodes, width).double(), ((links + links.mT) > 0).double() + torch.eye(nodes).double()

    return make


@MODELS("DeepSets", SET)
class DeepSets(nn.Module):
    def __init__(self):
        super().__init__()
        self.each, self.all = mlp(4, 6, 5), mlp(5, 6, 2)

    def forward(self, x):
        return self.all(self.each(x).sum(dim=1))


@MODELS("equivariant layers with means and maxima", SET)
class Equivariant(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.common, self.head = nn.Linear(4, 5), nn.Linear(4, 5, bias=False), nn.Linear(5, 2)

    def forward(self, x):
        h = torch.tanh(self.own(x) - self.common(x.max(dim=1, keepdim=True)[0]))
        return self.head(h.mean(dim=-2))


class MAB(nn.Module):
    """Attention of a set to another, heads put side by side along the batch."""

    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x, y):
        q, k, v = self.q(x), self.k(y), self.v(y)
        heads = [torch.cat(t.split(2, 2), 0) for t in (q, k, v)]
        weights = torch.softmax(heads[0].bmm(heads[1].transpose(1, 2)) / 2, 2)
        h = self.norm_1(torch.cat((heads[0] + weights.bmm(heads[2])).split(q.size(0), 0), 2))
        return self.norm_2(h + F.relu(self.out(h)))


@MODELS("Set Transformer: inducing points, pooling by attention", SET)
class SetTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.points, self.seed = nn.Parameter(torch.randn(1, 3, 4)), nn.Parameter(torch.randn(1, 1, 4))
        self.first, self.second, self.pool, self.head = MAB(4), MAB(4), MAB(4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.second(x, self.first(self.points.repeat(x.size(0), 1, 1), x))
        return self.head(self.pool(self.seed.repeat(x.size(0), 1, 1), h)).squeeze(1)


@MODELS("self-attention between elements of a set", SET)
class SelfSet(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = MAB(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(x, x).amax(1))


class PointTransform(nn.Module):
    """A matrix for the points of each cloud, from all of them."""

    def __init__(self, width):
        super().__init__()
        self.each, self.all, self.width = nn.Conv1d(width, 5, 1), nn.Linear(5, width * width), width

    def forward(self, x):
        h = torch.max(F.relu(self.each(x)), 2, keepdim=True)[0].view(-1, 5)
        return self.all(h).view(-1, self.width, self.width) + torch.eye(self.width, dtype=x.dtype)


@MODELS("PointNet", values(3, 6))
class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.turn, self.first, self.norm = PointTransform(3), nn.Conv1d(3, 4, 1), nn.GroupNorm(2, 4)
        self.second, self.head = nn.Conv1d(4, 6, 1), mlp(6, 4, 2)

    def forward(self, x):
        x = torch.bmm(x.transpose(2, 1), self.turn(x)).transpose(2, 1)
        h = self.second(F.relu(self.norm(self.first(x))))
        return self.head(h.max(2)[0])


@MODELS("edge convolutions on nearest neighbours", values(3, 6))
class EdgeConv(nn.Module):
    """Neighbours are looked up among the points of all clouds at once, by places that count from each cloud's first."""

    def __init__(self, *, flat=False):
        super().__init__()
        self.conv, self.norm, self.head, self.flat = (
            nn.Conv2d(6, 5, 1, bias=False),
            nn.GroupNorm(1, 5),
            nn.Linear(5, 2),
            flat,
        )

    def forward(self, x):
        b, d, n = x.shape
        near = -torch.cdist(x.mT, x.mT)
        index = near.topk(3, dim=-1)[1]
        if self.flat:
            index = (index + torch.arange(b).view(-1, 1, 1) * n).view(-1)
            found = x.transpose(2, 1).reshape(b * n, -1)[index].view(b, n, 3, d)
        else:
            found = torch.gather(x.mT.unsqueeze(1).expand(-1, n, -1, -1), 2, index.unsqueeze(-1).expand(-1, -1, -1, d))
        own = x.mT.unsqueeze(2).expand(-1, -1, 3, -1)
        h = self.norm(self.conv(torch.cat((found - own, own), dim=3).permute(0, 3, 1, 2)))
        return self.head(F.leaky_relu(h, 0.2).max(dim=-1)[0].mean(-1))


MODELS.add(
    "edge convolutions, neighbours looked up among all clouds", lambda: EdgeConv(flat=True), values(3, 6),
)  # fmt: skip


class GCNLayer(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(width, out)), nn.Parameter(torch.zeros(out))

    def forward(self, x, links):
        scale = links.sum(-1).pow(-0.5)
        return torch.bmm(scale.unsqueeze(-1) * links * scale.unsqueeze(-2), torch.matmul(x, self.weight)) + self.bias


@MODELS("graph convolutions", graphs())
class GCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = GCNLayer(4, 6), GCNLayer(6, 5), nn.Linear(5, 2)

    def forward(self, x, links):
        return self.head(self.second(F.relu(self.first(x, links)), links).mean(1))


@MODELS("graph attention", graphs())
class GAT(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.left, self.right = (
            nn.Linear(4, 6, bias=False),
            nn.Parameter(torch.randn(2, 3)),
            nn.Parameter(torch.randn(2, 3)),
        )
        self.head = nn.Linear(6, 2)

    def forward(self, x, links):
        h = self.into(x).unflatten(-1, (2, 3))
        scores = (h * self.left).sum(-1)[:, :, None] + (h * self.right).sum(-1)[:, None]
        scores = F.leaky_relu(scores, 0.2).masked_fill(links[..., None] == 0, -1e9)
        h = torch.einsum("bijh,bjhd->bihd", scores.softmax(2), h)
        return self.head(F.elu(h.flatten(2)).sum(1))


@MODELS("GIN: sums over neighbours, a learned weight for oneself", graphs())
class GIN(nn.Module):
    def __init__(self):
        super().__init__()
        self.epsilon, self.net, self.head = (
            nn.Parameter(torch.zeros(1)),
            mlp(4, 6, 4, norm=nn.LayerNorm),
            nn.Linear(4, 2),
        )

    def forward(self, x, links):
        for _ in range(2):
            x = self.net((1 + self.epsilon) * x + links @ x)
        return self.head(x.sum(1))


@MODELS("GraphSAGE", graphs())
class SAGE(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.near, self.head = nn.Linear(4, 5), nn.Linear(4, 5, bias=False), nn.Linear(5, 2)

    def forward(self, x, links):
        mean = links @ x / links.sum(-1, keepdim=True)
        return self.head(F.normalize(F.relu(self.own(x) + self.near(mean)), p=2.0, dim=-1).amax(1))


@MODELS("message passing along edges with a gated update", graphs())
class MessagePassing(nn.Module):
    """Nodes of all graphs are rows for the cell that updates them."""

    def __init__(self):
        super().__init__()
        self.message, self.update, self.gate, self.head = (
            mlp(8, 6, 4),
            nn.GRUCell(4, 4),
            nn.Linear(8, 3),
            nn.Linear(4, 3),
        )

    def forward(self, x, links):
        h, (b, n, d) = x, x.shape
        for _ in range(2):
            pairs = torch.cat([h.unsqueeze(2).expand(b, n, n, d), h.unsqueeze(1).expand(b, n, n, d)], -1)
            messages = (self.message(pairs) * links.unsqueeze(-1)).sum(2)
            h = self.update(messages.view(b * n, d), h.reshape(b * n, d)).view(b, n, d)
        return (torch.sigmoid(self.gate(torch.cat([h, x], -1))) * self.head(h)).sum(1)


@MODELS("equivariant graph network: distances and places", several(values(5, 3), values(5, 4)))
class EGNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.edge, self.place, self.node, self.head = (
            mlp(9, 6, 5, act=nn.SiLU),
            mlp(5, 4, 1),
            mlp(9, 6, 4),
            nn.Linear(4, 2),
        )

    def forward(self, at, h):
        apart = at.unsqueeze(2) - at.unsqueeze(1)
        far = apart.square().sum(-1, keepdim=True)
        n = h.shape[1]
        m = self.edge(torch.cat([h.unsqueeze(2).expand(-1, -1, n, -1), h.unsqueeze(1).expand(-1, n, -1, -1), far], -1))
        at = at + (apart * self.place(m)).mean(2)
        return self.head(h + self.node(torch.cat([h, m.sum(2)], -1))), at


@MODELS("graph transformer with degrees and distances", graphs(5, 8))
class Graphormer(nn.Module):
    def __init__(self):
        super().__init__()
        self.degree, self.far = nn.Embedding(12, 8), nn.Embedding(4, 2)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x, links):
        x = x + self.degree(links.sum(-1).long())
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4)
        bias = self.far(links.long()).permute(0, 3, 1, 2)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


@MODELS("relation network", SET)
class Relations(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair, self.all = mlp(8, 6, 5), mlp(5, 2)

    def forward(self, x):
        b, n, d = x.shape
        left = x.unsqueeze(1).repeat(1, n, 1, 1)
        right = x.unsqueeze(2).repeat(1, 1, n, 1)
        pairs = self.pair(torch.cat([left, right], 3).view(b * n * n, 2 * d))
        return self.all(pairs.view(b, n * n, -1).sum(1))


@MODELS("SIREN", values(6, 2))
class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.head = nn.ModuleList([nn.Linear(2, 6), nn.Linear(6, 6)]), nn.Linear(6, 3)

    def forward(self, places):
        for layer in self.layers:
            places = torch.sin(3.0 * layer(places))
        return self.head(places)


@MODELS("random Fourier features", values(6, 2))
class Fourier(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("b", torch.randn(4, 2))
        self.net = mlp(8, 6, 3)

    def forward(self, places):
        turned = 2 * torch.pi * places @ self.b.t()
        return self.net(torch.cat([torch.sin(turned), torch.cos(turned)], dim=-1))


@MODELS("NeRF: points along rays, colours added up", several(values(3), values(3)))
class NeRF(nn.Module):
    """Points of all rays are rows for the network; what they show is added up along each ray."""

    def __init__(self):
        super().__init__()
        self.body, self.density, self.colour = mlp(15, 8, 8), nn.Linear(8, 1), mlp(11, 6, 3)

    def forward(self, origin, direction):
        depth = torch.linspace(0.1, 1.0, 4, dtype=origin.dtype)
        points = origin[:, None] + direction[:, None] * depth[:, None]
        flat = points.reshape(-1, 3)
        waves = torch.cat([flat, *(f(flat * 2.0**k) for k in range(2) for f in (torch.sin, torch.cos))], -1)
        h = F.relu(self.body(waves))
        density = F.softplus(self.density(h)).view(-1, 4)
        colour = torch.sigmoid(self.colour(torch.cat([h, direction[:, None].expand_as(points).reshape(-1, 3)], -1)))
        alpha = 1 - torch.exp(-density * 0.3)
        clear = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], -1), -1)[:, :-1]
        return ((alpha * clear).unsqueeze(-1) * colour.view(-1, 4, 3)).sum(1)


@MODELS("neural ODE, Euler steps", values(4))
class EulerODE(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        for t in torch.linspace(0, 1, 4, dtype=x.dtype):
            x = x + 0.25 * self.second(torch.tanh(self.first(torch.cat([x, t.expand(x.shape[0], 1)], 1))))
        return self.head(x)


@MODELS("neural ODE, Runge-Kutta steps", values(4))
class RungeKutta(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = mlp(4, 6, 4, act=nn.Tanh)

    def forward(self, x):
        for _ in range(2):
            a = self.f(x)
            b = self.f(x + 0.25 * a)
            c = self.f(torch.add(x, b, alpha=0.25))
            x = x + (a + 2 * b + 2 * c + self.f(x + 0.5 * c)) / 12
        return x


@MODELS("normalising flow of affine couplings", values(4))
class Couplings(nn.Module):
    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(mlp(2, 6, 4, act=nn.Tanh) for _ in range(2))

    def forward(self, x):
        log_det = 0.0
        for net in self.nets:
            kept, moved = x.chunk(2, dim=-1)
            scale, shift = net(kept).chunk(2, dim=-1)
            moved = moved * torch.exp(torch.tanh(scale)) + shift
            log_det = log_det + torch.tanh(scale).sum(-1)
            x = torch.cat([moved, kept], dim=-1)
        return -0.5 * x.square().sum(-1) + log_det


@MODELS("masked autoregressive flow", values(4))
class Autoregressive(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 8)
        degrees = torch.arange(6) % 3
        self.register_buffer("into", (degrees[:, None] >= torch.arange(4)[None]).double())
        self.register_buffer("out", (torch.arange(4).repeat(2)[:, None] > degrees[None]).double())

    def forward(self, x):
        h = torch.tanh(F.linear(x, self.first.weight * self.into, self.first.bias))
        mean, log_scale = F.linear(h, self.second.weight * self.out, self.second.bias).chunk(2, -1)
        return ((x - mean) * torch.exp(-log_scale)).square().sum(-1) / 2 + log_scale.sum(-1)


@MODELS(
    "diffusion: noise predicted at a step of each", several(values(4), values(4), lambda b: (torch.randint(5, (b,)),))
)
class Diffusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.time, self.net = nn.Sequential(nn.Linear(4, 6), nn.SiLU()), mlp(10, 8, 4, act=nn.SiLU)
        self.register_buffer("kept", torch.linspace(0.9, 0.1, 5).double())

    def forward(self, x, noise, step):
        kept = self.kept[step][:, None]
        noisy = kept.sqrt() * x + (1 - kept).sqrt() * noise
        angles = step[:, None].to(x.dtype) * 10.0 ** -torch.arange(2, dtype=x.dtype)
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        return F.mse_loss(self.net(torch.cat([noisy, time], -1)), noise, reduction="none").mean(1)
