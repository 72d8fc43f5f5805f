# CUDA kernels: the kernels of _core on device arrays of any library, taken by DLPack, in the order of a stream.
# `workspace` holds at least as many elements as the function of the kernel's name with _workspace says.
from typing import Any

from expunge._core import RidgeSetting as RidgeSetting

def device_count() -> int: ...
def synchronize(stream: int, device: int = 0) -> None: ...

# privacy
def gdp_delta(mu: Any, epsilon: Any, out: Any, *, stream: int) -> None: ...
def gdp_epsilon(mu: Any, delta: Any, out: Any, *, stream: int) -> None: ...
def gdp_mu(epsilon: Any, delta: Any, out: Any, *, stream: int) -> None: ...
def shifted_mu_workspace(rows: int, steps: int) -> int: ...
def shifted_mu(
    sensitivity: Any, contraction: Any, noise_std: Any, out: Any, *, workspace: Any, stream: int
) -> None: ...
def pair_delta_workspace(n: int, m: int) -> int: ...
def pair_delta(
    excess: Any,
    squared_shift: Any,
    columns: float,
    epsilon: Any,
    swapped: bool,
    delta: Any,
    error: Any,
    converged: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def pair_epsilon_workspace(n: int, m: int) -> int: ...
def pair_epsilon(
    excess: Any,
    squared_shift: Any,
    columns: float,
    delta: Any,
    swapped: bool,
    out: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def pair_renyi_workspace(n: int, m: int) -> int: ...
def pair_renyi(
    excess: Any,
    squared_shift: Any,
    columns: float,
    order: Any,
    swapped: bool,
    out: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def sampled_gaussian_rdp(
    order: Any, noise_multiplier: Any, sampling_probability: Any, *, reverse: bool, out: Any, stream: int
) -> None: ...

# langevin
def random_words(out: Any, *, seed: int, chain: int, step: int, stream: int) -> None: ...
def standard_normals(out: Any, *, seed: int, chain: int, step: int, stream: int) -> None: ...
def langevin_gram(X: Any, targets: Any, alpha: float, gram: Any, moment: Any, *, stream: int) -> None: ...
def langevin_row_norms(X: Any, out: Any, *, stream: int) -> None: ...
def langevin_chains_workspace(n_chains: int, p: int, q: int, gram: bool, element_bytes: int) -> int: ...
def langevin_chains(
    X: Any,
    targets: Any,
    gram: Any | None,
    moment: Any | None,
    row_norm: Any | None,
    step_size: Any,
    noise_std: Any,
    theta0: Any,
    record: Any,
    out: Any,
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
    workspace: Any,
    stream: int,
) -> None: ...
def langevin_tail(
    theta: Any,
    gradient: Any,
    moment: Any | None,
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
    linear: Any, targets: Any, row_norm: Any | None, *, loss: str, clip: float, stream: int
) -> None: ...

# ridge
def ridge_exact_quotes_workspace(n: int, p: int, q: int, rank: int) -> int: ...
def ridge_exact_quotes(
    eigenvalues: Any,
    projected: Any,
    residuals: Any,
    setting: RidgeSetting,
    rank: int,
    value: Any,
    epsilon_out: Any,
    log_delta_pq: Any,
    log_delta_qp: Any,
    error: Any,
    rank_out: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def ridge_gaussian_pairs_workspace(n: int, q: int, rank: int) -> int: ...
def ridge_gaussian_pairs(
    eigenvalues: Any,
    projected: Any,
    residuals: Any,
    setting: RidgeSetting,
    rank: int,
    excess_variance: Any,
    squared_shift: Any,
    rest: Any,
    count: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def ridge_solve_reduced_workspace(r: int, q: int) -> int: ...
def ridge_solve_reduced(
    eigenvalues: Any,
    difference: Any,
    shift: Any,
    setting: RidgeSetting,
    n_steps: int,
    value: Any,
    epsilon_out: Any,
    log_delta_pq: Any,
    log_delta_qp: Any,
    error: Any,
    rank_out: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def ridge_shifted_quotes_workspace(n: int, n_steps: int) -> int: ...
def ridge_shifted_quotes(
    sensitivity: Any,
    contraction: Any,
    noise_std: float,
    unlearn_steps: float,
    unlearn_noise_std: float,
    solve_steps: bool,
    mu_limit: float,
    value: Any,
    mu: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def ridge_smallest_eigenvalues(
    eigenvalues: Any, projected: Any, floor: float, slack: float, out: Any, *, stream: int
) -> None: ...

# grad_norms
def linear_grad_norms_workspace(
    examples: int, positions: int, d_in: int, d_out: int, bias: bool, itemsize: int
) -> int: ...
def linear_grad_norms(
    activations: Any, output_grads: Any, bias: bool, squared: bool, out: Any, *, workspace: Any, stream: int
) -> None: ...
def linear_grad_dots_workspace(
    examples: int, positions_1: int, positions_2: int, d_in: int, d_out: int, itemsize: int
) -> int: ...
def linear_grad_dots(
    activations_1: Any,
    output_grads_1: Any,
    activations_2: Any,
    output_grads_2: Any,
    out: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def embedding_linear_grad_dots_workspace(
    examples: int, n_tokens: int, positions: int, rows: int, width: int, itemsize: int
) -> int: ...
def embedding_linear_grad_dots(
    indices: Any,
    embedding_grads: Any,
    row_factors: Any,
    column_factors: Any,
    padding_idx: int,
    out: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def conv_grad_norms_workspace(
    examples: int,
    channels: int,
    out_channels: int,
    groups: int,
    padded_entries: int,
    positions: int,
    features: int,
    bias: bool,
    itemsize: int,
) -> int: ...
def conv_grad_norms(
    activations: Any,
    output_grads: Any,
    groups: int,
    padded: Any,
    pad_maps: Any | None,
    position_offsets: Any,
    feature_offsets: Any,
    bias: bool,
    squared: bool,
    out: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def embedding_grad_norms_workspace(examples: int, n_tokens: int, width: int, itemsize: int) -> int: ...
def embedding_grad_norms(
    indices: Any, output_grads: Any, padding_idx: int, squared: bool, out: Any, *, workspace: Any, stream: int
) -> None: ...
def norm_layer_grad_norms_workspace(
    examples: int, positions: int, width: int, kind: int, n_groups: int, normalized: bool, weight: bool, itemsize: int
) -> int: ...
def norm_layer_grad_norms(
    activations: Any,
    output_grads: Any,
    kind: int,
    n_groups: int,
    eps: float,
    normalized: bool,
    weight: bool,
    bias: bool,
    squared: bool,
    out: Any,
    *,
    workspace: Any,
    stream: int,
) -> None: ...
def probe_grad_norms_workspace(checkpoints: int) -> int: ...
def probe_grad_norms(
    X: Any,
    weights: Any,
    y: Any,
    loss: int,
    alpha: float,
    checkpoint_weights: Any | None,
    squared: bool,
    out: Any,
    *,
    logits: Any,
    workspace: Any,
    stream: int,
) -> None: ...
