"""One self-contained page per experiment: words, pictures, tables, settings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from expunge._files import write_atomic
from expunge._files.page import html_page
from expunge.experiments.certify.settings import CertifySettings
from expunge.experiments.exact.settings import ExactSettings
from expunge.experiments.settings import Settings

__all__ = ["write_page"]

TABLES = {
    "levels": "Numbers",
    "arms": "Both arms, means over seeds",
    "saved": "Share of passes that the policy saves of those of the hardest and of retraining",
    "requests": "Sets that were judged: passes needed and given, medians over seeds",
    "measures": "Numbers",
    "forget_sets": "Forget sets",
    "law_errors": "Laws, judged on sets left out of the fit: mean errors in passes",
    "laws": "Laws, judged on records left out of the fit",
    "sets": "Sets that leave together",
    "set_ratios": "Exact noise of sets beside that of their records",
    "head": "Softmax head",
    "told": "Records, from low to high privacy loss",
    "agreement": "Rankings of the records",
    "routes": "Noise by route, over all records",
    "uniform": "Accuracy that the noise of the worst case leaves",
    "points": "Records from the easiest to the hardest: noise and accuracy by route",
    "gains": "Accuracy that exact noise leaves above the noise of the worst case",
}


def write_page(
    folder: Path,
    findings: dict[str, Any],
    pictures: Sequence[str],
    settings: Settings | ExactSettings | CertifySettings,
    *,
    title: str,
    question: str,
    limits: Sequence[str],
) -> None:
    """Write ``index.html`` with everything inlined; the limits of what was found end it, the last one set apart."""
    seeds = findings["n_seeds"]
    marks = ["estimate"] + (["quick look: one seed"] if seeds == 1 else [f"{seeds} seeds"])
    parts = [
        f"<h1>{escape(title)}</h1>",
        "<p>" + "".join(f'<span class="mark">{escape(mark)}</span>' for mark in marks) + "</p>",
        f'<p class="lead">{escape(question)}</p>',
        "<h2>What came out</h2><ul>",
        *(f"<li>{escape(text)}</li>" for text in findings["words"]),
        "</ul>",
        *([f"<p>{escape(findings['power'])}</p>"] if "power" in findings else []),
    ]
    if seeds == 1:
        parts.append(
            "<p>One seed says nothing about chance: run again with <code>--seeds 5</code>, which continues.</p>"
        )
    for name in pictures:
        data = base64.b64encode((folder / name).read_bytes()).decode()
        alt = name.removesuffix(".png").replace("_", " ")
        parts.append(f'<p><img alt="{escape(alt)}" src="data:image/png;base64,{data}"></p>')
    for key, heading in TABLES.items():
        if findings.get(key):
            parts += _table(findings[key], heading)
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
    parts.append("</table>")
    parts += [f"<p>{escape(text)}</p>" for text in limits[:-1]]
    parts.append(f'<p class="lead">{escape(limits[-1])}</p>')
    write_atomic(folder / "index.html", html_page(title, parts).encode(), overwrite=True)


def _table(rows: Sequence[dict[str, Any]], heading: str = "Numbers") -> list[str]:
    names = [
        name
        for name in rows[0]
        if not isinstance(rows[0][name], dict)
        and name not in ("measure", "log_fit")
        and any(_told(row[name]) for row in rows)  # a column of which nothing is known says nothing
    ]
    out = [f"<h2>{escape(heading)}</h2>", "<div class='scroll'><table>"]
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
