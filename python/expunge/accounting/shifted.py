"""Shifted interpolation, certified: the Gaussian-DP parameter of the last iterate of a run of noisy contractions.

[BSA24, arXiv 2403.00278], section 3, at its optimum: the best path of shifts is a greatest convex minorant, found in
O(steps). Arrays on a CUDA device (float64) are computed there; their values are not validated, and those out of
range give NaN.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from expunge._kernels import backend
from expunge._validate import real_array
from expunge.accounting._broadcast import Float64, device_arrays

__all__ = ["shifted_mu"]


def shifted_mu(
    sensitivity: ArrayLike, contraction: ArrayLike, noise_std: ArrayLike, *, threads: int | None = None
) -> float | Float64:
    """Return the mu for which the last iterate of two coupled noisy runs is mu-GDP, rounded up.

    Step k maps theta to ``phi_k(theta) + noise_std_k N(0, I)`` in one run and ``phi'_k(theta) + noise_std_k N(0, I)``
    in the other, from the same start; ``phi'_k`` is Lipschitz with constant ``contraction_k`` and
    ``sup |phi_k - phi'_k| <= sensitivity_k``.

    Parameters
    ----------
    sensitivity : array_like of float, shape (..., steps)
        Finite and >= 0. The last axis is time, first step first; leading axes broadcast.
    contraction : array_like of float, shape (..., steps)
        Finite and >= 0; may exceed 1.
    noise_std : array_like of float, shape (..., steps)
        Noise standard deviation of each step, finite and >= 0.
    threads : int, optional
        Maximum number of cores; ``EXPUNGE_NUM_THREADS`` or all of them by default.

    Returns
    -------
    float or ndarray of float64
        The minimum of ``sqrt(sum (a_k / noise_std_k)^2)`` over all feasible shifts a, rounded up by the error of the
        computation; infinite where a shift after the last noise remains; 0 for no sensitivity or no steps.

    Raises
    ------
    ValueError
        If an argument is NaN, infinite or negative, is a scalar like the two others, or the shapes do not broadcast.

    See Also
    --------
    gdp_delta : The delta that mu implies at an epsilon.

    Notes
    -----
    [BSA24, arXiv 2403.00278], section 3. With w_k the product of the later contractions, V and S the running sums of
    ``(w_k noise_std_k)^2`` and ``w_k sensitivity_k``, mu^2 sums (change of S)^2 / (change of V) over the edges of the
    greatest convex minorant of the points (V_k, S_k). Certified.

    ===========================================  =====
    Edge case                                    Value
    ===========================================  =====
    ``shifted_mu([], [], [])``                   0.0
    ``shifted_mu([0.0, 0.0], 1.0, 0.0)``         0.0
    ``shifted_mu([1.0, 0.0], [1.0, 0.0], 0.0)``  0.0
    ``shifted_mu([0.0, 1.0], 1.0, [1.0, 0.0])``  inf
    ===========================================  =====

    Examples
    --------
    >>> from expunge.accounting import shifted_mu
    >>> print(f"{shifted_mu([1.0, 1.0, 1.0, 1.0], 1.0, 1.0):.6f}")
    2.000000
    >>> print(f"{shifted_mu([1.0, 0.0, 0.0], 0.5, [0.1, 0.0, 2.0]):.6f}")
    0.124990
    """
    given = {"sensitivity": sensitivity, "contraction": contraction, "noise_std": noise_std}
    place = backend.place(**given)
    if not place.on_host:
        arrays, shape = device_arrays(place, **given)
        _require_steps(shape)
        rows, steps = int(np.prod(shape[:-1], dtype=np.int64)), shape[-1]
        out = place.empty((rows,), "float64")
        place.run(
            "shifted_mu",
            *(array.reshape(rows, steps) for array in arrays),
            out,
        )
        return cast(Float64, out.reshape(shape[:-1]))
    checked = {name: real_array(name, value, low=0.0) for name, value in given.items()}
    shapes = ", ".join(f"{name} {array.shape}" for name, array in checked.items())
    try:
        shape = np.broadcast_shapes(*(array.shape for array in checked.values()))
    except ValueError:
        raise ValueError(f"{', '.join(checked)} must broadcast together, got shapes {shapes}") from None
    _require_steps(shape)
    steps = shape[-1]
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    s, c, tau = (np.ascontiguousarray(np.broadcast_to(a, shape)).reshape(rows, steps) for a in checked.values())
    values = np.empty(rows)
    place.run("shifted_mu", s, c, tau, values, threads=threads)
    return values.reshape(shape[:-1]) if len(shape) > 1 else float(values[0])


def _require_steps(shape: tuple[int, ...]) -> None:
    if not shape:
        raise ValueError("sensitivity, contraction or noise_std must have an axis of steps, got three scalars")
