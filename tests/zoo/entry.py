"""What a model of the zoo is, and how its norms are held against autograd on batches of one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import Tensor, nn  # noqa: E402

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from torch_norms import gradients  # noqa: E402

BATCHES = (1, 2, 3, 5)
Inputs = Callable[[int], tuple[Tensor, ...]]


def tensors_of(output: Any) -> list[Tensor]:
    """Return the floating tensors in what a model returns, in order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() or output.is_complex() else []
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return [tensor for value in values for tensor in tensors_of(value)]


def loss_of(output: Any) -> Tensor:
    """Return a sum over examples of a function of everything that a model returns."""
    return sum(((t.abs() if t.is_complex() else t) * 1.3).sin().sum() for t in tensors_of(output))


class Architecture(NamedTuple):
    """A model and what it takes.

    ``build`` makes it, ``inputs`` its arguments for a number of examples, in the leading dimension of each; ``modes``
    are those of `nn.Module.train` in which examples do not meet; ``refused`` is what the error says where the norms
    are not given, "" where they are.
    """

    build: Callable[[], nn.Module]
    inputs: Inputs
    loss: Callable[[Any], Tensor] = loss_of
    modes: tuple[bool, ...] = (True, False)
    refused: str = ""


class Family(dict[str, Architecture]):
    """Architectures by name."""

    def __call__(self, name: str, inputs: Inputs, **settings: Any) -> Callable[[Any], Any]:
        """Enter what is decorated: a class of models without arguments, or a function that makes one."""

        def enter(build: Any) -> Any:
            self.add(name, build, inputs, **settings)
            return build

        return enter

    def add(self, name: str, build: Callable[[], nn.Module], inputs: Inputs, **settings: Any) -> None:
        """Enter one architecture."""
        assert name not in self, f"{name} is there already"
        self[name] = Architecture(build, inputs, **settings)


def values(*shape: int) -> Inputs:
    """Return normal inputs of this shape for every example."""
    return lambda batch: (torch.randn(batch, *shape, dtype=torch.float64),)


def tokens(length: int, words: int = 11) -> Inputs:
    """Return sequences of token numbers."""
    return lambda batch: (torch.randint(words, (batch, length)),)


def several(*parts: Inputs) -> Inputs:
    """Return several arguments."""
    return lambda batch: tuple(tensor for part in parts for tensor in part(batch))


def made(architecture: Architecture) -> nn.Module:
    """Return a model in float64 with parameters that are nowhere zero."""
    torch.manual_seed(5)
    model = architecture.build().double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, dtype=buffer.dtype, generator=generator))
    return model


def norms_alone(model: nn.Module, inputs: tuple[Tensor, ...], loss: Callable[[Any], Tensor]) -> np.ndarray:
    """Return the norms from autograd on one example at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for i in range(len(inputs[0])):
        grads = gradients(loss(model(*(t[i : i + 1] for t in inputs))), parameters)
        found.append(sum(float(g.to_dense().square().sum()) for g in grads if g is not None) ** 0.5)
    return np.array(found)


def assert_exact(architecture: Architecture) -> None:
    """The norms are those of single examples, and gradients stay what they are without a block."""
    model = made(architecture)
    inputs = architecture.inputs(max(BATCHES))
    for training in architecture.modes:
        model.train(training)
        expected = norms_alone(model, inputs, architecture.loss)
        assert np.all(expected > 1e-6)
        for batch in BATCHES:
            few = tuple(t[:batch] for t in inputs)
            assert_block(model, few, architecture.loss, expected[:batch], param_grads=training)
        assert_block(model, inputs, architecture.loss, expected, param_grads=not training)


def assert_block(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    loss: Callable[[Any], Tensor],
    expected: np.ndarray,
    *,
    param_grads: bool,
) -> None:
    """One block gives the norms expected; with ``param_grads`` also the gradients that there are without it."""
    plain: list[Tensor | None] = []
    model.zero_grad()
    if param_grads:
        loss(model(*inputs)).backward()
        plain = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        model.zero_grad()
    with GradNorms(model, param_grads=param_grads, threads=1) as g:
        loss(model(*inputs)).backward()
        norms = g.norms().numpy()
    np.testing.assert_allclose(norms, expected, rtol=1e-9, atol=1e-9 * expected.max(), err_msg=f"B = {len(inputs[0])}")
    for parameter, grad in zip(model.parameters(), plain, strict=False):
        if grad is not None:
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-10, atol=1e-11)
    if not param_grads:
        assert all(p.grad is None for p in model.parameters())


def assert_refused(architecture: Architecture) -> None:
    """No norms are given, with the message expected, at several examples."""
    model = made(architecture).train(architecture.modes[0])
    inputs = architecture.inputs(3)
    with pytest.raises(UnsupportedLayerError, match=architecture.refused), GradNorms(model, threads=1) as g:  # noqa: PT012
        architecture.loss(model(*inputs)).backward()
        g.norms()


def takes_no_examples(architecture: Architecture) -> bool:
    """Give the model an empty batch: False if it fails by itself on one, else its norms are none."""
    model = made(architecture).train(architecture.modes[-1])
    inputs = tuple(t[:0] for t in architecture.inputs(1))
    try:
        architecture.loss(model(*inputs)).backward()
    except Exception:  # whatever a model raises on nothing
        return False
    with GradNorms(model, threads=1) as g:
        architecture.loss(model(*inputs)).backward()
        assert g.norms().shape == (0,)
    return True
