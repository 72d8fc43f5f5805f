"""Per-example gradient norms by autograd on batches of one, and models to hold against them."""

import numpy as np
import torch
from torch import nn

from expunge.torch import GradNorms


class Calls(nn.Module):
    """A model made of a function of its modules and its input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


class TurnedBack(torch.autograd.Function):
    """Examples stay, their gradients do not."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, grad):
        return grad.flip(0)


def parameter(*shape):
    return nn.Parameter(torch.randn(shape, dtype=torch.float64))


def loss_of(output):
    output = output[0] if isinstance(output, tuple) else output
    return (output.abs() if output.is_complex() else output).sin().sum()


def gradients(loss, parameters):
    """Return what a backward pass accumulates; checkpoints with re-entry allow no other."""
    held = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    loss.backward()
    found = [p.grad for p in parameters]
    for p, grad in zip(parameters, held, strict=True):
        p.grad = grad
    return found


def single_norms(model, x, loss=loss_of):
    """Norms over all parameters from autograd on one example at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    out = []
    for i in range(len(x)):
        grads = gradients(loss(model(x[i : i + 1])), parameters)
        out.append(sum(float(g.square().sum()) for g in grads if g is not None) ** 0.5)
    return np.array(out)


def norms_of_rows(model, losses):
    """Norms of the gradient of each example's loss, where examples cannot be put through the model alone."""
    parameters = list(model.parameters())
    grads = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return [sum(float(g.square().sum()) for g in own) ** 0.5 for own in grads]


def block_norms(model, x, loss=loss_of, **settings):
    """Norms from one block."""
    with GradNorms(model, **settings) as g:
        loss(model(x)).backward()
        return g.norms().numpy()


def assert_exact(model, x, loss=loss_of, rtol=1e-9, **settings):
    """The norms are those of single examples, and ``.grad`` is what it is without the block."""
    model = model.double()
    x = x.double() if x.is_floating_point() else x
    expected = single_norms(model, x, loss)
    assert np.all(expected > 0)
    model.zero_grad()
    loss(model(x)).backward()
    plain = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    for param_grads in (True, False):
        model.zero_grad()
        found = block_norms(model, x, loss, param_grads=param_grads, **settings)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * expected.max())
        for parameter_, grad in zip(model.parameters(), plain, strict=True):
            if param_grads and grad is not None:
                torch.testing.assert_close(parameter_.grad, grad, rtol=1e-10, atol=1e-11)
            else:
                assert parameter_.grad is None
    model.zero_grad()


def assert_exact_at_all_sizes(function, parts, shape, loss=loss_of, batches=(1, 2, 3, 5), rtol=1e-9):
    """The norms of a model made anew of a function and of parts (each called) are exact for batches of every size."""
    for batch in batches:
        torch.manual_seed(0)
        model = Calls(function, **{name: part() for name, part in parts.items()})
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch)).double()
        assert_exact(model, x, loss, rtol)


class Constant(nn.Module):
    """A buffer of numbers that are all different."""

    def __init__(self, *shape):
        super().__init__()
        self.register_buffer("t", torch.linspace(-1, 1, int(np.prod(shape))).double().view(shape).mul(5).sin())
