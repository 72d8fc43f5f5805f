"""``torch.ops.expunge``: every operator gives what its function gives, and stays whole under ``torch.compile``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.library import opcheck  # noqa: E402

from expunge import grad_norms  # noqa: E402
from expunge.torch import ops  # noqa: E402

DTYPES = [torch.float32, torch.float64]


def normal(*shape: int, dtype: Any = torch.float64, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def whole(high: int, *shape: int) -> Any:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(9))


def calls(dtype: Any) -> dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Return an operator, its tensors and its settings for every kind of layer."""

    def n(*shape: int, seed: int = 0) -> Any:
        return normal(*shape, dtype=dtype, seed=seed)

    conv = {"padding": [1], "padding_mode": "circular", "groups": 2}
    return {
        "linear": ("linear_grad_norms", (n(5, 4, 3), n(5, 4, 6, seed=1)), {"bias": False}),
        "linear apart": ("linear_grad_norms", (n(5, 3), n(5, 6, seed=1)), {"per_parameter": True, "threads": 1}),
        "dots": ("linear_grad_dots", (n(5, 4, 3), n(5, 4, 6, seed=1), n(5, 2, 3, seed=2), n(5, 2, 6, seed=3)), {}),
        "conv1d": ("conv_grad_norms", (n(4, 2, 8), n(4, 4, 8, seed=1)), {"kernel_size": [3], **conv}),
        "conv2d": ("conv_grad_norms", (n(4, 2, 5, 6), n(4, 4, 5, 6, seed=1)), {"kernel_size": [3, 3], **conv}),
        "conv3d": (
            "conv_grad_norms",
            (n(4, 2, 5, 4, 3), n(4, 4, 3, 2, 2, seed=1)),
            {"kernel_size": [3, 3, 2], "squared": True, "per_parameter": True},
        ),
        "embedding": ("embedding_grad_norms", (whole(7, 5, 9), n(5, 9, 4)), {"padding_idx": 2}),
        "head": (
            "embedding_linear_grad_dots",
            (whole(7, 5, 9), n(5, 9, 4), n(5, 3, 7, seed=1), n(5, 3, 4, seed=2)),
            {"padding_idx": 2},
        ),
        "layer norm": ("norm_layer_grad_norms", (n(5, 4, 6), n(5, 4, 6, seed=1)), {"per_parameter": True}),
        "group norm": (
            "norm_layer_grad_norms",
            (n(5, 6, 4), n(5, 6, 4, seed=1)),
            {"kind": "group", "num_groups": 3, "eps": 0.1},
        ),
        "probe": ("probe_grad_norms", (n(9, 4), n(4, 3, seed=1), whole(3, 9)), {}),
        "probes": ("probe_grad_norms", (n(9, 4), n(2, 4, 3, seed=1), whole(3, 9)), {"alpha": 0.5}),
        "probes, weighted": (
            "probe_grad_norms",
            (n(9, 4), n(2, 4, 1, seed=1), n(9, 1, seed=2), torch.tensor([0.5, 2.0], dtype=torch.float64)),
            {"loss": "squared"},
        ),
    }


LABELS = list(calls(torch.float64))


def in_numpy(name: str, tensors: tuple[Any, ...], settings: dict[str, Any]) -> Any:
    """Return what the function on arrays gives."""
    arrays = [tensor.numpy() for tensor in tensors]
    if name == "probe_grad_norms" and len(arrays) == 4:
        settings = settings | {"checkpoint_weights": arrays.pop()}
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    settings = {key: value[0] if isinstance(value, tuple) and len(value) == 1 else value
                for key, value in settings.items()}  # fmt: skip
    return getattr(grad_norms, name)(*arrays, **settings)


def operator(name: str) -> Any:
    return getattr(torch.ops.expunge, name).default


def test_every_kernel_of_grad_norms_is_an_operator() -> None:
    made_of_kernels = {"GroupNorms", "group_grad_norms"}
    assert set(ops.__all__) == set(grad_norms.__all__) - made_of_kernels
    assert {name for name, _, _ in calls(torch.float64).values()} == set(ops.__all__)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("label", LABELS)
def test_an_operator_gives_what_its_function_gives(label: str, dtype: Any) -> None:
    name, tensors, settings = calls(dtype)[label]
    found = operator(name)(*tensors, **settings)
    assert found.dtype is torch.float64
    np.testing.assert_array_equal(found.numpy(), in_numpy(name, tensors, settings))
    np.testing.assert_array_equal(getattr(ops, name)(*tensors, **settings).numpy(), found.numpy())


@pytest.mark.parametrize("label", LABELS)
def test_any_layout_of_memory_is_read(label: str) -> None:
    name, tensors, settings = calls(torch.float64)[label]
    spread = [tensor.repeat_interleave(2, dim=-1)[..., ::2] if tensor.ndim else tensor for tensor in tensors]
    assert not any(tensor.is_contiguous() for tensor in spread if tensor.shape[-1] > 1)
    np.testing.assert_array_equal(operator(name)(*spread, **settings), operator(name)(*tensors, **settings))


@pytest.mark.parametrize("label", LABELS)
def test_operators_pass_the_checks_of_torch(label: str) -> None:
    # Schema, fake kernel against the real one (static and dynamic shapes), and what autograd is told.
    name, tensors, settings = calls(torch.float32)[label]
    opcheck(operator(name), tensors, settings)


@pytest.mark.parametrize("per_parameter", [False, True])
def test_an_empty_result_has_the_strides_of_the_fake_one(per_parameter: bool) -> None:
    empty = normal(0, 4, 3)
    found = torch.ops.expunge.linear_grad_norms(empty, empty, per_parameter=per_parameter)
    fake = torch.ops.expunge.linear_grad_norms(empty.to("meta"), empty.to("meta"), per_parameter=per_parameter)
    assert (found.shape, found.stride()) == (fake.shape, fake.stride())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("label", LABELS)
def test_compiled_code_calls_operators_without_a_break(label: str, backend: str) -> None:
    name, tensors, settings = calls(torch.float64)[label]

    def doubled(*given: Any) -> Any:
        return 2 * getattr(torch.ops.expunge, name)(*(t.clone() for t in given), **settings) + 1

    torch.compiler.reset()
    found = torch.compile(doubled, fullgraph=True, backend=backend)(*tensors)
    np.testing.assert_array_equal(found.numpy(), doubled(*tensors).numpy())


def test_compiled_code_takes_other_numbers_of_examples() -> None:
    torch.compiler.reset()
    compiled = torch.compile(
        lambda a, g: torch.ops.expunge.linear_grad_norms(a, g, per_parameter=True).sum(0),
        fullgraph=True,
        backend="aot_eager",
        dynamic=True,
    )
    for n in (5, 3, 0, 1):
        a, g = normal(n, 2, 3), normal(n, 2, 4, seed=1)
        expected = grad_norms.linear_grad_norms(a.numpy(), g.numpy(), per_parameter=True).sum(0)
        np.testing.assert_array_equal(compiled(a, g).numpy(), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own making
def test_inductor_calls_operators() -> None:
    a, g = normal(5, 2, 3), normal(5, 2, 4, seed=1)

    def shifted(a: Any, g: Any) -> Any:
        return torch.ops.expunge.linear_grad_norms(torch.relu(a), g) + 1

    torch.compiler.reset()
    try:
        found = torch.compile(shifted, fullgraph=True, backend="inductor")(a, g)
    except Exception as error:
        if "InvalidCxxCompiler" not in f"{type(error)} {error!r} {error.__cause__!r}":
            raise
        pytest.skip("inductor finds no C++ compiler")
    np.testing.assert_array_equal(found.numpy(), shifted(a, g).numpy())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(half: Any) -> None:
    a, g = normal(5, 2, 3, dtype=half), normal(5, 2, 4, dtype=half, seed=1)
    found = torch.ops.expunge.linear_grad_norms(a, g)
    np.testing.assert_array_equal(found, torch.ops.expunge.linear_grad_norms(a.float(), g.float()))


def test_backward_through_a_norm_is_refused() -> None:
    a, g = normal(5, 2, 3).requires_grad_(), normal(5, 2, 4, seed=1)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        torch.ops.expunge.linear_grad_norms(a, g).sum().backward()


def test_what_is_wrong_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"output_grads must have leading shape \(5, 2\) like activations, got \(5,\)"):
        torch.ops.expunge.linear_grad_norms(normal(5, 2, 3), normal(5, 4))
    with pytest.raises(ValueError, match="threads must be"):
        torch.ops.expunge.linear_grad_norms(normal(5, 3), normal(5, 4), threads=0)
