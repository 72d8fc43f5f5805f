"""Small linear layers settled together at the end of a backward pass: a kernel's call costs more than their norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from expunge.torch import _kernels
from expunge.torch._kernels import Squares
from expunge.torch._stand_ins import told_nothing

__all__ = ["SmallLayers"]

_SMALL = 1 << 18  # numbers in the inputs and gradients of a layer that waits for others
_MOST = 1 << 21  # numbers in all that wait

Fail = Callable[[Sequence[int], str], None]


class SmallLayers:
    """Inputs and output gradients of layers, kept until `settle`."""

    def __init__(self, settled: dict[int, Squares], fail: Fail, threads: int | None) -> None:
        self.settled, self.fail, self.threads = settled, fail, threads
        self.waiting: list[tuple[int, int, Tensor, Tensor, int, int]] = []
        self.numbers = 0

    def take(self, matrix: int, vector: int, x: Tensor, grad: Tensor) -> bool:
        """Keep the arrays of a weight and its bias, if they are small; they count as settled from here on."""
        numbers = x.numel() + grad.numel()
        if numbers > _SMALL or not _kernels.is_plain(x) or not _kernels.is_plain(grad):
            return False
        self.numbers += numbers
        self.waiting.append((matrix, vector, x, grad, x._version, grad._version))
        self.settled[matrix] = self.settled[vector] = grad  # until the squares take its place
        if self.numbers > _MOST:
            self.settle()
        return True

    def settle(self) -> None:
        """Take the squares of all that waits; norms are refused where something wrote into it meanwhile."""
        waiting, self.waiting, self.numbers = self.waiting, [], 0
        if not waiting:
            return
        for matrix, vector, x, grad, version, grad_version in waiting:
            if x._version != version or grad._version != grad_version:
                self.fail((matrix, vector), "its input, or a gradient, was modified in place in the backward pass")
        squares = _kernels.squares_of_layers([entry[2:4] for entry in waiting], threads=self.threads)
        for row, (matrix, vector, *_) in zip(range(0, len(squares), 2), waiting, strict=True):
            self.settled[matrix], self.settled[vector] = squares[row], squares[row + 1]

    def close(self) -> None:
        """Forget all, and who is told of failures: a cycle would wait for the garbage collector."""
        self.clear()
        self.fail = told_nothing

    def clear(self) -> None:
        """Forget what waits."""
        self.waiting.clear()
        self.numbers = 0
