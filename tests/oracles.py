"""Slow, obvious NumPy truth: one function per kernel."""

import numpy as np

# --- privacy -----------------------------------------------------------------------------------

# --- ridge -------------------------------------------------------------------------------------

# --- langevin ----------------------------------------------------------------------------------

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


def conv_grad_norms(activations, output_grads, *, kernel, stride, pads, mode, dilation, groups, bias):
    """One output pixel, one kernel entry at a time."""
    norms = []
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
        squares = np.sum(weight**2)
        if bias:
            squares += np.sum(grad.reshape(grad.shape[0], -1).sum(axis=1) ** 2)
        norms.append(np.sqrt(squares))
    return np.array(norms)


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
