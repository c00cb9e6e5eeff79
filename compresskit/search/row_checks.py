"""What is wrong with what a user's own row of search's registries returned; "" where nothing is."""

from __future__ import annotations

from typing import Any

from .problem.search_space import Problem


def choice(found: Any, problem: Problem, generator: Any, options: Any) -> str:
    """A policy returns one level for each place."""
    fits = isinstance(found, tuple | list) and len(found) == len(problem.places)
    if not fits or not all(0 <= int(level) < len(place) for level, place in zip(found, problem.places, strict=True)):
        return f"must return a tuple of {len(problem.places)} levels, one a place, each from 0 to its highest"
    return ""
