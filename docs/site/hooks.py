"""mkdocs hooks: pages of the repository outside docs/ are pages of the site, so that one set of links serves both.

README.md is the first page. A link is resolved in the repository, as a reader there would follow it, and rewritten to
the place that its file has in the site; what is no page (a recipe, an example) is served as it is.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
#: outside docs/, relative to the repository
SERVED = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "benchmarks/RESULTS.md",
          "benchmarks/results/*.md", "benchmarks/results/*.json", "configs/*.yaml", "examples/*.py",
          "examples/*.ipynb")  # fmt: skip
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def in_site(path: str) -> str:
    """Where a file of the repository lies in the site: docs/x.md at x.md, README.md at index.md, others as they are."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def in_repository(place: str) -> str:
    """Undo `in_site`."""
    if place == "index.md":
        return "README.md"
    return place if (ROOT / place).exists() and not (ROOT / "docs" / place).exists() else f"docs/{place}"


def rewritten(markdown: str, place: str) -> str:
    """A page's text with links as the site needs them.

    Args:
        markdown: the text, whose links hold in the repository.
        place: the page in the site.
    """
    here = posixpath.dirname(in_repository(place))

    def link(found: re.Match[str]) -> str:
        target, mark, anchor = found[2].partition("#")
        if not target or ":" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(here, target))
        if (ROOT / path).is_dir():  # the site has no page of a folder
            path = posixpath.join(path, "RESULTS.md") if path == "benchmarks" else "benchmarks/RESULTS.md"
        relative = posixpath.relpath(in_site(path), posixpath.dirname(place) or ".")
        return f"{found[1]}{relative}{mark}{anchor}{found[3]}"

    parts = _CODE.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(link, part) for number, part in enumerate(parts))


def pages_of(nav: object) -> set[str]:
    """Places of the pages that a nav of mkdocs.yml names."""
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return {place for part in parts for place in pages_of(part)}


def on_config(config: object) -> object:
    """Put pages of docs/ that mkdocs.yml gives no place at the end, so that a new page needs no line there."""
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    missing = sorted(pages - pages_of(config["nav"]))
    if missing:
        config["nav"].append({"More": missing})
    return config


def on_files(files: Files, config: object) -> Files:
    """Add what is served from outside docs/."""
    for pattern in SERVED:
        for path in sorted(ROOT.glob(pattern)):
            place = in_site(path.relative_to(ROOT).as_posix())
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: object, **_: object) -> str:
    """Rewrite a page's links."""
    return rewritten(markdown, page.file.src_uri)
