"""Self-contained HTML pages: one style, light and dark, for screens of any width and for paper."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["STYLE", "html_page", "html_table"]

STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #5a5f6e; --back: #fff; --line: #ddd; --mark: #b54400;
       --good: #1a6b3c; --fill: #2f6fab; --soft: #f4f5f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --faint: #aab; --back: #16181c; --line: #333;
       --mark: #ffa261; --good: #6fcf97; --fill: #6fb1ee; --soft: #20242b; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 960px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; margin-bottom: .3rem; } h2 { margin-top: 2.2rem; line-height: 1.25; }
.lead { color: var(--faint); } .mark { display: inline-block; color: var(--mark); border: 1px solid var(--mark);
       border-radius: 99px; padding: 0 .7em; font-size: .85rem; margin: 0 .4em .3em 0; }
.good { color: var(--good); border-color: var(--good); } .plain { color: var(--faint); border-color: var(--faint); }
img { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
td, th { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
code { background: color-mix(in srgb, var(--ink) 8%, transparent); padding: .1em .3em; border-radius: 3px; }
pre { background: var(--soft); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .85rem; }
pre code { background: none; padding: 0; }
.scroll { overflow-x: auto; } .keep td, .keep th { white-space: nowrap; }
.hash { font: .82rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.box { background: var(--soft); border-radius: 8px; padding: .9rem 1.2rem; margin: 1rem 0; }
.box > :first-child { margin-top: 0; } .box > :last-child { margin-bottom: 0; }
.not { border-left: 4px solid var(--mark); } .holds { border-left: 4px solid var(--good); }
.bar { height: .9rem; border-radius: 99px; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--fill); min-width: 2px; }
figure { margin: 1rem 0; } figcaption { color: var(--faint); font-size: .9rem; }
svg { width: 100%; height: auto; display: block; }
.key { display: inline-block; width: 2.2em; border-top: 3px solid var(--fill); vertical-align: middle; margin: 0 .4em; }
.key.dashed { border-top: 3px dashed var(--mark); }
@media (max-width: 600px) { body { margin: 1rem auto; } h1 { font-size: 1.5rem; } h2 { margin-top: 1.7rem; } }
@media print { :root { color-scheme: light; --ink: #000; --faint: #444; --back: #fff; --line: #bbb; --mark: #b54400;
       --good: #1a6b3c; --fill: #2f6fab; --soft: #f4f5f7; }
       body { margin: 0; max-width: none; font-size: 10.5pt; } h2 { break-after: avoid; }
       tr, .box, figure, pre { break-inside: avoid; } .scroll { overflow: visible; }
       .keep td, .keep th { white-space: normal; } pre { white-space: pre-wrap; }
       .bar, .bar i, .box, pre { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
@page { margin: 18mm; }
"""


def html_page(title: str, body: Iterable[str]) -> str:
    """Return a page that loads nothing: ``body`` holds HTML, ``title`` plain text.

    Examples
    --------
    >>> html_page("A < B", ["<h1>A</h1>"]).splitlines()[1][:67]
    '<html lang="en"><head><meta charset="utf-8"><title>A &lt; B</title>'
    """
    head = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
    ]
    return "\n".join([*head, *body, "</body></html>"])


def html_table(rows: Iterable[tuple[str, ...]], *, head: tuple[str, ...] = ()) -> str:
    """Return a table that scrolls on narrow screens; cells are HTML.

    Without a head the first cell of each row is one; with one, cells stay on one line.

    Examples
    --------
    >>> html_table([("a", "1")])
    '<div class="scroll"><table><tr><th>a</th><td>1</td></tr></table></div>'
    """
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"] if head else []
    for row in rows:
        first, rest = ("", row) if head else (f"<th>{row[0]}</th>", row[1:])
        lines.append("<tr>" + first + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>")
    kind = "scroll keep" if head else "scroll"
    return f'<div class="{kind}"><table>{"".join(lines)}</table></div>'
