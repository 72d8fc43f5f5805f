"""Convolutional networks."""

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from zoo.entry import Family, values  # noqa: E402

MODELS = Family()
EVAL = {"modes": (False,)}  # batch normalisation


def conv(width, out, size=3, *, stride=1, groups=1, norm="group", act=nn.ReLU, dilation=1):
    """A convolution that keeps the size but for its stride, a normalisation and an activation."""
    layers = [nn.Conv2d(width, out, size, stride, dilation * (size // 2), dilation, groups, bias=not norm)]
    if norm == "group":
        layers.append(nn.GroupNorm(2, out))
    elif norm == "batch":
        layers.append(nn.BatchNorm2d(out))
    if act is not None:
        layers.append(act(inplace=True) if act in (nn.ReLU, nn.Hardswish, nn.ReLU6, nn.SiLU) else act())
    return nn.Sequential(*layers)


class Head(nn.Sequential):
    """The mean over positions and scores of classes."""

    def __init__(self, width, classes=3):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Residual(nn.Module):
    """What a module adds to its input."""

    def __init__(self, *modules, short=None, after=None):
        super().__init__()
        self.body, self.short, self.after = nn.Sequential(*modules), short or nn.Identity(), after or nn.Identity()

    def forward(self, x):
        return self.after(self.body(x) + self.short(x))


def basic_block(width, out, stride=1, norm="group"):
    short = conv(width, out, 1, stride=stride, norm=norm, act=None) if stride > 1 or width != out else None
    return Residual(
        conv(width, out, stride=stride, norm=norm),
        conv(out, out, norm=norm, act=None),
        short=short,
        after=nn.ReLU(True),
    )


def resnet(norm, wide=1):
    return nn.Sequential(
        conv(3, 4, norm=norm),
        basic_block(4, 4 * wide, 1, norm),
        basic_block(4 * wide, 8 * wide, 2, norm),
        Head(8 * wide),
    )


MODELS.add("ResNet with group normalisation", lambda: resnet("group"), values(3, 8, 8))
MODELS.add("ResNet with batch normalisation", lambda: resnet("batch"), values(3, 8, 8), **EVAL)
MODELS.add("WideResNet", lambda: resnet("group", 2), values(3, 8, 8))


@MODELS("bottlenecks with groups, as ResNeXt", values(3, 8, 8))
def resnext():
    block = Residual(conv(8, 4, 1), conv(4, 4, groups=2), conv(4, 8, 1, act=None), after=nn.ReLU())
    return nn.Sequential(conv(3, 8, stride=2), block, Head(8))


class PreActivation(nn.Module):
    """Normalisation and activation in front of each convolution, shared by the branches."""

    def __init__(self, width, out, stride):
        super().__init__()
        self.before, self.short = nn.GroupNorm(2, width), nn.Conv2d(width, out, 1, stride)
        self.first, self.between = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.GroupNorm(2, out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)

    def forward(self, x):
        h = F.relu(self.before(x))
        short = self.short(h)
        h = self.second(F.relu(self.between(self.first(h)), inplace=True))
        h += short
        return h


@MODELS("pre-activation ResNet", values(3, 8, 8))
def preact():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), PreActivation(4, 8, 2), nn.GroupNorm(4, 8), nn.ReLU(), Head(8))


@MODELS("VGG", values(3, 8, 8))
def vgg():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(True), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2, 2),
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2, 2), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(),
        nn.Linear(32, 8), nn.ReLU(True), nn.Dropout(0.0), nn.Linear(8, 3),
    )  # fmt: skip


@MODELS("LeNet", values(1, 12, 12))
def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3),
    )  # fmt: skip


class DenseLayers(nn.Module):
    """Every layer sees all before it."""

    def __init__(self, width, growth, depth):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, width + k * growth), nn.ReLU(), nn.Conv2d(width + k * growth, growth, 3, 1, 1)
            )
            for k in range(depth)
        )

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


@MODELS("DenseNet", values(3, 8, 8))
def densenet():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), DenseLayers(4, 2, 2), nn.GroupNorm(1, 8), nn.ReLU(), nn.Conv2d(8, 4, 1),
        nn.AvgPool2d(2), DenseLayers(4, 2, 2), Head(8),
    )  # fmt: skip


class Inception(nn.Module):
    """Branches with kernels of several sizes, side by side."""

    def __init__(self, width):
        super().__init__()
        self.one, self.three, self.five = conv(width, 2, 1), conv(width, 2), nn.Sequential(conv(width, 2), conv(2, 2))
        self.tall = nn.Sequential(nn.Conv2d(width, 2, (1, 7), padding=(0, 3)), nn.Conv2d(2, 2, (7, 1), padding=(3, 0)))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(width, 2, 1))

    def forward(self, x):
        return torch.cat([part(x) for part in (self.one, self.three, self.five, self.tall, self.pooled)], dim=1)


@MODELS("Inception", values(3, 8, 8))
def inception():
    return nn.Sequential(conv(3, 4), Inception(4), nn.MaxPool2d(2), Inception(10), Head(10))


class Fire(nn.Module):
    def __init__(self, width, squeezed, out):
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, out, 1), nn.Conv2d(squeezed, out, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat([F.relu(self.one(x), inplace=True), F.relu(self.three(x), inplace=True)], 1)


@MODELS("SqueezeNet", values(3, 8, 8))
def squeezenet():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(True), Fire(4, 2, 4), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 2, 4),
        nn.Conv2d(8, 3, 1), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1),
    )  # fmt: skip


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate made of their means."""

    def __init__(self, width, inner, gate=nn.Sigmoid):
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1), gate()

    def forward(self, x):
        return x * self.gate(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)), inplace=True)))


def inverted(width, inner, out, stride, *, act=nn.ReLU6, gate=None, norm="group"):
    parts = [
        conv(width, inner, 1, act=act, norm=norm),
        conv(inner, inner, stride=stride, groups=inner, act=act, norm=norm),
    ]
    if gate is not None:
        parts.append(SqueezeExcite(inner, 2, gate))
    parts.append(conv(inner, out, 1, act=None, norm=norm))
    return Residual(*parts) if stride == 1 and width == out else nn.Sequential(*parts)


@MODELS("MobileNetV1", values(3, 8, 8))
def mobilenet_v1():
    return nn.Sequential(conv(3, 4, stride=2), conv(4, 4, groups=4), conv(4, 8, 1), conv(8, 8, groups=8), Head(8))


@MODELS("MobileNetV2", values(3, 8, 8))
def mobilenet_v2():
    return nn.Sequential(conv(3, 4, stride=2, act=nn.ReLU6), inverted(4, 8, 4, 1), inverted(4, 8, 6, 2), Head(6))


@MODELS("MobileNetV3", values(3, 8, 8))
def mobilenet_v3():
    return nn.Sequential(
        conv(3, 4, stride=2, act=nn.Hardswish),
        inverted(4, 8, 4, 1, act=nn.Hardswish, gate=nn.Hardsigmoid),
        inverted(4, 8, 6, 2, act=nn.ReLU, gate=nn.Hardsigmoid),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.Hardswish(inplace=True), nn.Linear(8, 3),
    )  # fmt: skip


def efficientnet(norm):
    return nn.Sequential(
        conv(3, 4, stride=2, act=nn.SiLU, norm=norm),
        inverted(4, 8, 4, 1, act=nn.SiLU, gate=nn.Sigmoid, norm=norm),
        inverted(4, 8, 6, 2, act=nn.SiLU, gate=nn.Sigmoid, norm=norm),
        Head(6),
    )


MODELS.add("EfficientNet", lambda: efficientnet("group"), values(3, 8, 8))
MODELS.add("EfficientNet with batch normalisation", lambda: efficientnet("batch"), values(3, 8, 8), **EVAL)


class Shuffle(nn.Module):
    """Half of the channels pass by; channels of the halves take turns afterwards."""

    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(conv(half, half, 1), conv(half, half, groups=half, act=None), conv(half, half, 1))

    def forward(self, x):
        kept, changed = x.chunk(2, dim=1)
        x = torch.cat((kept, self.branch(changed)), dim=1)
        batch, width, height, length = x.size()
        return x.view(batch, 2, width // 2, height, length).transpose(1, 2).contiguous().view(batch, -1, height, length)


@MODELS("ShuffleNetV2", values(3, 8, 8))
def shufflenet():
    return nn.Sequential(conv(3, 8, stride=2), Shuffle(8), Shuffle(8), nn.ChannelShuffle(2), conv(8, 8, 1), Head(8))


class ChannelsLastNorm(nn.LayerNorm):
    """Layer normalisation over channels that are in front of positions."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width, v2=False):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = None if v2 else nn.Parameter(torch.full((width,), 0.3))
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, 4 * width)) if v2 else None
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, 4 * width)) if v2 else None

    def forward(self, x):
        h = F.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
        if self.gamma is not None:  # global response normalisation
            size = torch.norm(h, p=2, dim=(1, 2), keepdim=True)
            h = self.gamma * (h * (size / (size.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + h
        h = self.down(h)
        if self.scale is not None:
            h = self.scale * h
        return x + h.permute(0, 3, 1, 2)


def convnext(v2):
    return nn.Sequential(
        nn.Conv2d(3, 4, 2, 2), ChannelsLastNorm(4), ConvNeXtBlock(4, v2), ChannelsLastNorm(4), nn.Conv2d(4, 6, 2, 2),
        ConvNeXtBlock(6, v2), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.LayerNorm(6), nn.Linear(6, 3),
    )  # fmt: skip


MODELS.add("ConvNeXt", lambda: convnext(False), values(3, 8, 8))
MODELS.add("ConvNeXtV2", lambda: convnext(True), values(3, 8, 8))


@MODELS("RegNet", values(3, 8, 8))
def regnet():
    body = [conv(4, 8, 1), conv(8, 8, stride=2, groups=4), SqueezeExcite(8, 2), conv(8, 8, 1, act=None)]
    return nn.Sequential(conv(3, 4), Residual(*body, short=conv(4, 8, 1, stride=2, act=None), after=nn.ReLU()), Head(8))


class UNet(nn.Module):
    """Down, up, and the way across."""

    def __init__(self, learned=True):
        super().__init__()
        self.first, self.second, self.bottom = conv(3, 4), conv(4, 6), conv(6, 8)
        self.up_2 = (
            nn.ConvTranspose2d(8, 6, 2, 2)
            if learned
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(8, 6, 1))
        )
        self.up_1 = (
            nn.ConvTranspose2d(6, 4, 2, 2) if learned else nn.Sequential(nn.Upsample(scale_factor=2), conv(6, 4, 1))
        )
        self.join_2, self.join_1, self.out = conv(12, 6), conv(8, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = self.first(x)
        b = self.second(F.max_pool2d(a, 2))
        h = self.bottom(F.max_pool2d(b, 2))
        h = self.join_2(torch.cat([self.up_2(h), b], 1))
        h = self.join_1(torch.cat([self.up_1(h), a], 1))
        return self.out(h)


MODELS.add("U-Net", UNet, values(3, 8, 8))
MODELS.add("U-Net with interpolation", lambda: UNet(False), values(3, 8, 8))


@MODELS("feature pyramid", values(3, 8, 8))
class FeaturePyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([conv(3, 4), conv(4, 6, stride=2), conv(6, 8, stride=2)])
        self.across = nn.ModuleList([nn.Conv2d(w, 4, 1) for w in (4, 6, 8)])
        self.smooth = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)])
        self.head = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        found = []
        for stage in self.down:
            x = stage(x)
            found.append(x)
        levels = [across(h) for across, h in zip(self.across, found, strict=True)]
        for k in (2, 1):
            levels[k - 1] = levels[k - 1] + F.interpolate(levels[k], size=levels[k - 1].shape[-2:], mode="nearest")
        return [self.head(F.relu(smooth(h))) for smooth, h in zip(self.smooth, levels, strict=True)]


class StandardisedConv(nn.Conv2d):
    """A convolution whose kernels have mean zero and variance one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        scale = torch.rsqrt(torch.clamp(var * self.weight[0].numel(), min=1e-4)) * self.gain
        return F.conv2d(
            x, self.weight * scale - mean * scale, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


@MODELS("NFNet: standardised weights, no normalisation", values(3, 8, 8))
class NFNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = StandardisedConv(3, 4, 3, padding=1)
        self.first, self.second = StandardisedConv(4, 4, 3, padding=1, groups=2), StandardisedConv(4, 4, 3, padding=1)
        self.gain, self.excite, self.head = nn.Parameter(torch.zeros(())), SqueezeExcite(4, 2), Head(4)

    def forward(self, x):
        x = self.stem(x)
        h = F.gelu(x) * 1.7015
        h = self.second(F.gelu(self.first(h)) * 1.7015)
        return self.head(x + 0.2 * self.gain * 2 * self.excite(h))


@MODELS("dilated convolutions at several rates, as DeepLab", values(3, 8, 8))
class Atrous(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 4)
        self.rates = nn.ModuleList([conv(4, 4, 1), conv(4, 4, dilation=2), conv(4, 4, dilation=3)])
        self.pooled, self.join = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.ReLU()), conv(16, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        wide = F.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.join(torch.cat([*(rate(x) for rate in self.rates), wide], 1))


@MODELS("super-resolution by pixel shuffle", values(2, 4, 4))
def pixel_shuffle():
    return nn.Sequential(nn.Conv2d(2, 4, 5, padding=2), nn.Tanh(), nn.Conv2d(4, 8, 3, padding=1), nn.PixelShuffle(2))


@MODELS("convolutional autoencoder", values(2, 8, 8))
def autoencoder():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(True), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(True), nn.Flatten(),
        nn.Linear(24, 5), nn.Linear(5, 24), nn.Unflatten(1, (6, 2, 2)),
        nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.ReLU(True), nn.ConvTranspose2d(4, 2, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


@MODELS("variational autoencoder", lambda batch: (torch.randn(batch, 7).double(), torch.randn(batch, 3).double()))
class VAE(nn.Module):
    """The noise is an input, so that a batch and its examples see the same."""

    def __init__(self):
        super().__init__()
        self.encoder, self.both = nn.Sequential(nn.Linear(7, 8), nn.ReLU()), nn.Linear(8, 6)
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 7))

    def forward(self, x, noise):
        mean, log_var = self.both(self.encoder(x)).chunk(2, dim=-1)
        code = mean + torch.exp(0.5 * log_var) * noise
        divergence = -0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum(1)
        return F.mse_loss(self.decoder(code), x, reduction="none").sum(1) + divergence


class MaskedConv(nn.Conv2d):
    """A convolution that sees only what comes before."""

    def __init__(self, width, out, size, *, itself):
        super().__init__(width, out, size, padding=size // 2)
        mask = torch.ones(size, size)
        mask[size // 2, size // 2 + itself :] = 0
        mask[size // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        return self._conv_forward(x, self.weight * self.mask, self.bias)


@MODELS("PixelCNN", values(1, 6, 6))
def pixelcnn():
    return nn.Sequential(
        MaskedConv(1, 4, 5, itself=False), nn.ReLU(), Residual(MaskedConv(4, 4, 3, itself=True), nn.ReLU()),
        nn.Conv2d(4, 3, 1),
    )  # fmt: skip


@MODELS("three-dimensional convolutions", values(2, 4, 6, 6))
def video():
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(True), nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0)), nn.InstanceNorm3d(4, affine=True), nn.ReLU(True),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


class PerFrame(nn.Module):
    """A network for images on every frame, the frames in front or behind the examples; then along time."""

    def __init__(self, frames, then, *, time_first=False):
        super().__init__()
        self.frames, self.then, self.time_first = frames, then, time_first

    def forward(self, x):
        if self.time_first:
            x = x.transpose(0, 1)
        shape = x.shape[:2]
        h = self.frames(x.reshape(-1, *x.shape[2:]))
        h = h.view(*shape, -1)
        h = h.transpose(0, 1) if self.time_first else h
        return self.then(h.transpose(1, 2)).flatten(1)


def frames(norm):
    return nn.Sequential(conv(2, 4, stride=2, norm=norm), conv(4, 4, groups=2, norm=norm), nn.AdaptiveAvgPool2d(1))


for _first in (False, True):
    _where = "in front of examples" if _first else "behind examples"
    MODELS.add(
        f"time-distributed convolutions, frames {_where}",
        lambda first=_first: PerFrame(frames("group"), nn.Conv1d(4, 3, 3, padding=1), time_first=first),
        values(3, 2, 6, 6),
    )
    MODELS.add(
        f"time-distributed convolutions with batch normalisation, frames {_where}",
        lambda first=_first: PerFrame(frames("batch"), nn.Conv1d(4, 3, 3, padding=1), time_first=first),
        values(3, 2, 6, 6), **EVAL,
    )  # fmt: skip


@MODELS("time-distributed volumes", values(2, 2, 4, 4, 4))
def volumes():
    layers = nn.Sequential(
        nn.Conv3d(2, 4, 3, stride=(2, 1, 2), padding=1), nn.InstanceNorm3d(4, affine=True), nn.ReLU(),
        nn.Conv3d(4, 4, 3, dilation=(1, 2, 1), padding="same", groups=2), nn.AdaptiveAvgPool3d(1),
    )  # fmt: skip
    return PerFrame(layers, nn.Conv1d(4, 3, 1))


@MODELS("ConvLSTM", values(3, 2, 5, 5))
class ConvLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates, self.out = nn.Conv2d(2 + 3, 12, 3, padding=1), Head(3)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 3, *x.shape[3:])
        c = torch.zeros_like(h)
        for t in range(x.shape[1]):
            i, f, o, g = torch.split(self.gates(torch.cat([x[:, t], h], dim=1)), 3, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


@MODELS("spatial transformer", values(1, 6, 6))
class SpatialTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.where = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 6))
        self.net = nn.Sequential(conv(1, 4), Head(4))

    def forward(self, x):
        theta = 0.1 * self.where(x).view(-1, 2, 3) + torch.eye(2, 3, dtype=x.dtype)
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        return self.net(F.grid_sample(x, grid, align_corners=False))


@MODELS("patches by unfold and fold", values(2, 6, 6))
class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(18, 18), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        columns = F.unfold(x, 3, padding=1)
        columns = torch.tanh(self.inner(columns.transpose(1, 2))).transpose(1, 2)
        return self.out(F.fold(columns, x.shape[-2:], 3, padding=1))
