"""Ratings kept in a file, a line each, so that a killed search does not rate its candidates again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .evaluator import Rating
from .worker_pool import RatingRequest


def remembered(path: Path | None) -> dict[Any, tuple[Rating, float]]:
    """The ratings in a file by the key of their job, each with the seconds that it took."""
    found: dict[Any, tuple[Rating, float]] = {}
    if path is None or not path.is_file():
        return found
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)  # without the line that a kill cut short, which the next one would join
    for line in whole.splitlines():
        record = json.loads(line)
        key = ("probe", *record["probe"]) if "probe" in record else tuple(record["choice"])
        found[key] = (Rating(record["score"], record["divergence"]), record["seconds"])
    return found


def remember(path: Path | None, job: RatingRequest, rating: Rating, seconds: float) -> None:
    """Add a rating to a file; without one nothing is kept."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({**job.record(), "seconds": seconds, **asdict(rating)}) + "\n")
