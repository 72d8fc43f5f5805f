from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Float64 = NDArray[np.float64]
_Float32 = NDArray[np.float32]
_Floating = NDArray[np.float32] | NDArray[np.float64]
_Int32 = NDArray[np.int32]
_Int64 = NDArray[np.int64]

def isa() -> str: ...
def default_threads() -> int: ...
def exchange_thread_team(address: int, /) -> int: ...

# The calling thread's floating-point mode.
_exchange_float_mode: Callable[[int], int]
_IEEE_MODE: int
_FLUSHING: int

# A capsule: the table of expunge.h.
_c_api: Any

# privacy
def gdp_delta(mu: _Float64, epsilon: _Float64, out: _Float64, *, threads: int = 0) -> None: ...
def gdp_epsilon(mu: _Float64, delta: _Float64, out: _Float64, *, threads: int = 0) -> None: ...
def gdp_mu(epsilon: _Float64, delta: _Float64, out: _Float64, *, threads: int = 0) -> None: ...
def shifted_mu(
    sensitivity: _Float64, contraction: _Float64, noise_std: _Float64, out: _Float64, *, threads: int = 0
) -> None: ...
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
    threads: int = 0,
) -> None: ...
def pair_epsilon(
    excess: _Float64,
    squared_shift: _Float64,
    columns: float,
    delta: _Float64,
    swapped: bool,
    out: _Float64,
    *,
    threads: int = 0,
) -> None: ...
def pair_renyi(
    excess: _Float64,
    squared_shift: _Float64,
    columns: float,
    order: _Float64,
    swapped: bool,
    out: _Float64,
    *,
    threads: int = 0,
) -> None: ...

# privacy: sampled Gaussian
def sampled_gaussian_rdp(
    order: _Float64,
    noise_multiplier: _Float64,
    sampling_probability: _Float64,
    *,
    reverse: bool,
    out: _Float64,
    threads: int = 0,
) -> None: ...

# ridge
class RidgeSetting:
    def __init__(
        self,
        *,
        step_size: float,
        noise_std: float,
        unlearn_steps: float,
        unlearn_noise_std: float,
        solve_steps: bool,
        epsilon: float,
        log_delta: float,
        mu: float,
        tolerance: float,
    ) -> None: ...

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
    rank_out: NDArray[np.int64],
    threads: int = 0,
) -> None: ...
def ridge_gaussian_pairs(
    eigenvalues: _Float64,
    projected: _Float64,
    residuals: _Float64,
    setting: RidgeSetting,
    rank: int,
    excess_variance: _Float64,
    squared_shift: _Float64,
    rest: _Float64,
    count: NDArray[np.int64],
    threads: int = 0,
) -> None: ...
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
    rank_out: NDArray[np.int64],
) -> None: ...
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
    threads: int = 0,
) -> None: ...
def ridge_smallest_eigenvalues(
    eigenvalues: _Float64, projected: _Float64, floor: float, slack: float, out: _Float64, threads: int = 0
) -> None: ...

# langevin

def random_words(out: NDArray[np.uint32], *, seed: int, chain: int, step: int, threads: int) -> None: ...
def standard_normals(out: NDArray[Any], *, seed: int, chain: int, step: int, threads: int) -> None: ...
def langevin_gram(
    X: NDArray[Any], targets: NDArray[Any], alpha: float, gram: NDArray[Any], moment: NDArray[Any], *, threads: int
) -> None: ...
def langevin_row_norms(X: NDArray[Any], out: NDArray[Any], *, threads: int) -> None: ...
def langevin_chains(
    X: NDArray[Any],
    targets: NDArray[Any],
    gram: NDArray[Any] | None,
    moment: NDArray[Any] | None,
    row_norm: NDArray[Any] | None,
    step_size: NDArray[Any],
    noise_std: NDArray[Any],
    theta0: NDArray[Any],
    record: NDArray[np.int64],
    out: NDArray[Any],
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
    threads: int,
) -> None: ...
def langevin_tail(
    theta: NDArray[Any],
    gradient: NDArray[Any],
    moment: NDArray[Any] | None,
    *,
    alpha: float,
    step_size: float,
    noise_std: float,
    radius: float,
    seed: int,
    first_chain: int,
    step: int,
    threads: int,
) -> None: ...
def langevin_residuals(
    linear: NDArray[Any],
    targets: NDArray[Any],
    row_norm: NDArray[Any] | None,
    *,
    loss: str,
    clip: float,
    threads: int,
) -> None: ...

# grad_norms
def linear_grad_norms(
    activations: _Floating, output_grads: _Floating, bias: bool, squared: bool, out: _Float64, *, threads: int = 0
) -> None: ...
def linear_grad_dots(
    activations_1: _Floating,
    output_grads_1: _Floating,
    activations_2: _Floating,
    output_grads_2: _Floating,
    out: _Float64,
    *,
    threads: int = 0,
) -> None: ...
def embedding_linear_grad_dots(
    indices: _Int64,
    embedding_grads: _Floating,
    row_factors: _Floating,
    column_factors: _Floating,
    padding_idx: int,
    out: _Float64,
    *,
    threads: int = 0,
) -> None: ...
def conv_grad_norms(
    activations: _Floating,
    output_grads: _Floating,
    groups: int,
    padded: _Int64,
    pad_maps: _Int32 | None,
    position_offsets: _Int32,
    feature_offsets: _Int32,
    bias: bool,
    squared: bool,
    out: _Float64,
    *,
    threads: int = 0,
) -> None: ...
def embedding_grad_norms(
    indices: _Int64, output_grads: _Floating, padding_idx: int, squared: bool, out: _Float64, *, threads: int = 0
) -> None: ...
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
    threads: int = 0,
) -> None: ...
def probe_grad_norms(
    X: _Floating,
    weights: _Floating,
    y: _Floating | _Int64,
    loss: int,
    alpha: float,
    checkpoint_weights: _Float64 | None,
    squared: bool,
    out: _Float64,
    *,
    threads: int = 0,
    proxies: _Float64 | None = None,
    early: int = 0,
) -> None: ...
