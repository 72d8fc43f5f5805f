"""GradNorms where examples are merged with frames, windows or heads in one axis, at every layer with parameters."""

import warnings

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from expunge.torch import UnsupportedLayerError  # noqa: E402
from torch_norms import Calls, assert_exact, block_norms, parameter  # noqa: E402

FRAMES = 3


def behind(x):
    """Frames behind examples: (B T, ...)."""
    return x.flatten(0, 1), lambda y: y.unflatten(0, (-1, FRAMES))


def in_front(x):
    """Frames in front of examples: (T B, ...)."""
    return x.transpose(0, 1).flatten(0, 1), lambda y: y.unflatten(0, (FRAMES, -1)).transpose(0, 1)


def around(x):
    """One group of frames in front of examples, another behind: (2 B T, ...)."""
    h = torch.stack([x, x.sin()]).flatten(0, 2)
    return h, lambda y: y.unflatten(0, (2, -1, FRAMES)).transpose(0, 1)


MERGES = {"behind": behind, "in front": in_front, "around": around}


def merged(merge, layer, **more):
    """A model that applies a layer to frames merged with examples, each frame weighed by its own number."""

    def forward(m, x):
        h, back = merge(x)
        y = back(m.layer(h))
        return (y * torch.linspace(0.5, 2.0, y[0].numel(), dtype=y.dtype).view(y[0].shape)).flatten(1)

    return Calls(forward, layer=layer, **more)


def images(ndim, channels=4):
    """Sizes in which every axis has the length of another: three examples, frames, channels, positions."""
    return lambda batch: torch.randn(batch, FRAMES, channels, *(5, 4, 3)[:ndim], dtype=torch.float64)


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 3, 3, padding=1), 1),
    "conv1d, a stride that does not divide": (lambda: nn.Conv1d(4, 3, 2, stride=2), 1),
    "conv1d, a stride beyond the kernel": (lambda: nn.Conv1d(4, 3, 1, stride=3), 1),
    "conv1d, same": (lambda: nn.Conv1d(4, 3, 4, padding="same"), 1),
    "conv2d": (lambda: nn.Conv2d(4, 3, 3, padding=(2, 0), stride=(2, 1), dilation=(1, 1)), 2),
    "conv2d, dilated and grouped": (lambda: nn.Conv2d(4, 6, 2, padding=1, dilation=(3, 2), groups=2, bias=False), 2),
    "conv2d, same": (lambda: nn.Conv2d(4, 4, (2, 3), padding="same", groups=4), 2),
    "conv2d, valid": (lambda: nn.Conv2d(4, 4, 2, padding="valid"), 2),
    "conv2d, padded round": (lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), 2),
    "conv2d, a kernel as large as the image": (lambda: nn.Conv2d(4, 3, (5, 4)), 2),
    "conv3d": (lambda: nn.Conv3d(4, 3, 2, stride=(3, 1, 2), padding=1), 3),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 3, 3, stride=2), 1),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 4, 3, groups=2), 2),
    "group_norm": (lambda: nn.GroupNorm(2, 4), 2),
    "group_norm of vectors": (lambda: nn.GroupNorm(2, 4), 0),
    "instance_norm": (lambda: nn.InstanceNorm1d(4, affine=True), 1),
    "batch_norm": (lambda: nn.BatchNorm2d(4).eval(), 2),
    "batch_norm of vectors": (lambda: nn.BatchNorm1d(4).eval(), 0),
    "layer_norm": (lambda: nn.LayerNorm((5, 4)), 2),
    "rms_norm": (lambda: nn.RMSNorm(5), 1),
    "linear": (lambda: nn.Linear(5, 4), 1),
    "prelu": (lambda: nn.PReLU(4), 2),
    "bilinear": (lambda: Calls(lambda m, h: m.b(h, h.cos()), b=nn.Bilinear(5, 5, 3)), 1),
    "bilinear of images": (lambda: Calls(lambda m, h: m.b(F.avg_pool2d(h, 2), F.max_pool2d(h, 2)),
                                         b=nn.Bilinear(2, 2, 3)), 2),
    "attention": (lambda: Calls(lambda m, h: m.a(h, h, h)[0], a=nn.MultiheadAttention(4, 2, batch_first=True)), None),
    "attention, its weights": (lambda: Calls(lambda m, h: m.a(h, h, h)[1],
                                             a=nn.MultiheadAttention(4, 2, batch_first=True)), None),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), None),
    "lstm": (lambda: Calls(lambda m, h: m.a(h)[0], a=nn.LSTM(4, 3, batch_first=True)), None),
    "gru, both ways": (lambda: Calls(lambda m, h: m.a(h)[0], a=nn.GRU(4, 3, 2, batch_first=True, bidirectional=True)),
                       None),
    "gru_cell": (lambda: nn.GRUCell(4, 3), 0),
    "a shift": (lambda: Calls(lambda m, h: h + m.p, p=parameter(4, 5)), 1),
    "a shift with an axis of one": (lambda: Calls(lambda m, h: h + m.p, p=parameter(1, 4, 5)), 1),
    "a scale from the left": (lambda: Calls(lambda m, h: m.p * h, p=parameter(4, 1)), 1),
    "patches": (lambda: Calls(lambda m, h: m.a(F.unfold(h, 2)), a=nn.Linear(12, 3)), 2),
    "pooling, growing, padding": (lambda: nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.MaxPool2d(2, 1), nn.Upsample(scale_factor=2), nn.ZeroPad2d(1), nn.PixelShuffle(2),
        nn.AdaptiveAvgPool2d(2), nn.Conv2d(1, 2, 1)), 2),
}  # fmt: skip


def sequences(batch):
    return torch.randn(batch, FRAMES, 5, 4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def without_a_note_on_copies():
    """Even kernels with padding="same" make torch say that it copies."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'")
        yield


@pytest.mark.parametrize("batch", [1, 3])  # 3: as many as frames
@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_on_merged_axes_give_the_norms_of_single_examples(layer, merge, batch):
    torch.manual_seed(3)
    make, ndim = LAYERS[layer]
    inputs = sequences(batch) if ndim is None else images(ndim)(batch)
    module = make().double()
    with torch.no_grad():
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand(buffer.shape, dtype=torch.float64))
    assert_exact(merged(MERGES[merge], module), inputs)


LOSSES = {
    "cross entropy": lambda h: F.cross_entropy(h, (h.detach() * 7).long().sum(1) % 3, reduction="sum"),
    "multi_margin": lambda h: F.multi_margin_loss(h, (h.detach() * 7).long().sum(1) % 3, reduction="sum"),
    "triplet": lambda h: F.triplet_margin_loss(h, h.cos(), h.sin(), reduction="sum"),
    "cosine": lambda h: F.cosine_embedding_loss(h, h.cos(), h.detach()[:, 0].sign(), margin=-1.0, reduction="sum"),
    "ctc": lambda h: F.ctc_loss(torch.stack([h, h.sin(), h.cos()]).log_softmax(-1), 1 + (h.detach()[:, :1] > 0).long(),
                                torch.full((len(h),), 3), torch.ones(len(h), dtype=torch.long), reduction="sum"),
    "mean squares": lambda h: F.mse_loss(h, h.detach().cos(), reduction="sum"),
    "a mean of each": lambda h: h.square().mean(1).sum(),
}  # fmt: skip


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_merged_rows_give_the_norms_of_single_examples(loss, merge):
    model = Calls(lambda m, x: m.a(MERGES[merge](x)[0]), a=nn.Linear(5, 3))
    assert_exact(model, torch.randn(3, FRAMES, 5, dtype=torch.float64), LOSSES[loss])


# What takes merged rows together would be wrong by rows, whatever the layer behind it.
MIXED = {
    "softmax": lambda h: h.softmax(0),
    "roll": lambda h: h.roll(1, 0),
    "a running sum": lambda h: h.cumsum(0),
    "less the mean": lambda h: h - h.mean(0),
    "every second row": lambda h: h[::2],
    "channels and rows changed over": lambda h: h.transpose(0, 1),
    "rows for channels": lambda h: h.reshape(1, -1, h.shape[-1])[:, :4],
    "rows cut up": lambda h: h.reshape(2 * len(h), -1, h.shape[-1])[1:-1],
}


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("mixed", MIXED)
@pytest.mark.parametrize("layer", ["conv1d", "group_norm", "batch_norm", "instance_norm"])
def test_layers_on_merged_rows_that_were_mixed_are_refused(layer, mixed, merge):
    x = torch.randn(3, FRAMES, 4, 5, dtype=torch.float64)
    h = MIXED[mixed](MERGES[merge](x)[0])
    channels = h.shape[1]
    module = {
        "group_norm": lambda: nn.GroupNorm(1, channels), "batch_norm": lambda: nn.BatchNorm1d(channels).eval(),
        "instance_norm": lambda: nn.InstanceNorm1d(channels, affine=True), "conv1d": lambda: nn.Conv1d(channels, 3, 1),
    }[layer]()  # fmt: skip
    model = Calls(lambda m, x: m.a(MIXED[mixed](MERGES[merge](x)[0])), a=module).double()
    with pytest.raises(UnsupportedLayerError, match=r"^a\.weight: "):
        block_norms(model, x)


@pytest.mark.parametrize("merge", MERGES)
def test_merged_rows_in_another_order_belong_to_their_examples(merge):
    """Each example's rows are somewhere else, in an order of their own; the loss adds up over rows."""

    def forward(m, x):
        h = MERGES[merge](x)[0]
        return m.a(h[torch.arange(len(h)).flip(0)])

    assert_exact(Calls(forward, a=nn.Conv1d(4, 3, 2)), torch.randn(3, FRAMES, 4, 5, dtype=torch.float64))


def in_groups(turn_kernels=None, channels=4):
    """Every example's kernels on its own channels, all at once; unless something is done to the kernels."""

    def forward(m, x):
        b = len(x)
        kernels = m.a(x.mean(-1)).view(b, 2, channels, 1) * 1.0
        kernels = kernels if turn_kernels is None else turn_kernels(kernels)
        y = F.conv1d(x.reshape(1, -1, x.shape[-1]), kernels.reshape(2 * b, -1, 1), groups=b)
        return y.view(b, 2, -1)

    return Calls(forward, a=nn.Linear(4, 2 * channels))


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_examples_for_groups_of_a_convolution_give_the_norms_of_single_examples(batch):
    assert_exact(in_groups(), torch.randn(batch, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    "turn",
    [
        lambda k: k.transpose(0, 1),
        lambda k: k.flip(0),
        lambda k: torch.ones_like(k) * k.mean(0),
    ],
)
def test_kernels_of_other_examples_in_groups_are_refused(turn):
    with pytest.raises(UnsupportedLayerError):
        block_norms(in_groups(turn).double(), torch.randn(4, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("groups", [1, 2, 4, 16])
def test_constant_kernels_for_groups_of_examples_are_refused(groups):
    x, kernels = torch.randn(4, 4, 5, dtype=torch.float64), torch.randn(16, 16 // groups, 1, dtype=torch.float64)
    model = Calls(lambda m, x: F.conv1d((x * m.s).reshape(1, 16, 5), kernels, groups=groups), s=parameter(5))
    with pytest.raises(UnsupportedLayerError, match=r"spans several examples|not those of each channel's example"):
        block_norms(model, x)


def test_a_group_that_spans_examples_is_refused():
    """Kernels as many as fit, of the examples, and groups of two examples each."""
    model = Calls(
        lambda m, x: F.conv1d(x.reshape(1, 16, 5), m.a(x.mean(-1)).view(8, 8, 1), groups=2), a=nn.Linear(4, 16)
    ).double()
    with pytest.raises(UnsupportedLayerError, match="spans several examples"):
        block_norms(model, torch.randn(4, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("merge", MERGES)
def test_masks_of_every_head_and_merged_row_give_the_norms_of_single_examples(merge):
    """The mask of a row has its heads side by side behind it."""

    def forward(m, x):
        h, back = MERGES[merge](x)
        mask = torch.stack([h @ h.mT, h.cos() @ h.mT], 1).flatten(0, 1)
        hidden = (h.mean(-1) > 0.8) & (torch.arange(h.shape[1]) > 0)
        return back(m.a(h, h, h, attn_mask=mask, key_padding_mask=hidden.to(h.dtype) * -3.0)[0]).flatten(1)

    model = Calls(forward, a=nn.MultiheadAttention(4, 2, batch_first=True))
    assert_exact(model, torch.randn(2, FRAMES, 5, 4, dtype=torch.float64))


def test_masks_that_belong_to_the_rows_of_others_are_refused():
    """As many as rows and heads, but the heads in front of the rows."""
    model = Calls(
        lambda m, x: m.a(x, x, x, attn_mask=torch.stack([x @ x.mT, x.cos() @ x.mT]).flatten(0, 1))[0],
        a=nn.MultiheadAttention(4, 2, batch_first=True),
    ).double()
    with pytest.raises(
        UnsupportedLayerError, match=r"combines batch dimensions at different places|attends over the batch"
    ):
        block_norms(model, torch.randn(2, 5, 4, dtype=torch.float64))


def test_batch_normalisation_of_examples_behind_channels():
    model = Calls(
        lambda m, x: m.a(x.permute(1, 2, 0)).permute(2, 0, 1) * torch.linspace(0.5, 2.0, 4, dtype=x.dtype),
        a=nn.BatchNorm1d(4).double().eval(),
    )
    assert_exact(model, torch.randn(4, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("turn", [lambda h: h.transpose(0, 1).flatten(0, 1), lambda h: h.flatten(0, 1).flip(0)])
def test_cells_whose_states_belong_to_other_rows_are_refused(turn):
    """As many rows of input and state, merged in another order."""
    model = Calls(lambda m, x: m.a(x.flatten(0, 1), turn(x.cos())), a=nn.GRUCell(4, 4)).double()
    with pytest.raises(UnsupportedLayerError):
        block_norms(model, torch.randn(3, FRAMES, 4, dtype=torch.float64))


@pytest.mark.parametrize("turn", [lambda h: h.transpose(0, 1).flatten(0, 1), lambda h: h.mean(1).repeat(FRAMES, 1)])
def test_losses_of_rows_merged_in_different_orders_are_refused(turn):
    model = Calls(lambda m, x: m.a(x), a=nn.Linear(4, 4)).double()

    def loss(h):
        return F.triplet_margin_loss(h.flatten(0, 1), turn(h.cos()), h.flatten(0, 1).sin(), reduction="sum")

    with pytest.raises(UnsupportedLayerError):
        block_norms(model, torch.randn(3, FRAMES, 4, dtype=torch.float64), loss)


def test_bags_of_the_examples_of_a_place_are_refused():
    """As many examples as places, so that the shapes say nothing."""
    model = Calls(lambda m, x: m.a((x * 3).long().remainder(5).t()), a=nn.EmbeddingBag(5, 3)).double()
    with pytest.raises(UnsupportedLayerError, match="in the leading dimension"):
        block_norms(model, torch.randn(4, 4, dtype=torch.float64))
