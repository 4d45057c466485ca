"""What mkdocs.yml cannot say: pages from outside of docs/, links to them, drawings that take the site's colours.

MkDocs calls the functions ``on_...``; mkdocstrings takes the class, which turns roles of docstrings into links.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "bundle/docs/README.md": "model-card.md",
    "bundle/docs/data_license.txt": "data_license.txt",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Files of the repository that become pages of the site."""

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:)([^)\s#]+)(#[^)\s]*)?\)")
_DRAWING = re.compile(r'<img alt="([^"]*)" src="([^"]*\.svg)"\s*/?>')
_ROLE = re.compile(r":(?:class|data|func|meth|mod):`([^`]+)`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add PAGES."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave docs/ to the page of what they name; what has none keeps its text alone.

    Lists below lists are indented by four, as MkDocs asks for; two are enough elsewhere.
    """
    sources = {target: source for source, target in PAGES.items()}
    here = sources.get(page.file.src_uri, posixpath.join("docs", page.file.src_uri))
    home = posixpath.dirname(page.file.src_uri) or "."

    def lead(link: re.Match[str]) -> str:
        text, target, anchor = link.groups(default="")
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        inside = {"README.md": "index.md", **PAGES}.get(wanted)
        if inside is None and wanted.startswith("docs/"):
            inside = wanted.removeprefix("docs/")
        if inside is None:
            if not (ROOT / wanted).exists():
                raise ValueError(f"{here} has a link to {wanted}, which does not exist")
            return text
        return f"[{text}]({posixpath.relpath(inside, home)}{anchor})"

    return _LINK.sub(lead, re.sub(r"^  (?=- )", "    ", markdown, flags=re.MULTILINE))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put drawings into the page, so that they take the colours of the site, light or dark."""
    home = posixpath.dirname(posixpath.join("docs", page.file.dest_uri))

    def draw(image: re.Match[str]) -> str:
        svg = (ROOT / posixpath.normpath(posixpath.join(home, image[2]))).read_text(encoding="utf-8")
        return svg[svg.index("<svg") :].replace("<svg", f'<svg class="drawing" aria-label="{image[1]}"', 1)

    return _DRAWING.sub(draw, html)


class Roles(griffe.Extension):
    """Turns roles such as ``:func:`rprloc.read_scan``` into links to public names, or else into code."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        public = [str(name).strip("'\"") for name in pkg.exports or ()]

        def link(role: re.Match[str]) -> str:
            name = role[1].removeprefix("rprloc.")
            return f"[`{name}`][rprloc.{name}]" if name.split(".")[0] in public else f"`{name}`"

        pending: list[griffe.Object] = [pkg]
        while pending:
            scope = pending.pop()
            if scope.docstring is not None:
                scope.docstring.value = _ROLE.sub(link, scope.docstring.value)
            pending += [member for member in scope.members.values() if isinstance(member, griffe.Object)]
