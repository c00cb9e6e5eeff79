"""Changes to JSON-able data and to bytes, decided by a random generator."""

from __future__ import annotations

import copy
import random
from typing import Any

#: values that take the place of others: of every type, and at the edges of each
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**12, 10**30, 0.5, -0.0, 1e-300, 1e300,
    "", "x", "nan", "../../etc/passwd", "/etc/passwd", "a" * 5000, "[red]x[/]", "[/]", ":smile:", "\x1b[31m", "\n",
    "\u0000", "\ud800", "é", "🙂", "__class__", "0.weight", [], [[]], [0], [-1], [10**12], [1, 2, 3], ["x"], {},
    {"a": 1}, {"op": "remove", "target": "0"}, {"shape": [1], "dtype": "float32"}, {"kind": "builtin"},
    [[[[[[[[]]]]]]]], "float16", "complex64", "module", "file", "timm", "hf", "torchvision",
)  # fmt: skip


def mutated(content: Any, draw: random.Random, times: int) -> Any:
    """A copy of JSON-able data with values replaced, removed, doubled, renamed or moved."""
    content = copy.deepcopy(content)
    for _ in range(times):
        holder, key = _place(content, draw)
        if holder is None:
            return draw.choice(VALUES)
        change = draw.choice(("replace", "replace", "replace", "nudge", "remove", "add", "move"))
        if change == "replace":
            holder[key] = copy.deepcopy(draw.choice(VALUES))
        elif change == "nudge":
            holder[key] = _nudged(holder[key], draw)
        elif change == "remove":
            del holder[key]
        elif change == "add":
            _add(holder, copy.deepcopy(draw.choice(VALUES)), draw)
        else:
            other, place = _place(content, draw)
            if other is not None:
                other[place] = copy.deepcopy(holder[key])
    return content


def _place(content: Any, draw: random.Random) -> tuple[Any, Any]:
    """A random holder and key in it, deep places as likely as shallow ones."""
    places, waiting = [], [content]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item))) if isinstance(item, list) else []
        places += [(item, key) for key in keys]
        waiting += [item[key] for key in keys]
    return draw.choice(places) if places else (None, None)


def _nudged(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return [value]
    if isinstance(value, str):
        cut = draw.randrange(len(value) + 1)
        return value[:cut] + draw.choice(("", "x", "\n", "[red]", "../", "::", ".", " ")) + value[cut + 1 :]
    return draw.choice((value + 1, value - 1, -value, value * 1000, value * 10**9, value / 2, float(value)))


def _add(holder: Any, value: Any, draw: random.Random) -> None:
    if isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), value)
    else:
        holder[draw.choice(("", "x", "op", "target", "shapes", "kind", "name", "args", "values", "path"))] = value


def noisy(content: bytes, draw: random.Random) -> bytes:
    """Bytes cut off, overwritten, doubled or swapped."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if not content:
            return bytes(content)
        at = draw.randrange(len(content))
        change = draw.randrange(5)
        if change == 0:
            content[at] = draw.randrange(256)
        elif change == 1:
            del content[at : at + draw.choice((1, 8, 1000))]
        elif change == 2:
            content[at:at] = bytes(draw.randrange(256) for _ in range(draw.choice((1, 8))))
        elif change == 3:
            content[at:at] = content[at : at + 64]
        else:
            del content[at:]
    return bytes(content)
