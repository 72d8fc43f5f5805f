"""How arrays of each library reach a kernel and are multiplied, and what the library is told then."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types

import numpy as np
import pytest

import compiled
import emulated
from expunge._kernels import libraries
from expunge._kernels.backend import DevicePlace
from expunge._kernels.libraries import EXCHANGES, library_of


class Recording(emulated.Array):
    """An array that remembers how it was asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = []

    def __dlpack__(self, **options):
        self.asked.append(options)
        return "capsule"


def library_named(name):
    """The library's own class on an array that needs none of its packages."""
    kind = {"torch": libraries._Torch, "cupy": libraries._CuPy, "jax": libraries._Jax}[name]
    library = object.__new__(kind)
    library.name, library.device = name, types.SimpleNamespace(type="cpu")
    return library


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_kernel_asks_each_library_for_memory_without_a_wait_in_words_it_knows(name, monkeypatch):
    library = library_named(name)
    monkeypatch.setattr(type(library), "stream", lambda self: 7)

    def kernel(read, written, number, *, scale, stream):
        assert (number, stream) == (3, 7)
        for array in (read, written, scale):  # as the CUDA binding does
            assert array.__dlpack_device__() == emulated.EXTENSION
            array.__dlpack__(stream=-1, max_version=(1, 0))

    waited = []
    module = types.SimpleNamespace(kernel=kernel, synchronize=lambda stream, device: waited.append((stream, device)))
    place = DevicePlace(module, library, number=2)
    read, scale = Recording(np.zeros(2)), Recording(np.zeros(1))
    written = place.written_here(Recording(np.zeros(2)))
    place.run("kernel", read, written, 3, scale=scale)

    stream = None if name == "jax" else -1  # JAX takes every number for the address of a stream
    assert read.asked == scale.asked == [{"stream": stream, "max_version": (1, 0)}]
    flagged = {} if name == "jax" else {"max_version": (1, 0)}  # JAX flags every array read-only
    assert written.asked == [{"stream": stream, **flagged}]
    assert waited == ([(7, 2)] if library.waits else [])


def test_every_library_that_is_recognised_has_a_line_in_the_table():
    assert set(EXCHANGES) == {"torch", "cupy", "jax"}


def test_a_place_forgets_the_arrays_it_made():
    place = DevicePlace(types.ModuleType("none"), library_of(emulated.Array(np.zeros(1))))
    for _ in range(100):
        place.written_here(emulated.Array(np.zeros(1)))
    assert len(place._writable) <= 2


class Factor:
    """A factor that looks at the settings while it is multiplied."""

    dtype = np.dtype(np.float32)
    device = types.SimpleNamespace(type="cpu")

    def __init__(self, look):
        self.look = look

    def __matmul__(self, other):
        if other is None:
            raise ArithmeticError
        return self.look()


@pytest.mark.parametrize(
    "allow",
    [
        lambda torch: None,
        lambda torch: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        lambda torch: torch.set_float32_matmul_precision("high"),
        lambda torch: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    ],
    ids=["not", "the old flag", "a word", "the new flag"],
)
def test_products_of_torch_are_in_full_precision_however_tf32_was_allowed(allow):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        allow(torch)
        allowed = matmul.fp32_precision
        library = libraries._Torch(torch.zeros(1))
        inside = library.product(Factor(lambda: (matmul.fp32_precision, torch.is_grad_enabled())), 1)
        assert inside == ("ieee", False)
        assert matmul.fp32_precision == allowed
        with pytest.raises(ArithmeticError):
            library.product(Factor(None), None)
        assert matmul.fp32_precision == allowed
    finally:
        matmul.allow_tf32 = False
        matmul.fp32_precision = before


def test_products_of_cupy_are_in_full_precision_whatever_it_was_told():
    chosen = {np.dtype(np.float32): 7}

    def matmul(left, right):
        return left @ right

    core = types.SimpleNamespace(
        get_compute_type=lambda dtype: chosen[dtype], set_compute_type=lambda dtype, kind: chosen.update({dtype: kind})
    )
    library = library_named("cupy")
    library._xp = types.SimpleNamespace(matmul=matmul, _core=core)
    assert library.product(Factor(lambda: chosen[np.dtype(np.float32)]), 1) == 1
    assert chosen[np.dtype(np.float32)] == 7
    with pytest.raises(ArithmeticError):
        library.product(Factor(None), None)
    assert chosen[np.dtype(np.float32)] == 7
    library._xp = types.SimpleNamespace(matmul=matmul)  # a release that keeps this elsewhere
    assert library.product(Factor(lambda: 5), 1) == 5


def test_products_of_jax_are_in_full_precision_whatever_it_was_told():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jnp = importlib.import_module("jax.numpy")
    library = libraries._Jax(jnp.zeros(1))
    with jax.default_matmul_precision("tensorfloat32"):
        text = str(jax.make_jaxpr(library.product)(jnp.zeros((2, 3)), jnp.zeros((3, 2))))
    assert "HIGHEST" in text
    assert "DEFAULT" not in text


def test_a_bare_product_is_refused_by_the_arrays_every_device_function_is_tested_with():
    with pytest.raises(TypeError):
        emulated.Array(np.eye(2)) @ emulated.Array(np.eye(2))


@pytest.mark.skipif(compiled.built("_cuda_emul") is None, reason="build with -C cmake.define.EXPUNGE_CUDA_EMUL=ON")
@pytest.mark.parametrize(
    ("driver", "says"),
    [
        ("0", "no driver was found"),
        ("12040", "the driver is for CUDA 12.4, and this build of expunge needs one for CUDA 13.0"),
        ("13000", ""),
        ("13010", ""),
        ("14000", ""),
    ],
)
def test_a_driver_older_than_the_runtime_is_named(driver, says):
    code = (
        "from expunge import DeviceError, _cuda_emul\n"
        "try:\n    _cuda_emul.synchronize(stream=0)\n"
        "except DeviceError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "EXPUNGE_EMULATED_DRIVER": driver},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert says in done.stdout
    assert bool(done.stdout.strip()) == bool(says)
