"""Slow, obvious NumPy truth: one function per kernel."""

import math

import mpmath
import numpy as np
from scipy.special import log_ndtr

# --- privacy -----------------------------------------------------------------------------------


def gdp_log_delta(mu, epsilon):
    """Log of delta(mu, epsilon) for mu > 0, straight from the definition (loses digits as mu falls)."""
    a = log_ndtr(-epsilon / mu + mu / 2)
    b = epsilon + log_ndtr(-epsilon / mu - mu / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return a + np.log(-np.expm1(np.minimum(b - a, 0.0)))


def gdp_epsilon(mu, delta, rounds=64):
    """Epsilon of mu-GDP at delta by bisection: 64 vectorised halvings."""
    mu, delta = np.broadcast_arrays(np.asarray(mu, float), np.asarray(delta, float))
    target = np.log(delta)
    low = np.zeros(mu.shape)
    high = mu * mu / 2 + mu * np.sqrt(-2 * target)
    for _ in range(rounds):
        middle = 0.5 * (low + high)
        above = gdp_log_delta(mu, middle) > target
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(gdp_log_delta(mu, np.zeros_like(mu)) <= target, 0.0, high)


def gdp_delta_mpmath(mu, epsilon):
    """delta(mu, epsilon) with as many digits as the cancellation needs."""
    mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
    with mpmath.workdps(80 + 2 * max(0, int(-mpmath.log10(mu)))):
        root = mpmath.sqrt(2)
        low = mpmath.erfc((epsilon / mu - mu / 2) / root) / 2
        return low - mpmath.exp(epsilon) * mpmath.erfc((epsilon / mu + mu / 2) / root) / 2


def shifted_mu(sensitivity, contraction, noise_std):
    """Greatest convex minorant by gift wrapping: from each vertex, the lowest slope to any later point. O(steps^2)."""
    s, c, tau = (np.asarray(a, float) for a in (sensitivity, contraction, noise_std))
    steps = len(s)
    weight = np.array([np.prod(c[k + 1 :]) for k in range(steps)])
    ds, dv = weight * s, (weight * tau) ** 2
    total, here = 0.0, 0
    while here < steps:
        rises = np.cumsum(ds[here:])
        runs = np.cumsum(dv[here:])
        if rises[-1] == 0:
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = np.where(runs > 0, rises / runs, np.where(rises > 0, np.inf, 0.0))
        step = steps - here - 1 - int(np.argmin(slopes[::-1]))
        if rises[step] > 0:
            if runs[step] == 0:
                return math.inf
            total += rises[step] ** 2 / runs[step]
        here += step + 1
    return math.sqrt(total)


def path_mu(sensitivity, contraction, noise_std, fractions):
    """Mu of one feasible path: at each step give up a fraction of the shift at hand, all of it at the last."""
    z, total = 0.0, 0.0
    for k, (s, c, tau) in enumerate(zip(sensitivity, contraction, noise_std, strict=True)):
        at_hand = c * z + s
        give = at_hand if k == len(sensitivity) - 1 else at_hand * fractions[k]
        z = at_hand - give
        if give > 0:
            if tau == 0:
                return math.inf
            total += (give / tau) ** 2
    return math.sqrt(total)


def hockey_stick_line(excess, shift, epsilon):
    """delta(P | Q) for P = N(shift, 1 + excess), Q = N(0, 1): the set where p > e^epsilon q is one or two intervals."""
    with mpmath.workdps(80):
        e, d, epsilon = mpmath.mpf(excess), mpmath.mpf(shift), mpmath.mpf(epsilon)
        v = 1 + e
        # log p/q - epsilon = a x^2 + b x + c
        a, b, c = e / (2 * v), d / v, -d * d / (2 * v) - mpmath.log(v) / 2 - epsilon

        def probability(low, high):
            if low > 0:
                return (mpmath.erfc(low / mpmath.sqrt(2)) - mpmath.erfc(high / mpmath.sqrt(2))) / 2
            return (mpmath.erfc(-high / mpmath.sqrt(2)) - mpmath.erfc(-low / mpmath.sqrt(2))) / 2

        def gain(low, high):
            deviation = mpmath.sqrt(v)
            p = probability((low - d) / deviation, (high - d) / deviation)
            return p - mpmath.exp(epsilon) * probability(low, high)

        if a == 0:
            if b == 0:
                return mpmath.mpf(0)
            return gain(-c / b, mpmath.inf) if b > 0 else gain(-mpmath.inf, -c / b)
        discriminant = b * b - 4 * a * c
        if discriminant <= 0:
            return gain(-mpmath.inf, mpmath.inf) if a > 0 else mpmath.mpf(0)
        root = mpmath.sqrt(discriminant)
        large = -(b + (root if b >= 0 else -root)) / 2
        low, high = sorted([large / a, c / large])
        if a < 0:
            return gain(low, high)
        return gain(-mpmath.inf, low) + gain(high, mpmath.inf)


def pair_profile(excess, shift, epsilon):
    """delta(P | Q) of a Gaussian pair by adaptive high-precision integration of its Mellin transform."""
    with mpmath.workdps(30):
        e = [mpmath.mpf(float(x)) for x in excess]
        d2 = [mpmath.mpf(float(np.sum(np.square(row)))) for row in np.asarray(shift)]
        q = np.asarray(shift).shape[1]
        constant = sum(mpmath.log1p(x) for x in e)

        def exponent(w):
            total = -w * epsilon - mpmath.mpf(q) / 2 * w * constant
            for x, y in zip(e, d2, strict=True):
                v = 1 - w * x
                total += w * (1 + w) * y / (2 * v) - mpmath.mpf(q) / 2 * mpmath.log(v)
            return total

        def base(w):
            return exponent(w) - mpmath.log(w) - mpmath.log1p(w)

        # A coarse search for a point near the saddle: any contour gives the same integral.
        top = 1 / max(e) if max(e) > 0 else mpmath.mpf(10) ** 12
        grid = [top * mpmath.mpf(10) ** (-mpmath.mpf(k) / 10) for k in range(1, 260)]
        grid += [top * (1 - mpmath.mpf(10) ** (-mpmath.mpf(k) / 10)) for k in range(3, 60)]
        saddle = min(grid, key=base)
        level = base(saddle)
        width = 1 / mpmath.sqrt(abs(mpmath.diff(base, saddle, 2, h=saddle * mpmath.mpf(10) ** -8)))

        # A parabola opening to either side: on one of them the integrand falls exponentially.
        def contour(t, sign):
            bend = sign * width / 8
            w = saddle + bend * t * t + 1j * width * t
            return mpmath.re(mpmath.exp(base(w) - level) * (width - 2j * bend * t)) / mpmath.pi

        cuts = [0] + [mpmath.mpf(2) ** (mpmath.mpf(k) / 2) for k in range(-2, 24)]
        for sign in (1, -1, 0):
            ends = [abs(contour(t, sign)) for t in cuts]
            if ends[-1] < mpmath.mpf(10) ** -18 and max(ends) < 1e3:
                value, error = mpmath.quad(lambda t, s=sign: contour(t, s), cuts, error=True)
                if error < value * mpmath.mpf(10) ** -14:
                    return value * mpmath.exp(level)
        raise ArithmeticError("no contour decays")


# --- ridge -------------------------------------------------------------------------------------

# --- langevin ----------------------------------------------------------------------------------
