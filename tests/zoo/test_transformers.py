"""Norms of language models of transformers are those of single sentences, whatever the padding and the loss.

They are held against autograd in eval mode without ``.grad`` and, for one size, in training mode with it.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)
pytest.importorskip("transformers", reason="these models are those of transformers", exc_type=ImportError)

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from zoo.language_models import ROWS, batch_of, build, loss_of, reduction_of  # noqa: E402

BATCHES = (1, 2, 3, 5)
# Some models cast to float32 inside (their own loss, RMSNorm, softmax): scaled gradients are then rounded differently.
IN_FLOAT32 = 3e-6


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks are done sooner by one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def single_norms(model, given, loss):
    """Norms from autograd on one example at a time, padding and all."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    out = []
    for i in range(len(given["input_ids"])):
        one = {name: tensor[i : i + 1] for name, tensor in given.items()}
        grads = torch.autograd.grad(loss(model(**one), one), parameters, allow_unused=True)
        out.append(sum(float(g.square().sum()) for g in grads if g is not None) ** 0.5)
    return np.array(out)


def block_norms(model, given, loss, **settings):
    with GradNorms(model, **settings) as g:
        loss(model(**given), given).backward()
        return g.norms().numpy()


def assert_exact(model, given, loss, rtol=1e-9, **settings):
    expected = single_norms(model, given, loss)
    assert np.all(np.isfinite(expected))
    assert np.all(expected > 0)
    found = block_norms(model, given, loss, **settings)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * expected.max())


def own_loss(output, given):
    """The loss that the model computes itself."""
    return output.loss


CASES = [pytest.param(row, attention, id=f"{row}, {attention}") for row in ROWS for attention in row.attention]
ACCEPTED = [case for case in CASES if not case.values[0].refused]
REFUSED = [case for case in CASES if case.values[0].refused]


@pytest.mark.parametrize(("row", "attention"), ACCEPTED)
def test_norms_of_a_summed_loss_are_those_of_single_sentences(row, attention):
    model = build(row, attention)

    def loss(output, given):
        return loss_of(row, output, given)

    for batch in BATCHES:
        assert_exact(model.eval(), batch_of(row, batch), loss, param_grads=False)
    given = batch_of(row, 3)
    model.train()
    loss(model(**given), given).backward()
    plain = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    assert_exact(model, given, loss, param_grads=True)
    for parameter, grad in zip(model.parameters(), plain, strict=True):
        if grad is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-9, atol=1e-10)


def has_own_loss(row):
    return row.task != "hidden" and not row.own_refused


@pytest.mark.parametrize(("row", "attention"), [case for case in ACCEPTED if has_own_loss(case.values[0])])
def test_norms_of_the_model_own_loss_are_those_of_single_sentences(row, attention):
    model = build(row, attention).eval()
    for batch in BATCHES:
        given = batch_of(row, batch)
        assert_exact(model, given, own_loss, IN_FLOAT32, param_grads=False, **reduction_of(row, given))


@pytest.mark.parametrize(("row", "attention"), [case for case in CASES if case.values[0].own_refused])
def test_losses_of_models_that_are_refused_say_why(row, attention):
    model, given = build(row, attention).eval(), batch_of(row, 3)
    with pytest.raises(UnsupportedLayerError, match=row.own_refused):
        block_norms(model, given, own_loss, **reduction_of(row, given))


@pytest.mark.parametrize(("row", "attention"), REFUSED)
def test_models_that_are_refused_say_why(row, attention):
    model, given = build(row, attention).eval(), batch_of(row, 3)
    with pytest.raises(UnsupportedLayerError, match=row.refused):
        block_norms(model, given, lambda output, given: loss_of(row, output, given))
