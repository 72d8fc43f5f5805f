import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

def isa() -> str: ...
def default_threads() -> int: ...

# privacy

# ridge

# langevin
