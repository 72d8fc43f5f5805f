"""Examples of a batch that belong together: whose gradients are added before the norm is taken."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._types import AnyArray
from expunge.data.identifiers import exact_ids

__all__ = ["Grouping"]


class Grouping:
    """Groups of examples, those of one size side by side.

    Parameters
    ----------
    groups : array-like of shape (B,)
        Each example's group: whole numbers or text.
    name : str, default "groups"
        What they are called in errors.

    Attributes
    ----------
    ids : ndarray of shape (G,)
        The groups, sorted.
    n_examples : int
        B.
    sizes : list of (ndarray of shape (g, k), ndarray of shape (g,))
        For every size k, the examples of each of its g groups in their order, and the places of these groups in
        ``ids``.

    Raises
    ------
    TypeError
        For groups that are neither whole numbers nor text, and mixtures of both.
    ValueError
        If there is more than one dimension, or an empty text.

    Examples
    --------
    >>> found = Grouping(["b", "a", "b"])
    >>> found.ids.tolist(), [(members.tolist(), places.tolist()) for members, places in found.sizes]
    (['a', 'b'], [([[1]], [0]), ([[0, 2]], [1])])
    """

    def __init__(self, groups: ArrayLike, *, name: str = "groups") -> None:
        self._name = name
        try:
            given: AnyArray = exact_ids(groups)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
        self.n_examples = len(given)
        self.ids, group_of = np.unique(given, return_inverse=True)
        counts = np.bincount(group_of, minlength=len(self.ids))
        ordered = np.argsort(group_of, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        self.sizes: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for size in np.unique(counts).tolist():
            places = np.flatnonzero(counts == size)
            self.sizes.append((ordered[starts[places][:, np.newaxis] + np.arange(size)], places))

    def __len__(self) -> int:
        return len(self.ids)

    def members(self, place: int) -> list[int]:
        """Return the examples of the group at this place in ``ids``, in their order."""
        for members, places in self.sizes:
            at = np.flatnonzero(places == place)
            if at.size:
                return members[int(at[0])].tolist()  # type: ignore[no-any-return]
        raise IndexError(f"place must be in [0, {len(self)}), got {place}")

    def look_at(self, n_examples: int) -> None:
        """Refuse a batch of another size.

        Raises
        ------
        ValueError
            If the batch has not one example for each entry of the groups.
        """
        if n_examples != self.n_examples:
            raise ValueError(
                f"{self._name} must have one entry for each of the {n_examples} examples of the batch, got "
                f"{self.n_examples}"
            )
