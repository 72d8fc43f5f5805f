"""Slow, obvious NumPy truth: one function per kernel."""

import math
from fractions import Fraction

import mpmath
import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr

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


def clipped_mu(initial_bound, clip, step_size, weight_decay, n_steps, noise_std):
    """mu of noisy fine-tuning with clipped gradients, S / (noise sqrt V) to the digits at work."""
    start, bound, eta, decay, noise = map(mpmath.mpf, (initial_bound, clip, step_size, weight_decay, noise_std))
    c = 1 - eta * decay
    if c == 1:
        return (2 * start + 2 * eta * bound * n_steps) / (noise * mpmath.sqrt(n_steps))
    distance = 2 * start * c**n_steps + 2 * eta * bound * (1 - c**n_steps) / (1 - c)
    return distance / noise / mpmath.sqrt((1 - c ** (2 * n_steps)) / (1 - c**2))


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


def hockey_stick_line(excess, shift, epsilon, digits=80):
    """delta(P | Q) for P = N(shift, 1 + excess), Q = N(0, 1): the set where p > e^epsilon q is one or two intervals."""
    with mpmath.workdps(digits):
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


def gdp_mu(epsilon, delta):
    """Mu with delta(mu, epsilon) = delta, by bisection of log mu."""
    low, high = -40.0, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if gdp_log_delta(math.exp(middle), epsilon) > math.log(delta) else (middle, high)
    return math.exp(low)


def pair_epsilon(excess, shift, delta, below, above):
    """Epsilon in [below, above] with delta(P | Q) = delta for a Gaussian pair, by Brent's method."""
    return brentq(
        lambda at: float(mpmath.log(pair_profile(excess, shift, at))) - math.log(delta), below, above, xtol=1e-12
    )


# --- ridge -------------------------------------------------------------------------------------


def ridge_smallest_eigenvalues(eigenvalues, projected):
    """Lowest eigenvalue of H - x x^T for each row x, in the eigenbasis of H."""
    return np.array([np.linalg.eigvalsh(np.diag(eigenvalues) - np.outer(x, x))[0] for x in projected])


def ridge_moments(X, b, alpha, step_size, n_steps, noise_std, mean, covariance):
    """Return mean and covariance after n_steps of the affine recursion on the given data (b = X^T Y), step by step."""
    A = np.eye(X.shape[1]) - step_size * (X.T @ X + alpha * np.eye(X.shape[1]))
    for _ in range(n_steps):
        mean = A @ mean + step_size * b
        covariance = A @ covariance @ A.T + noise_std**2 * np.eye(X.shape[1])
    return mean, covariance


def ridge_law_pair(X, Y, rows, alpha, step_size, n_steps, noise_std, unlearn_steps, unlearn_noise_std):
    """Return (e, d) of deleting ``rows``: both runs written out with p x p matrices."""
    p, q = X.shape[1], Y.shape[1]
    keep = np.setdiff1d(np.arange(X.shape[0]), rows)
    Xr, Yr = X[keep], Y[keep]
    start = np.zeros((p, q)), np.zeros((p, p))
    with_row = ridge_moments(X, X.T @ Y, alpha, step_size, n_steps, noise_std, *start)
    without = ridge_moments(Xr, Xr.T @ Yr, alpha, step_size, n_steps, noise_std, *start)
    if unlearn_steps and unlearn_noise_std:
        unlearn = (Xr, Xr.T @ Yr, alpha, step_size, unlearn_steps, unlearn_noise_std)
        with_row, without = ridge_moments(*unlearn, *with_row), ridge_moments(*unlearn, *without)
    L = np.linalg.cholesky(without[1])
    excess = np.linalg.solve(L, np.linalg.solve(L, with_row[1] - without[1]).T)
    e, U = np.linalg.eigh(0.5 * (excess + excess.T))
    return e, U.T @ np.linalg.solve(L, with_row[0] - without[0])


def gaussian_pair_log_delta(e, d, epsilon):
    """Log of delta(P|Q), Q = N(0, I), P = N(d, I + diag e), d (p, q): the Mellin integral by the trapezoidal rule.

    The contour w = w0 + g b (sqrt(s^2 + t^2) - s) + i t with t = s sinh(u): analytic and decaying both ways, so the
    rule converges exponentially; g = 0, 1, -1 are tried until the integrand dies at both ends.
    """
    q, d2 = d.shape[1], np.sum(d * d, axis=1)

    def exponent(w):
        v = 1 - np.multiply.outer(w, e)
        logs = np.log(v) + np.multiply.outer(w, np.log1p(e))
        return (w * (1 + w))[..., None] * d2 / (2 * v) - q / 2 * logs

    def base(w):
        return np.real(np.sum(exponent(w), axis=-1)) - w * epsilon - np.log(w) - np.log1p(w)

    pole = 1 / e.max() if e.max() > 0 else np.inf
    low, high = np.log(1e-8), np.log(min(pole * (1 - 1e-9), 1e7))
    for _ in range(200):
        a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
        fa, fb = base(np.array([np.exp(a), np.exp(b)]))
        low, high = (low, b) if fa < fb else (a, high)
    w0 = float(np.exp(low))
    step = 1e-3 * min(w0, pole - w0)
    bend = np.sum(base(np.array([w0 - step, w0 + step]))) - 2 * base(np.array([w0]))[0]
    s = min(1 / np.sqrt(bend / step**2), 3 * min(w0, pole - w0))
    u = np.linspace(0, 22, 12001)
    level = base(np.array([w0]))[0]
    for g in (0.0, 1.0, -1.0):
        t = s * np.sinh(u)
        w = w0 + g * 0.6 * (np.sqrt(s * s + t * t) - s) + 1j * t
        slope = 1j + g * 0.6 * t / np.sqrt(s * s + t * t)
        v = np.sum(exponent(w), axis=-1) - w * epsilon - np.log(w) - np.log1p(w) - level
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.exp(v) * slope / 1j * s * np.cosh(u)
        dies = np.abs(values[-1]) < 1e-15 and np.abs(values).max() < 1e3 * s
        turns = np.abs(np.diff(v.imag))[np.abs(values[1:]) > 1e-13 * s]
        if dies and (turns.size == 0 or turns.max() < 0.5):
            total = np.real(values).sum() - 0.5 * np.real(values[0])
            return level + np.log(total * (u[1] - u[0]) / np.pi)
    raise ArithmeticError("no contour on which the integrand decays")


def ridge_noise(X, Y, rows, alpha, step_size, n_steps, noise_std, unlearn_steps, epsilon, delta, iterations=60):
    """Return the least unlearning noise (0 where none is needed) by bisection on the dense profile."""

    def worst(noise):
        e, d = ridge_law_pair(X, Y, rows, alpha, step_size, n_steps, noise_std, unlearn_steps if noise else 0, noise)
        back = -e / (1 + e), -d / np.sqrt(1 + e)[:, None]
        return max(gaussian_pair_log_delta(e, d, epsilon), gaussian_pair_log_delta(*back, epsilon))

    if worst(0.0) <= np.log(delta):
        return 0.0
    low = high = noise_std
    while worst(high) > np.log(delta):
        high *= 4
    while worst(low) <= np.log(delta):
        low /= 4
    for _ in range(iterations):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if worst(middle) > np.log(delta) else (low, middle)
    return high


# --- langevin ----------------------------------------------------------------------------------


def philox4x32(counter, key):
    """Philox4x32-10 on Python integers: four words from four counter words and two key words."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def stream_words(n_blocks, seed, chain, step, purpose=0):
    """Words of the blocks of one (seed, chain, step), shape (n_blocks, 4)."""
    key = (seed & 0xFFFFFFFF, seed >> 32)
    high = (chain >> 32) | (purpose << 24)
    words = [philox4x32((i, step, chain & 0xFFFFFFFF, high), key) for i in range(n_blocks)]
    return np.array(words, dtype=np.uint64).reshape(n_blocks, 4)


def normals(count, seed, chain, step, dtype=np.float64):
    """Box-Muller with NumPy's own functions in extended precision where the platform has it."""
    wide = np.longdouble
    if np.dtype(dtype) == np.float64:
        w = stream_words(-(-count // 2), seed, chain, step)
        u = (((w[:, 1] << np.uint64(32)) | w[:, 0] | np.uint64(1)).astype(wide)) / wide(2) ** 64
        turn = ((w[:, 3] << np.uint64(32)) | w[:, 2]).astype(wide) / wide(2) ** 64
    else:
        w = stream_words(-(-count // 4), seed, chain, step)
        u = (w[:, 0::2].ravel().astype(wide) + wide(0.5)) / wide(2) ** 32
        turn = w[:, 1::2].ravel().astype(wide) / wide(2) ** 32
    radius, angle = np.sqrt(-2 * np.log(u)), 8 * np.arctan(wide(1)) * turn
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count].astype(np.float64)


def langevin_chain(
    X,
    targets,
    *,
    loss,
    alpha,
    step_size,
    noise_std,
    seed,
    chain,
    theta0,
    first_step=0,
    sampling_probability=1.0,
    clip=None,
    radius=None,
    dtype=np.float64,
):
    """One chain, one record at a time, in float64; the path of parameters, shape (n_steps + 1, p, q)."""
    n, p = X.shape
    q = targets.shape[1]
    theta = np.array(theta0, dtype=np.float64)
    path = [theta]
    for k, (eta, tau) in enumerate(zip(step_size, noise_std, strict=True)):
        step = first_step + k
        taken = np.ones(n, dtype=bool)
        if sampling_probability < 1:
            words = stream_words(-(-n // 4), seed, chain, step, purpose=1).ravel()[:n]
            taken = words < np.uint64(int(sampling_probability * 2**32))
        gradient = np.zeros((p, q))
        for x, target in zip(X[taken], targets[taken], strict=True):
            u = x @ theta
            if loss == "squared":
                residual = u - target
            elif loss == "logistic":
                residual = 1 / (1 + np.exp(-u)) - target
            else:
                e = np.exp(u - u.max())
                residual = e / e.sum() - target
            g = np.outer(x, residual)
            if clip is not None and np.linalg.norm(g) > clip:
                g *= clip / np.linalg.norm(g)
            gradient += g / sampling_probability
        xi = normals(p * q, seed, chain, step, dtype).reshape(q, p).T
        theta = theta - eta * (gradient + alpha * theta) + tau * xi
        if radius is not None and np.linalg.norm(theta) > radius:
            theta = theta * (radius / np.linalg.norm(theta))
        path.append(theta)
    return np.array(path)


def langevin_gram(X, targets, alpha):
    """X^T X + alpha I and (X^T targets)^T."""
    return X.T @ X + alpha * np.eye(X.shape[1]), (X.T @ targets).T


def langevin_row_norms(X):
    """Euclidean norm of every row."""
    return np.sqrt((X**2).sum(axis=1))


def langevin_residuals(linear, targets, row_norm, loss, clip):
    """Derivative of the loss in each prediction (chains, q, n), data gradients clipped to the norm ``clip`` if > 0."""
    if loss == "squared":
        residual = linear - targets
    elif loss == "logistic":
        residual = 1 / (1 + np.exp(-linear)) - targets
    else:
        e = np.exp(linear - linear.max(axis=1, keepdims=True))
        residual = e / e.sum(axis=1, keepdims=True) - targets
    if clip > 0:
        norm = np.sqrt((residual**2).sum(axis=1, keepdims=True)) * row_norm
        residual = residual * np.minimum(1, clip / norm)
    return residual


def langevin_tail(theta, gradient, moment, *, alpha, step_size, noise_std, radius, seed, first_chain, step):
    """Rest of a step, given the gradient: full with ``moment`` to subtract, else of the data alone; (chains, q, p)."""
    result = np.empty_like(theta)
    for i, (t, g) in enumerate(zip(theta, gradient, strict=True)):
        whole = g - moment if moment is not None else g + alpha * t
        xi = normals(t.size, seed, first_chain + i, step, theta.dtype).reshape(t.shape)
        t = t - step_size * whole + noise_std * xi
        result[i] = t * (radius / np.linalg.norm(t)) if radius > 0 and np.linalg.norm(t) > radius else t
    return result


# --- accounting.ridge_law ----------------------------------------------------------------------


def ridge_run_laws(X, Y, *, alpha, step_size, phases, deleted):
    """Mean and covariance after the phases [(n_steps, noise_std, removed)], step by step: (P, Q).

    P drops the rows each phase removes; Q never has the deleted ones.
    """
    n, p = X.shape

    def law(dropped_in):
        mean, covariance = np.zeros((p, Y.shape[1])), np.zeros((p, p))
        for n_steps, noise_std, removed in phases:
            keep = [i for i in range(n) if i not in dropped_in(removed)]
            hessian = X[keep].T @ X[keep] + alpha * np.eye(p)
            for _ in range(n_steps):
                mean = mean - step_size * (hessian @ mean - X[keep].T @ Y[keep])
                step = np.eye(p) - step_size * hessian
                covariance = step @ covariance @ step + noise_std**2 * np.eye(p)
        return mean, covariance

    return law(lambda removed: set(removed)), law(lambda removed: set(deleted))


def ridge_run(design, targets, run, rng):
    """The parameters that a run releases: its noisy steps, one by one."""
    theta = np.zeros((design.shape[1], targets.shape[1]))
    for phase in run.phases:
        keep = np.setdiff1d(np.arange(len(design)), phase.removed)
        rows, aims = design[keep], targets[keep]
        for _ in range(phase.n_steps):
            theta = theta - run.step_size * (rows.T @ (rows @ theta - aims) + run.alpha * theta)
            theta = theta + phase.noise_std * rng.normal(size=theta.shape)
    return theta


def gaussian_renyi(law_p, law_q, order):
    """Renyi divergence of N(m_P, S_P (x) I_q) from N(m_Q, S_Q (x) I_q), from the textbook formula."""
    (mean_p, cov_p), (mean_q, cov_q) = law_p, law_q
    q = mean_p.shape[1]
    blend = order * cov_q + (1 - order) * cov_p
    if np.linalg.eigvalsh(blend)[0] <= 0:
        return np.inf
    difference = mean_p - mean_q
    quadratic = 0.5 * order * np.sum(difference * np.linalg.solve(blend, difference))
    log_det = np.linalg.slogdet
    volume = log_det(blend)[1] - (1 - order) * log_det(cov_p)[1] - order * log_det(cov_q)[1]
    return quadratic - q * volume / (2 * (order - 1))


# --- accounting.rdp ----------------------------------------------------------------------------


def sampled_gaussian_rdp(order, noise_multiplier, sampling_probability, direction):
    """The integral of ratio^e against N(0, 1) to 40 digits, e = order or 1 - order, panel by panel."""
    with mpmath.workdps(40):
        a, s, q = (mpmath.mpf(float(v)) for v in (order, noise_multiplier, sampling_probability))
        power = 1 - a if direction == "qp" else a

        def integrand(z):
            return mpmath.npdf(z) * (1 - q + q * mpmath.exp(z / s - 1 / (2 * s * s))) ** power

        low = -20 - (a - 1) / s if direction == "qp" else mpmath.mpf(-20)
        high = mpmath.mpf(20) if direction == "qp" else 20 + a / s
        kink = s * mpmath.log((1 - q) / q) + 1 / (2 * s)
        cuts = {low + 2 * k for k in range(int((high - low) / 2) + 2)}
        cuts |= {kink + s * k for k in (-6, -3, -1, 0, 1, 3, 6) if low < kink + s * k < high}
        return mpmath.log(mpmath.quad(integrand, sorted(cuts), maxdegree=7)) / (a - 1)


def rdp_to_epsilon_scan(curve, delta):
    """Best epsilon over a very fine grid of orders, plain formula."""
    a = 1 + np.geomspace(1e-6, 1e9, 400_001)
    return max(np.min(curve(a) + np.log1p(-1 / a) - (np.log(delta) + np.log(a)) / (a - 1)), 0.0)


def privacy_loss_step_by_step(grad_norms, *, order, noise_std, step_size, batch_size, steps, n_steps):
    """Full batch: interpolate the cost at every training step, one by one, and add up."""
    cost = order * (step_size * grad_norms / (batch_size * noise_std)) ** 2 / 2
    return np.array([sum(np.interp(t, steps, row) for t in range(n_steps)) for row in cost])


# --- accounting.unlearning ---------------------------------------------------------------------


def langevin_epsilon(steps, order, *, delta, strong_convexity, lipschitz, sigma, n_records, group_size, step_size):
    """Epsilon of the published closed form at one order."""
    m = strong_convexity
    start = 4 * order * (group_size * lipschitz / (sigma * n_records)) ** 2 / m
    return np.exp(-steps * m * step_size / order) * start - np.log(delta) / (order - 1)


def langevin_best_epsilon(steps, *, delta, **setting):
    """The same at the best order, by a scan that zooms in."""
    low, high = -12.0, 12.0
    for _ in range(4):
        excess = 10.0 ** np.linspace(low, high, 4001)
        values = langevin_epsilon(steps, 1 + excess, delta=delta, **setting)
        at, width = np.log10(excess[values.argmin()]), (high - low) / 1000
        low, high = at - width, at + width
    return values.min()


def contraction_rdp(rdp, order, constants, maps, noises):
    """One factor a step, to 40 digits; `constants` is the first one, or one a step."""
    with mpmath.workdps(40):
        now, values = mpmath.mpf(rdp), [mpmath.mpf(rdp)]
        first = None if np.ndim(constants) else mpmath.mpf(float(constants))
        for k, (slope, noise) in enumerate(zip(maps, noises, strict=True)):
            slope, noise = mpmath.mpf(float(slope)), mpmath.mpf(float(noise))
            constant = first if first is not None else mpmath.mpf(float(constants[k]))
            if not slope:
                now = mpmath.mpf(0)
            elif noise and now:
                now = now * (1 + noise**2 / (slope**2 * constant)) ** (-1 / mpmath.mpf(order))
            values.append(now)
            if first is not None:
                first = slope**2 * first + noise**2
        return values


# --- grad_norms --------------------------------------------------------------------------------


def linear_gradients(activations, output_grads):
    """A_i^T G_i of every example, stored: (B, d_in, d_out)."""
    a = activations.reshape(activations.shape[0], -1, activations.shape[-1]).astype(np.float64)
    g = output_grads.reshape(output_grads.shape[0], -1, output_grads.shape[-1]).astype(np.float64)
    return np.einsum("btj,btk->bjk", a, g)


def linear_grad_norms(activations, output_grads, *, bias):
    """Norm of the stored gradients."""
    squares = np.sum(linear_gradients(activations, output_grads) ** 2, axis=(1, 2))
    if bias:
        sums = output_grads.astype(np.float64).sum(axis=tuple(range(1, output_grads.ndim - 1)))
        squares = squares + np.sum(sums**2, axis=1)
    return np.sqrt(squares)


def embedding_gradients(indices, output_grads, *, rows, padding_idx=None):
    """Stored gradient tables: (B, rows, d)."""
    tables = np.zeros((indices.shape[0], rows, output_grads.shape[-1]))
    for i, (tokens, grads) in enumerate(zip(indices, output_grads.astype(np.float64), strict=True)):
        for token, grad in zip(tokens.ravel(), grads.reshape(-1, grads.shape[-1]), strict=True):
            if token != padding_idx:
                tables[i, token] += grad
    return tables


def padded_image(image, pads, mode):
    """(C, ...) image padded as torch.nn.functional.pad does."""
    modes = {"zeros": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}
    return np.pad(image, [(0, 0), *pads], mode=modes[mode])


def conv_gradients(activations, output_grads, *, kernel, stride, pads, mode, dilation, groups):
    """Stored gradients of the kernel, one output pixel, one kernel entry at a time."""
    found = []
    for image, grad in zip(activations.astype(np.float64), output_grads.astype(np.float64), strict=True):
        padded = padded_image(image, pads, mode)
        out_size, in_size = grad.shape[0] // groups, image.shape[0] // groups
        weight = np.zeros((grad.shape[0], in_size, *kernel))
        for position in np.ndindex(*grad.shape[1:]):
            for entry in np.ndindex(*kernel):
                where = tuple(p * s + k * d for p, s, k, d in zip(position, stride, entry, dilation, strict=True))
                for g in range(groups):
                    pixels = padded[(slice(g * in_size, (g + 1) * in_size), *where)]
                    outs = slice(g * out_size, (g + 1) * out_size)
                    weight[(outs, slice(None), *entry)] += np.outer(grad[(outs, *position)], pixels)
        found.append(weight)
    return found


def conv_grad_norms(activations, output_grads, *, bias, **geometry):
    """Norm of the stored gradients."""
    squares = np.array([np.sum(weight**2) for weight in conv_gradients(activations, output_grads, **geometry)])
    if bias:
        sums = output_grads.astype(np.float64).reshape(*output_grads.shape[:2], -1).sum(axis=2)
        squares = squares + np.sum(sums**2, axis=1)
    return np.sqrt(squares)


def group_norms(gradients, groups):
    """Norms of the summed gradients of each group, in sorted order."""
    flat = [np.ravel(one) for one in gradients]
    return [
        np.linalg.norm(sum(g for g, own in zip(flat, groups, strict=True) if own == group))
        for group in sorted(set(groups))
    ]


def normalised(values, *, axes, centre, eps):
    """Values minus their mean (if centre) over the root mean square of what is left."""
    values = values.astype(np.float64)
    if centre:
        values = values - values.mean(axis=axes, keepdims=True)
    return values / np.sqrt(np.mean(values**2, axis=axes, keepdims=True) + eps)


def probe_gradients(X, weights, y, *, loss, alpha):
    """Stored gradients of a linear model: (n, d, C)."""
    X, weights = X.astype(np.float64), weights.astype(np.float64)
    logits = X @ weights
    if loss == "softmax":
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        residual = e / e.sum(axis=1, keepdims=True)
        for i, label in enumerate(y):
            others = np.delete(e[i], label).sum() / e[i].sum()
            residual[i, label] = -others
    elif loss == "logistic":
        sign = np.where(y[:, None] == 1, -1.0, 1.0)
        residual = sign / (1 + np.exp(-sign * logits))
    else:
        residual = logits - y.astype(np.float64).reshape(logits.shape)
    return X[:, :, None] * residual[:, None, :] + alpha * weights


def probe_proxies(X, stack, y, *, loss, early):
    """Norm of the residual at ``early``, mean probability of the true class (0 without classes), last loss: (n, 3)."""
    rows = []
    for x, label in zip(X.astype(np.float64), y, strict=True):
        own, residuals, losses = [], [], []
        for weights in stack.astype(np.float64):
            z = x @ weights
            if loss == "squared":
                difference = z - np.asarray(label, dtype=np.float64).reshape(z.shape)
                own.append(0.0)
                residuals.append(np.linalg.norm(difference))
                losses.append(0.5 * np.sum(difference**2))
                continue
            if loss == "logistic":
                z, label = np.array([0.0, z[0]]), int(label)
            against = np.delete(z, label) - z[label]  # log odds of the other classes
            p = np.exp(z - np.logaddexp.reduce(z))
            p[label] = 0.0
            wrong = p.sum()
            own.append(np.exp(-np.logaddexp.reduce([0.0, *against])))
            residuals.append(wrong if loss == "logistic" else np.sqrt(np.sum(p**2) + wrong**2))
            losses.append(np.logaddexp(0.0, np.logaddexp.reduce(against)))
        rows.append((residuals[early], np.mean(own), losses[-1]))
    return np.array(rows).reshape(-1, 3)


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def recurrent_states(gates, weight, bias, hidden, cells, *, cell, backwards):
    """One sequence and one step at a time: (gates, states before, states after (steps first), what else is kept)."""
    given, weight = np.asarray(gates, float), np.asarray(weight, float)
    batch, steps, width = *given.shape[:2], weight.shape[1]
    made, kept = given.copy(), np.zeros((batch, steps, width))
    before, after = np.zeros((batch, steps, width)), np.zeros((steps, batch, width))
    for i in range(batch):
        h = np.asarray(hidden[i], float)
        c = None if cells is None else np.asarray(cells[i], float)
        for t in reversed(range(steps)) if backwards else range(steps):
            before[i, t] = h
            own = weight @ h + (0 if bias is None else bias)
            if cell == "lstm":
                inward, forget, new, out = np.split(given[i, t] + own, 4)
                inward, forget, new, out = sigmoid(inward), sigmoid(forget), np.tanh(new), sigmoid(out)
                c = forget * c + inward * new
                h, kept[i, t], made[i, t] = out * np.tanh(c), c, np.concatenate([inward, forget, new, out])
            elif cell == "gru":
                r, z, n = np.split(given[i, t], 3)
                r_h, z_h, n_h = np.split(own, 3)
                r, z = sigmoid(r + r_h), sigmoid(z + z_h)
                n = np.tanh(n + r * n_h)
                h, kept[i, t], made[i, t] = (1 - z) * n + z * h, n_h, np.concatenate([r, z, n])
            else:
                total = given[i, t] + own
                h = made[i, t] = np.tanh(total) if cell == "tanh" else np.maximum(total, 0.0)
            after[t, i] = h
    return made, before, after, kept


def recurrent_grads(output_grads, gates, weight, before, cells, kept, last, *, cell, backwards):
    """The chain rule, a sequence and a step at a time: (gradients of both parts of the gates, of the first states)."""
    weight = np.asarray(weight, float)
    of_input, of_state = np.zeros(gates.shape), np.zeros(gates.shape)
    first = [np.asarray(g, float).copy() for g in last]
    batch, steps = gates.shape[:2]
    for i in range(batch):
        d_h, d_c = first[0][i].copy(), first[1][i].copy() if cell == "lstm" else None
        for t in range(steps) if backwards else reversed(range(steps)):
            d_h = d_h + output_grads[i, t]
            g = np.asarray(gates[i, t], float)
            if cell == "lstm":
                inward, forget, new, out = np.split(g, 4)
                earlier = t + 1 if backwards else t - 1
                c_before = kept[i, earlier] if 0 <= earlier < steps else cells[i]
                bent = np.tanh(np.asarray(kept[i, t], float))
                d_c = d_c + d_h * out * (1 - bent**2)
                parts = [
                    d_c * new * inward * (1 - inward), d_c * c_before * forget * (1 - forget),
                    d_c * inward * (1 - new**2), d_h * bent * out * (1 - out),
                ]  # fmt: skip
                of_input[i, t] = of_state[i, t] = np.concatenate(parts)
                d_c, d_h = d_c * forget, of_state[i, t] @ weight
            elif cell == "gru":
                r, z, n = np.split(g, 3)
                d_n = d_h * (1 - z) * (1 - n**2)
                d_r, d_z = d_n * kept[i, t] * r * (1 - r), d_h * (before[i, t] - n) * z * (1 - z)
                of_input[i, t], of_state[i, t] = np.concatenate([d_r, d_z, d_n]), np.concatenate([d_r, d_z, d_n * r])
                d_h = d_h * z + of_state[i, t] @ weight
            else:
                of_input[i, t] = of_state[i, t] = d_h * ((1 - g**2) if cell == "tanh" else (g > 0))
                d_h = of_state[i, t] @ weight
        first[0][i] = d_h
        if cell == "lstm":
            first[1][i] = d_c
    return of_input, of_state, first


def residual_sums(X, theta, *, loss, targets=None, labels=None, weights=None):
    """Return gradient, residuals, loss and right answers of a pass over rows: the textbook's formulas, row by row."""
    q = len(theta)
    gradient, residuals, value, correct = np.zeros(theta.shape), np.zeros((len(X), q)), 0.0, 0
    for i, x in enumerate(X):
        weight = 1.0 if weights is None else weights[i]
        logits = theta @ x
        if loss == "squared":
            r = logits - targets[i]
            value += weight * 0.5 * r @ r
        elif loss == "softmax":
            shifted = np.exp(logits - logits.max())
            r = shifted / shifted.sum() - (np.arange(q) == labels[i])
            value += weight * (np.log(shifted.sum()) + logits.max() - logits[labels[i]])
        else:
            wanted = np.array([labels[i] == 1]) if q == 1 else np.arange(q) == labels[i]
            r = np.where(wanted, -expit(-logits), expit(logits))
            value += weight * np.logaddexp(0.0, np.where(wanted, -logits, logits)).sum()
        if loss != "squared" and weight > 0:
            correct += int(
                (logits[0] > 0) == labels[i] if q == 1 and loss == "logistic" else logits.argmax() == labels[i]
            )
        residuals[i] = weight * r
        gradient += np.outer(residuals[i], x)
    return gradient, residuals, value, correct


def residual_leverages(X, K):
    """Return x^T K_ca, K_c^T K_d and |x|^2 of every row x and its solutions K_c, each of q blocks K_ca."""
    leverages = np.einsum("np,ncap->nca", X, K)
    return leverages, np.einsum("ncap,ndap->ncd", K, K), np.einsum("np,np->n", X, X)


def penalised_derivatives(X, theta, *, loss, targets=None, labels=None, weights=None, alpha=0.0):
    """Return gradient (q p) and Hessian (q p, q p) of weighted losses and penalty."""
    q, p = theta.shape
    share = np.ones(len(X)) if weights is None else np.asarray(weights)
    gradient = residual_sums(X, theta, loss=loss, targets=targets, labels=labels, weights=weights)[0] + alpha * theta
    logits = X @ theta.T
    if loss == "squared":
        curvature = np.broadcast_to(np.eye(q), (len(X), q, q))
    elif loss == "logistic":
        curvature = (expit(logits) * expit(-logits))[:, :, None] * np.eye(q)
    else:
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        e = e / e.sum(axis=1, keepdims=True)
        curvature = e[:, :, None] * np.eye(q) - e[:, :, None] * e[:, None, :]
    hessian = np.einsum("n,ncd,ni,nj->cidj", share, curvature, X, X, optimize=True).reshape(q * p, q * p)
    return gradient.ravel(), hessian + alpha * np.eye(q * p)


def penalised_optimum(X, start, **given):
    """Return the optimum of weighted losses and penalty, by damped Newton steps."""
    theta = np.array(start, dtype=float)
    gradient, hessian = penalised_derivatives(X, theta, **given)
    size = np.inf
    for _ in range(200):
        step, last = np.linalg.solve(hessian, gradient), size
        size, length = np.sqrt(abs(step @ gradient)), 1.0
        if size < 1e-7 and size >= last / 4:
            break
        while True:  # not so far that the slope along the step turns
            point = theta - length * step.reshape(theta.shape)
            gradient, hessian = penalised_derivatives(X, point, **given)
            if size < 1e-7 or step @ gradient > -(size**2) / 2:
                break
            length /= 2
        theta = point
    return theta


def penalised_derivatives_mpmath(X, theta, *, loss, targets=None, labels=None, weights=None, alpha=0.0):
    """Return gradient and Hessian as `penalised_derivatives` does, of floats and an mpmath matrix theta (q p, 1)."""
    number = mpmath.mpf
    p = X.shape[1]
    q = theta.rows // p
    alpha = number(float(alpha))
    gradient, hessian = alpha * theta, alpha * mpmath.eye(q * p)
    for i, x in enumerate(X):
        row = [number(float(value)) for value in x]
        weight = number(1.0 if weights is None else float(weights[i]))
        logits = [mpmath.fsum(theta[c * p + j] * row[j] for j in range(p)) for c in range(q)]
        if loss == "squared":
            r = [u - number(float(t)) for u, t in zip(logits, targets[i], strict=True)]
            curved = [[number(c == d) for d in range(q)] for c in range(q)]
        elif loss == "softmax":
            powers = [mpmath.exp(u - max(logits)) for u in logits]
            shares = [e / mpmath.fsum(powers) for e in powers]
            r = [s - (c == labels[i]) for c, s in enumerate(shares)]
            curved = [[shares[c] * ((c == d) - shares[d]) for d in range(q)] for c in range(q)]
        else:
            wanted = [labels[i] == 1] if q == 1 else [c == labels[i] for c in range(q)]
            shares = [1 / (1 + mpmath.exp(-u)) for u in logits]
            r = [-1 / (1 + mpmath.exp(u)) if w else s for u, s, w in zip(logits, shares, wanted, strict=True)]
            curved = [
                [(shares[c] / (1 + mpmath.exp(logits[c])) if c == d else number(0)) for d in range(q)] for c in range(q)
            ]
        for c in range(q):
            for j in range(p):
                gradient[c * p + j] += weight * r[c] * row[j]
                for d in range(q):
                    for k in range(p):
                        hessian[c * p + j, d * p + k] += weight * curved[c][d] * row[j] * row[k]
    return gradient, hessian


def penalised_optimum_mpmath(X, start, **given):
    """Return the optimum as `penalised_optimum` does, to the digits of the context; `start` is a matrix (q p, 1)."""
    theta = start
    gradient, hessian = penalised_derivatives_mpmath(X, theta, **given)
    for _ in range(500):
        step = mpmath.lu_solve(hessian, gradient)
        slope = (step.T * gradient)[0]
        if slope < mpmath.mpf(10) ** (-2 * mpmath.mp.dps // 3):
            return theta - step
        length = mpmath.mpf(1)
        while True:  # not so far that the slope along the step turns
            point = theta - length * step
            gradient, hessian = penalised_derivatives_mpmath(X, point, **given)
            if (step.T * gradient)[0] > -slope / 2:
                break
            length /= 2
        theta = point
    raise AssertionError("no optimum")


def residual_gradient_mpmath(X, theta, *, loss, targets=None, labels=None, weights=None, alpha=0.0, digits=60):
    """Return the norm of the exact gradient, penalty included, at the floats given."""
    with mpmath.workdps(digits):
        number = mpmath.mpf
        q, p = theta.shape
        total = [[number(alpha) * number(float(t)) for t in row] for row in theta]
        for i, x in enumerate(X):
            row = [number(float(value)) for value in x]
            weight = number(1.0 if weights is None else float(weights[i]))
            logits = [mpmath.fsum(number(float(t)) * v for t, v in zip(out, row, strict=True)) for out in theta]
            if loss == "squared":
                r = [u - number(float(t)) for u, t in zip(logits, targets[i], strict=True)]
            elif loss == "softmax":
                powers = [mpmath.exp(u - max(logits)) for u in logits]
                r = [e / mpmath.fsum(powers) - (c == labels[i]) for c, e in enumerate(powers)]
            else:
                wanted = [labels[i] == 1] if q == 1 else [c == labels[i] for c in range(q)]
                r = [
                    -1 / (1 + mpmath.exp(u)) if w else 1 / (1 + mpmath.exp(-u))
                    for u, w in zip(logits, wanted, strict=True)
                ]
            for c in range(q):
                for j in range(p):
                    total[c][j] += weight * r[c] * row[j]
        return mpmath.sqrt(mpmath.fsum(value * value for out in total for value in out))


def ridge_law(X, Y, *, alpha, step_size, phases):
    """Mean and covariance of a Langevin ridge run, one step after the other."""
    p = X.shape[1]
    mean, covariance = np.zeros((p, Y.shape[1])), np.zeros((p, p))
    for phase in phases:
        keep = np.setdiff1d(np.arange(len(X)), np.array(phase.removed, dtype=int))
        rows, aims = X[keep], Y[keep]
        step = np.eye(p) - step_size * (rows.T @ rows + alpha * np.eye(p))
        for _ in range(phase.n_steps):
            mean = step @ mean + step_size * (rows.T @ aims)
            covariance = step @ covariance @ step.T + phase.noise_std**2 * np.eye(p)
    return mean, covariance


# --- ensemble ----------------------------------------------------------------------------------


def network_loss(plan, eps, parameters, image, label):
    """Return the cross-entropy of one network on one image (height, width, channels); parameters may be complex."""
    x = None
    for (kind, *shape, down, across, step, stride, top, left, out, groups, weight, bias), small in zip(
        plan, eps, strict=True
    ):
        x = np.asarray(image if x is None else x).reshape(shape)
        channels = shape[2]

        def part(at, n, default):
            return np.full(n, default) if at < 0 else parameters[at : at + n]

        if kind in (0, 4):
            padded = np.pad(x, ((top, top), (left, left), (0, 0)), constant_values=0.0 if kind == 0 else -np.inf)
            windows = np.lib.stride_tricks.sliding_window_view(padded, (down, across), axis=(0, 1))[::step, ::stride]
        if kind == 0:
            weights = parameters[weight : weight + out * channels * down * across]
            x = np.tensordot(windows, weights.reshape(out, channels, down, across), ([2, 3, 4], [1, 2, 3]))
            x = x + part(bias, out, 0.0)
        elif kind == 1:
            x = parameters[weight : weight + out * channels].reshape(out, channels) @ x.ravel() + part(bias, out, 0.0)
            x = x[None, None]
        elif kind == 2:
            grouped = x.reshape(-1, groups, channels // groups)
            centred = grouped - grouped.mean(axis=(0, 2), keepdims=True)
            spread = np.sqrt((centred * centred).mean(axis=(0, 2), keepdims=True) + small)
            x = (centred / spread).reshape(shape) * part(weight, channels, 1.0) + part(bias, channels, 0.0)
        elif kind == 3:
            x = np.where(x.real > 0.0, x, 0.0)
        elif kind == 4:
            flat = windows.reshape(*windows.shape[:3], -1)
            x = np.take_along_axis(flat, flat.real.argmax(-1)[..., None], -1)[..., 0]
        else:
            x = np.moveaxis(x, 2, 0).reshape(1, 1, -1)
    logits = x.ravel()
    apart = logits - logits.real.max()
    return np.log(np.exp(apart).sum()) - apart[label]


def network_gradients(plan, eps, parameters, images, labels, rows, ends):
    """Return gradients of the sums of losses, and the losses, of each network: a complex step for every parameter."""
    plan, eps = [[int(entry) for entry in line] for line in plan], eps.tolist()
    gradients, losses = np.zeros(parameters.shape), np.zeros(len(rows))
    for m, own in enumerate(parameters):
        for at in range(ends[m - 1] if m else 0, ends[m]):
            given = plan, eps
            losses[at] = network_loss(*given, own, images[rows[at]], labels[rows[at]]).real
            for j in range(own.size):
                moved = own.astype(complex)
                moved[j] += 1e-30j
                gradients[m, j] += network_loss(*given, moved, images[rows[at]], labels[rows[at]]).imag / 1e-30
    return gradients, losses


# --- noise -------------------------------------------------------------------------------------


class KarneyNormals:
    """Karney's algorithm N on numbers that have digits where they are asked for.

    A number is the list of its first digits. It grows at both ends of a comparison that is not decided yet, first that
    of the newer number.
    """

    def __init__(self, words):
        self.words, self.used = iter([int(word) for word in words]), 0

    def take(self):
        word = next(self.words)
        self.used += 1
        return word

    def below(self, new, old):
        for place in range(10_000):
            for number in (new, old):
                while len(number) <= place:
                    number.append(self.take())
            if new[place] != old[place]:
                return new[place] < old[place]

    def even_run(self, old, step):
        length = 0
        while self.below(new := [self.take()], old) and step():
            old, length = new, length + 1
        return length % 2 == 0

    def half(self):  # chance exp(-1/2)
        first = [self.take()]
        return first[0] >= 2**31 or not self.even_run(first, lambda: True)

    def among(self, m):
        while (word := self.take()) // m == 2**32 // m:  # the last, shorter stretch of m
            pass
        return word % m

    def normal(self):
        """Return the whole part, the digits of the fraction that were looked at, and the sign."""
        while True:
            k = 0
            while self.half():
                k += 1
            if not all(self.half() for _ in range(k * (k - 1))):
                continue
            x = [self.take()]

            def step(k=k, x=x):
                side = self.among(2 * k + 2)
                return side < 2 * k or (side == 2 * k and self.below([self.take()], x))

            if all(self.even_run(x, step) for _ in range(k + 1)):
                return k, x, -1 if self.take() % 2 else 1

    def decided(self, places, answer):
        """Return ``answer`` of a normal's two ends, by as many digits as make them agree, and these ends."""
        k, x, sign = self.normal()
        places += k > 255  # more than two float64 numbers hold; never so many cells
        while True:
            while len(x) < places:
                x.append(self.take())
            fraction = sum(Fraction(digit, 2 ** (32 * i)) for i, digit in enumerate(x, 1))
            ends = [sign * (k + fraction + Fraction(last, 2 ** (32 * len(x)))) for last in (0, 1)]
            answers = [answer(end) for end in ends]
            if answers[0] == answers[1]:
                return answers[0], ends
            places = len(x) + 1


def rounded_normals(words, theta, noise_std, exponent):
    """Return the cells next to parameters plus noise, and the number of words used."""
    normals, cells = KarneyNormals(words), []
    for value in np.ravel(theta):
        centre, std = Fraction(float(value)), Fraction(noise_std)
        cell, _ = normals.decided(
            2, lambda z, c=centre, s=std: math.floor((c + s * z) / Fraction(2) ** exponent + Fraction(1, 2))
        )
        cells.append(cell)
    return cells, normals.used


def nearest_float64(number):
    """Return the float64 nearest to a fraction, of two the one whose last binary digit is 0; far from 2^-1022."""
    if number == 0:
        return 0.0
    exponent = -60
    while abs(number) / Fraction(2) ** (exponent + 53) >= 1:
        exponent += 1
    while abs(number) / Fraction(2) ** (exponent + 52) < 1:
        exponent -= 1
    return math.ldexp(round(number / Fraction(2) ** exponent), exponent)


def exact_normals(words, n):
    """Return pairs of float64 numbers, between which ends their normals lie, and the number of words used."""
    normals, pairs, enclosures = KarneyNormals(words), [], []
    for _ in range(n):
        hi, ends = normals.decided(3, nearest_float64)
        pairs.append((hi, nearest_float64((ends[0] + ends[1]) / 2 - Fraction(hi))))
        enclosures.append((min(ends), max(ends)))
    return pairs, enclosures, normals.used


# --- columns -----------------------------------------------------------------------------------


def rows_of_columns(columns, rows):
    """Entry by entry."""
    found = np.empty(rows.shape, dtype=rows.dtype)
    for i, j in np.ndindex(rows.shape):
        found[i, j] = columns[j, i]
    return found


def _thrift(data, at, kind):
    """Return a value in Thrift's compact protocol, structures as dictionaries, and where it ends."""

    def varint(at):
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 0x80:
                return value, at

    if kind in (1, 2):
        return kind == 1, at
    if kind == 5 or kind in (4, 6):
        value, at = varint(at)
        return value // 2 if value % 2 == 0 else -(value + 1) // 2, at
    if kind == 8:
        length, at = varint(at)
        return bytes(data[at : at + length]), at + length
    assert kind == 12, kind
    found, field = {}, 0
    while data[at]:
        head = data[at]
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _thrift(data, at, 5)
        found[field], at = _thrift(data, at, head & 15)
    return found, at + 1


def _levels(data, highest, count):
    """Return runs of levels and packed ones as a list."""
    bits, at, found = highest.bit_length(), 0, []
    while len(found) < count:
        head = shift = 0
        while True:
            head |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 0x80:
                break
        if head & 1:
            size = (head >> 1) * bits
            word = int.from_bytes(data[at : at + size], "little")
            found += [(word >> (bits * i)) & ((1 << bits) - 1) for i in range(8 * (head >> 1))]
            at += size
        else:
            found += [data[at]] * (head >> 1)
            at += 1
    return found[:count]


def plain_page(page, *, item_bytes, max_definition, max_repetition, width, phase):
    """Return where the values of a whole page lie, how many there are and where it ends; None for what is not plain.

    Pages are those that Parquet's format describes: a damaged one raises whatever Python raises.
    """
    header, begin = _thrift(page, 0, 12)
    second = header[1] == 3
    if header[1] not in (0, 3) or header[2] != header[3]:
        return None
    data = header[8] if second else header[5]
    count, encoding = data[1], data[4] if second else data[2]
    if encoding != 0:
        return None
    at, levels = begin, []
    for kind, highest in enumerate((max_repetition, max_definition)):
        if highest:
            if second:
                size = data[6 - kind]
            else:
                size = int.from_bytes(page[at : at + 4], "little")
                at += 4
            levels.append(_levels(page[at : at + size], highest, count))
            at += size
        else:
            levels.append([0] * count)
    repeated, defined = levels
    if defined != [max_definition] * count or begin + header[2] - at != count * item_bytes:
        return None
    if max_repetition and repeated != [int((phase + i) % width != 0) for i in range(count)]:
        return None
    return at, count, begin + header[2]
