"""Modules of PyTorch as backbones: only frozen ones, in evaluation mode, that look at each record by itself."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402

from expunge import CertifiedHead, NewtonLogisticRegression  # noqa: E402
from expunge.certificates.network import verify, weights_digest  # noqa: E402
from expunge.torch import Privacy, UnsupportedLayerError, train  # noqa: E402
from small_training import data, network, shaken  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

INPUTS, TARGETS = data()
SETTINGS = {"step_size": 0.4, "n_steps": 12, "collect": "none", "progress": False}


def on_top(module, source="data-independent", **more):
    return CertifiedHead(module, NewtonLogisticRegression(classes=[0, 1, 2]), backbone=source, **more)


def test_a_module_stays_as_it_is_and_its_features_are_its_own():
    module = shaken(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5))).eval()
    before = weights_digest(module)
    for inputs in (INPUTS, INPUTS.numpy(), INPUTS.float().numpy()):
        model = on_top(module).fit(inputs, TARGETS)
        with torch.no_grad():
            expected = torch.stack([module(torch.as_tensor(inputs[i : i + 1]).double())[0] for i in range(60)])
        np.testing.assert_array_equal(model.features_, expected.numpy())
        assert model.certificate_.status == "certified"
    assert model.certificate_.backbone.weights == before == weights_digest(module)
    assert all(p.requires_grad for p in module.parameters())
    assert all(p.grad is None for p in module.parameters())
    assert model.unlearn([1, 2]).model.score(INPUTS, TARGETS) > 0.5


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.BatchNorm1d(8), "1"), (nn.Dropout(0.5), "1"), (nn.Sequential(nn.Dropout(0.1)), "1")]
)
def test_training_mode_is_refused_with_the_layer(layer, name):
    module = nn.Sequential(nn.Linear(6, 8), layer).double()
    with pytest.raises(ValueError, match=r"features must be in evaluation mode.*call features.eval\(\)"):
        on_top(module).fit(INPUTS, TARGETS)
    module.eval()
    module[1].train()
    with pytest.raises(ValueError, match=rf"got its part '{name}' \({type(layer).__name__}\) in training mode"):
        on_top(module).fit(INPUTS, TARGETS)


class Beside(nn.Module):
    """A map whose matrix is a plain attribute, a buffer that is not kept, or a buffer."""

    def __init__(self, how):
        super().__init__()
        matrix = torch.eye(6, 8)
        if how == "attribute":
            self.matrix = matrix
        else:
            self.register_buffer("matrix", matrix, persistent=how == "kept")

    def forward(self, x):
        return x @ self.matrix.to(x)


@pytest.mark.parametrize("how", ["attribute", "passing"])
def test_tensors_that_no_digest_sees_are_refused(how):
    """They could be changed between the fit and a deletion, or hold what was learned from the records."""
    with pytest.raises(ValueError, match=r"got 'matrix' of its part '0' \(Beside\) beside it: make it a parameter"):
        on_top(nn.Sequential(Beside(how), nn.Tanh()).eval()).fit(INPUTS.float(), TARGETS)
    kept = Beside("kept").eval()
    model = on_top(kept).fit(INPUTS.float(), TARGETS)
    kept.matrix += 1.0
    with pytest.raises(ValueError, match="features must have the weights of the fit"):
        model.unlearn(1)


class Drawing(nn.Module):
    """Dropout that does not ask for the mode."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


@pytest.mark.parametrize("size", [1, 8])
def test_dropout_that_is_always_on_is_refused(size):
    with pytest.raises(ValueError, match=r"must be a function of that record alone.*dropout"):
        on_top(Drawing().eval(), batch_size=size).fit(INPUTS, TARGETS)


def test_normalisation_by_the_batch_is_refused_where_there_is_a_batch():
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False)).double().eval()
    with pytest.raises(ValueError, match=r"must be a function of that record alone|Expected more than 1 value"):
        on_top(module, batch_size=20).fit(INPUTS, TARGETS)
    kept = shaken(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))).eval()
    model = on_top(kept, batch_size=20).fit(INPUTS, TARGETS)
    assert model.certificate_.status == "conditional"
    np.testing.assert_allclose(model.features_, on_top(kept).fit(INPUTS, TARGETS).features_, rtol=1e-12)


def test_other_shapes_and_numbers_than_features_are_refused():
    images = torch.randn(20, 1, 4, 4)
    labels = torch.arange(20) % 3
    convolution = nn.Conv2d(1, 2, 3).eval()
    with pytest.raises(ValueError, match=r"shape \(1, d\) for 1 records, got \(1, 2, 2, 2\): end a module by"):
        on_top(convolution).fit(images, labels)
    model = on_top(nn.Sequential(convolution, nn.Flatten()).eval()).fit(images, labels)
    assert model.features_.shape == (20, 8)
    short = on_top(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).bfloat16().eval(), batch_size=7).fit(images, labels)
    assert np.isfinite(short.features_).all()
    tokens = torch.arange(40).reshape(20, 2) % 5
    assert on_top(nn.Sequential(nn.Embedding(5, 3), nn.Flatten()).eval()).fit(tokens, labels).features_.shape == (20, 6)


def test_private_training_and_a_head_forget_together():
    net = network()
    run = train(net, (INPUTS, TARGETS), batch_size=60, privacy=Privacy(epsilon=2.0, delta=1e-5, clip=1.0), **SETTINGS)
    features = net[:2].eval()
    other = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).to(INPUTS.dtype).eval()
    with pytest.raises(
        ValueError,
        match=r"that the run of backbone= ended with, got others in '0\.weight'",
    ):
        on_top(other, run).fit(INPUTS, TARGETS)
    model = on_top(features, run).fit(INPUTS, TARGETS)
    assert model.certificate_.epsilon == 1.0
    assert model.certificate_.backbone.training == run.privacy.mechanism
    result = model.unlearn([5, 9])
    left = result.model
    head = left.head_.certificate_.mu * 100
    assert result.certificate.mu == pytest.approx(np.hypot(2 * run.privacy.mu, head), rel=1e-9)
    assert result.certificate.one.epsilon == pytest.approx(run.privacy.joint_epsilon(mu=head), rel=1e-9)
    assert result.certificate.epsilon == pytest.approx(run.privacy.joint_epsilon(mu=head, size=2), rel=1e-9)
    report = verify(result.certificate, left.features_, TARGETS.numpy()[left.ids_], ids=left.ids_,
                    evidence=result.evidence, backbone=features, released=left.release())  # fmt: skip
    assert (report.n_deleted, report.weights_checked) == (2, True)
    with torch.no_grad():
        features[0].weight[0, 0] += 1e-6
    with pytest.raises(ValueError, match="features must have the weights of the fit"):
        left.unlearn(1)


def test_poisson_batches_and_runs_without_privacy():
    asked = Privacy(epsilon=2.0, delta=1e-5, clip=1.0)
    net = network()
    run = train(net, (INPUTS, TARGETS), batch_size=12, privacy=asked, **SETTINGS)
    certificate = on_top(net[:2].eval(), run.privacy).fit(INPUTS, TARGETS).unlearn([5, 9, 11]).certificate
    assert (certificate.mu, certificate.accountant) == (None, "rdp")
    head = certificate.head.mu * 100
    assert certificate.epsilon == pytest.approx(run.privacy.joint_epsilon(mu=head, size=3), rel=1e-8)
    assert certificate.one.epsilon < certificate.epsilon
    plain = train(network(), (INPUTS, TARGETS), batch_size=12, **SETTINGS)
    with pytest.raises(ValueError, match="trained without privacy="):
        on_top(net[:2].eval(), plain).fit(INPUTS, TARGETS)
    with pytest.raises(UnsupportedLayerError, match="batch normalisation in training mode"):
        train(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), (INPUTS.float(), TARGETS), batch_size=12,
              privacy=asked, **SETTINGS)  # fmt: skip


def test_digests_of_modules_are_those_of_their_numbers():
    module = shaken(nn.Linear(3, 2))
    arrays = {name: value.detach().numpy() for name, value in module.named_parameters()}
    assert weights_digest(module) == weights_digest(module.state_dict()) == weights_digest(arrays)
    half = module.bfloat16()
    assert weights_digest(half) != weights_digest(half.float())
