"""The glossary is one table, in the docs and in `compresskit explain`."""

from __future__ import annotations

from compresskit.pipeline.reference.glossary import TERMS, glossary_markdown
from tests.conftest import REPOSITORY


def test_the_page_is_made_from_the_terms():
    assert (REPOSITORY / "docs" / "glossary.md").read_text() == glossary_markdown()


def test_terms_are_sorted_and_have_one_line_each():
    assert list(TERMS) == sorted(TERMS, key=str.lower)
    assert all("\n" not in text and text.strip() == text and not text.endswith(".") for text in TERMS.values())
