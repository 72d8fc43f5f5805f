"""GradNorms on devices: models whose tensors go to the CUDA kernels (emulated), other devices, torch.compile."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs torch")

from emulated import DEVICES, Array, host, put  # noqa: E402
from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from expunge.torch import _kernels as kernels  # noqa: E402

nn = torch.nn
emulated = pytest.mark.skipif("cuda_emul" not in DEVICES, reason="build with -C cmake.define.EXPUNGE_CUDA_EMUL=ON")


class Everything(nn.Module):
    """Every kind of use that has a kernel, an embedding tied to a head among them."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8, padding_idx=0)
        self.conv = nn.Conv1d(8, 6, 3, padding=1, groups=2)
        self.group = nn.GroupNorm(3, 6)
        self.linear = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, tokens):
        h = self.group(self.conv(self.table(tokens).transpose(1, 2))).relu()
        h = self.norm(self.linear(h.transpose(1, 2))) * self.scale
        return nn.functional.linear(h, self.table.weight)


def per_layer_norms(model, tokens, **options):
    with GradNorms(model, **options) as g:
        model(tokens).square().sum().backward()
        return g.norms(per_layer=True), g.norms()


@emulated
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("param_grads", [False, True])
def test_a_model_on_a_device_gets_the_norms_of_the_cpu(monkeypatch, autocast, param_grads):
    """Its tensors go to the CUDA kernels as they are, and results come back as tensors of that device."""
    torch.manual_seed(0)
    model = Everything() if autocast else Everything().double()
    tokens = torch.randint(0, 11, (4, 7))
    taken = []

    def there(tensor, *, half=False):
        tensor = tensor.detach()
        taken.append(tensor)
        return put((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy(), "cuda_emul")

    def back(found):
        assert isinstance(found, Array)
        return torch.from_numpy(host(found))

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected, expected_total = per_layer_norms(model, tokens, param_grads=param_grads)
        monkeypatch.setattr(kernels, "as_array", there)
        monkeypatch.setattr(kernels, "as_tensor", back)
        found, total = per_layer_norms(model, tokens, param_grads=param_grads)
    assert len(taken) >= 8
    assert (torch.bfloat16 in {t.dtype for t in taken}) == autocast
    rtol = 1e-5 if autocast else 1e-12
    for name, norms in expected.items():
        np.testing.assert_allclose(found[name].numpy(), norms.numpy(), rtol=rtol, atol=rtol, err_msg=name)
    torch.testing.assert_close(total, expected_total, rtol=rtol, atol=rtol)


def test_other_devices_are_refused_by_name():
    with pytest.raises(UnsupportedLayerError, match="weight: it is on meta; kernels run on the CPU and on CUDA"):
        GradNorms(nn.Linear(2, 3, device="meta")).__enter__()


def test_norms_lie_on_the_parameters_device():
    model = nn.Linear(3, 2)
    with GradNorms(model) as g:
        model(torch.ones(2, 3)).sum().backward()
        assert g.norms().device == model.weight.device


def test_compiled_models_are_refused():
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].compile(backend="eager")
    with pytest.raises(UnsupportedLayerError, match=r"0: it is compiled.*call the original module"):
        GradNorms(model).__enter__()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("autocast", [False, True])
def test_a_model_on_a_gpu_gets_the_norms_of_the_cpu(autocast):
    torch.manual_seed(0)
    model, tokens = Everything().double() if not autocast else Everything(), torch.randint(0, 11, (4, 7))
    expected, _ = per_layer_norms(model, tokens)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        found, total = per_layer_norms(model.cuda(), tokens.cuda())
    assert total.is_cuda
    for name, norms in expected.items():
        rtol = 0.05 if autocast else 1e-10
        np.testing.assert_allclose(found[name].cpu().numpy(), norms.numpy(), rtol=rtol, atol=rtol)
