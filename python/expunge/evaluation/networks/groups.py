"""Groups of units that move together, and the axis of an activation that holds one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Groups", "Label"]


@dataclass(frozen=True)
class Label:
    """Axis ``dim`` of an activation holds the units of ``group``, each on ``width`` neighbouring places."""

    dim: int
    group: int
    width: int = 1


class Groups:
    """Groups of units, united where an operation makes them move together."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.sizes: list[int] = []
        self.blocks: list[set[int]] = []
        self.reason: list[str | None] = []  # why the group is pinned

    def new(self, size: int) -> int:
        """Return the number of a new group of ``size`` units."""
        self.parent.append(len(self.parent))
        self.sizes.append(size)
        self.blocks.append(set())
        self.reason.append(None)
        return len(self.parent) - 1

    def root(self, group: int) -> int:
        """Return the group that stands for all that ``group`` was united with."""
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def unite(self, a: int, b: int) -> None:
        """Let two groups move together, or pin both if their sizes differ."""
        a, b = sorted((self.root(a), self.root(b)))
        if a == b:
            return
        if self.sizes[a] != self.sizes[b]:
            self.pin(a, "sizes differ")
            self.pin(b, "sizes differ")
            return
        self.parent[b] = a
        self.blocks[a] |= self.blocks[b]
        self.reason[a] = self.reason[a] or self.reason[b]

    def pin(self, group: int, reason: str) -> None:
        """Keep the units of a group in their places; the first reason counts."""
        group = self.root(group)
        self.reason[group] = self.reason[group] or reason
