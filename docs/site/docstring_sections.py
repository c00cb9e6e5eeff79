"""griffe extension: our docstrings have no blank lines between Args, Returns and Raises; its parser wants them."""

from __future__ import annotations

import re

import griffe

_SECTION = re.compile(r"(?<!\n)\n(Returns|Raises|Yields|Attributes|Args):\n")
_LINE = re.compile(r"(?<!\n)\n(Returns|Raises|Source): (.+)")


class SeparateSections(griffe.Extension):
    """Puts a blank line before each section of a docstring."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Change one object's docstring."""
        if obj.docstring:
            text = _SECTION.sub(r"\n\n\1:\n", obj.docstring.value)
            obj.docstring.value = _LINE.sub(r"\n\n\1:\n    \2", text)
