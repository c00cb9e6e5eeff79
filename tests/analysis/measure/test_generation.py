"""Timing of generation."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.generation import generates, generation_ab


class Slow(nn.Module):
    """Takes 4 ms for a prompt and `token_ms` for each token, as a model of transformers would."""

    main_input_name = "input_ids"

    def __init__(self, token_ms):
        super().__init__()
        self.token_ms = token_ms

    def can_generate(self):
        return True

    def generate(self, input_ids, min_new_tokens, max_new_tokens, **settings):
        assert min_new_tokens == max_new_tokens and settings["use_cache"] and not self.training
        time.sleep((4 + (max_new_tokens - 1) * self.token_ms) / 1e3)
        return input_ids


def test_the_first_token_and_those_after_it_are_timed_apart():
    found = generation_ab(Slow(4), Slow(2), torch.zeros(1, 5, dtype=torch.int64), new_tokens=10, rounds=3)
    assert found.prompt_tokens == 5 and found.new_tokens == 10
    assert 4 <= found.first_token_ms < 40 and found.tokens_per_second < 1000 / 2 * 1.01
    assert found.baseline_tokens_per_second < found.tokens_per_second and found.speedup > 1.2


@pytest.mark.integration
def test_which_models_generate():
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**small, intermediate_size=8, num_key_value_heads=1, eos_token_id=0)
    model = transformers.LlamaForCausalLM(config).eval()
    assert generates(model) and not generates(model.model) and not generates(nn.Linear(1, 1))
    found = generation_ab(model, model, torch.ones(1, 4, dtype=torch.int64), new_tokens=3, rounds=2)
    assert found.tokens_per_second > 0 and found.first_token_ms > 0
