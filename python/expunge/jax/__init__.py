"""JAX backend: exact per-example gradient norms of functions of pytrees, in pure JAX and under `jax.jit`.

Needs ``expunge[jax]``.
"""

from expunge._errors import how_to_install as _how_to_install

try:
    import jax as _jax  # noqa: F401
except ImportError as error:
    raise ImportError(f"expunge.jax needs JAX: {_how_to_install('jax')}") from error

from expunge.jax._errors import GradNormMismatchError, UnsupportedFunctionError
from expunge.jax._functions import grad_norms, value_and_grad_norms

__all__ = ["GradNormMismatchError", "UnsupportedFunctionError", "grad_norms", "value_and_grad_norms"]
