"""How fast a model generates: time to its first token, and tokens a second after it, with its cache, measured A/B."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...core.tensors.modules import evaluating
from .latency import Times, quartiles, take_turns

_TOKENS = 16  # generated after the first one
_ROUNDS = 5


@dataclass(frozen=True)
class Generation:
    """Interleaved A/B timing of greedy generation: this model (B) against a baseline (A) in the same process.

    Attributes:
        first_token_ms: median time of the prompt and the first token.
        tokens_per_second: tokens after the first one, by the median time that they take.
        baseline_first_token_ms, baseline_tokens_per_second: the same of the baseline.
        speedup: median over rounds of baseline time / model time of the tokens after the first one.
        speedup_low: lower quartile of that ratio.
        speedup_high: upper quartile of that ratio.
        prompt_tokens: length of the prompt.
        new_tokens: tokens generated after the first one.
    """

    first_token_ms: float
    tokens_per_second: float
    baseline_first_token_ms: float
    baseline_tokens_per_second: float
    speedup: float
    speedup_low: float
    speedup_high: float
    prompt_tokens: int
    new_tokens: int


def generates(module: nn.Module) -> bool:
    """Whether a model makes text token by token out of text, as transformers' language models do."""
    able: Any = getattr(module, "can_generate", None)
    return getattr(module, "main_input_name", None) == "input_ids" and callable(able) and bool(able())


def generation_ab(
    baseline: nn.Module, module: nn.Module, prompt: Tensor, *, new_tokens: int = _TOKENS, rounds: int = _ROUNDS
) -> Generation:
    """Time two models that generate from the same prompt in turn.

    Args:
        baseline: model A.
        module: model B.
        prompt: tokens (1, length) that both take.
        new_tokens: tokens after the first one.
        rounds: turns of each that count.
    """
    runs: list[Callable[[], Any]] = [
        partial(_generate, one, prompt, count) for one in (baseline, module) for count in (1, 1 + new_tokens)
    ]
    with evaluating(baseline, module):
        first_a, all_a, first_b, all_b = take_turns(runs, rounds=rounds, turn_seconds=0.0, clock="wall")
    later_a, later_b = _after(all_a, first_a), _after(all_b, first_b)
    speedup = quartiles(later_a.over(later_b))
    return Generation(
        first_b.median_ms,
        1e3 * new_tokens / later_b.median_ms,
        first_a.median_ms,
        1e3 * new_tokens / later_a.median_ms,
        speedup.median,
        speedup.low,
        speedup.high,
        prompt.shape[1],
        new_tokens,
    )


def _after(whole: Times, first: Times) -> Times:
    """What of each round's time came after the first token; a clock's grain at least."""
    return Times(tuple(max(all_ms - ms, 1e-3) for all_ms, ms in zip(whole.rounds_ms, first.rounds_ms, strict=True)))


@torch.no_grad()
def _generate(module: Any, prompt: Tensor, count: int) -> Tensor:
    return module.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        min_new_tokens=count,
        max_new_tokens=count,
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        use_cache=True,
    )
