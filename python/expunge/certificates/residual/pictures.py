"""Pictures of the auditor's page, as SVG and HTML without a file of their own."""

from __future__ import annotations

import math

__all__ = ["budget_bar", "two_laws"]

_WIDTH, _HEIGHT, _REACH = 720, 180, 3.6


def two_laws(mu: float) -> str:
    """Return an SVG of two normal laws of standard deviation 1 whose means are ``mu`` apart.

    Examples
    --------
    >>> two_laws(0.3).count("<path")
    2
    """
    low, high = -_REACH, mu + _REACH

    def point(x: float, mean: float) -> str:
        height = math.exp(-((x - mean) ** 2) / 2)
        return f"{_WIDTH * (x - low) / (high - low):.1f},{_HEIGHT - 10 - (_HEIGHT - 30) * height:.1f}"

    def curve(mean: float, style: str) -> str:
        points = [point(low + (high - low) * i / 160, mean) for i in range(161)]
        return f'<path d="M{" L".join(points)}" fill="none" stroke-width="2.5" {style}/>'

    base = _HEIGHT - 10
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="two bell curves, {mu:.3g} standard deviations '
        'apart">'
        f'<line x1="0" x2="{_WIDTH}" y1="{base}" y2="{base}" stroke="var(--line)"/>'
        + curve(0.0, 'stroke="var(--fill)"')
        + curve(mu, 'stroke="var(--mark)" stroke-dasharray="7 5"')
        + "</svg>"
    )


def budget_bar(made: int, most: int) -> str:
    """Return a bar of how many releases were made.

    Examples
    --------
    >>> budget_bar(1, 4)
    '<div class="bar" role="img" aria-label="1 of 4 releases made"><i style="width:25.00%"></i></div>'
    """
    share = 100 * min(made / most, 1.0)
    return (
        f'<div class="bar" role="img" aria-label="{made:,} of {most:,} releases made">'
        f'<i style="width:{share:.2f}%"></i></div>'
    )
