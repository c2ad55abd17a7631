"""Links between the pages and files outside of the folder of the pages.

The texts link to each other as they lie in the repository, so that the links work there too. A page
may consist of a file outside, by `include`; links to that file then lead to that page. Links to
other files, such as source code, give the file itself.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the tests do without
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

INCLUDED = re.compile(r"```\{include\} (\S+)\n```\n")
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")


@cache
def pages(docs: Path) -> dict[Path, Path]:
    """The files outside of which a page consists, and that page."""
    found = {docs.parent / "README.md": docs / "index.md"}
    for page in docs.rglob("*.md"):
        if included := INCLUDED.fullmatch(page.read_text()):
            found[(page.parent / included[1]).resolve()] = page
    return found


def relinked(text: str, file: Path, docs: Path) -> str:
    """The text of a file with links that begin at the folder of the pages."""

    def link(found: re.Match[str]) -> str:
        target = (file.parent / found["path"]).resolve()
        if target.is_dir():
            target /= "index.md"
        if not target.is_file():
            return found[0]
        page = pages(docs).get(target, target)
        if page.is_relative_to(docs):
            return f"/{page.relative_to(docs).as_posix()}{found['anchor'] or ''}"
        path = f"/{Path(os.path.relpath(page, docs)).as_posix()}"
        bracket = text.rfind("[", 0, found.start())
        return path if text[bracket - 1 : bracket] == "!" else f"path:{path}"

    return LINK.sub(link, text)


def on_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Rewrite the links of a page."""
    docs = Path(app.srcdir).resolve()
    source[0] = relinked(source[0], docs / f"{docname}.md", docs)


def on_included(app: Sphinx, path: Path, _: str, content: list[str]) -> None:
    """Rewrite the links of a file that a page includes."""
    docs = Path(app.srcdir).resolve()
    content[0] = relinked(content[0], (docs / path).resolve(), docs)


def forget(app: Sphinx, _env: BuildEnvironment, _docnames: list[str]) -> None:
    """Look for the pages anew in each build."""
    pages.cache_clear()


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("env-before-read-docs", forget)
    app.connect("source-read", on_page)
    app.connect("include-read", on_included)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
