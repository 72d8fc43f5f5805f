"""Norms of language models of transformers are those of single sentences, whatever the padding and the loss.

They are held against autograd in eval mode without ``.grad`` and, for one size, in training mode with it.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)
import zoo.torchvision_operators  # noqa: E402, F401  before transformers

pytest.importorskip("transformers", reason="these models are those of transformers", exc_type=ImportError)

from expunge.torch import UnsupportedLayerError  # noqa: E402
from zoo.language_models import (  # noqa: E402
    ROWS,
    assert_exact,
    batch_of,
    block_norms,
    build,
    loss_of,
    reduction_of,
)

BATCHES = (1, 2, 3, 5)
# Some models cast to float32 inside (their own loss, RMSNorm, softmax): scaled gradients are then rounded differently.
IN_FLOAT32 = 3e-6


def own_loss(model, given):
    """The loss that the model computes itself."""
    return model(**given).loss


def summed_loss(row):
    """A sum over examples of losses computed from what the model returns."""
    return lambda model, given: loss_of(row, model(**given), given)


CASES = [pytest.param(row, attention, id=f"{row}, {attention}") for row in ROWS for attention in row.attention]
ACCEPTED = [case for case in CASES if not case.values[0].refused]
REFUSED = [case for case in CASES if case.values[0].refused]


@pytest.mark.parametrize(("row", "attention"), ACCEPTED)
def test_norms_of_a_summed_loss_are_those_of_single_sentences(row, attention):
    model = build(row, attention)
    loss = summed_loss(row)
    for batch in BATCHES:
        assert_exact(model.eval(), batch_of(row, batch), loss, param_grads=False)
    given = batch_of(row, 3)
    model.train()
    loss(model, given).backward()
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
    for batch in (1, 3):
        given = batch_of(row, batch)
        settings = {**reduction_of(row, given), "check": 1 if batch == 3 else 0}
        assert_exact(model, given, own_loss, IN_FLOAT32, param_grads=False, **settings)


@pytest.mark.parametrize(("row", "attention"), [case for case in CASES if case.values[0].own_refused])
def test_losses_of_models_that_are_refused_say_why(row, attention):
    model, given = build(row, attention).eval(), batch_of(row, 3)
    with pytest.raises(UnsupportedLayerError, match=row.own_refused):
        block_norms(model, given, own_loss, **reduction_of(row, given))


@pytest.mark.parametrize(("row", "attention"), REFUSED)
def test_models_that_are_refused_say_why(row, attention):
    model, given = build(row, attention).eval(), batch_of(row, 3)
    with pytest.raises(UnsupportedLayerError, match=row.refused):
        block_norms(model, given, summed_loss(row))
