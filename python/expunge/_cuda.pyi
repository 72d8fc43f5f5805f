# CUDA kernels: the kernels of _core on device arrays of any library, taken by DLPack, in the order of a stream.
# `workspace` holds at least as many elements as the function of its name with _workspace says, asked alike.
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import CapsuleType

from expunge._core import RidgeSetting as RidgeSetting

class _Exchangeable(Protocol):
    def __dlpack__(self, *, stream: int | None = ..., max_version: tuple[int, int] | None = ...) -> CapsuleType: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

# DLPack says an element type at run time only, where kernels check it: these names say it to readers.
_Float64: TypeAlias = _Exchangeable
_Floating: TypeAlias = _Exchangeable
_Int32: TypeAlias = _Exchangeable
_Int64: TypeAlias = _Exchangeable
_UInt32: TypeAlias = _Exchangeable

def device_count() -> int: ...
def synchronize(stream: int, device: int = 0) -> None: ...

# privacy
def gdp_delta(mu: _Float64, epsilon: _Float64, out: _Float64, *, stream: int) -> None: ...
def gdp_epsilon(mu: _Float64, delta: _Float64, out: _Float64, *, stream: int) -> None: ...
def gdp_mu(epsilon: _Float64, delta: _Float64, out: _Float64, *, stream: int) -> None: ...
def shifted_mu_workspace(sensitivity: _Float64, contraction: _Float64, noise_std: _Float64, out: _Float64) -> int: ...
def shifted_mu(
    sensitivity: _Float64,
    contraction: _Float64,
    noise_std: _Float64,
    out: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def pair_delta_workspace(
    excess: _Float64,
    squared_shift: _Float64,
    columns: float,
    epsilon: _Float64,
    swapped: bool,
    delta: _Float64,
    error: _Float64,
    converged: _Float64,
) -> int: ...
def pair_delta(
    excess: _Float64,
    squared_shift: _Float64,
    columns: float,
    epsilon: _Float64,
    swapped: bool,
    delta: _Float64,
    error: _Float64,
    converged: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def pair_epsilon_workspace(
    excess: _Float64, squared_shift: _Float64, columns: float, delta: _Float64, swapped: bool, out: _Float64
) -> int: ...
def pair_epsilon(
    excess: _Float64,
    squared_shift: _Float64,
    columns: float,
    delta: _Float64,
    swapped: bool,
    out: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def pair_renyi_workspace(
    excess: _Float64, squared_shift: _Float64, columns: float, order: _Float64, swapped: bool, out: _Float64
) -> int: ...
def pair_renyi(
    excess: _Float64,
    squared_shift: _Float64,
    columns: float,
    order: _Float64,
    swapped: bool,
    out: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def sampled_gaussian_rdp(
    order: _Float64,
    noise_multiplier: _Float64,
    sampling_probability: _Float64,
    *,
    reverse: bool,
    out: _Float64,
    stream: int,
) -> None: ...

# residual
def residual_pass_workspace(
    X: _Float64,
    targets: _Float64 | None,
    labels: _Int64 | None,
    weights: _Float64 | None,
    theta: _Float64,
    gradient: _Float64,
    sums: _Float64,
    residuals: _Float64 | None,
    *,
    loss: str,
) -> int: ...
def residual_pass(
    X: _Float64,
    targets: _Float64 | None,
    labels: _Int64 | None,
    weights: _Float64 | None,
    theta: _Float64,
    gradient: _Float64,
    sums: _Float64,
    residuals: _Float64 | None,
    *,
    loss: str,
    workspace: _Float64,
    stream: int,
) -> None: ...
def residual_leverages(
    X: _Float64,
    K: _Float64,
    leverages: _Float64,
    squares: _Float64,
    norms: _Float64,
    *,
    stream: int,
) -> None: ...

# ridge
def ridge_exact_quotes_workspace(
    eigenvalues: _Float64,
    projected: _Float64,
    residuals: _Float64,
    setting: RidgeSetting,
    rank: int,
    value: _Float64,
    epsilon_out: _Float64,
    log_delta_pq: _Float64,
    log_delta_qp: _Float64,
    error: _Float64,
    rank_out: _Int64,
) -> int: ...
def ridge_exact_quotes(
    eigenvalues: _Float64,
    projected: _Float64,
    residuals: _Float64,
    setting: RidgeSetting,
    rank: int,
    value: _Float64,
    epsilon_out: _Float64,
    log_delta_pq: _Float64,
    log_delta_qp: _Float64,
    error: _Float64,
    rank_out: _Int64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def ridge_gaussian_pairs_workspace(
    eigenvalues: _Float64,
    projected: _Float64,
    residuals: _Float64,
    setting: RidgeSetting,
    rank: int,
    excess_variance: _Float64,
    squared_shift: _Float64,
    rest: _Float64,
    count: _Int64,
) -> int: ...
def ridge_gaussian_pairs(
    eigenvalues: _Float64,
    projected: _Float64,
    residuals: _Float64,
    setting: RidgeSetting,
    rank: int,
    excess_variance: _Float64,
    squared_shift: _Float64,
    rest: _Float64,
    count: _Int64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def ridge_solve_reduced_workspace(
    eigenvalues: _Float64,
    difference: _Float64,
    shift: _Float64,
    setting: RidgeSetting,
    n_steps: int,
    value: _Float64,
    epsilon_out: _Float64,
    log_delta_pq: _Float64,
    log_delta_qp: _Float64,
    error: _Float64,
    rank_out: _Int64,
) -> int: ...
def ridge_solve_reduced(
    eigenvalues: _Float64,
    difference: _Float64,
    shift: _Float64,
    setting: RidgeSetting,
    n_steps: int,
    value: _Float64,
    epsilon_out: _Float64,
    log_delta_pq: _Float64,
    log_delta_qp: _Float64,
    error: _Float64,
    rank_out: _Int64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def ridge_shifted_quotes_workspace(
    sensitivity: _Float64,
    contraction: _Float64,
    noise_std: float,
    unlearn_steps: float,
    unlearn_noise_std: float,
    solve_steps: bool,
    mu_limit: float,
    value: _Float64,
    mu: _Float64,
) -> int: ...
def ridge_shifted_quotes(
    sensitivity: _Float64,
    contraction: _Float64,
    noise_std: float,
    unlearn_steps: float,
    unlearn_noise_std: float,
    solve_steps: bool,
    mu_limit: float,
    value: _Float64,
    mu: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def ridge_smallest_eigenvalues(
    eigenvalues: _Float64, projected: _Float64, floor: float, slack: float, out: _Float64, *, stream: int
) -> None: ...

# langevin
def random_words(out: _UInt32, *, seed: int, chain: int, step: int, stream: int) -> None: ...
def standard_normals(out: _Floating, *, seed: int, chain: int, step: int, stream: int) -> None: ...
def langevin_gram(
    X: _Floating, targets: _Floating, alpha: float, gram: _Floating, moment: _Floating, *, stream: int
) -> None: ...
def langevin_row_norms(X: _Floating, out: _Floating, *, stream: int) -> None: ...
def langevin_chains_workspace(
    X: _Floating,
    targets: _Floating,
    gram: _Floating | None,
    moment: _Floating | None,
    row_norm: _Floating | None,
    step_size: _Floating,
    noise_std: _Floating,
    theta0: _Floating,
    record: _Int64,
    out: _Floating,
    *,
    loss: str,
    alpha: float,
    threshold: int,
    weight: float,
    clip: float,
    radius: float,
    seed: int,
    first_chain: int,
    first_step: int,
) -> int: ...
def langevin_chains(
    X: _Floating,
    targets: _Floating,
    gram: _Floating | None,
    moment: _Floating | None,
    row_norm: _Floating | None,
    step_size: _Floating,
    noise_std: _Floating,
    theta0: _Floating,
    record: _Int64,
    out: _Floating,
    *,
    loss: str,
    alpha: float,
    threshold: int,
    weight: float,
    clip: float,
    radius: float,
    seed: int,
    first_chain: int,
    first_step: int,
    workspace: _Float64,
    stream: int,
) -> None: ...
def langevin_tail(
    theta: _Floating,
    gradient: _Floating,
    moment: _Floating | None,
    *,
    alpha: float,
    step_size: float,
    noise_std: float,
    radius: float,
    seed: int,
    first_chain: int,
    step: int,
    stream: int,
) -> None: ...
def langevin_residuals(
    linear: _Floating, targets: _Floating, row_norm: _Floating | None, *, loss: str, clip: float, stream: int
) -> None: ...

# grad_norms
# float64, float32 or bfloat16
def linear_grad_norms_workspace(
    activations: _Floating, output_grads: _Floating, bias: bool, squared: bool, out: _Float64
) -> int: ...
def linear_grad_norms(
    activations: _Floating,
    output_grads: _Floating,
    bias: bool,
    squared: bool,
    out: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def linear_grad_dots_workspace(
    activations_1: _Floating,
    output_grads_1: _Floating,
    activations_2: _Floating,
    output_grads_2: _Floating,
    out: _Float64,
) -> int: ...
def linear_grad_dots(
    activations_1: _Floating,
    output_grads_1: _Floating,
    activations_2: _Floating,
    output_grads_2: _Floating,
    out: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def embedding_linear_grad_dots_workspace(
    indices: _Int64,
    embedding_grads: _Floating,
    row_factors: _Floating,
    column_factors: _Floating,
    padding_idx: int,
    out: _Float64,
) -> int: ...
def embedding_linear_grad_dots(
    indices: _Int64,
    embedding_grads: _Floating,
    row_factors: _Floating,
    column_factors: _Floating,
    padding_idx: int,
    out: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def conv_grad_norms_workspace(
    activations: _Floating,
    output_grads: _Floating,
    groups: int,
    padded: NDArray[np.int64],
    pad_maps: _Int32 | None,
    position_offsets: _Int32,
    feature_offsets: _Int32,
    bias: bool,
    squared: bool,
    out: _Float64,
) -> int: ...
def conv_grad_norms(
    activations: _Floating,
    output_grads: _Floating,
    groups: int,
    padded: NDArray[np.int64],
    pad_maps: _Int32 | None,
    position_offsets: _Int32,
    feature_offsets: _Int32,
    bias: bool,
    squared: bool,
    out: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def embedding_grad_norms_workspace(
    indices: _Int64, output_grads: _Floating, padding_idx: int, squared: bool, out: _Float64
) -> int: ...
def embedding_grad_norms(
    indices: _Int64,
    output_grads: _Floating,
    padding_idx: int,
    squared: bool,
    out: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def norm_layer_grad_norms_workspace(
    activations: _Floating,
    output_grads: _Floating,
    kind: int,
    n_groups: int,
    eps: float,
    normalized: bool,
    weight: bool,
    bias: bool,
    squared: bool,
    out: _Float64,
) -> int: ...
def norm_layer_grad_norms(
    activations: _Floating,
    output_grads: _Floating,
    kind: int,
    n_groups: int,
    eps: float,
    normalized: bool,
    weight: bool,
    bias: bool,
    squared: bool,
    out: _Float64,
    *,
    workspace: _Float64,
    stream: int,
) -> None: ...
def probe_grad_norms_workspace(
    X: _Floating,
    weights: _Floating,
    y: _Floating | _Int64,
    loss: str,
    alpha: float,
    checkpoint_weights: _Float64 | None,
    squared: bool,
    out: _Float64,
    *,
    logits: _Floating,
) -> int: ...
def probe_grad_norms(
    X: _Floating,
    weights: _Floating,
    y: _Floating | _Int64,
    loss: str,
    alpha: float,
    checkpoint_weights: _Float64 | None,
    squared: bool,
    out: _Float64,
    *,
    logits: _Floating,
    workspace: _Float64,
    stream: int,
) -> None: ...
def recurrent_states(
    gates: _Floating,
    weight: _Floating,
    bias: _Floating | None,
    hidden: _Floating,
    cells: _Floating | None,
    before: _Floating,
    outputs: _Floating,
    kept: _Floating | None,
    *,
    cell: int,
    backwards: bool,
    stream: int,
) -> None: ...
def recurrent_grads(
    output_grads: _Floating,
    gates: _Floating,
    weight: _Floating,
    before: _Floating | None,
    cells: _Floating | None,
    kept: _Floating | None,
    gate_grads: _Floating,
    state_gate_grads: _Floating | None,
    hidden_grads: _Floating,
    cell_grads: _Floating | None,
    *,
    cell: int,
    backwards: bool,
    stream: int,
) -> None: ...
