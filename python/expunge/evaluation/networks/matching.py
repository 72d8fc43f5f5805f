"""Weight matching: the order of one network's units that brings its weights closest to another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from expunge._validate import count
from expunge.evaluation.networks.permutations import PermutationSpec, moved, random_permutations
from expunge.evaluation.networks.verification import verify_permutation

__all__ = ["Matching", "match_weights"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Matching:
    """The permutations found, and how close they bring the weights. An *estimate*: a better matching may exist.

    Attributes
    ----------
    permutations : dict of str to ndarray of int
        By group of units; what `permuted` takes.
    distance : float
        Euclidean distance of A's parameters from the permuted B's.
    distance_before : float
        The same with B as it was.
    n_sweeps : int
        Over all groups, of the best start.
    converged : bool
        Whether the last sweep changed nothing: a local optimum, not always the best.
    """

    permutations: dict[str, NDArray[np.int64]]
    distance: float
    distance_before: float
    n_sweeps: int
    converged: bool
    status: str = field(default="estimate", init=False)


def assignment(similarity: Array, blocks: int) -> NDArray[np.int64]:
    """Return the permutation p with the largest sum of similarity[k, p[k]], whole blocks mapped onto blocks."""
    if blocks == 1:
        return np.asarray(linear_sum_assignment(similarity, maximize=True)[1], dtype=np.int64)
    size = len(similarity) // blocks
    value = np.empty((blocks, blocks))
    inner = np.empty((blocks, blocks, size), dtype=np.int64)
    for a in range(blocks):
        for b in range(blocks):
            part = similarity[a * size : (a + 1) * size, b * size : (b + 1) * size]
            rows, columns = linear_sum_assignment(part, maximize=True)
            value[a, b], inner[a, b] = part[rows, columns].sum(), columns
    outer = linear_sum_assignment(value, maximize=True)[1]
    return np.concatenate([outer[a] * size + inner[a, outer[a]] for a in range(blocks)]).astype(np.int64)


class _Problem:
    """A's and B's parameters, and how similar they are under permutations of B."""

    def __init__(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], spec: PermutationSpec) -> None:
        self.spec = spec
        self.a = {name: a[name].detach().cpu().double() for name in spec.axes}
        self.b = {name: b[name].detach().cpu().double() for name in spec.axes}
        self.of_group = {
            group: [name for name, axes in spec.axes.items() if any(x is not None and x[0] == group for x in axes)]
            for group in spec.sizes
        }

    def similarity(self, names: Any, permutations: Mapping[str, NDArray[np.int64]]) -> float:
        pairs = ((self.a[n], moved(self.b[n], self.spec.axes[n], permutations)) for n in names)
        return float(sum((a * b).sum() for a, b in pairs))

    def of_units(self, group: str, permutations: Mapping[str, NDArray[np.int64]]) -> Array:
        """Return the similarity of each of A's units to each of B's, all else in its present order."""
        size = self.spec.sizes[group]
        total = torch.zeros(size, size, dtype=torch.float64)
        for name in self.of_group[group]:
            axes = self.spec.axes[name]
            for place, axis in enumerate(axes):
                if axis is not None and axis[0] == group:
                    ours = self.a[name].movedim(place, 0).reshape(size, -1)
                    theirs = moved(self.b[name], axes, permutations, but=place).movedim(place, 0).reshape(size, -1)
                    total += ours @ theirs.T
        found: Array = total.numpy()
        return found

    def sweep(self, permutations: dict[str, NDArray[np.int64]], rng: np.random.Generator) -> bool:
        """Solve every group once, in random order; return whether anything came closer."""
        changed = False
        groups = list(self.spec.sizes)
        for k in rng.permutation(len(groups)):
            group = groups[k]
            names = self.of_group[group]
            before = self.similarity(names, permutations)
            order = assignment(self.of_units(group, permutations), self.spec.norm_groups.get(group, 1))
            trial = {**permutations, group: order}
            # A group on two axes of one tensor makes the problem quadratic: its linear step may lead away.
            if self.similarity(names, trial) > before + 1e-12 * abs(before):
                permutations[group] = order
                changed = True
        return changed


def match_weights(
    model_a: nn.Module,
    model_b: nn.Module,
    spec: PermutationSpec,
    *,
    inputs: Tensor | None = None,
    n_starts: int = 1,
    max_sweeps: int = 100,
    seed: int = 0,
) -> Matching:
    """Return the order of B's units that brings its parameters closest to A's [AHS]_.

    Coordinate descent: one linear assignment per group of units, all others as they are, until nothing changes. Under
    GroupNorm whole norm groups are assigned by the best assignment within them, which is exact.

    Parameters
    ----------
    model_a, model_b : torch.nn.Module
        Of one architecture.
    spec : PermutationSpec
        Of `permutation_spec`, or by hand.
    inputs : Tensor, optional
        A batch of real inputs, on which the permuted B must be the same function in float64. Without it a specification
        by hand is not tested.
    n_starts : int, default 1
        The first start is B as it is, further ones are random; the closest result is kept.
    max_sweeps : int, default 100
        Over all groups, each start.
    seed : int
        Of the order of groups and of random starts.

    Returns
    -------
    Matching
        Never farther from A than B was.

    Raises
    ------
    ValueError
        If the models' states do not fit the specification or are not finite, or the permuted B gives other outputs on
        ``inputs`` than B.

    References
    ----------
    .. [AHS] Ainsworth, Hayase, Srinivasa, Git Re-Basin: merging models modulo permutation symmetries (2022),
       arXiv:2209.04836.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> spec = PermutationSpec.by_hand(
    ...     model, {"0.weight": ("h", None), "0.bias": ("h",), "2.weight": (None, "h")})
    >>> match_weights(model, model, spec).distance
    0.0
    """
    a, b = model_a.state_dict(), model_b.state_dict()
    spec.check(a)
    spec.check(b)
    n_starts, max_sweeps = count("n_starts", n_starts, low=1), count("max_sweeps", max_sweeps, low=1)
    seed = count("seed", seed)
    own_a, own_b = dict(model_a.named_parameters()), dict(model_b.named_parameters())
    for name in own_a:
        if name not in own_b or own_a[name].shape != own_b[name].shape:
            raise ValueError(f"model_b must have the architecture of model_a; they differ in {name}")
        for who, own in (("model_a", own_a), ("model_b", own_b)):
            if not bool(torch.isfinite(own[name]).all()):
                raise ValueError(f"{who} must have finite parameters, got {name}")
    # Distances are over parameters; buffers (statistics) move along but do not vote.
    voting = PermutationSpec({n: x for n, x in spec.axes.items() if n in own_a}, spec.sizes, spec.norm_groups)
    problem = _Problem(a, b, voting)
    rng = np.random.default_rng(seed)
    best: tuple[float, dict[str, NDArray[np.int64]], int, bool] | None = None
    for start in range(n_starts):
        orders = {group: np.arange(size) for group, size in spec.sizes.items()}
        if start:
            orders = random_permutations(spec, seed=int(rng.integers(2**32)))
        sweeps, changed = 0, True
        while changed and sweeps < max_sweeps:
            changed = problem.sweep(orders, rng)
            sweeps += 1
        value = problem.similarity(voting.axes, orders)
        if best is None or value > best[0]:
            best = value, orders, sweeps, not changed
    assert best is not None
    _, orders, sweeps, converged = best

    if inputs is not None:
        verify_permutation(model_b, spec, orders, inputs)

    def distance(permutations: Mapping[str, NDArray[np.int64]]) -> float:
        total = 0.0
        for name in own_a:
            ours, theirs = (own[name].detach().cpu().double() for own in (own_a, own_b))
            total += float((ours - moved(theirs, spec.axes.get(name, ()), permutations)).square().sum())
        return total**0.5

    return Matching(orders, distance(orders), distance({}), sweeps, converged)
