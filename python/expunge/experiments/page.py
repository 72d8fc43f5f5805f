"""One self-contained page per experiment: words, pictures, tables, settings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from expunge._files import write_atomic
from expunge.experiments.settings import Settings

__all__ = ["write_page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #667; --back: #fff; --line: #ddd; --mark: #b54400; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --faint: #aab; --back: #16181c; --line: #333;
       --mark: #ffa261; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 960px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; margin-bottom: .3rem; } h2 { margin-top: 2.2rem; }
.lead { color: var(--faint); } .mark { display: inline-block; color: var(--mark); border: 1px solid var(--mark);
       border-radius: 99px; padding: 0 .7em; font-size: .85rem; margin-right: .4em; }
img { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
td, th { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
code { background: color-mix(in srgb, var(--ink) 8%, transparent); padding: .1em .3em; border-radius: 3px; }
.scroll { overflow-x: auto; }
"""


def write_page(
    folder: Path,
    findings: dict[str, Any],
    pictures: Sequence[str],
    settings: Settings,
    *,
    title: str,
    question: str,
) -> None:
    """Write ``index.html`` with everything inlined."""
    seeds = findings["n_seeds"]
    marks = ["estimate"] + (["quick look: one seed"] if seeds == 1 else [f"{seeds} seeds"])
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        "<p>" + "".join(f'<span class="mark">{escape(mark)}</span>' for mark in marks) + "</p>",
        f'<p class="lead">{escape(question)}</p>',
        "<h2>What came out</h2><ul>",
        *(f"<li>{escape(text)}</li>" for text in findings["words"]),
        "</ul>",
    ]
    if seeds == 1:
        parts.append("<p>One seed says nothing about chance: run again with <code>--seeds 5</code>, which goes on.</p>")
    for name in pictures:
        data = base64.b64encode((folder / name).read_bytes()).decode()
        alt = name.removesuffix(".png").replace("_", " ")
        parts.append(f'<p><img alt="{escape(alt)}" src="data:image/png;base64,{data}"></p>')
    for key in ("levels", "measures"):
        if key in findings:
            parts += _table(findings[key])
    parts += ["<h2>Settings</h2>", "<div class='scroll'><table>"]
    parts += [
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in settings.to_dict().items()
        if name != "data_folder"
    ]
    parts.append("</table></div>")
    workers = ", ".join(map(str, findings["workers"]))
    parts += ["<h2>Command and machine</h2>", f"<p><code>{escape(findings['command'])}</code></p>", "<table>"]
    parts += [
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in {**findings["environment"], "workers": workers}.items()
    ]
    parts.append("</table><p>Another processor or version rounds differently, and times to unlearn change with it.</p>")
    parts.append(
        '<p class="lead">Everything here is an estimate: privacy losses stand on one training run each, the band on a '
        "few retrained models, and a metric inside it certifies nothing. All rows are in "
        "<code>results.parquet</code>.</p>"
        "</body></html>"
    )
    write_atomic(folder / "index.html", "\n".join(parts).encode(), overwrite=True)


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = [
        name
        for name in rows[0]
        if not isinstance(rows[0][name], dict)
        and name not in ("measure", "log_fit")
        and any(_told(row[name]) for row in rows)  # a column of which nothing is known says nothing
    ]
    out = ["<h2>Numbers</h2>", "<div class='scroll'><table>"]
    out.append("<tr>" + "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names) + "</tr>")
    out += ["<tr>" + "".join(f"<td>{escape(_text(row[name]))}</td>" for name in names) + "</tr>" for row in rows]
    return [*out, "</table></div>"]


def _told(value: Any) -> bool:
    return any(map(_told, value)) if isinstance(value, list) else value is not None


def _text(value: Any) -> str:
    if not _told(value):
        return "none"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return str(value)
