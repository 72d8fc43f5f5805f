"""The answer of a published closed form, with what must be known to read it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PublishedForm"]

Answer = int | float | tuple[int, ...]


@dataclass(frozen=True)
class PublishedForm:
    """A number as published, and the certified answer to the same question.

    Attributes
    ----------
    value : int, float or tuple of int
        The published closed form's answer, in ordinary float64 arithmetic.
    certified : int, float, tuple of int or None
        What holds with the same constants, rounded outward; None where this library has no answer.
    order : float or None
        Renyi order of the answer; None where none is used.
    source : str
        Where the form was published.
    adjacency : str
        Which data sets are compared.
    caveat : str
        What is wrong with the form or loose in it.
    status : str
        ``"published"``: nobody vouches for ``value`` here.
    """

    value: Answer
    certified: Answer | None
    order: float | None
    source: str
    adjacency: str
    caveat: str
    status: str = "published"
