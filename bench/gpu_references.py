"""Gradient norms in float64 by PyTorch, on the device, with how far a kernel's arithmetic may be from them."""

from __future__ import annotations

from typing import Any

from gpu_device import Device

# Error allowed of a sum, as a share of the sum of magnitudes. Kernels sum 256 float32 terms before they carry, and
# errors add up like a random walk: 64 roundings are plenty. Tensor cores cut digits off after every 8 products, in one
# direction: two units for each such step of the longest block.
_U32 = 2.0**-24
UNITS = {"float32": 64 * _U32, "bfloat16": 2 * (1024 / 8) * _U32, "float64": 1e-12}


def unit(array: Any) -> float:
    """Return what is allowed for an array's dtype."""
    return UNITS[str(array.dtype).removeprefix("torch.")]


def linear_norms(on: Device, a: Any, g: Any) -> tuple[Any, Any]:
    """Return norms of sum_t a_t g_t^T, and the tolerances of norms computed in the dtype of the arrays."""
    n, t, d_in = a.shape
    d_out = g.shape[2]
    found, tolerance = on.empty(n), on.empty(n)
    gram = t * t < d_in * d_out
    for at in on.chunks(n, 8.0 * (min(2 * t * t, d_in * d_out) + t * (d_in + d_out))):
        x, y = a[at].double(), g[at].double()
        for out, left, right in ((found, x, y), (tolerance, x.abs(), y.abs())):
            if gram:
                squares = ((left @ left.mT) * (right @ right.mT)).sum((1, 2))
            else:
                squares = (left.mT @ right).square().sum((1, 2))
            out[at] = squares.clamp(min=0.0).sqrt()
    # Sums of one position are not summed in float32 at all.
    return found, tolerance * (unit(a) if t > 1 else 1e-12) + 1e-300


def linear_dots(on: Device, a1: Any, g1: Any, a2: Any, g2: Any) -> tuple[Any, Any]:
    """Return inner products of two layers' gradients, and tolerances for float64 sums."""
    n = a1.shape[0]
    found, tolerance = on.empty(n), on.empty(n)
    for at in on.chunks(n, 8.0 * 2 * (a1.shape[1] * a2.shape[1] + a1.shape[1] * (a1.shape[2] + g1.shape[2]))):
        inputs, outputs = (left[at].double() @ right[at].double().mT for left, right in ((a1, a2), (g1, g2)))
        found[at] = (inputs * outputs).sum((1, 2))
        tolerance[at] = 1e-11 * (inputs.abs() * outputs.abs()).sum((1, 2)) + 1e-300
    return found, tolerance


def embedding_norms(on: Device, tokens: Any, grads: Any, rows: int) -> tuple[Any, Any]:
    """Return norms of an embedding's gradients, and tolerances for float64 sums."""
    n, _, width = grads.shape
    found = on.empty(n)
    for at in on.chunks(n, 8.0 * rows * width):
        mine = grads[at].double()
        table = on.torch.zeros(mine.shape[0], rows, width, dtype=mine.dtype, device=on.where)
        table.scatter_add_(1, tokens[at].unsqueeze(2).expand(-1, -1, width), mine)
        found[at] = table.square().sum((1, 2)).sqrt()
    return found, 1e-12 * grads.double().norm(dim=2).sum(1) + 1e-300


def tied_dots(on: Device, tokens: Any, grads: Any, rows: Any, columns: Any) -> tuple[Any, Any]:
    """Return inner products of an embedding's gradient with that of a linear layer, and tolerances."""
    n = grads.shape[0]
    found, tolerance = on.empty(n), on.empty(n)
    for at in on.chunks(n, 8.0 * rows.shape[1] * rows.shape[2] * 2):
        picked = rows[at].double().gather(2, tokens[at].unsqueeze(1).expand(-1, rows.shape[1], -1))
        products = (columns[at].double() @ grads[at].double().mT) * picked
        found[at], tolerance[at] = products.sum((1, 2)), 1e-11 * products.abs().sum((1, 2)) + 1e-300
    return found, tolerance


def normalising_norms(on: Device, a: Any, g: Any, kind: str, groups: int | None) -> tuple[Any, Any]:
    """Return norms of the gradients of scale (and offset, but for rms), and tolerances for float64 sums."""
    n = a.shape[0]
    found, tolerance = on.empty(n), on.empty(n)
    for at in on.chunks(n, 8.0 * 4 * a[0].numel()):
        x, y = a[at].double(), g[at].double()
        if kind == "group":
            shape = x.shape
            x = x.reshape(shape[0], groups, -1)
            x = ((x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt()).reshape(shape)
            products, over = x * y, tuple(range(2, x.dim()))
        else:
            if kind == "layer":
                x = x - x.mean(-1, keepdim=True)
            x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            products, over = x * y, tuple(range(1, x.dim() - 1))
        squares = products.sum(over).square().sum(1)
        sizes = products.abs().sum(over).square().sum(1)
        if kind != "rms":
            squares, sizes = squares + y.sum(over).square().sum(1), sizes + y.abs().sum(over).square().sum(1)
        found[at], tolerance[at] = squares.sqrt(), 1e-11 * sizes.sqrt() + 1e-300
    return found, tolerance


def conv_norms(on: Device, a: Any, g: Any, kernel: int, padding: int, groups: int, *, bias: bool) -> tuple[Any, Any]:
    """Return norms of a convolution's gradients, and tolerances."""
    n, channels = a.shape[:2]
    out_channels = g.shape[1]
    found, tolerance = on.empty(n), on.empty(n)
    positions = g[0, 0].numel()
    for at in on.chunks(n, 8.0 * positions * (channels * kernel**2 + out_channels) * 2):
        columns = on.torch.nn.functional.unfold(a[at].double(), kernel, padding=padding)
        columns = columns.reshape(-1, groups, channels // groups * kernel**2, positions)
        back = g[at].double().reshape(-1, groups, out_channels // groups, positions)
        for out, left, right in ((found, columns, back), (tolerance, columns.abs(), back.abs())):
            squares = (right @ left.mT).square().sum((1, 2, 3))
            if bias:
                squares = squares + right.sum(3).square().sum((1, 2))
            out[at] = squares.sqrt()
    return found, tolerance * unit(a) + 1e-300


def probe_norms(on: Device, X: Any, W: Any, y: Any, logits: Any = None) -> tuple[Any, Any]:
    """Return norms of a softmax probe's gradients at one set of weights; of given logits where there are any."""
    torch, (n, d) = on.torch, X.shape
    found, tolerance = on.empty(n), on.empty(n)
    for at in on.chunks(n, 8.0 * (d + 4 * W.shape[1])):
        x = X[at].double()
        exact = x @ W.double() if logits is None else logits[at].double()
        residuals = torch.softmax(exact, 1)
        residuals.scatter_add_(1, y[at].unsqueeze(1), -torch.ones_like(residuals[:, :1]))
        sizes = x.norm(dim=1)
        found[at] = residuals.norm(dim=1) * sizes
        # Logits in float32 move a residual by as much as they are off; so does a softmax in float32.
        off = 64 * _U32 * (1.0 + (0.0 if logits is not None else (x.abs() @ W.double().abs()).amax(1)))
        tolerance[at] = off * sizes + 1e-300
    return found, tolerance
