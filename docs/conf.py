"""The documentation as a site (`make docs`): the repository's pages where they lie, and a reference of the package.

The source folder is the root of the repository, so that links between pages work here, in a checkout and on the site.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes

import expunge

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
LEFT_OUT = ("cli",)  # called from a shell
# Modules inside packages that people import by themselves; of the others the package hands out what is public.
ALONE = (
    "expunge.accounting.clipped",
    "expunge.accounting.published",
    "expunge.accounting.rdp",
    "expunge.accounting.unlearning",
    "expunge.certificates.network",
    "expunge.certificates.residual",
    "expunge.evaluation.networks",
    "expunge.integrations.lightning",
    "expunge.integrations.opacus",
    "expunge.integrations.transformers",
    "expunge.runs.residual",
    "expunge.runs.ridge",
    "expunge.torch.models",
    "expunge.torch.ops",
)

project = "Expunge"
author = "The Expunge developers"
copyright = author
release = version = expunge.__version__

root_doc = "docs/contents"
include_patterns = ["*.md", "docs/*.md", "docs/reference/*.rst", "bench/README.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"Expunge {release}"
html_copy_source = False
pygments_dark_style = "github-dark"

default_role = "py:obj"
myst_heading_anchors = 4
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_default_options = {"members": True}
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # docstrings give shapes and dtypes
autodoc_preserve_defaults = True
suppress_warnings = ["ref.citation"]  # a reference list is complete even where no number of it is cited


def modules() -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the names of every public module that has a page, and the modules that cannot be imported, with why."""
    found, missing = {"expunge": list(expunge.__all__)}, {}
    for module in pkgutil.walk_packages(expunge.__path__, "expunge."):
        parts = module.name.split(".")[1:]
        inside = len(parts) > 1 and module.name not in ALONE
        if any(part.startswith("_") for part in parts) or parts[0] in LEFT_OUT or inside:
            continue
        try:
            names = getattr(importlib.import_module(module.name), "__all__", [])
        except ImportError as error:
            missing[module.name] = str(error)
            continue
        if names:
            found[module.name] = list(names)
    return found, missing


def page_of(module: str, names: list[str], found: dict[str, list[str]]) -> str:
    """Return the page of a module: each object where its page says most of it, a link to it elsewhere."""
    text = f"{module}\n{'=' * len(module)}\n\n.. automodule:: {module}\n   :no-members:\n"
    links = []
    for name in names:
        value = getattr(importlib.import_module(module), name)
        homes = [m for m in found if name in found[m] and getattr(importlib.import_module(m), name) is value]
        home = max(homes, key=lambda m: m.count("."))
        if home != module:
            links.append(f"- `{home}.{name}`")
        elif inspect.isclass(value):
            text += f"\n.. autoclass:: {module}.{name}\n"
            if any(base.__module__.startswith("expunge") for base in value.__mro__[1:]):
                text += "   :inherited-members: object, Exception\n"  # of bases that have no page
        elif callable(value):
            text += f"\n.. autofunction:: {module}.{name}\n"
    return text + ("\nAlso here:\n\n" + "\n".join(links) + "\n" if links else "")


def write_reference(app: Any) -> None:
    """Write a page for every public module."""
    REFERENCE.mkdir(exist_ok=True)
    found, missing = modules()
    pages = {name: page_of(name, names, found) for name, names in found.items()}
    listed = "".join(f"   {name}\n" for name in pages)
    left_out = "".join(f"\n- ``{name}`` was left out of this build: {why}" for name, why in missing.items())
    pages["index"] = f"Reference\n=========\n\n.. toctree::\n   :maxdepth: 1\n\n{listed}\n{left_out}\n"
    for path in REFERENCE.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = REFERENCE / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def skip_foreign(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what other libraries add to classes."""
    module = getattr(value, "__module__", None) or "expunge"
    return True if module.split(".")[0] != "expunge" else None


def plain_words(app: Any, doctree: nodes.document) -> None:
    """Let words in the types of attributes be words: ``n_records`` in a shape names no attribute of another class."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node.get("reftype") == "class" and node["reftarget"].islower() and "." not in node["reftarget"]:
            node.replace_self(node.children)


def write_door(app: Any, exception: Exception | None) -> None:
    """Let the site's root lead to its first page."""
    if exception is None and app.builder.name == "html":
        door = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/contents.html"><title>Expunge</title>'
        (Path(app.outdir) / "index.html").write_text(door, encoding="utf-8")


def setup(app: Any) -> None:
    """Take part in the build."""
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("builder-inited", write_reference)
    app.connect("doctree-read", plain_words)
    app.connect("build-finished", write_door)
