"""Steps that only look at a model: nothing is measured or written."""

from __future__ import annotations

from typing import Any

from ..training.context import Context
from .recipe import Step
from .runner import do_step


def inspect_step(step: Step, context: Context) -> dict[str, Any]:
    """What a step finds out about a run's model: facts, tables and notes."""
    result = do_step(step, context.original.clone(), context)
    return {"facts": result.facts, "tables": result.tables, "notes": result.notes}
