"""Small models of the experiments: built from a seed, examples do not interact, ready for `GradNorms`.

All take images of shape (B, channels, height, width) and return logits. GroupNorm by default: batch normalisation mixes
the examples, so that no gradient belongs to one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from expunge._validate import choice, count

__all__ = ["ResNet18", "SmallCNN", "SmallViT", "mlp", "resnet18", "small_cnn", "small_vit"]

Shape = tuple[int, int, int]


def _shape(input_shape: Any) -> Shape:
    if not isinstance(input_shape, (tuple, list, torch.Size)) or len(input_shape) != 3:
        raise ValueError(f"input_shape must be (channels, height, width), got {input_shape!r}")
    channels, height, width = (count("input_shape", size, low=1) for size in input_shape)
    return channels, height, width


def _seeded(build: Callable[[], nn.Module], seed: int) -> Any:
    """Build with every initial weight drawn from ``seed``, the caller's random state left as it was."""
    seed = count("seed", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _norm(kind: str, channels: int, max_groups: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    # At least two channels a group, so that 1 x 1 maps keep something after normalisation.
    groups = max(g for g in range(1, max_groups + 1) if channels % g == 0 and (g == 1 or channels // g >= 2))
    return nn.GroupNorm(groups, channels)


class SmallCNN(nn.Module):
    """3x3 convolutions, each with normalisation, ReLU and 2x2 max pooling, then one linear layer."""

    def __init__(self, input_shape: Shape, n_classes: int, width: int, n_blocks: int, norm: str) -> None:
        super().__init__()
        channels, height, breadth = input_shape
        layers: list[nn.Module] = []
        for block in range(n_blocks):
            out = width * 2**block
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False),
                _norm(norm, out, 4),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels, height, breadth = out, height // 2, breadth // 2
        if height < 1 or breadth < 1:
            raise ValueError(f"input_shape {input_shape} is too small for {n_blocks} halvings")
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * height * breadth, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes)."""
        return self.classifier(self.features(x).flatten(1))


def small_cnn(
    *,
    input_shape: Shape,
    n_classes: int = 10,
    width: int = 16,
    n_blocks: int | None = None,
    norm: str = "group",
    seed: int = 0,
) -> SmallCNN:
    """Return a small convolutional network.

    Parameters
    ----------
    input_shape : (channels, height, width)
        (1, 8, 8) for the digits, (1, 28, 28) for MNIST, (3, 32, 32) for CIFAR.
    n_classes : int, default 10
    width : int, default 16
        Channels of the first convolution; each later one has twice as many.
    n_blocks : int, optional
        Convolutions: 2, or 3 for images of 32 pixels and more.
    norm : {"group", "batch"}
    seed : int
        Of the initial weights.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or the image too small.

    Examples
    --------
    >>> model = small_cnn(input_shape=(1, 8, 8), width=4)
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    shape = _shape(input_shape)
    n_blocks = count("n_blocks", (3 if min(shape[1:]) >= 32 else 2) if n_blocks is None else n_blocks, low=1)
    n_classes, width = count("n_classes", n_classes, low=2), count("width", width, low=1)
    norm = choice("norm", norm, ("group", "batch"))
    model: SmallCNN = _seeded(lambda: SmallCNN(shape, n_classes, width, n_blocks, norm), seed)
    return model


def mlp(
    *, input_shape: Shape | int, n_classes: int = 10, hidden: tuple[int, ...] = (128, 128), seed: int = 0
) -> nn.Sequential:
    """Return a multilayer perceptron with ReLU on flattened inputs.

    Parameters
    ----------
    input_shape : int or (channels, height, width)
    n_classes : int, default 10
    hidden : tuple of int
        Widths of the hidden layers.
    seed : int
        Of the initial weights.

    Examples
    --------
    >>> mlp(input_shape=(1, 8, 8), hidden=(16,))(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """
    if isinstance(input_shape, int):
        size = count("input_shape", input_shape, low=1)
    else:
        channels, height, breadth = _shape(input_shape)
        size = channels * height * breadth
    widths = [size, *(count("hidden", h, low=1) for h in hidden)]
    n_classes = count("n_classes", n_classes, low=2)

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], n_classes))

    model: nn.Sequential = _seeded(build, seed)
    return model


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = norm(after)
        self.relu = nn.ReLU()
        self.shortcut = (
            nn.Identity()
            if stride == 1 and before == after
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), norm(after))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(out + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with a stem for small images: one 3x3 convolution and no pooling."""

    def __init__(self, input_shape: Shape, n_classes: int, width: int, norm: str) -> None:
        super().__init__()
        make = partial(_norm, norm, max_groups=32)
        self.conv1 = nn.Conv2d(input_shape[0], width, 3, 1, 1, bias=False)
        self.norm1 = make(width)
        self.relu = nn.ReLU()
        blocks: list[nn.Module] = []
        before = width
        for stage in range(4):
            after = width * 2**stage
            blocks += [
                _BasicBlock(before, after, 1 if stage == 0 else 2, make),
                _BasicBlock(after, after, 1, make),
            ]
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes)."""
        x = self.relu(self.norm1(self.conv1(x)))
        return self.classifier(self.pool(self.blocks(x)).flatten(1))


def resnet18(
    *, input_shape: Shape = (3, 32, 32), n_classes: int = 10, width: int = 64, norm: str = "group", seed: int = 0
) -> ResNet18:
    """Return a ResNet-18 for small images [HZR]_, with GroupNorm [WH]_ unless told otherwise.

    Parameters
    ----------
    input_shape : (channels, height, width)
        Only the channels matter.
    n_classes : int, default 10
    width : int, default 64
        Channels of the first stage; at most 32 norm groups, of at least two channels each.
    norm : {"group", "batch"}
    seed : int
        Of the initial weights.

    References
    ----------
    .. [HZR] He, Zhang, Ren, Sun, Deep residual learning for image recognition (2015), arXiv:1512.03385.
    .. [WH] Wu, He, Group normalization (2018), arXiv:1803.08494.

    Examples
    --------
    >>> resnet18(width=4)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    shape, n_classes, width = _shape(input_shape), count("n_classes", n_classes, low=2), count("width", width, low=1)
    norm = choice("norm", norm, ("group", "batch"))
    model: ResNet18 = _seeded(lambda: ResNet18(shape, n_classes, width, norm), seed)
    return model


class _EncoderBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each on a normalised residual stream."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, n_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 2 * dim)
        self.gelu = nn.GELU()
        self.contract = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        normalised = self.norm1(x)
        x = x + self.attention(normalised, normalised, normalised, need_weights=False)[0]
        return x + self.contract(self.gelu(self.expand(self.norm2(x))))


class SmallViT(nn.Module):
    """A vision transformer without class token: the mean over patches is classified."""

    def __init__(self, input_shape: Shape, n_classes: int, patch: int, dim: int, depth: int, n_heads: int) -> None:
        super().__init__()
        channels, height, breadth = input_shape
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (height // patch) * (breadth // patch), dim))
        self.blocks = nn.Sequential(*(_EncoderBlock(dim, n_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes)."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.classifier(self.norm(self.blocks(x)).mean(1))


def small_vit(
    *,
    input_shape: Shape = (3, 32, 32),
    n_classes: int = 10,
    patch: int = 4,
    dim: int = 64,
    depth: int = 4,
    n_heads: int = 4,
    seed: int = 0,
) -> SmallViT:
    """Return a small vision transformer.

    Parameters
    ----------
    input_shape : (channels, height, width)
        Height and width must be multiples of ``patch``.
    n_classes : int, default 10
    patch : int, default 4
        Side of a square patch.
    dim : int, default 64
        Of the residual stream; a multiple of ``n_heads``.
    depth, n_heads : int, default 4
    seed : int
        Of the initial weights.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or does not divide what it must.

    Examples
    --------
    >>> small_vit(dim=8, depth=1, n_heads=2)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    shape, n_classes = _shape(input_shape), count("n_classes", n_classes, low=2)
    patch, dim = count("patch", patch, low=1), count("dim", dim, low=1)
    depth, n_heads = count("depth", depth, low=1), count("n_heads", n_heads, low=1)
    if shape[1] % patch or shape[2] % patch:
        raise ValueError(f"patch must divide height and width {shape[1:]}, got {patch}")
    if dim % n_heads:
        raise ValueError(f"n_heads must divide dim {dim}, got {n_heads}")
    model: SmallViT = _seeded(lambda: SmallViT(shape, n_classes, patch, dim, depth, n_heads), seed)
    return model
