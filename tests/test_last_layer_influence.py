"""Influence on the last layer of networks: the features it reads, with the head fitted again in plain NumPy."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402

from expunge.evaluation import influence  # noqa: E402
from expunge.evaluation.networks import last_layer_influence  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def network(*, bias=True, outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, outputs, bias=bias))


def records(n=50, classes=3):
    torch.manual_seed(1)
    return torch.randn(n, 4), torch.arange(n) % classes


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_influence_on_what_the_layer_reads(bias):
    model, (x, y) = network(bias=bias), records()
    model.train()
    with torch.no_grad():
        features = torch.tanh(model[0](x)).double().numpy()  # in eval mode: nothing is dropped
    if bias:
        features = np.hstack([features, np.ones((50, 1))])
    found = last_layer_influence(model, (x, y), alpha=0.5, batch_size=7)
    np.testing.assert_allclose(found, influence(features, y.numpy(), loss="softmax", alpha=0.5), rtol=1e-6)
    assert found.status == "estimate"
    assert model.training, "the mode was not restored"
    assert not model[3]._forward_hooks
    other = last_layer_influence(model, (x, y), alpha=0.5, loss="logistic")
    np.testing.assert_allclose(other, influence(features, y.numpy(), loss="logistic", alpha=0.5), rtol=1e-6)


def test_one_output_is_two_classes():
    model, (x, y) = network(outputs=1), records(classes=2)
    found = last_layer_influence(model, (x, y), alpha=1.0)
    assert found.shape == (50,)
    with pytest.raises(ValueError, match="loss must be 'logistic' for a last layer with one output"):
        last_layer_influence(model, (x, y), alpha=1.0, loss="softmax")


def test_wide_heads_go_class_by_class(monkeypatch):
    model, data = network(), records()
    wide = last_layer_influence(model, data, alpha=1.0, loss="logistic")
    monkeypatch.setattr("expunge.evaluation.networks.last_layer._MOST_JOINT", 20)
    np.testing.assert_array_equal(last_layer_influence(model, data, alpha=1.0), wide)


def test_classes_that_no_record_has_count():
    model, (x, y) = network(outputs=5), records()
    with torch.no_grad():
        features = np.hstack([torch.tanh(model[0](x)).double().numpy(), np.ones((50, 1))])
    wanted = influence(features, y.numpy(), loss="softmax", alpha=1.0, n_classes=5)
    np.testing.assert_allclose(last_layer_influence(model, (x, y), alpha=1.0), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1)),
        nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3)),
        nn.Identity(),
    ],
)
def test_models_that_end_in_something_else_are_refused(model):
    with pytest.raises(ValueError, match=r"model must return what a torch\.nn\.Linear makes of one vector a record"):
        last_layer_influence(model, records(), alpha=1.0)
    assert not any(module._forward_hooks for module in model.modules())


def test_labels_beyond_the_outputs_and_bad_losses_are_refused():
    x, _ = records()
    with pytest.raises(ValueError, match="y must hold the classes"):
        last_layer_influence(network(), (x, torch.full((50,), 3)), alpha=1.0)
    with pytest.raises(ValueError, match="loss must be one of 'softmax', 'logistic'"):
        last_layer_influence(network(), records(), alpha=1.0, loss="squared")
