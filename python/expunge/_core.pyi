import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

def isa() -> str: ...
def default_threads() -> int: ...

# privacy
def gdp_delta(mu: Float64, epsilon: Float64, out: Float64, *, threads: int = 0) -> None: ...
def gdp_epsilon(mu: Float64, delta: Float64, out: Float64, *, threads: int = 0) -> None: ...
def gdp_mu(epsilon: Float64, delta: Float64, out: Float64, *, threads: int = 0) -> None: ...
def shifted_mu(
    sensitivity: Float64, contraction: Float64, noise_std: Float64, out: Float64, *, threads: int = 0
) -> None: ...
def pair_delta(
    excess: Float64,
    squared_shift: Float64,
    columns: float,
    epsilon: Float64,
    swapped: bool,
    delta: Float64,
    error: Float64,
    converged: Float64,
    *,
    threads: int = 0,
) -> None: ...
def pair_epsilon(
    excess: Float64,
    squared_shift: Float64,
    columns: float,
    delta: Float64,
    swapped: bool,
    out: Float64,
    *,
    threads: int = 0,
) -> None: ...
def pair_renyi(
    excess: Float64,
    squared_shift: Float64,
    columns: float,
    order: Float64,
    swapped: bool,
    out: Float64,
    *,
    threads: int = 0,
) -> None: ...

# ridge

# langevin

# privacy: sampled Gaussian
def sampled_gaussian_rdp(
    order: Float64,
    noise_multiplier: Float64,
    sampling_probability: Float64,
    *,
    reverse: bool,
    out: Float64,
    threads: int = 0,
) -> None: ...
