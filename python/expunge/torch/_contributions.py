"""Contributions of the uses of a parameter to its per-example gradient, and how several add up exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from expunge.torch import _kernels
from expunge.torch._sources import Derived, ParameterView

__all__ = [
    "BroadcastUse",
    "ConvUse",
    "MatrixUse",
    "PulledUse",
    "RowsUse",
    "ScaleUse",
    "Use",
    "examples_per_chunk",
    "sum_of_squares",
]

# Entries of per-example gradients held at once where they must be formed.
_BUDGET = 1 << 23


def examples_per_chunk(entries: int) -> int:
    """Return how many per-example gradients of ``entries`` numbers are formed at once."""
    return max(1, _BUDGET // max(1, entries))


def _alike(tensor: Tensor, other: Tensor) -> Tensor:
    """Return ``tensor`` in the dtype that the layer computed in: under autocast that of its output."""
    return tensor if tensor.dtype == other.dtype else tensor.to(other.dtype)


class Use:
    """One use of a parameter, or of a strided view of it, after the gradient of its output has arrived."""

    immediate = True  # a single use is settled during backward, so that its tensors are freed

    def __init__(self, source: ParameterView | Derived, threads: int | None) -> None:
        self.source = source
        self.threads = threads
        self.shift: BroadcastUse | None = None  # the layer's bias, whose norms come out of the same pass

    def _with_shift(self, squares: tuple[Tensor, Tensor]) -> Tensor:
        """Return the squares of this use, and leave those of the bias with its own."""
        if self.shift is not None:
            self.shift.known = squares[1]
        return squares[0]

    @property
    def entries(self) -> int:
        """Return how many numbers are formed for an example."""
        return math.prod(self.source.size)

    def squares(self, batch: int) -> Tensor:
        """Return the squared norm for every example."""
        raise NotImplementedError

    def dense(self, low: int, high: int) -> Tensor:
        """Return the gradients of examples low to high, (high - low, *source.size) in float64."""
        raise NotImplementedError

    def squares_by_forming(self, batch: int) -> Tensor:
        """Return the squared norms from gradients formed a chunk at a time."""
        size = math.prod(self.source.size)
        step = examples_per_chunk(self.entries)
        bounds = [(low, min(batch, low + step)) for low in range(0, max(batch, 1), step)]
        return torch.cat([self.dense(low, high).reshape(high - low, size).square().sum(1) for low, high in bounds])


class MatrixUse(Use):
    """A matrix with gradient R_i^T C_i; rows R (B, ..., r), columns C (B, ..., c)."""

    def __init__(self, source: ParameterView | Derived, threads: int | None, rows: Tensor, columns: Tensor) -> None:
        super().__init__(source, threads)
        if rows.ndim != 3:
            batch, positions = rows.shape[0], math.prod(rows.shape[1:-1])
            rows, columns = (t.reshape(batch, positions, t.shape[-1]) for t in (rows, columns))
        self.rows, self.columns = rows, columns

    def transposed_to_memory(self) -> tuple[tuple[Any, ...], Tensor, Tensor]:
        """Return the matrix's place in memory, whichever way round it was used, and the factors to suit."""
        view = self.source
        assert isinstance(view, ParameterView)
        if len(view.size) != 2:
            return (view.size, view.stride, view.offset), self.rows, self.columns
        (r, c), (by_row, by_column) = view.size, view.stride
        if by_row < by_column:
            return ((c, r), (by_column, by_row), view.offset), self.columns, self.rows
        return (view.size, view.stride, view.offset), self.rows, self.columns

    def squares(self, batch: int) -> Tensor:
        return self._with_shift(
            _kernels.linear_squares(self.columns, self.rows, bias=self.shift is not None, threads=self.threads)
        )

    def dense(self, low: int, high: int) -> Tensor:
        product = torch.einsum("btr,btc->brc", self.rows[low:high].double(), self.columns[low:high].double())
        return product.reshape(high - low, *self.source.size)


class RowsUse(Use):
    """Rows looked up in a table: indices (B, T), gradients of the rows (B, T, d)."""

    def __init__(
        self, source: ParameterView | Derived, threads: int | None, indices: Tensor, grads: Tensor, padding: int | None
    ) -> None:
        super().__init__(source, threads)
        batch = indices.shape[0]
        positions = math.prod(indices.shape[1:])
        self.indices = indices.reshape(batch, positions)
        self.grads = grads.reshape(batch, positions, grads.shape[-1])
        self.padding = padding

    def squares(self, batch: int) -> Tensor:
        return _kernels.embedding_squares(self.indices, self.grads, padding_idx=self.padding, threads=self.threads)

    def dense(self, low: int, high: int) -> Tensor:
        rows, width = self.source.size
        grads = self.grads[low:high].double()
        indices = self.indices[low:high].long()
        if self.padding is not None:
            grads = grads.masked_fill((indices == self.padding)[..., None], 0.0)
        out = torch.zeros(high - low, rows, width, dtype=torch.float64, device=grads.device)
        return out.scatter_add_(1, indices[..., None].expand(-1, -1, width), grads)


class ConvUse(Use):
    """The kernel of a convolution."""

    def __init__(
        self,
        source: ParameterView | Derived,
        threads: int | None,
        images: Tensor,
        grads: Tensor,
        settings: dict[str, Any],
    ) -> None:
        super().__init__(source, threads)
        self.images, self.grads, self.settings = _alike(images, grads), grads, settings

    def squares(self, batch: int) -> Tensor:
        return self._with_shift(
            _kernels.conv_squares(
                self.images,
                self.grads,
                kernel_size=self.source.size[2:],
                bias=self.shift is not None,
                threads=self.threads,
                **self.settings,
            )
        )

    def dense(self, low: int, high: int) -> Tensor:
        return torch.stack([self.sum_over(slice(i, i + 1), torch.float64) for i in range(low, high)])

    def sum_over(self, examples: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Return the gradient summed over some examples, formed in ``dtype``."""
        images, grads = (t[examples].detach().to(dtype) for t in (self.images, self.grads))
        dims = len(self.source.size) - 3
        if not isinstance(self.settings["padding"], str):
            weight = (conv1d_weight, conv2d_weight, conv3d_weight)[dims]
            return weight(images, self.source.size, grads, **self.settings)  # type: ignore[no-any-return]
        kernel = torch.zeros(self.source.size, dtype=dtype, device=grads.device, requires_grad=True)
        with torch.enable_grad():
            made = (torch.conv1d, torch.conv2d, torch.conv3d)[dims](images, kernel, None, **self.settings)
        return torch.autograd.grad(made, kernel, grads)[0]


class ScaleUse(Use):
    """The weight of a normalising layer; arguments as `expunge.grad_norms.norm_layer_grad_norms` takes them."""

    def __init__(
        self,
        source: ParameterView | Derived,
        threads: int | None,
        inputs: Tensor,
        grads: Tensor,
        settings: dict[str, Any],
        products: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__(source, threads)
        self.inputs, self.grads, self.settings, self.products = _alike(inputs, grads), grads, settings, products

    def squares(self, batch: int) -> Tensor:
        return self._with_shift(
            _kernels.norm_layer_squares(
                self.inputs, self.grads, bias=self.shift is not None, threads=self.threads, **self.settings
            )
        )

    def dense(self, low: int, high: int) -> Tensor:
        return self.products(self.inputs[low:high].double(), self.grads[low:high].double())


class BroadcastUse(Use):
    """A parameter added to, or multiplied into, every example: its gradient is summed over the axes it spans.

    ``channels`` says that a vector belongs to axis 1 (the bias of a convolution), else axes match from the last.
    """

    def __init__(
        self,
        source: ParameterView | Derived,
        threads: int | None,
        grads: Tensor,
        *,
        factor: Tensor | None = None,
        channels: bool = False,
    ) -> None:
        super().__init__(source, threads)
        self.grads, self.channels = grads, channels
        self.known: Tensor | None = None  # the squares, once the use of the weight beside it has given them
        self.factor = None if factor is None else _alike(factor, grads)

    def is_whole(self) -> bool:
        """Whether nothing is summed: the gradient of an example's row is the parameter's."""
        size, row = self.source.size, self.grads.shape[1:]
        plain = self.factor is None and not self.channels and len(size) > 1
        return plain and math.prod(size) == math.prod(row)

    def is_row_sum(self) -> bool:
        """Whether it is a vector added along the last axis."""
        size = self.source.size
        plain = len(size) == 1 and self.factor is None and not self.channels
        return plain and self.grads.ndim > 1 and size[0] == self.grads.shape[-1]

    def squares(self, batch: int) -> Tensor:
        if self.known is not None:
            return self.known
        if self.is_whole():
            return _kernels.column_squares(
                self.grads.reshape(batch, 1, math.prod(self.source.size)), channels=False, threads=self.threads
            )
        if not self.is_row_sum() and not (self.channels and len(self.source.size) == 1 and self.factor is None):
            return self.squares_by_forming(batch)
        return _kernels.column_squares(self.grads, channels=self.channels, threads=self.threads)

    def dense(self, low: int, high: int) -> Tensor:
        grads = self.grads[low:high].double()
        if self.factor is not None:
            grads = grads * self.factor[low:high].double()
        if self.channels:
            return grads.sum(tuple(range(2, grads.ndim))) if grads.ndim > 2 else grads
        size = self.source.size
        fewer = grads.ndim - 1 - len(size)
        if fewer < 0:  # the parameter has a leading axis of length one where examples go
            return grads.sum_to_size(high - low, *size[1:]).reshape(high - low, *size)
        padded = (1,) * fewer + size
        return grads.sum_to_size(high - low, *padded).reshape(high - low, *size)


class PulledUse(Use):
    """A use of something computed from parameters, pulled back to one of them."""

    immediate = False

    def __init__(self, source: ParameterView, threads: int | None, outer: Use) -> None:
        super().__init__(source, threads)
        self.outer = outer

    @property
    def entries(self) -> int:
        return max(math.prod(self.source.size), self.outer.entries)

    def squares(self, batch: int) -> Tensor:
        return self.squares_by_forming(batch)

    def dense(self, low: int, high: int) -> Tensor:
        derived = self.outer.source
        assert isinstance(derived, Derived)
        assert isinstance(self.source, ParameterView)
        return derived.pull(self.source, self.outer.dense(low, high))


def _merged(uses: Sequence[Use]) -> list[Use]:
    """Put uses of the same matrix, table or added vector together as one use with more positions."""
    matrices: dict[tuple[Any, ...], list[tuple[MatrixUse, Tensor, Tensor]]] = {}
    tables: dict[tuple[Any, ...], list[RowsUse]] = {}
    vectors: dict[tuple[Any, ...], list[BroadcastUse]] = {}
    out: list[Use] = []
    for use in uses:
        view = use.source
        assert isinstance(view, ParameterView)
        if isinstance(use, MatrixUse):
            place, rows, columns = use.transposed_to_memory()
            matrices.setdefault((*place, rows.dtype), []).append((use, rows, columns))
        elif isinstance(use, RowsUse):
            key = (view.size, view.stride, view.offset, use.padding, use.grads.dtype)
            tables.setdefault(key, []).append(use)
        elif isinstance(use, BroadcastUse) and use.is_row_sum():
            vectors.setdefault((view.size, view.stride, view.offset, use.grads.dtype), []).append(use)
        else:
            out.append(use)
    for (size, stride, offset, _), group in matrices.items():
        first = group[0][0]
        assert isinstance(first.source, ParameterView)
        view = first.source.at(size, stride, offset)
        rows = torch.cat([r for _, r, _ in group], 1) if len(group) > 1 else group[0][1]
        columns = torch.cat([c for _, _, c in group], 1) if len(group) > 1 else group[0][2]
        out.append(MatrixUse(view, first.threads, rows, columns))
    for same in tables.values():
        indices = torch.cat([use.indices for use in same], 1)
        out.append(
            RowsUse(same[0].source, same[0].threads, indices, torch.cat([u.grads for u in same], 1), same[0].padding)
        )
    for sums in vectors.values():
        parts = [u.grads.reshape(u.grads.shape[0], -1, u.grads.shape[-1]) for u in sums]
        out.append(BroadcastUse(sums[0].source, sums[0].threads, torch.cat(parts, 1)) if len(sums) > 1 else sums[0])
    return out


def _tied(uses: Sequence[Use]) -> tuple[RowsUse, MatrixUse] | None:
    """Return an embedding and a matrix that use the same table, if that is all there is."""
    rows = [use for use in uses if isinstance(use, RowsUse)]
    matrices = [use for use in uses if isinstance(use, MatrixUse)]
    if len(uses) != 2 or len(rows) != 1 or len(matrices) != 1:
        return None
    table, matrix = rows[0], matrices[0]
    a, b = table.source, matrix.source
    assert isinstance(a, ParameterView)
    assert isinstance(b, ParameterView)
    same = (a.size, a.stride, a.offset) == (b.size, b.stride, b.offset) and table.grads.dtype == matrix.rows.dtype
    return (table, matrix) if same else None


def sum_of_squares(uses: Sequence[Use], batch: int, device: torch.device) -> Tensor:
    """Return the squared norm of the sum of several uses of one parameter, cross terms included, for every example."""
    if not uses:
        return torch.zeros(batch, dtype=torch.float64, device=device)
    parts = _merged(uses) if len(uses) > 1 else list(uses)
    if len(parts) == 1:
        return parts[0].squares(batch)
    views = [part.source for part in parts]
    if all(
        isinstance(a, ParameterView) and isinstance(b, ParameterView) and a.apart(b) for a, b in combinations(views, 2)
    ):
        return torch.stack([part.squares(batch) for part in parts]).sum(0)
    tied = _tied(parts)
    if tied is not None:
        table, matrix = tied
        cross = _kernels.embedding_linear_dots(
            table.indices,
            table.grads,
            matrix.rows,
            matrix.columns,
            padding_idx=table.padding,
            threads=table.threads,
        )
        return (table.squares(batch) + matrix.squares(batch) + 2 * cross).clamp(min=0.0)
    return _squares_of_formed_sum(parts, batch, device)


def _squares_of_formed_sum(parts: Sequence[Use], batch: int, device: torch.device) -> Tensor:
    view = parts[0].source
    assert isinstance(view, ParameterView)
    out = torch.empty(batch, dtype=torch.float64, device=device)
    step = examples_per_chunk(max(view.span, *(part.entries for part in parts)))
    for low in range(0, batch, step):
        high = min(batch, low + step)
        total = torch.zeros(high - low, view.span, dtype=torch.float64, device=device)
        for part in parts:
            place = part.source
            assert isinstance(place, ParameterView)
            total.as_strided((high - low, *place.size), (view.span, *place.stride), place.offset).add_(
                part.dense(low, high)
            )
        out[low:high] = total.square().sum(1)
    return out
