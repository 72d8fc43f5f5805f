import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Floating = NDArray[np.float32] | NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

def isa() -> str: ...
def default_threads() -> int: ...

# privacy

# ridge

# langevin

# grad_norms
def linear_grad_norms(
    activations: Floating, output_grads: Floating, bias: bool, squared: bool, out: Float64, threads: int
) -> None: ...
def linear_grad_dots(
    activations_1: Floating,
    output_grads_1: Floating,
    activations_2: Floating,
    output_grads_2: Floating,
    out: Float64,
    threads: int,
) -> None: ...
def embedding_linear_grad_dots(
    indices: Int64,
    embedding_grads: Floating,
    row_factors: Floating,
    column_factors: Floating,
    padding_idx: int,
    out: Float64,
    threads: int,
) -> None: ...
def conv_grad_norms(
    activations: Floating,
    output_grads: Floating,
    groups: int,
    padded: Int64,
    pad_maps: tuple[Int32, Int32, Int32] | None,
    position_offsets: Int32,
    feature_offsets: Int32,
    bias: bool,
    squared: bool,
    out: Float64,
    threads: int,
) -> None: ...
def embedding_grad_norms(
    indices: Int64, output_grads: Floating, padding_idx: int, squared: bool, out: Float64, threads: int
) -> None: ...
def norm_layer_grad_norms(
    activations: Floating,
    output_grads: Floating,
    kind: int,
    n_groups: int,
    eps: float,
    normalized: bool,
    weight: bool,
    bias: bool,
    squared: bool,
    out: Float64,
    threads: int,
) -> None: ...
def probe_grad_norms(
    x: Floating,
    weights: Floating,
    y: Floating | Int64,
    loss: int,
    alpha: float,
    checkpoint_weights: Float64 | None,
    squared: bool,
    out: Float64,
    threads: int,
) -> None: ...
