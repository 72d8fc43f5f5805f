from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import CapsuleType

_Float64 = NDArray[np.float64]
_Floating = NDArray[np.float32] | NDArray[np.float64]
_Int32 = NDArray[np.int32]
_Int64 = NDArray[np.int64]
_UInt8 = NDArray[np.uint8]
_UInt32 = NDArray[np.uint32]

def isa() -> str: ...
def default_threads() -> int: ...
def exchange_thread_team(address: int, /) -> int: ...

# The calling thread's floating-point mode.
_exchange_float_mode: Callable[[int], int]
_IEEE_MODE: int
_FLUSHING: int

# A capsule: the table of expunge.h.
_c_api: CapsuleType

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

# residual
def residual_depth(n: int, p: int, q: int) -> int: ...
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
    threads: int = 0,
) -> None: ...
def residual_leverages(
    X: _Float64,
    K: _Float64,
    leverages: _Float64,
    squares: _Float64,
    norms: _Float64,
    *,
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
    rank_out: _Int64,
    *,
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
    count: _Int64,
    *,
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
    rank_out: _Int64,
    *,
    threads: int = 0,
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
    *,
    threads: int = 0,
) -> None: ...
def ridge_smallest_eigenvalues(
    eigenvalues: _Float64, projected: _Float64, floor: float, slack: float, out: _Float64, *, threads: int = 0
) -> None: ...

# langevin

def random_words(out: NDArray[np.uint32], *, seed: int, chain: int, step: int, threads: int = 0) -> None: ...
def standard_normals(out: _Floating, *, seed: int, chain: int, step: int, threads: int = 0) -> None: ...
def langevin_gram(
    X: _Floating, targets: _Floating, alpha: float, gram: _Floating, moment: _Floating, *, threads: int = 0
) -> None: ...
def langevin_row_norms(X: _Floating, out: _Floating, *, threads: int = 0) -> None: ...
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
    threads: int = 0,
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
    threads: int = 0,
) -> None: ...
def langevin_residuals(
    linear: _Floating,
    targets: _Floating,
    row_norm: _Floating | None,
    *,
    loss: str,
    clip: float,
    threads: int = 0,
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
    loss: str,
    alpha: float,
    checkpoint_weights: _Float64 | None,
    squared: bool,
    out: _Float64,
    *,
    proxies: _Float64 | None = None,
    early: int = 0,
    threads: int = 0,
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
    threads: int = 0,
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
    threads: int = 0,
) -> None: ...

# noise
def rounded_normals(
    words: _UInt32,
    theta: _Float64,
    cells: _Int64,
    progress: _Int64,
    *,
    scale: int,
    exponent: int,
    threads: int = 0,
) -> None: ...
def exact_normals(words: _UInt32, hi: _Float64, lo: _Float64, progress: _Int64, *, threads: int = 0) -> None: ...

# ensemble
def network_gradients(
    plan: _Int64,
    eps: _Float64,
    parameters: _Floating,
    images: _Floating,
    labels: _Int64,
    rows: _Int64,
    ends: _Int64,
    gradients: _Floating,
    losses: _Floating,
    *,
    threads: int = 0,
) -> None: ...

# columns
def rows_of_columns(columns: _Floating, rows: _Floating, *, threads: int = 0) -> None: ...
def plain_page(
    head: _UInt8,
    found: _Int64,
    *,
    item_bytes: int,
    max_definition: int,
    max_repetition: int,
    width: int,
    phase: int,
    threads: int = 0,
) -> None: ...
