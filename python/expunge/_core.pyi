import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

def isa() -> str: ...
def default_threads() -> int: ...

# privacy

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
