"""Links, anchors and pictures of README and docs hold in the repository, and pages name what is there."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "benchmarks").rglob("*.md")),
]
SITE = REPOSITORY / "mkdocs.yml"


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """What its headings are linked by, as GitHub and mkdocs both make them of plain words."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_is_seen():
    page = REPOSITORY / "docs" / "start.md"
    text = "[a](nothing.md) [b](data.md#nothing) [c](data.md#files) `[d](no.md)` [e](https://example.org)"
    assert broken_links(page, text) == ["nothing.md", "data.md#nothing"]


def test_the_site_names_pages_that_are_there():
    named = re.findall(r"(?:: |- )(\S+\.md)$", SITE.read_text(), re.MULTILINE)
    assert len(named) == len(set(named)) > 30
    places = [REPOSITORY / "docs" / page for page in named]
    missing = [page for page, place in zip(named, places, strict=True) if not place.is_file()]
    assert [page for page in missing if not (REPOSITORY / page).is_file()] == ["index.md"]  # README.md


def test_every_picture_is_shown():
    shown = {name for page in PAGES for name in re.findall(r"pictures/(\w+)\.svg", page.read_text())}
    assert {path.stem for path in (REPOSITORY / "docs" / "pictures").glob("*.svg")} == shown


@pytest.mark.integration
def test_pictures_show_the_figures_of_the_tables(tmp_path):
    pytest.importorskip("matplotlib")
    script = [sys.executable, str(REPOSITORY / "benchmarks" / "person" / "pictures.py"), "--out", str(tmp_path)]
    subprocess.run(script, check=True, timeout=300)
    for picture in sorted(tmp_path.iterdir()):
        kept = (REPOSITORY / "docs" / "pictures" / picture.name).read_text()
        drawn = picture.read_text()
        assert texts_of(drawn) == texts_of(kept), f"{picture.name}: run benchmarks/person/pictures.py"
        assert len(texts_of(drawn)) > 8


def texts_of(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_recipe_stands_in_the_gallery():
    page = (REPOSITORY / "docs" / "recipes.md").read_text()
    assert {path.name for path in (REPOSITORY / "configs").glob("*.yaml")} == set(
        re.findall(r"configs/([\w-]+\.yaml)\)", page)
    )


def test_every_extra_stands_in_the_readme():
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    section = (REPOSITORY / "README.md").read_text().partition("## Install")[2].partition("\n## ")[0]
    assert set(config["options.extras_require"]) == set(
        re.findall(r"`([\w-]+)`", section.partition("\n\ntorch")[0])
    ) - {"extra"}


def test_figures_beside_peers_stand_in_the_tables_that_they_link():
    page = REPOSITORY / "docs" / "peers.md"
    table, checked = "", 0
    for row in re.findall(r"^\|.+\|$", page.read_text().partition("## What others")[0], re.MULTILINE)[2:]:
        link = re.search(r"\]\(([^)]+)\)", row)
        table = (page.parent / link[1]).read_text() if link else table
        for figure in re.findall(r"\d+\.\d{2,}", row.replace("**", "")):
            written = (figure, f"{float(figure) / 100:.4f}")  # tables hold percent or shares
            assert any(form in table for form in written), (figure, row)
            checked += 1
    assert checked > 25


def pieces_of(message: str) -> list[str]:
    """The parts of a message of docs/troubleshooting.md between what differs, without spaces at their ends."""
    return [piece.strip() for piece in message.split("…") if len(piece.strip()) > 2]


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    sources = []
    for path in (REPOSITORY / "compresskit").rglob("*.py"):  # strings that are written in several lines are joined
        sources.append(re.sub(r"""["']\s*\n\s*f?["']""", "", path.read_text()))
    assert len(messages) > 30
    unknown = [
        message for message in messages
        if not any(all(piece in source for piece in pieces_of(message)) for source in sources)
    ]  # fmt: skip
    assert unknown == []
