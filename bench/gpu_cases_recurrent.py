"""Recurrent layers: all steps of an LSTM forward and backward, held against autograd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpu_cases import Case, Plan
from gpu_device import Device, nbytes, worst

_TRUTH = "PyTorch's autograd in float64 on the device, every sequence"
_LSTM = {"cell": 0, "backwards": False}
_TOLERANCE = 1e-5  # of entries of about 1 after a few dozen steps in float32


class Layer:
    """An LSTM of random weights on random sums of gates, and the truth of its steps."""

    def __init__(self, on: Device, sequences: int, steps: int, width: int) -> None:
        self.on = on
        self.sums, self.weight = on.normal(sequences, steps, 4 * width), on.normal(4 * width, width) / width**0.5
        self.bias, self.hidden, self.cells = on.normal(4 * width), *(on.normal(sequences, width) for _ in range(2))
        single = on.torch.float32
        self.before, self.kept = (on.empty(sequences, steps, width, dtype=single) for _ in range(2))
        self.outputs = on.empty(steps, sequences, width, dtype=single)
        self.flops = 2.0 * self.sums.numel() * width

    def truth(self, sums: Any, hidden: Any, cells: Any) -> tuple[Any, Any, Any]:
        """Return gates, cells and states of all steps, sequences in front, by operations of PyTorch."""
        torch, weight, bias = self.on.torch, self.weight.double(), self.bias.double()
        found: list[tuple[Any, Any, Any]] = []
        for inputs in sums.unbind(1):
            i, f, g, o = (inputs + hidden @ weight.mT + bias).chunk(4, 1)
            gates = torch.cat([i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()], 1)
            i, f, g, o = gates.chunk(4, 1)
            cells = f * cells + i * g
            hidden = o * cells.tanh()
            found.append((gates, cells, hidden))
        gates, cells, hidden = (torch.stack(each, 1) for each in zip(*found, strict=True))
        return gates, cells, hidden


def states(on: Device, sequences: int, steps: int, width: int) -> Case:
    layer = Layer(on, sequences, steps, width)
    gates = layer.sums.clone()
    arguments = gates, layer.weight, layer.bias, layer.hidden, layer.cells, layer.before, layer.outputs, layer.kept
    run = on.direct("recurrent_states", *arguments, **_LSTM)

    def check() -> float:
        gates.copy_(layer.sums)
        run()
        truth = layer.truth(layer.sums.double(), layer.hidden.double(), layer.cells.double())
        before = on.torch.cat([layer.hidden.double()[:, None], truth[2][:, :-1]], 1)
        found = gates, layer.kept, layer.outputs.transpose(0, 1), layer.before
        return max(worst(one, two, _TOLERANCE) for one, two in zip(found, (*truth, before), strict=True))

    return Case(check, _TRUTH, run, bytes=nbytes(gates, *arguments), flops=layer.flops)


def grads(on: Device, sequences: int, steps: int, width: int) -> Case:
    layer = Layer(on, sequences, steps, width)
    given = [t.double().requires_grad_() for t in (layer.sums, layer.hidden, layer.cells)]
    gates, kept, outputs = layer.truth(*given)
    of_outputs, of_hidden, of_cells = (on.normal(*t.shape) for t in (outputs, layer.hidden, layer.cells))
    loss = (outputs * of_outputs).sum() + (outputs[:, -1] * of_hidden).sum() + (kept[:, -1] * of_cells).sum()
    expected = on.torch.autograd.grad(loss, given)
    gates, kept = (t.detach().float().contiguous() for t in (gates, kept))
    gate_grads, hidden_grads, cell_grads = on.torch.zeros_like(gates), of_hidden.clone(), of_cells.clone()
    run = on.direct(
        "recurrent_grads", of_outputs, gates, layer.weight, None, layer.cells, kept, gate_grads, None, hidden_grads,
        cell_grads, **_LSTM,
    )  # fmt: skip

    def check() -> float:
        hidden_grads.copy_(of_hidden)
        cell_grads.copy_(of_cells)
        run()
        found = gate_grads, hidden_grads, cell_grads
        return max(
            worst(one, two, _TOLERANCE * max(1.0, float(two.abs().max())))
            for one, two in zip(found, expected, strict=True)
        )

    return Case(check, _TRUTH, run, bytes=nbytes(of_outputs, gates, kept, gate_grads), flops=layer.flops)


def plans(on: Device) -> Iterator[Plan]:
    shape = on.pick((1024, 64, 128), (5, 4, 19))
    what = "LSTM, {} sequences of {} steps, {} units".format(*shape)
    yield Plan("recurrent_states", what, lambda: states(on, *shape))
    yield Plan("recurrent_grads", what, lambda: grads(on, *shape))
