# CUDA kernels: the kernels of _core on device arrays of any library, taken by DLPack, in the order of a stream.
# `workspace` holds at least as many elements as the function of the kernel's name with _workspace says.
from typing import Any

def device_count() -> int: ...
def synchronize(stream: int) -> None: ...

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
