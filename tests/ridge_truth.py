"""The two laws of a ridge deletion and their privacy profile in mpmath: the truth that certified numbers are held to.

Every function works in the precision the caller has set with ``mpmath.workdps``.
"""

import mpmath


def powers(step, n_steps):
    """A^N, the sum of A^j and the sum of A^(2j) over j < N, by doubling."""
    p = step.rows
    power, total, squares = mpmath.eye(p), mpmath.zeros(p), mpmath.zeros(p)
    for bit in format(n_steps, "b"):
        total, squares = total + power * total, squares + power * power * squares
        power = power * power
        if bit == "1":
            total, squares = total + power, squares + power * power
            power = power * step
    return power, total, squares


def exact_laws(X, Y, *, alpha, step_size, phases, deleted):
    """Differences of the means and of the covariances of P and Q, and the covariance of Q."""
    p, eta = X.shape[1], mpmath.mpf(float(step_size))

    def law(dropped_in):
        mean, covariance = mpmath.zeros(p, Y.shape[1]), mpmath.zeros(p)
        for phase in phases:
            keep = [i for i in range(len(X)) if i not in dropped_in(phase.removed)]
            rows, aims = mpmath.matrix(X[keep].tolist()), mpmath.matrix(Y[keep].tolist())
            step = mpmath.eye(p) - eta * (rows.T * rows + mpmath.mpf(float(alpha)) * mpmath.eye(p))
            power, total, squares = powers(step, phase.n_steps)
            mean = power * mean + eta * (total * (rows.T * aims))
            covariance = power * covariance * power + mpmath.mpf(float(phase.noise_std)) ** 2 * squares
        return mean, covariance

    (mean_p, covariance_p), (mean_q, covariance_q) = law(set), law(lambda removed: set(deleted))
    return mean_p - mean_q, covariance_p - covariance_q, covariance_q


def exact_pair(X, Y, **run):
    """Excess variances and squared shifts of P against Q after whitening by Q."""
    difference, covariance, covariance_q = exact_laws(X, Y, **run)
    inverse = mpmath.cholesky(covariance_q) ** -1
    excess, vectors = mpmath.eigsy(inverse * covariance * inverse.T)
    shift = vectors.T * inverse * difference
    return list(excess), [mpmath.fsum(shift[j, k] ** 2 for k in range(Y.shape[1])) for j in range(X.shape[1])]


def exchanged(excess, squared):
    """The same pair with P and Q exchanged."""
    return [-e / (1 + e) for e in excess], [s / (1 + e) for e, s in zip(excess, squared, strict=True)]


def exact_delta(excess, squared, columns, epsilon, *, digits=20):
    """delta(P | Q): the trapezoidal rule on a hyperbola through the saddle; the integrand decays twice over on it."""
    epsilon, half = mpmath.mpf(epsilon), mpmath.mpf(columns) / 2
    logs = [mpmath.log1p(e) for e in excess]
    pairs = list(zip(excess, squared, logs, strict=True))

    def exponent(w):
        total = -w * epsilon
        for e, s, log in pairs:
            v = 1 - w * e
            total += w * (1 + w) * s / (2 * v) - half * (mpmath.log(v) + w * log)
        return total - mpmath.log(w) - mpmath.log1p(w)

    top = max(*excess, mpmath.mpf(0))
    pole = 1 / top if top else mpmath.inf

    def slope(w):
        total = -epsilon - 1 / w - 1 / (1 + w)
        for e, s, log in pairs:
            v = 1 - w * e
            total += s * (1 + 2 * w - w * w * e) / (2 * v * v) + half * (e / v - log)
        return total

    low, high = mpmath.mpf(10) ** -30, mpmath.mpf(10) ** 60
    if top:
        high = pole * (1 - mpmath.mpf(10) ** -25)
    for _ in range(120):  # bisection of log w, or of the distance to the pole
        near_zero = high < pole / 2 or not top
        middle = mpmath.sqrt(low * high) if near_zero else pole - mpmath.sqrt((pole - low) * (pole - high))
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    w0 = (low + high) / 2
    bend = sum(
        (s * (1 + e) / (1 - w0 * e) ** 3 + half * (e / (1 - w0 * e)) ** 2 for e, s, _ in pairs),
        1 / w0**2 + 1 / (1 + w0) ** 2,
    )
    scale, level = 1 / mpmath.sqrt(bend), exponent(w0)
    # Far out the exponent is -w times this rate, or less: the hyperbola opens to the side on which that falls.
    rate = epsilon + sum(half * log + s / (2 * e) for e, s, log in pairs if e)
    if not rate < 0 and not any(e > 0 for e in excess) and all(e or not s for e, s, _ in pairs):
        return mpmath.mpf(0)  # beyond the largest privacy loss
    theta = -mpmath.sign(rate) * mpmath.mpf("0.35")
    sine, cosine = mpmath.sin(theta), mpmath.cos(theta)

    def node(u):
        w = w0 + scale * (sine * (1 - mpmath.cosh(u)) + 1j * cosine * mpmath.sinh(u))
        turn = scale * (cosine * mpmath.cosh(u) + 1j * sine * mpmath.sinh(u))  # dw / i
        return mpmath.re(mpmath.exp(exponent(w) - level) * turn)

    def rule(start, step):
        total, u, small = mpmath.mpf(0), start, 0
        while small < 4:
            value = node(u)
            total += value
            small = small + 1 if abs(value) < mpmath.mpf(10) ** -(digits + 8) * scale else 0
            u += step
        return total

    step = mpmath.mpf("0.25")
    total = node(mpmath.mpf(0)) / 2 + rule(step, step)
    last = total * step
    for _ in range(7):
        total += rule(step / 2, step)
        step /= 2
        if abs(total * step - last) <= mpmath.mpf(10) ** -(digits // 2 + 3) * abs(last):
            # Halving the step squares the error.
            return total * step * mpmath.exp(level) / mpmath.pi
        last = total * step
    if level + mpmath.log(w0) + mpmath.log1p(w0) < -576:
        return mpmath.mpf(0)  # below 1e-250 by Chernoff's bound: so far out the hyperbola may lead astray
    raise ArithmeticError("the rule does not settle")
