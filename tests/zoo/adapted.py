"""Networks whose weights are made of others, shared, adapted or generated; several views of one example."""

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

from zoo.entry import Family, several, values  # noqa: E402
from zoo.tabular import mlp  # noqa: E402
from zoo.vision import Head, conv  # noqa: E402

MODELS = Family()
ROW = values(6)
PAIR = several(ROW, ROW)


class LoRA(nn.Module):
    """A frozen layer and a product of two narrow matrices beside it."""

    def __init__(self, layer, rank=2, *, merged=False):
        super().__init__()
        self.layer, self.merged = layer.requires_grad_(False), merged
        self.a, self.b = (
            nn.Parameter(torch.randn(rank, layer.in_features)),
            nn.Parameter(torch.randn(layer.out_features, rank)),
        )

    def forward(self, x):
        if self.merged:
            return F.linear(x, self.layer.weight + 0.5 * self.b @ self.a, self.layer.bias)
        return self.layer(x) + 0.5 * (x @ self.a.T @ self.b.T)


MODELS.add("LoRA", lambda: nn.Sequential(LoRA(nn.Linear(6, 8)), nn.ReLU(), LoRA(nn.Linear(8, 3))), values(4, 6))
MODELS.add(
    "LoRA, merged into the weights",
    lambda: nn.Sequential(LoRA(nn.Linear(6, 8), merged=True), nn.ReLU(), LoRA(nn.Linear(8, 3), merged=True)),
    values(4, 6),
)


@MODELS("DoRA: directions adapted, lengths learned", values(4, 6))
class DoRA(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 5).requires_grad_(False)
        self.a, self.b, self.size = (
            nn.Parameter(torch.randn(2, 6)),
            nn.Parameter(torch.randn(5, 2)),
            nn.Parameter(torch.ones(5, 1)),
        )

    def forward(self, x):
        weight = self.layer.weight + self.b @ self.a
        return F.linear(x, self.size * weight / weight.norm(dim=1, keepdim=True).detach(), self.layer.bias)


@MODELS("IA3: activations scaled", values(4, 6))
class IA3(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8).requires_grad_(False), nn.Linear(8, 3).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(1, 8))

    def forward(self, x):
        return self.second(F.gelu(self.first(x)) * self.scale)


@MODELS("adapters in a frozen network", values(4, 6))
class Adapters(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.norm = mlp(6, 8, 6).requires_grad_(False), nn.LayerNorm(6)
        self.down, self.up = nn.Linear(6, 2), nn.Linear(2, 6)

    def forward(self, x):
        h = self.body(x)
        return self.norm(x + h + self.up(F.gelu(self.down(h))))


@MODELS("biases alone, as BitFit", values(4, 6))
def bitfit():
    net = mlp(6, 8, 8, 3)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return net


@MODELS("a learned prompt in front", values(4, 6))
class Prompted(nn.Module):
    def __init__(self):
        super().__init__()
        self.prompt, self.qkv, self.head = (
            nn.Parameter(torch.randn(2, 6)),
            nn.Linear(6, 18).requires_grad_(False),
            nn.Linear(6, 2),
        )

    def forward(self, x):
        h = torch.cat([self.prompt.unsqueeze(0).repeat(x.size(0), 1, 1), x], 1)
        q, k, v = self.qkv(h).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v)[:, -1])


def weight_normed():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 8)),
        nn.ReLU(),
        parametrizations.weight_norm(nn.Linear(8, 3), dim=None),
    )


MODELS.add("weight normalisation", weight_normed, values(4, 6))
MODELS.add(
    "spectral normalisation", lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 8)), nn.ReLU(),
                                                    parametrizations.spectral_norm(nn.Linear(8, 3))),
    values(4, 6), modes=(False,),
)  # fmt: skip


class Softened(nn.Module):
    def forward(self, weight):
        return F.softplus(weight)


@MODELS("weights made positive by a parametrisation", ROW)
def monotone():
    net = mlp(6, 5, 1, act=nn.Tanh)
    parametrize.register_parametrization(net[0], "weight", Softened())
    parametrize.register_parametrization(net[2], "weight", Softened())
    return net


@MODELS("weights of several numbers, as a Kronecker product", ROW)
class Kronecker(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(2, 2))

    def forward(self, x):
        return torch.tanh(F.linear(x, torch.kron(self.a, self.b)))


@MODELS("block-diagonal and butterfly weights", ROW)
class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(2, 3, 3)), nn.Parameter(torch.randn(3, 2, 2))

    def forward(self, x):
        h = torch.einsum("bgi,gij->bgj", x.view(-1, 2, 3), self.first)
        h = F.relu(h).transpose(1, 2)
        return torch.einsum("bgi,gij->bgj", h, self.second).flatten(1)


@MODELS("circulant weights by Fourier transforms", ROW)
class Circulant(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6)), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return torch.tanh(torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(self.weight), n=6) + self.bias)


@MODELS("hypernetwork: weights from each example's context", several(ROW, values(3)))
class Hyper(nn.Module):
    def __init__(self):
        super().__init__()
        self.make, self.head = mlp(3, 5, 6 * 4 + 4), nn.Linear(4, 2)

    def forward(self, x, context):
        made = self.make(context)
        weight, bias = made[:, :24].view(-1, 4, 6), made[:, 24:]
        return self.head(F.relu(torch.bmm(weight, x.unsqueeze(-1)).squeeze(-1) + bias))


@MODELS("hypernetwork: weights from learned codes", ROW)
class HyperCodes(nn.Module):
    """The weights are made of parameters alone, by products."""

    def __init__(self):
        super().__init__()
        self.codes, self.make, self.bias = (
            nn.Parameter(torch.randn(4, 3)),
            nn.Parameter(torch.randn(3, 6)),
            nn.Parameter(torch.zeros(4)),
        )

    def forward(self, x):
        return F.linear(x, torch.tanh(self.codes @ self.make), self.bias).sin()


@MODELS("modulated features, as FiLM", several(values(3, 6, 6), values(4)))
class FiLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.modulate, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 8), Head(4)

    def forward(self, x, condition):
        scale, shift = self.modulate(condition)[..., None, None].chunk(2, 1)
        return self.head(F.relu((1 + scale) * self.conv(x) + shift))


@MODELS("adaptive instance normalisation", several(values(3, 6, 6), values(4)))
class AdaIN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.style, self.head = nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Linear(4, 8), Head(4)

    def forward(self, x, style):
        scale, shift = self.style(style).unflatten(1, (2, 4, 1, 1)).unbind(1)
        return self.head(F.leaky_relu(self.norm(self.conv(x)) * scale + shift))


@MODELS("modulated convolution with groups for examples", several(values(2, 5, 5), values(3)))
class Modulated(nn.Module):
    """Kernels of every example, run at once as groups of one image."""

    def __init__(self):
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(1, 3, 2, 3, 3)), nn.Linear(3, 2)

    def forward(self, x, style):
        b, c, h, w = x.shape
        weight = self.weight * self.style(style).view(b, 1, c, 1, 1)
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8).view(b, 3, 1, 1, 1)
        out = F.conv2d(x.reshape(1, b * c, h, w), weight.view(b * 3, c, 3, 3), padding=1, groups=b)
        return out.view(b, 3, h, w)


@MODELS("dynamic convolution: kernels mixed by each example", values(3, 6, 6))
class CondConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts, self.route = nn.Parameter(torch.randn(3, 4, 3, 3, 3)), nn.Linear(3, 3)

    def forward(self, x):
        b = x.shape[0]
        weights = self.route(x.mean((2, 3))).softmax(-1)
        kernel = torch.einsum("be,eoikl->boikl", weights, self.experts).reshape(b * 4, 3, 3, 3)
        return F.conv2d(x.view(1, b * 3, 6, 6), kernel, padding=1, groups=b).view(b, 4, 6, 6)


@MODELS(
    "siamese tracker: an image compared with a patch, channel by channel", several(values(3, 6, 6), values(3, 3, 3))
)
class Tracked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, image, patch):
        a, b = self.conv(image), self.conv(patch)
        batch, width = a.shape[:2]
        found = F.conv2d(a.reshape(1, -1, *a.shape[2:]), b.reshape(-1, 1, *b.shape[2:]), groups=batch * width)
        return self.head(found.view(batch, width, -1).amax(-1))


@MODELS("siamese network, a call for each view", PAIR)
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.head = mlp(6, 8, 4), nn.Linear(4, 1)

    def forward(self, x, y):
        return self.head((self.net(x) - self.net(y)).abs())


@MODELS("siamese network, views put together along the batch", PAIR)
class Together(nn.Module):
    """Normalised scores of the two halves, which come apart again."""

    def __init__(self):
        super().__init__()
        self.net, self.scale = mlp(6, 8, 4), nn.Parameter(torch.zeros(1))

    def forward(self, x, y):
        u, v = F.normalize(self.net(torch.cat([x, y], dim=0)), dim=1).chunk(2, dim=0)
        return F.cosine_similarity(u, v) * self.scale.exp() + (u * v.detach()).sum(1)


@MODELS("triplet loss within an example", several(ROW, ROW, ROW))
class Triplet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp(6, 8, 4)

    def forward(self, anchor, near, far):
        parts = [self.net(t) for t in (anchor, near, far)]
        return F.triplet_margin_loss(*parts, margin=5.0, reduction="none") + F.pairwise_distance(parts[0], parts[1])


@MODELS("contrast between views of one example", values(4, 6))
class Contrast(nn.Module):
    """Four views of each example are merged with the batch; the scores are between views of the same."""

    def __init__(self):
        super().__init__()
        self.net = mlp(6, 8, 4, norm=nn.LayerNorm)

    def forward(self, x):
        b, views = x.shape[:2]
        h = F.normalize(self.net(x.flatten(0, 1)), dim=-1).view(b, views, -1)
        scores = torch.einsum("bvd,bwd->bvw", h, h) / 0.5
        targets = torch.arange(views).roll(1).expand(b, -1)
        return F.cross_entropy(scores.transpose(1, 2), targets, reduction="none").sum(1)


@MODELS("image and text, each in its tower", several(values(3, 6, 6), values(5, 4)))
class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Sequential(conv(3, 4, stride=2), Head(4, 5)), nn.GRU(4, 5, batch_first=True)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, image, text):
        a, b = F.normalize(self.image(image), dim=-1), F.normalize(self.text(text)[1][-1], dim=-1)
        return F.softplus(-self.scale.exp() * (a * b).sum(-1))


@MODELS("teacher without gradients and a student", ROW)
class Distilled(nn.Module):
    def __init__(self):
        super().__init__()
        self.teacher, self.student = mlp(6, 8, 3).requires_grad_(False), mlp(6, 4, 3)

    def forward(self, x):
        with torch.no_grad():
            target = self.teacher(x).softmax(-1)
        return F.kl_div(self.student(x).log_softmax(-1), target, reduction="none").sum(-1)


@MODELS("exits on the way", ROW)
class Exits(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.heads = (
            nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8)]),
            nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)]),
        )

    def forward(self, x):
        found = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = F.relu(layer(x))
            found.append(head(x))
        return {"exits": found, "mean": torch.stack(found).mean(0)}


@MODELS("attention with learned temperature and keys of a dictionary", ROW)
class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.keys, self.values, self.log_t = (
            nn.Parameter(torch.randn(5, 6)),
            nn.Parameter(torch.randn(5, 3)),
            nn.Parameter(torch.zeros(())),
        )

    def forward(self, x):
        return torch.softmax(x @ self.keys.t() / self.log_t.exp(), -1) @ self.values


@MODELS("radial basis functions", ROW)
class Radial(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres, self.log_width, self.head = (
            nn.Parameter(torch.randn(4, 6)),
            nn.Parameter(torch.zeros(4)),
            nn.Linear(4, 2),
        )

    def forward(self, x):
        far = (x.unsqueeze(1) - self.centres).square().sum(-1)
        return self.head(torch.exp(-far * self.log_width.exp() / 6))


@MODELS("splines on edges, as Kolmogorov-Arnold networks", ROW)
class KAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.splines = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(3, 6, 4))
        self.register_buffer("knots", torch.linspace(-2, 2, 4).double())

    def forward(self, x):
        bumps = torch.exp(-(x.unsqueeze(-1) - self.knots).square())
        return F.linear(F.silu(x), self.base) + torch.einsum("bik,oik->bo", bumps, self.splines)


@MODELS("capsules with routing by agreement", values(4, 3))
class Capsules(nn.Module):
    """Places of routing start as zeros; agreement is not differentiated."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 5, 3))

    def forward(self, x):
        votes = torch.einsum("ncdk,bnk->bncd", self.weight, x)
        logits = torch.zeros(votes.shape[:3], dtype=x.dtype)
        for _ in range(2):
            out = (logits.softmax(-1).unsqueeze(-1) * votes).sum(1)
            size = out.square().sum(-1, keepdim=True)
            out = out * size.sqrt() / (1 + size)
            logits = logits + torch.einsum("bncd,bcd->bnc", votes, out).detach()
        return out.norm(dim=-1)


@MODELS("equilibrium: a fixed number of steps to a fixed point", ROW)
class Equilibrium(nn.Module):
    def __init__(self):
        super().__init__()
        self.state, self.into, self.norm = nn.Linear(5, 5, bias=False), nn.Linear(6, 5), nn.LayerNorm(5)

    def forward(self, x):
        injected, z = self.into(x), torch.zeros(x.shape[0], 5, dtype=x.dtype)
        with torch.no_grad():
            for _ in range(4):
                z = self.norm(torch.tanh(self.state(z) + injected))
        return self.norm(torch.tanh(self.state(z) + injected))


@MODELS("actor and critic", ROW)
class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.policy, self.value, self.log_std = (
            mlp(6, 8),
            nn.Linear(8, 2),
            nn.Linear(8, 1),
            nn.Parameter(torch.zeros(2)),
        )

    def forward(self, x):
        h = torch.tanh(self.body(x))
        law = torch.distributions.Normal(self.policy(h), self.log_std.exp())
        action = x[:, :2]
        return -law.log_prob(action).sum(-1) + (self.value(h).squeeze(-1) - x.sum(-1)).pow(2)


@MODELS("duelling values", ROW)
class Duelling(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.value, self.gain = mlp(6, 8), nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x):
        h = F.relu(self.body(x))
        gain = self.gain(h)
        return self.value(h) + gain - gain.mean(dim=1, keepdim=True)
